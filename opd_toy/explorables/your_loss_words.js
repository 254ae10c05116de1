// What is said of a formula.

import { html, listed, number, said, showText, TOKENS, value } from "./interface.js";
import { NONE, ZERO } from "./your_loss_verdict.js";

// The verdict in a line of its own.
export function followed() {
  const [before, name, after] = [html("span"), value({ "data-name": "verdict" }), html("span")];
  name.classList.add("opd-name");
  return {
    element: html("p", { class: "opd-verdict" }, before, name, after),
    update(found) {
      showText(before, "On average this loss follows: ");
      showText(name, found.name);
      const { nearest } = found;
      showText(
        after,
        nearest ? `, nearest ${nearest.name} (cosine ${number(nearest.cosine)})` : "",
      );
    },
  };
}

export function unread({ message, source, column }) {
  const there = [...source]
    .slice(column - 1, column + 11)
    .join("")
    .trim();
  return said(
    `This cannot be read at ${there ? `“${there}”` : "its end"}: ${message}.`,
    "What is shown is still the last formula that could be.",
  );
}

const inBrackets = (p) => `(${p.map((x) => number(x)).join(", ")})`;
const isNear = (p, q) => p.every((x, v) => Math.abs(x - q[v]) < 0.005);

export const describe = ({ found, drawnFrom, here, way, q, formula }) =>
  said(average(found, drawnFrom, formula), strays(here, formula), led(way, q));

function average({ name, holds, pairs }, drawnFrom, { loss }) {
  const over = loss.drawn
    ? `Averaged over tokens that the ${drawnFrom} draws`
    : "Without a drawn token";
  const on = holds === pairs ? `all ${pairs}` : `${holds} of ${pairs}`;
  if (name.startsWith(ZERO)) return `${over}, its gradient is zero on ${on} pairs of models tried.`;
  if (name === NONE) return `${over}, its gradient is that of no objective known here.`;
  return `${over}, its gradient is that of ${name}: so on ${on} pairs of models tried.`;
}

function strays({ mean, variance }, { loss }) {
  if (![...mean, variance].every(Number.isFinite)) return "Here the gradient is not finite.";
  if (!loss.drawn || variance < 1e-24) return "Here every draw gives the same gradient.";
  const [deviation, size] = [Math.sqrt(variance), Math.hypot(...mean)];
  const beside = size < 1e-9 ? "of length zero" : `of length ${number(size)}`;
  return `Here one draw strays ${number(deviation)} from a mean ${beside}.`;
}

function led({ path, kind }, q) {
  const end = path.at(-1);
  const there = isNear(end, q) ? "the teacher" : `not the teacher, ${inBrackets(q)}`;
  const lost = TOKENS.filter((_, v) => end[v] < 0.01);
  return {
    still: "Descent stays where it is.",
    rests: `Descent ends at ${inBrackets(end)}, ${there}.`,
    edge: `Descent runs to the edge: nothing is left of ${listed(lost)}.`,
    moves: isNear(end, q)
      ? `Descent comes to ${inBrackets(end)}, ${there}.`
      : `Descent comes to ${inBrackets(end)} and has not come to rest there.`,
    breaks: "Descent meets a gradient that is not finite.",
  }[kind];
}
