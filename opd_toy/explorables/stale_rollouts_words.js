// The sentence under the slider.  `shown`: as `shownAt` gives it.

import { direction, listed, number, percent, said, TOKENS } from "./interface.js";
import { STEPS } from "./stale_rollouts_descent.js";

export const describe = (shown, setting) =>
  said(whose(shown), theMean(shown, setting), reached(shown), barred(shown), whereItRests(shown));

const whose = ({ p, mu }) =>
  p.every((x, v) => Math.abs(x - mu[v]) < 1e-9) &&
  "The behaviour is the student: every ratio is 1.";

const correctionInWords = (correction, { most, low, high, epsilon }) =>
  ({
    none: "Without a ratio",
    ratio: "With the ratio",
    truncate: `With the ratio truncated at ${number(most)}`,
    mask: `With the ratio masked outside ${number(low)} to ${number(high)}`,
    clip: `With PPO's clip at ${number(epsilon)}`,
  })[correction];

function theMean({ correction, cost, chosen, agree }, setting) {
  const kept = cost === "kept" ? " and the cost kept" : "";
  if (agree) return atTheTeacher(chosen.mean);
  const mean =
    chosen.off < 1e-9
      ? "the mean is exact"
      : `the mean is off by ${percent(chosen.off, chosen.off < 0.0995 ? 1 : 0)}`;
  return said(
    `${correctionInWords(correction, setting)}${kept}, ${mean},`,
    `with ${number(chosen.spread)} times the variance of fresh tokens.`,
  );
}

function atTheTeacher(mean) {
  const pushed = (word) => TOKENS.filter((_, v) => direction(mean[v]).word === word);
  const [up, down] = [pushed("raises"), pushed("lowers")];
  return said(
    "Student and teacher agree, and the exact gradient is 0.",
    up.length // then some are lowered too, for the entries sum to 0
      ? `This one still raises ${listed(up)} and lowers ${listed(down)}.`
      : "So is this one.",
  );
}

// Which tokens the limit reaches.
function reached({ correction, ratios, factors, mu }) {
  if (correction === "none" || correction === "ratio") return "";
  const tokens = TOKENS.filter((_, v) => mu[v] > 0 && factors[v] !== ratios[v]);
  if (!tokens.length) return "The limit reaches no token.";
  return `It ${{ truncate: "cuts", mask: "drops", clip: "stops" }[correction]} ${listed(tokens)}.`;
}

function barred({ mu }) {
  const never = TOKENS.filter((_, v) => mu[v] === 0);
  return never.length && `${never[0]} is never drawn, and no correction brings it back.`;
}

function whereItRests({ ends }) {
  const [held, renewed] = ends.map(rest);
  const often = ends[1].every === 1 ? "at every step" : `every ${ends[1].every} steps`;
  return held === renewed
    ? `Descent ${held}, with μ held and with μ renewed ${often}.`
    : `Descent with μ held ${held}; with μ renewed ${often} it ${renewed}.`;
}

function rest({ kind, end }) {
  const place = `(${end.map((x) => number(x)).join(", ")})`;
  if (kind === "teacher") return "reaches the teacher";
  if (kind === "corner") return `runs to ${TOKENS[end.indexOf(Math.max(...end))]} alone`;
  return kind === "moves"
    ? `still moves after ${STEPS} steps`
    : `stops at ${place}, off the teacher`;
}
