// The lab's record: the KL to the teacher along training, on texts some steps old.

import { number, put, showNumber, showText, svg, value } from "./interface.js";
import { caption, note } from "./controls.js";
import { chartKey, pathThrough, roleStyle, scale } from "./pictures.js";

const CURVES = { left: 34, right: 350, top: 8, bottom: 138 };
const LEVELS = [4, 8, 16];
const AGES = [
  ["0", "faint", "fresh, no ratio", roleStyle("ink", "; stroke-width: 1.4")],
  ["1", "dots", "1 step old", roleStyle("policy-gradient", "; stroke-dasharray: 1.5 4")],
  ["4", "dashed", "4", roleStyle("policy-gradient", "; stroke-dasharray: 6 4")],
  ["16", "line", "16", roleStyle("policy-gradient", "; stroke-width: 3")],
];

// The run of a correction: the record keeps the cost with the ratio only.
const runOf = (correction, cost) => (cost === "kept" ? "kept" : correction);

export function recordPanel({ steps, curves, words }) {
  const all = Object.values(curves).flatMap((run) => Object.values(run).flat());
  const across = scale(0, steps.at(-1), CURVES.left, CURVES.right);
  const log = scale(
    Math.log(Math.min(...all, LEVELS[0])),
    Math.log(Math.max(...all)),
    CURVES.bottom,
    CURVES.top,
  );
  const through = (kl) => pathThrough(kl.map((x, i) => [across(steps[i]), log(Math.log(x))]));
  const oldest = Object.values(curves).map((run) => run["16"]);
  const lines = AGES.map(([age, , , style]) =>
    svg("path", { class: "opd-line", style, "data-line": age }),
  );
  const ends = AGES.map(([age]) => value({ "data-name": `record-${age}` }));
  const run = value({});
  return {
    nodes: [
      caption("On a transformer: KL to the teacher"),
      svg(
        "svg",
        {
          viewBox: "0 0 360 178",
          role: "img",
          "aria-label":
            "The KL to the teacher along training, by the age of the texts; its last values follow",
        },
        LEVELS.map((kl) => [
          svg("path", {
            class: "opd-grid-line",
            d: `M${CURVES.left} ${log(Math.log(kl))}H${CURVES.right}`,
          }),
          svg(
            "text",
            { x: CURVES.left - 6, y: log(Math.log(kl)) + 4, "text-anchor": "end" },
            String(kl),
          ),
        ]),
        oldest.map((kl) =>
          svg("path", {
            class: "opd-line",
            style: roleStyle("muted", "; stroke-width: .9; opacity: .6"),
            d: through(kl),
          }),
        ),
        lines,
        steps
          .filter((_, i) => i % 2 === 0)
          .map((step) =>
            svg(
              "text",
              { x: across(step), y: CURVES.bottom + 17, "text-anchor": "middle" },
              String(step),
            ),
          ),
        svg(
          "text",
          { x: (CURVES.left + CURVES.right) / 2, y: CURVES.bottom + 35, "text-anchor": "middle" },
          "training steps",
        ),
      ),
      chartKey(AGES.map(([, mark, name], i) => [mark, i ? "policy-gradient" : null, name])),
      note(
        "Chapter 9's record for: ",
        run,
        ". The last values are ",
        ends.flatMap((end, i) => [end, [", ", ", ", " and ", "."][i]]),
        " Thin: the other corrections, 16 steps old.",
      ),
    ],
    update(correction, cost) {
      const key = runOf(correction, cost);
      showText(run, words[key]);
      AGES.forEach(([age], i) => {
        const along = curves[key][age] ?? curves.none[age];
        put(lines[i], { d: through(along) });
        showNumber(ends[i], along.at(-1), number(along.at(-1)));
      });
    },
  };
}
