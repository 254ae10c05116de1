import { number, put, raised, said, showText, svg, uniqueId } from "./interface.js";
import { draggable, pathThrough, roleStyle, scale } from "./pictures.js";

// Three figures, and below a ten-thousandth two and a power of ten.
export function figures(x) {
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-4) return powers(x.toExponential(1));
  return number(x, Math.min(Math.max(2 - Math.floor(Math.log10(size)), 0), 6));
}
const powers = (text) =>
  text.replace("e", "×10").replace(/(?<=×10)[-+]?\d+/, (power) => raised(Number(power)));

// Exact ends of the range without decimals.
export const discount = (x) => (Number.isInteger(x) ? String(x) : number(x));

export const SIGNALS = [
  { key: "sampled", label: "sampled", role: "policy-gradient" },
  { key: "full_vocabulary", label: "exact", role: "reverse-kl" },
];
const GAMMAS = Array.from({ length: 101 }, (_, i) => i / 100);

// ---- the picture: γ across, squared lengths up, on a log axis ----

const AREA = { left: 50, right: 346, top: 38, bottom: 250 };
const across = scale(0, 1, AREA.left, AREA.right);

export function errorChart(moved) {
  const parts = chartParts();
  const frame = chartFrame(parts);
  draggable(parts.grip.lastChild, frame, (x) => {
    const gamma = scale(AREA.left, AREA.right, 0, 1)(x);
    moved(Math.round(100 * Math.min(Math.max(gamma, 0), 1)) / 100);
  });
  return {
    element: frame,
    update(exact, n, at, best) {
      put(parts.grip, { transform: `translate(${across(at).toFixed(2)} 0)` });
      put(parts.rule, { d: `M${across(at)} ${AREA.top}V${AREA.bottom}` });
      const { level, levelText, biasLine, lines } = parts;
      for (const part of [level, levelText, biasLine, ...lines.flatMap(Object.values)])
        put(part, { visibility: exact.squared ? "visible" : "hidden" });
      if (exact.squared) drawErrors(parts, exact, n, at, best);
      else label(parts.ticks, []);
    },
  };
}

function chartParts() {
  const line = (role, kind, more = "") =>
    svg("path", { class: `opd-line ${kind}`, style: roleStyle(role, more) });
  return {
    ticks: Array.from({ length: 12 }, () => ({
      line: svg("path", { class: "opd-grid-line" }),
      text: svg("text", { x: AREA.left - 6, "text-anchor": "end" }),
    })),
    biasLine: line("ink", "opd-dashed", ";stroke-width:1.6"),
    level: line("ink", "", ";stroke-width:1.2;opacity:.5"),
    levelText: svg(
      "text",
      { x: AREA.left + 4, class: "opd-point-label", style: roleStyle("muted") },
      "|∇J|²",
    ),
    lines: SIGNALS.map(({ role }) => ({
      variance: line(role, "opd-fine-dots"),
      error: line(role, ""),
      stem: svg("path", { class: "opd-line", style: roleStyle(role, "; stroke-width: 1") }),
      ring: svg("circle", { r: 6, class: "opd-point-teacher", style: roleStyle(role) }),
      label: svg("text", { class: "opd-point-label", style: roleStyle(role) }),
      dot: svg("circle", { r: 5, class: "opd-point", style: roleStyle(role) }),
    })),
    rule: svg("path", { class: "opd-axis" }),
    grip: svg(
      "g",
      {},
      svg("circle", { r: 8, cy: AREA.bottom, class: "opd-point", style: roleStyle("ink") }),
      svg("circle", { r: 20, cy: AREA.bottom, class: "opd-reach", "data-handle": "gamma" }),
    ),
  };
}

function chartFrame({ ticks, level, biasLine, lines, rule, levelText, grip }) {
  const { left, right, top, bottom } = AREA;
  const clip = uniqueId("clip");
  return svg(
    "svg",
    {
      viewBox: "0 0 360 300",
      role: "img",
      "aria-label": said(
        "Squared bias, variance over N and mean-squared error against the discount γ,",
        "on a log axis; their values at the chosen γ are in the table",
      ),
    },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", { x: left - 8, y: top - 8, width: right - left + 16, height: bottom - top + 8 }),
    ),
    ticks.map((tick) => [tick.line, tick.text]),
    [0, 0.25, 0.5, 0.75, 1].map((x) => [
      svg("path", { class: "opd-grid-line", d: `M${across(x)} ${top}V${bottom}` }),
      svg("text", { x: across(x), y: bottom + 24, "text-anchor": "middle" }, String(x)),
    ]),
    svg("text", { x: (left + right) / 2, y: bottom + 43, "text-anchor": "middle" }, "discount γ"),
    svg("path", { class: "opd-axis", d: `M${left} ${bottom}H${right}` }),
    svg(
      "g",
      { "clip-path": `url(#${clip})` },
      level,
      biasLine,
      lines.map((each) => [each.variance, each.error]),
    ),
    lines.map((each) => each.stem),
    rule,
    lines.map((each) => [each.dot, each.ring, each.label]),
    levelText,
    grip,
  );
}

// marks: [height, words] each
const label = (ticks, marks) =>
  ticks.forEach(({ line, text }, i) => {
    put(line, { d: marks[i] ? `M${AREA.left} ${marks[i][0]}H${AREA.right}` : "" });
    put(text, { y: marks[i] ? marks[i][0] + 4 : 0 });
    showText(text, marks[i] ? marks[i][1] : "");
  });

function drawErrors({ ticks, level, levelText, biasLine, lines }, exact, n, at, best) {
  const { left, right, top, bottom } = AREA;
  const biases = GAMMAS.map(exact.bias);
  const variances = exact.signals.map((signal) => GAMMAS.map((x) => signal.variance(x) / n));
  const errors = variances.map((each) => each.map((x, i) => biases[i] + x));
  const [high, low] = [
    Math.log10(1.2 * Math.max(exact.squared, ...errors.flat())),
    Math.log10(Math.min(exact.squared, ...variances.flat(), exact.bias(0.7) || Infinity) / 1.5),
  ];
  const height = scale(low, high, bottom, top);
  const up = (x) => height(Math.max(Math.log10(x), low - 1));
  const path = (values) => pathThrough(values.map((x, i) => [across(GAMMAS[i]), up(x)]));
  put(biasLine, { d: exact.unbiased ? "" : path(biases) });
  put(level, { d: `M${left} ${up(exact.squared)}H${right}` });
  put(levelText, { y: up(exact.squared) + 14 });
  lines.forEach((each, i) => {
    put(each.variance, { d: exact.unbiased ? "" : path(variances[i]) });
    put(each.error, { d: path(errors[i]) });
    const [x, y] = [across(best[i]), up(exact.signals[i].error(best[i], n))];
    put(each.ring, { cx: x, cy: y });
    put(each.stem, { d: `M${x} ${top - 22 + 15 * i}V${y}` });
    showText(each.label, `least at ${discount(best[i])}`);
    const before = best[i] > 0.6;
    put(each.label, {
      x: x + (before ? -5 : 5),
      y: top - 18 + 15 * i,
      "text-anchor": before ? "end" : "start",
    });
    put(each.dot, { cx: across(at), cy: up(exact.signals[i].error(at, n)) });
  });
  label(
    ticks,
    logMarks(low, high).map(([x, words]) => [up(x), words]),
  );
}

// [x, words]: tens, and between them 2 and 5 where there is room.
function logMarks(low, high) {
  const digits = high - low < 2.4 ? [1, 2, 5] : [1];
  const words = (x, power) =>
    power < -3 ? powers(x.toExponential(0)).replace(/^1×/, "") : number(x, Math.max(0, -power));
  return Array.from(
    { length: Math.ceil(high) - Math.floor(low) + 1 },
    (_, i) => Math.floor(low) + i,
  )
    .flatMap((power) => digits.map((digit) => [digit * 10 ** power, power]))
    .filter(([x]) => Math.log10(x) >= low && Math.log10(x) <= high)
    .map(([x, power]) => [x, words(x, power)]);
}
