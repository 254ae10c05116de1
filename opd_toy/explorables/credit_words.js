import { sum } from "./mathematics.js";
import { direction, number, said, signed, TOKENS } from "./interface.js";
import { HIGH, LOW, T } from "./credit_weights.js";

const NOTHING = said(
  "R = 0: the outcome gives every token the weight 0.",
  "Nothing is learned from this sequence.",
);
const AFTER = [
  "",
  "the token after it",
  ...["two", "three", "four"].map((n) => `the ${n} tokens after it`),
];

// `setting`: γ, λ and FIPO's step; `t`: the token explained, from 0; `tokens`: the sequence.
export function describe(result, key, t, tokens, setting) {
  if (["outcome", "broadcast"].includes(key) && !result.reward) return NOTHING;
  const [mine, own] = [result.weights[key][t], result.parts(key, t)[t]];
  const told = TOLD[key]({
    ...result,
    ...setting,
    t,
    mine,
    own,
    name: `token ${t + 1} (${TOKENS[tokens[t]]})`,
    after: AFTER[T - 1 - t],
    parts: result.parts(key, t),
  });
  const { word } = direction(mine);
  return said(told, `Descent ${word} token ${t + 1}${word === "leaves" ? " where it is" : ""}.`);
}

const split = ({ own, mine, after }) =>
  after
    ? `its own ${signed(own)} and ${signed(mine - own)} from ${after}`
    : "its own cost, for no token comes after it";

const TOLD = {
  immediate: ({ name, mine, after, r, t }) =>
    said(
      `Own cost: ${name} answers for its own cost alone, ${signed(mine)}.`,
      after && `The ${signed(sum(r.slice(t + 1)))} of ${after} is not charged to it.`,
    ),
  discounted: (told) =>
    `With γ = ${number(told.gamma)} ${told.name} answers for ${signed(told.mine)}: ${split(told)}.`,
  reward_to_go: (told) =>
    said(
      `Undiscounted, ${told.name} answers for ${signed(told.mine)}: ${split(told)}.`,
      "On average over draws this is the gradient of the sequence KL.",
    ),
  full_return: ({ name, mine, r, t }) =>
    said(
      `Every token answers for the whole ${signed(mine)}. For ${name} that`,
      t === 0
        ? "is its reward-to-go: nothing came before."
        : said(
            `includes ${signed(sum(r.slice(0, t)))} from before it, which it could not change;`,
            "on average over draws that part cancels.",
          ),
    ),
  gae: ({ gamma, lam, name, mine, own, after }) => {
    const later = after ? ` and ${signed(mine - own)} from ${after}` : "";
    return said(
      `With γ = ${number(gamma)} and λ = ${number(lam)} the advantage of ${name} is`,
      `${signed(mine)}: its own surprise ${signed(own)}${later}.`,
      "A surprise is the cost plus γ times the value after the token, less the value before it.",
    );
  },
  outcome: () => "R = 1: every token has weight −1, whatever its part in the outcome.",
  broadcast: ({ name, mine }) =>
    said(
      "Paid R = 1 at every token and summed from there on,",
      `${name} has weight ${signed(mine, 0)} and the last token −1: only the position decides.`,
    ),
  fipo: ({ step, name, mine, t, f, ratio, advantage, parts }) => {
    if (step === 0)
      return said(
        "The student has not moved since the draw: every f is 1,",
        `and FIPO gives each token the outcome's advantage alone, −(R − E[R]) = ${signed(mine)}.`,
      );
    const clipped = f[t] === 1 - LOW || f[t] === 1 + HIGH ? ", where it is clipped" : "";
    return said(
      `Since the draw the student took a step of ${number(step, 1)} up E[R]:`,
      `FutureKL of ${name} is ${signed(sum(parts), 3)}, so that f = ${number(f[t], 3)}${clipped}.`,
      `Times the importance ratio ${number(ratio[t], 3)}`,
      `and R − E[R] = ${signed(advantage)} its weight is ${signed(mine)}.`,
    );
  },
};
