import { number, put, said, showText, svg, TOKENS } from "./interface.js";
import { chances } from "./tree_mathematics.js";

// A bar from the middle to `length`, with a head, pointing to the right where the token is raised.
function arrow(middle, length, y, half) {
  const neck = middle + length - Math.sign(length) * Math.min(5, Math.abs(length));
  const tip = `L${middle + length} ${y}L${neck} ${y + half + 2}`;
  return `M${middle} ${y - half}H${neck}V${y - half - 2}${tip}V${y + half}H${middle}Z`;
}
// What pushes against the exact gradient is hollow.
const kindOf = (g, exact) => (g * exact < -1e-12 ? "opd-outline" : "opd-fill");
const pathOf = (role, kind = "opd-fill") =>
  svg("path", { class: kind, style: `--role: var(--opd-${role})` });

// GKD's push and, beside it, that of the token drawn.
export function pushes() {
  const [middles, reach, top, row] = [[108, 272], 72, 44, 30];
  const bottom = top + 3 * row;
  const shapes = ["reverse-kl", "policy-gradient"].map((role) => TOKENS.map(() => pathOf(role)));
  const heading = svg("text", {
    x: middles[1],
    y: 13,
    "text-anchor": "middle",
    class: "opd-heading",
  });
  const marks = TOKENS.map((_, v) =>
    svg("rect", {
      class: "opd-chosen",
      x: 188,
      width: 168,
      y: top + v * row + 1,
      height: row - 2,
      rx: 4,
    }),
  );
  const element = svg(
    "svg",
    {
      viewBox: `0 0 360 ${bottom + 6}`,
      role: "img",
      "aria-label": said(
        "The push on each token's logit in one descent step, of GKD and of the policy gradient;",
        "the same numbers are in the table",
      ),
    },
    marks,
    svg(
      "text",
      { x: middles[0], y: 13, "text-anchor": "middle", class: "opd-heading" },
      "GKD, any draw",
    ),
    heading,
    middles.map((x) => [
      svg("text", { x: x - 6, y: 33, "text-anchor": "end" }, "◀ lowered"),
      svg("text", { x: x + 6, y: 33 }, "raised ▶"),
      svg("path", { class: "opd-axis", d: `M${x} ${top - 4}V${bottom}` }),
    ]),
    TOKENS.map((name, v) => svg("text", { x: 4, y: top + v * row + row / 2 + 5 }, name)),
    shapes,
  );
  return {
    element,
    update(exact, estimate, k, scale) {
      showText(heading, `PG, ${TOKENS[k]} drawn`);
      [exact, estimate].forEach((gradient, side) =>
        gradient.forEach((g, v) =>
          put(shapes[side][v], {
            d: arrow(middles[side], (-g / scale) * reach, top + v * row + row / 2, 7),
            class: kindOf(g, exact[v]),
          }),
        ),
      );
      marks.forEach((mark, v) => put(mark, { visibility: v === k ? "visible" : "hidden" }));
    },
  };
}

// One small chart a draw, with its probability, and one for their mean and spread.
export function multiples(chosen) {
  const [top, row, reach] = [46, 26, 34];
  const bottom = top + 3 * row;
  const middles = [64, 142, 220, 312];
  const arrows = middles.map((_, panel) =>
    TOKENS.map(() => pathOf("policy-gradient", panel < 3 ? "opd-fill" : "opd-fill opd-pale")),
  );
  const outlines = TOKENS.map(() => pathOf("reverse-kl", "opd-outline"));
  const whiskers = TOKENS.map(() => pathOf("ink", "opd-whisker"));
  const chances = TOKENS.map((_, i) =>
    svg("text", { x: middles[i], y: 34, "text-anchor": "middle" }),
  );
  const frames = TOKENS.map((_, i) =>
    svg("rect", {
      class: "opd-chosen",
      x: middles[i] - 37,
      width: 74,
      y: 0,
      height: bottom + 4,
      rx: 6,
    }),
  );
  // a press on a chart chooses its draw; the radio buttons do so from the keyboard
  const reaches = TOKENS.map((_, i) =>
    svg("rect", {
      class: "opd-press",
      x: middles[i] - 37,
      width: 74,
      y: 0,
      height: bottom + 4,
      onclick: () => chosen(i),
    }),
  );
  const element = svg(
    "svg",
    {
      viewBox: `0 0 360 ${bottom + 6}`,
      role: "img",
      "aria-label": said(
        "The policy gradient's push for each of the three draws, and their mean;",
        "the same numbers are in the table",
      ),
    },
    frames,
    [...TOKENS.map((name) => `${name} drawn`), "mean = GKD"].map((words, i) =>
      svg("text", { x: middles[i], y: 16, "text-anchor": "middle", class: "opd-heading" }, words),
    ),
    chances,
    middles.map((x) => svg("path", { class: "opd-axis", d: `M${x} ${top - 4}V${bottom}` })),
    TOKENS.map((name, v) => svg("text", { x: 4, y: top + v * row + row / 2 + 5 }, name)),
    arrows,
    outlines,
    whiskers,
    reaches,
  );
  return {
    element,
    update(p, estimates, mean, spread, exact, k, scale) {
      const length = (g) => (-g / scale) * reach;
      const level = (v) => top + v * row + row / 2;
      estimates.forEach((gradient, panel) =>
        gradient.forEach((g, v) =>
          put(arrows[panel][v], {
            d: arrow(middles[panel], length(g), level(v), 6),
            class: kindOf(g, exact[v]),
          }),
        ),
      );
      mean.forEach((g, v) => put(arrows[3][v], { d: arrow(middles[3], length(g), level(v), 6) }));
      exact.forEach((g, v) => put(outlines[v], { d: arrow(middles[3], length(g), level(v), 6) }));
      whiskers.forEach((line, v) => {
        const [a, b] = [-1, 1].map((side) => middles[3] + length(mean[v] + side * spread[v]));
        put(line, { d: `M${a} ${level(v)}H${b}M${a} ${level(v) - 4}v8M${b} ${level(v) - 4}v8` });
      });
      chances.forEach((text, i) => showText(text, `p = ${number(p[i])}`));
      frames.forEach((frame, i) => put(frame, { visibility: i === k ? "visible" : "hidden" }));
    },
  };
}

// The two tokens not drawn: how the policy gradient divides between them, and the teacher.
export function shareBars() {
  const kinds = [
    ["policy gradient", "policy-gradient"],
    ["teacher", "teacher"],
  ];
  const [left, width] = [108, 244];
  const parts = kinds.map(([, role], i) =>
    [0, 1].map((side) =>
      svg("rect", {
        class: `opd-fill${side ? " opd-pale" : ""}`,
        style: `--role: var(--opd-${role})`,
        y: 2 + i * 44,
        height: 18,
      }),
    ),
  );
  const labels = kinds.map((_, i) =>
    [0, 1].map((side) =>
      svg("text", {
        x: side ? left + width : left,
        y: 35 + i * 44,
        "text-anchor": side ? "end" : "start",
      }),
    ),
  );
  const element = svg(
    "svg",
    {
      viewBox: "0 0 360 82",
      role: "img",
      "aria-label": "Shares of the two tokens not drawn, in the policy gradient and in the teacher",
    },
    kinds.map(([words], i) => svg("text", { x: 4, y: 16 + i * 44 }, words)),
    parts,
    labels,
  );
  return {
    element,
    update(p, q, tokens) {
      [p, q].forEach((weights, i) => {
        const share = weights[tokens[0]] / (weights[tokens[0]] + weights[tokens[1]]);
        put(parts[i][0], { x: left, width: Math.max(share * width - 1, 0) });
        put(parts[i][1], {
          x: left + share * width + 1,
          width: Math.max((1 - share) * width - 1, 0),
        });
        const whole = Math.round(100 * share);
        [share, 1 - share].forEach((x, side) => {
          showText(labels[i][side], `${TOKENS[tokens[side]]} ${side ? 100 - whole : whole} %`);
          labels[i][side].dataset.value = String(x);
        });
      });
    },
  };
}
