// Which objective does a formula follow?  Its expected gradient is computed on seeded random pairs
// and explained as the auditor explains it (opd_toy/audit/token/verdict.py): the simplest
// explanation that leaves nothing but rounding on every pair.

import { entropy, forwardKl, logRatio, reverseKl, softmax, sum } from "./mathematics.js";
import { uniforms } from "./draws.js";
import { NOTES } from "./interface.js";
import {
  BOTH_SKEWS,
  COMPARED,
  DIVERGENCES,
  factorText,
  NAMED,
  phrase,
  reverseKlToTemperedTeacher,
  simplerWeight,
  TEMPERED_DIVERGENCES,
  TEMPERED_KLS,
  TERMS,
  TERMS_OVER_VOCABULARY,
  WEIGHTS,
} from "./your_loss_candidates.js";
import { lossTable, meanGradient } from "./your_loss_duals.js";
import {
  agrees,
  combined,
  confirmed,
  fitted,
  ORDINARY,
  plainest,
  sizeOf,
  TOLERANCE,
} from "./your_loss_fit.js";

// Vocabulary sizes, and the standard deviation of the logits, by tier: close, ordinary, far apart.
const TIERS = [
  [[3, 4, 5, 6], 0.2],
  [[3, 4, 5, 8, 3, 4, 5, 8], 1],
  [[3, 5, 4, 8], 4],
  [[3, 5], 12],
];
const OPPOSED = [4, 8, 16]; // and tokens on which the two are as far apart as twice this
// Students that rank the tokens as their teacher does: vocabulary, sharpness, noise, tier.
const ALIKE = [
  ...[3, 5].flatMap((size) => [0.4, 2].map((sharpness) => [size, sharpness, 0.05, ORDINARY])),
  ...[3, 5, 8].map((size) => [size, 1, 0.2, 0]),
];
const ROUNDING = 2e-13;

export const NONE = "none of these";
export const ZERO = "zero";
export const WHILE_CLOSE = " while the two are close";
const UNTIL_CLOSE = " until they are close";
const FACTOR = " × a factor that depends on the pair";

// ---- the pairs ----

let known = null;
const allPairs = () => (known ??= [...randomPairs()]);

function* randomPairs() {
  const uniform = uniforms(1);
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const normals = (size, spread) => Array.from({ length: size }, () => spread * normal());
  const pair = (z, t, tier, fit) => ({ z, t, p: softmax(z), q: softmax(t), tier, fit });
  yield pair(NOTES.student.map(Math.log), NOTES.teacher.map(Math.log), ORDINARY, true);
  for (const [tier, [sizes, spread]] of TIERS.entries())
    for (const [i, size] of sizes.entries()) {
      const fit = tier === ORDINARY ? i < 4 : i % 2 === 0;
      yield pair(normals(size, spread), normals(size, spread), tier, fit);
    }
  for (const [size, sharpness, apart, tier] of ALIKE) {
    const t = normals(size, 1.2);
    const noise = normals(size, apart);
    yield pair(
      t.map((x, v) => sharpness * x + noise[v]),
      t,
      tier,
      false,
    );
  }
  for (const far of OPPOSED) yield pair([0, far, -far], [0.1, -far, far], TIERS.length, false);
}

// ---- what is measured ----

function measured(formula, drawnFrom) {
  const samples = allPairs().map((pair) => {
    const table = lossTable(formula, pair.z, pair.t);
    const weights = drawnFrom === "student" ? pair.p : pair.q;
    const mean = meanGradient(table, weights);
    const size = sum(table.rows.map((row, k) => weights[k] * sizeOf(row)));
    return { ...pair, pair, gradient: mean, size, value: meanSize(table.values, weights) };
  });
  const usual = median(samples.filter(({ tier }) => tier === ORDINARY).map(({ size }) => size));
  return samples.map((sample) => {
    const { p, q, z, t, size, value } = sample;
    const ratio = sum(logRatio(p, q).map((r, v) => p[v] * Math.abs(r)));
    const logit = Math.max(...z.map(Math.abs), ...t.map(Math.abs));
    const rounding = ROUNDING * (size * (1 + ratio) + usual * logit + 0.1 * value);
    return { ...sample, rounding };
  });
}
const meanSize = (values, weights) => sum(values.map((x, k) => weights[k] * Math.abs(x)));
const median = (list) => {
  const sorted = [...list].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  return (sorted[Math.ceil(middle) - 1] + sorted[Math.floor(middle)]) / 2;
};

// ---- the verdict ----

// { name, holds, pairs, nearest }: on how many of the pairs it holds; `nearest`, where there is no
// name: { name, cosine }.
export function verdictOf(formula, drawnFrom) {
  const samples = measured(formula, drawnFrom);
  const all = samples.length;
  const tiers = [TIERS.length, ORDINARY, 0];
  for (const tier of tiers) {
    const part = samples.filter((sample) => sample.tier <= tier);
    if (!part.every(({ gradient }) => gradient.every(Number.isFinite))) continue;
    const found = explained(part, tier === tiers[0]);
    if (!found) continue;
    const holds = samples.filter((sample) => found.holds(sample)).length;
    const stops = !found.factor && found.name !== ZERO && stopsShort(formula, drawnFrom);
    const limit = holds < all ? WHILE_CLOSE : stops ? UNTIL_CLOSE : "";
    return { name: found.name + limit, holds, pairs: all };
  }
  if (samples.every(({ gradient }) => Math.max(...gradient.map(Math.abs)) < 1e-14))
    return { name: ZERO, holds: all, pairs: all };
  return { name: NONE, holds: 0, pairs: all, nearest: nearest(samples) };
}

// { name, holds(sample) } of the simplest explanation, or null.
function explained(samples, thorough) {
  if (samples.every(({ gradient, rounding }) => sizeOf(gradient) <= 0.02 * rounding))
    return { name: ZERO, holds: ({ gradient, rounding }) => sizeOf(gradient) <= 0.02 * rounding };
  const drowned = ({ gradient, rounding, tier }) =>
    tier <= ORDINARY && gradient.some((x) => x !== 0) && rounding > 0.15 * sizeOf(gradient);
  if (samples.some(drowned)) return null;
  // a function of the two distributions has a gradient that sums to 0
  if (
    samples.some(({ gradient, rounding }) => Math.abs(sum(gradient)) > allowed(gradient, rounding))
  )
    return null;
  let perToken = null;
  const plain = [ofTerms(1), ofTerms(2), ofTerms(3), ofDivergence, ofTemperedKl];
  for (const search of plain)
    for (const divided of [false, true]) {
      const part = divided ? (perToken ??= samples.map(timesVocabulary)) : samples;
      const terms = plainer(search(part));
      if (terms) return sumOfTerms(terms, divided);
    }
  const slow = [ofTemperedDivergence, ofTermsOverVocabulary, ofFamilyAndTerm, ofBothSkews];
  for (const search of [ofNamedAndKl, ...(thorough ? slow : [])]) {
    const terms = search(samples);
    if (terms) return sumOfTerms(terms, false);
  }
  return thorough ? ofFactor(samples) : null;
}

const allowed = (gradient, rounding) =>
  Math.sqrt(gradient.length) * (TOLERANCE * sizeOf(gradient) + rounding);

const timesVocabulary = (sample) => ({
  ...sample,
  gradient: sample.gradient.map((g) => g * sample.p.length),
  rounding: sample.rounding * sample.p.length,
});
const sumOfTerms = (terms, divided) => ({
  name: phrase(terms, divided),
  holds: (sample) => agrees(divided ? timesVocabulary(sample) : sample, combined(terms, sample)),
});

function* choices(list, count) {
  if (count === 0) yield [];
  for (let i = 0; count > 0 && i < list.length; i++)
    for (const rest of choices(list.slice(i + 1), count - 1)) yield [list[i], ...rest];
}
const firstOf = (found) => {
  for (const terms of found) if (terms) return terms;
  return null;
};
function* each(list, of) {
  for (const item of list) yield of(item);
}
const ofSums = (samples, terms, count) =>
  firstOf(each(choices(terms, count), (chosen) => confirmed(samples, chosen)));
const ofTerms = (count) => (samples) => ofSums(samples, TERMS, count);
const ofTermsOverVocabulary = (samples) => {
  const both = [...TERMS, ...TERMS_OVER_VOCABULARY];
  return ofSums(samples, both, 2) ?? ofSums(samples, both, 3);
};
const families = (list) => (samples) => plainest(list.map((family) => fitted(samples, family)));
const ofTemperedKl = families(TEMPERED_KLS);
const ofTemperedDivergence = families(TEMPERED_DIVERGENCES);
const ofBothSkews = families([BOTH_SKEWS]);
function ofDivergence(samples) {
  const found = DIVERGENCES.map((family) => fitted(samples, family));
  const named = NAMED.map((candidate) => confirmed(samples, [candidate]));
  return (
    plainest([...found, ...named]) ??
    simplerWeight(firstOf(each(WEIGHTS, (family) => fitted(samples, family))))
  );
}
const pairsOf = (list, others) => list.flatMap((a) => others.map((b) => [a, b]));
const NAMED_AND_KL = pairsOf(NAMED, TERMS.slice(0, 2));
const FAMILY_AND_TERM = [
  ...pairsOf([...DIVERGENCES, ...WEIGHTS], TERMS.slice(0, 2)),
  ...pairsOf([...DIVERGENCES, ...TEMPERED_KLS], TERMS),
];
const ofNamedAndKl = (samples) => firstOf(each(NAMED_AND_KL, (terms) => confirmed(samples, terms)));
const ofFamilyAndTerm = (samples) =>
  firstOf(each(FAMILY_AND_TERM, ([family, term]) => fitted(samples, family, [term])));

// a RKL + c entropy is (a - c) times the reverse KL to a tempered teacher: said so where that
// needs no factor.
function plainer(terms) {
  if (!terms || terms.map(([, { name }]) => name).join() !== "reverse KL,entropy") return terms;
  const [[reverse], [bonus]] = terms;
  if (Math.abs(reverse - bonus - 1) >= 1e-9) return terms;
  return [[1, reverseKlToTemperedTeacher(Number((1 / reverse).toPrecision(12)))]];
}

// One KL times a number that differs from pair to pair.
function ofFactor(samples) {
  for (const candidate of COMPARED.slice(0, 2)) {
    const along = (sample) => {
      const base = candidate.gradient(sample);
      const factor = sum(base.map((x, v) => x * sample.gradient[v])) / sum(base.map((x) => x * x));
      return [
        factor,
        agrees(
          sample,
          base.map((x) => factor * x),
        ),
      ];
    };
    const found = samples.map(along);
    const signs = new Set(found.map(([factor]) => Math.sign(factor)).filter((sign) => sign));
    if (!found.every(([, fits]) => fits) || signs.size !== 1) continue;
    const [sign] = signs;
    const power = powerLaw(
      samples,
      found.map(([factor]) => factor),
    );
    const name = power
      ? `${factorText(power)} × ${candidate.name}`
      : phrase([[sign, candidate]]) + FACTOR;
    return { name, factor: true, holds: (sample) => along(sample)[1] };
  }
  return null;
}

const QUANTITIES = {
  V: ({ p }) => p.length,
  "KL(p‖q)": ({ p, q }) => reverseKl(p, q),
  "KL(q‖p)": ({ p, q }) => forwardKl(p, q),
  "H(q)": ({ q }) => entropy(q),
  "H(p)": ({ p }) => entropy(p),
  "std(log p/q)": ({ p, q }) => {
    const mean = reverseKl(p, q);
    return Math.sqrt(sum(logRatio(p, q).map((r, v) => p[v] * (r - mean) ** 2)));
  },
};

// { number, quantity, power } where the factors are a number times a power of a known quantity.
function powerLaw(samples, factors) {
  if (factors.includes(0)) return null;
  for (const [quantity, of] of Object.entries(QUANTITIES)) {
    const x = samples.map((sample) => Math.log(of(sample)));
    const y = factors.map((factor) => Math.log(Math.abs(factor)));
    const fit = samples.flatMap((sample, i) => (sample.fit ? [i] : []));
    const mean = (list) => sum(fit.map((i) => list[i])) / fit.length;
    const [mx, my] = [mean(x), mean(y)];
    const slope =
      sum(fit.map((i) => (x[i] - mx) * (y[i] - my))) / sum(fit.map((i) => (x[i] - mx) ** 2));
    const power = Number(slope.toPrecision(6));
    if (!power) continue;
    let number = Math.sign(factors[0]) * Math.exp(my - slope * mx);
    const law = (i) => number * Math.exp(power * x[i]);
    const near = (factor, i) => Math.abs(factor - law(i)) <= 10 * TOLERANCE * Math.abs(law(i));
    if (!factors.every(near)) continue;
    number = Math.abs(number - 1) <= 10 * TOLERANCE ? 1 : Number(number.toPrecision(6));
    return { number, quantity, power };
  }
  return null;
}

// Whether the gradient is exactly 0 while the student is still beside its teacher.
function stopsShort(formula, drawnFrom) {
  const teacher = NOTES.teacher.map(Math.log);
  return [0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001].some((apart) => {
    const student = teacher.map((x, v) => x + apart * [0.5, -0.5, 0][v]);
    const weights = softmax(drawnFrom === "student" ? student : teacher);
    return meanGradient(lossTable(formula, student, teacher), weights).every((g) => g === 0);
  });
}

// The one of three divergences whose gradient has the largest mean cosine with it.
function nearest(samples) {
  const ordinary = samples.filter(({ tier }) => tier === ORDINARY);
  const cosine = ({ gradient }) => {
    const each = ordinary.map((sample) => {
      const base = gradient(sample);
      const overlap = sum(base.map((x, v) => x * sample.gradient[v]));
      return overlap / (Math.max(sizeOf(sample.gradient), 1e-300) * sizeOf(base));
    });
    return sum(each) / each.length;
  };
  const found = COMPARED.map((each) => ({ name: each.name, cosine: cosine(each) }));
  return found.reduce((best, each) => (each.cosine > best.cosine ? each : best));
}
