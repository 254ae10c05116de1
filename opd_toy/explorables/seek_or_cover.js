import {
  forwardKl,
  forwardKlLogitGradient,
  generalizedJsd,
  generalizedJsdLogitGradient,
  reverseKl,
  reverseKlLogitGradient,
  softmax,
  sum,
} from "./mathematics.js";
import {
  animation,
  button,
  card,
  chartKey,
  choice,
  draggable,
  html,
  number,
  put,
  reducedMotion,
  sentence,
  showNumber,
  slider,
  state,
  svg,
  table,
  toolbar,
  uniqueId,
  value,
} from "./interface.js";

// ---- the teacher and the student's two families ----

const VOCABULARY = 40;
const POSITIONS = Array.from({ length: VOCABULARY }, (_, v) => v + 1);
const MIDDLE = (VOCABULARY + 1) / 2;

const bumpLogits = (mean, width) => POSITIONS.map((v) => -((v - mean) ** 2) / (2 * width ** 2));

export function twoModes(separation, weight, width) {
  const left = softmax(bumpLogits(MIDDLE - separation / 2, width));
  const right = softmax(bumpLogits(MIDDLE + separation / 2, width));
  return left.map((x, v) => weight * x + (1 - weight) * right[v]);
}

function moments(p) {
  const mean = sum(p.map((x, v) => x * POSITIONS[v]));
  return { mean, deviation: Math.sqrt(sum(p.map((x, v) => x * (POSITIONS[v] - mean) ** 2))) };
}

// A family: its parameters at the start, its distribution, and for each parameter the
// gradient (by the chain rule from the logits') and the Fisher information.
export const FAMILIES = {
  bump: {
    label: "one bump",
    caps: [0.5, 0.05], // the most that one step changes μ (tokens) and log σ
    start: (mean, width) => [mean, Math.log(width)],
    logits: ([mean, logWidth]) => bumpLogits(mean, Math.exp(logWidth)),
    pullBack([mean, logWidth], p, logitGradient) {
      // dz/dμ = (v − μ)/σ²,  dz/d log σ = (v − μ)²/σ²
      const square = Math.exp(2 * logWidth);
      const gradient = [0, 0];
      const first = [0, 0];
      const second = [0, 0];
      for (let v = 0; v < p.length; v++) {
        const away = POSITIONS[v] - mean;
        const slopes = [away / square, (away * away) / square];
        for (let i = 0; i < 2; i++) {
          gradient[i] += slopes[i] * logitGradient[v];
          first[i] += p[v] * slopes[i];
          second[i] += p[v] * slopes[i] ** 2;
        }
      }
      return { gradient, information: second.map((x, i) => x - first[i] ** 2) };
    },
  },
  free: {
    label: "any distribution",
    caps: Array(VOCABULARY).fill(1),
    start: bumpLogits,
    logits: (z) => z,
    pullBack: (_, p, logitGradient) => ({ gradient: logitGradient, information: p }),
  },
};

// Descent that cannot diverge: each parameter moves against its gradient divided by its
// Fisher information (so a step means the same wherever the student is), by no more than
// its cap, and the step is halved until the cost falls.  Steps that need no halving let
// the pace grow, so that a flat valley takes no thousand steps.
export function cautiousDescent(family, start, teacher, { cost, gradient, curvature }, limit) {
  const { caps, logits, pullBack } = FAMILIES[family];
  let parameters = start;
  let p = softmax(logits(parameters));
  let now = cost(p, teacher);
  let pace = 1;
  const path = [{ parameters, p, cost: now }];
  while (path.length <= limit) {
    const pulled = pullBack(parameters, p, gradient(p, teacher));
    const move = pulled.gradient.map((g, i) => {
      const full =
        pulled.information[i] > 0 ? (-pace * g) / (pulled.information[i] * curvature) : 0;
      return Math.min(Math.max(full, -caps[i]), caps[i]);
    });
    const slope = sum(move.map((d, i) => d * pulled.gradient[i]));
    if (!(slope < -1e-16 * pace * curvature)) break;
    let next = null;
    let scale = 2;
    while (!next && scale > 1e-6) {
      scale /= 2;
      const tried = parameters.map((x, i) => x + scale * move[i]);
      const q = softmax(logits(tried));
      const then = cost(q, teacher);
      if (then <= now + 1e-4 * scale * slope) next = { parameters: tried, p: q, cost: then };
    }
    if (!next) break;
    pace = Math.min(Math.max(scale === 1 ? 1.5 * pace : scale * pace, 1), 50);
    ({ parameters, p, cost: now } = next);
    path.push(next);
  }
  return path;
}

// JSD(β) curves β(1 − β) times as much as either KL where student and teacher meet.
const COSTS = {
  forward_kl: {
    label: "forward KL",
    role: "forward-kl",
    mark: "line",
    dash: "none",
    of: () => ({ cost: forwardKl, gradient: forwardKlLogitGradient, curvature: 1 }),
  },
  reverse_kl: {
    label: "reverse KL",
    role: "reverse-kl",
    mark: "dashed",
    dash: "6 8",
    of: () => ({ cost: reverseKl, gradient: reverseKlLogitGradient, curvature: 1 }),
  },
  jsd: {
    label: "JSD(β)",
    role: "jsd",
    mark: "dots",
    dash: "2.5 2 2.5 7",
    shift: -6.5, // in the gaps of reverse KL
    of: (beta) => ({
      cost: (p, q) => generalizedJsd(p, q, beta),
      gradient: (p, q) => generalizedJsdLogitGradient(p, q, beta),
      curvature: beta > 0 && beta < 1 ? beta * (1 - beta) : 1,
    }),
  },
};
const KEYS = Object.keys(COSTS);
const LIMIT = 300;
const PEAK = 1 / Math.sqrt(2 * Math.PI); // the height of a Gaussian of width 1

const SCENES = [
  ["Near the light mode", { start_mean: 25, start_width: 3 }],
  ["Near the heavy mode", { start_mean: 9, start_width: 3 }],
  ["Wide start", { start_mean: 20.5, start_width: 8 }],
  ["Close modes", { separation: 5 }],
  ["Free student", { family: "free" }],
];

const percent = (x) => `${number(100 * x, 0)} %`;
const onLeft = (p) => sum(p.slice(0, VOCABULARY / 2));
const peaks = (p) => p.filter((x, v) => x > (p[v - 1] ?? 0) && x >= (p[v + 1] ?? 0)).length;

// Remember the last answer: most changes leave most of the descents as they are.
function remembered(compute) {
  let key = null;
  let answer;
  return (...given) => {
    const asked = JSON.stringify(given);
    if (asked !== key) [key, answer] = [asked, compute(...given)];
    return answer;
  };
}

const descents = () =>
  remembered((objective, beta, family, mean, width, teacher) =>
    cautiousDescent(
      family,
      FAMILIES[family].start(mean, width),
      teacher,
      COSTS[objective].of(beta),
      LIMIT,
    ),
  );

function render({ model, el }) {
  const names = [
    "separation",
    "weight",
    "width",
    "start_mean",
    "start_width",
    "family",
    "objective",
    "beta",
    "steps",
  ];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  const teacherOf = remembered(twoModes);
  const pathOf = Object.fromEntries(KEYS.map((key) => [key, descents()]));
  const fromModes = [descents(), descents()];
  let playing = null; // the animation, while it runs
  let position = 0; // the step shown while playing; the trait follows once a second

  const pause = () => playing?.stop();
  const change = (values) => {
    pause();
    self.set(values);
  };
  const begin = (values) => change({ steps: 0, ...values }); // another descent starts at its start

  function play() {
    if (playing) return pause();
    const last = current().length - 1;
    if (reducedMotion()) return change({ steps: last });
    position = self.get("steps") < last ? self.get("steps") : 0;
    const rate = Math.min(Math.max(last / 4, 8), 30); // some four seconds for a whole descent
    let since = 0;
    playing = animation(
      () => {
        position += 1;
        if (position >= last) return false;
        draw();
        if (++since >= rate) {
          since = 0;
          self.set({ steps: position });
        }
        return true;
      },
      rate,
      () => {
        playing = null;
        self.set({ steps: Math.min(position, last) });
      },
    );
    playing.start();
    draw();
  }

  const objective = choice({
    label: "Descend",
    name: "objective",
    options: KEYS.map((key) => ({ value: key, label: COSTS[key].label, role: COSTS[key].role })),
    onchange: (key) => begin({ objective: key }),
  });
  const family = choice({
    label: "Student",
    name: "family",
    options: Object.entries(FAMILIES).map(([key, { label }]) => ({ value: key, label })),
    onchange: (key) => begin({ family: key }),
  });
  const one = (x) => number(x, 1);
  const sliders = [
    {
      key: "start_mean",
      label: "start at token",
      min: 5,
      max: 36,
      step: 0.5,
      text: one,
      role: "student",
    },
    {
      key: "start_width",
      label: "start width σ",
      min: 2,
      max: 12,
      step: 0.5,
      text: one,
      role: "student",
    },
    {
      key: "separation",
      label: "modes apart",
      min: 0,
      max: 20,
      step: 0.5,
      text: one,
      role: "teacher",
    },
    {
      key: "weight",
      label: "left mode's share",
      min: 0.05,
      max: 0.95,
      step: 0.01,
      text: number,
      role: "teacher",
    },
    {
      key: "width",
      label: "width of a mode",
      min: 2,
      max: 3,
      step: 0.1,
      text: one,
      role: "teacher",
    },
    { key: "beta", label: "β of the JSD", min: 0, max: 1, step: 0.01, text: number, role: "jsd" },
  ].map(({ key, ...options }) => ({
    key,
    ...slider({ name: key, ...options, oninput: (x) => begin({ [key]: x }) }),
  }));
  const sliderGroup = html(
    "div",
    { class: "opd-aligned" },
    sliders.map((each) => each.element),
  );

  const playButton = button("Play", play, { "data-name": "play" });
  const stepButton = button(
    "Step",
    () => change({ steps: Math.min(shownStep() + 1, current().length - 1) }),
    { "data-name": "step" },
  );
  const endButton = button("End", () => change({ steps: current().length - 1 }), {
    "data-name": "end",
  });
  const rewindButton = button("Rewind", () => change({ steps: 0 }), { "data-name": "rewind" });

  const scene = bumpChart(
    "Teacher and student over 40 tokens; the start can be dragged",
    ["teacher", "student", "start"],
    (mean, height) =>
      begin({
        start_mean: Math.min(Math.max(mean, 5), 36),
        start_width: Math.min(Math.max(PEAK / Math.max(height, 1e-6), 2), 12),
      }),
  );
  const ends = bumpChart(
    "Where descent ends from this start under each objective, over the teacher; the numbers are in the table",
    KEYS,
  );
  const losses = lossChart();
  const [stepNumber, lastNumber] = [
    value({ "data-name": "steps-taken" }),
    value({ "data-name": "steps-in-all" }),
  ];
  const swatch = (role, text) => [
    html("i", { class: "opd-swatch", style: `--role: var(--opd-${role})` }),
    text,
  ];
  const numbers = table({
    caption:
      "Mean and standard deviation (sd) in tokens, mass on tokens 1–20, and cost; each objective at its end",
    columns: ["who", "mean", "sd", "left half", "cost"],
    rows: [
      swatch("teacher", "teacher"),
      swatch("student", "student now"),
      ...KEYS.map((key) => swatch(COSTS[key].role, COSTS[key].label)),
    ],
  });
  numbers.element.classList.add("opd-tight");
  const tableRows = [...numbers.element.querySelectorAll("tbody tr")];
  const mu = value({ "data-name": "mu" });
  const sigma = value({ "data-name": "sigma" });
  const parameters = html("span", {}, ": μ = ", mu, ", σ = ", sigma);
  const says = sentence();

  card(
    el,
    "Seek or cover",
    toolbar(
      SCENES.map(([label, values]) =>
        button(label, () =>
          begin({
            ...initial,
            objective: self.get("objective"),
            beta: self.get("beta"),
            ...values,
          }),
        ),
      ),
      button("Reset", () => change(initial)),
    ),
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        scene.element,
        toolbar(playButton, stepButton, endButton, rewindButton),
        html("p", { class: "opd-caption" }, "Where each objective ends"),
        ends.element,
      ),
      html("div", {}, objective.element, family.element, sliderGroup, losses.element),
    ),
    numbers.element,
    html(
      "p",
      { class: "opd-note" },
      "Student now, after step ",
      stepNumber,
      " of ",
      lastNumber,
      parameters,
      ". Drag the dot on the start. Each step moves a parameter against its gradient, divided by its Fisher information and capped, and is halved until the cost falls; so the numbers of steps do not compare speeds.",
    ),
    says,
  );

  const teacher = () => teacherOf(self.get("separation"), self.get("weight"), self.get("width"));
  const path = (key) =>
    pathOf[key](
      key,
      key === "jsd" ? self.get("beta") : 0,
      self.get("family"),
      self.get("start_mean"),
      self.get("start_width"),
      teacher(),
    );
  const current = () => path(self.get("objective"));
  const shownStep = () => Math.min(playing ? position : self.get("steps"), current().length - 1);

  // What moves while playing.
  function draw() {
    const [steps, at, key] = [current(), shownStep(), self.get("objective")];
    const now = steps[at];
    scene.line("student", now.p);
    losses.update(steps, at, COSTS[key]);
    numbers.update([teacherRow(), row(now)]);
    const isBump = self.get("family") === "bump";
    parameters.hidden = !isBump;
    if (isBump) {
      showNumber(mu, now.parameters[0]);
      showNumber(sigma, Math.exp(now.parameters[1]));
    }
    showNumber(stepNumber, at, String(at));
    showNumber(lastNumber, steps.length - 1, String(steps.length - 1));
    playButton.textContent = playing ? "Pause" : "Play";
    stepButton.disabled = endButton.disabled = at === steps.length - 1;
    rewindButton.disabled = at === 0;
  }

  const shape = (p) => {
    const { mean, deviation } = moments(p);
    return [{ value: mean }, { value: deviation }, { value: onLeft(p), text: percent(onLeft(p)) }];
  };
  const row = ({ p, cost }) => [...shape(p), { value: cost, text: number(cost, 3) }];
  const teacherRow = () => [...shape(teacher()), { text: "" }];

  function update() {
    const q = teacher();
    const key = self.get("objective");
    const last = Object.fromEntries(KEYS.map((each) => [each, path(each).at(-1)]));
    objective.update(key);
    family.update(self.get("family"));
    sliders.forEach(({ key: name, update: show }) => show(self.get(name)));
    for (const chart of [scene, ends]) chart.bars(q);
    scene.line("start", current()[0].p);
    scene.place(self.get("start_mean"), PEAK / self.get("start_width"));
    KEYS.forEach((each) => ends.line(each, last[each].p, each === key));
    draw();
    numbers.update([
      teacherRow(),
      row(current()[shownStep()]),
      ...KEYS.map((each) => row(last[each])),
    ]);
    tableRows.forEach((node, i) => (node.dataset.on = String(KEYS[i - 2] === key)));
    if (!playing) says.textContent = words(q, key, last);
  }

  function words(q, key, last) {
    const [steps, at] = [current(), shownStep()];
    const same = { 0: ", that is forward KL,", 1: ", that is reverse KL," }[self.get("beta")] ?? "";
    const name = key === "jsd" ? `JSD(${number(self.get("beta"))})${same}` : COSTS[key].label;
    const end = last[key];
    const cost = (x) => number(x.cost, 3);
    const length = steps.length - 1;
    const unsettled = length === LIMIT;
    const progress =
      length === 0
        ? `The start is already where ${name} ends: its cost is ${cost(end)}.`
        : at === 0
          ? `The student is at its start; ${name} is ${cost(steps[0])}.`
          : at < length
            ? `After ${at} of ${length} steps ${name} is down from ${cost(steps[0])} to ${cost(steps[at])}.`
            : `After ${length} steps ${name} ${unsettled ? "still moves, at" : "has settled at"} ${cost(end)}.`;
    const tense = at === length ? "has ended" : "will end";
    const [own, theirs] = [moments(end.p), moments(q)];
    const matched =
      Math.abs(own.mean - theirs.mean) < 0.005 &&
      Math.abs(own.deviation - theirs.deviation) < 0.005;

    if (self.get("family") === "free") {
      const worst = Math.max(...KEYS.map((each) => last[each].cost));
      return `${progress} A free softmax can be the teacher itself, and ${
        worst < 1e-6
          ? "all three objectives end there: seeking and covering are what is left when the student cannot"
          : `all three objectives head there; after ${LIMIT} steps the largest cost left is ${number(worst, 4)}`
      }.`;
    }
    if (unsettled) {
      const beta = self.get("beta");
      const ceiling = -beta * Math.log(beta) - (1 - beta) * Math.log(1 - beta);
      return `${progress} ${
        key === "jsd" && end.cost > 0.95 * ceiling
          ? `That is next to the most JSD(${number(beta)}) can be, ${number(ceiling, 3)}: student and teacher hardly overlap, and there it is flat`
          : `No more than ${LIMIT} steps are taken`
      }.`;
    }
    if (peaks(q) < 2) {
      const [f, r] = [moments(last.forward_kl.p), moments(last.reverse_kl.p)];
      return `${progress} The teacher's modes have run into one peak, so there is nothing to choose: forward KL ends with mean ${one(f.mean)} and sd ${number(f.deviation)}, reverse KL with ${one(r.mean)} and ${number(r.deviation)}.`;
    }
    const share = onLeft(end.p);
    const narrow = own.deviation < 1.5 * self.get("width");
    const side = narrow && share > 0.9 ? "left" : narrow && share < 0.1 ? "right" : null;
    const held = side === "left" ? share : 1 - share;
    const given = side === "left" ? onLeft(q) : 1 - onLeft(q);
    const place = side
      ? `It ${tense} on the ${side} mode: ${percent(held)} of its mass lies there, and ${percent(given)} of the teacher's.`
      : `It ${tense} spread over both modes, ${percent(share)} on the left where the teacher has ${percent(onLeft(q))}, ${matched ? "with the teacher's own mean and sd" : `with mean ${one(own.mean)} and sd ${number(own.deviation)} (teacher ${one(theirs.mean)} and ${number(theirs.deviation)})`}.`;
    const others = ["left", "right"]
      .map((mode, i) => ({
        mode,
        cost: fromModes[i](
          key,
          key === "jsd" ? self.get("beta") : 0,
          "bump",
          MIDDLE + (i - 0.5) * self.get("separation"),
          self.get("width"),
          q,
        ).at(-1).cost,
      }))
      .filter((other) => other.cost < end.cost - 1e-3)
      .sort((a, b) => a.cost - b.cost);
    const lower = others.length
      ? ` Started on the ${others[0].mode} mode it would end lower, at ${number(others[0].cost, 3)}.`
      : "";
    return `${progress} ${place}${lower}`;
  }

  update();
  return () => {
    pause();
    self.stop();
  };
}

// ---- pictures ----

const PLOT = { left: 28, right: 356, top: 8, bottom: 148, most: 0.215 };
const acrossOf = (position) =>
  PLOT.left + ((position - 0.5) / VOCABULARY) * (PLOT.right - PLOT.left);
const heightOf = (p) => PLOT.bottom - (p / PLOT.most) * (PLOT.bottom - PLOT.top);
const curveOf = (p) =>
  p
    .map((x, v) => `${v ? "L" : "M"}${acrossOf(v + 1).toFixed(1)} ${heightOf(x).toFixed(1)}`)
    .join("");

const LINES = {
  teacher: { label: "teacher", role: "teacher", mark: "band" },
  student: { label: "student now", role: "student", mark: "line", dash: "none" },
  start: { label: "its start", role: "student", mark: "dots", dash: "3 4" },
  ...COSTS,
};

// The teacher as bars and some curves over it; `moved`, if given, follows a dragged dot.
function bumpChart(label, lines, moved) {
  const clip = uniqueId("clip");
  const rods = POSITIONS.map((v) =>
    svg("rect", {
      class: "opd-fill",
      style: "--role: var(--opd-teacher)",
      "fill-opacity": 0.32,
      x: acrossOf(v) - 3,
      width: 6,
    }),
  );
  const curves = Object.fromEntries(
    lines
      .filter((key) => key !== "teacher")
      .map((key) => [
        key,
        svg("path", {
          class: "opd-line",
          style: `--role: var(--opd-${LINES[key].role})`,
          "stroke-dasharray": LINES[key].dash,
          "stroke-dashoffset": LINES[key].shift,
          "data-line": key,
        }),
      ]),
  );
  const dot = svg("circle", {
    r: 7,
    class: "opd-point opd-point-teacher",
    style: "--role: var(--opd-student)",
  });
  const reach = svg("circle", { r: 22, class: "opd-reach", "data-handle": "start" });
  const grip = moved ? svg("g", {}, dot, reach) : null;
  const frame = svg(
    "svg",
    { viewBox: "0 0 360 168", role: "img", "aria-label": label },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", {
        x: PLOT.left,
        y: PLOT.top - 4,
        width: PLOT.right - PLOT.left,
        height: PLOT.bottom - PLOT.top + 6,
      }),
    ),
    [0.1, 0.2].map((p) => [
      svg("path", { class: "opd-grid-line", d: `M${PLOT.left} ${heightOf(p)}H${PLOT.right}` }),
      svg(
        "text",
        { x: PLOT.left - 5, y: heightOf(p) + 4, "text-anchor": "end" },
        String(p).slice(1),
      ),
    ]),
    svg("g", { "clip-path": `url(#${clip})` }, rods, Object.values(curves)),
    svg("path", { class: "opd-axis", d: `M${PLOT.left} ${PLOT.bottom}H${PLOT.right}` }),
    [1, 10, 20, 30, 40].map((v) =>
      svg(
        "text",
        { x: acrossOf(v), y: PLOT.bottom + 16, "text-anchor": "middle" },
        v === 1 ? "token 1" : String(v),
      ),
    ),
    grip,
  );
  if (moved) {
    draggable(reach, frame, (x, y) =>
      moved(
        0.5 + ((x - PLOT.left) / (PLOT.right - PLOT.left)) * VOCABULARY,
        ((PLOT.bottom - y) / (PLOT.bottom - PLOT.top)) * PLOT.most,
      ),
    );
  }
  const element = html(
    "div",
    {},
    frame,
    chartKey(lines.map((key) => [LINES[key].mark, LINES[key].role, LINES[key].label])),
  );
  return {
    element,
    bars: (q) =>
      q.forEach((x, v) => put(rods[v], { y: heightOf(x), height: PLOT.bottom - heightOf(x) })),
    line: (key, p, bold = false) =>
      put(curves[key], {
        d: curveOf(p),
        style: `--role: var(--opd-${LINES[key].role}); stroke-width: ${bold ? 3.4 : 2}`,
      }),
    place: (mean, height) =>
      put(grip, {
        transform: `translate(${acrossOf(mean).toFixed(2)} ${heightOf(height).toFixed(2)})`,
      }),
  };
}

// The cost by step: the part taken solid, what lies ahead faint.
function lossChart() {
  const [left, right, top, bottom] = [46, 340, 22, 104];
  const ahead = svg("path", { class: "opd-line", opacity: 0.35 });
  const taken = svg("path", { class: "opd-line" });
  const mark = svg("circle", { r: 5, class: "opd-point" });
  const title = svg("text", { x: left, y: 12 });
  const [high, count] = [
    svg("text", { x: left - 6, y: top + 5, "text-anchor": "end" }),
    svg("text", { x: right, y: bottom + 16, "text-anchor": "middle" }),
  ];
  const element = svg(
    "svg",
    { viewBox: "0 0 360 124", role: "img", "aria-label": "The cost at each step of the descent" },
    svg("path", { class: "opd-grid-line", d: `M${left} ${top}H${right}` }),
    svg("path", { class: "opd-axis", fill: "none", d: `M${left} ${top}V${bottom}H${right}` }),
    svg("text", { x: left - 6, y: bottom + 4, "text-anchor": "end" }, "0"),
    svg("text", { x: left, y: bottom + 16, "text-anchor": "middle" }, "0"),
    title,
    high,
    count,
    ahead,
    taken,
    mark,
  );
  return {
    element,
    update(path, at, { label, role }) {
      const length = Math.max(path.length - 1, 1);
      const most = Math.max(path[0].cost, 1e-12);
      const point = ({ cost }, i) =>
        `${(left + (i / length) * (right - left)).toFixed(1)} ${(bottom - (cost / most) * (bottom - top)).toFixed(1)}`;
      const through = (part) => part.map((each, i) => `${i ? "L" : "M"}${point(each, i)}`).join("");
      const style = `--role: var(--opd-${role})`;
      put(ahead, { d: through(path), style });
      put(taken, { d: through(path.slice(0, at + 1)), style });
      const [x, y] = point(path[at], at).split(" ");
      put(mark, { cx: x, cy: y, style });
      title.textContent = `${label} at each step`;
      high.textContent = number(path[0].cost, path[0].cost < 0.995 ? 2 : 1);
      count.textContent = String(path.length - 1);
    },
  };
}

export default { render };
