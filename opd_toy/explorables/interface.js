// What every explorable is made of: elements, numbers in words, state, animation.

// The notes' pair, as in opd_toy.example.
export const NOTES = { student: [0.2, 0.3, 0.5], teacher: [0.7, 0.2, 0.1] };

// Each explorable of a page brings its own copy of this module, so a count alone would
// give two of them the same ids, and join their radio buttons into one group.
const copy = Math.random().toString(36).slice(2, 8);
let counter = 0;
export const uniqueId = (stem) => `opd-${stem}-${copy}${++counter}`;

function build(node, attributes, children) {
  for (const name in attributes) {
    const value = attributes[name];
    if (value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value);
  }
  append(node, children);
  return node;
}
function append(node, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(node, child);
    else if (child !== null && child !== undefined) node.append(child);
  }
}

export const html = (tag, attributes, ...children) =>
  build(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Set attributes only: cheap enough to call on every frame.  What is there already is left
// alone, for the browser lays out and paints whatever was written, new or not.
export function put(node, attributes) {
  for (const [name, value] of Object.entries(attributes))
    if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  return node;
}
// The same for a text.
export function showText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// ---- numbers in words ----

export function number(x, digits = 2) {
  if (Number.isNaN(x)) return "undefined";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  const text = Math.abs(x).toFixed(digits);
  return x < 0 && Number(text) !== 0 ? `−${text}` : text;
}
export const signed = (x, digits = 2) => {
  const text = number(x, digits);
  return /[1-9∞]/.test(text) && x > 0 ? `+${text}` : text;
};
const subscripts = "₀₁₂₃₄₅₆₇₈₉";
export const tokenName = (index) =>
  "t" + [...String(index + 1)].map((digit) => subscripts[digit]).join("");

export const percent = (x, digits = 0) => `${number(100 * x, digits)} %`;
export const raised = (power) =>
  [...String(power)].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])).join("");
// "a, b and c"
export const listed = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
// Sentences and clauses, those that do not apply (empty, false) left out.
export const said = (...parts) => parts.filter(Boolean).join(" ");
// The tokens of the notes' example.
export const TOKENS = [0, 1, 2].map(tokenName);

// A number that a reader sees rounded and a test reads whole.
export const value = (attributes) => html("span", { class: "opd-number", ...attributes });
export function showNumber(node, x, text = number(x)) {
  showText(node, text);
  node.dataset.value = String(x);
}

// ---- state ----

// Read and write the model's values; `changed` runs once per change, whoever made it.
export function state(model, names, changed) {
  let held = false;
  const listener = () => held || changed();
  for (const name of names) model.on(`change:${name}`, listener);
  return {
    initial: Object.fromEntries(names.map((name) => [name, model.get(name)])),
    get: (name) => model.get(name),
    whole: (name) => Math.round(model.get(name)),
    set(values) {
      held = true;
      for (const [name, next] of Object.entries(values)) model.set(name, next);
      held = false;
      changed();
      model.save_changes();
    },
    stop: () => names.forEach((name) => model.off(`change:${name}`, listener)),
  };
}

export const reducedMotion = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

// Run `tick` about `rate` times a second until it returns false; `stop` ends it early.
export function animation(tick, rate = 30, ended = () => {}) {
  let handle = null;
  let last = 0;
  const frame = (now) => {
    if (now - last >= 1000 / rate) {
      last = now;
      if (tick() === false) return stop();
    }
    handle = requestAnimationFrame(frame);
  };
  const stop = () => {
    if (handle !== null) cancelAnimationFrame(handle);
    handle = null;
    ended();
  };
  return {
    start() {
      if (handle === null) handle = requestAnimationFrame(frame);
    },
    stop,
    running: () => handle !== null,
  };
}

// What descending a cost does to a logit, as a word and an arrow.
export const direction = (gradient) =>
  Math.abs(gradient) < 5e-7
    ? { arrow: "·", word: "leaves" }
    : gradient < 0
      ? { arrow: "▲", word: "raises" }
      : { arrow: "▼", word: "lowers" };
