import { number, put, raised, said, showText, svg, uniqueId } from "./interface.js";
import { draggable, pathThrough, roleStyle, scale } from "./pictures.js";

// The longer its dash, the further ahead a γ looks.
const DASHES = ["2 4", "5 4", "9 4", "15 4", "none"];

// ---- pictures ----

const BOX = { left: 40, right: 314, top: 12, bottom: 196 };
const SHOWN = 8; // positions from −8 to 8, as in the paper

export function varianceChart(study, moved) {
  const { gammas, block, blocks } = study;
  const last = block * blocks;
  const across = scale(0, last, BOX.left, BOX.right);
  const [low, high] = [Math.floor(Math.log10(study.least)), Math.ceil(Math.log10(study.most))];
  const down = (x) => scale(low, high, BOX.bottom, BOX.top)(Math.log10(x));
  const decades = Array.from({ length: high - low + 1 }, (_, i) => low + i).filter(
    (e) => high - low < 8 || e % 2 === 0,
  );
  const lines = gammas.map((_, g) =>
    svg("path", {
      class: "opd-line",
      style: "--role: var(--opd-policy-gradient)",
      "stroke-dasharray": DASHES[g],
      "data-line": g,
    }),
  );
  const labels = gammas.map((x) => svg("text", { x: BOX.right + 6 }, `γ ${x}`));
  const halo = svg("path", { class: "opd-halo" });
  const rule = svg("path", { class: "opd-axis", "stroke-dasharray": "2 3" });
  const dot = svg("circle", {
    r: 5,
    class: "opd-point",
    style: "--role: var(--opd-policy-gradient)",
  });
  const reach = svg("circle", { r: 22, class: "opd-reach", "data-handle": "iteration" });
  const group = svg("g", {}, lines);
  const element = svg(
    "svg",
    {
      viewBox: "0 0 360 240",
      role: "img",
      "aria-label": said(
        "Variance of the gradient along training, a line for each γ;",
        "the numbers are in the table",
      ),
    },
    decades.map((e) => [
      svg("path", { class: "opd-grid-line", d: `M${BOX.left} ${down(10 ** e)}H${BOX.right}` }),
      svg(
        "text",
        { x: BOX.left - 6, y: down(10 ** e) + 4, "text-anchor": "end" },
        `10${raised(e)}`,
      ),
    ]),
    [0, 500, 1000, 1500, 2000].map((n) =>
      svg("text", { x: across(n), y: BOX.bottom + 18, "text-anchor": "middle" }, String(n)),
    ),
    svg(
      "text",
      { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 35, "text-anchor": "middle" },
      "iteration",
    ),
    rule,
    group,
    labels,
    dot,
    reach,
  );
  draggable(reach, element, (x) => moved(((x - BOX.left) / (BOX.right - BOX.left)) * last));
  let drawn = null;
  return {
    element,
    update(g, s, t, b) {
      if (drawn !== `${g} ${s} ${t}`) {
        drawn = `${g} ${s} ${t}`;
        lines.forEach((line, i) => {
          const d = pathWithGaps(i, s, t);
          const [role, width] = i === g ? ["policy-gradient", 2.8] : ["muted", 1.4];
          put(line, { d, style: roleStyle(role, `; stroke-width: ${width}`) });
          if (i === g) put(halo, { d });
        });
        group.append(halo, lines[g]); // the chosen one on top
        place(
          labels,
          gammas.map((_, i) => endOf(i, s, t)),
          g,
        );
      }
      const [x, variance] = [across((b + 0.5) * block), study.variance(g, s, t, b)];
      put(rule, { d: `M${x} ${BOX.top}V${BOX.bottom}` });
      const y = Number.isFinite(variance) ? down(variance) : BOX.bottom;
      for (const mark of [dot, reach]) put(mark, { cx: x, cy: y });
    },
  };

  // The line of one γ, open where the run had broken down.
  function pathWithGaps(i, s, t) {
    const points = Array.from({ length: blocks }, (_, n) => study.variance(i, s, t, n));
    return points
      .map((variance, n) => {
        if (!Number.isFinite(variance)) return "";
        const letter = Number.isFinite(points[n - 1]) ? "L" : "M";
        return `${letter}${across((n + 0.5) * block).toFixed(1)} ${down(variance).toFixed(1)}`;
      })
      .join("");
  }

  // The height of a line's right end: the median of its last blocks.
  function endOf(i, s, t) {
    const tail = Array.from({ length: 7 }, (_, n) => study.variance(i, s, t, blocks - 1 - n))
      .filter(Number.isFinite)
      .sort((a, b) => a - b);
    return tail.length ? down(tail[tail.length >> 1]) : BOX.bottom;
  }
}

// Stand the labels beside their lines, 14 apart at least.
function place(labels, heights, chosen) {
  const order = heights.map((y, i) => ({ y, i })).sort((a, b) => a.y - b.y);
  order.forEach((each, n) => (each.y = Math.max(each.y, n ? order[n - 1].y + 14 : BOX.top)));
  order
    .reverse()
    .forEach((each, n) => (each.y = Math.min(each.y, n ? order[n - 1].y - 14 : BOX.bottom)));
  order.forEach(({ y, i }) =>
    put(labels[i], { y: y + 4, class: i === chosen ? "opd-heading" : "" }),
  );
}

const heightOf = scale(-SHOWN, SHOWN, BOX.bottom, BOX.top);

// Mean and standard deviation of where the trajectories end, at x.
function endMark(role, x) {
  const [bar, dot] = [svg("path", { class: "opd-whisker" }), svg("path", { class: "opd-point" })];
  const y = (position) => heightOf(Math.min(Math.max(position, -SHOWN), SHOWN)).toFixed(1);
  return {
    group: svg("g", { style: roleStyle(role) }, bar, dot),
    update(mean, deviation) {
      const away = Math.abs(mean) > SHOWN ? Math.sign(mean) : 0; // an arrowhead at the edge
      put(bar, { d: `M${x} ${y(mean - deviation)}V${y(mean + deviation)}` });
      put(dot, {
        d: away
          ? `M${x - 7} ${y(mean)}h14l-7 ${-10 * away}z`
          : `M${x - 4} ${y(mean)}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
      });
    },
  };
}

export function trajectoryChart(study) {
  const { points, targets } = study;
  const clip = uniqueId("clip");
  const across = scale(0, points - 1, BOX.left, BOX.right);
  const down = heightOf;
  const lines = Array.from({ length: study.paths }, () =>
    svg("path", { class: "opd-line", style: "--role: var(--opd-student); stroke-width: 1.5" }),
  );
  const target = svg("path", { class: "opd-line opd-dashed", style: "--role: var(--opd-teacher)" });
  const targetLabel = svg("text", { x: BOX.left + 6 });
  const start = svg("circle", {
    r: 5,
    class: "opd-point",
    style: "--role: var(--opd-student)",
    cx: across(0),
  });
  const startLabel = svg("text", { x: BOX.left + 9 });
  const whiskers = ["student", "teacher"].map((role, i) => endMark(role, BOX.right + 10 + 12 * i));
  const element = svg(
    "svg",
    {
      viewBox: "0 0 360 240",
      role: "img",
      "aria-label": "Trajectories of the student: position against time step",
    },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", {
        x: BOX.left - 6,
        y: BOX.top,
        width: BOX.right - BOX.left + 6,
        height: BOX.bottom - BOX.top,
      }),
    ),
    [-8, -4, 0, 4, 8].map((y) => [
      svg("path", { class: "opd-grid-line", d: `M${BOX.left} ${down(y)}H${BOX.right}` }),
      svg("text", { x: BOX.left - 6, y: down(y) + 4, "text-anchor": "end" }, number(y, 0)),
    ]),
    [0, 5, 10, 15, 20]
      .filter((n) => n < points)
      .map((n) =>
        svg("text", { x: across(n), y: BOX.bottom + 18, "text-anchor": "middle" }, String(n)),
      ),
    svg(
      "text",
      { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 35, "text-anchor": "middle" },
      "time step",
    ),
    target,
    svg("g", { "clip-path": `url(#${clip})` }, lines, start),
    whiskers.map((each) => each.group),
    targetLabel,
    startLabel,
  );
  return {
    element,
    update(g, s, t, c) {
      const paths = lines.map((_, n) => study.path(g, s, c, t, n));
      lines.forEach((line, n) =>
        put(line, { d: pathThrough(paths[n].map((y, i) => [across(i), down(y)])) }),
      );
      const [first, side] = [paths[0][0], targets[t] > 0 ? -1 : 1];
      put(target, { d: `M${BOX.left} ${down(targets[t])}H${BOX.right}` });
      put(targetLabel, { y: down(targets[t]) + (side > 0 ? 16 : -8) });
      showText(targetLabel, `target ${number(targets[t], 0)}`);
      put(start, { cy: down(first) });
      put(startLabel, { y: down(first) + (side > 0 ? -10 : 18) });
      showText(startLabel, `start ${number(first, 0)}`);
      whiskers[0].update(...study.end(g, s, c, t));
      whiskers[1].update(...study.teacher.map((each) => each[t]));
    },
  };
}
