// What the slider of the derailing answer says, and its answers as it needs them.

import { listed, percent, said } from "./interface.js";

// The positions of an answer: token, which would be right, both models' probabilities, whether
// all until here begins a training text.
export function steps({ tokens, right, new_at: newAt, probabilities }, names) {
  const models = (t) =>
    probabilities.map((of) => {
      const at = (token) => of[t][names.indexOf(token)];
      const sum = [...right[t]].reduce((total, token) => total + at(token), 0);
      return { all: of[t], written: at(tokens[t]), right: sum };
    });
  return [...tokens].map((token, t) => {
    const [student, teacher] = models(t);
    const before = tokens.slice(0, t);
    const isRight = right[t].includes(token);
    return { token, right: right[t], isRight, student, teacher, before, unseen: t >= newAt };
  });
}

export const question = ({ terms }) => `${terms.join(" + ")} = ?`;

// The working as people write it, high digit first: "9 + 8 = 17, + 9 = …6".
export function readable(written) {
  const turned = (digits) => [...digits].reverse().join("");
  const parts = written.split(/([+=.])/).filter(Boolean);
  const words = parts.map((part, i) => {
    const afterSum = parts[i - 2] === "=";
    if (part === ".") return "";
    if (!/\d/.test(part)) return afterSum ? `, ${part} ` : ` ${part} `;
    return i === parts.length - 1 && parts[i - 1] === "=" ? `…${turned(part)}` : turned(part);
  });
  return words.join("").trim();
}

const named = (token) => (token === "." ? "the end" : token);

export function describe(answer, at) {
  const { token, right, isRight, student, teacher, before, unseen } = answer[at];
  const slips = answer.slice(0, at).filter((step) => !step.isRight).length;
  const written = at ? `Written so far: “${readable(before)}”` : "Nothing is written yet";
  const history = slips
    ? `${slips === 1 ? "One slip" : `${slips} slips`}, and no training text begins so.`
    : unseen
      ? "No slip, though no training text begins so."
      : "Training texts begin so.";
  const wanted = right.length > 1 ? `one of ${listed([...right])}` : named(right);
  return said(
    `${written}.`,
    history,
    `Right would be ${wanted}: the student gives that ${percent(student.right, 1)},`,
    `the teacher ${percent(teacher.right, 1)}.`,
    `It writes ${named(token)}${isRight ? "" : slips ? ": another slip" : ": a slip"}.`,
  );
}
