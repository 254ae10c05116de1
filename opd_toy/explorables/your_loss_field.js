// Where the formula is typed, what is wrong with it, and formulas to begin with.

import { html, put, showText, uniqueId } from "./interface.js";
import { choice } from "./controls.js";

const K3 = "r = log q[k] - log p[k]; ";
const JSD = "m = (1 - β)*p + β*q; β*sum(q*(log q - log m)) + (1 - β)*sum(p*(log p - log m))";
// Right ones first, then mistakes that people make; most are in opd_toy/audit/exhibits/museum.py.
export const FORMULAS = [
  { label: "policy gradient", formula: "sg(log p[k] - log q[k]) * log p[k]" },
  { label: "reverse KL", formula: "sum(p*(log p - log q))" },
  { label: "forward KL", formula: "sum(q*(log q - log p))" },
  { label: "total variation", formula: "sum(abs(p - q))/2" },
  { label: "k1 as a loss", formula: "log p[k] - log q[k]" },
  { label: "k3 as a loss", formula: `${K3}exp(r) - 1 - r` },
  { label: "k3 with a clamp", formula: `${K3}min(exp(r) - 1 - r, 10)` },
  { label: "KL as the advantage", formula: "sg(sum(p*(log p - log q))) * log p[k]" },
  { label: "no stop-gradient", formula: "(log p[k] - log q[k]) * log p[k]" },
  { label: "clamped log-ratio", formula: "sg(clamp(log p[k] - log q[k], -1, 1)) * log p[k]" },
  { label: "β near its end", formula: `β = 0.999; ${JSD}` },
  {
    label: "no factor T²",
    formula: "T = 2; a = log_softmax(z/T); b = log_softmax(t/T); sum(exp(b)*(b - a))",
  },
];

export function formulaChoice(chosen) {
  const found = choice({
    label: "Or one that people write",
    name: "known",
    options: FORMULAS.map(({ label }) => ({ value: label, label })),
    onchange: (label) => chosen(FORMULAS.find((each) => each.label === label).formula),
  });
  found.element.classList.add("opd-pairs");
  return {
    element: found.element,
    update: (formula) =>
      found.update(FORMULAS.find((each) => each.formula === formula)?.label ?? ""),
  };
}

const HELP = [
  "p, q: probabilities of student and teacher. z, t: their logits. V: how many tokens. ",
  "p[k]: of the drawn token. sg(…) stops the gradient. Also log exp sqrt abs tanh sigmoid, ",
  "sum mean min max softmax log_softmax, clamp(x, 0, 1), where(p > q, x, y), + − * / ^, ",
  "and names of your own: m = (p + q)/2; sum(…).",
];

// `typed` is called with the text at each key.
export function formulaField(typed) {
  const [help, wrong] = [uniqueId("help"), uniqueId("wrong")];
  const input = html("textarea", {
    class: "opd-field",
    rows: 2,
    maxlength: 1000,
    spellcheck: "false",
    autocapitalize: "off",
    autocomplete: "off",
    "aria-describedby": `${wrong} ${help}`,
    oninput: () => typed(input.value),
  });
  const [place, words] = [html("pre", { "aria-hidden": "true" }), html("p")];
  const error = html("div", { class: "opd-error", id: wrong, hidden: true }, place, words);
  const told = html("p", { class: "opd-note", id: help }, HELP);
  return {
    element: html(
      "div",
      { class: "opd-formula" },
      html("label", {}, html("span", { class: "opd-caption" }, "A loss of one position"), input),
      html("div", {}, error, told),
    ),
    update(text, fault) {
      if (input.value !== text) input.value = text;
      put(input, { "aria-invalid": fault ? "true" : "false" });
      error.hidden = !fault;
      told.hidden = Boolean(fault);
      showText(place, fault ? around(fault) : "");
      showText(words, fault ? `${fault.message}.` : "");
    },
  };
}

// The line with a caret below the column, cut to what fits on a phone.
function around({ source, column }, width = 36) {
  const letters = [...source];
  const from = Math.max(0, Math.min(column - 0.6 * width, letters.length - width)) | 0;
  const [before, after] = [from > 0 ? "…" : "", letters.length > from + width ? "…" : ""];
  const shown = letters.slice(from, from + width).join("");
  return `${before}${shown}${after}\n${" ".repeat(before.length + column - 1 - from)}^`;
}
