// The objectives, the field of their descent, and where the two KLs disagree.

import {
  alphaDivergence,
  alphaDivergenceLogitGradient,
  forwardKl,
  forwardKlLogitGradient,
  generalizedJsd,
  generalizedJsdLogitGradient,
  kl,
  reverseKl,
  reverseKlLogitGradient,
  skewedForwardKl,
  skewedForwardKlLogitGradient,
  skewedReverseKl,
  skewedReverseKlLogitGradient,
  step,
  sum,
} from "./mathematics.js";

// What the JSD is divided by; at its ends it is one of the KLs by definition.
const strength = (beta) => beta * (1 - beta) || 1;

export const OBJECTIVES = {
  forward_kl: {
    label: "forward KL",
    role: "forward-kl",
    cost: forwardKl,
    gradient: forwardKlLogitGradient,
  },
  reverse_kl: {
    label: "reverse KL",
    role: "reverse-kl",
    cost: reverseKl,
    gradient: reverseKlLogitGradient,
  },
  jsd: {
    label: "JSD(β)",
    role: "jsd",
    parameter: "beta",
    cost: generalizedJsd,
    gradient: generalizedJsdLogitGradient,
  },
  rescaled_jsd: {
    label: "JSD(β) / β(1−β)",
    role: "jsd",
    parameter: "beta",
    cost: (p, q, beta) => generalizedJsd(p, q, beta) / strength(beta),
    gradient: (p, q, beta) =>
      generalizedJsdLogitGradient(p, q, beta).map((g) => g / strength(beta)),
  },
  alpha: {
    label: "α-divergence",
    role: "muted",
    parameter: "alpha",
    cost: alphaDivergence,
    gradient: alphaDivergenceLogitGradient,
  },
  skewed_forward_kl: {
    label: "skewed forward KL",
    role: "forward-kl",
    parameter: "skew",
    cost: skewedForwardKl,
    gradient: skewedForwardKlLogitGradient,
  },
  skewed_reverse_kl: {
    label: "skewed reverse KL",
    role: "reverse-kl",
    parameter: "skew",
    cost: skewedReverseKl,
    gradient: skewedReverseKlLogitGradient,
  },
};
export const PARAMETERS = {
  beta: { label: "β of the JSD", min: 0, max: 1 },
  alpha: { label: "α of the divergence", min: -0.5, max: 1.5 },
  skew: { label: "skew", min: 0, max: 0.99 },
};
// The velocity of the probabilities under gradient flow on the logits.
export const velocity = (p, gradient) => {
  const mean = sum(p.map((x, v) => x * gradient[v]));
  return p.map((x, v) => -x * (gradient[v] - mean));
};

// Where forward KL lowers token j and reverse KL raises it: above its teacher's
// probability, on the two sides of the lens where log(p_j/q_j) = KL(p || q).  (Below it
// both raise the token, for KL is never negative.)  KL is convex along a line of
// constant p_j, so bisection from its minimum finds each side's edge.
export function disagreement(teacher, token, rows = 40) {
  const [a, b] = [0, 1, 2].filter((v) => v !== token);
  const share = teacher[a] / (teacher[a] + teacher[b]);
  const at = (height, x) => {
    const p = [0, 0, 0];
    p[token] = height;
    p[a] = (1 - height) * x;
    p[b] = (1 - height) * (1 - x);
    return p;
  };
  const excess = (height, x) => kl(at(height, x), teacher) - Math.log(height / teacher[token]);
  const edge = (height, end) => {
    if (excess(height, end) <= 0) return end;
    let [inside, outside] = [share, end];
    for (let i = 0; i < 30; i++) {
      const middle = (inside + outside) / 2;
      if (excess(height, middle) > 0) outside = middle;
      else inside = middle;
    }
    return outside;
  };
  return [0, 1].map((end) => {
    const inner = [];
    const outer = [];
    for (let i = 0; i <= rows; i++) {
      // rows are close near the teacher, where the lens opens like a square root
      const height = teacher[token] + (1 - teacher[token]) * (i / rows) ** 2;
      inner.push(at(height, edge(height, end)));
      outer.push(at(height, end));
    }
    return [...inner, ...outer.reverse()];
  });
}

export function pathOf(student, teacher, gradient) {
  const points = [student];
  while (points.length < 240) {
    const last = points[points.length - 1];
    const g = gradient(last, teacher);
    const size = Math.max(...g.map(Math.abs));
    if (size < 1e-4) break;
    // even spacing, whatever the objective's scale
    points.push(step(last, g, Math.min(0.05 / size, 4)));
  }
  return points;
}

export const FIELD = (() => {
  const points = [];
  const n = 9;
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n - i; j++)
      points.push([i + 1 / 3, j + 1 / 3, n - i - j - 2 / 3].map((x) => x / n));
  return points;
})();
