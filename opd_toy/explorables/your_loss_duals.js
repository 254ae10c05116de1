// A formula's value and its derivatives by the student's logits, carried forward together.
// A dual is { x, d }: d is the list of V derivatives, or null for what does not move.

import { expectation, logSoftmax, softmax, sum, totalVariance } from "./mathematics.js";

const constant = (x) => ({ x, d: null });
const one = (x, a, slope) => ({ x, d: a.d && a.d.map((u) => slope * u) });
const two = (x, a, slopeA, b, slopeB) => {
  if (!a.d) return one(x, b, slopeB);
  if (!b.d) return one(x, a, slopeA);
  return { x, d: a.d.map((u, j) => slopeA * u + slopeB * b.d[j]) };
};
// The derivatives of a weighted sum of a list.
const weighed = (list, weights) => {
  const moving = list.find(({ d }) => d);
  if (!moving) return null;
  const total = moving.d.map(() => 0);
  for (let i = 0; i < list.length; i++) {
    const { d } = list[i];
    for (let j = 0; d && j < total.length; j++) total[j] += weights[i] * d[j];
  }
  return total;
};
const whole = (list) =>
  weighed(
    list,
    list.map(() => 1),
  );

// ---- of single numbers; at a tie or an edge the slopes are PyTorch's ----

const power = (a, b) => {
  const x = a.x ** b.x;
  const slope = b.x === 0 ? 0 : b.x * a.x ** (b.x - 1);
  return two(x, a, slope, b, b.d && (a.x === 0 ? 0 : x * Math.log(a.x)));
};
const compared = (test) => (a, b) => constant(test(a.x, b.x));
const OPERATIONS = {
  "+": (a, b) => two(a.x + b.x, a, 1, b, 1),
  "-": (a, b) => two(a.x - b.x, a, 1, b, -1),
  "*": (a, b) => two(a.x * b.x, a, b.x, b, a.x),
  "/": (a, b) => two(a.x / b.x, a, 1 / b.x, b, -a.x / (b.x * b.x)),
  "^": power,
  "<": compared((a, b) => a < b),
  ">": compared((a, b) => a > b),
  "<=": compared((a, b) => a <= b),
  ">=": compared((a, b) => a >= b),
  "==": compared((a, b) => a === b),
  "!=": compared((a, b) => a !== b),
};
const smooth = (of, slope) => (a) => {
  const x = of(a.x);
  return one(x, a, slope(x, a.x));
};
const within = (a, low, high) =>
  one(Math.min(Math.max(a.x, low), high), a, low <= a.x && a.x <= high ? 1 : 0);
// The smaller (sign 1) or the larger (sign -1) of two.
const smaller = (sign) => (a, b) => {
  const ahead = sign * (b.x - a.x); // above 0: it is a
  const share = ahead > 0 ? 1 : ahead < 0 ? 0 : 0.5;
  return two(ahead >= 0 ? a.x : b.x, a, share, b, 1 - share);
};
const ELEMENTWISE = {
  log: smooth(Math.log, (y, x) => 1 / x),
  exp: smooth(Math.exp, (y) => y),
  sqrt: smooth(Math.sqrt, (y) => 0.5 / y),
  abs: smooth(Math.abs, (y, x) => Math.sign(x)),
  tanh: smooth(Math.tanh, (y) => 1 - y * y),
  sigmoid: smooth(
    (x) => 1 / (1 + Math.exp(-x)),
    (y) => y * (1 - y),
  ),
  sg: (a) => constant(a.x),
  clamp: (a, low, high) => within(a, low.x, high.x),
  where: (test, a, b) => (test.x ? two(a.x, a, 1, b, 0) : two(b.x, a, 0, b, 1)),
  min: smaller(1),
  max: smaller(-1),
};

// ---- of lists ----

const values = (list) => list.map(({ x }) => x);
const extreme = (pick) => (list) => {
  const x = pick(...values(list));
  const held = list.map((each) => each.x === x);
  const share = 1 / held.filter(Boolean).length; // of a tie each has its share
  const weights = held.map((there) => (there ? share : 0));
  return { x, d: weighed(list, weights) };
};
const REDUCED = {
  sum: (list) => ({ x: sum(values(list)), d: whole(list) }),
  mean: (list) => one(sum(values(list)) / list.length, { d: whole(list) }, 1 / list.length),
  min: extreme(Math.min),
  max: extreme(Math.max),
};
const softened = (list) => {
  const chances = softmax(values(list));
  const mean = weighed(list, chances);
  return list.map(({ d }, i) => ({
    x: chances[i],
    d: mean && mean.map((m, j) => chances[i] * ((d ? d[j] : 0) - m)),
  }));
};
const logSoftened = (list) => {
  const chances = softmax(values(list));
  const mean = weighed(list, chances);
  return logSoftmax(values(list)).map((x, i) => ({
    x,
    d: mean && mean.map((m, j) => (list[i].d ? list[i].d[j] : 0) - m),
  }));
};

const spread = (of, parts) => {
  const list = parts.find(Array.isArray);
  if (!list) return of(...parts);
  return list.map((_, i) => of(...parts.map((part) => (Array.isArray(part) ? part[i] : part))));
};

// ---- a formula ----

// What the names stand for at these logits; few formulas ask for all of them.
const givens = (student, teacher) => ({
  z: () => student.map((x, i) => ({ x, d: student.map((_, j) => (i === j ? 1 : 0)) })),
  t: () => teacher.map(constant),
  p: (of) => softened(of("z")),
  q: () => softmax(teacher).map(constant),
  "log p": (of) => logSoftened(of("z")),
  "log q": () => logSoftmax(teacher).map(constant),
  V: () => constant(student.length),
});

// { values, rows }: the loss and its gradient for each drawn token k, at logits of both.
export function lossTable({ settings, loss }, student, teacher) {
  const known = givens(student, teacher);
  const given = {};
  const named = (name) => (given[name] ??= known[name](named));
  const mine = Object.fromEntries(settings);
  const fixed = new Map(); // what does not depend on the drawn token is computed once
  let [kept, token] = [new Map(), 0];

  function of(part) {
    const memory = part.drawn ? kept : fixed;
    if (!memory.has(part)) memory.set(part, computed(part));
    return memory.get(part);
  }
  function computed({ kind, name, parts }) {
    if (kind === "number") return constant(Number(name));
    if (kind === "name") return Object.hasOwn(mine, name) ? of(mine[name]) : named(name);
    if (kind === "at") return of(parts[0])[token];
    if (name === "log" && parts[0].kind === "name" && ["p", "q"].includes(parts[0].name))
      return named(`log ${parts[0].name}`);
    const inner = parts.map(of);
    if (kind === "minus") return spread((a) => one(-a.x, a, -1), inner);
    if (kind === "op") return spread(OPERATIONS[name], inner);
    if (name === "softmax") return softened(...inner);
    if (name === "log_softmax") return logSoftened(...inner);
    if (REDUCED[name] && parts.length === 1) return REDUCED[name](...inner);
    if (parts.length === 2 && parts.some((part) => part.plain)) {
      // beside a plain number min and max are a clamp
      const [a, bound] = parts[1].plain ? inner : [inner[1], inner[0]];
      const ends = name === "min" ? [-Infinity, bound.x] : [bound.x, Infinity];
      return spread((x) => within(x, ...ends), [a]);
    }
    return spread(ELEMENTWISE[name], inner);
  }
  const results = student.map((_, k) => {
    [kept, token] = [new Map(), k];
    return of(loss);
  });
  return {
    values: results.map(({ x }) => x),
    rows: results.map(({ d }) => d ?? student.map(() => 0)),
  };
}

// The expected gradient over tokens drawn from `weights`, and how single draws spread about it.
export const meanGradient = ({ rows }, weights) => expectation(weights, rows);
export function moments({ rows }, weights) {
  const mean = expectation(weights, rows);
  const deviation = mean.map((m, j) =>
    Math.sqrt(sum(rows.map((row, k) => weights[k] * (row[j] - m) ** 2))),
  );
  return { mean, deviation, variance: totalVariance(weights, rows) };
}
