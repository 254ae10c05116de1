// The exhibits: the same names and titles as in opd_toy/audit/exhibits/museum.py, whose code
// comes with the widget's state.  Here is what each loss gives: its gradient tables.

import {
  expectation,
  forwardKl,
  forwardKlLogitGradient,
  fullVocabularyAdvantage,
  generalizedJsdLogitGradient,
  gkd,
  kEstimator,
  kEstimatorAsLoss,
  logRatio,
  policyGradient,
  reverseKl,
  scoreTable,
  softmax,
  step,
  topKReverseKlLogitGradient,
  totalVariance,
  truncatedPolicyGradient,
} from "./mathematics.js";
import { drawn, uniforms } from "./draws.js";
import { direction, listed, number, said, TOKENS } from "./interface.js";

const BETA = 0.999;
const HEAD = 2; // of the top-K sum
const CLAMP = 10; // of k3's value
const LIMIT = 1; // of the log-ratio
const TEMPERATURE = 2;

const always = (p, gradient) => p.map(() => gradient); // the same row whichever token is drawn
const forwardEverywhere = (p, q) => always(p, forwardKlLogitGradient(p, q));
const beyond = (p, q) => kEstimator(p, q, "k3").map((x) => x > CLAMP);
const tempered = (p, q, factor) => {
  const [soft, softTeacher] = [p, q].map((x) => softmax(x.map((y) => Math.log(y) / TEMPERATURE)));
  const gradient = forwardKlLogitGradient(soft, softTeacher);
  return always(
    p,
    gradient.map((g) => (factor * g) / TEMPERATURE),
  );
};
const topTwo = (outside) => (p, q) => always(p, topKReverseKlLogitGradient(p, q, HEAD, outside));
const asLoss = (kind) => (p, q) => kEstimatorAsLoss(p, q, kind);
const drawnRatio = (p, q) => policyGradient(p, q);

// Where k3 = e^x - 1 - x reaches the clamp, x = log q/p.
const edge = Array.from({ length: 40 }).reduce((x) => Math.log(CLAMP + 1 + x), 2);
const named = (which) => listed(TOKENS.filter((_, v) => which[v]));
const inBrackets = (p) => `(${p.map((x) => number(x)).join(", ")})`;

// `says`: what is always true of the wrong loss; `measure`: the KL that the right one descends.
export const EXHIBITS = {
  k1: {
    label: "k1 as a loss",
    measure: "reverse",
    right: drawnRatio,
    wrong: asLoss("k1"),
    says: () =>
      "Its gradient is the score of the token drawn, zero in expectation: training only wanders.",
  },
  k3: {
    label: "k3 as a loss",
    measure: "reverse",
    wrong: asLoss("k3"),
    right: asLoss("k2"),
    says: () =>
      said(
        "Its value estimates reverse KL, but in expectation it follows forward KL, so it covers:",
        "another way here, and another end for a student that cannot be the teacher.",
      ),
  },
  advantage: {
    label: "KL as the advantage",
    measure: "reverse",
    right: gkd,
    wrong: fullVocabularyAdvantage,
    says: (p, q) =>
      said(
        `KL(p‖q) = ${number(reverseKl(p, q))} stands before every draw alike,`,
        "so the expected gradient is zero: training only wanders.",
      ),
  },
  stop_gradient: {
    label: "Forgotten stop-gradient",
    measure: "reverse",
    right: drawnRatio,
    wrong: (p, q) =>
      scoreTable(
        p,
        logRatio(p, q).map((c, v) => c + Math.log(p[v])),
      ),
    says(_, q) {
      const end = inBrackets(softmax(q.map((x) => Math.log(x) / 2)));
      const even = end === inBrackets(q);
      return said(
        "The log-ratio is differentiated too: it descends reverse KL less the student's entropy,",
        "towards the square root of q,",
        even ? "here the even teacher itself." : `here ${end} and not the teacher.`,
      );
    },
  },
  direction: {
    label: "Swapped direction",
    measure: "reverse",
    wrong: forwardEverywhere,
    right: gkd,
    says: () =>
      said(
        "F.kl_div(a, b) is KL(b‖a), so this is forward KL and it covers: another way here,",
        "and another end for a student that cannot be the teacher.",
      ),
  },
  beta: {
    label: "β near its end",
    measure: "reverse",
    right: gkd,
    wrong: (p, q) => always(p, generalizedJsdLogitGradient(p, q, BETA)),
    says: () =>
      said(
        `At β = ${number(BETA, 3)} JSD has lost reverse KL's strength,`,
        "about 1 − β of it is left, and almost nothing moves.",
      ),
  },
  tail: {
    label: "Dropped top-K tail",
    measure: "reverse",
    wrong: topTwo("drop"),
    right: topTwo("tail"),
    says(_, q) {
      const out = q.map((x, v) => [x, v]).sort(([x, v], [y, w]) => y - x || v - w)[HEAD][1];
      const left = number(1 - (1 - q[out]) / Math.E);
      return said(
        `What lies outside the teacher's top ${HEAD} costs nothing: the end is q/e on each of the`,
        `two and the rest, ${left}, on ${TOKENS[out]}, where the teacher has ${number(q[out])}.`,
      );
    },
  },
  value_clamp: {
    label: "Clamped value of k3",
    measure: "forward",
    wrong: (p, q) => {
      const dead = beyond(p, q);
      return kEstimatorAsLoss(p, q, "k3").map((row, k) => (dead[k] ? row.map(() => 0) : row));
    },
    right: forwardEverywhere,
    says(p, q) {
      const [dead, at] = [beyond(p, q), `log(q/p) = ${number(edge)}`];
      return dead.includes(true)
        ? said(
            `A draw beyond ${at} has no gradient: drawing ${named(dead)} teaches nothing,`,
            "just where the student is most wrong.",
          )
        : said(
            `No token is beyond ${at}, where a draw loses its gradient:`,
            "the clamp does nothing here, and “A rare token” shows what it does.",
          );
    },
  },
  ratio_clamp: {
    label: "Clamped log-ratio",
    measure: "reverse",
    right: drawnRatio,
    wrong: (p, q) => truncatedPolicyGradient(p, q, LIMIT),
    says(p, q) {
      const cut = logRatio(p, q).map((c) => Math.abs(c) > LIMIT);
      return cut.includes(true)
        ? said(
            `The log-ratio of ${named(cut)} is cut to ±${LIMIT}:`,
            "what is most wrong counts for less, until the student is near.",
          )
        : `No log-ratio is beyond ±${LIMIT}: the clamp does nothing here.`;
    },
  },
  temperature: {
    label: "Forgotten T² factor",
    measure: "forward",
    wrong: (p, q) => tempered(p, q, 1),
    right: (p, q) => tempered(p, q, TEMPERATURE ** 2),
    says: () =>
      said(
        `At temperature T = ${TEMPERATURE} the gradient without T² is`,
        `1/T² = ${number(1 / TEMPERATURE ** 2)} of what it should be: the same way, slower.`,
      ),
  },
};

// ---- descent ----

export const RATE = 0.2;
export const LAST = 200;
export const SIDES = ["wrong", "right"];
export const KLS = {
  reverse: ["reverse KL", "KL(p‖q)", reverseKl],
  forward: ["forward KL", "KL(q‖p)", forwardKl],
};

// LAST steps from p; `uniform`, if given, draws the token whose row each step follows.
function descent(rows, p, q, uniform) {
  const path = [p];
  while (path.length <= LAST) {
    const now = path.at(-1);
    const all = rows(now, q);
    path.push(step(now, uniform ? all[drawn(now, uniform())] : expectation(now, all), RATE));
  }
  return path;
}

// What one loss pushes at p, and where descent on it leads; `seed` null: on the expected gradient.
export function trained(rows, p, q, seed) {
  const path = descent(rows, p, q, seed === null ? null : uniforms(seed));
  const table = rows(p, q);
  return {
    mean: expectation(p, table),
    variance: totalVariance(p, table),
    path,
    kls: Object.fromEntries(
      Object.entries(KLS).map(([each, [, , of]]) => [each, path.map((x) => of(x, q))]),
    ),
  };
}

// ---- the sentence ----

// `found`: what each of the two losses came to, see `trained`.
export const describe = ({ exhibit, p, q, count, update, found }) =>
  said(
    EXHIBITS[exhibit].says(p, q),
    pushed(...found.map(({ mean }) => mean)),
    afterSteps(EXHIBITS[exhibit].measure, count, update, found),
  );

// What the wrong loss pushes otherwise than the right one.
function pushed(wrong, right) {
  const words = [wrong, right].map((g) => g.map((x) => direction(x).word));
  const moved = (side, which = words[side].map((word) => word !== "leaves")) =>
    listed(
      ["raises", "lowers", "leaves"].flatMap((word) => {
        const tokens = named(words[side].map((each, v) => which[v] && each === word));
        return tokens ? [`${word} ${tokens}`] : [];
      }),
    );
  const [rests, restsRight] = words.map((list) => list.every((word) => word === "leaves"));
  if (rests && restsRight) return "Here neither pushes any token.";
  if (rests) return `It pushes no token, where the right loss ${moved(1)}.`;
  if (restsRight) return `Where the right loss rests, it ${moved(0)}.`;
  const odd = words[0].map((word, v) => word !== words[1][v]);
  if (odd.includes(true)) return `It ${moved(0, odd)}, where the right loss ${moved(1, odd)}.`;
  const [size, whole] = [wrong, right].map((g) => Math.hypot(...g));
  const [ratio, same] = [
    size / whole,
    wrong.every((g, v) => Math.abs(g - right[v]) <= 1e-9 * whole),
  ];
  if (same) return "Here its push is the right one's.";
  const times = number(ratio, ratio < 0.1 ? 4 : 2);
  return `It pushes every token the same way as the right loss, ${times} times as hard.`;
}

function afterSteps(measure, count, update, found) {
  const [wrong, right] = found.map(({ kls }) => kls[measure]);
  const [name, first] = [KLS[measure][0], number(wrong[0], 3)];
  if (count === 0) return `Before the first step ${name} is ${first}.`;
  const taken = `${count} ${update === "drawn" ? "drawn token" : "step"}${count > 1 ? "s" : ""}`;
  return said(
    `After ${taken} ${name}, ${first} at first, is ${number(wrong[count], 3)} with the wrong loss`,
    `and ${number(right[count], 3)} with the right one.`,
  );
}
