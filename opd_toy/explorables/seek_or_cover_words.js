// The sentence under the slider.  `shown`: the setting and what its descents came to.

import { number, percent, said } from "./interface.js";
import { COSTS, LIMIT, moments, onLeft, peaks } from "./seek_or_cover_descent.js";

export const one = (x) => number(x, 1);
const cost = (x) => number(x.cost, 3);
const shapeOf = ({ mean, deviation }) => `${one(mean)} and sd ${number(deviation)}`;

export function describe(shown) {
  const end = shown.last[shown.objective];
  const rest =
    shown.family === "free"
      ? freeEnd(shown)
      : shown.steps.length - 1 === LIMIT
        ? `No more than ${LIMIT} steps are taken.`
        : peaks(shown.teacher) < 2
          ? onePeak(shown)
          : said(whereItEnds(shown, end), lowerElsewhere(shown, end));
  return said(progress(shown, end), rest);
}

function nameOf({ objective, beta }) {
  if (objective !== "jsd") return COSTS[objective].label;
  const same = { 0: ", that is forward KL,", 1: ", that is reverse KL," }[beta] ?? "";
  return `JSD(${number(beta)})${same}`;
}

function progress(shown, end) {
  const { steps, at } = shown;
  const [name, length] = [nameOf(shown), steps.length - 1];
  if (length === 0) return `The start is already where ${name} ends: its cost is ${cost(end)}.`;
  if (at === 0) return `The student is at its start; ${name} is ${cost(steps[0])}.`;
  if (at < length) {
    const fallen = `is down from ${cost(steps[0])} to ${cost(steps[at])}`;
    return `After ${at} of ${length} steps ${name} ${fallen}.`;
  }
  const state = length === LIMIT ? "still moves, at" : "has settled at";
  return `After ${length} steps ${name} ${state} ${cost(end)}.`;
}

function freeEnd({ last }) {
  const worst = Math.max(...Object.values(last).map((each) => each.cost));
  return said(
    "A free softmax can be the teacher itself, and all three objectives",
    worst < 1e-6
      ? "end there: seeking and covering are what is left when the student cannot."
      : `head there; after ${LIMIT} steps the largest cost left is ${number(worst, 4)}.`,
  );
}

function onePeak({ last }) {
  const [forward, reverse] = [moments(last.forward_kl.p), moments(last.reverse_kl.p)];
  return said(
    "The teacher's modes have run into one peak, so there is nothing to choose:",
    `forward KL ends with mean ${shapeOf(forward)},`,
    `reverse KL with ${one(reverse.mean)} and ${number(reverse.deviation)}.`,
  );
}

function whereItEnds({ steps, at, width, teacher }, end) {
  const tense = at === steps.length - 1 ? "has ended" : "will end";
  const [own, theirs] = [moments(end.p), moments(teacher)];
  const [share, given] = [onLeft(end.p), onLeft(teacher)];
  const narrow = own.deviation < 1.5 * width;
  const side = narrow && share > 0.9 ? "left" : narrow && share < 0.1 ? "right" : null;
  if (side) {
    const on = (x) => percent(side === "left" ? x : 1 - x);
    return said(
      `It ${tense} on the ${side} mode: ${on(share)} of its mass lies there,`,
      `and ${on(given)} of the teacher's.`,
    );
  }
  const matched =
    Math.abs(own.mean - theirs.mean) < 0.005 && Math.abs(own.deviation - theirs.deviation) < 0.005;
  const teachers = `(teacher ${one(theirs.mean)} and ${number(theirs.deviation)})`;
  return said(
    `It ${tense} spread over both modes,`,
    `${percent(share)} on the left where the teacher has ${percent(given)},`,
    matched ? "with the teacher's own mean and sd." : `with mean ${shapeOf(own)} ${teachers}.`,
  );
}

function lowerElsewhere({ fromModes }, end) {
  const [best] = ["left", "right"]
    .map((mode, i) => ({ mode, cost: fromModes[i]().cost }))
    .filter((other) => other.cost < end.cost - 1e-3)
    .sort((a, b) => a.cost - b.cost);
  return best && `Started on the ${best.mode} mode it would end lower, at ${cost(best)}.`;
}
