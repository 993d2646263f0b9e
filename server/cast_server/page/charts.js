// Three small charts: acceptance by depth, step times, what a pass costs.

import { draw, make } from "./dom.js";
import { milliseconds, percent } from "./wording.js";

const WIDTH = 340;
const HEIGHT = 170;
const BOX = { left: 40, right: 8, top: 10, bottom: 34 };
const INNER = { width: WIDTH - BOX.left - BOX.right, height: HEIGHT - BOX.top - BOX.bottom };
const POINTS = 250;

function picture(label, ...children) {
  return draw(
    "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, ...children,
  );
}

function empty(container, text) {
  container.replaceChildren(make("p", { class: "empty" }, text));
}

function horizontal(share, text) {
  const y = BOX.top + INNER.height * (1 - share);
  return [
    draw("line", { class: "grid", x1: BOX.left, x2: WIDTH - BOX.right, y1: y, y2: y }),
    draw("text", { class: "tick", x: BOX.left - 6, y: y + 4, "text-anchor": "end" }, text),
  ];
}

function below(x, text, row = 0) {
  const y = HEIGHT - BOX.bottom + 14 + 13 * row;
  return draw("text", { class: "tick", x, y, "text-anchor": "middle" }, text);
}

/** Of the steps that drafted so deep, how many accepted a node there; a mark for what was expected. */
export function drawDepths(container, depths) {
  const used = depths.filter((one) => one.steps);
  if (!used.length) {
    empty(container, "How deep guesses go, and how often they are right.");
    return;
  }
  const slot = INNER.width / Math.max(4, used.length);
  const bars = used.flatMap((one, index) => {
    const share = one.accepted / one.steps;
    const x = BOX.left + slot * (index + 0.5);
    const height = INNER.height * share;
    const expected = BOX.top + INNER.height * (1 - one.expected / one.steps);
    const thick = Math.min(26, slot * 0.6);
    return [
      draw("rect", {
        class: "bar", x: x - thick / 2, y: BOX.top + INNER.height - height, width: thick, height, rx: 2,
      }),
      draw("line", {
        class: "expected", x1: x - thick / 2 - 3, x2: x + thick / 2 + 3, y1: expected, y2: expected,
      }),
      below(x, String(index + 1)),
    ];
  });
  const words = used.map((one, index) =>
    `depth ${index + 1}: ${percent(one.accepted / one.steps)} accepted, ` +
    `${percent(one.expected / one.steps)} expected, ${one.steps} steps`);
  container.replaceChildren(
    picture(
      words.join("; "),
      ...horizontal(0, "0 %"), ...horizontal(0.5, "50 %"), ...horizontal(1, "100 %"),
      ...bars,
      below(BOX.left + INNER.width / 2, "depth in the tree; the marks are what was expected", 1),
    ),
  );
}

/** Predicted seconds along, actual ones up: points on the diagonal were foreseen exactly. */
export function drawTimes(container, times) {
  if (!times.length) {
    empty(container, "Every step's time is predicted before it runs, and compared.");
    return;
  }
  const shown = times.slice(-POINTS);
  const sorted = shown.flat().sort((a, b) => a - b);
  const most = sorted[Math.floor(0.99 * (sorted.length - 1))] * 1.15; // one outlier is no scale
  const along = (seconds) => Math.min(1, seconds / most);
  const points = shown.map(([predicted, actual], index) => draw("circle", {
    class: index === shown.length - 1 ? "point newest" : "point",
    cx: BOX.left + INNER.width * along(predicted),
    cy: BOX.top + INNER.height * (1 - along(actual)),
    r: index === shown.length - 1 ? 4 : 2.6,
  }));
  const off = times.map(([predicted, actual]) => Math.abs(predicted - actual) / actual);
  const median = off.sort((a, b) => a - b)[Math.floor(off.length / 2)];
  container.replaceChildren(
    picture(
      `Half of the last ${times.length} predictions are within ${percent(median)}`,
      ...horizontal(0, "0"), ...horizontal(0.5, milliseconds(most / 2)), ...horizontal(1, milliseconds(most)),
      draw("line", {
        class: "diagonal", x1: BOX.left, y1: BOX.top + INNER.height, x2: WIDTH - BOX.right, y2: BOX.top,
      }),
      ...points,
      below(BOX.left + INNER.width / 2, milliseconds(most / 2)),
      below(WIDTH - BOX.right - 16, milliseconds(most)),
      below(BOX.left + INNER.width / 2, `along: predicted; up: actual; half within ${percent(median)}`, 1),
    ),
  );
}

/** Seconds of a pass by rows: as profiled (dashed), and as corrected since. */
export function drawCost(container, cost) {
  const rows = cost.rows.filter((count) => count <= 128);
  const most = 1.1 * Math.max(...rows.flatMap((_, i) => [cost.seconds[i], cost.profile_seconds[i]]));
  const farthest = Math.log2(rows[rows.length - 1] || 1) || 1;
  const x = (count) => BOX.left + (INNER.width - 8) * (Math.log2(count) / farthest);
  const line = (seconds, name) => draw("path", {
    class: name,
    d: rows.map((count, i) =>
      `${i ? "L" : "M"}${x(count)} ${BOX.top + INNER.height * (1 - seconds[i] / most)}`).join(""),
  });
  const marked = rows.filter((count) => Number.isInteger(Math.log2(count)));
  const source = cost.is_measured ? "measured at the start" : "guessed, not measured";
  container.replaceChildren(
    picture(
      `Milliseconds of a pass by rows: ${rows.map((n, i) => `${n}: ${milliseconds(cost.seconds[i])}`)}`,
      ...horizontal(0, "0"), ...horizontal(0.5, milliseconds(most / 2)), ...horizontal(1, milliseconds(most)),
      line(cost.profile_seconds, "curve before"), line(cost.seconds, "curve"),
      ...marked.map((count) => below(x(count), String(count))),
      below(BOX.left + INNER.width / 2, `rows in a pass; dashed: ${source}`, 1),
    ),
  );
}
