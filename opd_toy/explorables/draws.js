// Random draws: the same from the same seed.

// The generator mulberry32: its state moves on by MULBERRY, and a number in [0, 1) is mixed of it.
const MULBERRY = 0x6d2b79f5;
function mixedOf(state) {
  let mixed = Math.imul(state ^ (state >>> 15), state | 1);
  mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
  return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
}
const stateAfter = (seed, skipped) => (seed + Math.imul(skipped, MULBERRY)) | 0;

// A source of numbers, after `skipped` numbers.
export function uniforms(seed, skipped = 0) {
  let state = stateAfter(seed, skipped);
  return () => {
    state = (state + MULBERRY) | 0;
    return mixedOf(state);
  };
}

// The same numbers, written to found[from] to found[end - 1]: far faster where there are many.
export function fillUniforms(found, from, end, seed, skipped = 0) {
  let state = stateAfter(seed, skipped);
  for (let i = from; i < end; i++) {
    state = (state + MULBERRY) | 0;
    found[i] = mixedOf(state);
  }
}

// The token that u in [0, 1) draws from p.
export function drawn(p, u) {
  let v = 0;
  for (let top = p[0]; u >= top && v < p.length - 1; top += p[v]) v += 1;
  return v;
}
