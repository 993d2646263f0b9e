// The conversation as it is shown: messages, answers as they grow, errors.

import { byId, make } from "./dom.js";
import { Painter } from "./painter.js";
import { counted, fixed } from "./wording.js";

const NEAR_END = 60; // pixels from the end within which the view follows the text

export class Chat {
  constructor() {
    this.box = byId("messages");
  }

  clear() {
    for (const message of [...this.box.querySelectorAll("article")]) message.remove();
    byId("welcome").hidden = false;
    this.say(null);
  }

  addQuestion(text) {
    byId("welcome").hidden = true;
    const question = this.#add("user", "You");
    question.querySelector(".text").append(text);
    this.#toEnd();
    return question;
  }

  addAnswer(name) {
    const article = this.#add("assistant", name);
    const text = article.querySelector(".text");
    const note = make("p", { class: "note" }, "Reading the prompt …");
    article.append(note);
    this.box.setAttribute("aria-busy", "true");
    this.#toEnd();
    return new Answer(article, text, note, this);
  }

  /** An error in plain words, or null for none. */
  say(message) {
    const box = byId("error");
    box.hidden = message === null;
    box.textContent = message ?? "";
  }

  /** Runs `change` and keeps the end in view if it was. */
  following(change) {
    const { box } = this;
    const isNearEnd = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR_END;
    change();
    if (isNearEnd) this.#toEnd();
  }

  #add(role, name) {
    const article = make(
      "article", { class: `message ${role}` },
      make("h3", {}, name), make("div", { class: "text" }),
    );
    this.box.append(article);
    return article;
  }

  #toEnd() {
    this.box.scrollTop = this.box.scrollHeight;
  }
}

class Answer {
  constructor(article, text, note, chat) {
    this.article = article;
    this.note = note;
    this.chat = chat;
    this.painter = new Painter(text);
    this.isFinished = false;
  }

  paint(run) {
    if (this.isFinished) return; // a frame that was asked for before the end
    this.chat.following(() => {
      this.painter.paint();
      if (run.numTokens) this.note.textContent = summary(run, "");
    });
  }

  finish(run, how) {
    this.isFinished = true;
    this.chat.following(() => {
      this.painter.finish();
      this.note.textContent = summary(run, how);
    });
    this.chat.box.setAttribute("aria-busy", "false");
  }

  remove() {
    this.article.remove();
    this.chat.box.setAttribute("aria-busy", "false");
  }
}

function summary(run, how) {
  const parts = [counted(run.numTokens, "token")];
  if (run.speed) parts.push(`${fixed(run.speed, 1)} tokens/s`);
  if (run.policy) parts.push(run.policy);
  parts.push(`seed ${run.body.seed}`);
  if (how) parts.push(how);
  return parts.join(" · ");
}
