import { sum } from "./mathematics.js";
import {
  direction,
  html,
  put,
  showNumber,
  showText,
  signed,
  svg,
  TOKENS,
  value,
} from "./interface.js";
import { button, choice } from "./controls.js";
import { roleStyle, scale } from "./pictures.js";
import { POSITIONS, prefixOf, T, tokensOf, V } from "./credit_weights.js";

const SCHEMES = [
  {
    title: "Teacher: a token costs r = log p/q",
    role: "policy-gradient",
    schemes: [
      { key: "immediate", name: "own cost", rule: "its own r" },
      { key: "discounted", name: "discounted", rule: "later r × γ a step" },
      { key: "reward_to_go", name: "reward-to-go", rule: "r from here on" },
      { key: "full_return", name: "full return", rule: "r of all tokens" },
      { key: "gae", name: "GAE", rule: "surprises × γλ a step" },
    ],
  },
  {
    title: "Outcome: R = 1 for at least two t₁, else 0",
    role: "ink",
    schemes: [
      { key: "outcome", name: "outcome", rule: "−R everywhere" },
      { key: "broadcast", name: "outcome, summed", rule: "−R a token left" },
      { key: "fipo", name: "FIPO", rule: "f × advantage" },
    ],
  },
];
const PARTS = {
  immediate: "its own r",
  discounted: "r × γ a step",
  reward_to_go: "r from here on",
  full_return: "r of all",
  gae: "γλ to the distance × surprise",
  outcome: "−R, paid at the end",
  broadcast: "−R at each",
  fipo: "γ to the distance × shift of log p",
};

// ---- the sequence: at each position three tokens, one of them drawn ----

export function pathPicker(picked) {
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

function weightBar(role) {
  const rect = svg("rect", { class: "opd-fill", style: roleStyle(role), x: 22, width: 56 });
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
}

function weightRow(head, role) {
  const bars = POSITIONS.map(() => weightBar(role));
  const cells = bars.map((each) => each.cell);
  return { bars, row: html("tr", {}, html("th", { scope: "row" }, head), cells) };
}

const groupRow = (...children) =>
  html("tr", { class: "opd-group" }, html("th", { scope: "colgroup", colspan: T + 1 }, children));

// The radio buttons stand in the table's heads, one a row; `keys` are the schemes that have one.
export function weightRows(keys, chosen) {
  const radios = choice({
    label: "Scheme",
    name: "scheme",
    options: keys.map((key) => ({ value: key, label: "" })),
    onchange: chosen,
  });
  const labels = [...radios.element.querySelectorAll("label")];
  const groups = amongSchemes(keys).map(({ title, role, schemes }) => ({
    title,
    more: button("Show", () => chosen(schemes[0].key), {
      class: "opd-button opd-narrow",
      "aria-label": `Show: ${title}`,
    }),
    schemes: schemes.map(({ key, name, rule }) => {
      const label = labels[keys.indexOf(key)];
      label.append(html("span", {}, name, html("small", {}, rule)));
      return { key, ...weightRow(label, role) };
    }),
  }));
  const [title, name] = [html("span"), html("span")];
  const parts = { title, name, ...weightRow(name, "ink") };
  labels.forEach((label) => label.parentNode === radios.element && label.remove());
  radios.element.classList.add("opd-weights");
  radios.element.querySelector("legend").classList.add("opd-unseen");
  radios.element.append(weightTable(groups, parts));
  return {
    element: radios.element,
    update(result, scheme, position) {
      radios.update(scheme);
      groups.forEach((group) => showGroup(group, parts, result, scheme, position));
    },
  };
}

const amongSchemes = (keys) =>
  SCHEMES.map((group) => ({
    ...group,
    schemes: group.schemes.filter(({ key }) => keys.includes(key)),
  })).filter(({ schemes }) => schemes.length);

const weightTable = (groups, parts) =>
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
        "Weight on ∇log p of the token drawn. A cost is descended: above 0 the token is pushed ",
        "down ▼, below 0 it is raised ▲. A reward enters with a minus sign.",
      ),
      html("colgroup", {}, html("col", { class: "opd-first" })),
      html(
        "tbody",
        {},
        groups.map(({ title, more, schemes }) => [
          groupRow(title, more),
          schemes.map(({ row }) => row),
        ]),
        groupRow(parts.title),
        parts.row,
      ),
    ),
  );

// On a phone the group that is not chosen is folded.
function showGroup({ more, schemes }, parts, result, scheme, position) {
  const open = schemes.some(({ key }) => key === scheme);
  more.hidden = open;
  const shared = range(schemes.flatMap(({ key }) => result.weights[key]));
  for (const { key, row, bars } of schemes) {
    row.dataset.on = String(key === scheme);
    row.dataset.open = String(open);
    showBars(bars, result.weights[key], shared, position);
  }
  if (!open) return;
  const found = result.parts(scheme, position);
  const what = scheme === "fipo" ? "FutureKL" : "weight";
  showText(parts.title, `Token ${position + 1}'s ${what}, ${signed(sum(found))}, as a sum`);
  showText(parts.name, PARTS[scheme]);
  const shifts = scheme === "fipo"; // of log p: no weights, so a scale of their own and no arrows
  showBars(parts.bars, found, range(shifts ? found : [...shared, ...found]), position);
  if (shifts) parts.bars.forEach(({ text, cell }, u) => write(text, cell, found[u]));
}

const range = (weights) => [Math.min(0, ...weights), Math.max(0, ...weights)];

function showBars(bars, weights, [low, high], position) {
  const up = high > low ? scale(low, high, 38, 2) : () => 20;
  bars.forEach(({ rect, zero, text, cell }, t) => {
    put(zero, { d: `M0 ${up(0).toFixed(2)}H100` });
    put(rect, {
      y: Math.min(up(0), up(weights[t])).toFixed(2),
      height: Math.abs(up(weights[t]) - up(0)).toFixed(2),
    });
    write(text, cell, weights[t], ` ${direction(weights[t]).arrow}`);
    cell.dataset.column = t === position ? "on" : "";
  });
}

function write(text, cell, x, arrow = "") {
  showText(text, `${signed(x)}${arrow}`);
  cell.dataset.value = String(x);
}
