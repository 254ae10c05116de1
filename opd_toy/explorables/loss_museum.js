import {
  expectation,
  forwardKl,
  forwardKlLogitGradient,
  fullVocabularyAdvantage,
  generalizedJsdLogitGradient,
  gkd,
  kEstimator,
  kEstimatorAsLoss,
  logRatio,
  policyGradient,
  reverseKl,
  scoreTable,
  setProbability,
  softmax,
  step,
  sum,
  topKReverseKlLogitGradient,
  totalVariance,
  truncatedPolicyGradient,
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
  signed,
  slider,
  state,
  svg,
  table,
  tokenName,
  toolbar,
  triangle,
  uniforms,
  uniqueId,
} from "./interface.js";

const RATE = 0.2;
const LAST = 200;
const BETA = 0.999;
const HEAD = 2; // of the top-K sum
const CLAMP = 10; // of k3's value
const LIMIT = 1; // of the log-ratio
const TEMPERATURE = 2;
const TOKENS = [0, 1, 2].map(tokenName);
const TEACHER = [0.7, 0.2, 0.1];
const PRESETS = [
  ["The notes' example", { student: [0.2, 0.3, 0.5], teacher: TEACHER }],
  ["A rare token", { student: [0.02, 0.28, 0.7], teacher: TEACHER }],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: TEACHER }],
  ["Student = teacher", { student: TEACHER, teacher: TEACHER }],
];

// ---- the exhibits: the same names, titles and code as in opd_toy/audit/exhibits/museum.py ----

const always = (p, gradient) => p.map(() => gradient); // the same row whichever token is drawn
const beyond = (p, q) => kEstimator(p, q, "k3").map((x) => x > CLAMP);
const tempered = (p, q, factor) => {
  const [soft, softTeacher] = [p, q].map((x) => softmax(x.map((y) => Math.log(y) / TEMPERATURE)));
  return always(
    p,
    forwardKlLogitGradient(soft, softTeacher).map((g) => (factor * g) / TEMPERATURE),
  );
};
// Where k3 = e^x - 1 - x reaches the clamp, x = log q/p.
const edge = Array.from({ length: 40 }).reduce((x) => Math.log(CLAMP + 1 + x), 2);

const listed = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
const named = (which) => listed(TOKENS.filter((_, v) => which[v]));
const inBrackets = (p) => `(${p.map((x) => number(x)).join(", ")})`;

const PLAIN = {
  code: ["(log_p[token] - log_q[token]).detach() * log_p[token]"],
  rows: (p, q) => policyGradient(p, q),
};
const EXACT = { code: ["(log_p.exp() * (log_p - log_q)).sum()"], rows: gkd };

// `says`: what is always true of the wrong loss; `measure`: the KL that the right one descends.
const EXHIBITS = {
  k1: {
    label: "k1 as a loss",
    measure: "reverse",
    right: PLAIN,
    wrong: { code: ["log_p[token] - log_q[token]"], rows: (p, q) => kEstimatorAsLoss(p, q, "k1") },
    says: () =>
      "Its gradient is the score of the token drawn, zero in expectation: training only wanders.",
  },
  k3: {
    label: "k3 as a loss",
    measure: "reverse",
    wrong: {
      code: ["log_ratio.exp() - 1 - log_ratio"],
      rows: (p, q) => kEstimatorAsLoss(p, q, "k3"),
    },
    right: {
      code: ["(log_p[token] - log_q[token]) ** 2 / 2"],
      rows: (p, q) => kEstimatorAsLoss(p, q, "k2"),
    },
    says: () =>
      "Its value estimates reverse KL, but in expectation it follows forward KL, so it covers: another way here, and another end for a student that cannot be the teacher.",
  },
  advantage: {
    label: "KL as the advantage",
    measure: "reverse",
    right: EXACT,
    wrong: { code: ["kl.detach() * log_p[token]"], rows: fullVocabularyAdvantage },
    says: (p, q) =>
      `KL(p‖q) = ${number(reverseKl(p, q))} stands before every draw alike, so the expected gradient is zero: training only wanders.`,
  },
  stop_gradient: {
    label: "Forgotten stop-gradient",
    measure: "reverse",
    right: PLAIN,
    wrong: {
      code: ["(log_p[token] - log_q[token]) * log_p[token]"],
      rows: (p, q) =>
        scoreTable(
          p,
          logRatio(p, q).map((c, v) => c + Math.log(p[v])),
        ),
    },
    says(_, q) {
      const end = softmax(q.map((x) => Math.log(x) / 2));
      const where =
        inBrackets(end) === inBrackets(q)
          ? "here the even teacher itself"
          : `here ${inBrackets(end)} and not the teacher`;
      return `The log-ratio is differentiated too: it descends reverse KL less the student's entropy, towards the square root of q, ${where}.`;
    },
  },
  direction: {
    label: "Swapped direction",
    measure: "reverse",
    wrong: {
      code: ['F.kl_div(log_p, log_q, reduction="sum", log_target=True)'],
      rows: (p, q) => always(p, forwardKlLogitGradient(p, q)),
    },
    right: { code: ['F.kl_div(log_q, log_p, reduction="sum", log_target=True)'], rows: gkd },
    says: () =>
      "F.kl_div(a, b) is KL(b‖a), so this is forward KL and it covers: another way here, and another end for a student that cannot be the teacher.",
  },
  beta: {
    label: "β near its end",
    measure: "reverse",
    right: EXACT,
    wrong: {
      code: [
        "beta = 0.999",
        "(beta * log_q.exp() * (log_q - log_m) + (1 - beta) * log_p.exp() * (log_p - log_m)).sum()",
      ],
      rows: (p, q) => always(p, generalizedJsdLogitGradient(p, q, BETA)),
    },
    says: () =>
      `At β = ${number(BETA, 3)} JSD has lost reverse KL's strength, about 1 − β of it is left, and almost nothing moves.`,
  },
  tail: {
    label: "Dropped top-K tail",
    measure: "reverse",
    wrong: {
      code: ["top = log_q.topk(2).indices", "(log_p[top].exp() * (log_p[top] - log_q[top])).sum()"],
      rows: (p, q) => always(p, topKReverseKlLogitGradient(p, q, HEAD, "drop")),
    },
    right: {
      code: [
        "log_p, log_q = torch.cat([log_p[top], tails[0]]), torch.cat([log_q[top], tails[1]])",
        "(log_p.exp() * (log_p - log_q)).sum()",
      ],
      rows: (p, q) => always(p, topKReverseKlLogitGradient(p, q, HEAD, "tail")),
    },
    says(_, q) {
      const out = q.map((x, v) => [x, v]).sort(([x, v], [y, w]) => y - x || v - w)[HEAD][1];
      return `What lies outside the teacher's top ${HEAD} costs nothing: the end is q/e on each of the two and the rest, ${number(1 - (1 - q[out]) / Math.E)}, on ${TOKENS[out]}, where the teacher has ${number(q[out])}.`;
    },
  },
  value_clamp: {
    label: "Clamped value of k3",
    measure: "forward",
    wrong: {
      code: ["(log_ratio.exp() - 1 - log_ratio).clamp(max=10)"],
      rows: (p, q) =>
        kEstimatorAsLoss(p, q, "k3").map((row, k) => (beyond(p, q)[k] ? row.map(() => 0) : row)),
    },
    right: {
      code: ["(log_q.exp() * (log_q - log_p)).sum()"],
      rows: (p, q) => always(p, forwardKlLogitGradient(p, q)),
    },
    says(p, q) {
      const dead = beyond(p, q);
      return dead.includes(true)
        ? `A draw beyond log(q/p) = ${number(edge)} has no gradient: drawing ${named(dead)} teaches nothing, just where the student is most wrong.`
        : `No token is beyond log(q/p) = ${number(edge)}, where a draw loses its gradient: the clamp does nothing here, and “A rare token” shows what it does.`;
    },
  },
  ratio_clamp: {
    label: "Clamped log-ratio",
    measure: "reverse",
    right: PLAIN,
    wrong: {
      code: ["(log_p[token] - log_q[token]).clamp(-1, 1).detach() * log_p[token]"],
      rows: (p, q) => truncatedPolicyGradient(p, q, LIMIT),
    },
    says(p, q) {
      const cut = logRatio(p, q).map((c) => Math.abs(c) > LIMIT);
      return cut.includes(true)
        ? `The log-ratio of ${named(cut)} is cut to ±${LIMIT}: what is most wrong counts for less, until the student is near.`
        : `No log-ratio is beyond ±${LIMIT}: the clamp does nothing here.`;
    },
  },
  temperature: {
    label: "Forgotten T² factor",
    measure: "forward",
    wrong: { code: ["(log_q.exp() * (log_q - log_p)).sum()"], rows: (p, q) => tempered(p, q, 1) },
    right: {
      code: ["temperature**2 * (log_q.exp() * (log_q - log_p)).sum()"],
      rows: (p, q) => tempered(p, q, TEMPERATURE ** 2),
    },
    says: () =>
      `At temperature T = ${TEMPERATURE} the gradient without T² is 1/T² = ${number(1 / TEMPERATURE ** 2)} of what it should be: the same way, slower.`,
  },
};

// ---- descent ----

// LAST steps from p; `uniform`, if given, draws the token whose row each step follows.
function descent(rows, p, q, uniform) {
  const path = [p];
  while (path.length <= LAST) {
    const now = path.at(-1);
    const all = rows(now, q);
    path.push(step(now, uniform ? all[drawn(now, uniform())] : expectation(now, all), RATE));
  }
  return path;
}

const SIDES = ["wrong", "right"];
const KLS = {
  reverse: ["reverse KL", "KL(p‖q)", reverseKl],
  forward: ["forward KL", "KL(q‖p)", forwardKl],
};

function render({ model, el }) {
  const names = ["exhibit", "student", "teacher", "steps", "update", "seed"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  let key = null;
  let found = null; // of the state but for the steps

  const exhibit = choice({
    label: "The loss",
    name: "exhibit",
    options: Object.entries(EXHIBITS).map(([name, { label }]) => ({ value: name, label })),
    onchange: (name) => self.set({ exhibit: name }),
  });
  exhibit.element.classList.add("opd-pairs");
  const code = SIDES.map(() => html("code"));
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
  const pushes = museumPushes();
  const picture = museumTriangle((who, p) => self.set({ [who]: p }));
  const kind = choice({
    label: "Each step follows",
    name: "update",
    onchange: (x) => self.set({ update: x }),
    options: [
      { value: "expected", label: "the expected gradient" },
      { value: "drawn", label: "one drawn token" },
    ],
  });
  const steps = slider({
    label: "steps",
    name: "steps",
    min: 0,
    max: LAST,
    step: 1,
    text: (x) => number(x, 0),
    oninput: (x) => self.set({ steps: x }),
  });
  const seed = slider({
    label: "seed",
    name: "seed",
    min: 1,
    max: 99,
    step: 1,
    text: (x) => number(x, 0),
    oninput: (x) => self.set({ seed: x }),
  });
  const charts = Object.entries(KLS).map(([name, [words, symbol]]) => ({
    name,
    ...klChart(words, symbol, `${name}-kl`),
  }));
  const numbers = table({
    caption:
      "Expected ∂/∂z at p (▲: descent raises the token, ▼: lowers it), and the student after these steps",
    columns: ["token", "wrong ∂", "right ∂", "wrong ends", "right ends", "q"],
    roles: [null, null, null, null, null, "teacher"],
    rows: TOKENS,
  });
  const divergences = table({
    caption: "Total variance of one draw's gradient at p, and both divergences after these steps",
    columns: ["loss", "variance", ...Object.values(KLS).map(([words]) => words)],
    roles: [null, null, "reverse-kl", "forward-kl"],
    rows: [...SIDES, "before"],
  });
  for (const each of [numbers, divergences]) each.element.classList.add("opd-tight");
  const says = sentence();

  card(
    el,
    "The museum of losses",
    toolbar(
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(initial)),
    ),
    exhibit.element,
    html(
      "dl",
      { class: "opd-code" },
      SIDES.map((side, i) => [html("dt", {}, side), html("dd", {}, code[i])]),
    ),
    says,
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        inputs.map((each) => each.element),
        html("p", { class: "opd-caption" }, "Expected push on each token"),
        pushes.element,
      ),
      html("div", {}, picture.element, museumKey()),
    ),
    kind.element,
    steps.element,
    seed.element,
    html(
      "div",
      { class: "opd-columns" },
      charts.map((chart) => chart.element),
    ),
    numbers.element,
    divergences.element,
    html(
      "p",
      { class: "opd-note" },
      `Steps of size ${RATE} on the logits. Drawn tokens: the same random numbers for both losses.`,
    ),
  );

  function update() {
    const [name, p, q, count, how, from] = names.map((each) => self.get(each));
    const chosen = EXHIBITS[name];
    const now = JSON.stringify([name, p, q, how, how === "drawn" && from]);
    if (now !== key) {
      key = now;
      found = SIDES.map((side) => {
        const rows = chosen[side].rows(p, q);
        const path = descent(chosen[side].rows, p, q, how === "drawn" ? uniforms(from) : null);
        return {
          mean: expectation(p, rows),
          variance: totalVariance(p, rows),
          path,
          kls: Object.fromEntries(
            Object.entries(KLS).map(([each, [, , of]]) => [each, path.map((x) => of(x, q))]),
          ),
        };
      });
    }
    exhibit.update(name);
    code.forEach((node, i) => (node.textContent = chosen[SIDES[i]].code.join("\n")));
    inputs[0].update(p);
    inputs[1].update(q);
    kind.update(how);
    steps.update(count);
    seed.update(from);
    seed.element.hidden = how !== "drawn";
    const [wrong, right] = found;
    pushes.update([wrong.mean, right.mean]);
    picture.update(
      p,
      q,
      found.map(({ path }) => path.slice(0, count + 1)),
    );
    charts.forEach((chart) =>
      chart.update(
        found.map(({ kls }) => kls[chart.name]),
        count,
      ),
    );
    numbers.update(
      q.map((x, v) => [
        ...found.map(({ mean }) => ({
          value: mean[v],
          text: `${signed(mean[v])} ${direction(mean[v]).arrow}`,
          mark: wrong.mean[v] * right.mean[v] < -1e-12 ? "odd" : "",
        })),
        ...found.map(({ path }) => path[count][v]),
        x,
      ]),
    );
    const three = (x) => ({ value: x, text: number(x, 3) });
    divergences.update([
      ...found.map(({ variance, kls }) => [
        three(variance),
        ...Object.keys(KLS).map((each) => three(kls[each][count])),
      ]),
      [{ text: "" }, ...Object.values(KLS).map(([, , of]) => three(of(p, q)))],
    ]);
    says.textContent = [
      chosen.says(p, q),
      pushed(wrong.mean, right.mean),
      trained(chosen.measure, count, how),
    ].join(" ");
  }

  function trained(measure, count, how) {
    const [wrong, right] = found.map(({ kls }) => kls[measure]);
    const name = KLS[measure][0];
    if (count === 0) return `Before the first step ${name} is ${number(wrong[0], 3)}.`;
    const taken =
      how === "drawn"
        ? `${count} drawn token${count > 1 ? "s" : ""}`
        : `${count} step${count > 1 ? "s" : ""}`;
    return `After ${taken} ${name}, ${number(wrong[0], 3)} at first, is ${number(wrong[count], 3)} with the wrong loss and ${number(right[count], 3)} with the right one.`;
  }

  update();
  return self.stop;
}

// What the wrong loss pushes otherwise than the right one.
function pushed(wrong, right) {
  const words = [wrong, right].map((g) => g.map((x) => direction(x).word));
  const moved = (side, which = words[side].map((word) => word !== "leaves")) =>
    listed(
      ["raises", "lowers", "leaves"].flatMap((word) => {
        const tokens = named(words[side].map((each, v) => which[v] && each === word));
        return tokens ? [`${word} ${tokens}`] : [];
      }),
    );
  const [rests, restsRight] = words.map((list) => list.every((word) => word === "leaves"));
  if (rests && restsRight) return "Here neither pushes any token.";
  if (rests) return `It pushes no token, where the right loss ${moved(1)}.`;
  if (restsRight) return `Where the right loss rests, it ${moved(0)}.`;
  const odd = words[0].map((word, v) => word !== words[1][v]);
  if (odd.includes(true)) return `It ${moved(0, odd)}, where the right loss ${moved(1, odd)}.`;
  const [size, whole] = [wrong, right].map((g) => Math.hypot(...g));
  const ratio = size / whole;
  const same = wrong.every((g, v) => Math.abs(g - right[v]) <= 1e-9 * whole);
  return same
    ? "Here its push is the right one's."
    : `It pushes every token the same way as the right loss, ${number(ratio, ratio < 0.1 ? 4 : 2)} times as hard.`;
}

// ---- pictures: solid is right, hollow or dashed is wrong ----

const museumKey = () =>
  chartKey([
    ["dashed", null, "wrong loss, to ✕"],
    ["line", null, "right loss, to ●"],
  ]);

// For each token two bars, the wrong loss's hollow: to the right, descent raises the token.
function museumPushes() {
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
      "aria-label": "Expected push of both losses on each token; the same numbers are in the table",
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

function museumTriangle(moved) {
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
    "The probability triangle: student, teacher, and the way of descent under each loss. The bars set the same two points.",
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
function klChart(words, symbol, role) {
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
        "aria-label": `${words} at each step under both losses; the table has it at the chosen step`,
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
        text.textContent = there ? String(Number((n * size).toFixed(2))) : "";
      });
      [wrong, correct].forEach((values, i) => {
        const through = (list, first) =>
          list
            .map((x, n) => `${n ? "L" : "M"}${across(first + n).toFixed(1)} ${down(x).toFixed(1)}`)
            .join("");
        put(ahead[i], { d: through(values.slice(count), count) });
        put(taken[i], { d: through(values.slice(0, count + 1), 0) });
        const [x, y] = [across(count), down(values[count])];
        dots[i].style.display = y < top - 3 ? "none" : "";
        put(dots[i], i ? { cx: x, cy: y } : { d: `M${x - 5} ${y - 5}l10 10m-10 0l10 -10` });
      });
    },
  };
}

export default { render };
