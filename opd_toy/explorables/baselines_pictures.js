import { html, number, put, said, showText, svg, TOKENS, uniqueId } from "./interface.js";
import { chartKey, draggable, pathThrough, roleStyle, scale } from "./pictures.js";

const AREA = { left: 40, right: 348, top: 70, bottom: 210 };
const LABELS = { direct: "b = −1", plain: "b = 0", kl: "KL", best: "best" };

// Total variance against the baseline, with the marked baselines and a dot to drag.
export function varianceChart(moved) {
  const { left, right, top, bottom } = AREA;
  const clip = uniqueId("clip");
  const style = roleStyle("policy-gradient");
  const band = svg("rect", { class: "opd-band", style, y: top, height: bottom - top });
  const level = svg("path", {
    class: "opd-line opd-dashed",
    style: roleStyle("muted", "; stroke-width: 1.2"),
  });
  const line = svg("path", { class: "opd-line", style });
  const marks = Object.keys(LABELS).map(baselineMark);
  const ticks = { x: tickMarks("middle"), y: tickMarks("end") };
  const reach = svg("circle", { r: 22, class: "opd-reach", "data-handle": "baseline" });
  const grip = svg("g", {}, svg("circle", { r: 8, class: "opd-point", style }), reach);
  let range;
  const frame = svg(
    "svg",
    {
      viewBox: "0 0 360 246",
      role: "img",
      "aria-label": said(
        "Total variance of the policy gradient against the baseline b;",
        "the numbers are in the table",
      ),
    },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", { x: left, y: top, width: right - left, height: bottom - top }),
    ),
    ticks.y.lines,
    band,
    svg("path", { class: "opd-axis", d: `M${left} ${bottom}H${right}` }),
    marks.map((mark) => mark.stem),
    svg("g", { "clip-path": `url(#${clip})` }, level, line),
    marks.map((mark) => [mark.dot, mark.text]),
    ticks.x.texts,
    ticks.y.texts,
    svg("text", { x: right, y: bottom + 33, "text-anchor": "end" }, "baseline b"),
    grip,
  );
  draggable(reach, frame, (x) => {
    const b = scale(left, right, ...range)(x);
    moved(Math.round(100 * Math.min(Math.max(b, range[0]), range[1])) / 100);
  });
  return {
    element: html(
      "div",
      {},
      frame,
      chartKey([
        ["line", "policy-gradient", "total variance"],
        ["dashed", "muted", "that of b = 0"],
        ["band", "policy-gradient", "lower than it"],
      ]),
    ),
    update(points, b, variance) {
      range = [
        Math.min(-1.4, points.best - 0.4, b - 0.4),
        Math.max(1.4, points.kl + 0.4, points.best + 0.4, b + 0.4),
      ];
      const most = 1.12 * Math.max(...[b, ...Object.values(points)].map(variance), 1e-12);
      const [across, up] = [scale(...range, left, right), scale(0, most, bottom, top)];
      const bent = Array.from({ length: 81 }, (_, i) => scale(0, 80, ...range)(i));
      put(line, { d: pathThrough(bent.map((at) => [across(at), up(variance(at))])) });
      // the parabola is back at its value for b = 0 at twice the best baseline
      const [from, to] = [0, 2 * points.best]
        .sort((x, y) => x - y)
        .map((at) => Math.min(Math.max(across(at), left), right));
      put(band, { x: from, width: to - from });
      ticks.x.update(...range, (at) => ({ x: across(at), y: bottom + 16 }));
      ticks.y.update(
        0,
        most,
        (x) => ({ x: left - 6, y: up(x) + 4 }),
        (x) => `M${left} ${up(x)}H${right}`,
      );
      put(level, { d: `M${left} ${up(variance(0))}H${right}` });
      placeMarks(marks, points, variance, across, up);
      put(grip, { transform: `translate(${across(b).toFixed(2)} ${up(variance(b)).toFixed(2)})` });
    },
  };
}

const baselineMark = (key) => ({
  key,
  stem: svg("path", { class: "opd-grid-line" }),
  dot: svg("circle", { r: 4.5, class: "opd-fill", style: roleStyle("ink") }),
  text: svg("text", {
    class: "opd-point-label",
    style: roleStyle("ink"),
    "text-anchor": "middle",
  }),
});

// The labels stand above the picture, in as many rows as keep them apart.
function placeMarks(marks, points, variance, across, up) {
  const rows = [-Infinity, -Infinity, -Infinity, -Infinity]; // where each row is full to
  for (const { key, stem, dot, text } of [...marks].sort((a, b) => points[a.key] - points[b.key])) {
    const [x, y] = [across(points[key]), up(variance(points[key]))];
    const words = `${LABELS[key]}: ${number(variance(points[key]), 3)}`;
    const half = 3.7 * words.length + 3;
    const middle = Math.min(Math.max(x, half), 360 - half);
    const free = rows.findIndex((end) => end <= middle - half);
    rows[free] = middle + half;
    showText(text, words);
    put(text, { x: middle, y: AREA.top - 6 - 15 * free });
    put(stem, { d: `M${x} ${AREA.top - 4 - 15 * free}V${y}` });
    put(dot, { cx: x, cy: y });
  }
}

// Up to eight round ticks on an axis.
function tickMarks(anchor) {
  const texts = Array.from({ length: 8 }, () => svg("text", { "text-anchor": anchor }));
  const lines = texts.map(() => svg("path", { class: "opd-grid-line" }));
  return {
    texts,
    lines,
    update(from, to, place, across) {
      const rough = (to - from) / 5;
      const power = 10 ** Math.floor(Math.log10(rough));
      const size = [1, 2, 5, 10].find((x) => x * power >= rough) * power;
      const first = Math.ceil(from / size - 1e-9);
      const digits = Math.max(0, -Math.floor(Math.log10(size) + 1e-9));
      texts.forEach((text, i) => {
        const at = (first + i) * size;
        const shown = at <= to;
        showText(text, shown ? number(at, digits) : "");
        if (shown) put(text, place(at));
        if (across) put(lines[i], { d: shown ? across(at) : "" });
      });
    },
  };
}

// For each token, one bar a series: to the right, descent raises the token.  series: as in a
// chart's key; a mean with a spread is pale, so that its whisker shows.
export function pushChart(series) {
  const row = 14 * series.length + 14;
  const height = row * 3 + 22;
  const [middle, room] = [190, 150];
  const make = (tag, attributes) =>
    TOKENS.map(() => series.map(([, role]) => svg(tag, { style: roleStyle(role), ...attributes })));
  const [boxes, whiskers] = [
    make("rect", { class: "opd-fill", height: 10 }),
    make("path", { class: "opd-whisker" }),
  ];
  boxes.forEach((of) =>
    of.forEach((box, i) => series[i][0] === "outline" && box.classList.add("opd-pale")),
  );
  const frame = svg(
    "svg",
    {
      viewBox: `0 0 360 ${height}`,
      role: "img",
      "aria-label": said(
        "Expected push on each token's logit and its spread;",
        "the expected gradients are in the table",
      ),
    },
    svg("text", { x: middle - 8, y: 10, "text-anchor": "end" }, "◀ lowered"),
    svg("text", { x: middle + 8, y: 10 }, "raised ▶"),
    TOKENS.map((name, v) => svg("text", { x: 2, y: 18 + v * row + row / 2 - 2 }, name)),
    svg("path", { class: "opd-axis", d: `M${middle} 14V${height}` }),
    boxes,
    whiskers,
  );
  const show = (box, whisker, length, spread, y) => {
    const tip = middle + length;
    put(box, { x: Math.min(middle, tip) - 0.75, width: Math.abs(length) + 1.5, y });
    const ends = [tip - spread, tip + spread];
    const line = `M${ends[0]} ${y + 5}H${ends[1]}`;
    put(whisker, {
      d: Number.isNaN(spread) ? "" : `M${ends[0]} ${y + 2}v6${line}M${ends[1]} ${y + 2}v6`,
    });
  };
  return {
    element: html("div", {}, frame, chartKey(series)),
    // values: [mean, spread or nothing] a series, of each token
    update(values) {
      const lengths = values.flatMap(([mean, spread]) =>
        mean.map((x, v) => Math.abs(x) + (spread?.[v] ?? 0)),
      );
      const unit = room / Math.max(0.25, ...lengths);
      values.forEach(([mean, spread], i) =>
        mean.forEach((g, v) => {
          const [length, error] = [-g * unit, (spread?.[v] ?? NaN) * unit];
          show(boxes[v][i], whiskers[v][i], length, error, 18 + v * row + i * 14);
        }),
      );
    },
  };
}
