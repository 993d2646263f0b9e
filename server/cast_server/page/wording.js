// How numbers, tokens and sources are written.

const SOURCES = {
  own: "the model itself",
  head: "draft head",
  text: "the text so far",
  store: "the model's earlier writing",
  prediction: "the client's prediction",
  model: "draft model",
  other: "a drafter",
};

/** The class of a source in the style sheet. */
export function classOf(source) {
  return `from-${known(source)}`;
}

export function nameOf(source) {
  return SOURCES[known(source)];
}

function known(source) {
  return Object.hasOwn(SOURCES, source) ? source : "other";
}

/** A token with its spaces and line ends to be seen. */
export function seen(token) {
  const shown = token.replace(/^ +| +$/g, (spaces) => "·".repeat(spaces.length));
  return shown.replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍") || "∅";
}

export function clipped(text, most) {
  const characters = [...text];
  return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : text;
}

export function percent(share) {
  if (share > 0 && share < 0.01) return "<1 %";
  return `${Math.round(share * 100)} %`;
}

export function fixed(value, digits) {
  return value === null || !Number.isFinite(value) ? "–" : value.toFixed(digits);
}

export function milliseconds(seconds) {
  const value = seconds * 1000;
  return `${value.toFixed(value < 10 ? 1 : 0)} ms`;
}

export function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}
