// Random draws: the same from the same seed.

// A source of numbers in [0, 1): the generator mulberry32, after `skipped` numbers.
export function uniforms(seed, skipped = 0) {
  let position = (seed + Math.imul(skipped, 0x6d2b79f5)) >>> 0;
  return () => {
    position = (position + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(position ^ (position >>> 15), position | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// The token that u in [0, 1) draws from p.
export function drawn(p, u) {
  let v = 0;
  for (let top = p[0]; u >= top && v < p.length - 1; top += p[v]) v += 1;
  return v;
}
