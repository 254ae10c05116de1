// The engine's twin: every function here mirrors one of opd_toy.distributions,
// .objectives or .estimators, and a test holds the two together to 1e-12.
// A distribution is an array of V probabilities; (student, teacher) in that order.

export const sum = (x) => {
  let total = 0;
  for (const value of x) total += value;
  return total;
};

export function logSoftmax(logits) {
  const top = Math.max(...logits);
  const normaliser = top + Math.log(sum(logits.map((z) => Math.exp(z - top))));
  return logits.map((z) => z - normaliser);
}

export const softmax = (logits) => logSoftmax(logits).map(Math.exp);

const timesLog = (p, x) => (p === 0 ? 0 : p * Math.log(x)); // 0 log 0 = 0

export const entropy = (p) => -sum(p.map((x) => timesLog(x, x)));

// exp(d) - 1 - d, without losing its digits where d is small
const expm1MinusX = (d) => {
  if (Math.abs(d) > 0.5) return Math.expm1(d) - d;
  let term = (d * d) / 2;
  let total = term;
  for (let n = 3; Math.abs(term) > 1e-18 * Math.abs(total); n++) {
    term *= d / n;
    total += term;
  }
  return total;
};

// KL(p || q) = sum p (d + expm1(-d)) with d = log p - log q: no term is negative, so
// nothing cancels where p and q are close; mass of q where p is 0 adds q itself.
export function kl(p, q) {
  let total = 0;
  for (let v = 0; v < p.length; v++) {
    if (p[v] === 0) total += q[v];
    else if (q[v] === 0) return Infinity;
    else total += p[v] * expm1MinusX(logRatioOf(q[v], p[v]));
  }
  return total;
}

const logRatioOf = (a, b) => {
  const relative = (a - b) / b; // exact when a and b are within a factor of two
  return Math.abs(relative) < 0.5 ? Math.log1p(relative) : Math.log(a) - Math.log(b);
};

export const logRatio = (student, teacher) => student.map((p, v) => logRatioOf(p, teacher[v]));

export const forwardKl = (student, teacher) => kl(teacher, student);
export const reverseKl = (student, teacher) => kl(student, teacher);
export const forwardKlLogitGradient = (student, teacher) => student.map((p, v) => p - teacher[v]);

const centred = (student, signal) => {
  // p (signal - its mean under p); a token of probability 0 does not count
  const mean = sum(student.map((p, v) => (p === 0 ? 0 : p * signal[v])));
  return student.map((p, v) => (p === 0 ? 0 : p * (signal[v] - mean)));
};

export const reverseKlLogitGradient = (student, teacher) =>
  centred(student, logRatio(student, teacher));

const mixture = (student, teacher, beta) =>
  student.map((p, v) => (1 - beta) * p + beta * teacher[v]);

export function generalizedJsd(student, teacher, beta) {
  if (beta === 0) return forwardKl(student, teacher);
  if (beta === 1) return reverseKl(student, teacher);
  const middle = mixture(student, teacher, beta);
  return beta * kl(teacher, middle) + (1 - beta) * kl(student, middle);
}

export function generalizedJsdLogitGradient(student, teacher, beta) {
  if (beta === 0) return forwardKlLogitGradient(student, teacher);
  if (beta === 1) return reverseKlLogitGradient(student, teacher);
  const gradient = centred(student, logRatio(student, mixture(student, teacher, beta)));
  return gradient.map((g) => (1 - beta) * g);
}

export const alphaDivergence = (student, teacher, alpha) => {
  if (alpha === 0) return forwardKl(student, teacher);
  if (alpha === 1) return reverseKl(student, teacher);
  // sum p^a q^(1-a) - 1, as a sum of expm1 so that near p = q it keeps its digits
  const excess = alpha > 0.5
    ? logRatio(teacher, student).map((r, v) => student[v] * Math.expm1((1 - alpha) * r))
    : logRatio(student, teacher).map((r, v) => teacher[v] * Math.expm1(alpha * r));
  return sum(excess) / (alpha * (alpha - 1));
};

export const alphaDivergenceLogitGradient = (student, teacher, alpha) => {
  if (alpha === 0) return forwardKlLogitGradient(student, teacher);
  if (alpha === 1) return reverseKlLogitGradient(student, teacher);
  const ratio = logRatio(teacher, student);
  return centred(student, ratio.map((r) => Math.expm1((1 - alpha) * r) / (alpha - 1)));
};

export const skewedForwardKl = (student, teacher, skew) =>
  kl(teacher, mixture(student, teacher, skew));
export const skewedForwardKlLogitGradient = (student, teacher, skew) => {
  const middle = mixture(student, teacher, skew);
  return centred(student, teacher.map((q, v) => (-(1 - skew) * q) / middle[v]));
};

export const skewedReverseKl = (student, teacher, skew) =>
  kl(student, mixture(student, teacher, 1 - skew));
export const skewedReverseKlLogitGradient = (student, teacher, skew) => {
  const middle = mixture(student, teacher, 1 - skew);
  const signal = student.map((p, v) => logRatioOf(p, middle[v]) - (skew * p) / middle[v]);
  return centred(student, signal);
};

// ---- estimators: table[k][j] is the gradient on logit j if token k is drawn ----

export const scoreTable = (student, weight) =>
  student.map((_, k) => student.map((p, j) => weight[k] * ((j === k ? 1 : 0) - p)));

export const policyGradient = (student, teacher, baseline = 0) =>
  scoreTable(student, logRatio(student, teacher).map((c) => c - baseline));

export const gkd = (student, teacher) => {
  const row = reverseKlLogitGradient(student, teacher);
  return student.map(() => [...row]);
};

export const fullVocabularyAdvantage = (student, teacher) =>
  scoreTable(student, student.map(() => kl(student, teacher)));

export function kEstimator(student, teacher, kind) {
  const d = logRatio(student, teacher);
  if (kind === "k1") return d;
  if (kind === "k2") return d.map((x) => (x * x) / 2);
  if (kind === "k3") return d.map((x) => expm1MinusX(-x));
  throw new Error(`kind must be "k1", "k2" or "k3", not ${JSON.stringify(kind)}`);
}

// d k1 = d log p;  d k2 = log(p/q) d log p;  d k3 = (1 - q/p) d log p
export function kEstimatorAsLoss(student, teacher, kind) {
  const d = logRatio(student, teacher);
  const weight = { k1: d.map(() => 1), k2: d, k3: d.map((x) => -Math.expm1(-x)) }[kind];
  if (!weight) throw new Error(`kind must be "k1", "k2" or "k3", not ${JSON.stringify(kind)}`);
  return scoreTable(student, weight);
}

export const kEstimatorAsReward = (student, teacher, kind) =>
  scoreTable(student, kEstimator(student, teacher, kind));

export const expectation = (probabilities, table) =>
  table[0].map((_, j) =>
    sum(table.map((row, k) => (probabilities[k] === 0 ? 0 : probabilities[k] * row[j]))));

export function totalVariance(probabilities, table) {
  const mean = expectation(probabilities, table);
  return sum(table.map((row, k) =>
    probabilities[k] === 0 ? 0 : probabilities[k] * sum(row.map((g, j) => (g - mean[j]) ** 2))));
}

// The constant baseline of least variance: the log-ratios' mean, each token weighted
// by p_k |score_k|^2.
export function optimalBaseline(student, teacher) {
  const ratio = logRatio(student, teacher);
  const square = sum(student.map((p) => p * p));
  const weight = student.map((p) => p * (1 - 2 * p + square));
  const total = sum(weight);
  return total === 0 ? 0 : sum(weight.map((w, k) => (w === 0 ? 0 : w * ratio[k]))) / total;
}

// ---- moving distributions about ----

// One step of gradient descent on the logits, read off as probabilities.
export const step = (student, gradient, rate) =>
  softmax(student.map((p, v) => Math.log(p) - rate * gradient[v]));

// Set one probability; the others keep their proportions.
export function setProbability(p, index, value, floor = 0.005) {
  const room = 1 - floor * (p.length - 1);
  const target = Math.min(Math.max(value, floor), room);
  const rest = 1 - p[index];
  const others = p.map((x) => (rest > 1e-12 ? (x / rest) * (1 - target) : (1 - target) / (p.length - 1)));
  others[index] = target;
  return floored(others, floor);
}

// Keep every probability at or above the floor, taking what that costs from the rest.
export function floored(p, floor) {
  const short = p.map((x) => Math.max(floor - x, 0));
  const spare = p.map((x) => Math.max(x - floor, 0));
  const scale = sum(spare) > 0 ? 1 - sum(short) / sum(spare) : 1;
  return p.map((x, v) => (x <= floor ? floor : floor + spare[v] * scale));
}
