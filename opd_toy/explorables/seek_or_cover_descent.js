// The teacher of two modes, the student's two families, and descent.

import {
  forwardKl,
  forwardKlLogitGradient,
  generalizedJsd,
  generalizedJsdLogitGradient,
  reverseKl,
  reverseKlLogitGradient,
  softmax,
  sum,
} from "./mathematics.js";

// ---- the teacher and the student's two families ----

export const VOCABULARY = 40;
export const POSITIONS = Array.from({ length: VOCABULARY }, (_, v) => v + 1);
export const MIDDLE = (VOCABULARY + 1) / 2;

const bumpLogits = (mean, width) => POSITIONS.map((v) => -((v - mean) ** 2) / (2 * width ** 2));

export function twoModes(separation, weight, width) {
  const left = softmax(bumpLogits(MIDDLE - separation / 2, width));
  const right = softmax(bumpLogits(MIDDLE + separation / 2, width));
  return left.map((x, v) => weight * x + (1 - weight) * right[v]);
}

export function moments(p) {
  const mean = sum(p.map((x, v) => x * POSITIONS[v]));
  return { mean, deviation: Math.sqrt(sum(p.map((x, v) => x * (POSITIONS[v] - mean) ** 2))) };
}

// A family: its parameters at the start, its distribution, and for each parameter the
// gradient (by the chain rule from the logits') and the Fisher information.
export const FAMILIES = {
  bump: {
    label: "one bump",
    caps: [0.5, 0.05], // the most that one step changes μ (tokens) and log σ
    start: (mean, width) => [mean, Math.log(width)],
    logits: ([mean, logWidth]) => bumpLogits(mean, Math.exp(logWidth)),
    pullBack([mean, logWidth], p, logitGradient) {
      // dz/dμ = (v − μ)/σ²,  dz/d log σ = (v − μ)²/σ²
      const square = Math.exp(2 * logWidth);
      const gradient = [0, 0];
      const first = [0, 0];
      const second = [0, 0];
      for (let v = 0; v < p.length; v++) {
        const away = POSITIONS[v] - mean;
        const slopes = [away / square, (away * away) / square];
        for (let i = 0; i < 2; i++) {
          gradient[i] += slopes[i] * logitGradient[v];
          first[i] += p[v] * slopes[i];
          second[i] += p[v] * slopes[i] ** 2;
        }
      }
      return { gradient, information: second.map((x, i) => x - first[i] ** 2) };
    },
  },
  free: {
    label: "any distribution",
    caps: Array(VOCABULARY).fill(1),
    start: bumpLogits,
    logits: (z) => z,
    pullBack: (_, p, logitGradient) => ({ gradient: logitGradient, information: p }),
  },
};

// Descent that cannot diverge: each parameter moves against its gradient divided by its
// Fisher information (so a step means the same wherever the student is), by no more than
// its cap, and the step is halved until the cost falls.  Steps that need no halving let
// the pace grow, so that a flat valley takes no thousand steps.
export function cautiousDescent(family, start, teacher, { cost, gradient, curvature }, limit) {
  const { caps, logits, pullBack } = FAMILIES[family];
  let parameters = start;
  let p = softmax(logits(parameters));
  let now = cost(p, teacher);
  let pace = 1;
  const path = [{ parameters, p, cost: now }];
  while (path.length <= limit) {
    const pulled = pullBack(parameters, p, gradient(p, teacher));
    const move = pulled.gradient.map((g, i) => {
      const full =
        pulled.information[i] > 0 ? (-pace * g) / (pulled.information[i] * curvature) : 0;
      return Math.min(Math.max(full, -caps[i]), caps[i]);
    });
    const slope = sum(move.map((d, i) => d * pulled.gradient[i]));
    if (!(slope < -1e-16 * pace * curvature)) break;
    let next = null;
    let scale = 2;
    while (!next && scale > 1e-6) {
      scale /= 2;
      const tried = parameters.map((x, i) => x + scale * move[i]);
      const q = softmax(logits(tried));
      const then = cost(q, teacher);
      if (then <= now + 1e-4 * scale * slope) next = { parameters: tried, p: q, cost: then };
    }
    if (!next) break;
    pace = Math.min(Math.max(scale === 1 ? 1.5 * pace : scale * pace, 1), 50);
    ({ parameters, p, cost: now } = next);
    path.push(next);
  }
  return path;
}

// JSD(β) curves β(1 − β) times as much as either KL where student and teacher meet.
export const COSTS = {
  forward_kl: {
    label: "forward KL",
    role: "forward-kl",
    mark: "line",
    dash: "none",
    of: () => ({ cost: forwardKl, gradient: forwardKlLogitGradient, curvature: 1 }),
  },
  reverse_kl: {
    label: "reverse KL",
    role: "reverse-kl",
    mark: "dashed",
    dash: "6 8",
    of: () => ({ cost: reverseKl, gradient: reverseKlLogitGradient, curvature: 1 }),
  },
  jsd: {
    label: "JSD(β)",
    role: "jsd",
    mark: "dots",
    dash: "2.5 2 2.5 7",
    shift: -6.5, // in the gaps of reverse KL
    of: (beta) => ({
      cost: (p, q) => generalizedJsd(p, q, beta),
      gradient: (p, q) => generalizedJsdLogitGradient(p, q, beta),
      curvature: beta > 0 && beta < 1 ? beta * (1 - beta) : 1,
    }),
  },
};
export const KEYS = Object.keys(COSTS);
export const LIMIT = 300;

export const onLeft = (p) => sum(p.slice(0, VOCABULARY / 2));
export const peaks = (p) => p.filter((x, v) => x > p[v - 1] && x >= p[v + 1]).length;

// Remember the last answer: most changes leave most of the descents as they are.
export function remembered(compute) {
  let key = null;
  let answer;
  return (...given) => {
    const asked = JSON.stringify(given);
    if (asked !== key) [key, answer] = [asked, compute(...given)];
    return answer;
  };
}

export const descents = () =>
  remembered((objective, beta, family, mean, width, teacher) =>
    cautiousDescent(
      family,
      FAMILIES[family].start(mean, width),
      teacher,
      COSTS[objective].of(beta),
      LIMIT,
    ),
  );

// The descents of the present setting, each computed when it is asked for and then kept.
export function descentOf(self) {
  const teacherOf = remembered(twoModes);
  const pathOf = Object.fromEntries(KEYS.map((key) => [key, descents()]));
  const fromModes = [descents(), descents()];
  const beta = (key) => (key === "jsd" ? self.get("beta") : 0);
  const teacher = () => teacherOf(self.get("separation"), self.get("weight"), self.get("width"));
  const path = (key) =>
    pathOf[key](
      key,
      beta(key),
      self.get("family"),
      self.get("start_mean"),
      self.get("start_width"),
      teacher(),
    );
  const fromMode = (i) => {
    const [key, mode] = [self.get("objective"), MIDDLE + (i - 0.5) * self.get("separation")];
    return fromModes[i](key, beta(key), "bump", mode, self.get("width"), teacher()).at(-1);
  };
  const current = () => path(self.get("objective"));
  return {
    teacher,
    path,
    current,
    shown: (at, last) => ({
      steps: current(),
      at,
      last,
      teacher: teacher(),
      objective: self.get("objective"),
      beta: self.get("beta"),
      family: self.get("family"),
      width: self.get("width"),
      fromModes: [() => fromMode(0), () => fromMode(1)],
    }),
  };
}
