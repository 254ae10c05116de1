// ---- pictures: your loss in ink, each KL in its colour ----

import { html, put, said, svg, TOKENS } from "./interface.js";
import { chartKey, roleStyle, triangle } from "./pictures.js";

const ROLES = ["ink", "forward-kl", "reverse-kl"];
const [MIDDLE, REACH, ROW] = [190, 145, 54];
const top = (v, i) => 20 + v * ROW + i * 14;

// For each token three bars: to the right, descent raises it. The thin line through the first
// is one standard deviation of a single draw to each side.
export function lossPushes() {
  const bars = TOKENS.map((_, v) =>
    ROLES.map((role, i) =>
      svg("rect", { class: "opd-fill", style: roleStyle(role), height: 10, y: top(v, i) }),
    ),
  );
  const whiskers = TOKENS.map((_, v) => [
    svg("path", { class: "opd-halo" }), // so that it is seen on the bar too
    svg("path", { class: "opd-whisker", style: roleStyle("muted"), "data-whisker": v }),
  ]);
  const height = 20 + ROW * TOKENS.length;
  const element = svg(
    "svg",
    {
      viewBox: `0 0 360 ${height}`,
      role: "img",
      "aria-label": said(
        "Expected push on each token of your loss, with the spread of one draw,",
        "and of both KLs; the same numbers are in the table",
      ),
    },
    svg("text", { x: MIDDLE - 8, y: 10, "text-anchor": "end" }, "◀ lowered"),
    svg("text", { x: MIDDLE + 8, y: 10 }, "raised ▶"),
    TOKENS.map((name, v) => svg("text", { x: 2, y: top(v, 1) + 10 }, name)),
    svg("path", { class: "opd-axis", d: `M${MIDDLE} 14V${height}` }),
    bars,
    whiskers,
  );
  return {
    element: html(
      "div",
      {},
      element,
      chartKey([
        ["fill", "ink", "your loss, on average"],
        ["line", "muted", "one draw, ± one deviation"],
        ["fill", "forward-kl", "forward KL"],
        ["fill", "reverse-kl", "reverse KL"],
      ]),
    ),
    update({ mean, deviation }, kls) {
      const all = [mean, ...kls];
      const largest = Math.max(0.25, ...all.flat().map(Math.abs).filter(Number.isFinite));
      const farthest = mean.map((g, v) => Math.abs(g) + deviation[v]).filter(Number.isFinite);
      // a draw may stray far: then its line leaves the picture, and the bars stay legible
      const scale = REACH / Math.max(largest, Math.min(2 * largest, Math.max(...farthest, 0)));
      const across = (x) => MIDDLE - Math.max(-REACH, Math.min(REACH, x * scale));
      all.forEach((g, i) =>
        g.forEach((x, v) => {
          const end = Number.isNaN(x) ? MIDDLE : across(x);
          put(bars[v][i], { x: Math.min(MIDDLE, end), width: Math.abs(end - MIDDLE) });
        }),
      );
      mean.forEach((g, v) => {
        const ends = [g - deviation[v], g + deviation[v]];
        const drawn = ends.every(Number.isFinite) && deviation[v] > 1e-12;
        const [right, left] = ends.map((x) => across(x).toFixed(2));
        const y = top(v, 0) + 5;
        const d = drawn ? `M${left} ${y - 3}v6m0 -3H${right}m0 -3v6` : "";
        for (const line of whiskers[v]) put(line, { d });
      });
    },
  };
}

export const endKey = () =>
  chartKey([
    ["line", "ink", "descent on your loss"],
    ["cross", "ink", "its end"],
  ]);

export function endTriangle(moved) {
  const ink = roleStyle("ink");
  const line = svg("path", { class: "opd-path", style: ink, "data-path": "yours" });
  const [halo, end] = [
    svg("path", { class: "opd-halo" }),
    svg("path", { class: "opd-cross", style: ink }),
  ];
  const handles = ["teacher", "student"].map((who) => ({
    who,
    ...triangle.handle(who, who, (p) => moved(who, p)),
  }));
  const element = triangle.frame(
    said(
      "The probability triangle: student, teacher, and the way of descent on your loss.",
      "The bars set the same two points.",
    ),
    line,
    handles.map((handle) => handle.element),
    halo,
    end,
  );
  handles.forEach((handle) => handle.attach(element));
  for (const mark of [halo, end]) mark.style.pointerEvents = "none";
  return {
    element,
    update(p, q, { path }) {
      put(line, { d: triangle.path(path) });
      const [x, y] = triangle.point(path.at(-1)).map((each) => Number(each.toFixed(2)));
      const cross = `M${x - 6} ${y - 6}l12 12m0 -12l-12 12`;
      put(halo, { d: cross });
      put(end, { d: cross });
      handles.forEach((handle) => handle.update(handle.who === "student" ? p : q));
    },
  };
}
