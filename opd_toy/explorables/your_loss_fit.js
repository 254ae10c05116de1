// Coefficients and parameters of an explanation: found on half of the ordinary pairs, kept if they
// hold on all, as in opd_toy/audit/token/fit.py.
// A sample is a pair with the measured `gradient`, its `rounding`, its `tier` and whether to `fit`.

import { sum } from "./mathematics.js";
import { shownLength } from "./your_loss_candidates.js";

export const TOLERANCE = 1e-9;
export const ORDINARY = 1; // pairs of a higher tier are far apart, those of tier 0 close

export const sizeOf = (vector) => Math.hypot(...vector);
export const combined = (terms, pair) => {
  const each = terms.map(([x, { gradient }]) => gradient(pair).map((g) => x * g));
  return each.reduce((a, b) => a.map((x, v) => x + b[v]));
};
export function agrees(sample, gradient) {
  const apart = sizeOf(sample.gradient.map((g, v) => g - gradient[v]));
  return apart <= TOLERANCE * sizeOf(sample.gradient) + sample.rounding;
}

// ---- least squares ----

const dot = (a, b) => sum(a.map((x, i) => x * b[i]));

// The coefficients of `columns` that come nearest `target`, and what is left over; null where
// the columns do not stand apart.
function leastSquares(columns, target) {
  const sizes = columns.map(sizeOf);
  if (!sizes.every((size) => size > 0 && Number.isFinite(size))) return null;
  const basis = [];
  const upper = []; // column j = sum of upper[j][i] basis[i]
  columns.forEach((column, j) => {
    let rest = column.map((x) => x / sizes[j]);
    upper.push([]);
    for (let pass = 0; pass < 2; pass++)
      basis.forEach((each, i) => {
        const share = dot(each, rest);
        upper[j][i] = (upper[j][i] ?? 0) + share;
        rest = rest.map((x, n) => x - share * each[n]);
      });
    upper[j].push(sizeOf(rest));
    basis.push(rest.map((x) => x / upper[j].at(-1)));
  });
  if (upper.some((row) => !(row.at(-1) > 1e-11))) return null;
  let left = target;
  const shares = basis.map((each) => {
    const share = dot(each, left);
    left = left.map((x, n) => x - share * each[n]);
    return share;
  });
  const found = shares.map(() => 0);
  for (let j = found.length - 1; j >= 0; j--) {
    const later = found.map((x, i) => (i > j ? x * upper[i][j] : 0));
    found[j] = (shares[j] - sum(later)) / upper[j][j];
  }
  return { coefficients: found.map((x, j) => x / sizes[j]), left };
}

// On the samples for fitting, each counting the same: `bases` are lists of gradients, one a sample.
function projected(samples, bases) {
  const most = Math.max(...samples.map(({ gradient }) => sizeOf(gradient)));
  const fit = samples.flatMap(({ fit: here }, i) => (here ? [i] : []));
  const weights = samples.map(({ gradient }) => 1 / Math.max(sizeOf(gradient), 1e-6 * most || 1));
  const stacked = (list) => fit.flatMap((i) => list[i].map((x) => weights[i] * x));
  const target = stacked(samples.map(({ gradient }) => gradient));
  const found = leastSquares(bases.map(stacked), target);
  if (!found || !found.coefficients.every(Number.isFinite))
    return { coefficients: bases.map(() => 0), distance: Infinity };
  return { ...found, distance: sizeOf(found.left) / Math.sqrt(fit.length) };
}

const gradientsOf = (samples, { gradient }) => samples.map(gradient);
const holds = (samples, bases, coefficients) =>
  samples.every((sample, i) => {
    const each = sample.gradient.map((_, v) =>
      sum(bases.map((base, j) => coefficients[j] * base[i][v])),
    );
    return agrees(sample, each);
  });

const decimals = (x) => [1, 2, 3, 4, 5, 6].map((digits) => Number(x.toPrecision(digits)));

// [[coefficient, candidate], …] of these candidates if their sum holds on all samples, else null.
export function confirmed(samples, terms) {
  const bases = terms.map((term) => gradientsOf(samples, term));
  let { coefficients, distance } = projected(samples, bases);
  if (distance > 1e-3) return null; // that alone rules most of them out
  if (!holds(samples, bases, coefficients)) return null;
  const tiny = (x, base) =>
    samples.every(
      ({ gradient }, i) => Math.abs(x) * sizeOf(base[i]) <= 10 * TOLERANCE * sizeOf(gradient),
    );
  if (coefficients.some((x, j) => tiny(x, bases[j]))) return null;
  const tried = coefficients.map(decimals);
  for (let n = 0; n < 6; n++) {
    const shorter = tried.map((list) => list[n]);
    if (shorter.every((x) => x !== 0) && holds(samples, bases, shorter)) {
      coefficients = shorter;
      break;
    }
  }
  return coefficients.map((x, j) => [x, terms[j]]);
}

// The same for a member of a family, its parameter fitted too, beside `terms`.
export function fitted(samples, family, terms) {
  const others = terms.map((term) => gradientsOf(samples, term));
  const left = family.grid.map(
    (x) => projected(samples, [gradientsOf(samples, family.member(x)), ...others]).distance,
  );
  const best = left.indexOf(Math.min(...left));
  if (!(left[best] < (terms.length ? 0.05 : 0.2))) return null;
  const value = polished(samples, family, family.grid[best], terms);
  if (value === null) return null;
  const [low, high] = family.bounds;
  for (const x of [...decimals(value), value]) {
    const found = low < x && x < high && confirmed(samples, [family.member(x), ...terms]);
    if (found) return found;
  }
  return null;
}

// The plainest among the families that hold: near its ends one may pass for another.
export const plainest = (found) =>
  found.reduce((best, terms) =>
    shownLength(terms[0][0]) < shownLength(best[0][0]) ? terms : best,
  );

// The parameter by variable projection: Gauss-Newton on what the coefficients leave over.
function polished(samples, family, start, terms) {
  const [inside, outside] = unbounded(...family.bounds);
  // far apart, the dependence on the parameter is too wild to follow
  const near = samples.filter(({ fit, tier }) => fit && tier <= ORDINARY);
  const others = terms.map((term) => gradientsOf(near, term));
  const base = (u) => gradientsOf(near, family.member(inside(u)));
  let u = outside(start);
  let here = projected(near, [base(u), ...others]);
  for (let round = 0; round < 25; round++) {
    let change = newtonStep(near, base, u, here.coefficients[0], others);
    if (change === null) return null;
    let there = null;
    for (let i = 0; i < 6; i++) {
      there = projected(near, [base(u + change), ...others]);
      if (there.distance <= here.distance) break;
      there = null;
      change /= 4;
    }
    if (!there) break;
    const stalled = there.distance > Math.max(0.8 * here.distance, 1e-6);
    [u, here] = [u + change, there];
    if (stalled || Math.abs(change) < 1e-14 * Math.max(1, Math.abs(u))) break;
  }
  return inside(u);
}

// At most 1 either way; null where it is not finite.
function newtonStep(samples, base, u, coefficient, others, size = 1e-5) {
  const [ahead, behind] = [base(u + size), base(u - size)];
  const slope = ahead.map((list, i) =>
    list.map((x, v) => (coefficient * (x - behind[i][v])) / (2 * size)),
  );
  const change = projected(samples, [base(u), ...others, slope]).coefficients.at(-1);
  return Number.isFinite(change) ? Math.min(Math.max(change, -1), 1) : null;
}

// [a function from all numbers to those between the bounds, its inverse]
function unbounded(low, high) {
  if (!Number.isFinite(low)) return [(u) => u, (x) => x];
  return [(u) => low + (high - low) / (1 + Math.exp(-u)), (x) => Math.log((x - low) / (high - x))];
}
