import { expectation, gkd, logRatio, policyGradient, sum, totalVariance } from "./mathematics.js";
import { drawn, uniforms } from "./draws.js";
import {
  direction,
  html,
  NOTES,
  number,
  said,
  showNumber,
  showText,
  signed,
  state,
  TOKENS,
  value,
} from "./interface.js";
import {
  button,
  caption,
  card,
  choiceOf,
  columns,
  note,
  presetBar,
  sentence,
  studentAndTeacher,
  table,
  toolbar,
} from "./controls.js";
import { chartKey } from "./pictures.js";
import { multiples, pushes, shareBars } from "./which_token_pictures.js";

const PRESETS = [
  ["The book's example", { ...NOTES, token: 3 }],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: NOTES.teacher }],
  ["Confident and wrong", { student: [0.03, 0.07, 0.9], teacher: [0.9, 0.07, 0.03] }],
];
const MOST = 999;

// How often each token came up in the first draws of a seed.
const tallyOf = (p, seed, draws) => {
  const next = uniforms(seed);
  const times = [0, 0, 0];
  for (let i = 0; i < draws; i++) times[drawn(p, next())] += 1;
  return times;
};
const drawOf = (p, seed, draw) => {
  const next = uniforms(seed);
  for (let i = 1; i < draw; i++) next();
  return drawn(p, next());
};

// The two tokens that were not drawn.
const othersThan = (k) => [0, 1, 2].filter((v) => v !== k);

function render({ model, el }) {
  const self = state(model, ["student", "teacher", "token", "seed", "draws"], update);
  const inputs = studentAndTeacher(self, TOKENS);
  const token = choiceOf(
    self,
    "token",
    "Drawn",
    TOKENS.map((name, index) => ({ value: index + 1, label: name })),
  );
  const swap = button("", () => self.set({ teacher: swapped(self) }), { "data-name": "swap" });
  const [comparison, shares] = [pushes(), shareBars()];
  const possible = multiples((index) => self.set({ token: index + 1 }));
  const tables = { rows: gradientTable(), draws: drawTable() };
  const [variance, still, times] = ["total-variance", "gkd-variance", "draws"].map((name) =>
    value({ "data-name": name }),
  );
  const lines = Object.values(tables).map((each) => [...each.element.querySelectorAll("tbody tr")]);
  const says = sentence();

  card(
    el,
    "Which token was drawn?",
    presetBar(self, PRESETS),
    toolbar(
      button("Draw one", () => drawOne(self)),
      token.element,
      html("span", { class: "opd-note" }, times),
    ),
    columns(
      [comparison.element, says, tables.rows.element],
      [
        caption("All possible draws, and their mean"),
        possible.element,
        pictureKey(),
        note("Total variance of PG ", variance, ", of GKD ", still, "."),
        caption("How the push on the two other logits is shared"),
        shares.element,
        toolbar(swap),
        note(
          "This draw's policy gradient does not notice: it knows the teacher's probability of the ",
          "drawn token only. The bars share out the push on the logits; the probabilities move ",
          "otherwise.",
        ),
      ],
    ),
    columns(...inputs.map((each) => [each.element])),
    tables.draws.element,
  );

  function update() {
    const shown = computed(self);
    const { p, q, k, exact, estimates, mean, spread, scale, tally } = shown;
    inputs[0].update(p);
    inputs[1].update(q);
    token.update(k + 1);
    comparison.update(exact, estimates[k], k, scale);
    possible.update(p, estimates, mean, spread, exact, k, scale);
    shares.update(p, q, othersThan(k));
    const names = othersThan(k).map((v) => TOKENS[v]);
    showText(swap, `Swap the teacher's ${names.join(" and ")}`);
    tables.rows.update(gradientRows(shown));
    tables.draws.update(drawRows(shown));
    lines.forEach((each) => each.forEach((line, v) => (line.dataset.on = String(v === k))));
    const [total, none] = [estimates, gkd(p, q)].map((each) => totalVariance(p, each));
    showNumber(variance, total, number(total, 4));
    showNumber(still, none, number(none, none ? 4 : 0));
    const counts = TOKENS.map((name, v) => `${name} ${tally[v]}×`).join(", ");
    showNumber(times, sum(tally), sum(tally) ? `so far ${counts}` : "");
    showText(says, describe(shown));
  }

  update();
  return self.stop;
}

// A draw; a stream that has run out goes on with the next seed's.
function drawOne(self) {
  const [seed, draw] =
    self.whole("draws") < MOST
      ? [self.whole("seed"), self.whole("draws") + 1]
      : [(self.whole("seed") + 1) % 10000, 1];
  self.set({ seed, draws: draw, token: drawOf(self.get("student"), seed, draw) + 1 });
}

// The teacher with its probabilities of the two tokens not drawn exchanged.
function swapped(self) {
  const q = [...self.get("teacher")];
  const [i, j] = othersThan(self.whole("token") - 1);
  [q[i], q[j]] = [q[j], q[i]];
  return q;
}

function computed(self) {
  const [p, q, k] = [self.get("student"), self.get("teacher"), self.whole("token") - 1];
  const exact = gkd(p, q)[0];
  const estimates = policyGradient(p, q);
  const mean = expectation(p, estimates);
  const column = (j) => estimates.map((row) => [row[j]]);
  const spread = mean.map((_, j) => Math.sqrt(totalVariance(p, column(j))));
  const scale = Math.max(
    0.1,
    ...exact.map(Math.abs),
    ...estimates.flat().map(Math.abs),
    ...mean.map((g, j) => Math.abs(g) + spread[j]),
  );
  const tally = tallyOf(p, self.whole("seed"), self.whole("draws"));
  return { p, q, k, exact, estimates, mean, spread, scale, tally };
}

const pictureKey = () =>
  chartKey([
    ["fill", "policy-gradient", "policy gradient, PG"],
    ["outline", "policy-gradient", "PG against GKD"],
    ["outline", "reverse-kl", "GKD"],
    ["line", null, "mean ± spread"],
  ]);

// ---- the tables ----

const gradientTable = () =>
  table({
    caption: said(
      "logit gradients of GKD and, for the token drawn, of PG:",
      "▲ descent raises the logit, ▼ lowers it; underlined where they disagree",
    ),
    columns: ["token", "p", "q", "GKD", "PG"],
    roles: [null, "student", "teacher", "reverse-kl", "policy-gradient"],
    rows: TOKENS,
  });

function drawTable() {
  const draws = table({
    caption: said(
      "PG for every draw, its mean, which is GKD's gradient,",
      "and its spread, the standard deviation",
    ),
    columns: ["drawn", "p", ...TOKENS.map((name) => name.replace("t", "z"))],
    roles: [null, "student"],
    rows: [...TOKENS, "mean", "GKD", "spread"],
  });
  draws.element.classList.add("opd-tight");
  return draws;
}

const cell = (g, mark) => ({ value: g, text: `${signed(g)} ${direction(g).arrow}`, mark });

const gradientRows = ({ p, q, k, exact, estimates }) =>
  p.map((x, j) => {
    const mark = exact[j] * estimates[k][j] < -1e-12 ? "odd" : "";
    return [x, q[j], cell(exact[j], mark), cell(estimates[k][j], mark)];
  });

const drawRows = ({ p, estimates, mean, exact, spread }) => [
  ...estimates.map((row, i) => [p[i], ...row.map((g) => cell(g))]),
  ...[mean, exact].map((row) => [{ text: "" }, ...row.map((g) => cell(g))]),
  [{ text: "" }, ...spread],
];

// ---- the sentence ----

const describe = (shown) => said(thisDraw(shown), allDraws(shown));

function thisDraw({ p, q, k, estimates }) {
  const [c, [i, j]] = [logRatio(p, q)[k], othersThan(k)];
  if (estimates[k].every((g) => direction(g).arrow === "·"))
    return said(
      `${TOKENS[k]} drawn: student and teacher agree on it,`,
      "so this draw pushes nothing.",
    );
  return said(
    `${TOKENS[k]} drawn, log-ratio ${signed(c)}. On the logits,`,
    `PG ${c > 0 ? "lowers it and raises" : "raises it and lowers"} both others,`,
    `as ${number(p[i])} : ${number(p[j])}, the student's odds,`,
    `whatever the teacher's (${number(q[i])} : ${number(q[j])}).`,
  );
}

// Of the tokens whose push depends on the draw, the one most evenly torn.
function allDraws({ p, exact, estimates }) {
  const chance = (sign) =>
    exact.map((_, v) =>
      sum(p.map((x, row) => (direction(estimates[row][v]).word === sign ? x : 0))),
    );
  const [up, down] = [chance("raises"), chance("lowers")];
  const torn = up.map((x, v) => Math.min(x, down[v]));
  const v = torn.indexOf(Math.max(...torn));
  if (torn[v] === 0) return "No token's direction depends on the draw.";
  return said(
    `Over the draws ${TOKENS[v]} is raised with probability ${number(up[v])} and lowered with`,
    `${number(down[v])}; GKD ${direction(exact[v]).word} it every time.`,
  );
}

export default { render };
