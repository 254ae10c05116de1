import { put, showText, svg, uniqueId } from "./interface.js";
import { draggable, pathThrough, roleStyle, scale } from "./pictures.js";
import { METHODS, PLACES, QUANTITIES } from "./learning_curves_study.js";

// A piece of a curve.
export const stroke = (role, dashes) =>
  svg(
    "svg",
    {
      class: "opd-stroke",
      viewBox: "0 0 30 8",
      "aria-hidden": "true",
      style: `--role: var(--opd-${role})`,
    },
    svg("path", { class: "opd-line", d: "M0 4H30", "stroke-dasharray": dashes }),
  );

// ---- the picture ----

const BOX = { left: 44, right: 302, top: 12, bottom: 226 };

// Round numbers between two bounds, `count` of them or fewer.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * (1 - 1e-9));
  const first = Math.ceil(low / size - 1e-9);
  return Array.from({ length: Math.floor(high / size + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * size).toPrecision(12)),
  );
}
// 1, 2 and 5 times the powers of ten; the powers alone where those are many, more where they
// are few.
function logarithmicTicks(low, high) {
  if (high / low < 8) return ticks(low, high, 6);
  const powers = Array.from(
    { length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 1 },
    (_, i) => Math.floor(Math.log10(low)) + i,
  );
  const within = (all) =>
    all.map((x) => Number(x.toPrecision(3))).filter((x) => x >= low && x <= high);
  const fine = within(powers.flatMap((power) => [1, 2, 5].map((x) => x * 10 ** power)));
  return fine.length <= 8 ? fine : within(powers.map((power) => 10 ** power));
}

export function curveChart(moved) {
  const parts = chartParts();
  const element = chartFrame(parts);
  draggable(parts.reach, element, (x) => {
    const at = Math.round(scale(BOX.left, BOX.right, 0, 100)(x));
    moved(Math.min(Math.max(at, 0), 100));
  });
  let [drawn, across, down] = [null, null, null];
  return {
    element,
    // `reading`: as for the sentence
    update(reading) {
      const { record, along, what, chosen, x, readings } = reading;
      const key = [record, along, what, ...chosen].join(" ");
      if (drawn !== key) [across, down] = drawCurves(parts, reading);
      drawn = key;
      put(parts.rule, { d: `M${across(x)} ${BOX.top}V${BOX.bottom}` });
      for (const mark of [parts.knob, parts.reach]) put(mark, { cx: across(x) });
      const found = new Map(readings.map((each) => [each.name, each]));
      METHODS.forEach(({ name }, i) => {
        const mean = found.get(name)?.mean;
        parts.dots[i].style.display = Number.isFinite(mean) ? "" : "none";
        if (Number.isFinite(mean)) put(parts.dots[i], { cx: across(x), cy: down(mean) });
      });
    },
  };
}

// All that the chart consists of, a band, line, dot and label for each method.
function chartParts() {
  const each = (tag, attributesOf, ...children) =>
    METHODS.map((method) =>
      svg(
        tag,
        { style: roleStyle(method.role), ...attributesOf(method) },
        ...children.map((text) => text(method)),
      ),
    );
  const level = (role, dashes, words) => ({
    line: svg("path", {
      class: "opd-line",
      style: roleStyle(role, "; stroke-width: 1.6"),
      "stroke-dasharray": dashes,
    }),
    label: svg("text", { class: "opd-point-label", style: roleStyle(role) }, words),
  });
  return {
    bands: each("path", ({ name }) => ({ class: "opd-band", "data-band": name })),
    lines: each("path", ({ name, dashes }) => ({
      class: "opd-line",
      "stroke-dasharray": dashes,
      "data-line": name,
    })),
    dots: each("circle", () => ({ r: 4, class: "opd-point" })),
    labels: each(
      "text",
      () => ({ class: "opd-point-label" }),
      ({ brief }) => brief,
    ),
    grid: svg("g"),
    levels: [level("teacher", "none", "teacher"), level("student", "1.5 4", "start")],
    rule: svg("path", { class: "opd-axis", "stroke-dasharray": "2 3" }),
    knob: svg("circle", { r: 7, cy: BOX.bottom, class: "opd-point", style: roleStyle("ink") }),
    reach: svg("circle", { r: 22, cy: BOX.bottom, class: "opd-reach", "data-handle": "at" }),
    axis: svg("text", {
      x: (BOX.left + BOX.right) / 2,
      y: BOX.bottom + 36,
      "text-anchor": "middle",
    }),
  };
}

function chartFrame({ bands, lines, dots, labels, grid, levels, rule, knob, reach, axis }) {
  const clip = uniqueId("clip");
  return svg(
    "svg",
    {
      viewBox: "0 0 360 268",
      role: "img",
      "aria-label": "Learning curves with seed bands; the numbers are in the table",
    },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", {
        x: BOX.left,
        y: BOX.top - 4,
        width: BOX.right - BOX.left + 2,
        height: BOX.bottom - BOX.top + 8,
      }),
    ),
    grid,
    svg("g", { "clip-path": `url(#${clip})` }, bands),
    levels.map(({ line }) => line),
    rule,
    svg("g", { "clip-path": `url(#${clip})` }, lines),
    dots,
    levels.map(({ label }) => label),
    labels,
    knob,
    reach,
    axis,
  );
}

// Everything but where the curves are read; returns the two scales.
function drawCurves(parts, { study, chosen, along, what }) {
  const curves = new Map(chosen.map((name) => [name, study.curve(name, what, along)]));
  const logarithmic = study.logarithmic.includes(what);
  const level = [study.teacher[what], study.start[what]].map((y) =>
    Number.isFinite(y) && (y > 0 || !logarithmic) ? y : null,
  );
  const values = [
    ...level.filter((y) => y !== null),
    ...[...curves.values()].flat().flatMap(({ least, greatest }) => [least, greatest]),
  ];
  const [low, high] = limits(values, logarithmic, QUANTITIES[what].share);
  const across = scale(0, study.furthest(along), BOX.left, BOX.right);
  const linear = scale(
    ...(logarithmic ? [low, high].map(Math.log) : [low, high]),
    BOX.bottom,
    BOX.top,
  );
  const down = (y) => linear(logarithmic ? Math.log(y) : y);
  drawGrid(parts, study, along, QUANTITIES[what], across, {
    heights: logarithmic ? logarithmicTicks(low, high) : ticks(low, high, 6),
    down,
  });
  const ends = [];
  parts.levels.forEach(({ line, label }, i) => {
    const y = level[i];
    put(line, { d: y === null ? "" : `M${BOX.left} ${down(y)}H${BOX.right}` });
    label.style.display = y === null ? "none" : "";
    if (y !== null) ends.push({ label, x: BOX.right + 5, y: down(y) });
  });
  METHODS.forEach(({ name }, i) => {
    const points = curves.get(name) ?? [];
    const label = parts.labels[i];
    drawCurve(parts.lines[i], parts.bands[i], points, across, down);
    label.style.display = points.length ? "" : "none";
    if (points.length)
      ends.push({ label, x: across(points.at(-1).x) + 5, y: down(points.at(-1).mean) });
  });
  apart(ends);
  return [across, down];
}

// The mean as a line, the seeds as a band from the greatest to the least.
function drawCurve(line, band, points, across, down) {
  const along = (which) => points.map((point) => [across(point.x), down(point[which])]);
  put(line, { d: pathThrough(along("mean")) });
  const around = [...along("greatest"), ...along("least").reverse()];
  put(band, { d: points.length < 2 ? "" : `${pathThrough(around)}Z` });
}

function drawGrid({ grid, axis }, study, along, measure, across, { heights, down }) {
  const text = (y) => (measure.share ? `${Number((100 * y).toPrecision(6))} %` : String(y));
  grid.replaceChildren(
    ...heights.flatMap((y) => [
      svg("path", { class: "opd-grid-line", d: `M${BOX.left} ${down(y)}H${BOX.right}` }),
      svg("text", { x: BOX.left - 5, y: down(y) + 4, "text-anchor": "end" }, text(y)),
    ]),
    ...ticks(0, study.furthest(along), 4).map((x) =>
      svg(
        "text",
        { x: across(x), y: BOX.bottom + 20, "text-anchor": "middle" },
        PLACES[along].tick(x),
      ),
    ),
  );
  showText(axis, along === "seconds" ? study.clock : PLACES[along].title);
}

// Bounds of the axis: the values and a little room.
function limits(values, logarithmic, share) {
  const [low, high] = values.length
    ? [Math.min(...values), Math.max(...values)]
    : [logarithmic ? 0.1 : 0, 1];
  if (logarithmic) return [low / 1.15, high * 1.15];
  const room = (high - low) * 0.05 || 0.05 * Math.abs(high) || 1;
  return share ? [Math.max(low - room, 0), Math.min(high + room, 1)] : [low - room, high + room];
}

// Stand the labels beside the ends of their curves, 14 apart where they would meet.
function apart(ends) {
  ends.sort((a, b) => a.y - b.y);
  const meets = (a, b) => Math.abs(a.x - b.x) < 56;
  for (const each of ends) each.y = Math.max(each.y, BOX.top);
  ends.forEach((each, n) =>
    ends
      .slice(0, n)
      .forEach((other) => meets(each, other) && (each.y = Math.max(each.y, other.y + 14))),
  );
  ends.toReversed().forEach((each, n, all) => {
    each.y = Math.min(each.y, BOX.bottom);
    all
      .slice(0, n)
      .forEach((other) => meets(each, other) && (each.y = Math.min(each.y, other.y - 14)));
  });
  for (const { label, x, y } of ends) put(label, { x, y: y + 4 });
}
