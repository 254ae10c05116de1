import { floored, softmax } from "./mathematics.js";
import { direction, html, number, said, showText, signed, state, TOKENS } from "./interface.js";
import {
  barsOf,
  button,
  caption,
  card,
  choiceOf,
  columns,
  note,
  sentence,
  sliderOf,
  table,
  toolbar,
} from "./controls.js";
import { CORRECTIONS, shownAt, STEPS } from "./stale_rollouts_descent.js";
import { comparison, staleTriangle, triangleKey } from "./stale_rollouts_pictures.js";
import { recordPanel } from "./stale_rollouts_record.js";
import { prefixPanel } from "./stale_rollouts_prefixes.js";
import { describe } from "./stale_rollouts_words.js";

const FLOOR = 0.005;
const OLDER = [0.4, 0.3, 0.3];
const TRAITS = [
  "student",
  "teacher",
  "behaviour",
  "sampler",
  "correction",
  "cost",
  "most",
  "low",
  "high",
  "epsilon",
  "renew",
];

// Who draws, made of the student.
const PRESETS = [
  ["On-policy: μ = p", (p) => ({ behaviour: p, sampler: "all" })],
  ["An older student", () => ({ behaviour: OLDER, sampler: "all" })],
  ["Temperature .7", (p) => ({ behaviour: sharper(p, 0.7), sampler: "all" })],
  ["Top-p: a token cut away", (p) => ({ behaviour: p, sampler: "top_p" })],
  ["Rounded engine", (p) => ({ behaviour: roundedTo(p), sampler: "all" })],
];
const sharper = (p, temperature) =>
  floored(softmax(p.map((x) => Math.log(x) / temperature)), FLOOR);

// The student by logits around 20 in bfloat16: between 16 and 32 these are 1/8 apart.
const roundedTo = (p) =>
  floored(softmax(p.map((x) => Math.round(8 * (20 + Math.log(x))) / 8)), FLOOR);

function render({ model, el }) {
  const self = state(model, TRAITS, update);
  const inputs = ["student", "teacher", "behaviour"].map((who) => barsOf(self, who, TOKENS));
  const parts = controls(self);
  const picture = staleTriangle((who, p) => self.set({ [who]: p }));
  const compared = comparison((key) => self.set({ correction: key }));
  const prefixes = prefixPanel();
  const record = recordPanel(model.get("recording"));
  const tables = { tokens: tokenTable(), corrections: correctionTable(), ends: endTable() };
  const lines = [...tables.corrections.element.querySelectorAll("tbody tr")];
  const says = sentence();

  card(
    el,
    "Tokens that another policy drew",
    toolbar(
      PRESETS.map(([label, of]) => button(label, () => self.set(of(self.get("student"))))),
      button("Reset", () => self.set(self.initial)),
    ),
    columns(
      [picture.element, triangleKey(), says],
      [
        parts.elements,
        caption("All corrections at this setting"),
        compared.element,
        note(
          "Off by: the distance of the mean from the exact gradient, over its length. Variance: ",
          "over that of tokens that the student drew; dotted: 1. Press a row to choose it.",
        ),
      ],
    ),
    columns(
      inputs.map((each) => each.element),
      prefixes.nodes,
    ),
    columns([tables.tokens.element, tables.ends.element], record.nodes),
    tables.corrections.element,
  );

  function update() {
    const setting = Object.fromEntries(TRAITS.map((name) => [name, self.get(name)]));
    const shown = shownAt(setting);
    inputs.forEach((each, i) => each.update([shown.p, shown.q, shown.behaviour][i]));
    parts.update(shown.correction);
    picture.update(shown);
    compared.update(shown.compared, shown.correction);
    prefixes.update(shown.moment);
    record.update(shown.correction, shown.cost);
    tables.tokens.update(tokenRows(shown));
    tables.corrections.update(correctionRows(shown));
    tables.ends.update(endRows(shown));
    lines.forEach(
      (line, i) => (line.dataset.on = String(CORRECTIONS[i]?.key === shown.correction)),
    );
    showText(says, describe(shown, setting));
  }

  update();
  return self.stop;
}

// ---- controls ----

function controls(self) {
  const options = CORRECTIONS.map(({ key, label }) => ({ value: key, label }));
  const choices = {
    correction: choiceOf(self, "correction", "Correction", options),
    cost: choiceOf(self, "cost", "Cost", [
      { value: "recomputed", label: "computed anew, log p/q" },
      { value: "kept", label: "kept, log μ/q" },
    ]),
    sampler: choiceOf(self, "sampler", "Drawn from μ", [
      { value: "all", label: "every token" },
      { value: "top_p", label: "never its rarest" },
    ]),
    renew: choiceOf(
      self,
      "renew",
      "μ renewed after",
      [1, 4, 16].map((n) => ({ value: n, label: n === 1 ? "1 step" : String(n) })),
    ),
  };
  const sliders = {
    most: ["truncate", { min: 0.5, max: 5, step: 0.05 }, "truncated at c"],
    low: ["mask", { max: 1 }, "masked below a"],
    high: ["mask", { min: 1, max: 5, step: 0.05 }, "masked above b"],
    epsilon: ["clip", { max: 1 }, "clipped at ε"],
  };
  const limits = Object.entries(sliders).map(([name, [of, range, label]]) => ({
    name,
    of,
    ...sliderOf(self, name, label, { role: "policy-gradient", ...range }),
  }));
  for (const each of [choices.sampler, choices.renew]) each.element.classList.add("opd-inline");
  return {
    elements: [
      choices.correction.element,
      html(
        "div",
        { class: "opd-aligned" },
        limits.map((each) => each.element),
      ),
      choices.cost.element,
      choices.sampler.element,
      choices.renew.element,
    ],
    update(correction) {
      Object.entries(choices).forEach(([name, each]) => each.update(self.get(name)));
      for (const each of limits) {
        each.update(self.get(each.name));
        each.element.hidden = each.of !== correction;
      }
    },
  };
}

// ---- the tables ----

function tokenTable() {
  return tight(
    table({
      caption: "The ratio ρ = p/μ of each token, and the factor that this correction makes of it",
      columns: ["token", "p", "q", "μ", "ρ", "factor"],
      roles: [null, "student", "teacher", "behaviour"],
      rows: TOKENS,
    }),
  );
}

const tokenRows = ({ p, q, mu, ratios, factors }) =>
  p.map((x, v) => [x, q[v], mu[v], ratios[v], factors[v]]);

function tight(numbers) {
  numbers.element.classList.add("opd-tight");
  return numbers;
}

const correctionTable = () =>
  tight(
    table({
      caption: said(
        "The mean ∂/∂z of each correction: ▲ descent raises the logit, ▼ lowers it;",
        "bias and variance as in the bars",
      ),
      columns: ["correction", "off by", "variance", ...TOKENS],
      rows: [...CORRECTIONS.map(({ label }) => label), "exact"],
    }),
  );

const pushes = (g) => g.map((x) => ({ value: x, text: `${signed(x)} ${direction(x).arrow}` }));
const share = (x) => (Number.isFinite(x) ? { value: x } : { text: "–" });

const correctionRows = ({ compared, exact }) => [
  ...compared.map(({ off, spread, mean }) => [share(off), share(spread), ...pushes(mean)]),
  [{ text: "" }, { text: "" }, ...pushes(exact)],
];

const endTable = () =>
  table({
    caption: `Where ${STEPS} steps of descent lead from p, and the KL to the teacher there`,
    columns: ["descent", ...TOKENS, "KL"],
    rows: ["start", "μ held ✕", "μ renewed ○"],
  });

const endRows = ({ p, start, ends }) => [
  [...p, { value: start, text: number(start, 3) }],
  ...ends.map(({ end, left }) => [...end, { value: left, text: number(left, 3) }]),
];

export default { render };
