// The two trees, the sequences of the student's, and what each scheme puts on their tokens.

import { sum } from "./mathematics.js";
import { NOTES } from "./interface.js";
import {
  chances,
  discountedReturn,
  fipoWeight,
  randomTrees,
  repeated,
  stateValues,
  tokenCosts,
  tokenTree,
} from "./tree_mathematics.js";

export const V = 3;
export const T = 5;

export const POSITIONS = Array.from({ length: T }, (_, t) => t);
// FIPO's clip and mask
export const LOW = 0.2;
export const HIGH = 0.2;
const RATIO_LIMIT = 10; // which no step of the slider's reaches

export const tokensOf = (sequence) =>
  POSITIONS.map((t) => Math.floor(sequence / V ** (T - 1 - t)) % V);
export const sequenceOf = (tokens) => tokens.reduce((total, token) => total * V + token, 0);
export const prefixOf = (sequence, t) => Math.floor(sequence / V ** (T - t));

const REWARD = Array.from({ length: V ** T }, (_, sequence) =>
  Number(tokensOf(sequence).filter((token) => token === 0).length >= 2),
);

// The student after one step of ascent on E[R] at every prefix, each by itself.
function ascended(student, step) {
  let ahead = REWARD;
  const logits = [];
  for (let t = T - 1; t >= 0; t--) {
    const p = student.probabilities[t];
    const values = Array(V ** t).fill(0);
    for (let i = 0; i < p.length; i++) values[Math.floor(i / V)] += p[i] * ahead[i];
    logits.unshift(
      p.map(
        (x, i) =>
          student.logProbabilities[t][i] + step * x * (ahead[i] - values[Math.floor(i / V)]),
      ),
    );
    ahead = values;
  }
  return tokenTree(logits);
}

// What does not depend on the sequence.
export function prepared(tree, seed) {
  const [student, teacher] =
    tree === "notes"
      ? [NOTES.student, NOTES.teacher].map((p) => repeated(p, T))
      : randomTrees(V, T, seed, 1);
  const probability = chances(student).at(-1);
  return {
    student,
    teacher,
    probability,
    costs: tokenCosts(student, teacher),
    expectedReward: sum(REWARD.map((r, i) => r * probability[i])),
  };
}

// The weights of every scheme on one sequence, and of what the weight of token t is made.
export function weighed({ student, costs, expectedReward }, sequence, gamma, lam, step) {
  const r = costs[sequence];
  const reward = REWARD[sequence];
  const value = stateValues(student, costs, gamma).map((level, t) => level[prefixOf(sequence, t)]);
  const surprises = r.map((x, t) => x + (t < T - 1 ? gamma * value[t + 1] : 0) - value[t]);
  const moved = ascended(student, step);
  const [shift] = tokenCosts(moved, student, [sequence]);
  const ratio = shift.map(Math.exp);
  const [f] = fipoWeight(moved, student, gamma, LOW, HIGH, RATIO_LIMIT, [sequence]);
  return {
    r,
    reward,
    ratio,
    f,
    advantage: reward - expectedReward,
    weights: {
      immediate: r,
      discounted: discountedReturn(r, gamma),
      reward_to_go: discountedReturn(r, 1),
      full_return: r.map(() => sum(r)),
      gae: discountedReturn(surprises, gamma * lam),
      outcome: r.map(() => -reward),
      broadcast: r.map((_, t) => -(T - t) * reward),
      fipo: f.map((x, t) => -ratio[t] * x * (reward - expectedReward)),
    },
    parts: (key, t) => PARTS_OF[key]({ r, reward, surprises, shift, gamma, lam }, t),
  };
}

// What the weight of token t is the sum of: from t on, each times `factor` a step.
const from = (t, x, factor) => x.map((each, u) => (u < t ? 0 : each * factor ** (u - t)));
const PARTS_OF = {
  immediate: ({ r }, t) => from(t, r, 0),
  discounted: ({ r, gamma }, t) => from(t, r, gamma),
  reward_to_go: ({ r }, t) => from(t, r, 1),
  full_return: ({ r }) => r,
  gae: ({ surprises, gamma, lam }, t) => from(t, surprises, gamma * lam),
  outcome: ({ r, reward }) => r.map((_, u) => (u === T - 1 ? -reward : 0)),
  broadcast: ({ r, reward }, t) =>
    from(
      t,
      r.map(() => -reward),
      1,
    ),
  fipo: ({ shift, gamma }, t) => from(t, shift, gamma),
};
