import { sum } from "./mathematics.js";
import {
  discountedReturn,
  fipoWeight,
  chances,
  randomTrees,
  repeated,
  stateValues,
  tokenCosts,
  tokenTree,
} from "./tree_mathematics.js";
import {
  button,
  card,
  chartKey,
  choice,
  direction,
  drawn,
  html,
  number,
  put,
  sentence,
  showNumber,
  signed,
  slider,
  state,
  svg,
  tokenName,
  toolbar,
  uniforms,
  value,
} from "./interface.js";

const [V, T] = [3, 5];
const NOTES = [
  [0.2, 0.3, 0.5],
  [0.7, 0.2, 0.1],
];
const PRESETS = [
  ["The notes' example", { tree: "notes", sequence: 100, position: 2 }],
  ["Cheap now, dear later", { tree: "random", seed: 248, sequence: 167, position: 2, gamma: 0.9 }],
  ["Dear now, cheap later", { tree: "random", seed: 98, sequence: 68, position: 2, gamma: 0.9 }],
];
const TOKENS = [0, 1, 2].map(tokenName);
const POSITIONS = Array.from({ length: T }, (_, t) => t);
const [LOW, HIGH, RATIO_LIMIT] = [0.2, 0.2, 10]; // FIPO's clip and mask

const SCHEMES = [
  [
    "Teacher: a token costs r = log p/q",
    "policy-gradient",
    [
      ["immediate", "immediate", "its own r"],
      ["discounted", "discounted", "later r × γ a step"],
      ["reward_to_go", "reward-to-go", "r from here on"],
      ["full_return", "full return", "r of all tokens"],
      ["gae", "GAE", "surprises × γλ a step"],
    ],
  ],
  [
    "Outcome: R = 1 for at least two t₁, else 0",
    "ink",
    [
      ["outcome", "outcome", "−R everywhere"],
      ["broadcast", "outcome, summed", "−R a token left"],
      ["fipo", "FIPO", "f × advantage"],
    ],
  ],
];
const PARTS = {
  immediate: "its own r",
  discounted: "γ to the distance × r",
  reward_to_go: "r from here on",
  full_return: "r of all",
  gae: "γλ to the distance × surprise",
  outcome: "−R, paid at the end",
  broadcast: "−R at each",
  fipo: "γ to the distance × shift of log p",
};
const KEYS = SCHEMES.flatMap(([, , schemes]) => schemes.map(([key]) => key));

const tokensOf = (sequence) => POSITIONS.map((t) => Math.floor(sequence / V ** (T - 1 - t)) % V);
const sequenceOf = (tokens) => tokens.reduce((total, token) => total * V + token, 0);
const prefixOf = (sequence, t) => Math.floor(sequence / V ** (T - t));

const REWARD = Array.from({ length: V ** T }, (_, sequence) =>
  Number(tokensOf(sequence).filter((token) => token === 0).length >= 2),
);

// The student after one step of ascent on E[R] at every prefix, each by itself.
function ascended(student, step) {
  let ahead = REWARD;
  const logits = [];
  for (let t = T - 1; t >= 0; t--) {
    const p = student.probabilities[t];
    const values = Array.from({ length: V ** t }, (_, s) =>
      sum([0, 1, 2].map((a) => p[s * V + a] * ahead[s * V + a])),
    );
    logits.unshift(
      p.map(
        (x, i) =>
          student.logProbabilities[t][i] + step * x * (ahead[i] - values[Math.floor(i / V)]),
      ),
    );
    ahead = values;
  }
  return tokenTree(logits);
}

// What does not depend on the sequence.
function prepared(tree, seed) {
  const [student, teacher] =
    tree === "notes" ? NOTES.map((p) => repeated(p, T)) : randomTrees(V, T, seed, 1);
  const probability = chances(student).at(-1);
  return {
    student,
    teacher,
    probability,
    costs: tokenCosts(student, teacher),
    expectedReward: sum(REWARD.map((r, i) => r * probability[i])),
  };
}

// The weights of every scheme on one sequence, and of what the weight of token t is made.
function weighed({ student, costs, expectedReward }, sequence, gamma, lam, step) {
  const r = costs[sequence];
  const reward = REWARD[sequence];
  const value = stateValues(student, costs, gamma).map((level, t) => level[prefixOf(sequence, t)]);
  const surprises = r.map((x, t) => x + (t < T - 1 ? gamma * value[t + 1] : 0) - value[t]);
  const moved = ascended(student, step);
  const shift = tokenCosts(moved, student)[sequence];
  const ratio = shift.map(Math.exp);
  const f = fipoWeight(moved, student, gamma, LOW, HIGH, RATIO_LIMIT)[sequence];
  const kept = shift.map((x) => (x <= Math.log(RATIO_LIMIT) ? x : 0));
  const from = (t, x, factor) => x.map((each, u) => (u < t ? 0 : each * factor ** (u - t)));
  return {
    r,
    reward,
    surprises,
    ratio,
    f,
    advantage: reward - expectedReward,
    weights: {
      immediate: r,
      discounted: discountedReturn(r, gamma),
      reward_to_go: discountedReturn(r, 1),
      full_return: r.map(() => sum(r)),
      gae: discountedReturn(surprises, gamma * lam),
      outcome: r.map(() => -reward),
      broadcast: r.map((_, t) => -(T - t) * reward),
      fipo: f.map((x, t) => -ratio[t] * x * (reward - expectedReward)),
    },
    parts: (key, t) =>
      ({
        immediate: () => from(t, r, 0),
        discounted: () => from(t, r, gamma),
        reward_to_go: () => from(t, r, 1),
        full_return: () => r,
        gae: () => from(t, surprises, gamma * lam),
        outcome: () => r.map((_, u) => (u === T - 1 ? -reward : 0)),
        broadcast: () =>
          from(
            t,
            r.map(() => -reward),
            1,
          ),
        fipo: () => from(t, kept, gamma),
      })[key](),
  };
}

function render({ model, el }) {
  const names = ["tree", "seed", "sequence", "draws", "scheme", "position", "gamma", "lam", "step"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  const whole = (name) => Math.round(self.get(name));

  const tree = choice({
    label: "Tree",
    name: "tree",
    onchange: (key) => self.set({ tree: key }),
    options: [
      { value: "random", label: "random" },
      { value: "notes", label: "the notes' p and q at every prefix" },
    ],
  });
  tree.element.classList.add("opd-inline");
  const seedNow = value({ "data-name": "seed" });
  const another = html(
    "span",
    { class: "opd-note" },
    button("Another tree", () => self.set({ seed: (whole("seed") + 1) % 10000 })),
    " this is tree ",
    seedNow,
  );
  const gamma = slider({
    label: "discount γ",
    name: "gamma",
    min: 0,
    max: 1,
    step: 0.01,
    role: "policy-gradient",
    oninput: (x) => self.set({ gamma: x }),
  });
  const lam = slider({
    label: "λ, for GAE",
    name: "lam",
    min: 0,
    max: 1,
    step: 0.01,
    role: "policy-gradient",
    oninput: (x) => self.set({ lam: x }),
  });
  const step = slider({
    label: "step, for FIPO",
    name: "step",
    min: 0,
    max: 4,
    step: 0.1,
    oninput: (x) => self.set({ step: x }),
  });
  const position = choice({
    label: "Explain token",
    name: "position",
    options: POSITIONS.map((t) => ({ value: t + 1, label: String(t + 1) })),
    onchange: (t) => self.set({ position: Number(t) }),
  });
  const path = pathPicker((t, token) =>
    self.set({
      sequence: sequenceOf(
        tokensOf(whole("sequence")).map((each, u) => (u === t ? Number(token) : each)),
      ),
    }),
  );
  const rows = weightRows((key) => self.set({ scheme: key }));
  const says = sentence();

  function draw() {
    const next = uniforms(whole("seed") + 20000, whole("draws") * T); // not the numbers that made the tree
    let sequence = 0;
    for (const t of POSITIONS)
      sequence =
        sequence * V +
        drawn(exact.student.probabilities[t].subarray(sequence * V, sequence * V + V), next());
    self.set({ sequence, draws: (whole("draws") + 1) % 10000 });
  }

  let [stored, exact] = [null, null];

  card(
    el,
    "Who answers for the future?",
    toolbar(
      button("Draw another", draw),
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(initial)),
    ),
    html(
      "div",
      { class: "opd-columns" },
      html("div", {}, tree.element, another),
      html("div", { class: "opd-aligned opd-lean" }, gamma.element, lam.element, step.element),
    ),
    html(
      "div",
      { class: "opd-lanes" },
      html(
        "div",
        { class: "opd-lane" },
        html("div", { class: "opd-lane-name" }, "Explain token"),
        position.element,
      ),
      html(
        "div",
        { class: "opd-lane" },
        html(
          "div",
          { class: "opd-lane-name" },
          html("span", {}, "Drawn, and what else could come"),
          chartKey([
            ["fill", "student", "student p"],
            ["fill", "teacher", "teacher q"],
          ]),
        ),
        path.element,
      ),
    ),
    says,
    rows.element,
  );
  position.element.querySelector("legend").classList.add("opd-unseen");

  function update() {
    const [kind, seed, sequence, t] = [
      self.get("tree"),
      whole("seed"),
      whole("sequence"),
      whole("position") - 1,
    ];
    const setting = `${kind} ${seed}`;
    if (setting !== stored) [stored, exact] = [setting, prepared(kind, seed)];
    const result = weighed(exact, sequence, self.get("gamma"), self.get("lam"), self.get("step"));
    tree.update(kind);
    another.hidden = kind === "notes";
    showNumber(seedNow, seed, String(seed));
    gamma.update(self.get("gamma"));
    lam.update(self.get("lam"));
    step.update(self.get("step"));
    position.update(t + 1);
    path.update(exact, sequence, t);
    rows.update(result, self.get("scheme"), t);
    says.textContent = words(result, self.get("scheme"), t, tokensOf(sequence));
  }

  function words(result, key, t, tokens) {
    const { r, reward, surprises, ratio, f, advantage, weights } = result;
    const [mine, own] = [weights[key][t], result.parts(key, t)[t]];
    const name = `token ${t + 1} (${TOKENS[tokens[t]]})`;
    const left = T - 1 - t;
    const after =
      left === 1
        ? "the token after it"
        : `the ${["", "", "two", "three", "four"][left]} tokens after it`;
    const split =
      left === 0
        ? `its own cost, for no token comes after it`
        : `its own ${signed(own)} and ${signed(mine - own)} from ${after}`;
    const told = {
      immediate: () =>
        `Immediate: ${name} answers for its own cost alone, ${signed(mine)}.${left ? ` The ${signed(sum(r.slice(t + 1)))} of ${after} is not charged to it.` : ""}`,
      discounted: () =>
        `With γ = ${number(self.get("gamma"))} ${name} answers for ${signed(mine)}: ${split}.`,
      reward_to_go: () =>
        `Undiscounted, ${name} answers for ${signed(mine)}: ${split}. On average over draws this is the gradient of the sequence KL.`,
      full_return: () =>
        `Every token answers for the whole ${signed(mine)}. ${t ? `For ${name} that includes ${signed(sum(r.slice(0, t)))} from before it, which it could not change; on average over draws that part cancels.` : `For ${name} that is its reward-to-go: nothing came before.`}`,
      gae: () =>
        `With γ = ${number(self.get("gamma"))} and λ = ${number(self.get("lam"))} the advantage of ${name} is ${signed(mine)}: its own surprise ${signed(own)}${left ? ` and ${signed(mine - own)} from ${after}` : ""}. A surprise is the cost plus γ times the value after the token, less the value before it.`,
      outcome: () =>
        reward ? `R = 1: every token has weight −1, whatever its part in the outcome.` : NOTHING,
      broadcast: () =>
        reward
          ? `Paid R = 1 at every token and summed from there on, ${name} has weight ${signed(mine, 0)} and the last token −1: only the position decides.`
          : NOTHING,
      fipo: () =>
        self.get("step") === 0
          ? `The student has not moved since the draw: every f is 1, and FIPO gives each token the outcome's advantage alone, −(R − E[R]) = ${signed(mine)}.`
          : `Since the draw the student took a step of ${number(self.get("step"), 1)} up E[R]: FutureKL of ${name} is ${signed(sum(result.parts(key, t)), 3)}, so that f = ${number(f[t], 3)}${clipped(f[t])}. Times the importance ratio ${number(ratio[t], 3)} and R − E[R] = ${signed(advantage)} its weight is ${signed(mine)}.`,
    }[key]();
    if (mine === 0 && told === NOTHING) return told;
    return `${told} Descent ${direction(mine).word} token ${t + 1}${direction(mine).word === "leaves" ? " where it is" : ""}.`;
  }

  update();
  return self.stop;
}

const NOTHING =
  "R = 0: the outcome gives every token the weight 0. Nothing is learned from this sequence.";
const clipped = (f) => (f === 1 - LOW || f === 1 + HIGH ? ", where it is clipped" : "");

// ---- the sequence: at each position three tokens, one of them drawn ----

function pathPicker(picked) {
  const columns = POSITIONS.map((t) => {
    const shares = TOKENS.map((_, v) =>
      ["p", "q"].map((who) =>
        value({
          class: `opd-share`,
          "data-name": `${who}-${t + 1}-${v + 1}`,
          style: `--role: var(--opd-${who === "p" ? "student" : "teacher"})`,
        }),
      ),
    );
    const options = TOKENS.map((name, v) => ({ value: v, label: name }));
    const each = choice({
      label: `Token ${t + 1}`,
      name: `at-${t + 1}`,
      options,
      onchange: (v) => picked(t, v),
    });
    each.element.classList.add("opd-step");
    each.element.querySelector("legend").classList.add("opd-unseen");
    each.element
      .querySelectorAll("label")
      .forEach((label, v) => label.append(html("span", { class: "opd-shares" }, shares[v])));
    return { ...each, shares };
  });
  return {
    element: html(
      "div",
      { class: "opd-steps" },
      columns.map((each) => each.element),
    ),
    update({ student, teacher }, sequence, position) {
      const tokens = tokensOf(sequence);
      columns.forEach(({ element, update, shares }, t) => {
        update(tokens[t]);
        element.dataset.on = String(t === position);
        shares.forEach((pair, v) =>
          pair.forEach((node, who) => {
            const x = [student, teacher][who].probabilities[t][prefixOf(sequence, t) * V + v];
            showNumber(node, x);
            node.style.setProperty("--share", x.toFixed(4));
          }),
        );
      });
    },
  };
}

// ---- the weights: a row a scheme, a bar and a number a token ----

function weightRows(chosen) {
  const bar = (role) => {
    const rect = svg("rect", {
      class: "opd-fill",
      style: `--role: var(--opd-${role})`,
      x: 22,
      width: 56,
    });
    const [zero, text] = [svg("path", { class: "opd-axis" }), html("span")];
    const picture = svg(
      "svg",
      {
        viewBox: "0 0 100 40",
        preserveAspectRatio: "none",
        class: "opd-weight",
        "aria-hidden": "true",
      },
      zero,
      rect,
    );
    return { rect, zero, text, cell: html("td", {}, picture, text) };
  };
  const radios = choice({
    label: "Scheme",
    name: "scheme",
    options: KEYS.map((key) => ({ value: key, label: "" })),
    onchange: chosen,
  });
  const labels = [...radios.element.querySelectorAll("label")];
  const makeRow = (head, role) => {
    const bars = POSITIONS.map(() => bar(role));
    return {
      bars,
      row: html(
        "tr",
        {},
        html("th", { scope: "row" }, head),
        bars.map((each) => each.cell),
      ),
    };
  };
  const groups = SCHEMES.map(([title, role, schemes]) => ({
    title,
    more: button("Show", () => chosen(schemes[0][0]), {
      class: "opd-button opd-narrow",
      "aria-label": `Show: ${title}`,
    }),
    schemes: schemes.map(([key, name, rule]) => {
      const label = labels[KEYS.indexOf(key)];
      label.append(html("span", {}, name, html("small", {}, rule)));
      return { key, ...makeRow(label, role) };
    }),
  }));
  const [partsTitle, partsName] = [html("span"), html("span")];
  const parts = makeRow(partsName, "ink");
  radios.element.querySelectorAll("label").forEach((label) => label.remove());
  radios.element.classList.add("opd-weights");
  radios.element.querySelector("legend").classList.add("opd-unseen");
  radios.element.append(
    html(
      "div",
      {
        class: "opd-table",
        tabindex: 0,
        role: "region",
        "aria-label": "The weight of each token in each scheme",
      },
      html(
        "table",
        {},
        html(
          "caption",
          {},
          "Weight on ∇log p of the token drawn: above 0 the bar hangs down and the token is pushed down ▼, below 0 it is raised ▲. A reward enters with a minus sign.",
        ),
        html("colgroup", {}, html("col", { class: "opd-first" })),
        html(
          "tbody",
          {},
          groups.map(({ title, more, schemes }) => [
            html(
              "tr",
              { class: "opd-group" },
              html("th", { scope: "colgroup", colspan: T + 1 }, title, more),
            ),
            schemes.map(({ row }) => row),
          ]),
          html(
            "tr",
            { class: "opd-group" },
            html("th", { scope: "colgroup", colspan: T + 1 }, partsTitle),
          ),
          parts.row,
        ),
      ),
    ),
  );
  // From the lowest weight at the top to the highest at the bottom: what is pushed down hangs down.
  const range = (weights) => [Math.min(0, ...weights), Math.max(0, ...weights)];
  const show = (bars, weights, [low, high], position) => {
    const down = (x) => 2 + (high > low ? (36 * (x - low)) / (high - low) : 18);
    bars.forEach(({ rect, zero, text, cell }, t) => {
      put(zero, { d: `M0 ${down(0).toFixed(2)}H100` });
      put(rect, {
        y: Math.min(down(0), down(weights[t])).toFixed(2),
        height: Math.abs(down(weights[t]) - down(0)).toFixed(2),
      });
      write(text, cell, weights[t], ` ${direction(weights[t]).arrow}`);
      cell.dataset.column = t === position ? "on" : "";
    });
  };
  const write = (text, cell, x, arrow = "") => {
    text.textContent = `${signed(x)}${arrow}`;
    cell.dataset.value = String(x);
  };
  return {
    element: radios.element,
    update(result, scheme, position) {
      radios.update(scheme);
      for (const { more, schemes } of groups) {
        const open = schemes.some(({ key }) => key === scheme); // on a phone the other group is folded
        more.hidden = open;
        const scale = range(schemes.flatMap(({ key }) => result.weights[key]));
        for (const { key, row, bars } of schemes) {
          row.dataset.on = String(key === scheme);
          row.dataset.open = String(open);
          show(bars, result.weights[key], scale, position);
        }
        if (open) {
          const found = result.parts(scheme, position);
          const what = scheme === "fipo" ? "FutureKL" : "weight";
          partsTitle.textContent = `Token ${position + 1}'s ${what}, ${signed(sum(found))}, as a sum`;
          partsName.textContent = PARTS[scheme];
          if (scheme === "fipo") {
            // log p has moved up or down: no weights, so a rise is drawn upwards
            const risen = found.map((x) => -x);
            show(parts.bars, risen, range(risen), position);
            parts.bars.forEach(({ text, cell }, u) => write(text, cell, found[u]));
          } else show(parts.bars, found, range([...scale, ...found]), position);
        }
      }
    },
  };
}

export default { render };
