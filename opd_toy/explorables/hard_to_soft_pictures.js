import { html, number, put, said, showNumber, svg, tokenName, value } from "./interface.js";
import { note, swatch } from "./controls.js";

export const LABELS = [0, 1, 2, 3, 4].map(tokenName);

// One column a token.  Above, the label as a bar, with the soft label's outline and the
// student's mark; below, on the same scale, the push of a descent step: as far as the
// label stands above the mark.  SFT's push is an outline, which a hard label fills.
export function labelAndPush() {
  const [unit, ground, zero, left, pitch] = [86, 98, 218, 84, 58];
  const each = (make) => LABELS.map((_, v) => make(left + v * pitch));
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
      "aria-label": said(
        "For each token the label and the push of one descent step;",
        "the same numbers are in the table",
      ),
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
      svg("text", { x, y: ground + 17, "text-anchor": "middle" }, LABELS[(x - left) / pitch]),
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
      for (let v = 0; v < LABELS.length; v++) {
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
export function lossBar() {
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
    html("span", { style: "white-space: nowrap" }, swatch(role), words, node);
  const element = html(
    "div",
    {},
    note(
      "soft-label loss ",
      shown[0],
      " = ",
      named("forward-kl", "forward KL ", shown[1]),
      " + ",
      named("teacher", "entropy of the label ", shown[2]),
    ),
    frame,
    note(
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
