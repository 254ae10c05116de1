import { number, percent, said } from "./interface.js";
import { agree, close, NAMES } from "./baselines_estimators.js";

const three = (x) => number(x, 3);

// `points`: the marked baselines; `variance`: the total variance at a baseline.
export function describeBaseline({ p, q, b, points, variance, advantage }) {
  if (agree(p, q)) {
    const at = b === 0 ? -1 : b;
    return said(
      "Student and teacher agree: without a baseline every draw's gradient is 0.",
      "Any other b only adds noise around the same mean,",
      `of variance ${three(variance(at))} at b = ${b === 0 ? "−1" : number(b)}.`,
    );
  }
  const [withKl, least] = [variance(points.kl), variance(points.best)];
  return said(
    b === 0
      ? `Without a baseline the total variance is ${three(variance(b))}.`
      : `At b = ${number(b)} the total variance is ${against(variance(b), variance(0))}.`,
    `With KL(p‖q) = ${number(points.kl)} as the baseline it is ${three(withKl)},`,
    `${judged(withKl, variance(0), least)}.`,
    close(withKl, least) ? "" : `The least is ${three(least)}, at b = ${number(points.best)}.`,
    "The mean does not move with b. Put in the advantage's place,",
    `the KL has mean 0 and variance ${three(advantage)}: noise that teaches nothing.`,
  );
}

function against(now, plain) {
  const than = `plain policy gradient's ${three(plain)}`;
  if (close(now, plain)) return `${three(now)}, as much as plain policy gradient's`;
  if (now < plain) return `${three(now)}, ${percent(1 - now / plain)} below ${than}`;
  const more =
    now < 2 * plain ? `${percent(now / plain - 1)} above` : `${number(now / plain, 1)} times`;
  return `${three(now)}, ${more} ${than}`;
}

function judged(withKl, plain, least) {
  if (close(withKl, least)) return "the least that any can give";
  if (close(withKl, plain)) return "as much as without one";
  return withKl > plain ? "more than without one" : "less than without one";
}

// What each estimator in each use follows, and why.
const WHY = {
  "k1 loss": [
    "Differentiating the log-ratio of a draw leaves ∇log p, whose mean is 0:",
    "it teaches nothing.",
  ],
  "k1 reward": ["That is the plain policy gradient: on average it follows reverse KL."],
  "k2 loss": [
    "Draw for draw it is the plain policy gradient:",
    "on average it follows reverse KL.",
  ],
  "k2 reward": [
    "The square forgets the sign of the log-ratio: on average it follows the gradient of",
    "E[x²/2] less that of reverse KL, which is neither KL nor their difference.",
  ],
  "k3 loss": ["k3 estimates reverse KL, but its derivative on average follows forward KL."],
  "k3 reward": [
    "On average it follows reverse minus forward KL:",
    "descending it climbs forward KL.",
  ],
};
const WHY_ZERO = [
  "The square forgets the sign of the log-ratio. Here every token is off by the same factor,",
  "up or down, and the mean is 0 although p is not q.",
];

// `found`: what the estimator's mean was recognised as; `against`: tokens pushed against both KLs.
export function describeEstimator({ p, q, kind, use, total, plain, found, against: pushed }) {
  const name = `${kind} as a ${use}`;
  if (agree(p, q)) {
    const draw = total > 1e-12 ? `is not: its total variance is ${three(total)}` : "is 0 too";
    return said(
      "Student and teacher agree, so both KLs and their gradients are 0,",
      `and so is the mean of ${name}; a draw of it ${draw}.`,
    );
  }
  const key = `${kind} ${use}`;
  const why = key === "k2 reward" && found.includes(NAMES[0]) ? WHY_ZERO : WHY[key];
  const digits = total < 0.1 * plain ? 4 : 2;
  const spread = close(total, plain)
    ? "the same as plain policy gradient's"
    : `${number(total / plain, digits)} times plain policy gradient's ${three(plain)}`;
  return said(
    `${name}.`,
    ...why,
    pushed.length && `It moves ${pushed.join(" and ")} against both KLs.`,
    `Its total variance is ${three(total)}, ${spread}.`,
  );
}
