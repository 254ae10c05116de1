// The methods, the quantities, the axes, and a record of a study unpacked.

import { number } from "./interface.js";

// The methods by whose texts they train on; `brief` stands beside a curve.  The colour
// tells the loss, the dashes tell those of one colour apart; a longer dash looks further ahead.
const method = (name, words, brief, role, dashes) => ({ name, words, brief, role, dashes });
export const GROUPS = [
  {
    title: "Teacher’s texts",
    more: "off-policy",
    methods: [
      method("sft", "SFT", "SFT", "forward-kl", "2 4"),
      method("seqkd", "SeqKD", "SeqKD", "forward-kl", "none"),
      method("off_policy_reverse_kl", "reverse KL off-policy", "rev. off", "reverse-kl", "2 4"),
    ],
  },
  {
    title: "Own texts",
    more: "the full vocabulary",
    methods: [
      method("on_policy_forward_kl", "forward KL on-policy", "fwd. on", "forward-kl", "9 4"),
      method("gkd", "GKD", "GKD", "reverse-kl", "none"),
      method("jsd", "JSD", "JSD", "jsd", "none"),
      method("top_k", "top k", "top k", "reverse-kl", "9 4"),
    ],
  },
  {
    title: "Own texts",
    more: "the drawn token",
    methods: [
      method("pg_0", "PG γ = 0", "PG 0", "policy-gradient", "2 4"),
      method("pg_0.5", "PG γ = 0.5", "PG .5", "policy-gradient", "5 4"),
      method("pg_0.9", "PG γ = 0.9", "PG .9", "policy-gradient", "9 4"),
      method("pg_1", "PG γ = 1", "PG 1", "policy-gradient", "15 4"),
      method("pg_baseline", "PG with baseline", "PG base", "policy-gradient", "8 3 2 3"),
    ],
  },
  {
    title: "Own texts",
    more: "with a reward",
    methods: [
      method("opd_reward", "OPD + reward", "OPD+R", "policy-gradient", "none"),
      method("rlvr", "reward alone", "RLVR", "policy-gradient", "16 3 2 3"),
    ],
  },
];
export const METHODS = GROUPS.flatMap(({ methods }) => methods);

// `better`: 1 where more is better, -1 where less is; `digits` shown, of hundredths for shares.
export const QUANTITIES = {
  accuracy: {
    label: "accuracy",
    axis: "Right answers on test prompts",
    better: 1,
    share: true,
    digits: 1,
    leads: "is right most often",
  },
  sequence_kl: {
    label: "sequence KL",
    axis: "KL(p‖q) of whole texts, nats",
    better: -1,
    digits: 2,
    unit: "nats",
    leads: "has the least sequence KL",
  },
  forward_sequence_kl: {
    label: "forward KL",
    axis: "KL(q‖p) of whole texts, nats",
    better: -1,
    digits: 2,
    unit: "nats",
    leads: "has the least forward sequence KL",
  },
  order_entropy: {
    label: "order entropy",
    axis: "Entropy of the order of right workings, nats",
    better: 1,
    digits: 2,
    unit: "nats",
    leads: "spreads its right workings most evenly over the orders",
  },
  distinct: {
    label: "workings",
    axis: "Distinct right workings in 16 draws",
    better: 1,
    digits: 2,
    unit: "workings",
    leads: "finds the most distinct right workings",
  },
  length: {
    label: "length",
    axis: "Length of a text, tokens",
    better: 1,
    digits: 1,
    unit: "tokens",
    leads: "writes the longest texts",
  },
};
export const shown = (quantity, x) =>
  quantity.share ? `${number(100 * x, quantity.digits)} %` : number(x, quantity.digits);
export const inWords = (quantity, x) =>
  quantity.share ? shown(quantity, x) : `${shown(quantity, x)} ${quantity.unit}`;
// in units of the last digit shown
export const rounded = ({ share, digits }, x) => Math.round((share ? 100 : 1) * x * 10 ** digits);

const amount = (x) =>
  x >= 999500
    ? `${number(x / 1e6, 2)} million`
    : x >= 9999.5
      ? `${number(x / 1000, 0)} thousand`
      : number(x, 0);
export const PLACES = {
  tokens: {
    label: "tokens",
    text: (x) => `${amount(x)} tokens`,
    brief: (x) =>
      x >= 999500
        ? `${number(x / 1e6, 2)}M tokens`
        : x >= 9999.5
          ? `${number(x / 1000, 0)}k tokens`
          : `${x} tokens`,
    tick: (x) => (x >= 1e6 ? `${x / 1e6}M` : x >= 1000 ? `${x / 1000}k` : String(x)),
    title: "tokens trained on",
  },
  steps: {
    label: "steps",
    text: (x) => `${number(x, 0)} steps`,
    brief: (x) => `${number(x, 0)} steps`,
    tick: String,
    title: "steps",
  },
  seconds: {
    label: "seconds",
    text: (x) => `${number(x, x < 99.95 ? 1 : 0)} seconds`,
    brief: (x) => `${number(x, x < 99.95 ? 1 : 0)} s`,
    tick: String,
    title: "seconds",
  },
};

// ---- the recording ----

// One record, its numbers unpacked: every run's columns, and what is read off them.
export function unpacked({
  methods,
  seeds,
  longest,
  columns,
  logarithmic,
  scales,
  codes,
  ends,
  ...rest
}) {
  const integers = new Uint16Array(
    Uint8Array.from(atob(codes), (letter) => letter.charCodeAt(0)).buffer,
  );
  const all = columns.map((name, c) => {
    const [low, high] = scales[c];
    const one = (code) => (code ? low + ((code - 1) / 65534) * (high - low) : NaN);
    const decoded = logarithmic.includes(name) ? (code) => Math.exp(one(code)) : one;
    return methods.map((_, m) =>
      Array.from({ length: seeds }, (_, s) => {
        const first = ((c * methods.length + m) * seeds + s) * longest;
        return Array.from(integers.subarray(first, first + longest), decoded);
      }),
    );
  });
  const runs = (method, column) => all[columns.indexOf(column)][methods.indexOf(method)];
  const grain = Object.fromEntries(
    columns.map((name, c) => [name, (scales[c][1] - scales[c][0]) / 65534]),
  );
  const study = {
    ...rest,
    methods,
    seeds,
    logarithmic,
    end: (method, axis) => ends[axis][method],
    furthest: (axis) => Math.max(...methods.map((method) => ends[axis][method])),
    // Mean, least and greatest over the seeds where `axis` is at `x`, and how many have a value.
    at(method, column, axis, x) {
      if (x > ends[axis][method])
        return { ended: true, mean: NaN, least: NaN, greatest: NaN, count: 0 };
      const places = runs(method, axis);
      const values = runs(method, column)
        .map((run, s) => between(places[s], run, x, grain[axis]))
        .filter(Number.isFinite);
      const mean = values.reduce((total, each) => total + each, 0) / values.length;
      return {
        mean,
        least: Math.min(...values),
        greatest: Math.max(...values),
        count: values.length,
      };
    },
    // The same wherever a run was measured.
    curve(method, column, axis) {
      const xs = [
        ...new Set(
          runs(method, axis)
            .flat()
            .filter((x) => x <= ends[axis][method]),
        ),
        ends[axis][method],
      ].sort((a, b) => a - b);
      return xs
        .map((x) => ({ x, ...study.at(method, column, axis, x) }))
        .filter(({ count }) => count);
    },
  };
  return study;
}

// The value at x on the line between a run's measurements; NaN behind its end, of which `grain` is
// the rounding.
function between(xs, ys, x, grain) {
  let i = xs.length - 1;
  while (i > 0 && !(xs[i] <= x)) i -= 1; // places behind a run's end are NaN
  if (xs[i] === x) return ys[i];
  if (i === xs.length - 1 || Number.isNaN(xs[i + 1])) return x - xs[i] <= grain ? ys[i] : NaN;
  return ys[i] + ((x - xs[i]) / (xs[i + 1] - xs[i])) * (ys[i + 1] - ys[i]);
}
