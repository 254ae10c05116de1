// The engine's twin for tokens that another policy drew: each function here mirrors one of
// opd_toy.off_policy, and a test holds the two together to 1e-12.

import { logRatio, scoreTable, sum } from "./mathematics.js";

// p/mu: 0 where p is, infinite where mu alone is 0.
export const tokenRatio = (student, behaviour) =>
  student.map((p, v) => (p === 0 ? 0 : p / behaviour[v]));

// The factor of a token's cost.  limits: a number for "truncate", [low, high] for "mask", "clip".
export function passed(ratio, cost, correction, limits) {
  if (correction === "none") return 1;
  if (correction === "ratio") return ratio;
  if (correction === "truncate") return Math.min(ratio, limits);
  const [low, high] = limits;
  if (correction === "mask") return ratio >= low && ratio <= high ? ratio : 0;
  return (cost > 0 ? ratio < 1 - low : ratio > 1 + high) ? 0 : ratio;
}

// The cost of each token: of the student as it is now, or as it was when the text was written.
export const staleCost = (student, teacher, behaviour, cost) =>
  logRatio(cost === "kept" ? behaviour : student, teacher);

// What each drawn token's score is multiplied by.
export function staleWeights(student, teacher, behaviour, correction, limits, cost) {
  const costs = staleCost(student, teacher, behaviour, cost);
  const ratios = tokenRatio(student, behaviour);
  return costs.map((c, k) => {
    const factor = passed(ratios[k], c, correction, limits);
    return factor === 0 || c === 0 ? 0 : factor * c;
  });
}
export const stalePolicyGradient = (student, ...rule) =>
  scoreTable(student, staleWeights(student, ...rule));

// E[ratio²] under mu, 1 + chi-squared: infinite where mu bars a token of the student's.
export const secondMoment = (student, behaviour) =>
  1 +
  sum(
    student.map((p, v) => {
      const mu = behaviour[v];
      return mu > 0 ? (p - mu) ** 2 / mu : p > 0 ? Infinity : 0;
    }),
  );
