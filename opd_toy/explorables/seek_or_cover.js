import {
  animation,
  html,
  number,
  percent,
  reducedMotion,
  said,
  showNumber,
  showText,
  state,
  value,
} from "./interface.js";
import {
  button,
  caption,
  card,
  choiceOf,
  columns,
  note,
  sentence,
  sliderOf,
  swatch,
  table,
  toolbar,
} from "./controls.js";
import { COSTS, descentOf, FAMILIES, KEYS, moments, onLeft } from "./seek_or_cover_descent.js";
import { bumpChart, lossChart } from "./seek_or_cover_pictures.js";
import { describe, one } from "./seek_or_cover_words.js";

const PEAK = 1 / Math.sqrt(2 * Math.PI); // the height of a Gaussian of width 1
const TRAITS = [
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
const SCENES = [
  ["Near the light mode", { start_mean: 25, start_width: 3 }],
  ["Near the heavy mode", { start_mean: 9, start_width: 3 }],
  ["Wide start", { start_mean: 20.5, start_width: 8 }],
  ["Close modes", { separation: 5 }],
  ["Free student", { family: "free" }],
];

const SLIDERS = [
  { key: "start_mean", label: "start at token", min: 5, max: 36, step: 0.5, text: one },
  { key: "start_width", label: "start width σ", min: 2, max: 12, step: 0.5, text: one },
  { key: "separation", label: "modes apart", max: 20, step: 0.5, text: one, role: "teacher" },
  { key: "weight", label: "left mode's share", min: 0.05, max: 0.95, role: "teacher" },
  { key: "width", label: "width of a mode", min: 2, max: 3, step: 0.1, text: one, role: "teacher" },
  { key: "beta", label: "β of the JSD", role: "jsd" },
];

function render({ model, el }) {
  const self = state(model, TRAITS, update);
  const descent = descentOf(self);
  const player = playerOf(self, descent, draw);
  const change = (values) => {
    player.pause();
    self.set(values);
  };
  const begin = (values) => change({ steps: 0, ...values }); // another descent starts at its start

  const parts = controls(self, begin);
  const buttons = playButtons(descent, player, change);
  const [scene, ends, losses] = [startChart(begin), endChart(), lossChart()];
  const [numbers, rowsOn] = numberTable();
  const now = stateNote();
  const says = sentence();

  card(
    el,
    "Seek or cover",
    toolbar(
      SCENES.map(([label, values]) => button(label, () => begin(sceneOf(self, values)))),
      button("Reset", () => change(self.initial)),
    ),
    columns(
      [
        scene.element,
        toolbar(Object.values(buttons)),
        caption("Where each objective ends"),
        ends.element,
      ],
      [
        parts.objective.element,
        parts.family.element,
        html(
          "div",
          { class: "opd-aligned" },
          parts.sliders.map((each) => each.element),
        ),
        losses.element,
      ],
    ),
    numbers.element,
    now.element,
    says,
  );

  // What moves while playing.
  function draw() {
    const [steps, at] = [descent.current(), player.at()];
    scene.line("student", steps[at].p);
    losses.update(steps, at, COSTS[self.get("objective")]);
    numbers.update([teacherRow(descent.teacher()), studentRow(steps[at])]);
    now.update(steps, at, self.get("family") === "bump");
    showText(buttons.play, player.running() ? "Pause" : "Play");
    buttons.step.disabled = buttons.end.disabled = at === steps.length - 1;
    buttons.rewind.disabled = at === 0;
  }

  function update() {
    const [q, key] = [descent.teacher(), self.get("objective")];
    const last = Object.fromEntries(KEYS.map((each) => [each, descent.path(each).at(-1)]));
    parts.objective.update(key);
    parts.family.update(self.get("family"));
    parts.sliders.forEach(({ key: name, update: show }) => show(self.get(name)));
    for (const chart of [scene, ends]) chart.bars(q);
    scene.line("start", descent.current()[0].p);
    scene.place(self.get("start_mean"), PEAK / self.get("start_width"));
    KEYS.forEach((each) => ends.line(each, last[each].p, each === key));
    draw();
    numbers.update([
      teacherRow(q),
      studentRow(descent.current()[player.at()]),
      ...KEYS.map((each) => studentRow(last[each])),
    ]);
    rowsOn(key);
    if (!player.running()) showText(says, describe(descent.shown(player.at(), last)));
  }

  update();
  return () => {
    player.pause();
    self.stop();
  };
}

// A scene keeps what is descended, and sets all else as it was at first.
const sceneOf = (self, values) => ({
  ...self.initial,
  objective: self.get("objective"),
  beta: self.get("beta"),
  ...values,
});

// Plays the descent in some four seconds; the trait follows once a second.
function playerOf(self, descent, draw) {
  let playing = null; // the animation, while it runs
  let position = 0; // the step shown while playing
  const end = () => descent.current().length - 1;
  const pause = () => playing?.stop();

  function play() {
    if (playing) return pause();
    const last = end();
    if (reducedMotion()) return self.set({ steps: last });
    position = self.get("steps") < last ? self.get("steps") : 0;
    const rate = Math.min(Math.max(last / 4, 8), 30);
    let since = 0;
    const tick = () => {
      position += 1;
      if (position >= last) return false;
      draw();
      if (++since >= rate) {
        since = 0;
        self.set({ steps: position });
      }
      return true;
    };
    playing = animation(tick, rate, () => {
      playing = null;
      self.set({ steps: Math.min(position, last) });
    });
    playing.start();
    draw();
  }

  return {
    play,
    pause,
    running: () => playing !== null,
    at: () => Math.min(playing ? position : self.get("steps"), end()),
  };
}

function controls(self, begin) {
  const restart = { set: begin };
  return {
    objective: choiceOf(
      restart,
      "objective",
      "Descend",
      KEYS.map((key) => ({ value: key, label: COSTS[key].label, role: COSTS[key].role })),
    ),
    family: choiceOf(
      restart,
      "family",
      "Student",
      Object.entries(FAMILIES).map(([key, { label }]) => ({ value: key, label })),
    ),
    sliders: SLIDERS.map(({ key, label, role = "student", ...options }) => ({
      key,
      ...sliderOf(restart, key, label, { role, text: number, ...options }),
    })),
  };
}

function playButtons(descent, player, change) {
  const to = (steps) => () => change({ steps: steps() });
  const last = () => descent.current().length - 1;
  const named = (name) => ({ "data-name": name });
  return {
    play: button("Play", player.play, named("play")),
    step: button(
      "Step",
      to(() => Math.min(player.at() + 1, last())),
      named("step"),
    ),
    end: button("End", to(last), named("end")),
    rewind: button(
      "Rewind",
      to(() => 0),
      named("rewind"),
    ),
  };
}

const startChart = (begin) =>
  bumpChart(
    "Teacher and student over 40 tokens; the start can be dragged",
    ["teacher", "student", "start"],
    (mean, height) =>
      begin({
        start_mean: Math.min(Math.max(mean, 5), 36),
        start_width: Math.min(Math.max(PEAK / Math.max(height, 1e-6), 2), 12),
      }),
  );

const endChart = () =>
  bumpChart(
    said(
      "Where descent ends from this start under each objective, over the teacher;",
      "the numbers are in the table",
    ),
    KEYS,
  );

function numberTable() {
  const numbers = table({
    caption: said(
      "Mean and standard deviation (sd) in tokens, mass on tokens 1–20, and cost;",
      "each objective at its end",
    ),
    columns: ["who", "mean", "sd", "left half", "cost"],
    rows: [
      [swatch("teacher"), "teacher"],
      [swatch("student"), "student now"],
      ...KEYS.map((key) => [swatch(COSTS[key].role), COSTS[key].label]),
    ],
  });
  numbers.element.classList.add("opd-tight");
  const rows = [...numbers.element.querySelectorAll("tbody tr")];
  return [
    numbers,
    (key) => rows.forEach((node, i) => (node.dataset.on = String(KEYS[i - 2] === key))),
  ];
}

const shape = (p) => {
  const { mean, deviation } = moments(p);
  return [{ value: mean }, { value: deviation }, { value: onLeft(p), text: percent(onLeft(p)) }];
};
const studentRow = ({ p, cost }) => [...shape(p), { value: cost, text: number(cost, 3) }];
const teacherRow = (q) => [...shape(q), { text: "" }];

// "Student now, after step 3 of 20: μ = …, σ = …", and what a step is.
function stateNote() {
  const [taken, all, mu, sigma] = ["steps-taken", "steps-in-all", "mu", "sigma"].map((name) =>
    value({ "data-name": name }),
  );
  const parameters = html("span", {}, ": μ = ", mu, ", σ = ", sigma);
  return {
    element: note(
      "Student now, after step ",
      taken,
      " of ",
      all,
      parameters,
      ". Drag the dot on the start. Each step moves a parameter against its gradient, ",
      "divided by its Fisher information and capped, and is halved until the cost falls; ",
      "so the numbers of steps do not compare speeds.",
    ),
    update(steps, at, isBump) {
      parameters.hidden = !isBump;
      if (isBump) {
        showNumber(mu, steps[at].parameters[0]);
        showNumber(sigma, Math.exp(steps[at].parameters[1]));
      }
      showNumber(taken, at, String(at));
      showNumber(all, steps.length - 1, String(steps.length - 1));
    },
  };
}

export default { render };
