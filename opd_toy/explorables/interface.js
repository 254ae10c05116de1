// What every explorable is made of: elements, numbers in words, controls, tables.
// Controls are native inputs, so keyboard, touch and screen readers work as they do
// everywhere else; colours come from the CSS variables of style.css.

import { setProbability } from "./mathematics.js";

// The notes' pair, as in opd_toy.example.
export const NOTES = { student: [0.2, 0.3, 0.5], teacher: [0.7, 0.2, 0.1] };

// Each explorable of a page brings its own copy of this module, so a count alone would
// give two of them the same ids, and join their radio buttons into one group.
const copy = Math.random().toString(36).slice(2, 8);
let counter = 0;
export const uniqueId = (stem) => `opd-${stem}-${copy}${++counter}`;

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") node.style.cssText = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

export const html = (tag, attributes, ...children) =>
  build(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// Set attributes only: cheap enough to call on every frame.
export function put(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
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
  node.textContent = text;
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

// ---- controls ----

export function button(label, onclick, attributes) {
  return html("button", { type: "button", class: "opd-button", onclick, ...attributes }, label);
}

// A labelled slider. `text` turns the value into what is shown and read out.
export function slider({ label, min, max, step, text = (x) => number(x), role, name, oninput }) {
  const output = html("output", { class: "opd-output" });
  const input = html("input", {
    type: "range",
    min,
    max,
    step,
    name,
    "aria-label": label,
    class: "opd-range",
    style: role ? `--role: var(--opd-${role})` : undefined,
    oninput: () => oninput(Number(input.value)),
  });
  const element = html(
    "label",
    { class: "opd-slider" },
    html("span", { class: "opd-label" }, label),
    input,
    output,
  );
  return {
    element,
    input,
    update(x) {
      input.value = x;
      input.style.setProperty("--at", (x - min) / (max - min || 1));
      input.setAttribute("aria-valuetext", text(x));
      output.textContent = text(x);
      output.dataset.value = String(x);
    },
  };
}

// A distribution as draggable bars: each bar is a slider, the others make room.
function bars({ title, role, name, tokens, onchange }) {
  let current = [];
  const rows = tokens.map((token, index) =>
    slider({
      label: `${title}: probability of ${token}`,
      min: 0,
      max: 1,
      step: 0.01,
      role,
      name: `${name}-${index}`,
      oninput: (x) => onchange(setProbability(current, index, x)),
    }),
  );
  rows.forEach((row, index) => {
    row.element.classList.add("opd-bar");
    row.element.querySelector(".opd-label").textContent = tokens[index];
  });
  const element = html(
    "fieldset",
    { class: "opd-bars", style: `--role: var(--opd-${role})` },
    html("legend", {}, html("i", { class: "opd-swatch" }), title),
    rows.map((row) => row.element),
  );
  return {
    element,
    update(p) {
      current = p;
      rows.forEach((row, index) => row.update(p[index]));
    },
  };
}

// The bars of the traits `student` and `teacher`.
export const studentAndTeacher = (self, tokens) =>
  ["student", "teacher"].map((who) =>
    bars({
      title: who === "student" ? "student p" : "teacher q",
      role: who,
      name: who,
      tokens,
      onchange: (p) => self.set({ [who]: p }),
    }),
  );

// A slider that sets the trait `name`.
export const sliderOf = (self, name, label, options) =>
  slider({
    label,
    name,
    min: 0,
    max: 1,
    step: 0.01,
    oninput: (x) => self.set({ [name]: x }),
    ...options,
  });

// Radio buttons that set the trait `name`.  options: [{value, label, role}], the value as the
// trait has it.
export const choiceOf = (self, name, label, options) =>
  choice({ label, name, options, onchange: (x) => self.set({ [name]: x }) });

// Radio buttons in a row.
export function choice({ label, options, onchange, name = "choice" }) {
  const group = uniqueId(name);
  const inputs = options.map((option) =>
    html("input", {
      type: "radio",
      name: group,
      value: option.value,
      onchange: () => onchange(option.value),
    }),
  );
  const element = html(
    "fieldset",
    { class: "opd-choice", "data-name": name },
    html("legend", {}, label),
    options.map((option, index) =>
      html(
        "label",
        { style: option.role ? `--role: var(--opd-${option.role})` : undefined },
        inputs[index],
        option.role ? html("i", { class: "opd-swatch" }) : null,
        option.label,
      ),
    ),
  );
  return {
    element,
    update: (current) =>
      inputs.forEach((input) => (input.checked = input.value === String(current))),
  };
}

export const toolbar = (...children) => html("div", { class: "opd-toolbar" }, ...children);
export const note = (...children) => html("p", { class: "opd-note" }, ...children);
export const caption = (...children) => html("p", { class: "opd-caption" }, ...children);
export const swatch = (role) =>
  html("i", { class: "opd-swatch", style: `--role: var(--opd-${role})` });

// Side by side where there is room; each column is a list of nodes.
export const columns = (...each) =>
  html(
    "div",
    { class: "opd-columns" },
    each.map((nodes) => html("div", {}, nodes)),
  );

// Buttons for settings worth seeing, [label, values] each, and one back to the first.
export const presetBar = (self, presets, ...more) =>
  toolbar(
    presets.map(([label, values]) => button(label, () => self.set(values))),
    more,
    button("Reset", () => self.set(self.initial)),
  );

// The sentence that says what is to be seen now.
export const sentence = () => html("p", { class: "opd-says", "aria-live": "polite" });

// A table of numbers whose cells are filled by `update(cells)`, one row of cells a row:
// a cell is a number, or {value, text, role}.
export function table({ caption: title, columns: heads, rows, roles = [] }) {
  const body = rows.map((row) => heads.slice(1).map(() => html("td")));
  const element = html(
    "div",
    { class: "opd-table", tabindex: 0, role: "region", "aria-label": title },
    html(
      "table",
      {},
      html("caption", {}, title),
      html(
        "thead",
        {},
        html(
          "tr",
          {},
          heads.map((column, index) =>
            html(
              "th",
              {
                scope: "col",
                style: roles[index] ? `--role: var(--opd-${roles[index]})` : undefined,
              },
              roles[index] ? html("i", { class: "opd-swatch" }) : null,
              column,
            ),
          ),
        ),
      ),
      html(
        "tbody",
        {},
        rows.map((row, index) => html("tr", {}, html("th", { scope: "row" }, row), body[index])),
      ),
    ),
  );
  return {
    element,
    update(cells) {
      cells.forEach((row, i) =>
        row.forEach((cell, j) => {
          const { value: x, text, mark } = typeof cell === "object" ? cell : { value: cell };
          const node = body[i][j];
          node.textContent = text ?? number(x);
          if (x !== undefined) node.dataset.value = String(x);
          node.dataset.mark = mark ?? "";
        }),
      );
    },
  };
}

// ---- random trees: a choice and a button of the two sliders of chapter 6 ----

export const TREES = [
  { value: "random", label: "random" },
  { value: "notes", label: "the notes' p and q at every prefix" },
];

export function anotherTree(self, tag = "p") {
  const seed = value({ "data-name": "seed" });
  const next = () => self.set({ seed: (self.whole("seed") + 1) % 10000 });
  const element = html(
    tag,
    { class: "opd-note" },
    button("Another tree", next),
    " this is tree ",
    seed,
  );
  return { element, update: () => showNumber(seed, self.whole("seed"), String(self.whole("seed"))) };
}

// What descending a cost does to a logit, as a word and an arrow.
export const direction = (gradient) =>
  Math.abs(gradient) < 5e-7
    ? { arrow: "·", word: "leaves" }
    : gradient < 0
      ? { arrow: "▲", word: "raises" }
      : { arrow: "▼", word: "lowers" };

// The card every explorable stands in.
export function card(el, title, ...children) {
  const heading = uniqueId("title");
  el.replaceChildren(
    html(
      "div",
      { class: "opd" },
      html(
        "section",
        { class: "opd-card", "aria-labelledby": heading },
        html("p", { class: "opd-title", id: heading }, title),
        ...children,
      ),
    ),
  );
  // else JupyterLab takes the arrows and Enter for its own shortcuts, from a slider too
  for (const control of el.querySelectorAll("input, button, [tabindex]"))
    put(control, { "data-lm-suppress-shortcuts": true });
}

// ---- random draws: the same from the same seed ----

// A source of numbers in [0, 1): the generator mulberry32, after `skipped` numbers.
export function uniforms(seed, skipped = 0) {
  let position = (seed + Math.imul(skipped, 0x6d2b79f5)) >>> 0;
  return () => {
    position = (position + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(position ^ (position >>> 15), position | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The token that u in [0, 1) draws from p.
export function drawn(p, u) {
  let v = 0;
  for (let top = p[0]; u >= top && v < p.length - 1; top += p[v]) v += 1;
  return v;
}
