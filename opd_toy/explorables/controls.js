// Controls, tables and the card that they stand in.  Controls are native inputs, so keyboard,
// touch and screen readers work as they do everywhere else; colours come from the CSS variables
// of style.css.

import { setProbability } from "./mathematics.js";
import { html, number, put, showNumber, showText, uniqueId, value } from "./interface.js";

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
      input.style.setProperty("--at", (x - min) / (max - min));
      input.setAttribute("aria-valuetext", text(x));
      showText(output, text(x));
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
    showText(row.element.querySelector(".opd-label"), tokens[index]);
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

const SYMBOLS = { student: "p", teacher: "q", behaviour: "μ" };

// The bars of the trait `who`.
export const barsOf = (self, who, tokens) =>
  bars({
    title: `${who} ${SYMBOLS[who]}`,
    role: who,
    name: who,
    tokens,
    onchange: (p) => self.set({ [who]: p }),
  });

export const studentAndTeacher = (self, tokens) =>
  ["student", "teacher"].map((who) => barsOf(self, who, tokens));

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

// A swatch stays in one line with the first word of its name.
function withSwatch(words) {
  const [first, ...more] = words.split(" ");
  const whole = html("span", { class: "opd-named" }, html("i", { class: "opd-swatch" }), first);
  return [whole, more.length ? ` ${more.join(" ")}` : null];
}

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
              ...(roles[index] ? withSwatch(column) : [column]),
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
          showText(node, text ?? number(x));
          if (x === undefined) delete node.dataset.value;
          else node.dataset.value = String(x);
          node.dataset.mark = mark ?? "";
        }),
      );
    },
  };
}

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
  for (const control of el.querySelectorAll("input, textarea, button, [tabindex]"))
    put(control, { "data-lm-suppress-shortcuts": true });
}

// ---- random trees: a choice and a button of the two sliders of chapter 6 ----

export const TREES = [
  { value: "random", label: "random" },
  { value: "notes", label: "the book's p and q at every prefix" },
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
  return {
    element,
    update() {
      showNumber(seed, self.whole("seed"), String(self.whole("seed")));
    },
  };
}
