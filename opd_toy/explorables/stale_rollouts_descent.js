// What each correction follows, and where descent on it ends.

import {
  expectation,
  kl,
  policyGradient,
  reverseKlLogitGradient,
  softmax,
  sum,
  totalVariance,
} from "./mathematics.js";
import {
  passed,
  secondMoment,
  staleCost,
  stalePolicyGradient,
  staleWeights,
  tokenRatio,
} from "./off_policy_mathematics.js";

export const CORRECTIONS = [
  { key: "none", label: "none" },
  { key: "ratio", label: "ratio" },
  { key: "truncate", label: "truncated" },
  { key: "mask", label: "masked" },
  { key: "clip", label: "clipped" },
];
export const STEPS = 400;
const RATE = 0.5; // of a step, on the logits
const LATE = 64; // the steps at the end by which one tells whether descent has come to rest
export const MOST_TOKENS = 64;

// What the sampler draws from: with top-p the rarest token never comes.
export function drawnFrom(behaviour, sampler) {
  if (sampler === "all") return behaviour;
  const rarest = behaviour.indexOf(Math.min(...behaviour));
  const kept = behaviour.map((x, v) => (v === rarest ? 0 : x));
  const total = sum(kept);
  return kept.map((x) => x / total);
}

export const limitsOf = (correction, { most, low, high, epsilon }) =>
  ({ truncate: most, mask: [low, high], clip: [epsilon, epsilon] })[correction] ?? null;

export const normOf = (g) => Math.sqrt(sum(g.map((x) => x * x)));

// Descent on the expected gradient from the student: with `every`, the behaviour is the student
// of that many steps before at most, else the one given to the end.
function descentFrom({ p, q, mu, sampler, correction, cost, limits }, every) {
  const path = [p];
  let [logits, now, behaviour] = [p.map(Math.log), p, mu];
  for (let n = 0; n < STEPS; n++) {
    if (every && n && n % every === 0) behaviour = drawnFrom(now, sampler);
    const weights = staleWeights(now, q, behaviour, correction, limits, cost);
    const pushes = weights.map((w, v) => (behaviour[v] === 0 ? 0 : behaviour[v] * w));
    const total = sum(pushes);
    // the mean of w_k (δ_kj - p_j), without its table: the same to rounding
    logits = logits.map((z, v) => z - RATE * (pushes[v] - now[v] * total));
    now = softmax(logits);
    path.push(now);
  }
  return path;
}

// "teacher", "corner" (one token has all), "moves" (it has not come to rest), "elsewhere".
function kindOf(path, q) {
  const end = path.at(-1);
  if (end.every((x, v) => Math.abs(x - q[v]) < 0.005)) return "teacher";
  if (Math.max(...end) > 0.98) return "corner";
  const late = path.slice(-LATE);
  const moves = end.some((_, v) => {
    const values = late.map((each) => each[v]);
    return Math.max(...values) - Math.min(...values) > 0.02;
  });
  return moves ? "moves" : "elsewhere";
}

// All that the slider shows at a setting.
export function shownAt(setting) {
  const { student: p, teacher: q, behaviour, sampler, correction, cost, renew } = setting;
  const mu = drawnFrom(behaviour, sampler);
  const exact = reverseKlLogitGradient(p, q);
  const [size, fresh] = [normOf(exact), totalVariance(p, policyGradient(p, q))];
  const agree = size < 1e-9; // there is nothing to compare with
  const compared = CORRECTIONS.map(({ key }) => {
    const rows = stalePolicyGradient(p, q, mu, key, limitsOf(key, setting), cost);
    const mean = expectation(mu, rows);
    return {
      key,
      mean,
      off: agree ? NaN : normOf(mean.map((g, v) => g - exact[v])) / size,
      spread: agree ? NaN : totalVariance(mu, rows) / fresh,
    };
  });
  const limits = limitsOf(correction, setting);
  const costs = staleCost(p, q, mu, cost);
  const ratios = tokenRatio(p, mu);
  const factors = ratios.map((ratio, v) => passed(ratio, costs[v], correction, limits));
  const given = { p, q, mu, sampler, correction, cost, limits };
  const ends = [0, renew].map((every) => {
    const path = descentFrom(given, every);
    return { every, path, kind: kindOf(path, q), end: path.at(-1), left: kl(path.at(-1), q) };
  });
  const chosen = compared.find(({ key }) => key === correction);
  const [moment, start] = [secondMoment(p, mu), kl(p, q)];
  const results = { exact, agree, compared, chosen, ratios, factors, ends, moment, start };
  return { ...given, behaviour, ...results };
}

// The share of texts of T tokens that speak under the product of their ratios.
export const shareOf = (moment, length) => moment ** -length;
// The longest text of which one in ten still speaks.
export const lastLength = (moment) => Math.floor(Math.log(10) / Math.log(moment));
