import { html, put, said, showText, svg } from "./interface.js";
import { chartKey, pathThrough, roleStyle, triangle } from "./pictures.js";
import { CORRECTIONS } from "./stale_rollouts_descent.js";

const LONGEST = 70; // of the two arrows, in units of the picture

export const triangleKey = () =>
  chartKey([
    ["band", "reverse-kl", "exact gradient"],
    ["line", "policy-gradient", "this correction; its descent, μ held, to ✕"],
    ["dots", "policy-gradient", "this correction, μ renewed, to ○"],
  ]);

export function staleTriangle(moved) {
  const role = roleStyle("policy-gradient");
  const paths = [
    svg("path", {
      class: "opd-path",
      style: roleStyle("policy-gradient", "; stroke-width: 1.6"),
      "data-path": "held",
    }),
    svg("path", {
      class: "opd-path opd-fine-dots",
      style: roleStyle("policy-gradient", "; stroke-width: 2.6"),
      "data-path": "renewed",
    }),
  ];
  const arrows = [
    ["exact", "opd-fill", roleStyle("reverse-kl", "; opacity: .5")],
    ["chosen", "opd-arrow", roleStyle("policy-gradient", "; stroke-width: 3; opacity: 1")],
  ].map(([name, kind, style]) => svg("path", { class: kind, style, "data-arrow": name }));
  const halo = svg("path", { class: "opd-halo" });
  const cross = svg("path", { class: "opd-cross", style: role, "data-end": "held" });
  const ring = svg("circle", {
    r: 6.5,
    class: "opd-outline",
    style: roleStyle("policy-gradient", "; stroke-width: 2.4"),
    "data-end": "renewed",
  });
  const cut = svg("path", { class: "opd-fill", style: roleStyle("behaviour"), "data-cut": "" });
  const handles = ["teacher", "student", "behaviour"].map((who) => ({
    who,
    ...triangle.handle(who, who, (p) => moved(who, p)),
  }));
  const element = triangle.frame(
    said(
      "The probability triangle: student, teacher, behaviour, the exact step and this",
      "correction's step at the student, and two ways of descent. The bars set the same points.",
    ),
    paths,
    arrows[0],
    cut,
    handles.map((handle) => handle.element),
    arrows[1],
    halo,
    cross,
    ring,
  );
  handles.forEach((handle) => handle.attach(element));
  for (const mark of [...paths, ...arrows, halo, cross, ring, cut])
    mark.style.pointerEvents = "none";
  return {
    element,
    update({ p, q, mu, behaviour, sampler, exact, chosen, ends }) {
      const points = { student: p, teacher: q, behaviour };
      handles.forEach(({ who, update }) => update(points[who]));
      ends.forEach(({ path }, i) => put(paths[i], { d: triangle.path(path) }));
      drawArrows(arrows, p, [exact, chosen.mean]);
      const [[x, y], [cx, cy]] = ends.map(({ end }) => triangle.point(end));
      const d = `M${x - 6} ${y - 6}l12 12m-12 0l12 -12`;
      for (const mark of [halo, cross]) put(mark, { d });
      put(ring, { cx, cy });
      const [from, to] = [behaviour, mu].map((each) => triangle.point(each));
      put(cut, { d: sampler === "all" ? "" : `M${to[0]} ${to[1] - 7}l7 7l-7 7l-7 -7Z` });
      cut.dataset.cut = sampler === "all" ? "" : `${from} ${to}`;
    },
  };
}

// Where descent moves the probabilities, both by one scale.
function drawArrows(arrows, p, gradients) {
  const foot = triangle.point(p);
  const moves = gradients.map((g) => {
    const mean = p.reduce((total, x, v) => total + x * g[v], 0);
    const ahead = triangle.point(p.map((x, v) => x - x * (g[v] - mean)));
    return [ahead[0] - foot[0], ahead[1] - foot[1]];
  });
  const most = Math.max(...moves.map(([dx, dy]) => Math.hypot(dx, dy)));
  moves.forEach(([dx, dy], i) => {
    const [x, y] = [dx, dy].map((each) => (each / most) * LONGEST);
    const length = Math.hypot(x, y);
    const shape = i ? thin : broad;
    put(arrows[i], { d: most > 1e-7 && length > 1 ? shape(foot, [x, y], length) : "" });
  });
}

// A point `along` an arrow, from 0 to 1, and `beside` it.
const spot =
  ([x, y], [dx, dy], length) =>
  (along, beside = 0) => [
    x + along * dx - (beside / length) * dy,
    y + along * dy + (beside / length) * dx,
  ];

function thin(...given) {
  const [at, neck] = [spot(...given), 1 - Math.min(10, given[2]) / given[2]];
  return pathThrough([at(0), at(1)]) + pathThrough([at(neck, 6), at(1), at(neck, -6)]);
}

function broad(...given) {
  const [at, neck] = [spot(...given), 1 - Math.min(14, given[2]) / given[2]];
  const half = [at(0, 5), at(neck, 5), at(neck, 11)];
  return `${pathThrough([...half, at(1), at(neck, -11), at(neck, -5), at(0, -5)])}Z`;
}

// ---- bias and variance of all corrections ----

const ROW = 30;
const TOP = 22;
const AREAS = [
  { left: 92, right: 176, words: "bias" },
  { left: 222, right: 306, words: "variance" },
];

const figure = (x) => x.toFixed(x < 9.995 ? 2 : x < 99.95 ? 1 : 0);

// A bar for each correction in either area; a press on a row chooses it, as the radio buttons do.
export function comparison(chosen) {
  const height = TOP + ROW * CORRECTIONS.length + 4;
  const level = (row) => TOP + row * ROW;
  const each = (make) => CORRECTIONS.map((correction, row) => make(level(row), correction));
  const frames = each((y) =>
    svg("rect", { class: "opd-chosen", x: 1, width: 358, y: y + 1, height: ROW - 2, rx: 5 }),
  );
  const bars = AREAS.map(({ left, words }) =>
    each((y) =>
      svg("rect", {
        class: "opd-fill",
        style: roleStyle("policy-gradient"),
        x: left,
        y: y + 8,
        height: 14,
        "data-bar": words,
      }),
    ),
  );
  const numbers = AREAS.map(() => each((y) => svg("text", { y: y + 20, class: "opd-on-lines" })));
  const one = svg("path", { class: "opd-axis", "stroke-dasharray": "2 3" });
  const element = svg(
    "svg",
    {
      viewBox: `0 0 360 ${height}`,
      role: "img",
      "aria-label": "Bias and variance of each correction; the same numbers are in the table",
    },
    frames,
    svg("text", { x: AREAS[0].left, y: 13, class: "opd-heading" }, "off by"),
    svg("text", { x: AREAS[1].left, y: 13, class: "opd-heading" }, "variance"),
    each((y, { label }) => svg("text", { x: 8, y: y + 20 }, label)),
    AREAS.map(({ left }) => svg("path", { class: "opd-axis", d: `M${left} ${TOP}V${height - 4}` })),
    one,
    bars,
    numbers,
    each((y, { key }) =>
      svg("rect", {
        class: "opd-press",
        x: 1,
        width: 358,
        y,
        height: ROW,
        onclick: () => chosen(key),
      }),
    ),
  );
  return {
    element: html("div", {}, element),
    update(compared, correction) {
      const values = [compared.map(({ off }) => off), compared.map(({ spread }) => spread)];
      values.forEach((of, i) => {
        const { left, right } = AREAS[i];
        const most = Math.max(i ? 1 : 0.5, ...of.filter(Number.isFinite));
        const length = (x) => (Number.isFinite(x) ? (x / most) * (right - left) : 0);
        of.forEach((x, row) => {
          put(bars[i][row], { width: length(x) });
          put(numbers[i][row], { x: left + length(x) + 5 });
          showText(numbers[i][row], Number.isFinite(x) ? figure(x) : "–");
        });
        if (i) put(one, { d: `M${left + length(1)} ${TOP}V${height - 4}` });
      });
      frames.forEach((frame, row) =>
        put(frame, { visibility: CORRECTIONS[row].key === correction ? "visible" : "hidden" }),
      );
    },
  };
}
