// What the estimators are, and what their expected gradients can be recognised as.

import {
  expectation,
  forwardKlLogitGradient,
  kEstimatorAsLoss,
  kEstimatorAsReward,
  reverseKlLogitGradient,
  sum,
} from "./mathematics.js";

// The standard deviation of each logit's gradient over the draws.
export const deviations = (p, rows) => {
  const mean = expectation(p, rows);
  return mean.map((m, j) => Math.sqrt(sum(rows.map((row, k) => p[k] * (row[j] - m) ** 2))));
};

export const agree = (p, q) => p.every((x, v) => Math.abs(x - q[v]) < 1e-12);

// What an expected gradient can be recognised as, by comparing it with the exact ones.
export const NAMES = ["nothing: mean 0", "reverse KL", "forward KL", "reverse − forward"];
export function recognised(p, q, rows) {
  if (agree(p, q)) return NAMES;
  const [reverse, forward] = [reverseKlLogitGradient(p, q), forwardKlLogitGradient(p, q)];
  const known = [p.map(() => 0), reverse, forward, reverse.map((g, j) => g - forward[j])];
  const found = expectation(p, rows);
  const size = Math.max(...[...rows.flat(), ...reverse, ...forward].map(Math.abs));
  return known
    .map((gradient) => gradient.every((g, j) => Math.abs(g - found[j]) <= 1e-10 * size))
    .flatMap((same, i) => (same ? [NAMES[i]] : []));
}
export const follows = (names) =>
  names.length === 0
    ? "none of these"
    : names.length < 3
      ? names.join(" and ")
      : "all, for all are 0";

export const estimator = (p, q, kind, use) =>
  (use === "loss" ? kEstimatorAsLoss : kEstimatorAsReward)(p, q, kind);
export const close = (a, b) => Math.abs(a - b) <= 1e-9 * Math.max(Math.abs(a), Math.abs(b), 1e-9);
