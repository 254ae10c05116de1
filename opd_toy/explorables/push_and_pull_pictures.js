import { put, said, svg, TOKENS } from "./interface.js";
import { pathThrough, roleStyle, triangle } from "./pictures.js";
import { disagreement, FIELD, OBJECTIVES, pathOf, velocity } from "./push_and_pull_objectives.js";

// For each token, one bar an objective: to the right the step raises the logit.
export function pushChart(offered) {
  const row = 14 * offered.length + 12;
  const height = row * 3 + 22;
  const [middle, reach] = [190, 140];
  const group = TOKENS.map((_, v) =>
    offered.map((key, i) =>
      svg("rect", {
        class: "opd-fill",
        style: `--role: var(--opd-${OBJECTIVES[key].role})`,
        height: 10,
        y: 18 + v * row + i * 14,
      }),
    ),
  );
  const heads = TOKENS.map((_, v) =>
    offered.map((key, i) =>
      svg("path", { class: "opd-fill", style: `--role: var(--opd-${OBJECTIVES[key].role})` }),
    ),
  );
  const frame = svg(
    "svg",
    {
      viewBox: `0 0 360 ${height}`,
      role: "img",
      "aria-label":
        "Push on each token's logit in one descent step; the same numbers are in the table",
    },
    svg("text", { x: middle - 8, y: 10, "text-anchor": "end" }, "◀ lowered"),
    svg("text", { x: middle + 8, y: 10 }, "raised ▶"),
    TOKENS.map((name, v) => svg("text", { x: 4, y: 18 + v * row + row / 2 - 4 }, name)),
    svg("path", { class: "opd-axis", d: `M${middle} 14V${height}` }),
    group,
    heads,
  );
  return {
    element: frame,
    update(gradients) {
      const scale = reach / Math.max(0.5, ...gradients.flat().map(Math.abs));
      gradients.forEach((g, i) =>
        g.forEach((x, v) => {
          const length = -x * scale;
          const y = 18 + v * row + i * 14;
          const tip = middle + length;
          const head = Math.sign(length) * Math.min(7, Math.abs(length));
          put(group[v][i], {
            x: Math.min(middle, tip - head),
            width: Math.max(Math.abs(length - head), 0),
          });
          put(heads[v][i], { d: `M${tip} ${y + 5}L${tip - head} ${y - 2}V${y + 12}Z` });
        }),
      );
    },
  };
}

export function fieldPicture(moved) {
  const regions = [0, 1].map(() => svg("path", { class: "opd-region" }));
  const arrows = svg("path", { class: "opd-arrow" });
  const line = svg("path", { class: "opd-path" });
  const handles = {
    teacher: triangle.handle("teacher", "teacher", (q) => moved("teacher", q)),
    student: triangle.handle("student", "student", (p) => moved("student", p)),
  };
  const element = triangle.frame(
    said(
      "The probability triangle: student, teacher, descent field and path.",
      "The bars set the same two points.",
    ),
    regions,
    arrows,
    line,
    handles.teacher.element,
    handles.student.element,
  );
  Object.values(handles).forEach((handle) => handle.attach(element));
  let shaded = "";
  return {
    element,
    update(p, q, token, role, gradient) {
      const key = JSON.stringify([q, token]);
      if (key !== shaded) {
        shaded = key;
        disagreement(q, token).forEach((polygon, i) =>
          put(regions[i], { d: `${triangle.path(polygon)}Z` }),
        );
      }
      const style = roleStyle(role);
      const strokes = FIELD.map((point) => fieldArrow(point, velocity(point, gradient(point, q))));
      put(arrows, { d: strokes.join(""), style });
      put(line, { d: triangle.path(pathOf(p, q, gradient)), style });
      handles.student.update(p);
      handles.teacher.update(q);
    },
  };
}

// An arrow about a point of the triangle, in the direction of a speed of the probabilities.
function fieldArrow(point, speed) {
  const [x, y] = triangle.point(point);
  const ahead = triangle.point(point.map((value, v) => value + speed[v]));
  const [dx, dy] = [ahead[0] - x, ahead[1] - y];
  const length = Math.hypot(dx, dy);
  if (!(length > 1e-9)) return "";
  const size = 15 * Math.min(1, 0.35 + Math.sqrt(length) / 8);
  const [ux, uy] = [(dx / length) * size, (dy / length) * size];
  const tip = [x + ux / 2, y + uy / 2];
  const barb = (side) => [tip[0] - 0.3 * ux + side * 0.2 * uy, tip[1] - 0.3 * uy - side * 0.2 * ux];
  return pathThrough([[x - ux / 2, y - uy / 2], tip]) + pathThrough([barb(1), tip, barb(-1)]);
}
