// What the pictures share: dragging, keys, the probability triangle.

import { html, put, svg } from "./interface.js";

// From [low, high] to [from, to], on a line.
export const scale = (low, high, from, to) => (x) =>
  from + ((x - low) / (high - low)) * (to - from);

// The path of a line through [x, y] points.
export const pathThrough = (points) =>
  points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

export const roleStyle = (role, more = "") => `--role: var(--opd-${role})${more}`;

// Follow the pointer from pressing `node` until release; calls moved(x, y) in the
// coordinates of `frame`'s viewBox.
export function draggable(node, frame, moved) {
  node.style.touchAction = "none"; // not every browser heeds it within an svg
  node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  const follow = (event) => {
    const matrix = frame.getScreenCTM();
    if (!matrix) return;
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    moved(point.x, point.y);
  };
  node.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    node.setPointerCapture(event.pointerId);
    follow(event);
  });
  node.addEventListener("pointermove", (event) => {
    if (node.hasPointerCapture(event.pointerId)) follow(event);
  });
}

// ---- the probability triangle ----
// Token 2 is the top corner, 1 bottom left, 3 bottom right.

const DIAMOND = "M0 -12L12 0L0 12L-12 0Z";

export const triangle = {
  width: 360,
  height: 330,
  corners: [
    [30, 296],
    [180, 36],
    [330, 296],
  ],
  point(p) {
    return [0, 1].map((axis) => p.reduce((total, x, v) => total + x * this.corners[v][axis], 0));
  },
  probabilities(x, y, floor = 0.005) {
    const [a, b, c] = this.corners;
    const area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]);
    const p2 = ((x - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (y - a[1])) / area;
    const p3 = ((b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1])) / area;
    const inside = [1 - p2 - p3, p2, p3].map((value) => Math.max(value, floor));
    const total = inside[0] + inside[1] + inside[2];
    return inside.map((value) => value / total);
  },
  path(points) {
    return pathThrough(points.map((p) => this.point(p)));
  },
  frame(label, ...layers) {
    const [a, b, c] = this.corners;
    return svg(
      "svg",
      {
        class: "opd-triangle",
        viewBox: `0 0 ${this.width} ${this.height}`,
        role: "img",
        "aria-label": label,
      },
      svg("path", { class: "opd-paper", d: `M${a}L${b}L${c}Z` }),
      ...layers,
      svg("path", { class: "opd-edge", d: `M${a}L${b}L${c}Z` }),
      svg("text", { x: a[0] - 14, y: a[1] + 20 }, "all on t₁"),
      svg("text", { x: b[0], y: b[1] - 10, "text-anchor": "middle" }, "all on t₂"),
      svg("text", { x: c[0] + 14, y: c[1] + 20, "text-anchor": "end" }, "all on t₃"),
    );
  },
  // A point to drag: a disc for the student, a ring for the teacher, a diamond for who drew.
  handle(role, label, moved) {
    const style = `--role: var(--opd-${role})`;
    const diamond = role === "behaviour";
    const mark = diamond
      ? svg("path", { d: DIAMOND, class: "opd-outline", style: `${style}; stroke-width: 3` })
      : svg("circle", { r: 8, class: `opd-point opd-point-${role}`, style });
    const reach = svg("circle", { r: 22, class: "opd-reach", "data-handle": role });
    const element = svg(
      "g",
      {},
      mark,
      svg("text", { class: "opd-point-label", x: 12, y: diamond ? 21 : -9, style }, label),
      reach,
    );
    return {
      element,
      attach: (frame) => draggable(reach, frame, (x, y) => moved(this.probabilities(x, y))),
      update: (p) =>
        put(element, {
          transform: `translate(${this.point(p)
            .map((x) => x.toFixed(2))
            .join(" ")})`,
        }),
    };
  },
};

// The key of a chart: [mark, role, words] each; style.css draws the marks of .opd-key.
export const chartKey = (entries) =>
  html(
    "p",
    { class: "opd-key" },
    entries.map(([mark, role, words]) =>
      html(
        "span",
        {},
        html("i", { "data-mark": mark, style: role ? `--role: var(--opd-${role})` : undefined }),
        words,
      ),
    ),
  );
