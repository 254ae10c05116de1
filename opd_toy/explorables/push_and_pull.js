import {
  alphaDivergence,
  alphaDivergenceLogitGradient,
  floored,
  forwardKl,
  forwardKlLogitGradient,
  generalizedJsd,
  generalizedJsdLogitGradient,
  kl,
  logRatio,
  reverseKl,
  reverseKlLogitGradient,
  setProbability,
  skewedForwardKl,
  skewedForwardKlLogitGradient,
  skewedReverseKl,
  skewedReverseKlLogitGradient,
  step,
  sum,
} from "./mathematics.js";
import {
  bars,
  button,
  card,
  choice,
  direction,
  number,
  put,
  sentence,
  signed,
  slider,
  state,
  svg,
  html,
  table,
  tokenName,
  toolbar,
  triangle,
} from "./interface.js";

const NOTES = { student: [0.2, 0.3, 0.5], teacher: [0.7, 0.2, 0.1] };
const PRESETS = [
  ["The notes' example", NOTES],
  ["Nearly there", { student: [0.6, 0.25, 0.15], teacher: [0.7, 0.2, 0.1] }],
  ["Confident and wrong", { student: [0.03, 0.07, 0.9], teacher: [0.9, 0.07, 0.03] }],
  ["Torn teacher", { student: [0.1, 0.8, 0.1], teacher: [0.475, 0.05, 0.475] }],
];

const OBJECTIVES = {
  forward_kl: {
    label: "forward KL",
    role: "forward-kl",
    cost: forwardKl,
    gradient: forwardKlLogitGradient,
  },
  reverse_kl: {
    label: "reverse KL",
    role: "reverse-kl",
    cost: reverseKl,
    gradient: reverseKlLogitGradient,
  },
  jsd: {
    label: "JSD(β)",
    role: "jsd",
    parameter: "beta",
    cost: generalizedJsd,
    gradient: generalizedJsdLogitGradient,
  },
  alpha: {
    label: "α-divergence",
    role: "jsd",
    parameter: "alpha",
    cost: alphaDivergence,
    gradient: alphaDivergenceLogitGradient,
  },
  skewed_forward_kl: {
    label: "skewed forward KL",
    role: "forward-kl",
    parameter: "skew",
    cost: skewedForwardKl,
    gradient: skewedForwardKlLogitGradient,
  },
  skewed_reverse_kl: {
    label: "skewed reverse KL",
    role: "reverse-kl",
    parameter: "skew",
    cost: skewedReverseKl,
    gradient: skewedReverseKlLogitGradient,
  },
};
const PARAMETERS = {
  beta: { label: "β of the JSD", min: 0, max: 1 },
  alpha: { label: "α of the divergence", min: -0.5, max: 1.5 },
  skew: { label: "skew", min: 0, max: 0.99 },
};
const TOKENS = [0, 1, 2].map(tokenName);
const STEP = 0.5;

// The velocity of the probabilities under gradient flow on the logits.
const velocity = (p, gradient) => {
  const mean = sum(p.map((x, v) => x * gradient[v]));
  return p.map((x, v) => -x * (gradient[v] - mean));
};

// Where forward KL lowers token j and reverse KL raises it: above its teacher's
// probability, on the two sides of the lens where log(p_j/q_j) = KL(p || q).  (Below it
// both raise the token, for KL is never negative.)  KL is convex along a line of
// constant p_j, so bisection from its minimum finds each side's edge.
export function disagreement(teacher, token, rows = 40) {
  const [a, b] = [0, 1, 2].filter((v) => v !== token);
  const share = teacher[a] / (teacher[a] + teacher[b]);
  const at = (height, x) => {
    const p = [0, 0, 0];
    p[token] = height;
    p[a] = (1 - height) * x;
    p[b] = (1 - height) * (1 - x);
    return p;
  };
  const excess = (height, x) => kl(at(height, x), teacher) - Math.log(height / teacher[token]);
  const edge = (height, end) => {
    if (excess(height, end) <= 0) return end;
    let [inside, outside] = [share, end];
    for (let i = 0; i < 30; i++) {
      const middle = (inside + outside) / 2;
      if (excess(height, middle) > 0) outside = middle;
      else inside = middle;
    }
    return outside;
  };
  return [0, 1].map((end) => {
    const inner = [];
    const outer = [];
    for (let i = 0; i <= rows; i++) {
      // rows are close near the teacher, where the lens opens like a square root
      const height = teacher[token] + (1 - teacher[token]) * (i / rows) ** 2;
      inner.push(at(height, edge(height, end)));
      outer.push(at(height, end));
    }
    return [...inner, ...outer.reverse()];
  });
}

function path(student, teacher, gradient) {
  const points = [student];
  for (let i = 0; i < 4000 && points.length < 240; i++) {
    const last = points[points.length - 1];
    const g = gradient(last, teacher);
    const size = Math.max(...g.map(Math.abs));
    if (size < 1e-4) break;
    points.push(step(last, g, Math.min(0.05 / size, 4))); // even spacing, whatever the objective's scale
  }
  return points;
}

const FIELD = (() => {
  const points = [];
  const n = 9;
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n - i; j++)
      points.push([i + 1 / 3, j + 1 / 3, n - i - j - 2 / 3].map((x) => x / n));
  return points.filter((p) => Math.min(...p) > 0.02);
})();

function render({ model, el }) {
  const offered = model.get("objectives");
  const names = ["student", "teacher", "objective", "beta", "alpha", "skew", "token"];
  const initial = Object.fromEntries(names.map((name) => [name, model.get(name)]));
  const self = state(model, names, update);
  const descended = () =>
    offered.includes(self.get("objective")) ? self.get("objective") : offered[0];
  const evaluate = (key, which, p, q) => {
    const { parameter } = OBJECTIVES[key];
    return parameter
      ? OBJECTIVES[key][which](p, q, self.get(parameter))
      : OBJECTIVES[key][which](p, q);
  };

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
  const objective = choice({
    label: "Descend",
    name: "objective",
    options: offered.map((key) => ({
      value: key,
      label: OBJECTIVES[key].label,
      role: OBJECTIVES[key].role,
    })),
    onchange: (key) => self.set({ objective: key }),
  });
  const parameters = Object.entries(PARAMETERS)
    .filter(([key]) => offered.some((name) => OBJECTIVES[name].parameter === key))
    .map(([key, { label, min, max }]) => ({
      key,
      ...slider({
        label,
        min,
        max,
        step: 0.01,
        name: key,
        role: key === "skew" ? undefined : "jsd",
        oninput: (x) => self.set({ [key]: x }),
      }),
    }));
  const token = choice({
    label: "Shade for",
    name: "token",
    options: TOKENS.map((name, index) => ({ value: index + 1, label: name })),
    onchange: (index) => self.set({ token: Number(index) }),
  });

  const pushes = pushChart(offered);
  const numbers = table({
    caption: "logit gradient ∂/∂z of each objective: ▲ descent raises the logit, ▼ lowers it",
    columns: ["token", "p", "q", "log p/q", ...offered.map((key) => OBJECTIVES[key].label)],
    roles: [null, "student", "teacher", null, ...offered.map((key) => OBJECTIVES[key].role)],
    rows: TOKENS,
  });
  const picture = fieldPicture((who, p) => self.set({ [who]: p }));
  const says = sentence();

  card(
    el,
    "Push and pull",
    toolbar(
      PRESETS.map(([label, values]) => button(label, () => self.set(values))),
      button(
        "Take one step",
        () => {
          const [p, q] = [self.get("student"), self.get("teacher")];
          self.set({
            student: floored(step(p, evaluate(descended(), "gradient", p, q), STEP), 0.005),
          });
        },
        { title: `one gradient step of size ${STEP} on the logits` },
      ),
      button("Reset", () => self.set(initial)),
    ),
    html(
      "div",
      { class: "opd-columns" },
      html(
        "div",
        {},
        inputs.map((each) => each.element),
        objective.element,
        parameters.map((each) => each.element),
        pushes.element,
      ),
      html(
        "div",
        {},
        picture.element,
        token.element,
        html(
          "p",
          { class: "opd-note" },
          "Bars: the push of each objective, in the order of the table. In the triangle, drag the two points. Arrows: the way the student moves under the chosen objective; line: its path towards the teacher. Grey: here forward KL lowers the logit of the shaded token while reverse KL raises it.",
        ),
      ),
    ),
    numbers.element,
    says,
  );

  function update() {
    const [p, q, chosen] = [self.get("student"), self.get("teacher"), descended()];
    const gradients = offered.map((key) => evaluate(key, "gradient", p, q));
    inputs[0].update(p);
    inputs[1].update(q);
    objective.update(chosen);
    token.update(self.get("token"));
    parameters.forEach(({ key, update: show }) => show(self.get(key)));
    pushes.update(gradients);
    numbers.update(
      logRatio(p, q).map((ratio, v) => [
        p[v],
        q[v],
        { value: ratio, text: signed(ratio) },
        ...gradients.map((g) => ({
          value: g[v],
          text: `${signed(g[v])} ${direction(g[v]).arrow}`,
          mark: gradients.some((other) => other[v] * g[v] < -1e-12) ? "odd" : "",
        })),
      ]),
    );
    picture.update(p, q, self.get("token") - 1, OBJECTIVES[chosen].role, (x, y) =>
      evaluate(chosen, "gradient", x, y),
    );
    says.textContent = words(p, q, self.get("token") - 1, chosen);
  }

  function words(p, q, j, chosen) {
    const divergence = kl(p, q);
    const ratio = logRatio(p, q)[j];
    const forward = direction(forwardKlLogitGradient(p, q)[j]).word;
    const reverse = direction(reverseKlLogitGradient(p, q)[j]).word;
    const cost = evaluate(chosen, "cost", p, q);
    const verdict =
      forward === reverse
        ? `both forward and reverse KL ${forward.replace(/s$/, "")} it`
        : `forward KL ${forward} it, but reverse KL ${reverse} it: its log-ratio ${number(ratio)} is ${ratio < divergence ? "below" : "above"} the average, KL(p‖q) = ${number(divergence)}`;
    return `${TOKENS[j]} has ${number(p[j])} from the student and ${number(q[j])} from the teacher; ${verdict}. The ${OBJECTIVES[chosen].label} from here is ${number(cost, 3)}.`;
  }

  update();
  return self.stop;
}

// For each token, one bar an objective: to the right the step raises the logit.
function pushChart(offered) {
  const row = 14 * offered.length + 12;
  const height = row * 3 + 22;
  const [middle, reach] = [190, 140];
  const group = TOKENS.map((_, v) =>
    offered.map((key, i) =>
      svg("rect", {
        class: "opd-fill",
        style: `--role: var(--opd-${OBJECTIVES[key].role})`,
        height: 10,
        y: 18 + v * row + i * 14,
      }),
    ),
  );
  const heads = TOKENS.map((_, v) =>
    offered.map((key, i) =>
      svg("path", { class: "opd-fill", style: `--role: var(--opd-${OBJECTIVES[key].role})` }),
    ),
  );
  const frame = svg(
    "svg",
    {
      viewBox: `0 0 360 ${height}`,
      role: "img",
      "aria-label":
        "Push on each token's logit in one descent step; the same numbers are in the table",
    },
    svg("text", { x: middle - 8, y: 10, "text-anchor": "end" }, "◀ lowered"),
    svg("text", { x: middle + 8, y: 10 }, "raised ▶"),
    TOKENS.map((name, v) => svg("text", { x: 4, y: 18 + v * row + row / 2 - 4 }, name)),
    svg("path", { class: "opd-axis", d: `M${middle} 14V${height}` }),
    group,
    heads,
  );
  return {
    element: frame,
    update(gradients) {
      const scale =
        reach / Math.max(0.5, ...gradients.flat().map(Math.abs).filter(Number.isFinite));
      gradients.forEach((g, i) =>
        g.forEach((x, v) => {
          const length = Number.isFinite(x) ? -x * scale : -Math.sign(x) * reach;
          const y = 18 + v * row + i * 14;
          const tip = middle + length;
          const head = Math.sign(length) * Math.min(7, Math.abs(length));
          put(group[v][i], {
            x: Math.min(middle, tip - head),
            width: Math.max(Math.abs(length - head), 0),
          });
          put(heads[v][i], { d: `M${tip} ${y + 5}L${tip - head} ${y - 2}V${y + 12}Z` });
        }),
      );
    },
  };
}

function fieldPicture(moved) {
  const regions = [0, 1].map(() => svg("path", { class: "opd-region" }));
  const arrows = svg("path", { class: "opd-arrow" });
  const line = svg("path", { class: "opd-path" });
  const handles = {
    teacher: triangle.handle("teacher", "teacher", (q) => moved("teacher", q)),
    student: triangle.handle("student", "student", (p) => moved("student", p)),
  };
  const element = triangle.frame(
    "The probability triangle: student, teacher, descent field and path. The bars set the same two points.",
    regions,
    arrows,
    line,
    handles.teacher.element,
    handles.student.element,
  );
  Object.values(handles).forEach((handle) => handle.attach(element));
  let shaded = "";
  return {
    element,
    update(p, q, token, role, gradient) {
      const key = JSON.stringify([q, token]);
      if (key !== shaded) {
        shaded = key;
        disagreement(q, token).forEach((polygon, i) =>
          put(regions[i], { d: `${triangle.path(polygon)}Z` }),
        );
      }
      const strokes = FIELD.map((point) => {
        const speed = velocity(point, gradient(point, q));
        const [x, y] = triangle.point(point);
        const ahead = triangle.point(point.map((value, v) => value + speed[v]));
        const [dx, dy] = [ahead[0] - x, ahead[1] - y];
        const length = Math.hypot(dx, dy);
        if (!(length > 1e-9)) return "";
        const size = 15 * Math.min(1, 0.35 + Math.sqrt(length) / 8);
        const [ux, uy] = [(dx / length) * size, (dy / length) * size];
        const [tx, ty] = [x + ux / 2, y + uy / 2];
        return (
          `M${(x - ux / 2).toFixed(1)} ${(y - uy / 2).toFixed(1)}L${tx.toFixed(1)} ${ty.toFixed(1)}` +
          `M${(tx - 0.3 * ux + 0.2 * uy).toFixed(1)} ${(ty - 0.3 * uy - 0.2 * ux).toFixed(1)}L${tx.toFixed(1)} ${ty.toFixed(1)}L${(tx - 0.3 * ux - 0.2 * uy).toFixed(1)} ${(ty - 0.3 * uy + 0.2 * ux).toFixed(1)}`
        );
      });
      put(arrows, { d: strokes.join(""), style: `--role: var(--opd-${role})` });
      put(line, { d: triangle.path(path(p, q, gradient)), style: `--role: var(--opd-${role})` });
      handles.student.update(p);
      handles.teacher.update(q);
    },
  };
}

export default { render };
