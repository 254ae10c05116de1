// The gradients that a loss may turn out to follow, with their names, as the auditor has them in
// opd_toy/audit/token/candidates.py, weights.py and temperatures.py: named ones, and families with
// one parameter or two.
// A pair is { p, q, z, t }; a candidate { name, gradient(pair) }, gradient by the V logits.

import {
  alphaDivergenceLogitGradient,
  forwardKlLogitGradient,
  generalizedJsdLogitGradient,
  logRatio,
  reverseKlLogitGradient,
  skewedForwardKlLogitGradient,
  skewedReverseKlLogitGradient,
  softmax,
  sum,
} from "./mathematics.js";

// ---- numbers and sums in words ----

// Shortest plain decimal of up to `digits` figures, as Python's format "g" writes it.
export function figures(x, digits = 6) {
  const [mantissa, exponent] = x.toExponential(digits - 1).split("e");
  const power = Number(exponent);
  if (power >= -4 && power < digits) return String(Number(x.toPrecision(digits)));
  const sign = power < 0 ? "-" : "+";
  return `${Number(mantissa)}e${sign}${String(Math.abs(power)).padStart(2, "0")}`;
}

// Six figures, and as many more as it takes to tell it from 1.
function coefficientText(x) {
  let text = "";
  for (let digits = 6; digits < 17; digits++) {
    text = figures(x, digits);
    if (Math.abs(Number(text)) !== 1 || Math.abs(x) === 1) break;
  }
  return text.replace(/^-/, "−");
}
export const shownLength = (x) => (x === 1 ? 0 : coefficientText(x).length);
const OVER_VOCABULARY = "1/V × ";
const scaled = (x, name) => {
  if (name.startsWith(OVER_VOCABULARY))
    return `${coefficientText(x)}/V × ${name.slice(OVER_VOCABULARY.length)}`;
  return x === 1 ? name : `${coefficientText(x)} × ${name}`;
};

// "2 × reverse KL", "reverse KL − forward KL", "1/V × entropy": of [coefficient, candidate].
export function phrase(terms, perToken) {
  const ordered = [...terms].sort(
    ([a], [b]) => Number(a < 0) - Number(b < 0) || Math.abs(b) - Math.abs(a),
  );
  if (ordered.length === 1) {
    const [[x, { name }]] = ordered;
    return scaled(x, (perToken ? OVER_VOCABULARY : "") + name);
  }
  const text = ordered
    .map(([x, { name }], i) => {
      const sign = i ? (x < 0 ? " − " : " + ") : x < 0 ? "−" : "";
      return sign + scaled(Math.abs(x), name);
    })
    .join("");
  return perToken ? `1/V × (${text})` : text;
}

const POWERS = { 1: "#", "-1": "1/#", 0.5: "√#", "-0.5": "1/√#" };
// "2 × KL(p‖q)", "1/H(p)", "V^1.5"
export const factorText = ({ number, quantity, power }) =>
  scaled(number, (POWERS[power] ?? `#^${figures(power)}`).replace("#", quantity));

// ---- named ones ----

const onScores = (p, g) => {
  const mean = sum(p.map((x, v) => x * g[v]));
  return p.map((x, v) => x * (g[v] - mean));
};

const FORWARD = { name: "forward KL", gradient: ({ p, q }) => forwardKlLogitGradient(p, q) };
const REVERSE = { name: "reverse KL", gradient: ({ p, q }) => reverseKlLogitGradient(p, q) };
export const TERMS = [
  FORWARD,
  REVERSE,
  { name: "entropy", gradient: ({ p }) => onScores(p, p.map(Math.log)).map((g) => -g) },
  {
    name: "cross-entropy with the teacher's likeliest token",
    gradient({ p, q }) {
      const top = q.indexOf(Math.max(...q));
      return p.map((x, v) => x - (v === top ? 1 : 0));
    },
  },
  {
    name: "cross-entropy with uniform labels",
    gradient: ({ p }) => p.map((x) => x - 1 / p.length),
  },
  { name: "expected teacher probability", gradient: ({ p, q }) => onScores(p, q) },
];
export const TERMS_OVER_VOCABULARY = TERMS.map(({ name, gradient }) => ({
  name: OVER_VOCABULARY + name,
  gradient: (pair) => gradient(pair).map((g) => g / pair.p.length),
}));
// Of these the nearest is named where nothing holds.
export const COMPARED = [
  FORWARD,
  REVERSE,
  { name: "JSD(β = 0.5)", gradient: ({ p, q }) => generalizedJsdLogitGradient(p, q, 0.5) },
];

// ---- functions of the log-ratio: E_p[w(log p/q) grad log p] ----

const ofWeight = (name, weight) => ({
  name,
  gradient: ({ p, q }) => onScores(p, logRatio(p, q).map(weight)),
});
const sigmoid = (r) => 0.5 * (1 + Math.tanh(r / 2));

export const NAMED = [
  ofWeight("total variation", (r) => 0.5 * Math.sign(r)),
  ofWeight("triangular discrimination", (r) => 1 - 4 * sigmoid(-r) ** 2),
  ofWeight("squared Hellinger", (r) => -0.5 * Math.expm1(-r / 2)),
  ofWeight("χ²(p‖q)", (r) => 2 * Math.expm1(r)),
  ofWeight("χ²(q‖p)", (r) => -Math.expm1(-2 * r)),
];

// ---- families: { members(...values), grid: lists of values, bounds of each value } ----

const along = (member, grid, bounds) => ({
  members: (x) => [member(x)],
  grid: grid.map((x) => [x]),
  bounds: [bounds],
});

const WITH = "f-divergence with weight ";
const ofRatio = (factor) => (factor === 1 ? "log p/q" : `${figures(factor)} log p/q`);
const tanhOf = (factor) => ({
  ...ofWeight(`${WITH}tanh(${ofRatio(factor)})`, (r) => Math.tanh(factor * r)),
  factor,
});
const sigmoidOf = (factor) =>
  ofWeight(`${WITH}sigmoid(${ofRatio(factor)})`, (r) => sigmoid(factor * r));
const powerOf = (power) =>
  ofWeight(
    `${WITH}sign(log p/q) |log p/q|^${figures(power)}`,
    (r) => Math.sign(r) * Math.abs(r) ** power,
  );
export const WEIGHTS = [
  along(tanhOf, [0.1, 0.3, 0.6, 1, 2, 5, 15], [0, Infinity]),
  along(powerOf, [0.3, 0.6, 1.4, 2, 3], [0, 12]),
];
// tanh(x / 2) / 2 is a sigmoid less a constant: whichever needs the simpler numbers.
export function simplerWeight(terms) {
  const factor = terms?.[0][1].factor;
  if (!factor) return terms;
  const [[x]] = terms;
  const [twice, wide] = [2 * x, 2 * factor];
  const shorter =
    `${figures(twice)}${figures(wide)}`.length < `${figures(x)}${figures(factor)}`.length;
  if (Math.abs(twice) === 1 || (shorter && Math.abs(x) !== 1)) return [[twice, sigmoidOf(wide)]];
  return terms;
}

const INSIDE = [
  ...[1e-8, 1e-6, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5],
  ...[0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-4, 1 - 1e-6, 1 - 1e-8],
];
const ALPHAS = [-2, -1, -0.5, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5, 2, 3];
const ANY = [-Infinity, Infinity];
const engine = (gradient, words) => (x) => ({
  name: words.replace("#", figures(x)),
  gradient: ({ p, q }) => gradient(p, q, x),
});
const jsd = engine(generalizedJsdLogitGradient, "JSD(β = #)");
const skewedForward = engine(skewedForwardKlLogitGradient, "forward KL with skew #");
const skewedReverse = engine(skewedReverseKlLogitGradient, "reverse KL with skew #");
const alphaOf = engine(alphaDivergenceLogitGradient, "α-divergence(α = #)");

export const DIVERGENCES = [
  along(jsd, INSIDE, [0, 1]),
  along(skewedForward, INSIDE, [0, 1]),
  along(skewedReverse, INSIDE, [0, 1]),
  along(alphaOf, ALPHAS, ANY),
];
const SKEWS = [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9];
export const BOTH_SKEWS = {
  members: (forward, reverse) => [skewedForward(forward), skewedReverse(reverse)],
  grid: SKEWS.flatMap((forward) => SKEWS.map((reverse) => [forward, reverse])),
  bounds: [
    [0, 1],
    [0, 1],
  ],
};

// ---- softened distributions; the chain rule divides by the student's temperature ----

const BOUNDS = [0.01, 1000];
const TEMPERATURES = [0.1, 0.25, 0.5, 0.7, 0.85, 1.2, 1.5, 2, 3, 4, 6, 10, 20];
const softenedBy = (candidate, words, temperature, { student, teacher }) => {
  const soft = (logits) => softmax(logits.map((x) => x / temperature));
  return {
    name: `${candidate.name} ${words} ${figures(temperature)}`,
    gradient: ({ p, q, z, t }) =>
      candidate
        .gradient({ p: student ? soft(z) : p, q: teacher ? soft(t) : q })
        .map((g) => g / (student ? temperature : 1)),
  };
};
const BOTH = ["at temperature", { student: true, teacher: true }];
const TEACHER = ["to the teacher at temperature", { teacher: true }];
const STUDENT = ["with the student alone at temperature", { student: true }];

export const reverseKlToTemperedTeacher = (temperature) =>
  softenedBy(REVERSE, TEACHER[0], temperature, TEACHER[1]);
export const TEMPERED_KLS = [BOTH, TEACHER, STUDENT].flatMap(([words, who]) =>
  [FORWARD, REVERSE].map((kl) => along((x) => softenedBy(kl, words, x, who), TEMPERATURES, BOUNDS)),
);
const SHARES = [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98];
// Both models softened, and a parameter of the divergence's own.
export const TEMPERED_DIVERGENCES = [
  [jsd, SHARES, [0, 1]],
  [skewedForward, SHARES, [0, 1]],
  [skewedReverse, SHARES, [0, 1]],
  [alphaOf, [-1, 0.3, 0.7, 2], ANY],
].map(([member, values, bounds]) => ({
  members: (temperature, x) => [softenedBy(member(x), BOTH[0], temperature, BOTH[1])],
  grid: [0.4, 0.7, 0.9, 1.2, 2, 4].flatMap((temperature) => values.map((x) => [temperature, x])),
  bounds: [BOUNDS, bounds],
}));
