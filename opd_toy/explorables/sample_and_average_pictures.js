// ---- two charts over the number of draws, on a log axis ----

import { number, put, showText, svg, uniqueId } from "./interface.js";
import { EVERY, MOST, NOTHING, SOME, STOPS, WALKS } from "./sample_and_average_walks.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [46, 346, 10, 190];
const across = (n) => LEFT + (Math.log2(n) / Math.log2(MOST)) * (RIGHT - LEFT);
const PLACES = STOPS.map((n) => (n ? across(n).toFixed(1) : ""));
// A line over the given stops, `down` giving each one's height in the picture.
const lineOver = (down, stops) => {
  let path = "M";
  for (const s of stops) path += `${PLACES[s]} ${Math.round(down(s) * 10) / 10} `;
  return path;
};

function frameOver(label, title, ...layers) {
  const clip = uniqueId("clip");
  const window_ = svg("rect", { x: LEFT - 6, y: TOP - 6, width: 0, height: BOTTOM - TOP + 12 });
  const ticks = Array.from({ length: 6 }, () => ({
    line: svg("path", { class: "opd-grid-line" }),
    text: svg("text", { x: LEFT - 6, "text-anchor": "end" }),
  }));
  const dot = svg("circle", {
    r: 5,
    class: "opd-point",
    style: "--role: var(--opd-policy-gradient)",
  });
  const element = svg(
    "svg",
    { viewBox: "0 0 360 236", role: "img", "aria-label": label },
    svg("clipPath", { id: clip }, window_),
    ticks.map(({ line, text }) => [line, text]),
    [1, 4, 16, 64, 256, 1024, 4096].map((n) => [
      svg("path", { class: "opd-grid-line", d: `M${across(n)} ${TOP}V${BOTTOM + 5}` }),
      svg("text", { x: across(n), y: BOTTOM + 20, "text-anchor": "middle" }, String(n)),
    ]),
    svg("text", { x: (LEFT + RIGHT) / 2, y: BOTTOM + 40, "text-anchor": "middle" }, title),
    layers.map(({ node, drawn }) =>
      drawn ? svg("g", { "clip-path": `url(#${clip})` }, node) : node,
    ),
    dot,
  );
  return {
    element,
    // [height in the picture, words] each
    tick(marks) {
      ticks.forEach(({ line, text }, i) => {
        put(line, { d: marks[i] ? `M${LEFT} ${marks[i][0]}H${RIGHT}` : "" });
        put(text, { y: marks[i] ? marks[i][0] + 4 : 0 });
        showText(text, marks[i] ? marks[i][1] : "");
      });
    },
    // Uncover what has been drawn, and set the dot at its end.
    reach(n, height) {
      put(window_, { width: n ? across(n) - LEFT + 6 : 0 });
      put(
        dot,
        n && Number.isFinite(height)
          ? { cx: across(n), cy: height, visibility: "visible" }
          : { visibility: "hidden" },
      );
    },
  };
}

const drawnLine = (role, kind) => svg("path", { class: kind, style: `--role: var(--opd-${role})` });

export function walkChart() {
  const band = drawnLine("policy-gradient", "opd-band");
  const exactLine = drawnLine("reverse-kl", "opd-line opd-dashed");
  const faint = drawnLine("policy-gradient", "opd-line opd-faint");
  const halo = svg("path", { class: "opd-halo" });
  const walk = drawnLine("policy-gradient", "opd-line");
  const zero = svg("path", { class: "opd-axis" });
  const frame = frameOver(
    "The mean gradient against the number of draws; the same numbers are in the table",
    "draws N, log axis",
    { node: band },
    { node: zero },
    { node: faint, drawn: true },
    { node: exactLine },
    { node: halo, drawn: true },
    { node: walk, drawn: true },
  );
  let down;
  return {
    element: frame.element,
    redraw(means, j, rows, exact, deviation, end) {
      const [fine, coarse] = [EVERY, SOME].map((stops) => stops.filter((s) => s <= end));
      const reach = [
        ...rows.map((row) => row[j]),
        exact + 2.1 * deviation,
        exact - 2.1 * deviation,
      ];
      const [low, high] =
        deviation > NOTHING ? [Math.min(...reach), Math.max(...reach)] : [exact - 1, exact + 1];
      down = (x) => BOTTOM - ((x - low) / (high - low)) * (BOTTOM - TOP);
      const edge = (side) => (s) => down(exact + (side * 2 * deviation) / Math.sqrt(STOPS[s]));
      put(band, {
        d: `${lineOver(edge(1), EVERY)}L${lineOver(edge(-1), [...EVERY].reverse()).slice(1)}Z`,
      });
      put(exactLine, { d: `M${LEFT} ${down(exact)}H${RIGHT}` });
      put(zero, { d: low < 0 && high > 0 ? `M${LEFT} ${down(0)}H${RIGHT}` : "" });
      const mine = lineOver((s) => down(means[j][0][s]), fine);
      [halo, walk].forEach((line) => put(line, { d: mine }));
      put(faint, {
        d: means[j]
          .slice(1)
          .map((mean) => lineOver((s) => down(mean[s]), coarse))
          .join(""),
      });
      frame.tick(roundMarks(low, high).map(([x, words]) => [down(x), words]));
    },
    update: (n, mean) => frame.reach(n, down(mean)),
  };
}

// [x, words] of up to six round numbers.
function roundMarks(low, high) {
  const sizes = [-4, -3, -2, -1, 0].flatMap((e) => [1, 2, 5].map((x) => x * 10 ** e));
  const size = sizes.find((x) => (high - low) / x <= 5) ?? 10;
  const digits = Math.max(0, -Math.floor(Math.log10(size) + 1e-9));
  const first = Math.ceil(low / size - 1e-9);
  return Array.from({ length: Math.floor(high / size + 1e-9) - first + 1 }, (_, i) => {
    const x = (first + i) * size;
    return [x, number(x, digits)];
  });
}

export function errorChart() {
  const law = drawnLine("reverse-kl", "opd-line opd-dashed");
  const typical = drawnLine("policy-gradient", "opd-line opd-dots");
  const walk = drawnLine("policy-gradient", "opd-line");
  const frame = frameOver(
    "Distance of the mean from the exact gradient against the number of draws, both on log axes",
    "draws N, both axes log",
    { node: walk, drawn: true },
    { node: law },
    { node: typical, drawn: true },
  );
  let down;
  return {
    element: frame.element,
    redraw(means, exact, spread, end) {
      const [fine, coarse] = [EVERY, SOME].map((stops) => stops.filter((s) => s <= end));
      if (spread < NOTHING) {
        down = () => NaN;
        for (const line of [law, typical, walk]) put(line, { d: "" });
        return frame.tick([]);
      }
      const [low, high] = [Math.log(spread / 64 / 8), Math.log(spread * 2.5)];
      down = (x) => BOTTOM - ((Math.max(Math.log(x), low) - low) / (high - low)) * (BOTTOM - TOP);
      // the mean square error of the first walks after STOPS[s] draws
      const square = (walks, s) => {
        let total = 0;
        for (let j = 0; j < exact.length; j++)
          for (let w = 0; w < walks; w++) total += (means[j][w][s] - exact[j]) ** 2;
        return total / walks;
      };
      put(law, {
        d: `M${across(1)} ${down(spread)}L${across(MOST)} ${down(spread / Math.sqrt(MOST))}`,
      });
      put(walk, { d: lineOver((s) => down(Math.sqrt(square(1, s))), fine) });
      put(typical, { d: lineOver((s) => down(Math.sqrt(square(WALKS, s))), coarse) });
      const decades = [1, 0, -1, -2, -3, -4, -5]
        .map((e) => [10 ** e, e])
        .filter(([x]) => Math.log(x) >= low && Math.log(x) <= high);
      frame.tick(decades.map(([x, e]) => [down(x), number(x, Math.max(0, -e))]));
    },
    update: (n, error) => frame.reach(n, down(error)),
  };
}
