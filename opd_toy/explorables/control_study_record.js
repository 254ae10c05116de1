// The recorded study, and what it says at one setting.

import { number, raised, said } from "./interface.js";

// A variance in two digits: 0.31, 4.2, 310, 3.1×10⁴.
export function rough(x) {
  if (!Number.isFinite(x)) return "none";
  const exponent = Math.floor(Math.log10(x));
  if (exponent >= -2 && exponent < 3) return number(x, Math.max(0, 1 - exponent));
  const [mantissa, power] = x.toExponential(1).split("e");
  return `${mantissa}×10${raised(Number(power))}`;
}
export const inTimes = (ratio) =>
  ratio < 999.5 ? number(ratio, ratio < 9.95 ? 1 : 0) : rough(ratio);

// The recording, its numbers unpacked.
export function unpacked({
  gammas,
  seeds,
  tasks,
  variance,
  low,
  high,
  positions,
  reach,
  paths,
  points,
  checkpoints,
  ends,
  ...rest
}) {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const codes = new Uint16Array(bytes(variance).buffer);
  const places = bytes(positions);
  const blocks = codes.length / (gammas.length * seeds.length * tasks.length);
  return {
    ...rest,
    gammas,
    seeds,
    tasks,
    checkpoints,
    blocks,
    points,
    paths,
    reach,
    least: Math.exp(low),
    most: Math.exp(high),
    variance(g, s, t, b) {
      const code = codes[((g * seeds.length + s) * tasks.length + t) * blocks + b];
      return code ? Math.exp(low + ((code - 1) / 65534) * (high - low)) : NaN;
    },
    // the positions of trajectory n at each time step
    path(g, s, c, t, n) {
      const first =
        ((((g * seeds.length + s) * checkpoints.length + c) * tasks.length + t) * paths + n) *
        points;
      return Array.from(
        places.subarray(first, first + points),
        (code) => (code / 255) * 2 * reach - reach,
      );
    },
    end: (g, s, c, t) => ends.map((all) => all[g][s][t][c]), // mean and standard deviation
    after: (c) => (checkpoints[c] ? `After iteration ${checkpoints[c]}` : "Before any training"),
  };
}

// The sentence.  `at`: the places of γ, seed, task, block and checkpoint in the record.
export function describe(study, at, all) {
  return said(`${where(study, at)} ${variance(study, at, all)}.`, trajectories(study, at, all));
}

export const span = ({ block }, { b }) => `${b * block + 1}–${(b + 1) * block}`;

function where(study, at) {
  const [gamma, seed, task] = [study.gammas[at.g], study.seeds[at.s], study.tasks[at.t]];
  return `At iterations ${span(study, at)}, γ = ${gamma}, seed ${seed}, ${task} task,`;
}

function variance({ gammas }, { g }, all) {
  const mine = all[g].variance;
  if (!Number.isFinite(mine)) return "the record has no variance: this run broke down";
  const says = `the gradient’s variance is ${rough(mine)}`;
  const other = g === 0 ? all.length - 1 : 0;
  const ratio = mine / all[other].variance;
  if (!Number.isFinite(ratio)) return says;
  return ratio >= 1
    ? `${says}, ${inTimes(ratio)} times that of γ = ${gammas[other]}`
    : `${says}; that of γ = ${gammas[other]} is ${inTimes(1 / ratio)} times as large`;
}

function trajectories(study, { g, t, c }, all) {
  const [mean, deviation] = all[g].end;
  const target = study.targets[t];
  const miss = (target - mean) * Math.sign(target); // above 0: short of it
  const further = Math.abs(miss) > Math.abs(target - study.starts[t]);
  const side = further ? "away from" : miss > 0 ? "short of" : "beyond";
  const place =
    Math.abs(miss) < 0.005 ? "on the target" : `${number(Math.abs(miss))} ${side} the target`;
  return said(
    `${study.after(c)} its trajectories end at ${number(mean)} ± ${number(deviation)},`,
    `on average ${place} ${number(target, 0)}.`,
  );
}
