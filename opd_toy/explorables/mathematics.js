// The engine's twin: every function here mirrors one of opd_toy.distributions,
// .objectives or .estimators, and a test holds the two together to 1e-12.
// A distribution is an array of V probabilities; (student, teacher) in that order.

export const sum = (x) => {
  let total = 0;
  for (const value of x) total += value;
  return total;
};

// Of `size` logits from `start` on, written to the same places of `found`.  The likeliest token's
// exp(0) = 1 is left out of the sum and put back by log1p: it would swallow the others.
export function logSoftmaxInto(found, logits, start, size) {
  let top = start;
  for (let v = start; v < start + size; v++) if (logits[v] > logits[top]) top = v;
  let others = 0;
  for (let v = start; v < start + size; v++)
    if (v !== top) others += Math.exp(logits[v] - logits[top]);
  const rest = Math.log1p(others);
  const most = logits[top]; // which may be written over
  for (let v = start; v < start + size; v++) found[v] = logits[v] - most - rest;
  return found;
}
export const logSoftmax = (logits) => logSoftmaxInto([], logits, 0, logits.length);

export function softmax(logits) {
  const top = Math.max(...logits);
  const weights = logits.map((z) => Math.exp(z - top));
  const total = sum(weights);
  return weights.map((w) => w / total);
}

const timesLog = (p, x) => (p === 0 ? 0 : p * Math.log(x)); // 0 log 0 = 0

export const entropy = (p) => -sum(p.map((x) => timesLog(x, x)));

// log a - log b; `difference` is a - b where the caller knows it more exactly.
const logRatioOf = (a, b, difference = a - b) => {
  if (a === 0 && b === 0) return 0;
  return Math.abs(difference) <= b / 2 ? Math.log1p(difference / b) : Math.log(a) - Math.log(b);
};

export const logRatio = (student, teacher) => student.map((p, v) => logRatioOf(p, teacher[v]));

// ((1+r)^alpha - 1 - alpha r) / (alpha (alpha - 1)) for small r, by its series: nothing
// is subtracted, so that nothing is lost.
const taylorRemainder = (r, alpha) => {
  let total = 1;
  for (let n = 17; n > 1; n--) total = 1 + ((alpha - n) / (n + 1)) * r * total;
  return ((r * r) / 2) * total;
};

// One summand of KL(p || q), made non-negative by -p + q, which adds up to nothing.
const klTerm = (p, q, difference = p - q) => {
  if (p === 0) return q;
  if (Math.abs(difference) < 0.1 * q) return q * taylorRemainder(difference / q, 1);
  return Math.max(p * logRatioOf(p, q, difference) - difference, 0);
};

export function kl(p, q) {
  let total = 0;
  for (let v = 0; v < p.length; v++) total += klTerm(p[v], q[v]);
  return total;
}

export const forwardKl = (student, teacher) => kl(teacher, student);
export const reverseKl = (student, teacher) => kl(student, teacher);
export const forwardKlLogitGradient = (student, teacher) => student.map((p, v) => p - teacher[v]);

// p (signal - its mean under p); a token of probability 0 does not count.  The mean is
// taken off twice: where the signal is nearly its mean (a confident student, a signal
// nearly constant) the first pass leaves a rounding error, the same for all tokens.
function centred(student, signal) {
  const total = sum(student);
  const rest = student.map((p, v) => (p === 0 ? 0 : signal[v]));
  for (let pass = 0; pass < 2; pass++) {
    let mean = 0;
    for (let v = 0; v < rest.length; v++) mean += student[v] * rest[v];
    mean /= total;
    for (let v = 0; v < rest.length; v++) rest[v] -= mean;
  }
  for (let v = 0; v < rest.length; v++) rest[v] *= student[v];
  return rest;
}

export function reverseKlLogitGradient(student, teacher) {
  const barred = (p, v) => p > 0 && teacher[v] === 0;
  if (student.some(barred)) return beyondTheTeacher(student, barred);
  return centred(student, logRatio(student, teacher));
}

// Where the teacher has a zero that the student has not, the gradient is infinite; but
// if all of p lies on such tokens the infinities cancel.
const beyondTheTeacher = (student, barred, signal = student.map(Math.log)) =>
  student.every((p, v) => p === 0 || barred(p, v))
    ? centred(student, signal)
    : student.map((p, v) => (p === 0 ? 0 : barred(p, v) ? Infinity : -Infinity));

// Above 0 wherever p or q is: the product may underflow.
const mixture = (student, teacher, weight) =>
  student.map((p, v) =>
    p || teacher[v] ? Math.max((1 - weight) * p + weight * teacher[v], Number.MIN_VALUE) : 0,
  );

export function generalizedJsd(student, teacher, beta) {
  if (beta === 0) return forwardKl(student, teacher);
  if (beta === 1) return reverseKl(student, teacher);
  const middle = mixture(student, teacher, beta);
  const toTeacher = sum(teacher.map((q, v) => klTerm(q, middle[v], (1 - beta) * (q - student[v]))));
  const toStudent = sum(student.map((p, v) => klTerm(p, middle[v], beta * (p - teacher[v]))));
  return beta * toTeacher + (1 - beta) * toStudent;
}

export function generalizedJsdLogitGradient(student, teacher, beta) {
  if (beta === 0) return forwardKlLogitGradient(student, teacher);
  if (beta === 1) return reverseKlLogitGradient(student, teacher);
  const middle = mixture(student, teacher, beta);
  const signal = student.map((p, v) => logRatioOf(p, middle[v], beta * (p - teacher[v])));
  return centred(student, signal).map((g) => (1 - beta) * g);
}

// p ((q/p)^t - 1), to full accuracy for small t log(q/p)
const scaledExpm1 = (p, q, t) => {
  const exponent = t * logRatioOf(q, p);
  if (Math.abs(exponent) < 1) return p * Math.expm1(exponent);
  return Math.exp((1 - t) * Math.log(p) + t * Math.log(q)) - p;
};

export function alphaDivergence(student, teacher, alpha) {
  if (alpha === 0) return forwardKl(student, teacher);
  if (alpha === 1) return reverseKl(student, teacher);
  // each form divides by the parameter that does not vanish at its end, 0 or 1
  return sum(
    student.map((p, v) => {
      const q = teacher[v];
      const difference = p - q;
      if (Math.abs(difference) < (0.1 / Math.max(1, Math.abs(alpha))) * q)
        return q * taylorRemainder(difference / q, alpha);
      return alpha < 0.5
        ? (difference - scaledExpm1(q, p, alpha) / alpha) / (1 - alpha)
        : (scaledExpm1(p, q, 1 - alpha) / (alpha - 1) - difference) / alpha;
    }),
  );
}

export function alphaDivergenceLogitGradient(student, teacher, alpha) {
  if (alpha === 0) return forwardKlLogitGradient(student, teacher);
  if (alpha === 1) return reverseKlLogitGradient(student, teacher);
  const blamed = student.map((p, v) =>
    alpha > 1 ? teacher[v] === 0 && p > 0 : alpha < 0 && p === 0 && teacher[v] > 0,
  );
  if (blamed.includes(true)) return outweighed(student, teacher, alpha, blamed);
  return centred(
    student,
    logRatio(student, teacher).map((r) => Math.expm1((alpha - 1) * r) / (alpha - 1)),
  );
}

// The divergence is infinite: the tokens to blame outweigh all others, and each entry is
// its sign times infinity.
function outweighed(student, teacher, alpha, blamed) {
  const power = student.map((p, v) =>
    blamed[v] ? (alpha > 1 ? p ** alpha : teacher[v] ** (1 - alpha)) : 0,
  );
  const total = sum(power);
  return student.map((p, v) => {
    const balanced = Math.abs(power[v] - p * total) <= 1e-12 * (power[v] + p * total);
    return balanced ? 0 : ((power[v] - p * total) / (alpha - 1)) * Infinity;
  });
}

export function skewedForwardKl(student, teacher, skew) {
  if (skew === 0) return forwardKl(student, teacher);
  const middle = mixture(student, teacher, skew);
  return sum(teacher.map((q, v) => klTerm(q, middle[v], (1 - skew) * (q - student[v]))));
}

// -(1-skew) q/M plus a constant, so written that it is small where p and q are close
export function skewedForwardKlLogitGradient(student, teacher, skew) {
  if (skew === 0) return forwardKlLogitGradient(student, teacher);
  const middle = mixture(student, teacher, skew);
  return centred(
    student,
    student.map((p, v) => ((1 - skew) ** 2 * (p - teacher[v])) / middle[v]),
  );
}

export function skewedReverseKl(student, teacher, skew) {
  if (skew === 0) return reverseKl(student, teacher);
  const middle = mixture(teacher, student, skew);
  return sum(student.map((p, v) => klTerm(p, middle[v], (1 - skew) * (p - teacher[v]))));
}

export function skewedReverseKlLogitGradient(student, teacher, skew) {
  if (skew === 0) return reverseKlLogitGradient(student, teacher);
  const middle = mixture(teacher, student, skew);
  return centred(
    student,
    student.map((p, v) => {
      const difference = (1 - skew) * (p - teacher[v]);
      const y = difference / middle[v];
      return Math.abs(difference) < 0.1 * middle[v]
        ? (1 - skew) * y - taylorRemainder(y, 0)
        : logRatioOf(p, middle[v], difference) - skew * y;
    }),
  );
}

// ---- estimators: table[k][j] is the gradient on logit j if token k is drawn ----

// The sum over all other tokens, for each token; nothing cancels at the largest.
const others = (x) => {
  const top = x.indexOf(Math.max(...x));
  const total = sum(x);
  let rest = 0;
  for (let v = 0; v < x.length; v++) if (v !== top) rest += x[v];
  return x.map((value, v) => (v === top ? rest : total - value));
};

// weight_k (delta_kj - p_j), with 1 - p_k as the others' sum
export function scoreTable(student, weight) {
  const rest = others(student);
  const table = [];
  for (let k = 0; k < student.length; k++) {
    const row = [];
    for (let j = 0; j < student.length; j++)
      row.push(times(weight[k], j === k ? rest[k] : -student[j]));
    table.push(row);
  }
  return table;
}

const times = (a, b) => (a === 0 || b === 0 ? 0 : a * b); // 0 ∞ = 0

export const policyGradient = (student, teacher, baseline = 0) =>
  scoreTable(
    student,
    logRatio(student, teacher).map((c) => c - baseline),
  );

export const gkd = (student, teacher) => {
  const row = reverseKlLogitGradient(student, teacher);
  return student.map(() => [...row]);
};

export const fullVocabularyAdvantage = (student, teacher) =>
  scoreTable(student, Array(student.length).fill(kl(student, teacher)));

export function kEstimator(student, teacher, kind) {
  const d = logRatio(student, teacher);
  if (kind === "k1") return d;
  if (kind === "k2") return d.map((x) => (x * x) / 2);
  if (kind === "k3") return student.map((p, v) => k3(p, teacher[v]));
  throw new Error(`kind must be "k1", "k2" or "k3", not ${JSON.stringify(kind)}`);
}

const k3 = (p, q) => {
  if (Math.abs(q - p) < 0.1 * p) return taylorRemainder((q - p) / p, 0);
  const d = logRatioOf(p, q);
  return d === -Infinity ? Infinity : Math.expm1(-d) + d;
};

// d k1 = d log p;  d k2 = log(p/q) d log p;  d k3 = (1 - q/p) d log p
export function kEstimatorAsLoss(student, teacher, kind) {
  const d = logRatio(student, teacher);
  const weight = { k1: d.map(() => 1), k2: d, k3: d.map((x) => -Math.expm1(-x)) }[kind];
  if (!weight) throw new Error(`kind must be "k1", "k2" or "k3", not ${JSON.stringify(kind)}`);
  return scoreTable(student, weight);
}

export const kEstimatorAsReward = (student, teacher, kind) =>
  scoreTable(student, kEstimator(student, teacher, kind));

export function expectation(probabilities, table) {
  const mean = table[0].map(() => 0);
  for (let k = 0; k < table.length; k++) {
    if (probabilities[k] === 0) continue;
    for (let j = 0; j < mean.length; j++) mean[j] += probabilities[k] * table[k][j];
  }
  return mean;
}

// Rows are measured from one that can be drawn: equal rows vary by exactly 0.
export function totalVariance(probabilities, table) {
  const drawn = table.filter((_, k) => probabilities[k] > 0);
  if (drawn.flat().some((x) => !Number.isFinite(x))) return Infinity;
  const reference = table[probabilities.indexOf(Math.max(...probabilities))];
  const shifted = table.map((row, k) =>
    row.map((x, j) => (probabilities[k] === 0 ? 0 : x - reference[j])),
  );
  const mean = expectation(probabilities, shifted);
  return sum(
    shifted.map((row, k) => probabilities[k] * sum(row.map((x, j) => (x - mean[j]) ** 2))),
  );
}

// The constant baseline of least variance: the log-ratios' mean, each token weighted
// by p_k |score_k|^2.
export function optimalBaseline(student, teacher) {
  const ratio = logRatio(student, teacher);
  const [rest, squares] = [others(student), others(student.map((p) => p * p))];
  const weight = student.map((p, k) => p * (rest[k] ** 2 + squares[k]));
  const total = sum(weight);
  return total === 0 ? 0 : sum(weight.map((w, k) => times(w, ratio[k]))) / total;
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
  const others = p.map((x) =>
    rest > 1e-12 ? (x / rest) * (1 - target) : (1 - target) / (p.length - 1),
  );
  others[index] = target;
  return floored(others, floor);
}

// Keep every probability at or above the floor, taking what that costs from the rest.
export function floored(p, floor) {
  const short = p.map((x) => Math.max(floor - x, 0));
  const spare = p.map((x) => Math.max(x - floor, 0));
  const scale = 1 - sum(short) / sum(spare);
  return p.map((x, v) => (x <= floor ? floor : floor + spare[v] * scale));
}

// ---- clamps and a top-K support ----

export const truncatedPolicyGradient = (student, teacher, limit) =>
  scoreTable(
    student,
    logRatio(student, teacher).map((c) => Math.min(Math.max(c, -limit), limit)),
  );

// Reverse KL on the teacher's k likeliest tokens; `outside`: what becomes of the others.
export function topKReverseKlLogitGradient(student, teacher, k, outside) {
  const order = teacher.map((_, v) => v).sort((a, b) => teacher[b] - teacher[a]);
  const [head, rest] = [order.slice(0, k), order.slice(k)];
  const gradient = student.map(() => 0);
  if (outside === "drop") {
    const inside = student.map((_, v) => head.includes(v));
    const barred = (p, v) => inside[v] && p > 0 && teacher[v] === 0;
    if (student.some(barred))
      return beyondTheTeacher(
        student,
        barred,
        student.map((p, v) => (inside[v] ? 1 + (p && Math.log(p)) : 0)),
      );
    return centred(
      student,
      logRatio(student, teacher).map((c, v) => (inside[v] ? c + 1 : 0)),
    );
  }
  const tail = outside === "tail";
  const [p, q] = [student, teacher].map((x) => {
    const kept = head.map((v) => x[v]);
    if (tail) return [...kept, sum(rest.map((v) => x[v]))];
    const mass = sum(kept);
    return kept.map((value) => (mass > 0 ? value / mass : 1 / k));
  });
  const buckets = reverseKlLogitGradient(p, q);
  head.forEach((v, i) => (gradient[v] = buckets[i]));
  // the bucket's gradient is shared in proportion to p
  if (tail)
    rest.forEach((v) => (gradient[v] = student[v] > 0 ? buckets[k] * (student[v] / p[k]) : 0));
  return gradient;
}
