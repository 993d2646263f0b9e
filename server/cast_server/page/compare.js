// The same request once more by another policy: is the text the same, and how much sooner?

import { streamChat } from "./api.js";
import { byId, make } from "./dom.js";
import { Run } from "./run.js";
import { counted, fixed } from "./wording.js";

const BESIDE = "off";

/** Runs `run`'s request with drafts off, or with the server's policy if it had none. */
export async function compare(ring, run, usual, signal) {
  const policy = run.policy === BESIDE ? usual : BESIDE;
  const other = new Run({ ...run.body, speculation: { policy, trace: true } });
  byId("compared").replaceChildren(make("p", {}, `Asking again, policy ${policy} …`));
  for await (const chunk of streamChat(ring, other.body, signal)) other.add(chunk);
  showResult(run, other);
}

function showResult(run, other) {
  const pair = [[run.policy, run.speed], [other.policy, other.speed]];
  const most = Math.max(...pair.map(([, speed]) => speed ?? 0));
  const bars = pair.map(([policy, speed]) => bar(policy, speed, most));
  const isSame = run.text === other.text && run.numTokens === other.numTokens;
  const sentence = make("p", { class: isSame ? "same" : "differs" }, verdict(run, other, isSame));
  byId("compared").replaceChildren(...ratio(run, other), ...bars, sentence);
}

function ratio(run, other) {
  if (!run.speed || !other.speed) return [];
  const [drafted, plain] = run.policy === BESIDE ? [other, run] : [run, other];
  const times = fixed(drafted.speed / plain.speed, 2);
  const words = ` times as fast with ${drafted.policy}`;
  return [make("p", { class: "ratio" }, make("strong", {}, times), words)];
}

function bar(policy, speed, most) {
  const track = make("div", { class: "track" });
  const fill = make("div", { class: policy === BESIDE ? "fill plain" : "fill" });
  fill.style.width = `${most && speed ? (100 * speed) / most : 0}%`;
  track.append(fill);
  const value = speed ? `${fixed(speed, 1)} tokens/s` : "too short to time";
  return make("div", { class: "speed" }, make("span", {}, policy), track, make("span", {}, value));
}

function verdict(run, other, isSame) {
  if (isSame) return `✓ The texts are identical, all ${counted(run.numTokens, "token")}.`;
  let equal = 0;
  while (equal < run.text.length && run.text[equal] === other.text[equal]) equal += 1;
  return `The texts part after ${counted(equal, "character")}: in bfloat16 rounding may decide ` +
    "between two tokens that are nearly equal. In float32 they stay together.";
}
