// ---- pictures: solid is right, hollow or dashed is wrong ----

import { html, put, said, showText, svg, TOKENS, uniqueId } from "./interface.js";
import { chartKey, pathThrough, triangle } from "./pictures.js";
import { LAST, SIDES } from "./loss_museum_exhibits.js";

export const museumKey = () =>
  chartKey([
    ["dashed", null, "wrong loss, to ✕"],
    ["line", null, "right loss, to ●"],
  ]);

// For each token two bars, the wrong loss's hollow: to the right, descent raises the token.
export function museumPushes() {
  const [middle, reach, row] = [190, 150, 40];
  const boxes = TOKENS.map((_, v) =>
    SIDES.map((side, i) =>
      svg("rect", {
        class: i ? "opd-fill" : "opd-hollow",
        style: "--role: var(--opd-ink)",
        height: 12,
        y: 20 + v * row + i * 15,
        "data-push": side,
      }),
    ),
  );
  const element = svg(
    "svg",
    {
      viewBox: `0 0 360 ${20 + row * TOKENS.length}`,
      role: "img",
      "aria-label": said(
        "Expected push of both losses on each token;",
        "the same numbers are in the table",
      ),
    },
    svg("text", { x: middle - 8, y: 10, "text-anchor": "end" }, "◀ lowered"),
    svg("text", { x: middle + 8, y: 10 }, "raised ▶"),
    TOKENS.map((name, v) => svg("text", { x: 2, y: 20 + v * row + 18 }, name)),
    svg("path", { class: "opd-axis", d: `M${middle} 14V${20 + row * TOKENS.length}` }),
    boxes,
  );
  return {
    element: html(
      "div",
      {},
      element,
      chartKey([
        ["ghost", null, "wrong loss"],
        ["fill", null, "right loss"],
      ]),
    ),
    update(gradients) {
      const scale = reach / Math.max(0.25, ...gradients.flat().map(Math.abs));
      gradients.forEach((g, i) =>
        g.forEach((x, v) => {
          const length = Math.abs(x) * scale;
          put(boxes[v][i], { x: x > 0 ? middle - length : middle, width: Math.max(length, 0) });
        }),
      );
    },
  };
}

export function museumTriangle(moved) {
  const ink = "--role: var(--opd-ink)";
  const lines = SIDES.map((side, i) =>
    svg("path", { class: i ? "opd-path" : "opd-path opd-dashed", style: ink, "data-path": side }),
  );
  const halo = svg("path", { class: "opd-halo" });
  const ends = [
    svg("path", { class: "opd-cross", style: ink }),
    svg("circle", { r: 5, class: "opd-point", style: ink }),
  ];
  const handles = ["teacher", "student"].map((who) => ({
    who,
    ...triangle.handle(who, who, (p) => moved(who, p)),
  }));
  const element = triangle.frame(
    said(
      "The probability triangle: student, teacher, and the way of descent under each loss.",
      "The bars set the same two points.",
    ),
    lines[1],
    lines[0],
    handles.map((handle) => handle.element),
    halo,
    ends[0],
    ends[1],
  );
  handles.forEach((handle) => handle.attach(element));
  for (const mark of [halo, ...ends]) mark.style.pointerEvents = "none";
  return {
    element,
    update(p, q, paths) {
      paths.forEach((path, i) => put(lines[i], { d: triangle.path(path) }));
      const [[x, y], [cx, cy]] = paths.map((path) => triangle.point(path.at(-1)));
      const cross = `M${x - 6} ${y - 6}L${x + 6} ${y + 6}M${x - 6} ${y + 6}L${x + 6} ${y - 6}`;
      put(halo, { d: cross });
      put(ends[0], { d: cross });
      put(ends[1], { cx, cy });
      handles.forEach((handle) => handle.update(handle.who === "student" ? p : q));
    },
  };
}

// One divergence along the steps: what is past the chosen step is faint.
export function klChart(words, symbol, role) {
  const [left, right, top, bottom] = [40, 350, 12, 130];
  const clip = uniqueId("clip");
  const style = `--role: var(--opd-${role})`;
  const pair = (attributes) =>
    SIDES.map((side, i) =>
      svg("path", {
        class: i ? "opd-line" : "opd-line opd-dashed",
        style,
        ...attributes,
        "data-line": attributes ? undefined : side,
      }),
    );
  const [ahead, taken] = [pair({ opacity: 0.3 }), pair()];
  const dots = [
    svg("path", { class: "opd-cross", style }),
    svg("circle", { r: 4.5, class: "opd-point", style }),
  ];
  const grid = Array.from({ length: 5 }, () => [
    svg("path", { class: "opd-grid-line" }),
    svg("text", { x: left - 5, "text-anchor": "end" }),
  ]);
  const across = (i) => left + (i / LAST) * (right - left);
  const element = html(
    "div",
    {},
    html(
      "p",
      { class: "opd-caption" },
      `${words[0].toUpperCase()}${words.slice(1)}, ${symbol}, along the steps`,
    ),
    svg(
      "svg",
      {
        viewBox: "0 0 360 152",
        role: "img",
        "aria-label": said(
          `${words} at each step under both losses;`,
          "the table has it at the chosen step",
        ),
      },
      svg(
        "clipPath",
        { id: clip },
        svg("rect", { x: left, y: top - 3, width: right - left + 2, height: bottom - top + 6 }),
      ),
      grid,
      svg("path", { class: "opd-axis", d: `M${left} ${bottom}H${right}` }),
      [0, 50, 100, 150, 200].map((i) =>
        svg("text", { x: across(i), y: bottom + 17, "text-anchor": "middle" }, String(i)),
      ),
      svg("g", { "clip-path": `url(#${clip})` }, ahead, taken),
      dots,
    ),
  );
  return {
    element,
    update([wrong, correct], count) {
      // a line that leaps far above the start leaves the picture
      const start = wrong[0];
      const most = Math.max(
        0.1,
        1.08 *
          Math.min(
            Math.max(start, ...[...wrong, ...correct].filter(Number.isFinite)),
            Math.max(3 * start, 1.5),
          ),
      );
      const down = (x) => bottom - (Math.min(x, 2 * most) / most) * (bottom - top);
      const size = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5].find((x) => most / x < grid.length) ?? 10;
      grid.forEach(([line, text], n) => {
        const there = n * size <= most;
        put(line, { d: there ? `M${left} ${down(n * size)}H${right}` : "" });
        put(text, { y: down(n * size) + 4 });
        showText(text, there ? String(Number((n * size).toFixed(2))) : "");
      });
      [wrong, correct].forEach((values, i) => {
        const through = (list, first) =>
          pathThrough(list.map((x, n) => [across(first + n), down(x)]));
        put(ahead[i], { d: through(values.slice(count), count) });
        put(taken[i], { d: through(values.slice(0, count + 1), 0) });
        const [x, y] = [across(count), down(values[count])];
        dots[i].style.display = y < top - 3 ? "none" : "";
        put(dots[i], i ? { cx: x, cy: y } : { d: `M${x - 5} ${y - 5}l10 10m-10 0l10 -10` });
      });
    },
  };
}
