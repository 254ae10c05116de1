import { animation, html, number, put, reducedMotion, said, showText, state } from "./interface.js";
import {
  button,
  caption,
  card,
  choiceOf,
  columns,
  presetBar,
  sentence,
  sliderOf,
  swatch,
  table,
  toolbar,
} from "./controls.js";
import { chartKey } from "./pictures.js";
import { trajectoryChart, varianceChart } from "./control_study_pictures.js";
import { describe, inTimes, rough, span, unpacked } from "./control_study_record.js";

const PRESETS = (block, last) => [
  ["First iterations", { iteration: block }],
  ["γ = 0 at the end", { gamma: 0, iteration: last }],
  ["γ = 1 at the end", { gamma: 1, iteration: last }],
  ["The same, seed 2026", { gamma: 1, seed: 2026, iteration: last }],
];

function render({ model, el }) {
  const study = unpacked(model.get("recording"));
  const { gammas, seeds, tasks, block, blocks, checkpoints } = study;
  const self = state(model, ["gamma", "seed", "task", "iteration"], update);
  const last = block * blocks;
  const within = (iteration) => Math.min(Math.max(Math.round(iteration), block), last);
  const parts = controls(self, study, last);
  const play = player(self, model, block, last, within);
  const step = button("Step", () => self.set({ iteration: within(self.get("iteration") + block) }));
  const variances = varianceChart(study, (iteration) => self.set({ iteration: within(iteration) }));
  const trajectories = trajectoryChart(study);
  const numbers = gammaTable(study);
  const says = sentence();

  card(
    el,
    "The control study",
    presetBar(self, PRESETS(block, last)),
    toolbar(parts.gamma.element),
    html(
      "div",
      { class: "opd-toolbar", style: "column-gap: 2rem" },
      parts.seed.element,
      parts.task.element,
    ),
    parts.scrub.element,
    toolbar(play.button, step),
    columns(
      [caption("Variance of the gradient"), variances.element],
      [caption("Where the student goes"), trajectories.element, trajectoryKey(study)],
    ),
    says,
    numbers.element,
  );

  function update() {
    const iteration = within(self.get("iteration"));
    const b = Math.ceil(iteration / block) - 1;
    const c = checkpoints.findLastIndex((each) => each <= (b + 1) * block);
    const at = {
      g: gammas.indexOf(self.get("gamma")),
      s: seeds.indexOf(self.get("seed")),
      t: tasks.indexOf(self.get("task")),
      b,
      c,
    };
    parts.gamma.update(gammas[at.g]);
    parts.seed.update(seeds[at.s]);
    parts.task.update(tasks[at.t]);
    parts.scrub.update(iteration);
    step.disabled = b === blocks - 1;
    variances.update(at.g, at.s, at.t, b);
    trajectories.update(at.g, at.s, at.t, at.c);
    const all = gammas.map((_, i) => ({
      variance: study.variance(i, at.s, at.t, b),
      end: study.end(i, at.s, at.c, at.t),
    }));
    numbers.update(all, at);
    if (!play.running()) showText(says, describe(study, at, all));
  }

  update();
  return () => {
    play.stop();
    self.stop();
  };
}

function controls(self, study, last) {
  const named = (all) => all.map((x) => ({ value: x, label: String(x) }));
  return {
    gamma: choiceOf(self, "gamma", "γ", named(study.gammas)),
    seed: choiceOf(self, "seed", "Seed", named(study.seeds)),
    task: choiceOf(
      self,
      "task",
      "Task",
      study.tasks.map((name, t) => ({
        value: name,
        label: `${name} (to ${number(study.targets[t], 0)})`,
      })),
    ),
    scrub: sliderOf(self, "iteration", "Iteration", {
      min: study.block,
      max: last,
      step: study.block,
      role: "student",
      text: (x) => String(x),
    }),
  };
}

// While it plays the model changes, but neither the address nor the sentence.
function player(self, model, block, last, within) {
  const play = animation(
    () => {
      model.set("iteration", within(self.get("iteration") + block));
      return self.get("iteration") < last;
    },
    8,
    () => {
      showText(playing, "Play");
      self.set({ iteration: self.get("iteration") });
    },
  );
  const playing = button("Play", () => {
    if (play.running()) return play.stop();
    if (reducedMotion()) return self.set({ iteration: last });
    if (self.get("iteration") >= last) model.set("iteration", block);
    showText(playing, "Pause");
    play.start();
  });
  return { button: playing, running: play.running, stop: play.stop };
}

const trajectoryKey = ({ paths }) =>
  chartKey([
    ["line", "student", `${paths} trajectories`],
    ["tick", "student", "end, mean ± sd of all"],
    ["tick", "teacher", "the teacher’s"],
    ["dashed", "teacher", "target"],
  ]);

// A row for each γ, the chosen one marked, and the teacher's ends.
function gammaTable(study) {
  const numbers = table({
    caption: "",
    columns: ["γ", "variance", "times γ = 0’s", "end, mean", "end, sd"],
    rows: [...study.gammas.map(String), [swatch("teacher"), "teacher"]],
  });
  const title = numbers.element.querySelector("caption");
  put(numbers.element, { "aria-label": "Variance and end of the trajectories for each γ" });
  const rows = [...numbers.element.querySelectorAll("tbody tr")];
  const share = (x) => ({ value: x, text: Number.isFinite(x) ? inTimes(x) : "none" });
  const pair = ([mean, deviation]) => [{ value: mean }, { value: deviation }];
  return {
    element: numbers.element,
    update(all, at) {
      numbers.update([
        ...all.map(({ variance, end }) => [
          { value: variance, text: rough(variance) },
          share(variance / all[0].variance),
          ...pair(end),
        ]),
        [{ text: "" }, { text: "" }, ...pair(study.teacher.map((each) => each[at.t]))],
      ]);
      rows.forEach((row, i) => (row.dataset.on = String(i === at.g)));
      showText(
        title,
        said(
          `Seed ${study.seeds[at.s]}, ${study.tasks[at.t]} task:`,
          `geometric mean of the variance at iterations ${span(study, at)}.`,
          `${study.after(at.c)}: the end of the trajectories,`,
          `target ${number(study.targets[at.t], 0)}`,
        ),
      );
    },
  };
}

export default { render };
