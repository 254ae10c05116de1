import { entropy, forwardKl, forwardKlLogitGradient, sum } from "./mathematics.js";
import {
  direction,
  number,
  said,
  showNumber,
  showText,
  signed,
  state,
  value,
} from "./interface.js";
import {
  button,
  card,
  choiceOf,
  columns,
  note,
  presetBar,
  sentence,
  sliderOf,
  studentAndTeacher,
  table,
} from "./controls.js";
import { chartKey } from "./pictures.js";
import { labelAndPush, LABELS, lossBar } from "./hard_to_soft_pictures.js";

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
  const self = state(model, ["student", "teacher", "token", "sharpness"], update);
  const inputs = studentAndTeacher(self, LABELS);
  const sharpness = sliderOf(self, "sharpness", "Sharpness", {
    text: (s) => (s === 0 ? "0 soft" : s === 1 ? "1 hard" : number(s)),
  });
  const token = choiceOf(
    self,
    "token",
    "Hard label",
    LABELS.map((name, index) => ({ value: index + 1, label: name })),
  );
  token.element.style.columnGap = "0.6rem"; // five tokens in one row of a phone
  const [picture, losses] = [labelAndPush(), lossBar()];
  const numbers = gradientTable();
  const [apart, atFirst] = ["distance", "distance-soft"].map((name) =>
    value({ "data-name": name }),
  );
  const says = sentence();

  card(
    el,
    "Hard to soft",
    presetBar(
      self,
      PRESETS,
      button("Student = teacher", () => self.set({ student: self.get("teacher") })),
    ),
    columns(
      [sharpness.element, token.element, picture.element, pictureKey(), says],
      [inputs.map((each) => each.element), losses.element],
    ),
    numbers.element,
    note(
      "SeqKD's gradient with this label and SFT's are ",
      apart,
      " apart (with the teacher's own label: ",
      atFirst,
      "). Hard labels drawn from the teacher average to its soft label: SFT is right on average, ",
      "and this far off on this one token.",
    ),
  );

  function update() {
    const [p, q, s] = [self.get("student"), self.get("teacher"), self.get("sharpness")];
    const n = self.whole("token") - 1;
    const label = sharpened(q, n, s);
    const [soft, seqkd, sft] = [q, label, sharpened(q, n, 1)].map((target) =>
      forwardKlLogitGradient(p, target),
    );
    inputs[0].update(p);
    inputs[1].update(q);
    sharpness.update(s);
    token.update(n + 1);
    picture.update(p, q, label, seqkd, sft);
    losses.update(softLabelLoss(p, label), forwardKl(p, label), entropy(label));
    numbers.update(p.map((x, v) => [x, label[v], ...pushCells(seqkd[v], sft[v])]));
    const distances = [seqkd, soft].map((gradient) => norm(gradient.map((g, v) => g - sft[v])));
    showNumber(apart, distances[0], number(distances[0], 3));
    showNumber(atFirst, distances[1], number(distances[1], 3));
    showText(says, describe({ p, q, n, s, soft, seqkd, sft }));
  }

  update();
  return self.stop;
}

const pictureKey = () =>
  chartKey([
    ["fill", "teacher", "label now"],
    ["ghost", "teacher", "soft label q"],
    ["line", "student", "student p"],
    ["fill", "forward-kl", "SeqKD's push"],
    ["outline", null, "SFT's push"],
  ]);

const gradientTable = () =>
  table({
    caption: said(
      "logit gradients, SeqKD's p − label and SFT's p − one-hot:",
      "▲ descent raises the token, ▼ lowers it; underlined where they disagree",
    ),
    columns: ["token", "p", "label", "SeqKD", "SFT"],
    roles: [null, "student", "teacher", "forward-kl", null],
    rows: LABELS,
  });

const pushCells = (...gradients) =>
  gradients.map((g) => ({
    value: g,
    text: `${signed(g)} ${direction(g).arrow}`,
    mark: gradients[0] * gradients[1] < -1e-12 ? "odd" : "",
  }));

// ---- the sentence ----

function labelInWords(s, n, p) {
  if (s === 0) return "The label is the teacher's distribution.";
  const hard = `one-hot on ${LABELS[n]}`;
  if (s < 1)
    return `The label is ${number(s)} of the way from the teacher's distribution to ${hard}.`;
  return said(
    `The label is ${hard}: the SeqKD gradient is SFT's,`,
    `the loss −log ${number(p[n])} = ${number(-Math.log(p[n]))}.`,
  );
}

// The token on which soft and hard label disagree most, seen at the present label.
function describe({ p, q, n, s, soft, seqkd, sft }) {
  const label = labelInWords(s, n, p);
  if (soft.every((g) => direction(g).arrow === "·"))
    return said(
      label,
      "The student is the teacher already: the soft label pushes nothing,",
      `the hard label still raises ${LABELS[n]} and lowers the rest.`,
    );
  const [[most, v]] = soft
    .map((g, token) => [g * sft[token] < -1e-12 ? Math.abs(g) : 0, token])
    .sort((a, b) => b[0] - a[0]);
  if (most === 0)
    return said(
      label,
      "Soft and hard label push no token in opposite directions, but their strengths differ:",
      `the hard label does not know how the teacher shares ${number(1 - q[n])} among`,
      "the other tokens.",
    );
  const turn = v === n ? (p[n] - q[n]) / (1 - q[n]) : 1 - p[v] / q[v];
  const [ofSoft, ofHard, now] = [soft, sft, seqkd].map((g) => direction(g[v]).word);
  const still = now === "leaves" ? " where it is" : "";
  return said(
    label,
    `Student and teacher give ${LABELS[v]} ${number(p[v])} and ${number(q[v])}:`,
    `the soft label ${ofSoft} it, the hard label ${LABELS[n]} ${ofHard} it.`,
    s === 0 || s === 1
      ? `The push turns at sharpness ${number(turn)}.`
      : `This label ${now} it${still}; the push turns at ${number(turn)}.`,
  );
}

export default { render };
