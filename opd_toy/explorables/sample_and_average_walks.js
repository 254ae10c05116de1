import { fillUniforms } from "./draws.js";
import { TOKENS } from "./interface.js";

export const LOGITS = TOKENS.map((name) => name.replace("t", "z"));
export const MOST = 4096;
export const NOTHING = 1e-12; // a spread that is rounding only
export const WALKS = 100; // the first is the reader's, the others are faint
// The numbers of draws at which walks are recorded: every one at first, then evenly on a log axis.
export const STOPS = [0];
while (STOPS[STOPS.length - 1] < MOST) {
  const last = STOPS[STOPS.length - 1];
  STOPS.push(Math.min(MOST, Math.max(last + 1, Math.round(last * 1.06))));
}
// Every stop but the first; the faint walks need fewer.
export const EVERY = STOPS.map((_, s) => s).slice(1);
export const SOME = EVERY.filter((s) => s <= 12 || (STOPS.length - 1 - s) % 4 === 0);
const stopsOf = (w) => (w ? SOME : EVERY);
// The settings of the slider of draws: 0, 1, 2, 3, 4, 6, 8, 12, … 4096.
export const SETTINGS = [
  0,
  1,
  2,
  3,
  ...Array.from({ length: 11 }, (_, i) => [2 ** i * 4, 2 ** i * 6])
    .flat()
    .slice(0, -1),
];

// Draw i of walk w is decided by one number of the seed's stream, whatever the student:
// so a walk bends, not jumps, when the student changes.  Extends every walk to `end` draws.
function extend(numbers, seed, from, end) {
  for (let w = 0; w < WALKS; w++) {
    const first = w * MOST;
    fillUniforms(numbers, first + from, first + end, seed, first + from);
  }
}

// Count on from counts[from], counts[from + 1] over draws `first` to `end` of walk w and write to
// counts[to], counts[to + 1]: how often the first token, and the first or the second.
function tally(numbers, counts, from, to, first, end, w, p) {
  const [one, both] = [p[0], p[0] + p[1]];
  let a = counts[from];
  let b = counts[from + 1];
  const last = w * MOST + end;
  for (let i = w * MOST + first; i < last; i++) {
    if (numbers[i] >= both) continue;
    b += 1;
    if (numbers[i] < one) a += 1;
  }
  counts[to] = a;
  counts[to + 1] = b;
}

// The counts of every walk w at its stops as far as STOPS[end]: at STOPS[s] those of placeOf(w, s).
const placeOf = (w, s) => 2 * (w * STOPS.length + s);
function record(numbers, p, end) {
  const counts = new Int32Array(2 * WALKS * STOPS.length + 2); // and two to work with
  for (let w = 0; w < WALKS; w++) {
    let before = 0;
    for (const s of stopsOf(w)) {
      if (s > end) break;
      tally(numbers, counts, placeOf(w, before), placeOf(w, s), STOPS[before], STOPS[s], w, p);
      before = s;
    }
  }
  return counts;
}

// The mean gradient on logit j of n draws, from the counts at `place`.
const meanAt = (rows, j, counts, place, n) =>
  (counts[place] * rows[0][j] +
    (counts[place + 1] - counts[place]) * rows[1][j] +
    (n - counts[place + 1]) * rows[2][j]) /
  n;
export const norm = (x) => Math.hypot(...x);

// means[j][w][s]: the mean gradient on logit j of walk w at STOPS[s], one of its stops.
const meansOf = (counts, rows, end) =>
  LOGITS.map((_, j) =>
    Array.from({ length: WALKS }, (__, w) => {
      const means = [];
      for (const s of stopsOf(w)) {
        if (s > end) break;
        means[s] = meanAt(rows, j, counts, placeOf(w, s), STOPS[s]);
      }
      return means;
    }),
  );

// All walks of a setting.  What does not change with it is kept from one call to the next.
export function allWalks() {
  const decided = new Float64Array(WALKS * MOST);
  let seeded, reached, stored, counts, means;
  return {
    // As far as n draws, and on to the next power of two: `end` is the last stop recorded.
    // Calls redraw(means, end) where the lines are no longer the same.
    reach(p, rows, seed, j, n, redraw) {
      const end = STOPS.findIndex((stop) => stop >= 2 ** Math.ceil(Math.log2(Math.max(n, 1))));
      if (seed !== seeded) [seeded, reached] = [seed, 0];
      if (STOPS[end] > reached) {
        extend(decided, seed, reached, STOPS[end]);
        reached = STOPS[end];
      }
      const key = JSON.stringify([p, rows, seed, j, end]);
      if (key === stored) return;
      stored = key;
      counts = record(decided, p, end);
      means = meansOf(counts, rows, end);
      redraw(means, end);
    },
    // Every walk's mean after exactly n draws.
    latest(n, p, rows) {
      const spare = counts.length - 2;
      const last = [0, 1].map((w) => stopsOf(w).findLast((s) => STOPS[s] <= n) ?? 0);
      return Array.from({ length: WALKS }, (_, w) => {
        const s = last[Math.min(w, 1)];
        tally(decided, counts, placeOf(w, s), spare, STOPS[s], n, w, p);
        return LOGITS.map((_, j) => meanAt(rows, j, counts, spare, n));
      });
    },
  };
}
