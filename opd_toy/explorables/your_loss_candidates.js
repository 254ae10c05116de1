// The gradients that a loss may turn out to follow, with their names, as the auditor has them in
// opd_toy/audit/token/candidates.py: named ones, and families with one parameter.
// A pair is { p, q, z, t }; a candidate { name, gradient(pair) }, gradient by the V logits.

import {
  alphaDivergenceLogitGradient,
  forwardKlLogitGradient,
  generalizedJsdLogitGradient,
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
const scaled = (x, name) => (x === 1 ? name : `${coefficientText(x)} × ${name}`);

// "2 × reverse KL", "reverse KL − forward KL", "1/V × entropy": of [coefficient, candidate].
export function phrase(terms, perToken) {
  const ordered = [...terms].sort(
    ([a], [b]) => Number(a < 0) - Number(b < 0) || Math.abs(b) - Math.abs(a),
  );
  if (ordered.length === 1) {
    const [[x, { name }]] = ordered;
    return perToken ? `${coefficientText(x)}/V × ${name}` : scaled(x, name);
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
const KLS = { forward: forwardKlLogitGradient, reverse: reverseKlLogitGradient };

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
];
// Of these the nearest is named where nothing holds.
export const COMPARED = [
  FORWARD,
  REVERSE,
  { name: "JSD(β = 0.5)", gradient: ({ p, q }) => generalizedJsdLogitGradient(p, q, 0.5) },
];

// ---- families: { member(value), grid, bounds } ----

const INSIDE = [
  ...[1e-8, 1e-6, 1e-4, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5],
  ...[0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1 - 1e-4, 1 - 1e-6, 1 - 1e-8],
];
const TEMPERATURES = [0.1, 0.25, 0.5, 0.7, 0.85, 1.2, 1.5, 2, 3, 4, 6, 10, 20];
const ALPHAS = [-2, -1, -0.5, -0.1, 0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.5, 2, 3];

const divergences = (gradient, words, grid, bounds) => ({
  member: (x) => ({
    name: words.replace("#", figures(x)),
    gradient: ({ p, q }) => gradient(p, q, x),
  }),
  grid,
  bounds,
});

// A KL of softened distributions; the chain rule divides by the student's temperature.
const tempered = (direction, words, who) => {
  const member = (temperature) => {
    const soft = (logits) => softmax(logits.map((x) => x / temperature));
    return {
      name: `${direction} KL ${words.replace("#", figures(temperature))}`,
      gradient({ p, q, z, t }) {
        const [a, b] = [who.student ? soft(z) : p, who.teacher ? soft(t) : q];
        return KLS[direction](a, b).map((g) => g / (who.student ? temperature : 1));
      },
    };
  };
  return { member, grid: TEMPERATURES, bounds: [0.01, 1000] };
};
const both = (words, who) => ["forward", "reverse"].map((each) => tempered(each, words, who));
const toSoftTeacher = both("to the teacher at temperature #", { teacher: true });

export const reverseKlToTemperedTeacher = toSoftTeacher[1].member;
export const FAMILIES = [
  divergences(generalizedJsdLogitGradient, "JSD(β = #)", INSIDE, [0, 1]),
  divergences(skewedForwardKlLogitGradient, "forward KL with skew #", INSIDE, [0, 1]),
  divergences(skewedReverseKlLogitGradient, "reverse KL with skew #", INSIDE, [0, 1]),
  ...both("at temperature #", { student: true, teacher: true }),
  ...toSoftTeacher,
  ...both("with the student alone at temperature #", { student: true }),
  divergences(alphaDivergenceLogitGradient, "α-divergence(α = #)", ALPHAS, [-Infinity, Infinity]),
];
