// One step at a time: the slider, the tree, and what the step took.

import { byId, make, oncePerFrame } from "./dom.js";
import { drawTree, layOut, told } from "./tree.js";
import { counted, milliseconds } from "./wording.js";

const LEAST_SCALE = 0.72; // smaller letters cannot be read: the tree is scrolled instead
const HINT = "Point at a node, or walk the tree with the arrow keys, to see what was expected of it.";

export class StepView {
  constructor() {
    this.run = null;
    this.place = 0; // number of the step in the run
    this.isLive = true;
    this.refresh = oncePerFrame(() => this.#draw());
    byId("slider").addEventListener("input", () => this.show(Number(byId("slider").value)));
    byId("back").addEventListener("click", () => this.show(this.place - 1));
    byId("on").addEventListener("click", () => this.show(this.place + 1));
    byId("live").addEventListener("click", () => this.#follow(!this.isLive));
    new ResizeObserver(() => this.refresh()).observe(byId("tree"));
    this.#draw();
  }

  watch(run) {
    this.run = run;
    this.#follow(true);
  }

  /** Stays at a step from now on. */
  show(place) {
    if (!this.run) return;
    this.place = place;
    this.#follow(false);
  }

  /** To where much was accepted and something was not: a finished answer is best looked at there. */
  showBest() {
    if (!this.run || !this.isLive) return;
    const { steps, numForgotten } = this.run;
    const gain = ({ accepted, nodes }) => accepted.length + Math.min(6, nodes.length - accepted.length);
    let best = 0;
    steps.forEach((step, index) => {
      if (gain(step) > gain(steps[best])) best = index;
    });
    if (steps.length) this.show(best + numForgotten);
  }

  #follow(isLive) {
    this.isLive = isLive;
    byId("live").setAttribute("aria-pressed", String(isLive));
    this.refresh();
  }

  #draw() {
    const steps = this.run?.steps ?? [];
    const first = this.run?.numForgotten ?? 0;
    const last = first + steps.length - 1;
    if (this.isLive) this.place = last;
    this.place = Math.max(first, Math.min(last, this.place));
    this.#drawControls(first, last, steps.length > 0);
    const step = steps[this.place - first];
    if (step) this.#drawStep(step, this.run.before(this.place - first));
    else this.#drawNothing();
  }

  #drawControls(first, last, isAny) {
    const slider = byId("slider");
    slider.min = first;
    slider.max = Math.max(first, last);
    slider.value = this.place;
    slider.disabled = !isAny;
    byId("back").disabled = !isAny || this.place <= first;
    byId("on").disabled = !isAny || this.place >= last;
    const place = isAny ? `Step ${this.place + 1} of ${last + 1}` : "";
    byId("place").textContent = place;
    slider.setAttribute("aria-valuetext", place);
  }

  #drawNothing() {
    byId("tree").replaceChildren(make("p", { class: "empty" }, "Each step's guesses appear here."));
    byId("node").textContent = "";
    byId("facts").textContent = "";
  }

  #drawStep(step, before) {
    const box = byId("tree");
    const plan = layOut(step, before);
    const picture = drawTree(plan, `Draft tree of step ${this.place + 1}`, (node) => this.#tell(node));
    const room = box.clientWidth - 2;
    const scale = Math.min(1, Math.max(LEAST_SCALE, room / plan.width));
    picture.setAttribute("width", plan.width * scale);
    picture.setAttribute("height", plan.height * scale);
    box.replaceChildren(picture);
    this.#tell(null);
    byId("facts").textContent = facts(step);
  }

  #tell(node) {
    byId("node").textContent = node ? told(node) : HINT;
  }
}

function facts(step) {
  const drafted = step.nodes.length + step.num_nodes_left_out;
  const parts = [];
  if (step.ends_prompt) parts.push("The prompt's last step: it has no drafts yet");
  else if (!drafted) parts.push("Nothing was drafted");
  else {
    const bonus = step.bonus === null ? "" : " and a bonus";
    parts.push(`${counted(drafted, "draft token")}, ${step.accepted.length} accepted${bonus}`);
  }
  if (step.num_nodes_left_out) parts.push(`${step.num_nodes_left_out} not shown`);
  parts.push(`predicted ${milliseconds(step.predicted_seconds)}, took ${milliseconds(step.seconds)}`);
  if (step.num_sequences > 1) parts.push(`shared by ${step.num_sequences} sequences`);
  return `${parts.join(" · ")}.`;
}
