import {
  expectation,
  forwardKlLogitGradient,
  fullVocabularyAdvantage,
  kEstimatorAsLoss,
  kEstimatorAsReward,
  optimalBaseline,
  policyGradient,
  reverseKl,
  reverseKlLogitGradient,
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
  draggable,
  html,
  number,
  put,
  sentence,
  showNumber,
  signed,
  slider,
  state,
  svg,
  table,
  tokenName,
  toolbar,
  uniqueId,
  value,
} from "./interface.js";

const TEACHER = [0.7, 0.2, 0.1];
const PRESETS = [
  ["The notes' example", { student: [0.2, 0.3, 0.5], teacher: TEACHER }],
  ["Even student", { student: [1 / 3, 1 / 3, 1 / 3], teacher: TEACHER }],
  ["Confident student", { student: [0.9, 0.05, 0.05], teacher: [0.3, 0.3, 0.4] }],
  ["Off by a factor of 4", { student: [0.1, 0.8, 0.1], teacher: [0.4, 0.2, 0.4] }],
  ["Student = teacher", { student: TEACHER, teacher: TEACHER }],
];
const TOKENS = [0, 1, 2].map(tokenName);
const KINDS = ["k1", "k2", "k3"];
const USES = ["loss", "reward"];
const BOUND = 6; // of the baseline, as in baselines.py

// The standard deviation of each logit's gradient over the draws.
const deviations = (p, rows) => {
  const mean = expectation(p, rows);
  return mean.map((m, j) => Math.sqrt(sum(rows.map((row, k) => p[k] * (row[j] - m) ** 2))));
};

const agree = (p, q) => p.every((x, v) => Math.abs(x - q[v]) < 1e-12);

// What an expected gradient can be recognised as, by comparing it with the exact ones.
const NAMES = ["nothing: mean 0", "reverse KL", "forward KL", "reverse − forward"];
export function recognised(p, q, rows) {
  if (agree(p, q)) return NAMES;
  const [reverse, forward] = [reverseKlLogitGradient(p, q), forwardKlLogitGradient(p, q)];
  const known = [p.map(() => 0), reverse, forward, reverse.map((g, j) => g - forward[j])];
  const found = expectation(p, rows);
  const size = Math.max(...[...rows.flat(), ...reverse, ...forward].map(Math.abs));
  return known
    .map((gradient) => gradient.every((g, j) => Math.abs(g - found[j]) <= 1e-10 * size))
    .flatMap((same, i) => (same ? [NAMES[i]] : []));
}
const follows = (names) =>
  names.length === 0
    ? "none of these"
    : names.length < 3
      ? names.join(" and ")
      : "all, for all are 0";

const estimator = (p, q, kind, use) =>
  (use === "loss" ? kEstimatorAsLoss : kEstimatorAsReward)(p, q, kind);
const close = (a, b) => Math.abs(a - b) <= 1e-9 * Math.max(Math.abs(a), Math.abs(b), 1e-9);
const three = (x) => number(x, 3);

function render({ model, el }) {
  const names = ["student", "teacher", "view", "baseline", "kind", "use"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  const setBaseline = (b) => self.set({ baseline: Math.min(Math.max(b, -BOUND), BOUND) });

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
  const view = choice({
    label: "Show",
    name: "view",
    onchange: (key) => self.set({ view: key }),
    options: [
      { value: "baseline", label: "a constant baseline b" },
      { value: "k_estimators", label: "k1, k2, k3" },
    ],
  });

  // the baseline
  const baseline = slider({
    label: "baseline b",
    name: "baseline",
    min: -BOUND,
    max: BOUND,
    step: 0.01,
    role: "policy-gradient",
    oninput: setBaseline,
  });
  const marked = (p, q) => ({
    direct: -1,
    plain: 0,
    kl: reverseKl(p, q),
    best: optimalBaseline(p, q),
  });
  const jumps = [
    ["direct", "b = −1"],
    ["plain", "b = 0"],
    ["kl", "b = KL"],
    ["best", "b = best"],
  ].map(([key, label]) =>
    button(label, () => setBaseline(marked(self.get("student"), self.get("teacher"))[key]), {
      "data-name": `jump-${key}`,
    }),
  );
  const curve = varianceChart(setBaseline);
  const [varianceNow, baselineNow] = [
    value({ "data-name": "variance" }),
    value({ "data-name": "b" }),
  ];
  const pushes = pushChart([
    ["fill", "reverse-kl", "KL(p‖q), exact"],
    ["outline", "policy-gradient", "policy gradient at b"],
    ["outline", "muted", "KL as the advantage"],
  ]);
  const baselineTable = table({
    caption: "Total variance of a draw, and its mean ∂/∂z",
    columns: ["weight", "b", "variance", ...TOKENS],
    rows: ["b now", "b = −1", "b = 0, plain", "b = KL(p‖q)", "b best", "KL as advantage"],
  });

  // the estimators
  const kind = choice({
    label: "Estimator",
    name: "kind",
    options: KINDS.map((key) => ({ value: key, label: key })),
    onchange: (key) => self.set({ kind: key }),
  });
  const use = choice({
    label: "Used as",
    name: "use",
    onchange: (key) => self.set({ use: key }),
    options: [
      { value: "loss", label: "a loss: differentiated" },
      { value: "reward", label: "a reward: a detached cost" },
    ],
  });
  const [followed, estimatorVariance] = [
    value({ "data-name": "follows" }),
    value({ "data-name": "estimator-variance" }),
  ];
  const matches = pushChart([
    ["fill", "reverse-kl", "reverse KL, exact"],
    ["fill", "forward-kl", "forward KL, exact"],
    ["fill", "muted", "reverse − forward"],
    ["outline", "policy-gradient", "this estimator"],
  ]);
  const pairs = KINDS.flatMap((k) => USES.map((u) => [k, u]));
  const estimatorTable = table({
    caption: "The exact gradient that each follows, variance of a draw, and mean ∂/∂z",
    columns: ["gradient", "follows", "variance", ...TOKENS],
    rows: [...pairs.map(([k, u]) => `${k} as ${u}`), "reverse KL", "forward KL"],
  });
  const estimatorRows = [...estimatorTable.element.querySelectorAll("tbody tr")];
  for (const each of [baselineTable, estimatorTable]) each.element.classList.add("opd-tight");
  const says = sentence();

  const note = "Bars: the mean of all draws; whiskers: one standard deviation of a draw.";
  const parts = {
    baseline: [
      html(
        "div",
        {},
        baseline.element,
        toolbar(jumps),
        html(
          "p",
          { class: "opd-note" },
          "b is taken from the log-ratio: (log p/q − b) ∇log p. b = −1 is what comes of differentiating the sampled KL itself, log-ratio + 1. ",
          note,
        ),
      ),
      html(
        "div",
        {},
        html(
          "p",
          { class: "opd-caption" },
          "Total variance at b = ",
          baselineNow,
          ": ",
          varianceNow,
        ),
        curve.element,
        html("p", { class: "opd-caption" }, "Expected push on each token"),
        pushes.element,
      ),
      html("div", {}, baselineTable.element),
    ],
    k_estimators: [
      html(
        "div",
        {},
        kind.element,
        use.element,
        html(
          "p",
          { class: "opd-note" },
          "With x = log p/q of the token drawn: k1 = x, k2 = x²/2, k3 = e⁻ˣ − 1 + x. As a loss, the gradient goes through k; as a reward, k stands before ∇log p as a fixed number: on average ∇E[k] less what the loss gives. ",
          note,
        ),
      ),
      html(
        "div",
        {},
        html("p", { class: "opd-caption" }, "It follows: ", followed),
        matches.element,
        html("p", { class: "opd-note" }, "Total variance of one draw: ", estimatorVariance),
      ),
      html("div", {}, estimatorTable.element),
    ],
  };

  card(
    el,
    "Baselines and estimators",
    toolbar(
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(initial)),
    ),
    view.element,
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        inputs.map((each) => each.element),
        Object.values(parts).map((part) => part[0]),
      ),
      html(
        "div",
        {},
        Object.values(parts).map((part) => part[1]),
      ),
    ),
    Object.values(parts).map((part) => part[2]),
    says,
  );

  function update() {
    const [p, q, shownView] = [self.get("student"), self.get("teacher"), self.get("view")];
    inputs[0].update(p);
    inputs[1].update(q);
    view.update(shownView);
    for (const [key, part] of Object.entries(parts))
      part.forEach((node) => (node.hidden = key !== shownView));
    says.textContent = (shownView === "baseline" ? updateBaseline : updateEstimators)(p, q);
  }

  const cells = (g) => g.map((x) => ({ value: x, text: `${signed(x)} ${direction(x).arrow}` }));

  function updateBaseline(p, q) {
    const b = self.get("baseline");
    const points = marked(p, q);
    const variance = (at) => totalVariance(p, policyGradient(p, q, at));
    const advantage = fullVocabularyAdvantage(p, q);
    const rows = policyGradient(p, q, b);
    baseline.update(b);
    showNumber(baselineNow, b);
    showNumber(varianceNow, variance(b), three(variance(b)));
    curve.update(points, b, variance);
    pushes.update([
      [reverseKlLogitGradient(p, q)],
      [expectation(p, rows), deviations(p, rows)],
      [expectation(p, advantage), deviations(p, advantage)],
    ]);
    baselineTable.update([
      ...[b, ...Object.values(points)].map((at) => [
        { value: at },
        { value: variance(at), text: three(variance(at)) },
        ...cells(expectation(p, policyGradient(p, q, at))),
      ]),
      [
        { text: "" },
        { value: totalVariance(p, advantage), text: three(totalVariance(p, advantage)) },
        ...cells(expectation(p, advantage)),
      ],
    ]);

    const [now, plain, withKl, least] = [
      variance(b),
      variance(0),
      variance(points.kl),
      variance(points.best),
    ];
    if (agree(p, q)) {
      return `Student and teacher agree: without a baseline every draw's gradient is 0. Any other b only adds noise around the same mean, of variance ${b === 0 ? `${three(variance(-1))} at b = −1` : `${three(now)} at b = ${number(b)}`}.`;
    }
    const change = close(now, plain)
      ? `as much as plain policy gradient's`
      : now < plain
        ? `${percent(1 - now / plain)} below plain policy gradient's ${three(plain)}`
        : `${now < 2 * plain ? `${percent(now / plain - 1)} above` : `${number(now / plain, 1)} times`} plain policy gradient's ${three(plain)}`;
    const here =
      b === 0
        ? `Without a baseline the total variance is ${three(now)}.`
        : `At b = ${number(b)} the total variance is ${three(now)}, ${change}.`;
    const compared = close(withKl, least)
      ? "the least that any can give"
      : close(withKl, plain)
        ? "as much as without one"
        : withKl > plain
          ? "more than without one"
          : "less than without one";
    const best = close(withKl, least)
      ? ""
      : ` The least is ${three(least)}, at b = ${number(points.best)}.`;
    return `${here} With KL(p‖q) = ${number(points.kl)} as the baseline it is ${three(withKl)}, ${compared}.${best} The mean does not move with b. Put in the advantage's place, the KL has mean 0 and variance ${three(totalVariance(p, advantage))}: noise that teaches nothing.`;
  }

  function updateEstimators(p, q) {
    const [chosen, how] = [self.get("kind"), self.get("use")];
    const [reverse, forward] = [reverseKlLogitGradient(p, q), forwardKlLogitGradient(p, q)];
    const rows = estimator(p, q, chosen, how);
    const found = recognised(p, q, rows);
    const mean = expectation(p, rows);
    const total = totalVariance(p, rows);
    kind.update(chosen);
    use.update(how);
    followed.textContent = follows(found);
    showNumber(estimatorVariance, total, three(total));
    matches.update([
      [reverse],
      [forward],
      [reverse.map((g, j) => g - forward[j])],
      [mean, deviations(p, rows)],
    ]);
    estimatorTable.update([
      ...pairs.map(([k, u]) => {
        const each = estimator(p, q, k, u);
        return [
          { text: follows(recognised(p, q, each)) },
          { value: totalVariance(p, each), text: three(totalVariance(p, each)) },
          ...cells(expectation(p, each)),
        ];
      }),
      ...[reverse, forward].map((g) => [
        { text: "itself" },
        { value: 0, text: three(0) },
        ...cells(g),
      ]),
    ]);
    estimatorRows.forEach(
      (node, i) =>
        (node.dataset.on = String(
          i < pairs.length && pairs[i][0] === chosen && pairs[i][1] === how,
        )),
    );

    const name = `${chosen} as a ${how}`;
    if (agree(p, q)) {
      return `Student and teacher agree, so both KLs and their gradients are 0, and so is the mean of ${name}; a draw of it ${total > 1e-12 ? `is not: its total variance is ${three(total)}` : "is 0 too"}.`;
    }
    const plain = totalVariance(p, policyGradient(p, q));
    const against = TOKENS.filter(
      (_, j) => mean[j] * reverse[j] < -1e-12 && mean[j] * forward[j] < -1e-12,
    );
    const pushed = against.length ? ` It moves ${against.join(" and ")} against both KLs.` : "";
    const zero = found.includes(NAMES[0]);
    const what = {
      "k1 loss":
        "Differentiating the log-ratio of a draw leaves ∇log p, whose mean is 0: it teaches nothing.",
      "k1 reward": "That is the plain policy gradient: on average it follows reverse KL.",
      "k2 loss": "Draw for draw it is the plain policy gradient: on average it follows reverse KL.",
      "k2 reward": zero
        ? "The square forgets the sign of the log-ratio. Here every token is off by the same factor, up or down, and the mean is 0 although p is not q."
        : "The square forgets the sign of the log-ratio: on average it follows the gradient of E[x²/2] less that of reverse KL, which is neither KL nor their difference.",
      "k3 loss": "k3 estimates reverse KL, but its derivative on average follows forward KL.",
      "k3 reward":
        "On average it follows reverse minus forward KL: descending it climbs forward KL.",
    }[`${chosen} ${how}`];
    const spread = close(total, plain)
      ? "the same as plain policy gradient's"
      : `${number(total / plain, total < 0.1 * plain ? 4 : 2)} times plain policy gradient's ${three(plain)}`;
    return `${name}. ${what}${pushed} Its total variance is ${three(total)}, ${spread}.`;
  }

  update();
  return self.stop;
}

const percent = (x) => `${number(100 * x, 0)} %`;

// ---- pictures ----

// Total variance against the baseline, with the marked baselines and a dot to drag.
function varianceChart(moved) {
  const [left, right, top, bottom] = [40, 348, 70, 210];
  const labels = { direct: "b = −1", plain: "b = 0", kl: "KL", best: "best" };
  const clip = uniqueId("clip");
  const style = "--role: var(--opd-policy-gradient)";
  const band = svg("rect", { class: "opd-band", style, y: top, height: bottom - top });
  const level = svg("path", {
    class: "opd-line opd-dashed",
    style: "--role: var(--opd-muted); stroke-width: 1.2",
  });
  const line = svg("path", { class: "opd-line", style });
  const marks = Object.keys(labels).map((key) => ({
    key,
    stem: svg("path", { class: "opd-grid-line" }),
    dot: svg("circle", { r: 4.5, class: "opd-fill", style: "--role: var(--opd-ink)" }),
    text: svg("text", {
      class: "opd-point-label",
      style: "--role: var(--opd-ink)",
      "text-anchor": "middle",
    }),
  }));
  const ticks = { x: tickMarks("middle"), y: tickMarks("end") };
  const dot = svg("circle", { r: 8, class: "opd-point", style });
  const reach = svg("circle", { r: 22, class: "opd-reach", "data-handle": "baseline" });
  const grip = svg("g", {}, dot, reach);
  let range = [-1, 1];
  const frame = svg(
    "svg",
    {
      viewBox: "0 0 360 246",
      role: "img",
      "aria-label":
        "Total variance of the policy gradient against the baseline b; the numbers are in the table",
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
    const b = range[0] + ((x - left) / (right - left)) * (range[1] - range[0]);
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
      const across = (at) => left + ((at - range[0]) / (range[1] - range[0])) * (right - left);
      const up = (x) => bottom - (x / most) * (bottom - top);
      const bent = Array.from(
        { length: 81 },
        (_, i) => range[0] + (i / 80) * (range[1] - range[0]),
      );
      put(line, {
        d: bent
          .map((at, i) => `${i ? "L" : "M"}${across(at).toFixed(1)} ${up(variance(at)).toFixed(1)}`)
          .join(""),
      });
      // the parabola is back at its value for b = 0 at twice the best baseline
      const [from, to] = [0, 2 * points.best]
        .sort((x, y) => x - y)
        .map((at) => Math.min(Math.max(across(at), left), right));
      put(band, { x: from, width: to - from });
      ticks.x.update(range[0], range[1], (at) => ({ x: across(at), y: bottom + 16 }));
      ticks.y.update(
        0,
        most,
        (x) => ({ x: left - 6, y: up(x) + 4 }),
        (x) => `M${left} ${up(x)}H${right}`,
      );
      put(level, { d: `M${left} ${up(variance(0))}H${right}` });
      const rows = [-Infinity, -Infinity, -Infinity, -Infinity];
      for (const { key, stem, dot: spot, text } of [...marks].sort(
        (x, y) => points[x.key] - points[y.key],
      )) {
        const [x, y] = [across(points[key]), up(variance(points[key]))];
        const words = `${labels[key]}: ${number(variance(points[key]), 3)}`;
        const half = 3.7 * words.length + 3;
        const middle = Math.min(Math.max(x, half), 360 - half);
        const free = rows.findIndex((end) => end <= middle - half);
        rows[free] = middle + half;
        text.textContent = words;
        put(text, { x: middle, y: top - 6 - 15 * free });
        put(stem, { d: `M${x} ${top - 4 - 15 * free}V${y}` });
        put(spot, { cx: x, cy: y });
      }
      put(grip, { transform: `translate(${across(b).toFixed(2)} ${up(variance(b)).toFixed(2)})` });
    },
  };
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
        text.textContent = shown ? number(at, digits) : "";
        if (shown) put(text, place(at));
        if (across) put(lines[i], { d: shown ? across(at) : "" });
      });
    },
  };
}

// For each token, one bar a series: to the right, descent raises the token.
function pushChart(series) {
  const row = 14 * series.length + 14;
  const height = row * 3 + 22;
  const [middle, room] = [190, 150];
  const roleOf = (i) => `--role: var(--opd-${series[i][1]})`;
  const make = (tag, attributes) =>
    TOKENS.map(() => series.map((_, i) => svg(tag, { style: roleOf(i), ...attributes })));
  // a mean with a spread is pale, so that its whisker shows
  const [boxes, whiskers] = [
    make("rect", { class: "opd-fill", height: 10 }),
    make("path", { class: "opd-whisker" }),
  ];
  boxes
    .flat()
    .forEach(
      (box, at) => series[at % series.length][0] === "outline" && box.classList.add("opd-pale"),
    );
  const frame = svg(
    "svg",
    {
      viewBox: `0 0 360 ${height}`,
      role: "img",
      "aria-label":
        "Expected push on each token's logit and its spread; the expected gradients are in the table",
    },
    svg("text", { x: middle - 8, y: 10, "text-anchor": "end" }, "◀ lowered"),
    svg("text", { x: middle + 8, y: 10 }, "raised ▶"),
    TOKENS.map((name, v) => svg("text", { x: 2, y: 18 + v * row + row / 2 - 2 }, name)),
    svg("path", { class: "opd-axis", d: `M${middle} 14V${height}` }),
    boxes,
    whiskers,
  );
  return {
    element: html("div", {}, frame, chartKey(series)),
    update(values) {
      const scale =
        room /
        Math.max(
          0.25,
          ...values.flatMap(([mean, spread]) =>
            mean.map((x, v) => Math.abs(x) + (spread?.[v] ?? 0)),
          ),
        );
      values.forEach(([mean, spread], i) =>
        mean.forEach((g, v) => {
          const [tip, y] = [middle - g * scale, 18 + v * row + i * 14];
          put(boxes[v][i], {
            x: Math.min(middle, tip) - 0.75,
            width: Math.abs(tip - middle) + 1.5,
            y,
          });
          const reach = (spread?.[v] ?? 0) * scale;
          put(whiskers[v][i], {
            d: spread
              ? `M${tip - reach} ${y + 2}v6M${tip - reach} ${y + 5}H${tip + reach}M${tip + reach} ${y + 2}v6`
              : "",
          });
        }),
      );
    },
  };
}

export default { render };
