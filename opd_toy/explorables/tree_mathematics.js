// Token trees: the twin of opd_toy.sequences, for the two sliders of chapter 6.  A tree
// holds a row of V numbers for every prefix, level by level: level t has V**t rows, prefixes
// in base-V order, the first token most significant; sequences stand in the same order.

import { kl, logSoftmaxInto, sum } from "./mathematics.js";
import { fillUniforms } from "./draws.js";

// ---- trees ----

export function tokenTree(logits) {
  const vocabulary = logits[0].length;
  const logProbabilities = logits.map((level) => {
    const rows = new Float64Array(level.length);
    for (let i = 0; i < level.length; i += vocabulary) logSoftmaxInto(rows, level, i, vocabulary);
    return rows;
  });
  return {
    vocabulary,
    length: logits.length,
    logProbabilities,
    probabilities: logProbabilities.map((level) => level.map(Math.exp)),
  };
}

// An even count of standard normal numbers, Box and Muller's two at a time.
function normals(seed, count) {
  const found = new Float64Array(count);
  fillUniforms(found, 0, count, seed);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log1p(-found[i]));
    const angle = 2 * Math.PI * found[i + 1];
    found[i] = radius * Math.cos(angle);
    found[i + 1] = radius * Math.sin(angle);
  }
  return found;
}

// A student with standard normal logits, and a teacher whose logits are the student's plus
// `distance` times other normal numbers.  Level by level, so that a longer tree begins
// like the shorter one.  opd_toy.explorables.trees makes the same.
let latest = {}; // a teacher that only moves needs no new numbers
export function randomTrees(vocabulary, length, seed, distance) {
  const key = [vocabulary, length, seed].join();
  if (latest.key !== key) {
    const sizes = Array.from({ length }, (_, t) => vocabulary ** (t + 1));
    const numbers = normals(seed, 2 * sum(sizes));
    const [logits, moves] = [[], []];
    let taken = 0;
    for (const size of sizes)
      for (const levels of [logits, moves]) levels.push(numbers.subarray(taken, (taken += size)));
    latest = { key, logits, moves, student: tokenTree(logits) };
  }
  const { logits, moves, student } = latest;
  return [
    student,
    tokenTree(logits.map((level, t) => level.map((z, i) => z + distance * moves[t][i]))),
  ];
}

// The same distribution after every prefix.
export const repeated = (p, length) =>
  tokenTree(
    Array.from({ length }, (_, t) =>
      Float64Array.from({ length: p.length ** (t + 1) }, (__, i) => Math.log(p[i % p.length])),
    ),
  );

// The probability of passing each prefix, level by level, and last of each sequence.
export function chances(tree) {
  const levels = [Float64Array.of(1)];
  for (const p of tree.probabilities) {
    const above = levels.at(-1);
    levels.push(p.map((x, i) => x * above[Math.floor(i / tree.vocabulary)]));
  }
  return levels;
}

// ---- costs along the chosen sequences, (S, T): along all, if none are named ----

const everySequence = ({ vocabulary, length }) =>
  Array.from({ length: vocabulary ** length }, (_, sequence) => sequence);

export function tokenCosts(student, teacher, chosen = everySequence(student)) {
  const [mine, theirs] = [student.logProbabilities, teacher.logProbabilities];
  return chosen.map((sequence) => {
    const row = Array(student.length);
    let i = sequence;
    for (let t = student.length - 1; t >= 0; t--) {
      row[t] = mine[t][i] - theirs[t][i];
      i = Math.floor(i / student.vocabulary);
    }
    return row;
  });
}

export function discountedReturn(costs, gamma) {
  const total = [...costs];
  for (let t = total.length - 2; t >= 0; t--) total[t] += gamma * total[t + 1];
  return total;
}

// E[G_t | s_t] at every prefix, level by level.
export function stateValues(student, costs, gamma) {
  const [levels, returns] = [chances(student), costs.map((row) => discountedReturn(row, gamma))];
  const last = levels.pop();
  return levels.map((level, t) => {
    const [values, span] = [new Float64Array(level.length), last.length / level.length];
    for (let i = 0; i < last.length; i++) values[Math.floor(i / span)] += last[i] * returns[i][t];
    return values.map((x, s) => x / level[s]);
  });
}

// FIPO: how the log-probabilities of a token and of those after it have moved since `old`.
export const futureKl = (student, old, gamma, ratioLimit, chosen) =>
  tokenCosts(student, old, chosen).map((row) =>
    discountedReturn(
      row.map((x) => (x <= Math.log(ratioLimit) ? x : 0)),
      gamma,
    ),
  );

export const fipoWeight = (student, old, gamma, low, high, ratioLimit, chosen) =>
  futureKl(student, old, gamma, ratioLimit, chosen).map((row) =>
    row.map((x) => Math.min(Math.max(Math.exp(x), 1 - low), 1 + high)),
  );

// ---- bias and variance of the discounted reward-to-go, for every γ at once ----

// With x_u the cost at u (sampled: r_u; full_vocabulary: KL_u, and for the token's own cost
// the exact gradient), the gradient is Σ_k γ^k g_k, where g_k holds the costs k tokens on.
// Returns E<g_k, g_l> and <E g_k, E g_l>, two arrays of (T, T).  From the leaves up: after
// each prefix the mean cost k tokens on, and the mean product of two of them.
export function lagMoments(student, teacher, signal) {
  const [V, T] = [student.vocabulary, student.length];
  const sampled = signal === "sampled";
  const [second, mean] = [new Float64Array(T * T), new Float64Array(T * T)];
  const visits = chances(student);
  let [ones, twos] = [new Float64Array(0), new Float64Array(0)]; // of the level below
  for (let t = T - 1; t >= 0; t--) {
    const [L, rows] = [T - t, V ** t];
    const [p, logP, logQ] = [
      student.probabilities[t],
      student.logProbabilities[t],
      teacher.logProbabilities[t],
    ];
    const [nextOnes, nextTwos] = [new Float64Array(rows * L), new Float64Array(rows * L * L)];
    const [cost, expected, product] = [
      new Float64Array(V * L),
      new Float64Array(L),
      new Float64Array(L * L),
    ];
    for (let s = 0; s < rows; s++) {
      const here = s * V;
      const visit = visits[t][s];
      const divergence = sampled
        ? 0
        : kl(p.subarray(here, here + V), teacher.probabilities[t].subarray(here, here + V));
      let squares = 0;
      expected.fill(0);
      product.fill(0);
      for (let a = 0; a < V; a++) {
        const i = here + a;
        const at = a * L;
        squares += p[i] * p[i];
        cost[at] = sampled ? logP[i] - logQ[i] : divergence;
        for (let k = 1; k < L; k++) cost[at + k] = ones[i * (L - 1) + k - 1];
        for (let k = 0; k < L; k++) expected[k] += p[i] * cost[at + k];
      }
      const local = (i) => (sampled ? 0 : p[i] * (logP[i] - logQ[i] - divergence));
      let localMean = 0;
      for (let i = here; i < here + V && !sampled; i++) {
        second[0] += visit * local(i) ** 2;
        localMean += p[i] * local(i);
      }
      for (let a = 0; a < V; a++) {
        const i = here + a;
        const at = a * L;
        const length = 1 - 2 * p[i] + squares; // |e_a - p|²
        const own = visit * p[i] * (local(i) - localMean); // of <local, e_a - p>
        for (let k = 0; k < L; k++) {
          const gradient = k || sampled ? p[i] * (cost[at + k] - expected[k]) : local(i);
          for (let l = 0; l <= k; l++) {
            const x = l ? twos[(i * (L - 1) + k - 1) * (L - 1) + l - 1] : cost[at] * cost[at + k];
            product[k * L + l] += p[i] * x;
            second[k * T + l] +=
              l || sampled ? visit * p[i] * length * x : k ? own * cost[at + k] : 0;
            mean[k * T + l] +=
              visit *
              visit *
              gradient *
              (l || sampled ? p[i] * (cost[at + l] - expected[l]) : local(i));
          }
        }
      }
      for (let k = 0; k < L; k++) {
        nextOnes[s * L + k] = expected[k];
        for (let l = 0; l < L; l++)
          nextTwos[(s * L + k) * L + l] = product[Math.max(k, l) * L + Math.min(k, l)];
      }
    }
    [ones, twos] = [nextOnes, nextTwos];
  }
  for (const moments of [second, mean])
    for (let k = 0; k < T; k++)
      for (let l = k + 1; l < T; l++) moments[k * T + l] = moments[l * T + k];
  return [second, mean];
}

// Coefficients in γ, lowest first, of |bias|² against the sequence gradient and of the
// variance: 2T - 1 each.  At γ = 1 nothing is biased, so that the bias is Σ_k (γ^k - 1) E g_k.
export function biasAndVariance([second, mean]) {
  const T = Math.sqrt(mean.length);
  const [bias, variance] = [Array(2 * T - 1).fill(0), Array(2 * T - 1).fill(0)];
  for (let k = 0; k < T; k++)
    for (let l = 0; l < T; l++) {
      const x = mean[k * T + l];
      variance[k + l] += second[k * T + l] - x;
      if (!k || !l) continue;
      bias[k + l] += x;
      bias[k] -= x;
      bias[l] -= x;
      bias[0] += x;
    }
  return [bias, variance];
}

// |bias|² at one γ: near γ = 1 the polynomial would lose its digits.
export function squaredBias(mean, gamma) {
  const T = Math.sqrt(mean.length);
  const shorts = [0]; // γ^k - 1, as (γ - 1) (1 + γ + ...)
  for (let k = 1; k < T; k++) shorts.push(shorts[k - 1] * gamma + gamma - 1);
  let total = 0;
  for (let k = 1; k < T; k++)
    for (let l = 1; l < T; l++) total += shorts[k] * shorts[l] * mean[k * T + l];
  return Math.max(total, 0);
}

export function polynomial(coefficients, x) {
  let total = 0;
  for (let n = coefficients.length - 1; n >= 0; n--) total = total * x + coefficients[n];
  return total;
}

// The γ in [0, 1] at which |bias|² + variance/samples is least: an end, or where the slope
// turns from falling to rising; it may do so more than once.
export function leastErrorGamma([bias, variance], samples) {
  const error = bias.map((b, n) => b + variance[n] / samples);
  const slope = error.map((c, n) => n * c).slice(1);
  const candidates = [0, 1];
  const steps = 256;
  let falls = polynomial(slope, 0) < 0;
  for (let i = 0; i < steps; i++) {
    let [low, high] = [i / steps, (i + 1) / steps];
    const fell = falls;
    falls = polynomial(slope, high) < 0;
    if (!fell || falls) continue;
    for (let pass = 0; pass < 50; pass++) {
      const middle = (low + high) / 2;
      if (polynomial(slope, middle) < 0) low = middle;
      else high = middle;
    }
    candidates.push(high);
  }
  return candidates.reduce((best, x) =>
    polynomial(error, x) < polynomial(error, best) ? x : best,
  );
}
