import { html, number, percent, showNumber, showText, state, value } from "./interface.js";
import {
  button,
  caption,
  card,
  choiceOf,
  columns,
  note,
  sentence,
  sliderOf,
  table,
  toolbar,
} from "./controls.js";
import { chartKey } from "./pictures.js";
import { shareChart, tokenBars, tokenStrip } from "./derail_pictures.js";
import { describe, question, steps } from "./derail_words.js";

const NAMES = {
  number: "a number used twice",
  sum: "a wrong sum",
  lost: "the teacher is lost too",
  new: "new, and no slip",
  right: "no slip",
};

function render({ model, el }) {
  const record = model.get("recording");
  const longest = record.positions.unseen.length - 1; // tokens of the longest answer
  const read = Object.fromEntries(
    Object.entries(record.answers).map(([name, each]) => [name, steps(each, record.tokens)]),
  );
  const self = state(model, ["answer", "position"], update);
  const current = () => {
    const answer = read[self.get("answer")];
    return { answer, at: Math.min(self.whole("position"), answer.length - 1) };
  };
  const move = (to) => self.set({ position: to });
  const parts = controls(self, current, move, longest - 1);
  const asked = html("strong");
  const [strip, bars, shares] = [
    tokenStrip(longest),
    tokenBars([...record.tokens]),
    shareChart(record),
  ];
  const says = sentence();
  const numbers = nextTable();
  numbers.element.classList.add("opd-close");
  const [unseen, slipped] = ["unseen", "slipped"].map((name) => value({ "data-name": name }));

  card(
    el,
    "One answer, token by token",
    toolbar(parts.answer.element),
    note("The question: ", asked),
    strip.element,
    parts.position.element,
    toolbar(parts.buttons),
    says,
    columns(
      [caption("The next token"), bars.element, barKey(), numbers.element],
      [
        caption(`The answers to all ${record.questions} questions`),
        shares.element,
        chartKey([
          ["line", "ink", "no training text begins so"],
          ["fill", "student", "there has been a slip"],
        ]),
        note("After this many tokens: ", unseen, " in no training text, ", slipped, " slipped."),
      ],
    ),
  );

  function update() {
    const { answer, at } = current();
    const [step, recorded] = [answer[at], record.answers[self.get("answer")]];
    showText(asked, question(recorded));
    parts.answer.update(self.get("answer"));
    parts.position.input.max = answer.length - 1;
    parts.position.update(at);
    parts.position.input.style.setProperty("--at", at / (answer.length - 1));
    strip.update(answer, at, recorded.new_at);
    bars.update(step);
    shares.update(at);
    numbers.update(nextRows(step));
    showNumber(unseen, record.positions.unseen[at], percent(record.positions.unseen[at], 1));
    showNumber(slipped, record.positions.slipped[at], percent(record.positions.slipped[at], 1));
    parts.update(answer, at);
    showText(says, describe(answer, at));
  }

  update();
  return self.stop;
}

function controls(self, current, move, last) {
  const first = () => current().answer.findIndex((step) => !step.isRight);
  const worst = () => {
    const doubts = current().answer.map((step) => step.student.right);
    return doubts.indexOf(Math.min(...doubts));
  };
  const [back, next, slip] = [
    button("Back", () => move(current().at - 1)),
    button("Next token", () => move(current().at + 1)),
    button("To the first slip", () => move(first())),
  ];
  return {
    answer: choiceOf(
      self,
      "answer",
      "Show",
      Object.entries(NAMES).map(([name, label]) => ({ value: name, label })),
    ),
    position: sliderOf(self, "position", "tokens written", {
      max: last,
      step: 1,
      role: "student",
      text: (x) => number(x, 0),
    }),
    buttons: [
      back,
      next,
      slip,
      button("Where the student knows least", () => move(worst())),
      button("Reset", () => self.set(self.initial)),
    ],
    update(answer, at) {
      back.disabled = at === 0;
      next.disabled = at === answer.length - 1;
      slip.disabled = first() < 0;
    },
  };
}

const barKey = () =>
  chartKey([
    ["fill", "student", "student"],
    ["fill", "teacher", "teacher"],
    ["outline", null, "right"],
  ]);

const nextTable = () =>
  table({
    caption: "Probability of the next token",
    columns: ["", "token", "student", "teacher"],
    roles: [null, null, "student", "teacher"],
    rows: ["written", "right", "wrong"],
  });

function nextRows({ token, right, student, teacher }) {
  const row = (text, of) => [{ text }, ...[student, teacher].map(of)].map((x) => cell(x));
  return [
    row(token, (who) => who.written),
    row([...right].join(" "), (who) => who.right),
    row("the rest", (who) => 1 - who.right),
  ];
}
const cell = (x) => (typeof x === "number" ? { value: x, text: number(x, 3) } : x);

export default { render };
