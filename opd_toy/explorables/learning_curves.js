import {
  button,
  card,
  choice,
  draggable,
  html,
  number,
  put,
  sentence,
  slider,
  state,
  svg,
  table,
  toolbar,
  uniqueId,
} from "./interface.js";

// Where a method's texts come from: [name, in words, beside its curve, role, dashes] each.  The
// colour tells the loss, the dashes tell those of one colour apart; a longer dash looks further ahead.
const GROUPS = [
  [
    "Teacher’s texts",
    "off-policy",
    [
      ["sft", "SFT", "SFT", "forward-kl", "2 4"],
      ["seqkd", "SeqKD", "SeqKD", "forward-kl", "none"],
      ["off_policy_reverse_kl", "reverse KL off-policy", "rev. off", "reverse-kl", "2 4"],
    ],
  ],
  [
    "Own texts",
    "the full vocabulary",
    [
      ["on_policy_forward_kl", "forward KL on-policy", "fwd. on", "forward-kl", "9 4"],
      ["gkd", "GKD", "GKD", "reverse-kl", "none"],
      ["jsd", "JSD", "JSD", "jsd", "none"],
      ["top_k", "top k", "top k", "reverse-kl", "9 4"],
    ],
  ],
  [
    "Own texts",
    "the drawn token",
    [
      ["pg_0", "PG γ = 0", "PG 0", "policy-gradient", "2 4"],
      ["pg_0.5", "PG γ = 0.5", "PG .5", "policy-gradient", "5 4"],
      ["pg_0.9", "PG γ = 0.9", "PG .9", "policy-gradient", "9 4"],
      ["pg_1", "PG γ = 1", "PG 1", "policy-gradient", "15 4"],
      ["pg_baseline", "PG with baseline", "PG base", "policy-gradient", "8 3 2 3"],
    ],
  ],
  [
    "Own texts",
    "with a reward",
    [
      ["opd_reward", "OPD + reward", "OPD+R", "policy-gradient", "none"],
      ["rlvr", "reward alone", "RLVR", "policy-gradient", "16 3 2 3"],
    ],
  ],
];
const METHODS = GROUPS.flatMap(([, , methods]) => methods);

// `better`: 1 where more is better, -1 where less is; `digits` shown, of hundredths for shares.
const QUANTITIES = {
  accuracy: {
    label: "accuracy",
    axis: "Right answers on test prompts",
    better: 1,
    share: true,
    digits: 1,
    leads: "is right most often",
  },
  sequence_kl: {
    label: "sequence KL",
    axis: "KL(p‖q) of whole texts, nats",
    better: -1,
    digits: 2,
    unit: "nats",
    leads: "has the least sequence KL",
  },
  forward_sequence_kl: {
    label: "forward KL",
    axis: "KL(q‖p) of whole texts, nats",
    better: -1,
    digits: 2,
    unit: "nats",
    leads: "has the least forward sequence KL",
  },
  order_entropy: {
    label: "order entropy",
    axis: "Entropy of the order of right workings, nats",
    better: 1,
    digits: 2,
    unit: "nats",
    leads: "spreads its right workings most evenly over the orders",
  },
  distinct: {
    label: "workings",
    axis: "Distinct right workings in 16 draws",
    better: 1,
    digits: 2,
    unit: "workings",
    leads: "finds the most distinct right workings",
  },
  length: {
    label: "length",
    axis: "Length of a text, tokens",
    better: 1,
    digits: 1,
    unit: "tokens",
    leads: "writes the longest texts",
  },
};
const shown = (quantity, x) =>
  quantity.share ? `${number(100 * x, quantity.digits)} %` : number(x, quantity.digits);
const inWords = (quantity, x) =>
  quantity.share ? shown(quantity, x) : `${shown(quantity, x)} ${quantity.unit}`;
const rounded = ({ share, digits }, x) => Math.round((share ? 100 : 1) * x * 10 ** digits); // in units of the last digit shown
const listed = (words) =>
  words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;

const amount = (x) =>
  x >= 999500
    ? `${number(x / 1e6, 2)} million`
    : x >= 9999.5
      ? `${number(x / 1000, 0)} thousand`
      : number(x, 0);
const PLACES = {
  tokens: {
    label: "tokens",
    text: (x) => `${amount(x)} tokens`,
    brief: (x) =>
      x >= 999500
        ? `${number(x / 1e6, 2)}M tokens`
        : x >= 9999.5
          ? `${number(x / 1000, 0)}k tokens`
          : `${x} tokens`,
    tick: (x) => (x >= 1e6 ? `${x / 1e6}M` : x >= 1000 ? `${x / 1000}k` : String(x)),
    title: "tokens trained on",
  },
  steps: {
    label: "steps",
    text: (x) => `${number(x, 0)} steps`,
    brief: (x) => `${number(x, 0)} steps`,
    tick: String,
    title: "steps",
  },
  seconds: {
    label: "seconds",
    text: (x) => `${number(x, x < 99.95 ? 1 : 0)} seconds`,
    brief: (x) => `${number(x, x < 99.95 ? 1 : 0)} s`,
    tick: String,
    title: "seconds",
  },
};

// ---- the recording ----

// One record, its numbers unpacked: every run's columns, and what is read off them.
function unpacked({ methods, seeds, longest, columns, logarithmic, scales, codes, ends, ...rest }) {
  const integers = new Uint16Array(
    Uint8Array.from(atob(codes), (letter) => letter.charCodeAt(0)).buffer,
  );
  const all = columns.map((name, c) => {
    const [low, high] = scales[c];
    const one = (code) => (code ? low + ((code - 1) / 65534) * (high - low) : NaN);
    const decoded = logarithmic.includes(name) ? (code) => Math.exp(one(code)) : one;
    return methods.map((_, m) =>
      Array.from({ length: seeds }, (_, s) => {
        const first = ((c * methods.length + m) * seeds + s) * longest;
        return Array.from(integers.subarray(first, first + longest), decoded);
      }),
    );
  });
  const runs = (method, column) => all[columns.indexOf(column)][methods.indexOf(method)];
  const grain = Object.fromEntries(
    columns.map((name, c) => [name, (scales[c][1] - scales[c][0]) / 65534]),
  );
  const study = {
    ...rest,
    methods,
    seeds,
    logarithmic,
    end: (method, axis) => ends[axis][method],
    furthest: (axis) => Math.max(...methods.map((method) => ends[axis][method])),
    // Mean, least and greatest over the seeds where `axis` is at `x`, and how many have a value.
    at(method, column, axis, x) {
      if (x > ends[axis][method])
        return { ended: true, mean: NaN, least: NaN, greatest: NaN, count: 0 };
      const places = runs(method, axis);
      const values = runs(method, column)
        .map((run, s) => between(places[s], run, x, grain[axis]))
        .filter(Number.isFinite);
      const mean = values.reduce((total, each) => total + each, 0) / values.length;
      return {
        mean,
        least: Math.min(...values),
        greatest: Math.max(...values),
        count: values.length,
      };
    },
    // The same wherever a run was measured.
    curve(method, column, axis) {
      const xs = [
        ...new Set(
          runs(method, axis)
            .flat()
            .filter((x) => x <= ends[axis][method]),
        ),
        ends[axis][method],
      ].sort((a, b) => a - b);
      return xs
        .map((x) => ({ x, ...study.at(method, column, axis, x) }))
        .filter(({ count }) => count);
    },
  };
  return study;
}

// The value at x on the line between a run's measurements; NaN behind its end, of which `grain` is
// the rounding.
function between(xs, ys, x, grain) {
  let i = xs.length - 1;
  while (i > 0 && !(xs[i] <= x)) i -= 1; // places behind a run's end are NaN
  if (xs[i] === x) return ys[i];
  if (i === xs.length - 1 || Number.isNaN(xs[i + 1])) return x - xs[i] <= grain ? ys[i] : NaN;
  return ys[i] + ((x - xs[i]) / (xs[i + 1] - xs[i])) * (ys[i + 1] - ys[i]);
}

// ---- the widget ----

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
  const names = ["methods", "x", "quantity", "at", "record"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);

  const records = choice({
    label: "Study",
    name: "record",
    onchange: (x) => self.set({ record: x }),
    options: Object.keys(studies).map((name) => ({ value: name, label: name })),
  });
  const axis = choice({
    label: "At equal",
    name: "x",
    onchange: (x) => self.set({ x }),
    options: Object.entries(PLACES).map(([value, { label }]) => ({ value, label })),
  });
  const quantity = choice({
    label: "Measure",
    name: "quantity",
    onchange: (x) => self.set({ quantity: x }),
    options: Object.entries(QUANTITIES).map(([value, { label }]) => ({ value, label })),
  });
  const scrub = slider({
    label: "Read the curves at",
    min: 0,
    max: 100,
    step: 1,
    name: "at",
    text: (x) => `${x} %`,
    oninput: (x) => self.set({ at: x }),
  });
  scrub.element.classList.add("opd-long-output");
  scrub.element.querySelector(".opd-label").textContent = "Read";
  const switches = METHODS.map(([name, words, , role, dashes]) => {
    const input = html("input", {
      type: "checkbox",
      value: name,
      onchange: () =>
        self.set({
          methods: METHODS.map(([each]) => each).filter((each) =>
            each === name ? input.checked : self.get("methods").includes(each),
          ),
        }),
    });
    return { name, input, element: html("label", {}, input, swatch(role, dashes), words) };
  });
  const groups = GROUPS.map(([title, more, methods]) =>
    html(
      "fieldset",
      { class: "opd-checks" },
      html("legend", {}, title, html("small", {}, ` ${more}`)),
      methods.map(([name]) => switches.find((each) => each.name === name).element),
    ),
  );

  const chart = curveChart((at) => self.set({ at }));
  const title = html("p", { class: "opd-caption" });
  const notes = METHODS.map(() => html("span", { class: "opd-note" }));
  const numbers = table({
    caption: "",
    columns: ["", "mean", "least", "most", "cost"],
    rows: [
      ...METHODS.map(([, words, , role, dashes], i) => [swatch(role, dashes), words, notes[i]]),
      [swatch("teacher", "none"), "teacher"],
      [swatch("student", "1.5 4"), "start"],
    ],
  });
  numbers.element.classList.add("opd-wraps", "opd-tight");
  put(numbers.element, {
    "aria-label": "The methods switched on, ranked, with the teacher and the start",
  });
  const caption = numbers.element.querySelector("caption");
  const cost = numbers.element.querySelector("thead th:last-child");
  const rows = [...numbers.element.querySelectorAll("tbody tr")];
  [...METHODS.map(([name]) => name), "teacher", "start"].forEach(
    (name, i) => (rows[i].dataset.row = name),
  );
  rows.at(-2).dataset.on = "true";
  for (const each of [records, axis, quantity]) each.element.classList.add("opd-inline");
  const says = sentence();

  card(
    el,
    "Learning curves",
    toolbar(
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(initial)),
    ),
    Object.keys(studies).length > 1 ? records.element : null,
    axis.element,
    quantity.element,
    html(
      "div",
      { class: "opd-columns" },
      html("div", {}, title, chart.element, scrub.element),
      html("div", { class: "opd-switches" }, groups),
    ),
    says,
    numbers.element,
  );

  function update() {
    const record = Object.hasOwn(studies, self.get("record"))
      ? self.get("record")
      : Object.keys(studies)[0];
    const study = studies[record];
    const [along, what, at] = [self.get("x"), self.get("quantity"), self.get("at")];
    const furthest = study.furthest(along);
    const x = along === "seconds" ? (at / 100) * furthest : Math.floor((at / 100) * furthest + 0.5);
    const chosen = self.get("methods").filter((name) => study.methods.includes(name));
    const measure = QUANTITIES[what];
    const place = PLACES[along].text(x);

    records.update(record);
    axis.update(along);
    quantity.update(what);
    scrub.update(at);
    put(scrub.input, { "aria-valuetext": `${at} % of the axis, ${place}` });
    scrub.element.querySelector("output").textContent = `at ${PLACES[along].brief(x)}`;
    for (const { name, input, element } of switches) {
      input.checked = chosen.includes(name);
      element.hidden = !study.methods.includes(name);
    }
    groups.forEach(
      (group, i) => (group.hidden = !GROUPS[i][2].some(([name]) => study.methods.includes(name))),
    );
    const readings = chosen.map((name) => ({
      name,
      words: METHODS.find(([each]) => each === name)[1],
      ...study.at(name, what, along, x),
    }));
    const ranked = readings
      .filter(({ count }) => count)
      .sort((a, b) => measure.better * (b.mean - a.mean));
    title.textContent = measure.axis;
    chart.update(study, record, chosen, along, what, x, readings);
    tabulate(study, readings, ranked, along, what, x, place);
    says.textContent = describe(study, readings, ranked, along, what, x, place);
  }

  function tabulate(study, readings, ranked, along, what, x, place) {
    const measure = QUANTITIES[what];
    const other = along === "seconds" ? "tokens" : "seconds";
    const blank = { value: "", text: "" };
    const cell = (value) =>
      Number.isFinite(value) ? { value, text: shown(measure, value) } : { value: "", text: "–" };
    const found = new Map(readings.map((each) => [each.name, each]));
    numbers.update([
      ...METHODS.map(([name], i) => {
        const each = found.get(name);
        notes[i].textContent =
          each?.count && each.count < study.seeds ? ` ${each.count} of ${study.seeds} seeds` : "";
        if (!each?.count)
          return [
            { value: "", text: each?.ended ? "ended" : each ? "broken" : "" },
            blank,
            blank,
            blank,
          ];
        const spent = study.at(name, other, along, x).mean;
        return [
          cell(each.mean),
          cell(each.least),
          cell(each.greatest),
          { value: spent, text: other === "seconds" ? number(spent, 1) : number(spent, 0) },
        ];
      }),
      ...[study.teacher, study.start].map((levels) => [cell(levels[what]), blank, blank, blank]),
    ]);
    // the teacher and the start stand where they rank
    const levels = [
      ["teacher", study.teacher[what]],
      ["start", study.start[what]],
    ]
      .filter(([, mean]) => Number.isFinite(mean))
      .map(([name, mean]) => ({ name, mean }));
    const order = [...ranked, ...levels]
      .sort((a, b) => measure.better * (b.mean - a.mean))
      .concat(readings.filter(({ count }) => !count))
      .map(({ name }) => name);
    const ordered = order.map((name) => rows.find((row) => row.dataset.row === name));
    rows.forEach((row) => (row.hidden = !ordered.includes(row)));
    const body = rows[0].parentNode;
    ordered.push(...rows.filter((row) => row.hidden));
    if (ordered.some((row, i) => row !== body.children[i])) body.append(...ordered);
    cost.textContent = other === "seconds" ? "seconds so far" : "tokens so far";
    caption.textContent = `${measure.axis}, ${x ? `after ${place}` : "before any training"}: mean, least and greatest of ${study.seeds} seeds. ${study.words}, ${study.prompts} test prompts, the same for all.${measure.share && Number.isFinite(study.teacher[what]) ? ` The standard error of the teacher’s share is ${number(100 * Math.sqrt((study.teacher[what] * (1 - study.teacher[what])) / study.prompts), 1)} points.` : ""}`;
  }

  function describe(study, readings, ranked, along, what, x, place) {
    const measure = QUANTITIES[what];
    const [teacher, start] = [study.teacher[what], study.start[what]];
    const where = x ? `After ${place}` : "Before any training";
    const bounds = [
      ["teacher", teacher],
      ["start", start],
    ]
      .filter(([, y]) => Number.isFinite(y))
      .map(([who, y]) => ` The ${who} is at ${inWords(measure, y)}.`)
      .join("");
    const ended = readings.filter((each) => each.ended).map(({ words }) => words);
    const broken = readings.filter((each) => !each.count && !each.ended).map(({ words }) => words);
    const absent = [
      ended.length && `Ended before: ${listed(ended)}.`,
      broken.length && `Without a value here: ${listed(broken)}.`,
    ]
      .filter(Boolean)
      .map((each) => ` ${each}`)
      .join("");
    if (!readings.length)
      return `No method is switched on: switch some on to compare their curves.${bounds}`;
    if (!ranked.length) return `${where} there is nothing to compare.${absent}${bounds}`;
    const [first] = ranked;
    if (ranked.length === 1) {
      return `${where} ${first.words} is at ${inWords(measure, first.mean)}, its seeds from ${shown(measure, first.least)} to ${shown(measure, first.greatest)}.${absent}${past(study, ranked, what)}`;
    }
    const level = ranked.filter(
      ({ mean }) => rounded(measure, mean) === rounded(measure, first.mean),
    );
    const next = ranked[level.length];
    const lead =
      level.length > 1
        ? `${listed(level.map(({ words }) => words))} are level at ${inWords(measure, first.mean)}`
        : `${first.words} ${measure.leads}: ${inWords(measure, first.mean)}`;
    const gap =
      next &&
      Math.abs(rounded(measure, first.mean) - rounded(measure, next.mean)) / 10 ** measure.digits;
    const ahead = next
      ? `, ${number(gap, measure.digits)} ${measure.share ? "points" : measure.unit} ${measure.better > 0 ? "more" : "less"} than ${next.words}`
      : "";
    const rest = ranked.slice(level.length);
    const near = rest
      .filter((each) => each.least <= first.greatest && first.least <= each.greatest)
      .map(({ words }) => words);
    const bands = !rest.length
      ? ""
      : near.length
        ? ` The seed band of ${first.words} overlaps ${near.length === rest.length && near.length > 2 ? "all others" : near.length > 1 ? `those of ${listed(near)}` : `that of ${near[0]}`}.`
        : ` The seed band of ${first.words} overlaps no other.`;
    return `${where} ${lead}${ahead}.${bands}${absent}${past(study, ranked, what)}`;
  }

  // Whether any passes the teacher; for what has no teacher's level, where the start was.
  function past(study, ranked, what) {
    const measure = QUANTITIES[what];
    const [teacher, start] = [study.teacher[what], study.start[what]];
    if (measure.better < 0 || !Number.isFinite(teacher))
      return Number.isFinite(start) ? ` The start was at ${inWords(measure, start)}.` : "";
    const above = ranked.filter(({ mean }) => rounded(measure, mean) > rounded(measure, teacher));
    if (!above.length) return ` None is above the teacher’s ${inWords(measure, teacher)}.`;
    return ` Above the teacher’s ${inWords(measure, teacher)}: ${listed(above.map(({ words, least }) => `${words} (${least > teacher ? "every seed" : "the mean"})`))}.`;
  }

  update();
  return () => self.stop();
}

// A piece of a curve.
const swatch = (role, dashes) =>
  svg(
    "svg",
    {
      class: "opd-stroke",
      viewBox: "0 0 30 8",
      "aria-hidden": "true",
      style: `--role: var(--opd-${role})`,
    },
    svg("path", { class: "opd-line", d: "M0 4H30", "stroke-dasharray": dashes }),
  );

// ---- the picture ----

const BOX = { left: 44, right: 302, top: 12, bottom: 226 };
const scale = (low, high, from, to) => (x) => from + ((x - low) / (high - low)) * (to - from);

// Round numbers between two bounds, `count` of them or fewer.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * (1 - 1e-9));
  const first = Math.ceil(low / size - 1e-9);
  return Array.from({ length: Math.floor(high / size + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * size).toPrecision(12)),
  );
}
// 1, 2 and 5 times the powers of ten; the powers alone where those are many, more where they are few.
function logarithmicTicks(low, high) {
  if (high / low < 8) return ticks(low, high, 6);
  const powers = Array.from(
    { length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 1 },
    (_, i) => Math.floor(Math.log10(low)) + i,
  );
  const within = (all) =>
    all.map((x) => Number(x.toPrecision(3))).filter((x) => x >= low && x <= high);
  const fine = within(powers.flatMap((power) => [1, 2, 5].map((x) => x * 10 ** power)));
  return fine.length <= 8 ? fine : within(powers.map((power) => 10 ** power));
}

function curveChart(moved) {
  const clip = uniqueId("clip");
  const stroke = ([, , , role]) => `--role: var(--opd-${role})`;
  const bands = METHODS.map((method) =>
    svg("path", { class: "opd-band", style: stroke(method), "data-band": method[0] }),
  );
  const lines = METHODS.map((method) =>
    svg("path", {
      class: "opd-line",
      style: stroke(method),
      "stroke-dasharray": method[4],
      "data-line": method[0],
    }),
  );
  const dots = METHODS.map((method) =>
    svg("circle", { r: 4, class: "opd-point", style: stroke(method) }),
  );
  const labels = METHODS.map((method) =>
    svg("text", { class: "opd-point-label", style: stroke(method) }, method[2]),
  );
  const grid = svg("g");
  const levels = [
    ["teacher", "none"],
    ["student", "1.5 4"],
  ].map(([role, dashes], i) => ({
    line: svg("path", {
      class: "opd-line",
      style: `--role: var(--opd-${role}); stroke-width: 1.6`,
      "stroke-dasharray": dashes,
    }),
    label: svg(
      "text",
      { class: "opd-point-label", style: `--role: var(--opd-${role})` },
      i ? "start" : "teacher",
    ),
  }));
  const rule = svg("path", { class: "opd-axis", "stroke-dasharray": "2 3" });
  const knob = svg("circle", {
    r: 7,
    cy: BOX.bottom,
    class: "opd-point",
    style: "--role: var(--opd-ink)",
  });
  const reach = svg("circle", { r: 22, cy: BOX.bottom, class: "opd-reach", "data-handle": "at" });
  const axis = svg("text", {
    x: (BOX.left + BOX.right) / 2,
    y: BOX.bottom + 36,
    "text-anchor": "middle",
  });
  const element = svg(
    "svg",
    {
      viewBox: "0 0 360 268",
      role: "img",
      "aria-label": "Learning curves with seed bands; the numbers are in the table",
    },
    svg(
      "clipPath",
      { id: clip },
      svg("rect", {
        x: BOX.left,
        y: BOX.top - 4,
        width: BOX.right - BOX.left + 2,
        height: BOX.bottom - BOX.top + 8,
      }),
    ),
    grid,
    svg("g", { "clip-path": `url(#${clip})` }, bands),
    levels.map(({ line }) => line),
    rule,
    svg("g", { "clip-path": `url(#${clip})` }, lines),
    dots,
    levels.map(({ label }) => label),
    labels,
    knob,
    reach,
    axis,
  );
  draggable(reach, element, (x) =>
    moved(Math.min(Math.max(Math.round(((x - BOX.left) / (BOX.right - BOX.left)) * 100), 0), 100)),
  );
  let drawn = null;
  let [across, down] = [null, null];
  return {
    element,
    update(study, record, chosen, along, what, x, readings) {
      const key = [record, along, what, ...chosen].join(" ");
      if (drawn !== key) draw(study, chosen, along, what);
      drawn = key;
      put(rule, { d: `M${across(x)} ${BOX.top}V${BOX.bottom}` });
      for (const mark of [knob, reach]) put(mark, { cx: across(x) });
      const found = new Map(readings.map((each) => [each.name, each]));
      METHODS.forEach(([name], i) => {
        const mean = found.get(name)?.mean;
        dots[i].style.display = Number.isFinite(mean) ? "" : "none";
        if (Number.isFinite(mean)) put(dots[i], { cx: across(x), cy: down(mean) });
      });
    },
  };

  // Everything but where the curves are read.
  function draw(study, chosen, along, what) {
    const curves = new Map(chosen.map((name) => [name, study.curve(name, what, along)]));
    const logarithmic = study.logarithmic.includes(what);
    const level = [study.teacher[what], study.start[what]].map((y) =>
      Number.isFinite(y) && (y > 0 || !logarithmic) ? y : null,
    );
    const values = [
      ...level.filter((y) => y !== null),
      ...[...curves.values()].flat().flatMap(({ least, greatest }) => [least, greatest]),
    ];
    const [low, high] = limits(values, logarithmic, QUANTITIES[what].share);
    across = scale(0, study.furthest(along), BOX.left, BOX.right);
    down = logarithmic
      ? (y) => scale(Math.log(low), Math.log(high), BOX.bottom, BOX.top)(Math.log(y))
      : scale(low, high, BOX.bottom, BOX.top);
    drawGrid(study, along, what, logarithmic ? logarithmicTicks(low, high) : ticks(low, high, 6));
    const ends = [];
    levels.forEach(({ line, label }, i) => {
      const y = level[i];
      put(line, { d: y === null ? "" : `M${BOX.left} ${down(y)}H${BOX.right}` });
      label.style.display = y === null ? "none" : "";
      if (y !== null) ends.push({ label, x: BOX.right + 5, y: down(y) });
    });
    METHODS.forEach(([name], i) => {
      const points = curves.get(name) ?? [];
      const place = (x, y) => `${across(x).toFixed(1)} ${down(y).toFixed(1)}`;
      put(lines[i], {
        d: points.map(({ x, mean }, n) => `${n ? "L" : "M"}${place(x, mean)}`).join(""),
      });
      put(bands[i], {
        d:
          points.length < 2
            ? ""
            : `M${points.map(({ x, greatest }) => place(x, greatest)).join("L")}L${points
                .toReversed()
                .map(({ x, least }) => place(x, least))
                .join("L")}Z`,
      });
      labels[i].style.display = points.length ? "" : "none";
      if (points.length)
        ends.push({
          label: labels[i],
          x: across(points.at(-1).x) + 5,
          y: down(points.at(-1).mean),
        });
    });
    apart(ends);
  }

  function drawGrid(study, along, what, heights) {
    const measure = QUANTITIES[what];
    const text = (y) => (measure.share ? `${Number((100 * y).toPrecision(6))} %` : String(y));
    const last = study.furthest(along);
    grid.replaceChildren(
      ...heights.flatMap((y) => [
        svg("path", { class: "opd-grid-line", d: `M${BOX.left} ${down(y)}H${BOX.right}` }),
        svg("text", { x: BOX.left - 5, y: down(y) + 4, "text-anchor": "end" }, text(y)),
      ]),
      ...ticks(0, last, 4).map((x) =>
        svg(
          "text",
          { x: across(x), y: BOX.bottom + 20, "text-anchor": "middle" },
          PLACES[along].tick(x),
        ),
      ),
    );
    axis.textContent = along === "seconds" ? study.clock : PLACES[along].title;
  }
}

// Bounds of the axis: the values and a little room.
function limits(values, logarithmic, share) {
  const [low, high] = values.length
    ? [Math.min(...values), Math.max(...values)]
    : [logarithmic ? 0.1 : 0, 1];
  if (logarithmic) return [low / 1.15, high * 1.15];
  const room = (high - low) * 0.05 || 0.05 * Math.abs(high) || 1;
  return share ? [Math.max(low - room, 0), Math.min(high + room, 1)] : [low - room, high + room];
}

// Stand the labels beside the ends of their curves, 14 apart where they would meet.
function apart(ends) {
  ends.sort((a, b) => a.y - b.y);
  const meets = (a, b) => Math.abs(a.x - b.x) < 56;
  for (const each of ends) each.y = Math.max(each.y, BOX.top);
  ends.forEach((each, n) =>
    ends
      .slice(0, n)
      .forEach((other) => meets(each, other) && (each.y = Math.max(each.y, other.y + 14))),
  );
  ends.toReversed().forEach((each, n, all) => {
    each.y = Math.min(each.y, BOX.bottom);
    all
      .slice(0, n)
      .forEach((other) => meets(each, other) && (each.y = Math.min(each.y, other.y - 14)));
  });
  for (const { label, x, y } of ends) put(label, { x, y: y + 4 });
}

export default { render };
