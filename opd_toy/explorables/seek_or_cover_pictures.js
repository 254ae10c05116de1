import { html, number, put, showText, svg, uniqueId } from "./interface.js";
import { chartKey, draggable, pathThrough } from "./pictures.js";
import { COSTS, POSITIONS, VOCABULARY } from "./seek_or_cover_descent.js";

const PLOT = { left: 28, right: 356, top: 8, bottom: 148, most: 0.215 };
const acrossOf = (position) =>
  PLOT.left + ((position - 0.5) / VOCABULARY) * (PLOT.right - PLOT.left);
const heightOf = (p) => PLOT.bottom - (p / PLOT.most) * (PLOT.bottom - PLOT.top);
const curveOf = (p) => pathThrough(p.map((x, v) => [acrossOf(v + 1), heightOf(x)]));

const LINES = {
  teacher: { label: "teacher", role: "teacher", mark: "band" },
  student: { label: "student now", role: "student", mark: "line", dash: "none" },
  start: { label: "its start", role: "student", mark: "dots", dash: "3 4" },
  ...COSTS,
};

// The teacher as bars and some curves over it; `moved`, if given, follows a dragged dot.
export function bumpChart(label, lines, moved) {
  const clip = uniqueId("clip");
  const rods = POSITIONS.map((v) =>
    svg("rect", {
      class: "opd-fill",
      style: "--role: var(--opd-teacher)",
      "fill-opacity": 0.32,
      x: acrossOf(v) - 3,
      width: 6,
    }),
  );
  const curves = Object.fromEntries(
    lines
      .filter((key) => key !== "teacher")
      .map((key) => [
        key,
        svg("path", {
          class: "opd-line",
          style: `--role: var(--opd-${LINES[key].role})`,
          "stroke-dasharray": LINES[key].dash,
          "stroke-dashoffset": LINES[key].shift,
          "data-line": key,
        }),
      ]),
  );
  const dot = svg("circle", {
    r: 7,
    class: "opd-point opd-point-teacher",
    style: "--role: var(--opd-student)",
  });
  const reach = svg("circle", { r: 22, class: "opd-reach", "data-handle": "start" });
  const grip = moved ? svg("g", {}, dot, reach) : null;
  const frame = svg(
    "svg",
    { viewBox: "0 0 360 168", role: "img", "aria-label": label },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", {
        x: PLOT.left,
        y: PLOT.top - 4,
        width: PLOT.right - PLOT.left,
        height: PLOT.bottom - PLOT.top + 6,
      }),
    ),
    [0.1, 0.2].map((p) => [
      svg("path", { class: "opd-grid-line", d: `M${PLOT.left} ${heightOf(p)}H${PLOT.right}` }),
      svg(
        "text",
        { x: PLOT.left - 5, y: heightOf(p) + 4, "text-anchor": "end" },
        String(p).slice(1),
      ),
    ]),
    svg("g", { "clip-path": `url(#${clip})` }, rods, Object.values(curves)),
    svg("path", { class: "opd-axis", d: `M${PLOT.left} ${PLOT.bottom}H${PLOT.right}` }),
    [1, 10, 20, 30, 40].map((v) =>
      svg(
        "text",
        { x: acrossOf(v), y: PLOT.bottom + 16, "text-anchor": "middle" },
        v === 1 ? "token 1" : String(v),
      ),
    ),
    grip,
  );
  if (moved) {
    draggable(reach, frame, (x, y) =>
      moved(
        0.5 + ((x - PLOT.left) / (PLOT.right - PLOT.left)) * VOCABULARY,
        ((PLOT.bottom - y) / (PLOT.bottom - PLOT.top)) * PLOT.most,
      ),
    );
  }
  const element = html(
    "div",
    {},
    frame,
    chartKey(lines.map((key) => [LINES[key].mark, LINES[key].role, LINES[key].label])),
  );
  return {
    element,
    bars: (q) =>
      q.forEach((x, v) => put(rods[v], { y: heightOf(x), height: PLOT.bottom - heightOf(x) })),
    line: (key, p, bold = false) =>
      put(curves[key], {
        d: curveOf(p),
        style: `--role: var(--opd-${LINES[key].role}); stroke-width: ${bold ? 3.4 : 2}`,
      }),
    place: (mean, height) =>
      put(grip, {
        transform: `translate(${acrossOf(mean).toFixed(2)} ${heightOf(height).toFixed(2)})`,
      }),
  };
}

// The cost by step: the part taken solid, what lies ahead faint.
export function lossChart() {
  const [left, right, top, bottom] = [46, 340, 22, 104];
  const ahead = svg("path", { class: "opd-line", opacity: 0.35 });
  const taken = svg("path", { class: "opd-line" });
  const mark = svg("circle", { r: 5, class: "opd-point" });
  const title = svg("text", { x: left, y: 12 });
  const [high, count] = [
    svg("text", { x: left - 6, y: top + 5, "text-anchor": "end" }),
    svg("text", { x: right, y: bottom + 16, "text-anchor": "middle" }),
  ];
  const element = svg(
    "svg",
    { viewBox: "0 0 360 124", role: "img", "aria-label": "The cost at each step of the descent" },
    svg("path", { class: "opd-grid-line", d: `M${left} ${top}H${right}` }),
    svg("path", { class: "opd-axis", fill: "none", d: `M${left} ${top}V${bottom}H${right}` }),
    svg("text", { x: left - 6, y: bottom + 4, "text-anchor": "end" }, "0"),
    svg("text", { x: left, y: bottom + 16, "text-anchor": "middle" }, "0"),
    title,
    high,
    count,
    ahead,
    taken,
    mark,
  );
  return {
    element,
    update(path, at, { label, role }) {
      const length = Math.max(path.length - 1, 1);
      const most = Math.max(path[0].cost, 1e-12);
      const point = ({ cost }, i) => [
        left + (i / length) * (right - left),
        bottom - (cost / most) * (bottom - top),
      ];
      const through = (part) => pathThrough(part.map(point));
      const style = `--role: var(--opd-${role})`;
      put(ahead, { d: through(path), style });
      put(taken, { d: through(path.slice(0, at + 1)), style });
      const [x, y] = point(path[at], at);
      put(mark, { cx: x.toFixed(1), cy: y.toFixed(1), style });
      showText(title, `${label} at each step`);
      showText(high, number(path[0].cost, path[0].cost < 0.995 ? 2 : 1));
      showText(count, String(path.length - 1));
    },
  };
}
