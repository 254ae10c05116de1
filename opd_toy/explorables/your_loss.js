import {
  forwardKl,
  forwardKlLogitGradient,
  reverseKl,
  reverseKlLogitGradient,
} from "./mathematics.js";
import { direction, html, NOTES, number, showText, signed, state, TOKENS } from "./interface.js";
import {
  button,
  caption,
  card,
  choiceOf,
  columns,
  presetBar,
  sentence,
  studentAndTeacher,
  table,
} from "./controls.js";
import { torchCode } from "./your_loss_code.js";
import { descentOf } from "./your_loss_descent.js";
import { lossTable, moments } from "./your_loss_duals.js";
import { FORMULAS, formulaChoice, formulaField } from "./your_loss_field.js";
import { parse } from "./your_loss_language.js";
import { endKey, endTriangle, lossPushes } from "./your_loss_pictures.js";
import { verdictOf } from "./your_loss_verdict.js";
import { describe, followed, unread } from "./your_loss_words.js";

const PRESETS = [
  ["The book's example", NOTES],
  ["A rare token", { student: [0.02, 0.28, 0.7], teacher: NOTES.teacher }],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: NOTES.teacher }],
  ["Student = teacher", { student: NOTES.teacher, teacher: NOTES.teacher }],
];
const PAUSE = 600; // ms without a key before what is typed is said

function render({ model, el }) {
  const self = state(model, ["formula", "drawn_from", "student", "teacher"], update);
  const source = formulaSource(self);
  const say = sayer();
  const verdict = kept(([formula, drawnFrom]) => verdictOf(parse(formula), drawnFrom));

  const field = formulaField((text) => say.typing(() => source.type(text, update)));
  const presets = formulaChoice((formula) => source.set({ formula }));
  const drawn = choiceOf(self, "drawn_from", "[k] is drawn from the", [
    { value: "student", label: "student" },
    { value: "teacher", label: "teacher" },
  ]);
  drawn.element.classList.add("opd-inline");
  const follows = followed();
  const inputs = studentAndTeacher(self, TOKENS);
  const pushes = lossPushes();
  const picture = endTriangle((who, p) => self.set({ [who]: p }));
  const tables = { gradients: gradientTable(), ends: endTable() };
  const code = html("code");
  const torch = html("pre", { class: "opd-torch" }, code);
  const shown = [follows, ...Object.values(tables), pushes, picture].map((each) => each.element);
  shown.push(torch);

  card(
    el,
    "Your loss",
    field.element,
    presets.element,
    follows.element,
    say.element,
    drawn.element,
    presetBar(source, PRESETS),
    columns(
      [inputs.map((each) => each.element), caption("Push on each token"), pushes.element],
      [picture.element, endKey()],
    ),
    tables.gradients.element,
    tables.ends.element,
    caption("The same in PyTorch"),
    torch,
    button("Copy the code", () => toClipboard(code)),
  );

  function update() {
    const { text, error, formula } = source.read();
    const [drawnFrom, p, q] = ["drawn_from", "student", "teacher"].map((name) => self.get(name));
    const [z, t] = [p, q].map((x) => x.map(Math.log));
    const here = moments(lossTable(formula, z, t), drawnFrom === "student" ? p : q);
    const kls = [forwardKlLogitGradient(p, q), reverseKlLogitGradient(p, q)];
    const found = verdict([formula.text, drawnFrom]);
    const way = descentOf(formula, drawnFrom, p, q);

    field.update(text, error);
    presets.update(formula.text);
    drawn.update(drawnFrom);
    inputs[0].update(p);
    inputs[1].update(q);
    follows.update(found);
    pushes.update(here, kls);
    picture.update(p, q, way);
    tables.gradients.update(p.map((_, v) => gradientRow(here, kls, v)));
    tables.ends.update(endRows(p, q, way.path.at(-1)));
    showText(code, torchCode(formula));
    shown.forEach((each) => (each.dataset.stale = Boolean(error)));
    say.now(error ? unread(error) : describe({ found, drawnFrom, here, way, q, formula }));
  }

  update();
  return self.stop;
}

// What was typed or set, and the last formula that could be read: that one is shown.
function formulaSource(self) {
  const attempt = kept((text) => {
    try {
      return { text, formula: parse(text), error: null };
    } catch (error) {
      if (!error.column) throw error;
      return { text, formula: null, error };
    }
  });
  let [typed, under] = [null, null]; // what cannot be read, and what was set when it was typed
  let last = attempt(self.get("formula")).formula ?? parse(FORMULAS[0].formula);
  self.initial.formula = last.text;
  return {
    initial: self.initial,
    type(text, changed) {
      const { formula } = attempt(text);
      [typed, under] = formula ? [null, null] : [text, self.get("formula")];
      if (formula) self.set({ formula: text });
      else changed();
    },
    set(values) {
      if ("formula" in values) typed = null;
      self.set(values);
    },
    read() {
      if (self.get("formula") !== under) typed = null;
      const found = attempt(typed ?? self.get("formula"));
      last = found.formula ?? last;
      return { ...found, formula: last };
    },
  };
}

// The sentence, which waits for a pause while the reader types.
function sayer() {
  const element = sentence();
  let [typing, waiting] = [false, null];
  return {
    element,
    typing(act) {
      typing = true;
      act();
      typing = false;
    },
    now(text) {
      clearTimeout(waiting);
      const write = () => showText(element, text);
      if (typing) waiting = setTimeout(write, PAUSE);
      else write();
    },
  };
}

// The last answer is kept, for most moves leave the question as it is.
function kept(of) {
  let [key, answer] = [null, null];
  return (question) => {
    const asked = JSON.stringify(question);
    if (asked !== key) [key, answer] = [asked, of(question)];
    return answer;
  };
}

function toClipboard(node) {
  getSelection().selectAllChildren(node);
  navigator.clipboard?.writeText(node.textContent).catch(() => {}); // else it stands selected
}

// ---- the tables ----

function gradientTable() {
  const gradients = table({
    caption: "∂/∂z by the student's logits: ▲ descent raises the token, ▼ lowers it",
    columns: ["token", "your loss", "one draw ±", "forward KL", "reverse KL"],
    roles: [null, null, null, "forward-kl", "reverse-kl"],
    rows: TOKENS,
  });
  gradients.element.classList.add("opd-tight");
  return gradients;
}

function endTable() {
  return table({
    caption: "Where descent on the expected gradient leads, and how far it is from the teacher",
    columns: ["", "student now", "student at the end", "teacher"],
    roles: [null, "student", "student", "teacher"],
    rows: [...TOKENS, "forward KL", "reverse KL"],
  });
}

function gradientRow({ mean, deviation }, kls, v) {
  const cell = (g) => ({
    value: g,
    text: Number.isNaN(g) ? "–" : `${signed(g)} ${direction(g).arrow}`,
  });
  const spread = deviation[v];
  return [
    cell(mean[v]),
    { value: spread, text: Number.isNaN(spread) ? "–" : number(spread) },
    ...kls.map((g) => ({ ...cell(g[v]), mark: g[v] * mean[v] < -1e-12 ? "odd" : "" })),
  ];
}

const endRows = (p, q, end) => [
  ...p.map((x, v) => [x, end[v], q[v]]),
  ...[forwardKl, reverseKl].map((of) => [
    ...[p, end].map((x) => ({ value: of(x, q), text: number(of(x, q), 3) })),
    { text: "" },
  ]),
];

export default { render };
