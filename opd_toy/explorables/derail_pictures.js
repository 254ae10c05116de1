import { put, said, showText, svg } from "./interface.js";
import { pathThrough, roleStyle, scale } from "./pictures.js";

// ---- the answer as a strip of tokens ----

const [CELL, STRIP_TOP] = [20, 24];

// What is written, where the next token comes, each slip, and from where on no text begins so.
// length: the tokens of the longest answer
export function tokenStrip(length) {
  const positions = Array.from({ length }, (_, t) => t);
  const left = (t) => 8 + t * CELL;
  const rect = (t, attributes) =>
    svg("rect", {
      x: left(t) + 1,
      y: STRIP_TOP,
      width: CELL - 2,
      height: 28,
      rx: 4,
      ...attributes,
    });
  const text = (t, y, attributes) =>
    svg("text", { x: left(t) + CELL / 2, y, "text-anchor": "middle", ...attributes });
  const frames = positions.map((t) => rect(t, { class: "opd-outline", style: roleStyle("ink") }));
  const tokens = positions.map((t) => text(t, STRIP_TOP + 19, { class: "opd-heading" }));
  const slips = positions.map((t) => text(t, 16, {}));
  const region = svg("path", { class: "opd-line", style: roleStyle("muted"), d: "" });
  const words = svg("text", { y: STRIP_TOP + 50 });
  const element = svg(
    "svg",
    { viewBox: "0 0 360 78", role: "img", style: "max-width: 34rem" },
    tokens,
    frames,
    slips,
    region,
    words,
  );
  return {
    element,
    // newAt: after how many tokens no training text begins so; past the end: never
    update(answer, at, newAt) {
      positions.forEach((t) => {
        const step = answer[t];
        showText(tokens[t], step?.token ?? "");
        showText(slips[t], step && !step.isRight ? "▼" : "");
        put(frames[t], { visibility: t === at ? "visible" : "hidden" });
      });
      const slip = answer.findIndex((step) => !step.isRight);
      const from = newAt > answer.length ? null : left(newAt - 1);
      const end = left(answer.length);
      put(region, { d: from === null ? "" : `M${from + 2} ${STRIP_TOP + 34}H${end}` });
      showText(words, from === null ? "all of it in a training text" : "in no training text");
      const anchored = from !== null && from > 200;
      put(words, {
        x: from === null ? left(0) + 2 : anchored ? end : from + 2,
        "text-anchor": anchored ? "end" : "start",
      });
      put(element, {
        "aria-label": said(
          `The tokens of the answer: ${answer.map((step) => step.token).join(" ")};`,
          slip < 0 ? "no slip." : `▼ marks a slip, the first at token ${slip + 1}.`,
          from === null ? "" : `No training text has the first ${newAt} tokens.`,
        ),
      });
    },
  };
}

// ---- the next token ----

const [ROW, LEFT, RIGHT] = [22, 46, 286];

// Two bars a token, the student's above the teacher's; what is right is framed.
export function tokenBars(names) {
  const bottom = names.length * ROW;
  const across = scale(0, 1, 0, RIGHT - LEFT);
  const bar = (role, row, shift) =>
    svg("rect", {
      class: "opd-fill",
      style: roleStyle(role),
      x: LEFT,
      y: row * ROW + shift,
      height: 7,
    });
  const rows = names.map((_, row) => [bar("student", row, 4), bar("teacher", row, 12)]);
  const frames = names.map((_, row) =>
    svg("rect", { class: "opd-outline", style: roleStyle("ink"), ...inRow(row) }),
  );
  const marks = names.map((_, row) => svg("text", { x: RIGHT + 6, y: row * ROW + 16 }));
  const element = svg(
    "svg",
    {
      viewBox: `0 0 360 ${bottom + 4}`,
      role: "img",
      "aria-label": said(
        "The student's and the teacher's probability of each next token;",
        "those of the token written and of the right ones are in the table",
      ),
    },
    names.map((name, row) =>
      svg(
        "text",
        { x: 22, y: row * ROW + 16, "text-anchor": "middle" },
        name === "." ? "end" : name,
      ),
    ),
    svg("path", { class: "opd-axis", d: `M${LEFT} 0V${bottom}` }),
    rows,
    frames,
    marks,
  );
  return {
    element,
    update({ token, right, student, teacher }) {
      names.forEach((name, row) => {
        [student, teacher].forEach((who, i) => put(rows[row][i], { width: across(who.all[row]) }));
        put(frames[row], { visibility: right.includes(name) ? "visible" : "hidden" });
        showText(marks[row], name === token ? "◀ written" : "");
      });
    },
  };
}
const inRow = (row) => ({ x: 4, y: row * ROW + 1, width: 36, height: ROW - 2, rx: 4 });

// ---- all answers ----

const BOX = { left: 46, right: 346, top: 12, bottom: 176 };

// Along the answers: the share that no training text begins like, and that with a slip.
export function shareChart({ positions: { unseen, slipped } }) {
  const last = unseen.length - 1;
  const top = Math.ceil(Math.max(...unseen) * 5) / 5;
  const across = scale(0, last, BOX.left, BOX.right);
  const down = scale(0, top, BOX.bottom, BOX.top);
  const points = (shares) => shares.map((share, t) => [across(t), down(share)]);
  const area = `${pathThrough(points(slipped))}V${BOX.bottom}H${BOX.left}Z`;
  const rule = svg("path", { class: "opd-axis", "stroke-dasharray": "2 3" });
  const dots = [unseen, slipped].map((_, i) =>
    svg("circle", { r: 4, class: "opd-point", style: roleStyle(i ? "student" : "ink") }),
  );
  const ticks = [0, top / 2, top];
  const element = svg(
    "svg",
    {
      viewBox: "0 0 360 222",
      role: "img",
      "aria-label": said(
        `Shares of all answers against the tokens written, both growing: to`,
        `${Math.round(100 * unseen[last])} % that no training text begins like,`,
        `${Math.round(100 * slipped[last])} % with a slip`,
      ),
    },
    ticks.map((share) => [
      svg("path", { class: "opd-grid-line", d: `M${BOX.left} ${down(share)}H${BOX.right}` }),
      svg(
        "text",
        { x: BOX.left - 6, y: down(share) + 5, "text-anchor": "end" },
        `${Math.round(100 * share)} %`,
      ),
    ]),
    [0, 5, 10, 15].map((t) =>
      svg("text", { x: across(t), y: BOX.bottom + 18, "text-anchor": "middle" }, String(t)),
    ),
    svg(
      "text",
      { x: (BOX.left + BOX.right) / 2, y: BOX.bottom + 38, "text-anchor": "middle" },
      "tokens written",
    ),
    svg("path", { class: "opd-fill", style: roleStyle("student"), d: area }),
    svg("path", { class: "opd-line", style: roleStyle("ink"), d: pathThrough(points(unseen)) }),
    rule,
    dots,
  );
  return {
    element,
    update(at) {
      put(rule, { d: `M${across(at)} ${BOX.top}V${BOX.bottom}` });
      [unseen, slipped].forEach((shares, i) =>
        put(dots[i], { cx: across(at), cy: down(shares[at]) }),
      );
    },
  };
}
