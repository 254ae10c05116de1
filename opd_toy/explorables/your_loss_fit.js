// Coefficients and parameters of an explanation: found on half of the ordinary pairs, kept if they
// hold on all, as in opd_toy/audit/token/fit.py.
// A sample is a `pair` with the measured `gradient`, its `rounding`, its `tier` and whether it is
// one to `fit`.

import { sum } from "./mathematics.js";
import { shownLength } from "./your_loss_candidates.js";

export const TOLERANCE = 1e-9;
export const ORDINARY = 1; // pairs of a higher tier are far apart, those of tier 0 close

function dot(a, b) {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
}
export const sizeOf = (vector) => Math.sqrt(dot(vector, vector));
export const combined = (terms, pair) => {
  const each = terms.map(([x, { gradient }]) => gradient(pair).map((g) => x * g));
  return each.reduce((a, b) => a.map((x, v) => x + b[v]));
};
export function agrees(sample, gradient) {
  const apart = sizeOf(sample.gradient.map((g, v) => g - gradient[v]));
  return apart <= TOLERANCE * sizeOf(sample.gradient) + sample.rounding;
}

// ---- least squares ----

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

const weighings = new WeakMap();
// Of samples: those for fitting, what each counts (all the same), and their gradients in a row.
function weighing(samples) {
  if (!weighings.has(samples)) {
    const most = Math.max(...samples.map(({ gradient }) => sizeOf(gradient)));
    const fit = samples.flatMap(({ fit: here }, i) => (here ? [i] : []));
    const weights = samples.map(({ gradient }) => 1 / Math.max(sizeOf(gradient), 1e-6 * most || 1));
    const stacked = (list) => {
      const row = [];
      for (const i of fit) for (const x of list[i]) row.push(weights[i] * x);
      return row;
    };
    const target = stacked(samples.map(({ gradient }) => gradient));
    weighings.set(samples, { stacked, target, count: fit.length });
  }
  return weighings.get(samples);
}

// What of the samples' gradients `bases` (lists of gradients, one a sample) leave over.
function projected(samples, bases) {
  const { stacked, target, count } = weighing(samples);
  const found = leastSquares(bases.map(stacked), target);
  if (!found || !found.coefficients.every(Number.isFinite))
    return { coefficients: bases.map(() => NaN), distance: Infinity };
  return { ...found, distance: sizeOf(found.left) / Math.sqrt(count) };
}

// Candidates that come again are computed once on each pair.
const gradientsOf = (samples, { gradient, seen }) =>
  samples.map(({ pair }) => {
    if (!seen) return gradient(pair);
    if (!seen.has(pair)) seen.set(pair, gradient(pair));
    return seen.get(pair);
  });
const remembered = new WeakMap(); // of a family its grid, of a candidate itself
const lasting = (candidate) => {
  if (!remembered.has(candidate)) remembered.set(candidate, { ...candidate, seen: new Map() });
  return remembered.get(candidate);
};
const gridOf = (family) => {
  if (!remembered.has(family))
    remembered.set(
      family,
      family.grid.map((values) =>
        family.members(...values).map((each) => ({ ...each, seen: new Map() })),
      ),
    );
  return remembered.get(family);
};
const holds = (samples, bases, coefficients) =>
  samples.every((sample, i) => {
    const total = sample.gradient.map(() => 0);
    bases.forEach((base, j) => base[i].forEach((x, v) => (total[v] += coefficients[j] * x)));
    return agrees(sample, total);
  });

const decimals = (x) => [1, 2, 3, 4, 5, 6].map((digits) => Number(x.toPrecision(digits)));

// [[coefficient, candidate], …] of these candidates if their sum holds on all samples, else null.
export function confirmed(samples, terms) {
  const bases = terms.map((term) => gradientsOf(samples, lasting(term)));
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

// The same for members of a family, its parameters fitted too, beside `terms`.
export function fitted(samples, family, terms = []) {
  const others = terms.map((term) => gradientsOf(samples, lasting(term)));
  const left = gridOf(family).map((members) => {
    const bases = members.map((each) => gradientsOf(samples, each));
    return projected(samples, [...bases, ...others]).distance;
  });
  const best = left.indexOf(Math.min(...left));
  if (!(left[best] < (terms.length ? 0.05 : 0.2))) return null;
  const values = polished(samples, family, family.grid[best], terms);
  if (values === null) return null;
  const rounded = [0, 1, 2, 3, 4, 5].map((n) => values.map((x) => decimals(x)[n]));
  for (const tried of [...rounded, values]) {
    const inside = tried.every((x, i) => family.bounds[i][0] < x && x < family.bounds[i][1]);
    const found = inside && confirmed(samples, [...family.members(...tried), ...terms]);
    if (found) return found;
  }
  return null;
}

// The plainest among those that hold: near its ends one family may pass for another.
export function plainest(found) {
  const held = found.filter(Boolean);
  if (!held.length) return null;
  return held.reduce((best, terms) =>
    shownLength(terms[0][0]) < shownLength(best[0][0]) ? terms : best,
  );
}

// The parameters by variable projection: Gauss-Newton on what the coefficients leave over.
function polished(samples, family, start, terms) {
  const maps = family.bounds.map((bounds) => unbounded(...bounds));
  // far apart, the dependence on the parameters is too wild to follow
  const near = samples.filter(({ fit, tier }) => fit && tier <= ORDINARY);
  const others = terms.map((term) => gradientsOf(near, term));
  const inside = (u) => u.map((x, i) => maps[i][0](x));
  const bases = (u) => family.members(...inside(u)).map((each) => gradientsOf(near, each));
  let u = start.map((x, i) => maps[i][1](x));
  let here = projected(near, [...bases(u), ...others]);
  for (let round = 0; round < 25; round++) {
    let change = newtonStep(near, bases, u, here.coefficients, others);
    if (change === null) return null;
    let there = null;
    for (let i = 0; i < 6; i++) {
      const moved = u.map((x, n) => x + change[n]);
      there = projected(near, [...bases(moved), ...others]);
      if (there.distance <= here.distance) break;
      there = null;
      change = change.map((x) => x / 4);
    }
    if (!there) break;
    const stalled = there.distance > Math.max(0.8 * here.distance, 1e-6);
    [u, here] = [u.map((x, n) => x + change[n]), there];
    if (stalled || change.every((x, n) => Math.abs(x) < 1e-14 * Math.max(1, Math.abs(u[n])))) break;
  }
  return inside(u);
}

// At most 1 either way; null where it is not finite.
function newtonStep(samples, bases, u, coefficients, others, size = 1e-5) {
  const shifted = (n, by) => bases(u.map((x, i) => (i === n ? x + by : x)));
  const slopes = u.map((_, n) => {
    const [ahead, behind] = [shifted(n, size), shifted(n, -size)];
    return ahead[0].map((list, i) =>
      list.map((_, v) =>
        sum(
          ahead.map((each, j) => (coefficients[j] * (each[i][v] - behind[j][i][v])) / (2 * size)),
        ),
      ),
    );
  });
  const change = projected(samples, [...bases(u), ...others, ...slopes]).coefficients;
  const found = change.slice(-u.length).map((x) => Math.min(Math.max(x, -1), 1));
  return found.every(Number.isFinite) ? found : null;
}

// [a function from all numbers to those between the bounds, its inverse]
function unbounded(low, high) {
  if (!Number.isFinite(low)) return [(u) => u, (x) => x];
  if (!Number.isFinite(high)) return [(u) => low + Math.exp(u), (x) => Math.log(x - low)];
  return [(u) => low + (high - low) / (1 + Math.exp(-u)), (x) => Math.log((x - low) / (high - x))];
}
