import { sum } from "./mathematics.js";
import {
  biasAndVariance,
  lagMoments,
  leastErrorGamma,
  polynomial,
  randomTrees,
  repeated,
  squaredBias,
} from "./tree_mathematics.js";
import {
  button,
  card,
  chartKey,
  choice,
  draggable,
  html,
  number,
  put,
  sentence,
  showNumber,
  slider,
  state,
  svg,
  table,
  toolbar,
  uniqueId,
  value,
} from "./interface.js";

const NOTES = [
  [0.2, 0.3, 0.5],
  [0.7, 0.2, 0.1],
];
const RANDOM = { tree: "random", distance: 1 };
const PRESETS = [
  ["The notes' example", { tree: "notes", length: 6, samples: 64 }],
  ["The best γ leaps", { ...RANDOM, vocabulary: 4, length: 6, seed: 28, samples: 1000 }],
  ["A bias that rises first", { ...RANDOM, vocabulary: 3, length: 3, seed: 126, samples: 1000 }],
  ["A variance that falls first", { ...RANDOM, vocabulary: 3, length: 3, seed: 80, samples: 10 }],
];
const SIGNALS = [
  { key: "sampled", label: "sampled", role: "policy-gradient" },
  { key: "full_vocabulary", label: "Rao–Blackwellised", role: "reverse-kl" },
];
const MOST = 1e5;
const SETTINGS = [
  ...[0, 1, 2, 3, 4]
    .flatMap((power) => [1, 1.5, 2, 3, 5, 7].map((digit) => digit * 10 ** power))
    .filter(Number.isInteger),
  MOST,
];
const GAMMAS = Array.from({ length: 101 }, (_, i) => i / 100);

// Three figures, and below a ten-thousandth two and a power of ten.
const figures = (x) =>
  x === 0
    ? "0"
    : Math.abs(x) < 1e-4
      ? powers(x.toExponential(1))
      : number(x, Math.min(Math.max(2 - Math.floor(Math.log10(Math.abs(x))), 0), 6));
const powers = (text) =>
  text.replace("e", "×10").replace(/(?<=×10)[-+]?\d+/, (power) => raised(Number(power)));
const raised = (power) =>
  [...String(power)].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])).join("");

// Exact ends of the range without decimals.
const discount = (x) => (Number.isInteger(x) ? String(x) : number(x));

// All that does not depend on γ and N: the two signals, and the exact gradient's squared
// length.  Their means are one and the same, and so is their bias.
function prepared(tree, vocabulary, length, distance, seed) {
  const pair =
    tree === "notes"
      ? NOTES.map((p) => repeated(p, length))
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
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  const whole = (name) => Math.round(self.get(name));
  const setGamma = (x) => self.set({ gamma: Math.min(Math.max(x, 0), 1) });

  const tree = choice({
    label: "Tree",
    name: "tree",
    onchange: (key) => self.set({ tree: key }),
    options: [
      { value: "random", label: "random" },
      { value: "notes", label: "the notes' p and q at every prefix" },
    ],
  });
  const counted = (label, name, options) =>
    choice({
      label,
      name,
      options: options.map((n) => ({ value: n, label: String(n) })),
      onchange: (n) => self.set({ [name]: Number(n) }),
    });
  const vocabulary = counted("Tokens V", "vocabulary", [2, 3, 4]);
  const length = counted("Length T", "length", [2, 3, 4, 5, 6]);
  for (const each of [vocabulary, length, tree]) each.element.classList.add("opd-inline");
  const distance = slider({
    label: "distance of q",
    name: "distance",
    min: 0,
    max: 3,
    step: 0.05,
    role: "teacher",
    oninput: (x) => self.set({ distance: x }),
  });
  const seedNow = value({ "data-name": "seed" });
  const another = html(
    "p",
    { class: "opd-note" },
    button("Another tree", () => self.set({ seed: (whole("seed") + 1) % 10000 })),
    " this is tree ",
    seedNow,
  );
  const samples = slider({
    label: "N sequences",
    name: "samples",
    min: 0,
    max: SETTINGS.length - 1,
    step: 1,
    role: "policy-gradient",
    text: () => String(whole("samples")),
    oninput: (place) => self.set({ samples: SETTINGS[place] }),
  });
  const gamma = slider({
    label: "discount γ",
    name: "gamma",
    min: 0,
    max: 1,
    step: 0.01,
    oninput: setGamma,
  });
  const curves = errorChart(setGamma);
  const numbers = table({
    caption: "At the chosen γ, and at the γ of the least error; all exact",
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
  const says = sentence();

  card(
    el,
    "Bias against variance",
    toolbar(
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(initial)),
    ),
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        length.element,
        vocabulary.element,
        tree.element,
        another,
        html(
          "div",
          { class: "opd-aligned opd-lean opd-roomy" },
          distance.element,
          samples.element,
          gamma.element,
        ),
      ),
      html(
        "div",
        { class: "opd-beside" },
        html("p", { class: "opd-caption" }, "Error of the mean gradient of N sequences"),
        curves.element,
        chartKey([
          ["line", "policy-gradient", "sampled: mean-squared error"],
          ["dots", "policy-gradient", "its variance / N"],
          ["line", "reverse-kl", "Rao–Blackwellised: mean-squared error"],
          ["dots", "reverse-kl", "its variance / N"],
          ["dashed", "ink", "squared bias, of both"],
          ["faint", "ink", "|∇J|²: as good as no step"],
        ]),
      ),
      html(
        "p",
        { class: "opd-note" },
        "The mean gradient of N sequences drawn by the student, compared with the exact gradient ∇J of the sequence KL: mean-squared error = squared bias + variance / N. A ring marks the least. Relative error: its root, over the length of ∇J. Rao–Blackwellised: exact gradient at each token, full-vocabulary KL at each later one.",
      ),
    ),
    says,
    numbers.element,
  );

  let [stored, exact] = [null, null];

  function update() {
    const [kind, seed, n, at] = [
      self.get("tree"),
      whole("seed"),
      whole("samples"),
      self.get("gamma"),
    ];
    const setting = [kind, whole("vocabulary"), whole("length"), self.get("distance"), seed];
    if (String(setting) !== stored) [stored, exact] = [String(setting), prepared(...setting)];
    tree.update(kind);
    vocabulary.update(whole("vocabulary"));
    length.update(whole("length"));
    for (const each of [vocabulary.element, distance.element, another])
      each.hidden = kind === "notes";
    distance.update(self.get("distance"));
    showNumber(seedNow, seed, String(seed));
    samples.update(SETTINGS.findLastIndex((setting_) => setting_ <= n));
    samples.element.querySelector("output").dataset.value = String(n);
    gamma.update(at);

    const best = exact.signals.map((signal) => signal.best(n));
    const relative = (error) => Math.sqrt(error / exact.squared);
    const share = (error) => ({
      value: relative(error),
      text: exact.squared ? portion(relative(error)) : "–",
    });
    const cell = (x) => ({ value: x, text: figures(x) });
    const columns = exact.signals.map((signal, i) => [
      cell(exact.bias(at)),
      cell(signal.variance(at) / n),
      cell(signal.error(at, n)),
      share(signal.error(at, n)),
      { value: best[i], text: exact.squared ? discount(best[i]) : "–" },
      cell(signal.error(best[i], n)),
      share(signal.error(best[i], n)),
    ]);
    numbers.update(columns[0].map((_, row) => columns.map((column) => column[row])));
    curves.update(exact, n, at, best);
    says.textContent = words(n, at, best, relative);
  }

  function words(n, at, best, relative) {
    if (!exact.squared)
      return "Student and teacher agree: every cost is 0 and so is every gradient, whatever γ. There is nothing to estimate.";
    const [least, here] = [
      exact.signals.map((signal, i) => relative(signal.error(best[i], n))),
      exact.signals.map((signal) => relative(signal.error(at, n))),
    ];
    const averaged = n === 1 ? "A single sequence:" : `Averaged over ${n} sequences,`;
    const both = `${averaged} the sampled gradient errs least at γ = ${discount(best[0])}, by ${portion(least[0])} of the exact gradient's length; the Rao–Blackwellised one at γ = ${discount(best[1])}, by ${portion(least[1])}.`;
    const now = ` At γ = ${discount(at)} they err by ${portion(here[0])} and ${portion(here[1])}`;
    if (exact.unbiased)
      return `${both}${now}. What comes later does not depend on what came before: the bias is 0 at every γ, and the later costs are nothing but noise.`;
    const bias = exact.bias(at);
    return `${both}${now}; ${bias ? `the bias alone is ${portion(relative(bias))}` : "none of it is bias"}.${least[0] > 1 ? " An error above 100 % is larger than if one took no step at all." : ""}`;
  }

  update();
  return self.stop;
}

// A share in per cent, with a digit after the point where it is small.
const portion = (x) => `${number(100 * x, x < 0.0995 ? 1 : 0)} %`;

// ---- the picture: γ across, squared lengths up, on a log axis ----

function errorChart(moved) {
  const [left, right, top, bottom] = [50, 346, 38, 250];
  const across = (x) => left + x * (right - left);
  const clip = uniqueId("clip");
  const line = (role, kind, extra = "") =>
    svg("path", { class: `opd-line ${kind}`, style: `--role: var(--opd-${role});${extra}` });
  const ticks = Array.from({ length: 12 }, () => ({
    line: svg("path", { class: "opd-grid-line" }),
    text: svg("text", { x: left - 6, "text-anchor": "end" }),
  }));
  const biasLine = line("ink", "opd-dashed", "stroke-width:1.6");
  const level = line("ink", "", "stroke-width:1.2;opacity:.5");
  const levelText = svg(
    "text",
    { x: left + 4, class: "opd-point-label", style: "--role: var(--opd-muted)" },
    "|∇J|²",
  );
  const lines = SIGNALS.map(({ role }) => ({
    variance: line(role, "opd-fine-dots"),
    error: line(role, ""),
    stem: svg("path", { class: "opd-line", style: `--role: var(--opd-${role}); stroke-width: 1` }),
    ring: svg("circle", { r: 6, class: "opd-point-teacher", style: `--role: var(--opd-${role})` }),
    label: svg("text", { class: "opd-point-label", style: `--role: var(--opd-${role})` }),
    dot: svg("circle", { r: 5, class: "opd-point", style: `--role: var(--opd-${role})` }),
  }));
  const rule = svg("path", { class: "opd-axis" });
  const grip = svg(
    "g",
    {},
    svg("circle", { r: 8, cy: bottom, class: "opd-point", style: "--role: var(--opd-ink)" }),
    svg("circle", { r: 20, cy: bottom, class: "opd-reach", "data-handle": "gamma" }),
  );
  const frame = svg(
    "svg",
    {
      viewBox: "0 0 360 300",
      role: "img",
      "aria-label":
        "Squared bias, variance over N and mean-squared error against the discount γ, on a log axis; their values at the chosen γ are in the table",
    },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", { x: left - 8, y: top - 8, width: right - left + 16, height: bottom - top + 8 }),
    ),
    ticks.map((tick) => [tick.line, tick.text]),
    [0, 0.25, 0.5, 0.75, 1].map((x) => [
      svg("path", { class: "opd-grid-line", d: `M${across(x)} ${top}V${bottom}` }),
      svg("text", { x: across(x), y: bottom + 24, "text-anchor": "middle" }, String(x)),
    ]),
    svg("text", { x: (left + right) / 2, y: bottom + 43, "text-anchor": "middle" }, "discount γ"),
    svg("path", { class: "opd-axis", d: `M${left} ${bottom}H${right}` }),
    svg(
      "g",
      { "clip-path": `url(#${clip})` },
      level,
      biasLine,
      lines.map((each) => [each.variance, each.error]),
    ),
    lines.map((each) => each.stem),
    rule,
    lines.map((each) => [each.dot, each.ring, each.label]),
    levelText,
    grip,
  );
  draggable(grip.lastChild, frame, (x) =>
    moved(Math.round(100 * Math.min(Math.max((x - left) / (right - left), 0), 1)) / 100),
  );
  const label = (marks) =>
    ticks.forEach(({ line: mark, text }, i) => {
      // [height, words] each
      put(mark, { d: marks[i] ? `M${left} ${marks[i][0]}H${right}` : "" });
      put(text, { y: marks[i] ? marks[i][0] + 4 : 0 });
      text.textContent = marks[i] ? marks[i][1] : "";
    });
  return {
    element: frame,
    update(exact, n, at, best) {
      put(grip, { transform: `translate(${across(at).toFixed(2)} 0)` });
      put(rule, { d: `M${across(at)} ${top}V${bottom}` });
      for (const part of [
        level,
        levelText,
        biasLine,
        ...lines.flatMap((each) => Object.values(each)),
      ])
        put(part, { visibility: exact.squared ? "visible" : "hidden" });
      if (!exact.squared) return label([]);
      const errors = exact.signals.map((signal) => GAMMAS.map((x) => signal.error(x, n)));
      const variances = exact.signals.map((signal) => GAMMAS.map((x) => signal.variance(x) / n));
      const [high, low] = [
        Math.log10(1.2 * Math.max(exact.squared, ...errors.flat())),
        Math.log10(Math.min(exact.squared, ...variances.flat(), exact.bias(0.7) || Infinity) / 1.5),
      ];
      const up = (x) =>
        bottom - ((Math.max(Math.log10(x), low - 1) - low) / (high - low)) * (bottom - top);
      const path = (heights) =>
        heights
          .map((x, i) => `${i ? "L" : "M"}${across(GAMMAS[i]).toFixed(1)} ${up(x).toFixed(1)}`)
          .join("");
      put(biasLine, { d: exact.unbiased ? "" : path(GAMMAS.map(exact.bias)) });
      put(level, { d: `M${left} ${up(exact.squared)}H${right}` });
      put(levelText, { y: up(exact.squared) + 14 });
      lines.forEach((each, i) => {
        put(each.variance, { d: exact.unbiased ? "" : path(variances[i]) });
        put(each.error, { d: path(errors[i]) });
        const [x, y] = [across(best[i]), up(exact.signals[i].error(best[i], n))];
        put(each.ring, { cx: x, cy: y });
        put(each.stem, { d: `M${x} ${top - 22 + 15 * i}V${y}` });
        each.label.textContent = `least at ${discount(best[i])}`;
        const before = best[i] > 0.6;
        put(each.label, {
          x: x + (before ? -5 : 5),
          y: top - 18 + 15 * i,
          "text-anchor": before ? "end" : "start",
        });
        put(each.dot, { cx: across(at), cy: up(exact.signals[i].error(at, n)) });
      });
      // tens, and between them 2 and 5 where there is room
      const digits = high - low < 2.4 ? [1, 2, 5] : [1];
      const marks = Array.from(
        { length: Math.ceil(high) - Math.floor(low) + 1 },
        (_, i) => Math.floor(low) + i,
      )
        .flatMap((power) => digits.map((digit) => [digit * 10 ** power, power]))
        .filter(([x]) => Math.log10(x) >= low && Math.log10(x) <= high);
      label(
        marks.map(([x, power]) => [
          up(x),
          power < -3
            ? powers(x.toExponential(0)).replace(/^1×/, "")
            : number(x, Math.max(0, -power)),
        ]),
      );
    },
  };
}

export default { render };
