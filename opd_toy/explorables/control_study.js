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
  slider,
  state,
  svg,
  table,
  toolbar,
  uniqueId,
} from "./interface.js";

// The longer its dash, the further ahead a γ looks.
const DASHES = ["2 4", "5 4", "9 4", "15 4", "none"];

// A variance in two digits: 0.31, 4.2, 310, 3.1×10⁴.
function rough(x) {
  if (!Number.isFinite(x)) return "none";
  const exponent = Math.floor(Math.log10(x) + 1e-12);
  if (exponent >= -2 && exponent < 3) return number(x, Math.max(0, 1 - exponent));
  const [mantissa, power] = x.toExponential(1).split("e");
  return `${mantissa}×10${raised(Number(power))}`;
}
const raised = (power) =>
  [...String(power)].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])).join("");
const times = (ratio) => (ratio < 999.5 ? number(ratio, ratio < 9.95 ? 1 : 0) : rough(ratio));

// The recording, its numbers unpacked.
function unpacked({
  gammas,
  seeds,
  tasks,
  variance,
  low,
  high,
  positions,
  reach,
  paths,
  points,
  checkpoints,
  ends,
  ...rest
}) {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const codes = new Uint16Array(bytes(variance).buffer);
  const places = bytes(positions);
  const blocks = codes.length / (gammas.length * seeds.length * tasks.length);
  return {
    ...rest,
    gammas,
    seeds,
    tasks,
    checkpoints,
    blocks,
    points,
    paths,
    reach,
    least: Math.exp(low),
    most: Math.exp(high),
    variance(g, s, t, b) {
      const code = codes[((g * seeds.length + s) * tasks.length + t) * blocks + b];
      return code ? Math.exp(low + ((code - 1) / 65534) * (high - low)) : NaN;
    },
    // the positions of trajectory n at each time step
    path(g, s, c, t, n) {
      const first =
        ((((g * seeds.length + s) * checkpoints.length + c) * tasks.length + t) * paths + n) *
        points;
      return Array.from(
        places.subarray(first, first + points),
        (code) => (code / 255) * 2 * reach - reach,
      );
    },
    end: (g, s, c, t) => ends.map((all) => all[g][s][t][c]), // mean and standard deviation
    after: (c) => (checkpoints[c] ? `After iteration ${checkpoints[c]}` : "Before any training"),
  };
}

function render({ model, el }) {
  const study = unpacked(model.get("recording"));
  const { gammas, seeds, tasks, block, blocks, checkpoints } = study;
  const names = ["gamma", "seed", "task", "iteration"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  const last = block * blocks;
  const within = (iteration) => Math.min(Math.max(Math.round(iteration), block), last);

  const gamma = choice({
    label: "γ",
    name: "gamma",
    options: gammas.map((x) => ({ value: x, label: String(x) })),
    onchange: (x) => self.set({ gamma: x }),
  });
  const seed = choice({
    label: "Seed",
    name: "seed",
    options: seeds.map((x) => ({ value: x, label: String(x) })),
    onchange: (x) => self.set({ seed: x }),
  });
  const task = choice({
    label: "Task",
    name: "task",
    onchange: (x) => self.set({ task: x }),
    options: tasks.map((name, t) => ({
      value: name,
      label: `${name} (to ${number(study.targets[t], 0)})`,
    })),
  });
  const scrub = slider({
    label: "Iteration",
    min: block,
    max: last,
    step: block,
    name: "iteration",
    role: "student",
    text: (x) => String(x),
    oninput: (x) => self.set({ iteration: x }),
  });
  // While it plays the model changes, but neither the address nor the sentence.
  const play = animation(
    () => {
      model.set("iteration", within(self.get("iteration") + block));
      return self.get("iteration") < last;
    },
    8,
    () => {
      playing.textContent = "Play";
      self.set({ iteration: self.get("iteration") });
    },
  );
  const playing = button("Play", () => {
    if (play.running()) return play.stop();
    if (reducedMotion()) return self.set({ iteration: last });
    if (self.get("iteration") >= last) model.set("iteration", block);
    playing.textContent = "Pause";
    play.start();
  });
  const step = button("Step", () => self.set({ iteration: within(self.get("iteration") + block) }));
  const presets = [
    ["First iterations", { iteration: block }],
    ["γ = 0 at the end", { gamma: 0, iteration: last }],
    ["γ = 1 at the end", { gamma: 1, iteration: last }],
    ["The same, seed 2026", { gamma: 1, seed: 2026, iteration: last }],
  ];

  const variances = varianceChart(study, (iteration) => self.set({ iteration: within(iteration) }));
  const trajectories = trajectoryChart(study);
  const numbers = table({
    caption: "",
    columns: ["γ", "variance", "times γ = 0’s", "end, mean", "end, sd"],
    rows: [
      ...gammas.map(String),
      [html("i", { class: "opd-swatch", style: "--role: var(--opd-teacher)" }), "teacher"],
    ],
  });
  const caption = numbers.element.querySelector("caption");
  put(numbers.element, { "aria-label": "Variance and end of the trajectories for each γ" });
  const rows = [...numbers.element.querySelectorAll("tbody tr")];
  const says = sentence();

  card(
    el,
    "The control study",
    toolbar(
      presets.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(initial)),
    ),
    toolbar(gamma.element),
    html("div", { class: "opd-toolbar", style: "column-gap: 2rem" }, seed.element, task.element),
    scrub.element,
    toolbar(playing, step),
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        html("p", { class: "opd-caption" }, "Variance of the gradient"),
        variances.element,
      ),
      html(
        "div",
        {},
        html("p", { class: "opd-caption" }, "Where the student goes"),
        trajectories.element,
        chartKey([
          ["line", "student", `${study.paths} trajectories`],
          ["tick", "student", "end, mean ± sd of all"],
          ["tick", "teacher", "the teacher’s"],
          ["dashed", "teacher", "target"],
        ]),
      ),
    ),
    says,
    numbers.element,
  );

  function update() {
    const [g, s, t] = [
      gammas.indexOf(self.get("gamma")),
      seeds.indexOf(self.get("seed")),
      tasks.indexOf(self.get("task")),
    ];
    const iteration = within(self.get("iteration"));
    const b = Math.ceil(iteration / block) - 1;
    const c = Math.max(
      checkpoints.findLastIndex((each) => each <= (b + 1) * block),
      0,
    );
    gamma.update(gammas[g]);
    seed.update(seeds[s]);
    task.update(tasks[t]);
    scrub.update(iteration);
    step.disabled = b === blocks - 1;
    variances.update(g, s, t, b);
    trajectories.update(g, s, t, c);
    const all = gammas.map((_, i) => ({
      variance: study.variance(i, s, t, b),
      end: study.end(i, s, c, t),
    }));
    const [mean, deviation] = study.teacher.map((each) => each[t]);
    numbers.update([
      ...all.map(({ variance, end }) => [
        { value: variance, text: rough(variance) },
        {
          value: variance / all[0].variance,
          text: Number.isFinite(variance / all[0].variance)
            ? times(variance / all[0].variance)
            : "none",
        },
        { value: end[0] },
        { value: end[1] },
      ]),
      [{ text: "" }, { text: "" }, { value: mean }, { value: deviation }],
    ]);
    rows.forEach((row, i) => (row.dataset.on = String(i === g)));
    const span = `${b * block + 1}–${(b + 1) * block}`;
    caption.textContent = `Seed ${seeds[s]}, ${tasks[t]} task: geometric mean of the variance at iterations ${span}. ${study.after(c)}: the end of the trajectories, target ${number(study.targets[t], 0)}`;
    if (!play.running()) says.textContent = words(g, s, t, b, c, all);
  }

  function words(g, s, t, b, c, all) {
    const {
      variance,
      end: [mean, deviation],
    } = all[g];
    const other = g === 0 ? all.length - 1 : 0;
    const ratio = variance / all[other].variance;
    const compared = !Number.isFinite(ratio)
      ? ""
      : ratio >= 1
        ? `, ${times(ratio)} times that of γ = ${gammas[other]}`
        : `; that of γ = ${gammas[other]} is ${times(1 / ratio)} times as large`;
    const seen = Number.isFinite(variance)
      ? `At iterations ${b * block + 1}–${(b + 1) * block}, γ = ${gammas[g]}, seed ${seeds[s]}, ${tasks[t]} task, the gradient’s variance is ${rough(variance)}${compared}.`
      : `At iterations ${b * block + 1}–${(b + 1) * block}, γ = ${gammas[g]}, seed ${seeds[s]}, ${tasks[t]} task, the record has no variance: this run broke down.`;
    const target = study.targets[t];
    const miss = (target - mean) * Math.sign(target); // above 0: short of it
    const place =
      Math.abs(miss) < 0.005
        ? "on the target"
        : `${number(Math.abs(miss))} ${Math.abs(miss) > Math.abs(target - study.starts[t]) ? "away from" : miss > 0 ? "short of" : "beyond"} the target`;
    return `${seen} ${study.after(c)} its trajectories end at ${number(mean)} ± ${number(deviation)}, on average ${place} ${number(target, 0)}.`;
  }

  update();
  return () => {
    play.stop();
    self.stop();
  };
}

// ---- pictures ----

const BOX = { left: 40, right: 314, top: 12, bottom: 196 };
const SHOWN = 8; // positions from −8 to 8, as in the paper
const scale = (low, high, from, to) => (x) => from + ((x - low) / (high - low)) * (to - from);

function varianceChart(study, moved) {
  const { gammas, block, blocks } = study;
  const last = block * blocks;
  const across = scale(0, last, BOX.left, BOX.right);
  const [low, high] = [Math.floor(Math.log10(study.least)), Math.ceil(Math.log10(study.most))];
  const down = (x) => scale(low, high, BOX.bottom, BOX.top)(Math.log10(x));
  const decades = Array.from({ length: high - low + 1 }, (_, i) => low + i).filter(
    (e) => high - low < 8 || e % 2 === 0,
  );
  const lines = gammas.map((_, g) =>
    svg("path", {
      class: "opd-line",
      style: "--role: var(--opd-policy-gradient)",
      "stroke-dasharray": DASHES[g],
      "data-line": g,
    }),
  );
  const labels = gammas.map((x) => svg("text", { x: BOX.right + 6 }, `γ ${x}`));
  const halo = svg("path", { class: "opd-halo" });
  const rule = svg("path", { class: "opd-axis", "stroke-dasharray": "2 3" });
  const dot = svg("circle", {
    r: 5,
    class: "opd-point",
    style: "--role: var(--opd-policy-gradient)",
  });
  const reach = svg("circle", { r: 22, class: "opd-reach", "data-handle": "iteration" });
  const group = svg("g", {}, lines);
  const element = svg(
    "svg",
    {
      viewBox: "0 0 360 240",
      role: "img",
      "aria-label":
        "Variance of the gradient along training, a line for each γ; the numbers are in the table",
    },
    decades.map((e) => [
      svg("path", { class: "opd-grid-line", d: `M${BOX.left} ${down(10 ** e)}H${BOX.right}` }),
      svg(
        "text",
        { x: BOX.left - 6, y: down(10 ** e) + 4, "text-anchor": "end" },
        `10${raised(e)}`,
      ),
    ]),
    [0, 500, 1000, 1500, 2000].map((n) =>
      svg("text", { x: across(n), y: BOX.bottom + 18, "text-anchor": "middle" }, String(n)),
    ),
    svg(
      "text",
      { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 35, "text-anchor": "middle" },
      "iteration",
    ),
    rule,
    group,
    labels,
    dot,
    reach,
  );
  draggable(reach, element, (x) => moved(((x - BOX.left) / (BOX.right - BOX.left)) * last));
  let drawn = null;
  return {
    element,
    update(g, s, t, b) {
      if (drawn !== `${g} ${s} ${t}`) {
        drawn = `${g} ${s} ${t}`;
        lines.forEach((line, i) => {
          let [d, open] = ["", false];
          for (let n = 0; n < blocks; n++) {
            const variance = study.variance(i, s, t, n);
            if (Number.isFinite(variance))
              d += `${open ? "L" : "M"}${across((n + 0.5) * block).toFixed(1)} ${down(variance).toFixed(1)}`;
            open = Number.isFinite(variance);
          }
          put(line, {
            d,
            style: `--role: var(--opd-${i === g ? "policy-gradient" : "muted"}); stroke-width: ${i === g ? 2.8 : 1.4}`,
          });
          if (i === g) put(halo, { d });
        });
        group.append(halo, lines[g]); // the chosen one on top
        place(
          labels,
          gammas.map((_, i) => endOf(i, s, t)),
          g,
        );
      }
      const [x, variance] = [across((b + 0.5) * block), study.variance(g, s, t, b)];
      put(rule, { d: `M${x} ${BOX.top}V${BOX.bottom}` });
      const y = Number.isFinite(variance) ? down(variance) : BOX.bottom;
      for (const mark of [dot, reach]) put(mark, { cx: x, cy: y });
    },
  };

  // The height of a line's right end: the median of its last blocks.
  function endOf(i, s, t) {
    const tail = Array.from({ length: 7 }, (_, n) => study.variance(i, s, t, blocks - 1 - n))
      .filter(Number.isFinite)
      .sort((a, b) => a - b);
    return tail.length ? down(tail[tail.length >> 1]) : BOX.bottom;
  }
}

// Stand the labels beside their lines, 14 apart at least.
function place(labels, heights, chosen) {
  const order = heights.map((y, i) => ({ y, i })).sort((a, b) => a.y - b.y);
  order.forEach((each, n) => (each.y = Math.max(each.y, n ? order[n - 1].y + 14 : BOX.top)));
  order
    .reverse()
    .forEach((each, n) => (each.y = Math.min(each.y, n ? order[n - 1].y - 14 : BOX.bottom)));
  order.forEach(({ y, i }) =>
    put(labels[i], { y: y + 4, class: i === chosen ? "opd-heading" : "" }),
  );
}

function trajectoryChart(study) {
  const { points, targets } = study;
  const clip = uniqueId("clip");
  const across = scale(0, points - 1, BOX.left, BOX.right);
  const down = scale(-SHOWN, SHOWN, BOX.bottom, BOX.top);
  const lines = Array.from({ length: study.paths }, () =>
    svg("path", { class: "opd-line", style: "--role: var(--opd-student); stroke-width: 1.5" }),
  );
  const target = svg("path", { class: "opd-line opd-dashed", style: "--role: var(--opd-teacher)" });
  const targetLabel = svg("text", { x: BOX.left + 6 });
  const start = svg("circle", {
    r: 5,
    class: "opd-point",
    style: "--role: var(--opd-student)",
    cx: across(0),
  });
  const startLabel = svg("text", { x: BOX.left + 9 });
  const whiskers = ["student", "teacher"].map((role, i) => {
    const x = BOX.right + 10 + 12 * i;
    const [bar, dot] = [svg("path", { class: "opd-whisker" }), svg("path", { class: "opd-point" })];
    return {
      group: svg("g", { style: `--role: var(--opd-${role})` }, bar, dot),
      update(mean, deviation) {
        const y = (position) => down(Math.min(Math.max(position, -SHOWN), SHOWN)).toFixed(1);
        const away = Math.abs(mean) > SHOWN ? Math.sign(mean) : 0; // an arrowhead at the edge
        put(bar, { d: `M${x} ${y(mean - deviation)}V${y(mean + deviation)}` });
        put(dot, {
          d: away
            ? `M${x - 7} ${y(mean)}h14l-7 ${-10 * away}z`
            : `M${x - 4} ${y(mean)}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z`,
        });
      },
    };
  });
  const element = svg(
    "svg",
    {
      viewBox: "0 0 360 240",
      role: "img",
      "aria-label": "Trajectories of the student: position against time step",
    },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", {
        x: BOX.left - 6,
        y: BOX.top,
        width: BOX.right - BOX.left + 6,
        height: BOX.bottom - BOX.top,
      }),
    ),
    [-8, -4, 0, 4, 8].map((y) => [
      svg("path", { class: "opd-grid-line", d: `M${BOX.left} ${down(y)}H${BOX.right}` }),
      svg("text", { x: BOX.left - 6, y: down(y) + 4, "text-anchor": "end" }, number(y, 0)),
    ]),
    [0, 5, 10, 15, 20]
      .filter((n) => n < points)
      .map((n) =>
        svg("text", { x: across(n), y: BOX.bottom + 18, "text-anchor": "middle" }, String(n)),
      ),
    svg(
      "text",
      { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 35, "text-anchor": "middle" },
      "time step",
    ),
    target,
    svg("g", { "clip-path": `url(#${clip})` }, lines, start),
    whiskers.map((each) => each.group),
    targetLabel,
    startLabel,
  );
  return {
    element,
    update(g, s, t, c) {
      const paths = lines.map((_, n) => study.path(g, s, c, t, n));
      lines.forEach((line, n) =>
        put(line, {
          d: paths[n]
            .map((y, i) => `${i ? "L" : "M"}${across(i).toFixed(1)} ${down(y).toFixed(1)}`)
            .join(""),
        }),
      );
      const [first, side] = [paths[0][0], targets[t] > 0 ? -1 : 1];
      put(target, { d: `M${BOX.left} ${down(targets[t])}H${BOX.right}` });
      put(targetLabel, { y: down(targets[t]) + (side > 0 ? 16 : -8) });
      targetLabel.textContent = `target ${number(targets[t], 0)}`;
      put(start, { cy: down(first) });
      put(startLabel, { y: down(first) + (side > 0 ? -10 : 18) });
      startLabel.textContent = `start ${number(first, 0)}`;
      whiskers[0].update(...study.end(g, s, c, t));
      whiskers[1].update(...study.teacher.map((each) => each[t]));
    },
  };
}

export default { render };
