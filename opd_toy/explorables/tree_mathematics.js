// Token trees: the twin of opd_toy.sequences, for the two sliders of chapter 6.  A tree
// holds a row of V numbers for every prefix, level by level: level t has V**t rows, prefixes
// in base-V order, the first token most significant; sequences stand in the same order.

import { kl, logSoftmax } from "./mathematics.js";
import { uniforms } from "./draws.js";

// ---- trees ----

export function tokenTree(logits) {
  const vocabulary = logits[0].length;
  const logProbabilities = logits.map((level) => {
    const rows = new Float64Array(level.length);
    for (let i = 0; i < level.length; i += vocabulary)
      rows.set(logSoftmax(level.subarray(i, i + vocabulary)), i);
    return rows;
  });
  return {
    vocabulary,
    length: logits.length,
    logProbabilities,
    probabilities: logProbabilities.map((level) => level.map(Math.exp)),
  };
}

// Standard normal numbers, Box and Muller's two at a time.
function normals(seed) {
  const next = uniforms(seed);
  let spare = null;
  return () => {
    if (spare !== null) {
      const given = spare;
      spare = null;
      return given;
    }
    const [radius, angle] = [Math.sqrt(-2 * Math.log1p(-next())), 2 * Math.PI * next()];
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
}

// A student with standard normal logits, and a teacher whose logits are the student's plus
// `distance` times other normal numbers.  Level by level, so that a longer tree begins
// like the shorter one.  opd_toy.explorables.trees makes the same.
let latest = {}; // a teacher that only moves needs no new numbers
export function randomTrees(vocabulary, length, seed, distance) {
  const key = [vocabulary, length, seed].join();
  if (latest.key !== key) {
    const normal = normals(seed);
    const numbers = Array.from({ length: 2 * length }, (_, i) => {
      const level = new Float64Array(vocabulary ** (1 + Math.floor(i / 2)));
      for (let j = 0; j < level.length; j++) level[j] = normal();
      return level;
    });
    const logits = numbers.filter((_, i) => i % 2 === 0);
    latest = { key, logits, moves: numbers.filter((_, i) => i % 2), student: tokenTree(logits) };
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
  for (const p of tree.probabilities)
    levels.push(p.map((x, i) => x * levels.at(-1)[Math.floor(i / tree.vocabulary)]));
  return levels;
}

// ---- costs along every sequence: (S, T) ----

const along = (tree, values) =>
  Array.from({ length: tree.vocabulary ** tree.length }, (_, sequence) =>
    Array.from({ length: tree.length }, (__, t) =>
      values(t, Math.floor(sequence / tree.vocabulary ** (tree.length - 1 - t))),
    ),
  );

export const tokenCosts = (student, teacher) =>
  along(student, (t, i) => student.logProbabilities[t][i] - teacher.logProbabilities[t][i]);

export function discountedReturn(costs, gamma) {
  const total = [...costs];
  for (let t = total.length - 2; t >= 0; t--) total[t] += gamma * total[t + 1];
  return total;
}

// E[G_t | s_t] at every prefix, level by level.
export function stateValues(student, costs, gamma) {
  const [levels, returns] = [chances(student), costs.map((row) => discountedReturn(row, gamma))];
  return levels.slice(0, -1).map((level, t) => {
    const [values, span] = [new Float64Array(level.length), levels.at(-1).length / level.length];
    levels.at(-1).forEach((chance, i) => (values[Math.floor(i / span)] += chance * returns[i][t]));
    return values.map((x, s) => x / level[s]);
  });
}

// FIPO: how the log-probabilities of a token and of those after it have moved since `old`.
export const futureKl = (student, old, gamma, ratioLimit) =>
  tokenCosts(student, old).map((row) =>
    discountedReturn(
      row.map((x) => (x <= Math.log(ratioLimit) ? x : 0)),
      gamma,
    ),
  );

export const fipoWeight = (student, old, gamma, low, high, ratioLimit) =>
  futureKl(student, old, gamma, ratioLimit).map((row) =>
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
      let [squares, squaresOfLocal, localMean] = [0, 0, 0];
      expected.fill(0);
      product.fill(0);
      for (let a = 0; a < V; a++) {
        const [i, at] = [here + a, a * L];
        squares += p[i] * p[i];
        cost[at] = sampled ? logP[i] - logQ[i] : divergence;
        for (let k = 1; k < L; k++) cost[at + k] = ones[i * (L - 1) + k - 1];
        for (let k = 0; k < L; k++) expected[k] += p[i] * cost[at + k];
      }
      const local = (i) => (sampled ? 0 : p[i] * (logP[i] - logQ[i] - divergence));
      for (let a = 0; a < V; a++) {
        squaresOfLocal += local(here + a) ** 2;
        localMean += p[here + a] * local(here + a);
      }
      for (let a = 0; a < V; a++) {
        const [i, at] = [here + a, a * L];
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
      if (!sampled) second[0] += visit * squaresOfLocal;
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
      if (k && l)
        [
          [k + l, x],
          [k, -x],
          [l, -x],
          [0, x],
        ].forEach(([power, term]) => (bias[power] += term));
    }
  return [bias, variance];
}

// |bias|² at one γ: near γ = 1 the polynomial would lose its digits.
export function squaredBias(mean, gamma) {
  const T = Math.sqrt(mean.length);
  let [short, total] = [0, 0]; // γ^k - 1, as (γ - 1) (1 + γ + ...)
  const shorts = Array.from({ length: T }, (_, k) => (k ? (short = short * gamma + gamma - 1) : 0));
  for (let k = 1; k < T; k++)
    for (let l = 1; l < T; l++) total += shorts[k] * shorts[l] * mean[k * T + l];
  return Math.max(total, 0);
}

export const polynomial = (coefficients, x) =>
  coefficients.reduceRight((total, c) => total * x + c, 0);

// The γ in [0, 1] at which |bias|² + variance/samples is least: an end, or where the slope
// turns from falling to rising; it may do so more than once.
export function leastErrorGamma([bias, variance], samples) {
  const error = bias.map((b, n) => b + variance[n] / samples);
  const slope = error.map((c, n) => n * c).slice(1);
  const candidates = [0, 1];
  const steps = 256;
  for (let i = 0; i < steps; i++) {
    let [low, high] = [i / steps, (i + 1) / steps];
    if (!(polynomial(slope, low) < 0 && polynomial(slope, high) >= 0)) continue;
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
