import { html, number, put, showText, state } from "./interface.js";
import { caption, card, choiceOf, presetBar, sentence, sliderOf, table } from "./controls.js";
import { curveChart, stroke } from "./learning_curves_pictures.js";
import { GROUPS, METHODS, PLACES, QUANTITIES, shown, unpacked } from "./learning_curves_study.js";
import { captionOf, describe } from "./learning_curves_words.js";

const PRESETS = [
  [
    "Whose texts",
    {
      methods: ["seqkd", "off_policy_reverse_kl", "on_policy_forward_kl", "gkd"],
      quantity: "sequence_kl",
    },
  ],
  [
    "How far ahead",
    { methods: ["gkd", "pg_0", "pg_0.5", "pg_0.9", "pg_1"], quantity: "sequence_kl" },
  ],
  ["How many ways", { methods: ["seqkd", "gkd", "jsd", "pg_0", "rlvr"], quantity: "distinct" }],
  ["With a reward", { methods: ["gkd", "pg_0", "opd_reward", "rlvr"], quantity: "accuracy" }],
];

function render({ model, el }) {
  const studies = Object.fromEntries(
    Object.entries(model.get("recording")).map(([name, each]) => [name, unpacked(each)]),
  );
  const self = state(model, ["methods", "x", "quantity", "at", "record"], update);
  const parts = controls(self, studies);
  const chart = curveChart((at) => self.set({ at }));
  const title = caption();
  const numbers = rankedTable();
  const says = sentence();

  card(
    el,
    "Learning curves",
    presetBar(self, PRESETS),
    Object.keys(studies).length > 1 ? parts.record.element : null,
    parts.x.element,
    parts.quantity.element,
    html(
      "div",
      { class: "opd-columns" },
      html("div", {}, title, chart.element, parts.scrub.element),
      html("div", { class: "opd-switches" }, parts.switches.element),
    ),
    says,
    numbers.element,
  );

  function update() {
    const reading = readingOf(self, studies);
    parts.update(reading, self.get("at"));
    showText(title, reading.measure.axis);
    chart.update(reading);
    numbers.update(reading);
    showText(says, describe(reading));
  }

  update();
  return () => self.stop();
}

// The setting, and what each method that is switched on has there.
function readingOf(self, studies) {
  const record = Object.hasOwn(studies, self.get("record"))
    ? self.get("record")
    : Object.keys(studies)[0];
  const study = studies[record];
  const [along, what] = [self.get("x"), self.get("quantity")];
  const place = (self.get("at") / 100) * study.furthest(along);
  const x = along === "seconds" ? place : Math.floor(place + 0.5);
  const chosen = self.get("methods").filter((name) => study.methods.includes(name));
  const measure = QUANTITIES[what];
  const readings = chosen.map((name) => ({
    name,
    words: METHODS.find((each) => each.name === name).words,
    ...study.at(name, what, along, x),
  }));
  return {
    study,
    record,
    along,
    what,
    measure,
    x,
    place: PLACES[along].text(x),
    chosen,
    readings,
    ranked: readings
      .filter(({ count }) => count)
      .sort((a, b) => measure.better * (b.mean - a.mean)),
  };
}

// ---- controls ----

function controls(self, studies) {
  const labelled = (all) => Object.entries(all).map(([key, { label }]) => ({ value: key, label }));
  const record = choiceOf(
    self,
    "record",
    "Study",
    Object.keys(studies).map((name) => ({ value: name, label: name })),
  );
  const x = choiceOf(self, "x", "At equal", labelled(PLACES));
  const quantity = choiceOf(self, "quantity", "Measure", labelled(QUANTITIES));
  for (const each of [record, x, quantity]) each.element.classList.add("opd-inline");
  const scrub = sliderOf(self, "at", "Read the curves at", {
    max: 100,
    step: 1,
    text: (at) => `${at} %`,
  });
  scrub.element.classList.add("opd-long-output");
  showText(scrub.element.querySelector(".opd-label"), "Read");
  const switches = methodSwitches(self);
  return {
    record,
    x,
    quantity,
    scrub,
    switches,
    update(reading, at) {
      record.update(reading.record);
      x.update(reading.along);
      quantity.update(reading.what);
      scrub.update(at);
      put(scrub.input, { "aria-valuetext": `${at} % of the axis, ${reading.place}` });
      const brief = PLACES[reading.along].brief(reading.x);
      showText(scrub.element.querySelector("output"), `at ${brief}`);
      switches.update(reading);
    },
  };
}

// A box to tick for each method, in groups.
function methodSwitches(self) {
  const turned = (name, on) =>
    METHODS.map((each) => each.name).filter((each) =>
      each === name ? on : self.get("methods").includes(each),
    );
  const switches = METHODS.map(({ name, words, role, dashes }) => {
    const input = html("input", {
      type: "checkbox",
      value: name,
      onchange: () => self.set({ methods: turned(name, input.checked) }),
    });
    return { name, input, element: html("label", {}, input, stroke(role, dashes), words) };
  });
  const groups = GROUPS.map(({ title, more, methods }) =>
    html(
      "fieldset",
      { class: "opd-checks" },
      html("legend", {}, title, html("small", {}, ` ${more}`)),
      methods.map(({ name }) => switches.find((each) => each.name === name).element),
    ),
  );
  return {
    element: groups,
    update({ study, chosen }) {
      for (const { name, input, element } of switches) {
        input.checked = chosen.includes(name);
        element.hidden = !study.methods.includes(name);
      }
      groups.forEach((group, i) => {
        group.hidden = !GROUPS[i].methods.some(({ name }) => study.methods.includes(name));
      });
    },
  };
}

// ---- the table: a row a method, ranked, the teacher and the start among them ----

function rankedTable() {
  const notes = METHODS.map(() => html("span", { class: "opd-note" }));
  const numbers = table({
    caption: "",
    columns: ["", "mean", "least", "most", "cost"],
    rows: [
      ...METHODS.map(({ words, role, dashes }, i) => [stroke(role, dashes), words, notes[i]]),
      [stroke("teacher", "none"), "teacher"],
      [stroke("student", "1.5 4"), "start"],
    ],
  });
  numbers.element.classList.add("opd-wraps", "opd-tight");
  put(numbers.element, {
    "aria-label": "The methods switched on, ranked, with the teacher and the start",
  });
  const title = numbers.element.querySelector("caption");
  const cost = numbers.element.querySelector("thead th:last-child");
  const rows = [...numbers.element.querySelectorAll("tbody tr")];
  const names = [...METHODS.map(({ name }) => name), "teacher", "start"];
  rows.forEach((row, i) => (row.dataset.row = names[i]));
  rows.at(-2).dataset.on = "true";
  return {
    element: numbers.element,
    update(reading) {
      const { study, along, what, measure, readings } = reading;
      const found = new Map(readings.map((each) => [each.name, each]));
      METHODS.forEach(({ name }, i) => {
        const count = found.get(name)?.count;
        showText(notes[i], count && count < study.seeds ? ` ${count} of ${study.seeds} seeds` : "");
      });
      numbers.update([
        ...METHODS.map(({ name }) => methodRow(reading, found.get(name))),
        ...[study.teacher, study.start].map((known) => [cellOf(measure, known[what]), ...BLANKS]),
      ]);
      order(rows, ranking(reading));
      showText(cost, along === "seconds" ? "tokens so far" : "seconds so far");
      showText(title, captionOf(reading));
    },
  };
}

const BLANK = { value: "", text: "" };
const BLANKS = [BLANK, BLANK, BLANK];
const cellOf = (measure, x) =>
  Number.isFinite(x) ? { value: x, text: shown(measure, x) } : { value: "", text: "–" };

// Mean, least, most, and what it had cost by then in the other measure of effort.
function methodRow({ study, along, measure, x }, method) {
  if (!method?.count) {
    const why = method?.ended ? "ended" : method ? "broken" : "";
    return [{ value: "", text: why }, ...BLANKS];
  }
  const other = along === "seconds" ? "tokens" : "seconds";
  const spent = study.at(method.name, other, along, x).mean;
  return [
    ...[method.mean, method.least, method.greatest].map((y) => cellOf(measure, y)),
    { value: spent, text: number(spent, other === "seconds" ? 1 : 0) },
  ];
}

// Names from the best down, and last those without a value.
function ranking({ study, what, measure, ranked, readings }) {
  const levels = ["teacher", "start"]
    .map((name) => ({ name, mean: study[name][what] }))
    .filter(({ mean }) => Number.isFinite(mean));
  return [...ranked, ...levels]
    .sort((a, b) => measure.better * (b.mean - a.mean))
    .concat(readings.filter(({ count }) => !count))
    .map(({ name }) => name);
}

// Show the named rows in this order and hide the others.
function order(rows, names) {
  const ordered = names.map((name) => rows.find((row) => row.dataset.row === name));
  rows.forEach((row) => (row.hidden = !ordered.includes(row)));
  const body = rows[0].parentNode;
  ordered.push(...rows.filter((row) => row.hidden));
  if (ordered.some((row, i) => row !== body.children[i])) body.append(...ordered);
}

export default { render };
