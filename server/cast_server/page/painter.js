// Writes an answer as it comes, each token in the colour of its source.

import { make } from "./dom.js";
import { classOf, nameOf } from "./wording.js";

/**
 * The text is the answer's own; tokens only say where colours change. Text never comes before its
 * tokens, so what no token explains is written without a colour.
 */
export class Painter {
  constructor(element) {
    this.element = element;
    this.text = "";
    this.painted = 0;
    this.waiting = [];
  }

  /** Pieces are [text, source] of one step, whose place is `step`. */
  add(text, pieces, step) {
    this.text = text;
    for (const [piece, source] of pieces) this.waiting.push([piece, source, step]);
  }

  paint() {
    const added = document.createDocumentFragment();
    while (this.painted < this.text.length) {
      const rest = this.text.slice(this.painted);
      if (!this.waiting.length) {
        this.#write(added, rest);
        break;
      }
      const [piece, source, step] = this.waiting[0];
      if (rest.length < piece.length && piece.startsWith(rest)) break; // held back for a while
      this.waiting.shift();
      const found = [piece, piece.trimStart()].find((one) => one && rest.startsWith(one));
      if (found) this.#write(added, found, source, step);
    }
    this.element.append(added);
  }

  /** No more tokens will come. */
  finish() {
    this.paint();
    const added = document.createDocumentFragment();
    this.#write(added, this.text.slice(this.painted));
    this.element.append(added);
  }

  #write(parent, text, source = null, step = null) {
    if (!text) return;
    this.painted += text.length;
    if (source === null) parent.append(text);
    else {
      const attributes = { class: `token ${classOf(source)}`, title: `From ${nameOf(source)}` };
      parent.append(make("span", { ...attributes, "data-step": step }, text));
    }
  }
}
