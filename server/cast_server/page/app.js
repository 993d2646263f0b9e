// Puts the page together: what is asked, what comes, what is shown of it.

import { isKeyWanted, KeyRing, streamChat } from "./api.js";
import { drawDepths, drawTimes } from "./charts.js";
import { Chat } from "./chat.js";
import { compare } from "./compare.js";
import { atMostEvery, byId, make, oncePerFrame } from "./dom.js";
import { bodyFor, offerPolicies } from "./form.js";
import { LoadWatch } from "./load.js";
import { pieces, Run } from "./run.js";
import { StepView } from "./stepview.js";
import { classOf, fixed, nameOf, percent } from "./wording.js";

const EXAMPLES = [
  "List the days of the week.",
  "Explain in three sentences why the sky is blue.",
  "Write a Python function that adds two numbers, and show how to call it.",
];

class Page {
  constructor() {
    this.ring = new KeyRing();
    this.chat = new Chat();
    this.view = new StepView();
    this.history = [];
    this.status = null;
    this.run = null; // the answer that is being watched
    this.stopper = null; // while something is on its way
    this.legend = new Set();
    this.drawFigures = atMostEvery(120, () => this.#drawFigures());
    this.#drawFigures();
    this.#listen();
    this.load = new LoadWatch(this.ring, (status) => this.#meet(status), (error) => this.#miss(error));
  }

  async ask() {
    const text = byId("prompt").value.trim();
    if (!text || this.stopper) return;
    byId("prompt").value = "";
    this.history.push({ role: "user", content: text });
    const question = this.chat.addQuestion(text);
    const isAnswered = await this.#answer();
    if (isAnswered) return;
    this.history.pop();
    question.remove();
    byId("prompt").value ||= text;
  }

  async again() {
    if (this.stopper || this.history.at(-1)?.role !== "assistant") return;
    const before = this.history.pop();
    const old = [...document.querySelectorAll(".message.assistant")].pop();
    old.hidden = true;
    if (await this.#answer()) old.remove();
    else {
      old.hidden = false;
      this.history.push(before);
    }
  }

  stop() {
    this.stopper?.abort();
  }

  /** Streams an answer to the history; whether anything came of it. */
  async #answer() {
    const run = this.run = new Run(bodyFor([...this.history]));
    const answer = this.chat.addAnswer(this.status?.model ?? "Model");
    const paint = oncePerFrame(() => answer.paint(run));
    this.view.watch(run);
    const error = await this.#whileBusy(async (signal) => {
      for await (const chunk of streamChat(this.ring, run.body, signal)) {
        const first = run.numForgotten + run.steps.length;
        const steps = run.add(chunk);
        steps.forEach((step, i) => answer.painter.add(run.text, pieces(step), first + i));
        answer.painter.text = run.text;
        paint();
        this.view.refresh();
        this.drawFigures();
      }
    });
    if (error && !run.text) answer.remove();
    if (run.text || !error) {
      const how = { length: "cut at the most tokens" }[run.finish] ?? "";
      answer.finish(run, run.finish === null ? "stopped" : how);
      answer.article.addEventListener("click", (event) => this.#jump(event, run));
      this.history.push({ role: "assistant", content: run.text });
    }
    this.view.showBest();
    this.drawFigures();
    this.#fitButtons();
    return Boolean(run.text) || !error;
  }

  async #compare() {
    if (this.stopper || !this.run?.finish) return;
    const usual = this.status.default_policy;
    const error = await this.#whileBusy((signal) => compare(this.ring, this.run, usual, signal));
    if (error) byId("compared").replaceChildren(make("p", {}, "The comparison was not finished."));
  }

  /** Runs `work`, which may be stopped; returns the error that ended it, if one did. */
  async #whileBusy(work) {
    this.chat.say(null);
    this.stopper = new AbortController();
    this.#fitButtons();
    try {
      await work(this.stopper.signal);
      return null;
    } catch (error) {
      if (error.name !== "AbortError") this.#complain(error);
      return error;
    } finally {
      this.stopper = null;
      this.#fitButtons();
      this.load.look();
    }
  }

  #complain(error) {
    this.chat.say(error.message);
    if (!isKeyWanted(error)) return;
    byId("key-field").hidden = false;
    byId("settings").open = true;
    byId("key").focus();
  }

  #meet(status) {
    if (this.status === null) this.chat.say(null);
    this.status = status;
    offerPolicies(status);
    this.#drawLegend(["own", ...status.sources]);
  }

  #miss(error) {
    if (this.stopper || this.status !== null) return; // the next question will tell
    this.#complain(error);
  }

  #jump(event, run) {
    const step = event.target.closest?.("[data-step]")?.dataset.step;
    if (step !== undefined && run === this.run) this.view.show(Number(step));
  }

  #fitButtons() {
    const isBusy = this.stopper !== null;
    byId("send").textContent = isBusy ? "Stop" : "Send";
    byId("send").classList.toggle("stop", isBusy);
    byId("again").disabled = isBusy || this.history.at(-1)?.role !== "assistant";
    byId("fresh").disabled = isBusy;
    byId("compare").disabled = isBusy || !this.run?.finish;
    const other = this.run?.policy === "off" ? this.status.default_policy : "off";
    byId("compare").textContent = `Compare with ${other}`;
  }

  #drawFigures() {
    const run = this.run;
    const figures = [
      ["tokens/s", fixed(run?.speed ?? null, 1)],
      ["tokens a step", fixed(run?.tokensPerStep ?? null, 2)],
      ["drafts accepted", run?.numDrafted ? percent(run.acceptance) : "–"],
      ["steps", run ? run.numSteps : "–"],
    ];
    byId("figures").replaceChildren(
      ...figures.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    );
    drawDepths(byId("depth"), run?.depths ?? []);
    drawTimes(byId("time"), run?.times ?? []);
    this.#drawLegend(run?.sources ?? []);
  }

  /** Adds what the legend lacks. */
  #drawLegend(sources) {
    for (const one of sources) {
      if (this.legend.has(nameOf(one))) continue;
      this.legend.add(nameOf(one));
      byId("legend").append(make("li", { class: `token ${classOf(one)}` }, nameOf(one)));
    }
  }

  #listen() {
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.stopper) this.stop();
      else this.ask();
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.ask();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.stop();
    });
    byId("again").addEventListener("click", () => this.again());
    byId("fresh").addEventListener("click", () => {
      this.history = [];
      this.run = null;
      this.chat.clear();
      this.view.watch(null);
      this.drawFigures();
      this.#fitButtons();
      byId("prompt").focus();
    });
    byId("compare").addEventListener("click", () => this.#compare());
    byId("key").value = this.ring.key;
    byId("key-field").hidden = !this.ring.key;
    byId("key").addEventListener("change", () => {
      this.ring.keep(byId("key").value);
      this.load.look();
    });
    byId("examples").append(...EXAMPLES.map((text) => {
      const button = make("button", { type: "button" }, text);
      button.addEventListener("click", () => {
        byId("prompt").value = text;
        byId("prompt").focus();
        this.ask();
      });
      return make("li", {}, button);
    }));
  }
}

new Page();
