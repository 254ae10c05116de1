import {
  direction,
  html,
  NOTES,
  number,
  said,
  showText,
  signed,
  state,
  TOKENS,
} from "./interface.js";
import {
  caption,
  card,
  choiceOf,
  columns,
  note,
  presetBar,
  sentence,
  sliderOf,
  studentAndTeacher,
  table,
} from "./controls.js";
import { describe, EXHIBITS, KLS, LAST, RATE, SIDES, trained } from "./loss_museum_exhibits.js";
import { klChart, museumKey, museumPushes, museumTriangle } from "./loss_museum_pictures.js";

const { teacher: TEACHER } = NOTES;
const PRESETS = [
  ["The book's example", NOTES],
  ["A rare token", { student: [0.02, 0.28, 0.7], teacher: TEACHER }],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: TEACHER }],
  ["Student = teacher", { student: TEACHER, teacher: TEACHER }],
];

function render({ model, el }) {
  const names = ["exhibit", "student", "teacher", "steps", "update", "seed"];
  const self = state(model, names, update);
  const losses = model.get("code"); // {exhibit: [wrong, right]}
  const find = kept(); // all that does not depend on the steps

  const parts = controls(self);
  const code = SIDES.map(() => html("code"));
  const inputs = studentAndTeacher(self, TOKENS);
  const pushes = museumPushes();
  const picture = museumTriangle((who, p) => self.set({ [who]: p }));
  const charts = Object.entries(KLS).map(([name, [words, symbol]]) => ({
    name,
    ...klChart(words, symbol, `${name}-kl`),
  }));
  const tables = { numbers: numberTable(), divergences: divergenceTable() };
  const says = sentence();

  card(
    el,
    "The museum of losses",
    presetBar(self, PRESETS),
    parts.exhibit.element,
    html(
      "dl",
      { class: "opd-code" },
      SIDES.map((side, i) => [html("dt", {}, side), html("dd", {}, code[i])]),
    ),
    says,
    columns(
      [inputs.map((each) => each.element), caption("Expected push on each token"), pushes.element],
      [picture.element, museumKey()],
    ),
    parts.update.element,
    parts.steps.element,
    parts.seed.element,
    html(
      "div",
      { class: "opd-columns" },
      charts.map((chart) => chart.element),
    ),
    tables.numbers.element,
    tables.divergences.element,
    note(
      `Steps of size ${RATE} on the logits. `,
      "Drawn tokens: the same random numbers for both losses.",
    ),
  );

  function update() {
    const [exhibit, p, q, count, how, seed] = names.map((each) => self.get(each));
    const found = find(exhibit, p, q, how === "drawn" ? seed : null);
    parts.exhibit.update(exhibit);
    code.forEach((node, i) => showText(node, losses[exhibit][i]));
    inputs[0].update(p);
    inputs[1].update(q);
    parts.update.update(how);
    parts.steps.update(count);
    parts.seed.update(seed);
    parts.seed.element.hidden = how !== "drawn";
    pushes.update(found.map(({ mean }) => mean));
    picture.update(
      p,
      q,
      found.map(({ path }) => path.slice(0, count + 1)),
    );
    for (const chart of charts)
      chart.update(
        found.map(({ kls }) => kls[chart.name]),
        count,
      );
    tables.numbers.update(q.map((x, v) => numberRow(found, count, x, v)));
    tables.divergences.update(divergenceRows(found, count, p, q));
    showText(says, describe({ exhibit, p, q, count, update: how, found }));
  }

  update();
  return self.stop;
}

// Both losses at a setting; the last answer is kept, for a move along the steps changes nothing.
function kept() {
  let [key, found] = [null, null];
  return (exhibit, p, q, seed) => {
    const asked = JSON.stringify([exhibit, p, q, seed]);
    if (asked !== key)
      [key, found] = [asked, SIDES.map((side) => trained(EXHIBITS[exhibit][side], p, q, seed))];
    return found;
  };
}

function controls(self) {
  const whole = { step: 1, text: (x) => number(x, 0) };
  const exhibit = choiceOf(
    self,
    "exhibit",
    "The loss",
    Object.entries(EXHIBITS).map(([name, { label }]) => ({ value: name, label })),
  );
  exhibit.element.classList.add("opd-pairs");
  return {
    exhibit,
    update: choiceOf(self, "update", "Each step follows", [
      { value: "expected", label: "the expected gradient" },
      { value: "drawn", label: "one drawn token" },
    ]),
    steps: sliderOf(self, "steps", "steps", { ...whole, max: LAST }),
    seed: sliderOf(self, "seed", "seed", { ...whole, min: 1, max: 99 }),
  };
}

// ---- the tables ----

function numberTable() {
  const numbers = table({
    caption: said(
      "Expected ∂/∂z at p (▲: descent raises the token, ▼: lowers it),",
      "and the student after these steps",
    ),
    columns: ["token", "wrong ∂", "right ∂", "wrong ends", "right ends", "q"],
    roles: [null, null, null, null, null, "teacher"],
    rows: TOKENS,
  });
  numbers.element.classList.add("opd-tight");
  return numbers;
}

function divergenceTable() {
  const divergences = table({
    caption: "Total variance of one draw's gradient at p, and both divergences after these steps",
    columns: ["loss", "variance", ...Object.values(KLS).map(([words]) => words)],
    roles: [null, null, "reverse-kl", "forward-kl"],
    rows: [...SIDES, "before"],
  });
  divergences.element.classList.add("opd-tight");
  return divergences;
}

function numberRow(found, count, teacher, v) {
  const [wrong, right] = found.map(({ mean }) => mean[v]);
  const mark = wrong * right < -1e-12 ? "odd" : "";
  return [
    ...[wrong, right].map((g) => ({
      value: g,
      text: `${signed(g)} ${direction(g).arrow}`,
      mark,
    })),
    ...found.map(({ path }) => path[count][v]),
    teacher,
  ];
}

function divergenceRows(found, count, p, q) {
  const three = (x) => ({ value: x, text: number(x, 3) });
  return [
    ...found.map(({ variance, kls }) => [
      three(variance),
      ...Object.keys(KLS).map((each) => three(kls[each][count])),
    ]),
    [{ text: "" }, ...Object.values(KLS).map(([, , of]) => three(of(p, q)))],
  ];
}

export default { render };
