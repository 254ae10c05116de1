import {
  expectation,
  gkd,
  logRatio,
  policyGradient,
  setProbability,
  sum,
  totalVariance,
} from "./mathematics.js";
import {
  bars,
  button,
  card,
  chartKey,
  choice,
  direction,
  drawn,
  html,
  number,
  put,
  sentence,
  showNumber,
  signed,
  state,
  svg,
  table,
  tokenName,
  toolbar,
  uniforms,
  value,
} from "./interface.js";

const PRESETS = [
  ["The notes' example", { student: [0.2, 0.3, 0.5], teacher: [0.7, 0.2, 0.1], token: 3 }],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: [0.7, 0.2, 0.1] }],
  ["Confident and wrong", { student: [0.03, 0.07, 0.9], teacher: [0.9, 0.07, 0.03] }],
];
const TOKENS = [0, 1, 2].map(tokenName);
const MOST = 999;

// How often each token came up in the first draws of a seed.
const tallyOf = (p, seed, draws) => {
  const next = uniforms(seed);
  const times = [0, 0, 0];
  for (let i = 0; i < draws; i++) times[drawn(p, next())] += 1;
  return times;
};
const drawOf = (p, seed, draw) => {
  const next = uniforms(seed);
  for (let i = 1; i < draw; i++) next();
  return drawn(p, next());
};

function render({ model, el }) {
  const names = ["student", "teacher", "token", "seed", "draws"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  const whole = (name) => Math.round(self.get(name));
  const others = () => [0, 1, 2].filter((v) => v !== whole("token") - 1);

  const inputs = ["student", "teacher"].map((who) =>
    bars({
      title: who === "student" ? "student p" : "teacher q",
      role: who,
      name: who,
      tokens: TOKENS,
      setProbability,
      onchange: (p) => self.set({ [who]: p }),
    }),
  );
  const token = choice({
    label: "Drawn",
    name: "token",
    options: TOKENS.map((name, index) => ({ value: index + 1, label: name })),
    onchange: (index) => self.set({ token: Number(index) }),
  });
  const swap = button(
    "",
    () => {
      const q = [...self.get("teacher")];
      const [i, j] = others();
      [q[i], q[j]] = [q[j], q[i]];
      self.set({ teacher: q });
    },
    { "data-name": "swap" },
  );
  const comparison = pushes();
  const possible = multiples((index) => self.set({ token: index + 1 }));
  const shares = shareBars();
  const rows = table({
    caption:
      "logit gradients of GKD and, for the token drawn, of PG: ▲ descent raises the logit, ▼ lowers it; underlined where they disagree",
    columns: ["token", "p", "q", "GKD", "PG"],
    roles: [null, "student", "teacher", "reverse-kl", "policy-gradient"],
    rows: TOKENS,
  });
  const draws = table({
    caption:
      "PG for every draw, its mean, which is GKD's gradient, and its spread, the standard deviation",
    columns: ["drawn", "p", ...TOKENS.map((name) => name.replace("t", "z"))],
    roles: [null, "student"],
    rows: [...TOKENS, "mean", "GKD", "spread"],
  });
  const [variance, still, times] = ["total-variance", "gkd-variance", "draws"].map((name) =>
    value({ "data-name": name }),
  );
  const lines = [rows, draws].map((each) => [...each.element.querySelectorAll("tbody tr")]);
  draws.element.classList.add("opd-tight");
  const says = sentence();

  card(
    el,
    "Which token was drawn?",
    toolbar(
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(initial)),
    ),
    toolbar(
      button("Draw one", () => {
        // a stream that has run out goes on with the next seed's
        const [seed, draw] =
          whole("draws") < MOST
            ? [whole("seed"), whole("draws") + 1]
            : [(whole("seed") + 1) % 10000, 1];
        self.set({ seed, draws: draw, token: drawOf(self.get("student"), seed, draw) + 1 });
      }),
      token.element,
      html("span", { class: "opd-note" }, times),
    ),
    html(
      "div",
      { class: "opd-columns" },
      html("div", {}, comparison.element, says, rows.element),
      html(
        "div",
        {},
        html("p", { class: "opd-caption" }, "All possible draws, and their mean"),
        possible.element,
        chartKey([
          ["fill", "policy-gradient", "policy gradient, PG"],
          ["outline", "policy-gradient", "PG against GKD"],
          ["outline", "reverse-kl", "GKD"],
          ["line", null, "mean ± spread"],
        ]),
        html(
          "p",
          { class: "opd-note" },
          "Total variance of PG ",
          variance,
          ", of GKD ",
          still,
          ".",
        ),
        html("p", { class: "opd-caption" }, "How the push on the two other logits is shared"),
        shares.element,
        toolbar(swap),
        html(
          "p",
          { class: "opd-note" },
          "This draw's policy gradient does not notice: it knows the teacher's probability of the drawn token only. The bars share out the push on the logits; the probabilities move otherwise.",
        ),
      ),
    ),
    html(
      "div",
      { class: "opd-columns" },
      inputs.map((each) => html("div", {}, each.element)),
    ),
    draws.element,
  );

  function update() {
    const [p, q, k] = [self.get("student"), self.get("teacher"), whole("token") - 1];
    const exact = gkd(p, q)[0];
    const estimates = policyGradient(p, q);
    const mean = expectation(p, estimates);
    const spread = mean.map((_, j) =>
      Math.sqrt(
        totalVariance(
          p,
          estimates.map((row) => [row[j]]),
        ),
      ),
    );
    const [total, none] = [estimates, gkd(p, q)].map((each) => totalVariance(p, each));
    const tally = tallyOf(p, whole("seed"), whole("draws"));
    inputs[0].update(p);
    inputs[1].update(q);
    token.update(k + 1);
    const scale = Math.max(
      0.1,
      ...exact.map(Math.abs),
      ...estimates.flat().map(Math.abs),
      ...mean.map((g, j) => Math.abs(g) + spread[j]),
    );
    comparison.update(exact, estimates[k], k, scale);
    possible.update(p, estimates, mean, spread, exact, k, scale);
    shares.update(p, q, others());
    swap.textContent = `Swap the teacher's ${others()
      .map((v) => TOKENS[v])
      .join(" and ")}`;
    const cell = (g, mark) => ({ value: g, text: `${signed(g)} ${direction(g).arrow}`, mark });
    rows.update(
      p.map((x, j) => {
        const mark = exact[j] * estimates[k][j] < -1e-12 ? "odd" : "";
        return [x, q[j], cell(exact[j], mark), cell(estimates[k][j], mark)];
      }),
    );
    draws.update([
      ...estimates.map((row, i) => [p[i], ...row.map((g) => cell(g))]),
      ...[mean, exact].map((row) => [{ text: "" }, ...row.map((g) => cell(g))]),
      [{ text: "" }, ...spread],
    ]);
    lines.forEach((each) => each.forEach((line, v) => (line.dataset.on = String(v === k))));
    showNumber(variance, total, number(total, 4));
    showNumber(still, none, number(none, none ? 4 : 0));
    showNumber(
      times,
      sum(tally),
      sum(tally) ? `so far ${TOKENS.map((name, v) => `${name} ${tally[v]}×`).join(", ")}` : "",
    );
    says.textContent = words(p, q, k, exact, estimates);
  }

  function words(p, q, k, exact, estimates) {
    const c = logRatio(p, q)[k];
    const [i, j] = others();
    const here = estimates[k].every((g) => direction(g).arrow === "·")
      ? `${TOKENS[k]} drawn: student and teacher agree on it, so this draw pushes nothing`
      : `${TOKENS[k]} drawn, log-ratio ${signed(c)}. On the logits, PG ${c > 0 ? "lowers it and raises" : "raises it and lowers"} both others, as ${number(p[i])} : ${number(p[j])}, the student's odds, whatever the teacher's (${number(q[i])} : ${number(q[j])})`;
    // of the tokens whose push depends on the draw, the one most evenly torn
    const chance = (sign) =>
      exact.map((_, v) =>
        sum(p.map((x, row) => (direction(estimates[row][v]).word === sign ? x : 0))),
      );
    const [up, down] = [chance("raises"), chance("lowers")];
    const torn = up.map((x, v) => Math.min(x, down[v]));
    const v = torn.indexOf(Math.max(...torn));
    if (torn[v] === 0) return `${here}. No token's direction depends on the draw.`;
    return `${here}. Over the draws ${TOKENS[v]} is raised with probability ${number(up[v])} and lowered with ${number(down[v])}; GKD ${direction(exact[v]).word} it every time.`;
  }

  update();
  return self.stop;
}

// A bar from the middle to `length`, with a head, pointing to the right where the token is raised.
function arrow(middle, length, y, half) {
  const neck = middle + length - Math.sign(length) * Math.min(5, Math.abs(length));
  return `M${middle} ${y - half}H${neck}V${y - half - 2}L${middle + length} ${y}L${neck} ${y + half + 2}V${y + half}H${middle}Z`;
}
// What pushes against the exact gradient is hollow.
const kindOf = (g, exact) => (g * exact < -1e-12 ? "opd-outline" : "opd-fill");
const pathOf = (role, kind = "opd-fill") =>
  svg("path", { class: kind, style: `--role: var(--opd-${role})` });

// GKD's push and, beside it, that of the token drawn.
function pushes() {
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
      "aria-label":
        "The push on each token's logit in one descent step, of GKD and of the policy gradient; the same numbers are in the table",
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
      heading.textContent = `PG, ${TOKENS[k]} drawn`;
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
function multiples(chosen) {
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
      "aria-label":
        "The policy gradient's push for each of the three draws, and their mean; the same numbers are in the table",
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
      chances.forEach((text, i) => (text.textContent = `p = ${number(p[i])}`));
      frames.forEach((frame, i) => put(frame, { visibility: i === k ? "visible" : "hidden" }));
    },
  };
}

// The two tokens not drawn: how the policy gradient divides between them, and the teacher.
function shareBars() {
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
        const percent = Math.round(100 * share);
        [share, 1 - share].forEach((x, side) => {
          labels[i][side].textContent =
            `${TOKENS[tokens[side]]} ${side ? 100 - percent : percent} %`;
          labels[i][side].dataset.value = String(x);
        });
      });
    },
  };
}

export default { render };
