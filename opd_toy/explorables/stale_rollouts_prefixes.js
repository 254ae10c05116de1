// Texts of T tokens, each drawn by itself: how many speak under the ratios.

import { percent, put, said, showNumber, svg, value } from "./interface.js";
import { caption, note } from "./controls.js";
import { chartKey, pathThrough, roleStyle, scale } from "./pictures.js";
import { lastLength, MOST_TOKENS, shareOf } from "./stale_rollouts_descent.js";

const CHART = { left: 46, right: 346, top: 10, bottom: 128 };
const LEAST = 0.001;
const across = (tokens) =>
  scale(0, Math.log2(MOST_TOKENS), CHART.left, CHART.right)(Math.log2(tokens));
const down = (share) =>
  scale(Math.log(LEAST), 0, CHART.bottom, CHART.top)(Math.log(Math.max(share, LEAST)));

export function prefixPanel() {
  const role = roleStyle("policy-gradient");
  const lines = {
    token: svg("path", { class: "opd-line opd-dashed", style: role, "data-line": "token" }),
    product: svg("path", { class: "opd-line", style: role, "data-line": "product" }),
  };
  const dot = svg("circle", { r: 5, class: "opd-point", style: role });
  const element = frame(lines, dot);
  const shown = Object.fromEntries(
    ["second-moment", "last-length", "share"].map((name) => [name, value({ "data-name": name })]),
  );
  return {
    nodes: [
      caption("Whole texts: the share that speaks"),
      element,
      chartKey([
        ["dashed", "policy-gradient", "the token's ratio"],
        ["line", "policy-gradient", "the product over the text"],
      ]),
      note(
        "Of T tokens, each drawn from μ: 1 / E[(product of ratios)²], the effective sample size. ",
        "E[ρ²] of one token is ",
        shown["second-moment"],
        ". One text in ten or more speaks ",
        shown["last-length"],
        "; at T = 64 the product leaves ",
        shown.share,
        ".",
      ),
    ],
    update(moment) {
      draw(lines, dot, moment);
      const [last, share] = [lastLength(moment), shareOf(moment, MOST_TOKENS)];
      showNumber(shown["second-moment"], moment);
      showNumber(shown["last-length"], last, lengthInWords(last));
      showNumber(shown.share, share, share < 0.0005 ? "next to none" : percent(share, 1));
    },
  };
}

const lengthInWords = (last) =>
  last > 9999 ? "beyond T = 9999" : last < 1 ? "at no length" : `up to T = ${last}`;

function draw(lines, dot, moment) {
  const end = Math.min(MOST_TOKENS, Math.log(1 / LEAST) / Math.log(moment));
  const bent = Array.from({ length: 41 }, (_, i) => Math.max(end, 1) ** (i / 40));
  put(lines.product, {
    d: pathThrough(bent.map((tokens) => [across(tokens), down(shareOf(moment, tokens))])),
  });
  const flat = down(shareOf(moment, 1));
  put(lines.token, { d: `M${CHART.left} ${flat}H${CHART.right}` });
  const at = Math.log(10) / Math.log(moment);
  const within = at >= 1 && at <= MOST_TOKENS;
  dot.style.display = within ? "" : "none";
  if (within) put(dot, { cx: across(at), cy: down(0.1) });
}

function frame({ token, product }, dot) {
  const { left, right, top, bottom } = CHART;
  return svg(
    "svg",
    {
      viewBox: "0 0 360 168",
      role: "img",
      "aria-label": said(
        "The share of texts that speak against their length, on log axes; where it falls below",
        "one in ten is in the words below",
      ),
    },
    [1, 0.1, 0.01, 0.001].map((share) => [
      svg("path", { class: "opd-grid-line", d: `M${left} ${down(share)}H${right}` }),
      svg(
        "text",
        { x: left - 5, y: down(share) + 4, "text-anchor": "end" },
        `${Number((100 * share).toFixed(1))} %`,
      ),
    ]),
    svg("path", { class: "opd-axis", d: `M${left} ${top}V${bottom}H${right}`, fill: "none" }),
    [1, 2, 4, 8, 16, 32, 64].map((tokens) =>
      svg("text", { x: across(tokens), y: bottom + 17, "text-anchor": "middle" }, String(tokens)),
    ),
    svg("text", { x: (left + right) / 2, y: bottom + 36, "text-anchor": "middle" }, "tokens T"),
    token,
    product,
    dot,
  );
}
