// Where descent on a formula's expected gradient leads.

import { softmax } from "./mathematics.js";
import { lossTable, meanGradient } from "./your_loss_duals.js";

const EVALUATIONS = 250;
const STRAY = 0.01; // how far, in logits, a step may end beside the true way
const STRIDE = 0.3; // the longest step in logits
const VISIBLE = 0.01; // shorter steps are straight to the eye
const EDGE = 1e-4;
const most = (vector) => Math.max(...vector.map(Math.abs));

// { path, kind }: "rests", "edge" (a probability goes to 0), "moves" (it has not come to rest),
// "still" (no gradient here), "breaks" (a gradient that is no number).
export function descentOf(formula, drawnFrom, student, teacher) {
  const t = teacher.map(Math.log);
  const gradientAt = (z) =>
    meanGradient(lossTable(formula, z, t), drawnFrom === "student" ? softmax(z) : teacher);
  let z = student.map(Math.log);
  let g = gradientAt(z);
  const first = most(g);
  const path = [student];
  if (!Number.isFinite(first)) return { path, kind: "breaks" };
  if (first < 1e-12) return { path, kind: "still" };
  let step = 0.05 / first;
  for (let i = 0; i < EVALUATIONS; i++) {
    step = Math.min(step, STRIDE / most(g));
    const next = z.map((x, v) => x - step * g[v]);
    const ahead = gradientAt(next);
    const bend = most(ahead.map((x, v) => x - g[v]));
    if (!Number.isFinite(bend)) return { path, kind: "breaks" };
    const stray = (step * bend) / 2;
    const steady = most(g) / Math.max(bend, 1e-300); // this times a step: where descent would rest
    const longer = Math.min(2, 0.9 * Math.sqrt(STRAY / Math.max(stray, 1e-300)), steady);
    if (stray > 2 * STRAY && step * most(g) > 1e-4) {
      step *= Math.max(0.2, longer);
      continue;
    }
    if (step * most(g) > VISIBLE) {
      // Heun's step, along the mean of both gradients
      z = z.map((x, v) => x - (step * (g[v] + ahead[v])) / 2);
      g = gradientAt(z);
    } else [z, g] = [next, ahead];
    path.push(softmax(z));
    if (most(g) <= 1e-6 * first) return { path, kind: "rests" };
    if (Math.min(...path.at(-1)) < EDGE) return { path, kind: "edge" };
    step *= longer;
  }
  return { path, kind: "moves" };
}
