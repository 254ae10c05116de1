import {
  expectation,
  forwardKlLogitGradient,
  fullVocabularyAdvantage,
  optimalBaseline,
  policyGradient,
  reverseKl,
  reverseKlLogitGradient,
  totalVariance,
} from "./mathematics.js";
import {
  direction,
  html,
  NOTES,
  number,
  showNumber,
  showText,
  signed,
  state,
  TOKENS,
  value,
} from "./interface.js";
import {
  button,
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
  toolbar,
} from "./controls.js";
import { deviations, estimator, follows, recognised } from "./baselines_estimators.js";
import { pushChart, varianceChart } from "./baselines_pictures.js";
import { describeBaseline, describeEstimator } from "./baselines_words.js";

const { teacher: TEACHER } = NOTES;
const PRESETS = [
  ["The book's example", NOTES],
  ["Even student", { student: [1 / 3, 1 / 3, 1 / 3], teacher: TEACHER }],
  ["Confident student", { student: [0.9, 0.05, 0.05], teacher: [0.3, 0.3, 0.4] }],
  ["Off by a factor of 4", { student: [0.1, 0.8, 0.1], teacher: [0.4, 0.2, 0.4] }],
  ["Student = teacher", { student: TEACHER, teacher: TEACHER }],
];
const KINDS = ["k1", "k2", "k3"];
const USES = ["loss", "reward"];
const BOUND = 6; // of the baseline, as in baselines.py
const WHISKERS = "Bars: the mean of all draws; whiskers: one standard deviation of a draw.";

function render({ model, el }) {
  const names = ["student", "teacher", "view", "baseline", "kind", "use"];
  const self = state(model, names, update);
  const inputs = studentAndTeacher(self, TOKENS);
  const view = choiceOf(self, "view", "Show", [
    { value: "baseline", label: "a constant baseline b" },
    { value: "k_estimators", label: "k1, k2, k3" },
  ]);
  const views = { baseline: baselineView(self), k_estimators: estimatorView(self) };
  const parts = (place) => Object.values(views).map((each) => each.parts[place]);
  const says = sentence();

  card(
    el,
    "Baselines and estimators",
    presetBar(self, PRESETS),
    view.element,
    columns([inputs.map((each) => each.element), parts(0)], parts(1)),
    parts(2),
    says,
  );

  function update() {
    const [p, q, shown] = [self.get("student"), self.get("teacher"), self.get("view")];
    inputs[0].update(p);
    inputs[1].update(q);
    view.update(shown);
    for (const [key, each] of Object.entries(views))
      each.parts.forEach((node) => (node.hidden = key !== shown));
    showText(says, views[shown].update(p, q));
  }

  update();
  return self.stop;
}

const inThree = (x) => ({ value: x, text: number(x, 3) });
const cells = (g) => g.map((x) => ({ value: x, text: `${signed(x)} ${direction(x).arrow}` }));

// ---- a constant baseline ----

const marked = (p, q) => ({
  direct: -1,
  plain: 0,
  kl: reverseKl(p, q),
  best: optimalBaseline(p, q),
});
const JUMPS = [
  ["direct", "b = −1"],
  ["plain", "b = 0"],
  ["kl", "b = KL"],
  ["best", "b = best"],
];

// Three parts of the page, and an update that returns the sentence.
function baselineView(self) {
  const move = (b) => self.set({ baseline: Math.min(Math.max(b, -BOUND), BOUND) });
  const baseline = sliderOf(self, "baseline", "baseline b", {
    min: -BOUND,
    max: BOUND,
    role: "policy-gradient",
    oninput: move,
  });
  const jumps = JUMPS.map(([key, label]) =>
    button(label, () => move(marked(self.get("student"), self.get("teacher"))[key]), {
      "data-name": `jump-${key}`,
    }),
  );
  const curve = varianceChart(move);
  const [varianceNow, baselineNow] = ["variance", "b"].map((name) => value({ "data-name": name }));
  const pushes = pushChart([
    ["fill", "reverse-kl", "KL(p‖q), exact"],
    ["outline", "policy-gradient", "policy gradient at b"],
    ["outline", "muted", "KL as the advantage"],
  ]);
  const numbers = table({
    caption: "Total variance of a draw, and its mean ∂/∂z",
    columns: ["weight", "b", "variance", ...TOKENS],
    rows: ["b now", "b = −1", "b = 0, plain", "b = KL(p‖q)", "b best", "KL as advantage"],
  });
  numbers.element.classList.add("opd-tight");
  const explained = note(
    "b is taken from the log-ratio: (log p/q − b) ∇log p. b = −1 is what comes of ",
    "differentiating the sampled KL itself, log-ratio + 1. ",
    WHISKERS,
  );

  return {
    parts: [
      html("div", {}, baseline.element, toolbar(jumps), explained),
      html(
        "div",
        {},
        caption("Total variance at b = ", baselineNow, ": ", varianceNow),
        curve.element,
        caption("Expected push on each token"),
        pushes.element,
      ),
      html("div", {}, numbers.element),
    ],
    update(p, q) {
      const [b, points] = [self.get("baseline"), marked(p, q)];
      const variance = (at) => totalVariance(p, policyGradient(p, q, at));
      const advantage = fullVocabularyAdvantage(p, q);
      const rows = policyGradient(p, q, b);
      baseline.update(b);
      showNumber(baselineNow, b);
      showNumber(varianceNow, variance(b), number(variance(b), 3));
      curve.update(points, b, variance);
      pushes.update([
        [reverseKlLogitGradient(p, q)],
        [expectation(p, rows), deviations(p, rows)],
        [expectation(p, advantage), deviations(p, advantage)],
      ]);
      numbers.update([
        ...[b, ...Object.values(points)].map((at) => [
          { value: at },
          inThree(variance(at)),
          ...cells(expectation(p, policyGradient(p, q, at))),
        ]),
        [{ text: "" }, inThree(totalVariance(p, advantage)), ...cells(expectation(p, advantage))],
      ]);
      const ofAdvantage = totalVariance(p, advantage);
      return describeBaseline({ p, q, b, points, variance, advantage: ofAdvantage });
    },
  };
}

// ---- k1, k2, k3 ----

const PAIRS = KINDS.flatMap((kind) => USES.map((use) => [kind, use]));

function estimatorView(self) {
  const kind = choiceOf(
    self,
    "kind",
    "Estimator",
    KINDS.map((key) => ({ value: key, label: key })),
  );
  const use = choiceOf(self, "use", "Used as", [
    { value: "loss", label: "a loss: differentiated" },
    { value: "reward", label: "a reward: a detached cost" },
  ]);
  const [followed, variance] = ["follows", "estimator-variance"].map((name) =>
    value({ "data-name": name }),
  );
  const matches = pushChart([
    ["fill", "reverse-kl", "reverse KL, exact"],
    ["fill", "forward-kl", "forward KL, exact"],
    ["fill", "muted", "reverse − forward"],
    ["outline", "policy-gradient", "this estimator"],
  ]);
  const numbers = table({
    caption: "The exact gradient that each follows, variance of a draw, and mean ∂/∂z",
    columns: ["gradient", "follows", "variance", ...TOKENS],
    rows: [...PAIRS.map((pair) => pair.join(" as ")), "reverse KL", "forward KL"],
  });
  numbers.element.classList.add("opd-tight");
  const tableRows = [...numbers.element.querySelectorAll("tbody tr")];
  const explained = note(
    "With x = log p/q of the token drawn: k1 = x, k2 = x²/2, k3 = e⁻ˣ − 1 + x. As a loss, the ",
    "gradient goes through k; as a reward, k stands before ∇log p as a fixed number: on average ",
    "∇E[k] less what the loss gives. ",
    WHISKERS,
  );

  return {
    parts: [
      html("div", {}, kind.element, use.element, explained),
      html(
        "div",
        {},
        caption("It follows: ", followed),
        matches.element,
        note("Total variance of one draw: ", variance),
      ),
      html("div", {}, numbers.element),
    ],
    update(p, q) {
      const chosen = [self.get("kind"), self.get("use")];
      const [reverse, forward] = [reverseKlLogitGradient(p, q), forwardKlLogitGradient(p, q)];
      const rows = estimator(p, q, ...chosen);
      const [mean, total, found] = [
        expectation(p, rows),
        totalVariance(p, rows),
        recognised(p, q, rows),
      ];
      kind.update(chosen[0]);
      use.update(chosen[1]);
      showText(followed, follows(found));
      showNumber(variance, total, number(total, 3));
      const difference = reverse.map((g, j) => g - forward[j]);
      matches.update([[reverse], [forward], [difference], [mean, deviations(p, rows)]]);
      numbers.update([
        ...PAIRS.map((pair) => estimatorRow(p, q, estimator(p, q, ...pair))),
        ...[reverse, forward].map((g) => [{ text: "itself" }, inThree(0), ...cells(g)]),
      ]);
      tableRows.forEach(
        (node, i) => (node.dataset.on = String(String(PAIRS[i]) === String(chosen))),
      );
      return describeEstimator({
        p,
        q,
        kind: chosen[0],
        use: chosen[1],
        total,
        plain: totalVariance(p, policyGradient(p, q)),
        found,
        against: TOKENS.filter(
          (_, j) => mean[j] * reverse[j] < -1e-12 && mean[j] * forward[j] < -1e-12,
        ),
      });
    },
  };
}

const estimatorRow = (p, q, rows) => [
  { text: follows(recognised(p, q, rows)) },
  inThree(totalVariance(p, rows)),
  ...cells(expectation(p, rows)),
];

export default { render };
