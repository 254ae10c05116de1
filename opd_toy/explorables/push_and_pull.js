import {
  floored,
  forwardKlLogitGradient,
  kl,
  logRatio,
  reverseKlLogitGradient,
  step,
} from "./mathematics.js";
import { direction, NOTES, number, said, showText, signed, state, TOKENS } from "./interface.js";
import {
  button,
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
import { OBJECTIVES, PARAMETERS } from "./push_and_pull_objectives.js";
import { fieldPicture, pushChart } from "./push_and_pull_pictures.js";

const PRESETS = [
  ["The book's example", NOTES],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: NOTES.teacher }],
  ["Confident and wrong", { student: [0.03, 0.07, 0.9], teacher: [0.9, 0.07, 0.03] }],
  ["Torn teacher", { student: [0.1, 0.8, 0.1], teacher: [0.475, 0.05, 0.475] }],
];
const STEP = 0.5;

function render({ model, el }) {
  const offered = model.get("objectives");
  const names = ["student", "teacher", "objective", "beta", "alpha", "skew", "token"];
  const self = state(model, names, update);
  const descended = () =>
    offered.includes(self.get("objective")) ? self.get("objective") : offered[0];
  const evaluate = (key, which, p, q) => {
    const { parameter } = OBJECTIVES[key];
    return OBJECTIVES[key][which](p, q, ...(parameter ? [self.get(parameter)] : []));
  };
  const takeStep = () => {
    const [p, q] = [self.get("student"), self.get("teacher")];
    const gradient = evaluate(descended(), "gradient", p, q);
    self.set({ student: floored(step(p, gradient, STEP), 0.005) });
  };

  const inputs = studentAndTeacher(self, TOKENS);
  const parts = controls(self, offered);
  const pushes = pushChart(offered);
  const numbers = table({
    caption: "logit gradient ∂/∂z of each objective: ▲ descent raises the logit, ▼ lowers it",
    columns: ["token", "p", "q", "log p/q", ...offered.map((key) => OBJECTIVES[key].label)],
    roles: [null, "student", "teacher", null, ...offered.map((key) => OBJECTIVES[key].role)],
    rows: TOKENS,
  });
  const picture = fieldPicture((who, p) => self.set({ [who]: p }));
  const says = sentence();

  card(
    el,
    "Push and pull",
    presetBar(
      self,
      PRESETS,
      button("Take one step", takeStep, {
        title: `one gradient step of size ${STEP} on the logits`,
      }),
    ),
    columns(
      [
        inputs.map((each) => each.element),
        parts.objective.element,
        parts.parameters.map((each) => each.element),
        pushes.element,
      ],
      [picture.element, parts.token.element, explained()],
    ),
    numbers.element,
    says,
  );

  function update() {
    const [p, q, chosen] = [self.get("student"), self.get("teacher"), descended()];
    const gradients = offered.map((key) => evaluate(key, "gradient", p, q));
    inputs[0].update(p);
    inputs[1].update(q);
    parts.objective.update(chosen);
    parts.token.update(self.get("token"));
    parts.parameters.forEach(({ key, update: show }) => show(self.get(key)));
    pushes.update(gradients);
    numbers.update(rowsOf(p, q, gradients));
    picture.update(p, q, self.get("token") - 1, OBJECTIVES[chosen].role, (x, y) =>
      evaluate(chosen, "gradient", x, y),
    );
    const cost = evaluate(chosen, "cost", p, q);
    showText(says, describe(p, q, self.get("token") - 1, OBJECTIVES[chosen].label, cost));
  }

  update();
  return self.stop;
}

function controls(self, offered) {
  const objective = choiceOf(
    self,
    "objective",
    "Descend",
    offered.map((key) => ({
      value: key,
      label: OBJECTIVES[key].label,
      role: OBJECTIVES[key].role,
    })),
  );
  const parameters = Object.entries(PARAMETERS)
    .filter(([key]) => offered.some((name) => OBJECTIVES[name].parameter === key))
    .map(([key, { label, min, max }]) => ({
      key,
      ...sliderOf(self, key, label, { min, max, role: key === "skew" ? undefined : "jsd" }),
    }));
  const token = choiceOf(
    self,
    "token",
    "Shade for",
    TOKENS.map((name, index) => ({ value: index + 1, label: name })),
  );
  return { objective, parameters, token };
}

const explained = () =>
  note(
    "Bars: the push of each objective, in the order of the table. In the triangle, drag the two ",
    "points. Arrows: the way the student moves under the chosen objective; line: its path ",
    "towards the teacher. Grey: here forward KL lowers the logit of the shaded token while ",
    "reverse KL raises it.",
  );

const rowsOf = (p, q, gradients) =>
  logRatio(p, q).map((ratio, v) => [
    p[v],
    q[v],
    { value: ratio, text: signed(ratio) },
    ...gradients.map((g) => ({
      value: g[v],
      text: `${signed(g[v])} ${direction(g[v]).arrow}`,
      mark: gradients.some((other) => other[v] * g[v] < -1e-12) ? "odd" : "",
    })),
  ]);

function describe(p, q, j, label, cost) {
  const [divergence, ratio] = [kl(p, q), logRatio(p, q)[j]];
  const forward = direction(forwardKlLogitGradient(p, q)[j]).word;
  const reverse = direction(reverseKlLogitGradient(p, q)[j]).word;
  const side = ratio < divergence ? "below" : "above";
  const verdict =
    forward === reverse
      ? `both forward and reverse KL ${forward.replace(/s$/, "")} it.`
      : said(
          `forward KL ${forward} it, but reverse KL ${reverse} it:`,
          `its log-ratio ${number(ratio)} is ${side} the average, KL(p‖q) = ${number(divergence)}.`,
        );
  return said(
    `${TOKENS[j]} has ${number(p[j])} from the student and ${number(q[j])} from the teacher;`,
    verdict,
    `The ${label} from here is ${number(cost, 3)}.`,
  );
}

export default { render };
