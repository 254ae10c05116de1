import { sum } from "./mathematics.js";
import { html, NOTES, percent, said, showText, state } from "./interface.js";
import {
  anotherTree,
  caption,
  card,
  choiceOf,
  note,
  presetBar,
  sentence,
  sliderOf,
  table,
  TREES,
} from "./controls.js";
import { chartKey } from "./pictures.js";
import {
  biasAndVariance,
  lagMoments,
  leastErrorGamma,
  polynomial,
  randomTrees,
  repeated,
  squaredBias,
} from "./tree_mathematics.js";
import { discount, errorChart, figures, SIGNALS } from "./bias_against_variance_pictures.js";

const RANDOM = { tree: "random", distance: 1 };
const PRESETS = [
  ["The book's example", { tree: "notes", length: 6, samples: 64 }],
  ["The best γ leaps", { ...RANDOM, vocabulary: 4, length: 6, seed: 28, samples: 1000 }],
  ["A bias that rises first", { ...RANDOM, vocabulary: 3, length: 3, seed: 126, samples: 1000 }],
  ["A variance that falls first", { ...RANDOM, vocabulary: 3, length: 3, seed: 80, samples: 10 }],
];

const MOST = 1e5;
const SETTINGS = [
  ...[0, 1, 2, 3, 4]
    .flatMap((power) => [1, 1.5, 2, 3, 5, 7].map((digit) => digit * 10 ** power))
    .filter(Number.isInteger),
  MOST,
];

// All that does not depend on γ and N: the two signals, and the exact gradient's squared
// length.  Their means are one and the same, and so is their bias.
function prepared(tree, vocabulary, length, distance, seed) {
  const pair =
    tree === "notes"
      ? [NOTES.student, NOTES.teacher].map((p) => repeated(p, length))
      : randomTrees(vocabulary, length, seed, distance);
  const moments = SIGNALS.map(({ key }) => lagMoments(...pair, key));
  const squared = sum(moments[0][1]);
  const polynomials = moments.map(biasAndVariance);
  const zero = polynomials[0][0].every((c) => Math.abs(c) <= 1e-24 * squared); // rounding only
  const bias = (gamma) => (zero ? 0 : squaredBias(moments[0][1], gamma));
  return {
    squared,
    bias,
    unbiased: zero,
    signals: polynomials.map((each) => {
      const variance = (gamma) => Math.max(polynomial(each[1], gamma), 0);
      return {
        variance,
        error: (gamma, n) => bias(gamma) + variance(gamma) / n,
        best: (n) => leastErrorGamma([zero ? each[0].map(() => 0) : each[0], each[1]], n),
      };
    }),
  };
}

function render({ model, el }) {
  const names = ["tree", "vocabulary", "length", "distance", "seed", "samples", "gamma"];
  const self = state(model, names, update);
  const parts = controls(self);
  const curves = errorChart((gamma) => self.set({ gamma }));
  const numbers = errorTable();
  const says = sentence();

  card(
    el,
    "Bias against variance",
    presetBar(self, PRESETS),
    html(
      "div",
      { class: "opd-columns" },
      html("div", {}, parts.choices, parts.sliders),
      html(
        "div",
        { class: "opd-beside" },
        caption("Error of the mean gradient of N sequences"),
        curves.element,
        curveKey(),
      ),
      note(
        "The mean gradient of N sequences drawn by the student, compared with the exact gradient ",
        "∇J of the sequence KL: mean-squared error = squared bias + variance / N. A ring marks ",
        "the least. Relative error: its root, over the length of ∇J. The exact signal: the local ",
        "gradient at each token, full-vocabulary KL at each later one.",
      ),
    ),
    says,
    numbers.element,
  );

  let [stored, exact] = [null, null];

  function update() {
    const [n, gamma] = [self.whole("samples"), self.get("gamma")];
    const setting = [
      self.get("tree"),
      self.whole("vocabulary"),
      self.whole("length"),
      self.get("distance"),
      self.whole("seed"),
    ];
    if (String(setting) !== stored) [stored, exact] = [String(setting), prepared(...setting)];
    parts.update();
    const best = exact.signals.map((signal) => signal.best(n));
    numbers.update(tableRows(exact, n, gamma, best));
    curves.update(exact, n, gamma, best);
    showText(says, describe(exact, n, gamma, best));
  }

  update();
  return self.stop;
}

// ---- controls ----

function controls(self) {
  const counted = (name, label, options) =>
    choiceOf(
      self,
      name,
      label,
      options.map((n) => ({ value: n, label: String(n) })),
    );
  const length = counted("length", "Length T", [2, 3, 4, 5, 6]);
  const vocabulary = counted("vocabulary", "Tokens V", [2, 3, 4]);
  const tree = choiceOf(self, "tree", "Tree", TREES);
  for (const each of [vocabulary, length, tree]) each.element.classList.add("opd-inline");
  const another = anotherTree(self);
  const distance = sliderOf(self, "distance", "distance of q", {
    max: 3,
    step: 0.05,
    role: "teacher",
  });
  const samples = sliderOf(self, "samples", "N sequences", {
    max: SETTINGS.length - 1,
    step: 1,
    role: "policy-gradient",
    text: () => String(self.whole("samples")),
    oninput: (place) => self.set({ samples: SETTINGS[place] }),
  });
  const gamma = sliderOf(self, "gamma", "discount γ");
  return {
    choices: [length.element, vocabulary.element, tree.element, another.element],
    sliders: html(
      "div",
      { class: "opd-aligned opd-lean opd-roomy" },
      distance.element,
      samples.element,
      gamma.element,
    ),
    update() {
      const shown = { tree, vocabulary, length, distance, gamma };
      Object.entries(shown).forEach(([name, each]) => each.update(self.get(name)));
      another.update();
      for (const each of [vocabulary, distance, another])
        each.element.hidden = self.get("tree") === "notes";
      const n = self.whole("samples");
      samples.update(SETTINGS.findLastIndex((setting) => setting <= n));
      samples.element.querySelector("output").dataset.value = String(n);
    },
  };
}

const curveKey = () =>
  chartKey([
    ["line", "policy-gradient", "sampled: mean-squared error"],
    ["dots", "policy-gradient", "its variance / N"],
    ["line", "reverse-kl", "exact: mean-squared error"],
    ["dots", "reverse-kl", "its variance / N"],
    ["dashed", "ink", "squared bias, of both"],
    ["faint", "ink", "|∇J|²: as good as no step"],
  ]);

// ---- the table ----

function errorTable() {
  const numbers = table({
    caption: "At the chosen γ, and at the γ of the least error; nothing is simulated",
    columns: ["", ...SIGNALS.map(({ label }) => label)],
    roles: [null, ...SIGNALS.map(({ role }) => role)],
    rows: [
      "squared bias",
      "variance / N",
      "mean-squared error",
      "relative error",
      "best γ",
      "least error",
      "least relative error",
    ],
  });
  numbers.element.classList.add("opd-wraps");
  return numbers;
}

const relative = (exact, error) => Math.sqrt(error / exact.squared);

function tableRows(exact, n, gamma, best) {
  const cell = (x) => ({ value: x, text: figures(x) });
  const share = (error) => ({
    value: relative(exact, error),
    text: exact.squared ? portion(relative(exact, error)) : "–",
  });
  const each = exact.signals.map((signal, i) => [
    cell(exact.bias(gamma)),
    cell(signal.variance(gamma) / n),
    cell(signal.error(gamma, n)),
    share(signal.error(gamma, n)),
    { value: best[i], text: exact.squared ? discount(best[i]) : "–" },
    cell(signal.error(best[i], n)),
    share(signal.error(best[i], n)),
  ]);
  return each[0].map((_, row) => each.map((cells) => cells[row]));
}

// ---- the sentence ----

// A share in per cent, with a digit after the point where it is small.
const portion = (x) => percent(x, x < 0.0995 ? 1 : 0);

function describe(exact, n, gamma, best) {
  if (!exact.squared)
    return said(
      "Student and teacher agree: every cost is 0 and so is every gradient, whatever γ.",
      "There is nothing to estimate.",
    );
  const least = exact.signals.map((signal, i) => relative(exact, signal.error(best[i], n)));
  const here = exact.signals.map((signal) => portion(relative(exact, signal.error(gamma, n))));
  const bias = exact.bias(gamma);
  const ofIt = bias
    ? `the bias alone is ${portion(relative(exact, bias))}.`
    : "none of it is bias.";
  return said(
    n === 1 ? "A single sequence:" : `Averaged over ${n} sequences,`,
    `the sampled signal errs least at γ = ${discount(best[0])},`,
    `by ${portion(least[0])} of the exact gradient's length;`,
    `the exact signal at γ = ${discount(best[1])}, by ${portion(least[1])}.`,
    `At γ = ${discount(gamma)} they err by ${here.join(" and ")}${exact.unbiased ? "." : ";"}`,
    exact.unbiased
      ? said(
          "What comes later does not depend on what came before: the bias is 0 at every γ,",
          "and the later costs are nothing but noise.",
        )
      : ofIt,
    !exact.unbiased &&
      least[0] > 1 &&
      "An error above 100 % is larger than if one took no step at all.",
  );
}

export default { render };
