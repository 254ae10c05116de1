import { expectation, policyGradient, totalVariance } from "./mathematics.js";
import {
  animation,
  html,
  NOTES,
  number,
  reducedMotion,
  said,
  showText,
  signed,
  state,
  TOKENS,
} from "./interface.js";
import {
  button,
  caption,
  card,
  choiceOf,
  columns,
  presetBar,
  sentence,
  sliderOf,
  studentAndTeacher,
  table,
  toolbar,
} from "./controls.js";
import { chartKey } from "./pictures.js";
import { errorChart, walkChart } from "./sample_and_average_pictures.js";
import {
  allWalks,
  LOGITS,
  MOST,
  norm,
  NOTHING,
  SETTINGS,
  WALKS,
} from "./sample_and_average_walks.js";

const PRESETS = [
  ["The book's example", NOTES],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: NOTES.teacher }],
  ["A rare token", { student: [0.02, 0.48, 0.5], teacher: NOTES.teacher }],
];

function render({ model, el }) {
  const self = state(model, ["student", "teacher", "draws", "seed", "component"], update);
  const count = () => self.whole("draws");
  const inputs = studentAndTeacher(self, TOKENS);
  const scrub = sliderOf(self, "draws", "Draws N", {
    max: SETTINGS.length - 1,
    step: 1,
    role: "policy-gradient",
    text: () => String(count()),
    oninput: (place) => self.set({ draws: SETTINGS[place] }),
  });
  const component = choiceOf(
    self,
    "component",
    "Gradient on",
    LOGITS.map((name, index) => ({ value: index + 1, label: name })),
  );
  const play = player(self, model);
  const [walks, errors, all] = [walkChart(), errorChart(), allWalks()];
  const numbers = numberTable();
  numbers.element.classList.add("opd-close");
  const says = sentence();

  card(
    el,
    "Sample and average",
    presetBar(self, PRESETS),
    drawButtons(self, play.button),
    scrub.element,
    columns(
      [component.element, walks.element, walkKey()],
      [caption("Error over all three logits"), errors.element, errorKey()],
    ),
    says,
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        inputs.map((each) => each.element),
      ),
      numbers.element,
    ),
  );

  function update() {
    const [p, q, n] = [self.get("student"), self.get("teacher"), count()];
    const j = self.whole("component") - 1;
    const rows = policyGradient(p, q);
    const exact = expectation(p, rows);
    const deviations = exact.map((_, i) => deviationOf(p, rows, i));
    const spread = Math.sqrt(totalVariance(p, rows));
    all.reach(p, rows, self.whole("seed"), j, n, (means, end) => {
      walks.redraw(means, j, rows, exact[j], deviations[j], end);
      errors.redraw(means, exact, spread, end);
    });
    const now = n > 0 ? all.latest(n, p, rows) : [];
    const off = now.length ? now[0].map((x, i) => x - exact[i]) : exact.map(() => NaN);
    inputs[0].update(p);
    inputs[1].update(q);
    scrub.update(SETTINGS.findLastIndex((setting) => setting <= n));
    scrub.element.querySelector("output").dataset.value = String(n);
    component.update(j + 1);
    walks.update(n, now.length ? now[0][j] : NaN);
    errors.update(n, norm(off));
    numbers.update(tableRows({ exact, mine: now[0], off, deviations, spread, n }));
    if (!play.running())
      showText(
        says,
        describe({
          n,
          logit: LOGITS[j],
          exact: exact[j],
          deviation: deviations[j],
          means: now.map((mean) => mean[j]),
          rarest: Math.min(...p),
        }),
      );
  }

  update();
  return () => {
    play.stop();
    self.stop();
  };
}

const deviationOf = (p, rows, i) =>
  Math.sqrt(
    totalVariance(
      p,
      rows.map((row) => [row[i]]),
    ),
  );

// ---- drawing ----

// While it plays the model changes, but neither the address nor the sentence.
function player(self, model) {
  const count = () => self.whole("draws");
  const play = animation(
    () => {
      model.set("draws", Math.min(MOST, count() + Math.max(1, Math.floor(count() * 0.05))));
      return count() < MOST;
    },
    24,
    () => {
      showText(playing, "Play");
      self.set({ draws: count() });
    },
  );
  const playing = button("Play", () => {
    if (play.running()) return play.stop();
    if (reducedMotion()) return self.set({ draws: MOST });
    if (count() >= MOST) model.set("draws", 0);
    showText(playing, "Pause");
    play.start();
  });
  return { button: playing, running: play.running, stop: play.stop };
}

function drawButtons(self, playing) {
  const draw = (n) => self.set({ draws: Math.min(MOST, self.whole("draws") + n) });
  return toolbar(
    playing,
    button("Draw 1", () => draw(1)),
    button("10", () => draw(10), { "aria-label": "Draw 10" }),
    button("100", () => draw(100), { "aria-label": "Draw 100" }),
    button("all", () => draw(MOST), { "aria-label": `Draw up to ${MOST}` }),
    button("Start over", () => self.set({ draws: 0 })),
    button("Other draws", () => self.set({ seed: (self.whole("seed") + 1) % 10000 })),
  );
}

const walkKey = () =>
  chartKey([
    ["line", "policy-gradient", "mean of N draws"],
    ["faint", "policy-gradient", "99 other walks"],
    ["dashed", "reverse-kl", "exact gradient"],
    ["band", "policy-gradient", "exact ± 2σ/√N"],
  ]);

const errorKey = () =>
  chartKey([
    ["line", "policy-gradient", "mean of N draws"],
    ["dots", "policy-gradient", "root mean square of 100 walks"],
    ["dashed", "reverse-kl", "exact: σ/√N"],
  ]);

// ---- the table ----

const ROWS = [...LOGITS, "norm"];

const numberTable = () =>
  table({
    caption: said(
      "the gradient on each logit, the mean of N draws, how far it is off, and its exact standard",
      "error; the last row has the columns' norms",
    ),
    columns: ["logit", "exact", "mean", "off by", "σ/√N"],
    roles: [null, "reverse-kl", "policy-gradient", null, null],
    rows: ROWS,
  });

function tableRows({ exact, mine = [NaN, NaN, NaN], off, deviations, spread, n }) {
  const cell = (x, format) => ({ value: x, text: Number.isFinite(x) ? format(x, 3) : "–" });
  const withNorm = [exact, mine, off].map((column) => [
    ...column.map((x) => cell(x, signed)),
    cell(norm(column), number),
  ]);
  const errors = [...deviations, spread].map((x) => cell(x / Math.sqrt(n), number));
  return ROWS.map((_, i) => [...withNorm, errors].map((column) => column[i]));
}

// ---- the sentence ----

function describe({ n, logit, exact, deviation, means, rarest }) {
  if (deviation < NOTHING)
    return said(
      `Every draw gives ${number(exact)} on ${logit}: student and teacher agree,`,
      "there is nothing to average.",
    );
  if (n === 0)
    return said(
      `Nothing drawn yet. The exact gradient on ${logit} is ${signed(exact, 3)};`,
      `a single draw strays from it by σ = ${number(deviation, 3)}.`,
    );
  const error = deviation / Math.sqrt(n);
  const inside = means.filter((mean) => Math.abs(mean - exact) <= 2 * error * (1 + 1e-12)).length;
  const about95 = n * rarest >= 5 ? "; about 95 are to be expected" : "";
  return said(
    `After ${n} draw${n === 1 ? "" : "s"} the mean on ${logit} is ${signed(means[0], 3)},`,
    `the exact gradient ${signed(exact, 3)}: off by ${number(Math.abs(means[0] - exact), 3)},`,
    `with a standard error σ/√N of ${number(error, 3)}.`,
    `${inside} of ${WALKS} walks are inside the band of two standard errors${about95}.`,
    signInWords(n, Math.ceil(((2 * deviation) / exact) ** 2)),
  );
}

// `needed`: from how many draws on the band of two standard errors does not hold 0.
function signInWords(n, needed) {
  if (needed > 1e6)
    return "The exact gradient is so near 0 that no number of draws here settles its sign.";
  if (n < needed) return `The band still holds 0: even the sign is in doubt until N = ${needed}.`;
  return `From N = ${needed} on the band does not hold 0: the sign is hardly in doubt.`;
}

export default { render };
