// The draft tree of one step: where its nodes go, and how they are drawn.

import { draw } from "./dom.js";
import { clipped, classOf, nameOf, percent, seen } from "./wording.js";

const ROW = 27;
const HEIGHT = 21;
const GAP = 46;
const EDGE = 10;
const MOST_CHARACTERS = 14;

/** The nodes of a step with their places, the root first, and the size of it all. */
export function layOut(step, before) {
  const nodes = withBonus(step, before);
  const root = nodes[0];
  let row = 0;
  const place = (node) => {
    node.y = row;
    node.children.sort((a, b) => b.isKept - a.isKept || b.probability - a.probability);
    node.children.forEach((child, index) => {
      if (index) row += 1;
      place(child);
    });
  };
  place(root);
  const widths = [];
  for (const node of nodes) {
    node.label = clipped(seen(node.token), MOST_CHARACTERS);
    node.width = 18 + 7.3 * columns(node.label);
    widths[node.depth] = Math.max(widths[node.depth] ?? 0, node.width);
  }
  const lefts = [EDGE];
  widths.forEach((width, depth) => lefts.push(lefts[depth] + width + GAP));
  for (const node of nodes) {
    node.x = lefts[node.depth];
    node.y = EDGE + HEIGHT / 2 + ROW * node.y;
  }
  const width = lefts[widths.length] - GAP + EDGE;
  return { nodes, width, height: 2 * EDGE + HEIGHT + ROW * row };
}

function withBonus(step, before) {
  const root = blank({ token: before ?? "…", isKept: true, isRoot: true, depth: 0, probability: 1 });
  const nodes = [root];
  const add = (parent, more) => {
    const node = blank({ ...more, parent, depth: parent.depth + 1 });
    parent.children.push(node);
    nodes.push(node);
  };
  for (const { accepted, ...node } of step.nodes) {
    add(nodes[node.parent + 1], { ...node, isKept: accepted });
  }
  if (step.bonus !== null) {
    const last = step.accepted.length ? step.accepted[step.accepted.length - 1] : -1;
    add(nodes[last + 1], { token: step.bonus, isKept: true, isBonus: true, probability: null });
  }
  return nodes;
}

function blank(more) {
  return { children: [], parent: null, source: null, isRoot: false, isBonus: false, ...more };
}

/** Columns of a monospaced font. */
function columns(text) {
  return [...text].reduce((sum, one) => sum + (one.codePointAt(0) >= 0x1100 ? 1.7 : 1), 0);
}

/** The tree as SVG. `show` is told of the node that is pointed at or has the focus, or null. */
export function drawTree({ nodes, width, height }, title, show) {
  const picture = draw("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "tree", "aria-label": title,
  });
  const edges = nodes.slice(1).map(drawEdge);
  const shapes = nodes.map((node) => drawNode(node, picture, show));
  picture.append(...edges, ...shapes);
  shapes[0].setAttribute("tabindex", "0");
  return picture;
}

function drawEdge(node) {
  const { parent } = node;
  const from = parent.x + parent.width;
  const middle = node.x - GAP / 2;
  const path = `M${from} ${parent.y}C${middle} ${parent.y} ${middle} ${node.y} ${node.x} ${node.y}`;
  const thickness = node.isBonus ? 1.5 : 1 + 2.5 * node.probability;
  node.edge = draw("path", { class: `edge ${classes(node)}`, d: path, "stroke-width": thickness });
  return node.edge;
}

function drawNode(node, picture, show) {
  const box = { x: node.x, y: node.y - HEIGHT / 2, width: node.width, height: HEIGHT, rx: 6 };
  const group = draw(
    "g",
    {
      class: `node ${classes(node)}`, role: "treeitem", tabindex: "-1",
      "aria-level": node.depth + 1, "aria-label": told(node),
    },
    draw("rect", box),
    draw("text", { x: node.x + node.width / 2, y: node.y + 4, "text-anchor": "middle" }, node.label),
  );
  if (node.probability !== null && !node.isRoot) {
    const place = { class: "share", x: node.x - 5, y: node.y - 6, "text-anchor": "end" };
    group.append(draw("text", place, percent(node.probability).replace(" ", "")));
  }
  node.shape = group;
  const light = (isOn) => {
    for (let one = node; one; one = one.parent) {
      one.shape.classList.toggle("lit", isOn);
      one.edge?.classList.toggle("lit", isOn);
    }
    show(isOn ? node : null);
  };
  group.addEventListener("pointerenter", () => light(true));
  group.addEventListener("pointerleave", () => light(false));
  group.addEventListener("focus", () => light(true));
  group.addEventListener("blur", () => light(false));
  group.addEventListener("keydown", (event) => walk(event, node, picture));
  return group;
}

function classes(node) {
  const fate = node.isRoot ? "root" : node.isBonus ? "bonus" : node.isKept ? "accepted" : "rejected";
  return `${fate} ${classOf(node.isRoot || node.isBonus ? "own" : node.source)}`;
}

/** Arrow keys go along the branches, as in any tree. */
function walk(event, node, picture) {
  const siblings = node.parent?.children ?? [node];
  const place = siblings.indexOf(node);
  const next = {
    ArrowRight: node.children[0],
    ArrowLeft: node.parent,
    ArrowDown: siblings[place + 1],
    ArrowUp: siblings[place - 1],
  }[event.key];
  if (!next) return;
  event.preventDefault();
  picture.querySelector('[tabindex="0"]').setAttribute("tabindex", "-1");
  next.shape.setAttribute("tabindex", "0");
  next.shape.focus();
}

/** All about a node in one sentence. */
export function told(node) {
  const name = `“${seen(node.token)}”`;
  if (node.isRoot) return `${name}: the last token before this step`;
  if (node.isBonus) return `${name}: bonus, the model's own choice behind the accepted path`;
  const fate = node.isKept ? "accepted" : "rejected";
  return `${name}: ${fate}, ${percent(node.probability)} expected, from ${nameOf(node.source)}`;
}
