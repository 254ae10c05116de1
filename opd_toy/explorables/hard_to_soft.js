import { entropy, forwardKl, forwardKlLogitGradient, setProbability, sum } from "./mathematics.js";
import {
  bars,
  button,
  card,
  chartKey,
  choice,
  direction,
  html,
  number,
  put,
  sentence,
  showNumber,
  signed,
  slider,
  state,
  svg,
  table,
  tokenName,
  toolbar,
  value,
} from "./interface.js";

const TOKENS = [0, 1, 2, 3, 4].map(tokenName);
const STUDENT = [0.15, 0.1, 0.3, 0.25, 0.2];
const PRESETS = [
  ["Two good tokens", { student: STUDENT, teacher: [0.45, 0.35, 0.1, 0.07, 0.03], token: 1 }],
  ["Sure teacher", { student: STUDENT, teacher: [0.96, 0.01, 0.01, 0.01, 0.01], token: 1 }],
  ["Unlikely label", { student: STUDENT, teacher: [0.45, 0.35, 0.1, 0.07, 0.03], token: 3 }],
];

// (1 − s)·q + s·one-hot: the label from the teacher's distribution (sharpness 0) to one-hot (1).
export const sharpened = (teacher, token, sharpness) =>
  teacher.map((q, v) => (1 - sharpness) * q + (v === token ? sharpness : 0));

export const softLabelLoss = (student, label) =>
  -sum(label.map((q, v) => (q === 0 ? 0 : q * Math.log(student[v]))));

const norm = (x) => Math.sqrt(sum(x.map((value) => value * value)));

function render({ model, el }) {
  const names = ["student", "teacher", "token", "sharpness"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);

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
  const sharpness = slider({
    label: "Sharpness",
    min: 0,
    max: 1,
    step: 0.01,
    name: "sharpness",
    text: (s) => (s === 0 ? "0 soft" : s === 1 ? "1 hard" : number(s)),
    oninput: (s) => self.set({ sharpness: s }),
  });
  const token = choice({
    label: "Hard label",
    name: "token",
    options: TOKENS.map((name, index) => ({ value: index + 1, label: name })),
    onchange: (index) => self.set({ token: Number(index) }),
  });
  token.element.style.columnGap = "0.6rem"; // five tokens in one row of a phone
  const picture = labelAndPush();
  const losses = lossBar();
  const numbers = table({
    caption:
      "logit gradients, SeqKD's p − label and SFT's p − one-hot: ▲ descent raises the token, ▼ lowers it; underlined where they disagree",
    columns: ["token", "p", "label", "SeqKD", "SFT"],
    roles: [null, "student", "teacher", "forward-kl", null],
    rows: TOKENS,
  });
  const [apart, atFirst] = ["distance", "distance-soft"].map((name) =>
    value({ "data-name": name }),
  );
  const says = sentence();

  card(
    el,
    "Hard to soft",
    toolbar(
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button("Student = teacher", () => self.set({ student: self.get("teacher") })),
      button("Reset", () => self.set(initial)),
    ),
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        sharpness.element,
        token.element,
        picture.element,
        chartKey([
          ["fill", "teacher", "label now"],
          ["ghost", "teacher", "soft label q"],
          ["line", "student", "student p"],
          ["fill", "forward-kl", "SeqKD's push"],
          ["outline", null, "SFT's push"],
        ]),
        says,
      ),
      html(
        "div",
        {},
        inputs.map((each) => each.element),
        losses.element,
      ),
    ),
    numbers.element,
    html(
      "p",
      { class: "opd-note" },
      "SeqKD's gradient with this label and SFT's are ",
      apart,
      " apart (with the teacher's own label: ",
      atFirst,
      "). Hard labels drawn from the teacher average to its soft label: SFT is right on average, and this far off on this one token.",
    ),
  );

  function update() {
    const [p, q, s] = [self.get("student"), self.get("teacher"), self.get("sharpness")];
    const n = Math.round(self.get("token")) - 1;
    const label = sharpened(q, n, s);
    const hard = sharpened(q, n, 1);
    const [soft, seqkd, sft] = [q, label, hard].map((target) => forwardKlLogitGradient(p, target));
    inputs[0].update(p);
    inputs[1].update(q);
    sharpness.update(s);
    token.update(n + 1);
    picture.update(p, q, label, seqkd, sft);
    losses.update(softLabelLoss(p, label), forwardKl(p, label), entropy(label));
    numbers.update(
      p.map((x, v) => [
        x,
        label[v],
        ...[seqkd, sft].map((g) => ({
          value: g[v],
          text: `${signed(g[v])} ${direction(g[v]).arrow}`,
          mark: seqkd[v] * sft[v] < -1e-12 ? "odd" : "",
        })),
      ]),
    );
    const distances = [seqkd, soft].map((gradient) => norm(gradient.map((g, v) => g - sft[v])));
    showNumber(apart, distances[0], number(distances[0], 3));
    showNumber(atFirst, distances[1], number(distances[1], 3));
    says.textContent = words(p, q, n, s, soft, seqkd, sft);
  }

  // The token on which soft and hard label disagree most, seen at the present label.
  function words(p, q, n, s, soft, seqkd, sft) {
    const kind =
      s === 0
        ? "The label is the teacher's distribution"
        : s === 1
          ? `The label is one-hot on ${TOKENS[n]}: the SeqKD gradient is SFT's, the loss −log ${number(p[n])} = ${number(-Math.log(p[n]))}`
          : `The label is ${number(s)} of the way from the teacher's distribution to one-hot on ${TOKENS[n]}`;
    if (soft.every((g) => direction(g).arrow === "·"))
      return `${kind}. The student is the teacher already: the soft label pushes nothing, the hard label still raises ${TOKENS[n]} and lowers the rest.`;
    const [most] = soft
      .map((g, v) => [g * sft[v] < -1e-12 ? Math.abs(g) : 0, v])
      .sort((a, b) => b[0] - a[0]);
    if (most[0] === 0)
      return `${kind}. Soft and hard label push no token in opposite directions, but their strengths differ: the hard label does not know how the teacher shares ${number(1 - q[n])} among the other tokens.`;
    const v = most[1];
    const turn = v === n ? (p[n] - q[n]) / (1 - q[n]) : 1 - p[v] / q[v];
    const now = direction(seqkd[v]).word;
    return `${kind}. Student and teacher give ${TOKENS[v]} ${number(p[v])} and ${number(q[v])}: the soft label ${direction(soft[v]).word} it, the hard label ${TOKENS[n]} ${direction(sft[v]).word} it. ${s === 0 || s === 1 ? `The push turns at sharpness ${number(turn)}.` : `This label ${now === "leaves" ? "leaves it where it is" : `${now} it`}; the push turns at ${number(turn)}.`}`;
  }

  update();
  return self.stop;
}

// One column a token.  Above, the label as a bar, with the soft label's outline and the
// student's mark; below, on the same scale, the push of a descent step: as far as the
// label stands above the mark.  SFT's push is an outline, which a hard label fills.
function labelAndPush() {
  const [unit, ground, zero, left, pitch] = [86, 98, 218, 84, 58];
  const each = (make) => TOKENS.map((_, v) => make(left + v * pitch));
  const bar = (role, width, kind = "opd-fill") =>
    each((x) =>
      svg("rect", { class: kind, style: `--role: var(--opd-${role})`, x: x - width / 2, width }),
    );
  const labels = bar("teacher", 22);
  const ghosts = bar("teacher", 32, "opd-outline opd-dashed");
  const marks = bar("student", 44);
  const pushes = bar("forward-kl", 22);
  const outlines = bar("ink", 32, "opd-outline");
  const upFrom = (base, x) => ({ y: base - Math.max(x, 0) * unit, height: Math.abs(x) * unit });
  const element = svg(
    "svg",
    {
      viewBox: "0 0 360 308",
      role: "img",
      "aria-label":
        "For each token the label and the push of one descent step; the same numbers are in the table",
    },
    svg("path", {
      class: "opd-grid-line",
      d: `M54 ${ground - unit}H354M54 ${zero - unit}H354M54 ${zero + unit}H354`,
    }),
    svg("text", { x: 4, y: ground - unit / 2 + 5 }, "label"),
    svg("text", { x: 48, y: ground - unit + 5, "text-anchor": "end" }, "1"),
    svg("text", { x: 48, y: ground + 4, "text-anchor": "end" }, "0"),
    svg("text", { x: 4, y: zero - 52 }, "▲"),
    svg("text", { x: 4, y: zero - 36 }, "raised"),
    svg("text", { x: 48, y: zero + 4, "text-anchor": "end" }, "0"),
    svg("text", { x: 4, y: zero + 45 }, "lowered"),
    svg("text", { x: 4, y: zero + 61 }, "▼"),
    each((x) =>
      svg("text", { x, y: ground + 17, "text-anchor": "middle" }, TOKENS[(x - left) / pitch]),
    ),
    labels,
    ghosts,
    marks,
    pushes,
    outlines,
    svg("path", { class: "opd-axis", d: `M54 ${ground}H354M54 ${zero}H354` }),
  );
  marks.forEach((mark) => put(mark, { height: 4, class: "opd-fill opd-edged" }));
  return {
    element,
    update(p, q, label, seqkd, sft) {
      for (let v = 0; v < TOKENS.length; v++) {
        put(labels[v], upFrom(ground, label[v]));
        put(ghosts[v], upFrom(ground, q[v]));
        put(marks[v], { y: ground - p[v] * unit - 2 });
        put(pushes[v], upFrom(zero, -seqkd[v]));
        put(outlines[v], upFrom(zero, -sft[v]));
      }
    },
  };
}

// The soft-label loss as the sum it is: forward KL and the label's entropy.
function lossBar() {
  const part = (role) =>
    svg("rect", { class: "opd-fill", style: `--role: var(--opd-${role})`, y: 2, height: 22 });
  const [divergence, surprise] = [part("forward-kl"), part("teacher")];
  const frame = svg(
    "svg",
    {
      viewBox: "0 0 360 26",
      role: "img",
      "aria-label": "The soft-label loss as forward KL plus the label's entropy",
    },
    svg("rect", { class: "opd-paper", x: 0, y: 2, width: 360, height: 22 }),
    divergence,
    surprise,
  );
  const shown = ["loss", "forward-kl", "entropy"].map((name) => value({ "data-name": name }));
  const named = (role, words, node) =>
    html(
      "span",
      { style: "white-space: nowrap" },
      html("i", { class: "opd-swatch", style: `--role: var(--opd-${role})` }),
      words,
      node,
    );
  const element = html(
    "div",
    {},
    html(
      "p",
      { class: "opd-note" },
      "soft-label loss ",
      shown[0],
      " = ",
      named("forward-kl", "forward KL ", shown[1]),
      " + ",
      named("teacher", "entropy of the label ", shown[2]),
    ),
    frame,
    html(
      "p",
      { class: "opd-note" },
      "The student can change the first part only: the entropy is a constant, without a gradient.",
    ),
  );
  return {
    element,
    update(loss, forward, constant) {
      const unit = 360 / Math.max(3, loss);
      put(divergence, { x: 0, width: forward * unit });
      put(surprise, { x: forward * unit, width: constant * unit });
      [loss, forward, constant].forEach((x, i) => showNumber(shown[i], x, number(x, 3)));
    },
  };
}

export default { render };
