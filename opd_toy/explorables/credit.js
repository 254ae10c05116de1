import { drawn, uniforms } from "./draws.js";
import { html, showText, state } from "./interface.js";
import {
  anotherTree,
  button,
  card,
  choiceOf,
  sentence,
  sliderOf,
  toolbar,
  TREES,
} from "./controls.js";
import { chartKey } from "./pictures.js";
import { pathPicker, weightRows } from "./credit_pictures.js";
import { POSITIONS, prepared, sequenceOf, T, tokensOf, V, weighed } from "./credit_weights.js";
import { describe } from "./credit_words.js";

const PRESETS = [
  ["The book's example", { tree: "notes", sequence: 100, position: 2 }],
  [
    "Cheap now, costly later",
    { tree: "random", seed: 248, sequence: 167, position: 2, gamma: 0.9 },
  ],
  ["Costly now, cheap later", { tree: "random", seed: 98, sequence: 68, position: 2, gamma: 0.9 }],
];

function render({ model, el }) {
  const names = ["tree", "seed", "sequence", "draws", "scheme", "position", "gamma", "lam", "step"];
  const self = state(model, names, update);
  const schemes = model.get("schemes");
  const parts = controls(self, schemes);
  const path = pathPicker((t, token) => self.set({ sequence: changed(self, t, Number(token)) }));
  const rows = weightRows(schemes, (key) => self.set({ scheme: key }));
  const says = sentence();
  let [stored, exact] = [null, null];

  card(
    el,
    "Who answers for the future?",
    toolbar(
      button("Draw another", () => self.set(drawnFrom(self, exact.student))),
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Reset", () => self.set(self.initial)),
    ),
    html(
      "div",
      { class: "opd-columns" },
      html("div", {}, parts.tree.element, parts.another.element),
      html("div", { class: "opd-aligned opd-lean" }, parts.sliders),
    ),
    html(
      "div",
      { class: "opd-lanes" },
      lane("Explain token", parts.position.element),
      lane([html("span", {}, "Drawn, and what else could come"), pathKey()], path.element),
    ),
    says,
    rows.element,
  );
  parts.position.element.querySelector("legend").classList.add("opd-unseen");

  function update() {
    const [tree, seed, sequence] = [self.get("tree"), self.whole("seed"), self.whole("sequence")];
    const [asked, t] = [self.get("scheme"), self.whole("position") - 1];
    const scheme = schemes.includes(asked) ? asked : schemes[0];
    const setting = { gamma: self.get("gamma"), lam: self.get("lam"), step: self.get("step") };
    if (`${tree} ${seed}` !== stored) [stored, exact] = [`${tree} ${seed}`, prepared(tree, seed)];
    const result = weighed(exact, sequence, setting.gamma, setting.lam, setting.step);
    parts.update();
    path.update(exact, sequence, t);
    rows.update(result, scheme, t);
    showText(says, describe(result, scheme, t, tokensOf(sequence), setting));
  }

  update();
  return self.stop;
}

const lane = (name, content) =>
  html("div", { class: "opd-lane" }, html("div", { class: "opd-lane-name" }, name), content);

const pathKey = () =>
  chartKey([
    ["fill", "student", "student p"],
    ["fill", "teacher", "teacher q"],
  ]);

// Which schemes ask for a slider.
const NEEDS = {
  gamma: ["discounted", "gae", "fipo"],
  lam: ["gae"],
  step: ["fipo"],
};

function controls(self, schemes) {
  const tree = choiceOf(self, "tree", "Tree", TREES);
  tree.element.classList.add("opd-inline");
  const another = anotherTree(self, "span");
  const position = choiceOf(
    self,
    "position",
    "Explain token",
    POSITIONS.map((t) => ({ value: t + 1, label: String(t + 1) })),
  );
  const role = "policy-gradient";
  const sliders = {
    gamma: sliderOf(self, "gamma", "discount γ", { role }),
    lam: sliderOf(self, "lam", "λ, for GAE", { role }),
    step: sliderOf(self, "step", "step, for FIPO", { max: 4, step: 0.1 }),
  };
  for (const [name, users] of Object.entries(NEEDS))
    sliders[name].element.hidden = !users.some((user) => schemes.includes(user));
  return {
    tree,
    another,
    position,
    sliders: Object.values(sliders).map((each) => each.element),
    update() {
      tree.update(self.get("tree"));
      another.element.hidden = self.get("tree") === "notes";
      another.update();
      Object.entries(sliders).forEach(([name, each]) => each.update(self.get(name)));
      position.update(self.whole("position"));
    },
  };
}

// The sequence with another token at position t.
const changed = (self, t, token) =>
  sequenceOf(tokensOf(self.whole("sequence")).map((each, u) => (u === t ? token : each)));

// Another sequence; not from the numbers that made the tree.
function drawnFrom(self, student) {
  const next = uniforms(self.whole("seed") + 20000, self.whole("draws") * T);
  let sequence = 0;
  for (const t of POSITIONS) {
    const first = sequence * V;
    sequence = first + drawn(student.probabilities[t].subarray(first, first + V), next());
  }
  return { sequence, draws: (self.whole("draws") + 1) % 10000 };
}

export default { render };
