import { expectation, policyGradient, setProbability, totalVariance } from "./mathematics.js";
import {
  animation,
  bars,
  button,
  card,
  chartKey,
  choice,
  html,
  number,
  put,
  reducedMotion,
  sentence,
  signed,
  slider,
  state,
  svg,
  table,
  tokenName,
  toolbar,
  uniforms,
  uniqueId,
} from "./interface.js";

const NOTES = { student: [0.2, 0.3, 0.5], teacher: [0.7, 0.2, 0.1] };
const PRESETS = [
  ["The notes' example", NOTES],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: [0.7, 0.2, 0.1] }],
  ["A rare token", { student: [0.02, 0.48, 0.5], teacher: [0.7, 0.2, 0.1] }],
];
const TOKENS = [0, 1, 2].map(tokenName);
const LOGITS = TOKENS.map((name) => name.replace("t", "z"));
const MOST = 4096;
const NOTHING = 1e-12; // a spread that is rounding only
const WALKS = 100; // the first is the reader's, the others are faint
// The numbers of draws at which walks are recorded: every one at first, then evenly on a log axis.
const STOPS = [0];
while (STOPS[STOPS.length - 1] < MOST) {
  const last = STOPS[STOPS.length - 1];
  STOPS.push(Math.min(MOST, Math.max(last + 1, Math.round(last * 1.06))));
}
// The settings of the slider of draws: 0, 1, 2, 3, 4, 6, 8, 12, … 4096.
const SETTINGS = [
  0,
  1,
  2,
  3,
  ...Array.from({ length: 11 }, (_, i) => [2 ** i * 4, 2 ** i * 6])
    .flat()
    .slice(0, -1),
];

// Draw i of walk w is decided by one number of the seed's stream, whatever the student:
// so a walk bends, not jumps, when the student changes.  Extends every walk to `end` draws.
function extend(numbers, seed, from, end) {
  for (let w = 0; w < WALKS; w++) {
    const next = uniforms(seed, w * MOST + from);
    for (let i = from; i < end; i++) numbers[w * MOST + i] = next();
  }
}

// Count on from counts[from], counts[from + 1] over draws i to end of a walk and write to
// counts[to], counts[to + 1]: how often the first token, and the first or the second.
function tally(numbers, counts, from, to, i, end, p) {
  const [first, second] = [p[0], p[0] + p[1]];
  let [a, b] = [counts[from], counts[from + 1]];
  for (; i < end; i++) {
    a += numbers[i] < first;
    b += numbers[i] < second;
  }
  counts[to] = a;
  counts[to + 1] = b;
}

// The counts of every walk w at STOPS[s], at placeOf(w, s), as far as STOPS[end].
const placeOf = (w, s) => 2 * (w * STOPS.length + s);
function record(numbers, p, end) {
  const counts = new Int32Array(2 * WALKS * STOPS.length + 2); // and two to work with
  for (let w = 0; w < WALKS; w++)
    for (let s = 1; s <= end; s++)
      tally(
        numbers,
        counts,
        placeOf(w, s - 1),
        placeOf(w, s),
        w * MOST + STOPS[s - 1],
        w * MOST + STOPS[s],
        p,
      );
  return counts;
}

// The mean gradient on logit j of n draws, from the counts at `place`.
const meanAt = (rows, j, counts, place, n) =>
  (counts[place] * rows[0][j] +
    (counts[place + 1] - counts[place]) * rows[1][j] +
    (n - counts[place + 1]) * rows[2][j]) /
  n;
const norm = (x) => Math.hypot(...x);

function render({ model, el }) {
  const names = ["student", "teacher", "draws", "seed", "component"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  const count = () => Math.round(self.get("draws"));
  const draw = (n) => self.set({ draws: Math.min(MOST, count() + n) });

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
  const scrub = slider({
    label: "Draws N",
    min: 0,
    max: SETTINGS.length - 1,
    step: 1,
    name: "draws",
    role: "policy-gradient",
    text: () => String(count()),
    oninput: (place) => self.set({ draws: SETTINGS[place] }),
  });
  const component = choice({
    label: "Gradient on",
    name: "component",
    options: LOGITS.map((name, index) => ({ value: index + 1, label: name })),
    onchange: (index) => self.set({ component: Number(index) }),
  });
  // While it plays the model changes, but neither the address nor the sentence.
  const play = animation(
    () => {
      model.set("draws", Math.min(MOST, count() + Math.max(1, Math.floor(count() * 0.05))));
      return count() < MOST;
    },
    24,
    () => {
      playing.textContent = "Play";
      self.set({ draws: count() });
    },
  );
  const playing = button("Play", () => {
    if (play.running()) return play.stop();
    if (reducedMotion()) return self.set({ draws: MOST });
    if (count() >= MOST) model.set("draws", 0);
    playing.textContent = "Pause";
    play.start();
  });
  const walks = walkChart();
  const errors = errorChart();
  const numbers = table({
    caption:
      "the gradient on each logit, the mean of N draws, how far it is off, and its exact standard error; the last row has the columns' norms",
    columns: ["logit", "exact", "mean", "off by", "σ/√N"],
    roles: [null, "reverse-kl", "policy-gradient", null, null],
    rows: [...LOGITS, "norm"],
  });
  const says = sentence();

  card(
    el,
    "Sample and average",
    toolbar(
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(initial)),
    ),
    toolbar(
      playing,
      button("Draw 1", () => draw(1)),
      button("10", () => draw(10), { "aria-label": "Draw 10" }),
      button("100", () => draw(100), { "aria-label": "Draw 100" }),
      button("all", () => draw(MOST), { "aria-label": `Draw up to ${MOST}` }),
      button("Start over", () => self.set({ draws: 0 })),
      button("Other draws", () => self.set({ seed: (Math.round(self.get("seed")) + 1) % 10000 })),
    ),
    scrub.element,
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        component.element,
        walks.element,
        chartKey([
          ["line", "policy-gradient", "mean of N draws"],
          ["faint", "policy-gradient", "99 other walks"],
          ["dashed", "reverse-kl", "exact gradient"],
          ["band", "policy-gradient", "exact ± 2σ/√N"],
        ]),
      ),
      html(
        "div",
        {},
        html("p", { class: "opd-caption" }, "Error over all three logits"),
        errors.element,
        chartKey([
          ["line", "policy-gradient", "mean of N draws"],
          ["dots", "policy-gradient", "root mean square of 100 walks"],
          ["dashed", "reverse-kl", "exact: σ/√N"],
        ]),
      ),
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

  const decided = new Float64Array(WALKS * MOST);
  let [seeded, reached, stored, counts, means] = [null, 0, null, null, null];

  function update() {
    const [p, q, seed] = [self.get("student"), self.get("teacher"), Math.round(self.get("seed"))];
    const [n, j] = [count(), Math.round(self.get("component")) - 1];
    const rows = policyGradient(p, q);
    const exact = expectation(p, rows);
    const deviations = exact.map((_, i) =>
      Math.sqrt(
        totalVariance(
          p,
          rows.map((row) => [row[i]]),
        ),
      ),
    );
    const spread = Math.sqrt(totalVariance(p, rows));
    // walks are drawn to the next power of two and uncovered as far as n
    const end = STOPS.findIndex((stop) => stop >= 2 ** Math.ceil(Math.log2(Math.max(n, 1))));
    if (seed !== seeded) [seeded, reached] = [seed, 0];
    if (STOPS[end] > reached) {
      extend(decided, seed, reached, STOPS[end]);
      reached = STOPS[end];
    }
    const key = JSON.stringify([p, q, seed, j, end]);
    if (key !== stored) {
      counts = record(decided, p, end);
      means = meansOf(counts, rows, end);
      walks.redraw(means, j, rows, exact[j], deviations[j], end);
      errors.redraw(means, exact, spread, end);
      stored = key;
    }

    const now = n > 0 ? latest(n, p, rows) : [];
    inputs[0].update(p);
    inputs[1].update(q);
    scrub.update(SETTINGS.findLastIndex((setting) => setting <= n));
    scrub.element.querySelector("output").dataset.value = String(n);
    component.update(j + 1);
    walks.update(n, now.length ? now[0][j] : NaN);
    errors.update(n, now.length ? norm(now[0].map((x, i) => x - exact[i])) : NaN);
    const mine = now[0] ?? [NaN, NaN, NaN];
    const off = mine.map((x, i) => x - exact[i]);
    const cell = (x, format) => ({ value: x, text: Number.isFinite(x) ? format(x, 3) : "–" });
    const columns = [exact, mine, off].map((column) => [
      ...column.map((x) => cell(x, signed)),
      cell(norm(column), number),
    ]);
    columns.push([...deviations, spread].map((x) => cell(x / Math.sqrt(n), number)));
    numbers.update([...LOGITS, "norm"].map((_, i) => columns.map((column) => column[i])));
    if (!play.running())
      says.textContent = words(
        n,
        j,
        exact[j],
        deviations[j],
        now.map((mean) => mean[j]),
        Math.min(...p),
      );
  }

  // Every walk's mean after exactly n draws.
  function latest(n, p, rows) {
    const s = STOPS.findLastIndex((stop) => stop <= n);
    return Array.from({ length: WALKS }, (_, w) => {
      const spare = counts.length - 2;
      tally(decided, counts, placeOf(w, s), spare, w * MOST + STOPS[s], w * MOST + n, p);
      return LOGITS.map((_, j) => meanAt(rows, j, counts, spare, n));
    });
  }

  function words(n, j, exact, deviation, means, rarest) {
    const logit = LOGITS[j];
    if (deviation < NOTHING)
      return `Every draw gives ${number(exact)} on ${logit}: student and teacher agree, there is nothing to average.`;
    if (n === 0)
      return `Nothing drawn yet. The exact gradient on ${logit} is ${signed(exact, 3)}; a single draw strays from it by σ = ${number(deviation, 3)}.`;
    const error = deviation / Math.sqrt(n);
    const inside = means.filter((mean) => Math.abs(mean - exact) <= 2 * error * (1 + 1e-12)).length;
    const needed = Math.ceil(((2 * deviation) / exact) ** 2);
    const sign =
      needed > 1e6
        ? "The exact gradient is so near 0 that no number of draws here settles its sign."
        : n < needed
          ? `The band still holds 0: even the sign is in doubt until N = ${needed}.`
          : `From N = ${needed} on the band does not hold 0: the sign is hardly in doubt.`;
    return `After ${n} draw${n === 1 ? "" : "s"} the mean on ${logit} is ${signed(means[0], 3)}, the exact gradient ${signed(exact, 3)}: off by ${number(Math.abs(means[0] - exact), 3)}, with a standard error σ/√N of ${number(error, 3)}. ${inside} of ${WALKS} walks are inside the band of two standard errors${n * rarest >= 5 ? "; about 95 are to be expected" : ""}. ${sign}`;
  }

  update();
  return () => {
    play.stop();
    self.stop();
  };
}

// means[j][w][s]: the mean gradient on logit j of walk w at STOPS[s].
const meansOf = (counts, rows, end) =>
  LOGITS.map((_, j) =>
    Array.from({ length: WALKS }, (__, w) => {
      const means = new Float64Array(STOPS.length);
      for (let s = 1; s <= end; s++) means[s] = meanAt(rows, j, counts, placeOf(w, s), STOPS[s]);
      return means;
    }),
  );

// ---- two charts over the number of draws, on a log axis ----

const [LEFT, RIGHT, TOP, BOTTOM] = [46, 346, 10, 190];
const across = (n) => LEFT + (Math.log2(n) / Math.log2(MOST)) * (RIGHT - LEFT);
const PLACES = STOPS.map((n) => (n ? across(n).toFixed(1) : ""));
const EVERY = STOPS.map((_, s) => s).slice(1);
const SOME = EVERY.filter((s) => s <= 12 || (STOPS.length - 1 - s) % 4 === 0); // enough for the faint walks
// A line over the given stops, `down` giving each one's height in the picture.
const lineOver = (down, stops) => {
  let path = "M";
  for (const s of stops) path += `${PLACES[s]} ${Math.round(down(s) * 10) / 10} `;
  return path;
};

function frameOver(label, title, ...layers) {
  const clip = uniqueId("clip");
  const window_ = svg("rect", { x: LEFT - 6, y: TOP - 6, width: 0, height: BOTTOM - TOP + 12 });
  const ticks = Array.from({ length: 6 }, () => ({
    line: svg("path", { class: "opd-grid-line" }),
    text: svg("text", { x: LEFT - 6, "text-anchor": "end" }),
  }));
  const dot = svg("circle", {
    r: 5,
    class: "opd-point",
    style: "--role: var(--opd-policy-gradient)",
  });
  const element = svg(
    "svg",
    { viewBox: "0 0 360 236", role: "img", "aria-label": label },
    svg("clipPath", { id: clip }, window_),
    ticks.map(({ line, text }) => [line, text]),
    [1, 4, 16, 64, 256, 1024, 4096].map((n) => [
      svg("path", { class: "opd-grid-line", d: `M${across(n)} ${TOP}V${BOTTOM + 5}` }),
      svg("text", { x: across(n), y: BOTTOM + 20, "text-anchor": "middle" }, String(n)),
    ]),
    svg("text", { x: (LEFT + RIGHT) / 2, y: BOTTOM + 40, "text-anchor": "middle" }, title),
    layers.map(({ node, drawn }) =>
      drawn ? svg("g", { "clip-path": `url(#${clip})` }, node) : node,
    ),
    dot,
  );
  return {
    element,
    // [height in the picture, words] each
    tick(marks) {
      ticks.forEach(({ line, text }, i) => {
        put(line, { d: marks[i] ? `M${LEFT} ${marks[i][0]}H${RIGHT}` : "" });
        put(text, { y: marks[i] ? marks[i][0] + 4 : 0 });
        text.textContent = marks[i] ? marks[i][1] : "";
      });
    },
    // Uncover what has been drawn, and set the dot at its end.
    reach(n, height) {
      put(window_, { width: n ? across(n) - LEFT + 6 : 0 });
      put(
        dot,
        n && Number.isFinite(height)
          ? { cx: across(n), cy: height, visibility: "visible" }
          : { visibility: "hidden" },
      );
    },
  };
}

const drawnLine = (role, kind) => svg("path", { class: kind, style: `--role: var(--opd-${role})` });

function walkChart() {
  const band = drawnLine("policy-gradient", "opd-band");
  const exactLine = drawnLine("reverse-kl", "opd-line opd-dashed");
  const faint = drawnLine("policy-gradient", "opd-line opd-faint");
  const halo = svg("path", { class: "opd-halo" });
  const walk = drawnLine("policy-gradient", "opd-line");
  const zero = svg("path", { class: "opd-axis" });
  const frame = frameOver(
    "The mean gradient against the number of draws; the same numbers are in the table",
    "draws N, log axis",
    { node: band },
    { node: zero },
    { node: faint, drawn: true },
    { node: exactLine },
    { node: halo, drawn: true },
    { node: walk, drawn: true },
  );
  let down = () => 0;
  return {
    element: frame.element,
    redraw(means, j, rows, exact, deviation, end) {
      const [fine, coarse] = [EVERY, SOME].map((stops) => stops.filter((s) => s <= end));
      const reach = [
        ...rows.map((row) => row[j]),
        exact + 2.1 * deviation,
        exact - 2.1 * deviation,
      ];
      const [low, high] =
        deviation > NOTHING ? [Math.min(...reach), Math.max(...reach)] : [exact - 1, exact + 1];
      down = (x) => BOTTOM - ((x - low) / (high - low)) * (BOTTOM - TOP);
      const edge = (side) => (s) => down(exact + (side * 2 * deviation) / Math.sqrt(STOPS[s]));
      put(band, {
        d: `${lineOver(edge(1), EVERY)}L${lineOver(edge(-1), [...EVERY].reverse()).slice(1)}Z`,
      });
      put(exactLine, { d: `M${LEFT} ${down(exact)}H${RIGHT}` });
      put(zero, { d: low < 0 && high > 0 ? `M${LEFT} ${down(0)}H${RIGHT}` : "" });
      const mine = lineOver((s) => down(means[j][0][s]), fine);
      [halo, walk].forEach((line) => put(line, { d: mine }));
      put(faint, {
        d: means[j]
          .slice(1)
          .map((mean) => lineOver((s) => down(mean[s]), coarse))
          .join(""),
      });
      const step =
        [1, 2, 5]
          .flatMap((x) => [-4, -3, -2, -1, 0].map((e) => x * 10 ** e))
          .sort((a, b) => a - b)
          .find((x) => (high - low) / x <= 5) ?? 10;
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      const first = Math.ceil(low / step - 1e-9);
      frame.tick(
        Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => [
          down((first + i) * step),
          number((first + i) * step, digits),
        ]),
      );
    },
    update: (n, mean) => frame.reach(n, down(mean)),
  };
}

function errorChart() {
  const law = drawnLine("reverse-kl", "opd-line opd-dashed");
  const typical = drawnLine("policy-gradient", "opd-line opd-dots");
  const walk = drawnLine("policy-gradient", "opd-line");
  const frame = frameOver(
    "Distance of the mean from the exact gradient against the number of draws, both on log axes",
    "draws N, both axes log",
    { node: walk, drawn: true },
    { node: law },
    { node: typical, drawn: true },
  );
  let down = () => NaN;
  return {
    element: frame.element,
    redraw(means, exact, spread, end) {
      const [fine, coarse] = [EVERY, SOME].map((stops) => stops.filter((s) => s <= end));
      if (spread < NOTHING) {
        down = () => NaN;
        for (const line of [law, typical, walk]) put(line, { d: "" });
        return frame.tick([]);
      }
      const [low, high] = [Math.log(spread / 64 / 8), Math.log(spread * 2.5)];
      down = (x) => BOTTOM - ((Math.max(Math.log(x), low) - low) / (high - low)) * (BOTTOM - TOP);
      // the mean square error of the first walks after STOPS[s] draws
      const square = (walks, s) => {
        let total = 0;
        for (let j = 0; j < exact.length; j++)
          for (let w = 0; w < walks; w++) total += (means[j][w][s] - exact[j]) ** 2;
        return total / walks;
      };
      put(law, {
        d: `M${across(1)} ${down(spread)}L${across(MOST)} ${down(spread / Math.sqrt(MOST))}`,
      });
      put(walk, { d: lineOver((s) => down(Math.sqrt(square(1, s))), fine) });
      put(typical, { d: lineOver((s) => down(Math.sqrt(square(WALKS, s))), coarse) });
      const decades = [1, 0, -1, -2, -3, -4, -5]
        .map((e) => [10 ** e, e])
        .filter(([x]) => Math.log(x) >= low && Math.log(x) <= high);
      frame.tick(decades.map(([x, e]) => [down(x), number(x, Math.max(0, -e))]));
    },
    update: (n, error) => frame.reach(n, error >= 0 ? down(error) : NaN),
  };
}

export default { render };
