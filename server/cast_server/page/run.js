// One answer: its text, the steps that made it, and what they add up to.

const MOST_STEPS = 1500; // kept for looking at; sums go on
const MOST_TIMES = 400;
export const MOST_DEPTHS = 12;

export class Run {
  /** `body` is the request that was sent. */
  constructor(body) {
    this.body = body;
    this.text = "";
    this.policy = null; // what the server says it was
    this.finish = null;
    this.steps = [];
    this.numForgotten = 0;
    this.times = []; // [predicted, actual] seconds of the last decoding steps
    this.numSteps = this.numDrafted = this.numAccepted = this.numTokens = 0;
    this.depths = Array.from({ length: MOST_DEPTHS }, () => ({ steps: 0, accepted: 0, expected: 0 }));
    this.sources = new Set();
    this.first = this.last = null;
  }

  /** Takes a chunk in; returns the steps that it told of. */
  add(chunk) {
    for (const choice of chunk.choices) {
      this.text += choice.delta.content ?? "";
      this.finish = choice.finish_reason ?? this.finish;
    }
    this.policy = chunk.metrics?.speculative_decoding?.policy ?? this.policy;
    const steps = chunk.speculation?.steps ?? [];
    steps.forEach((step) => this.#count(step));
    return steps;
  }

  /** Tokens a second once the first step is over, so that the prompt's length does not matter. */
  get speed() {
    if (this.last === null || this.last === this.first) return null;
    const seconds = this.last.seconds_since_arrival - this.first.seconds_since_arrival;
    return (this.numTokens - this.first.tokens.length) / seconds;
  }

  get tokensPerStep() {
    return this.numSteps ? 1 + this.numAccepted / this.numSteps : null;
  }

  get acceptance() {
    return this.numDrafted ? this.numAccepted / this.numDrafted : null;
  }

  /** The token before a step, if that is known. */
  before(place) {
    const tokens = this.steps[place - 1]?.tokens;
    return tokens?.length ? tokens[tokens.length - 1] : null;
  }

  #count(step) {
    this.steps.push(step);
    if (this.steps.length > MOST_STEPS) {
      const dropped = MOST_STEPS / 5;
      this.steps.splice(0, dropped);
      this.numForgotten += dropped;
    }
    this.numTokens += step.tokens.length;
    this.first ??= step;
    this.last = step;
    if (step.ends_prompt) return;
    this.numSteps += 1;
    this.numDrafted += step.nodes.length + step.num_nodes_left_out;
    this.numAccepted += step.accepted.length;
    this.times.push([step.predicted_seconds, step.seconds]);
    if (this.times.length > MOST_TIMES) this.times.shift();
    this.#countDepths(step);
  }

  #countDepths(step) {
    const levels = [];
    const depthOf = [];
    for (const node of step.nodes) {
      this.sources.add(node.source ?? "other");
      const depth = node.parent < 0 ? 0 : depthOf[node.parent] + 1;
      depthOf.push(depth);
      levels[depth] = (levels[depth] ?? 0) + node.probability;
    }
    levels.slice(0, MOST_DEPTHS).forEach((expected, depth) => {
      const counts = this.depths[depth];
      counts.steps += 1;
      counts.expected += Math.min(1, expected);
      counts.accepted += depth < step.accepted.length ? 1 : 0;
    });
  }
}

/** How each token of a step came: pairs of text and source, "own" for the model's. */
export function pieces(step) {
  return step.tokens.map((text, place) => {
    const node = step.nodes[step.accepted[place]];
    return [text, node ? (node.source ?? "other") : "own"];
  });
}
