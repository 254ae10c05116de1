import { listed, number, said } from "./interface.js";
import { inWords, rounded, shown } from "./learning_curves_study.js";

// The sentence.  `reading`: the setting, what each method has there (`readings`), and those that
// have a value, the best first (`ranked`).
export function describe(reading) {
  const { study, readings, ranked, x, place } = reading;
  const where = x ? `After ${place}` : "Before any training";
  if (!readings.length)
    return said(
      "No method is switched on: switch some on to compare their curves.",
      levels(reading),
    );
  if (!ranked.length)
    return said(`${where} there is nothing to compare.`, missing(readings), levels(reading));
  const compared =
    ranked.length === 1
      ? [`${where} ${alone(reading)}.`]
      : [`${where} ${lead(reading)}.`, overlap(reading)];
  return said(...compared, missing(readings), past(study, reading));
}

const wordsOf = (methods) => listed(methods.map(({ words }) => words));

function levels({ study, what, measure }) {
  const known = ["teacher", "start"].filter((who) => Number.isFinite(study[who][what]));
  return said(...known.map((who) => `The ${who} is at ${inWords(measure, study[who][what])}.`));
}

function missing(readings) {
  const ended = readings.filter((each) => each.ended);
  const broken = readings.filter((each) => !each.count && !each.ended);
  return said(
    ended.length && `Ended before: ${wordsOf(ended)}.`,
    broken.length && `Without a value here: ${wordsOf(broken)}.`,
  );
}

function alone({ ranked: [only], measure }) {
  const seeds = [only.least, only.greatest].map((y) => shown(measure, y)).join(" to ");
  return `${only.words} is at ${inWords(measure, only.mean)}, its seeds from ${seeds}`;
}

const levelWith = ({ ranked, measure }) =>
  ranked.filter(({ mean }) => rounded(measure, mean) === rounded(measure, ranked[0].mean));

function lead(reading) {
  const { ranked, measure } = reading;
  const [[first], level] = [ranked, levelWith(reading)];
  const next = ranked[level.length];
  const says =
    level.length > 1
      ? `${wordsOf(level)} are level at ${inWords(measure, first.mean)}`
      : `${first.words} ${measure.leads}: ${inWords(measure, first.mean)}`;
  if (!next) return says;
  const steps = Math.abs(rounded(measure, first.mean) - rounded(measure, next.mean));
  const gap = number(steps / 10 ** measure.digits, measure.digits);
  const [unit, more] = [measure.unit ?? "points", measure.better > 0 ? "more" : "less"];
  return `${says}, ${gap} ${unit} ${more} than ${next.words}`;
}

// Whose seeds overlap those of the first.
function overlap(reading) {
  const { ranked } = reading;
  const [first, rest] = [ranked[0], ranked.slice(levelWith(reading).length)];
  if (!rest.length) return "";
  const near = rest.filter((each) => each.least <= first.greatest && first.least <= each.greatest);
  const those = near.length > 1 ? `those of ${wordsOf(near)}` : `that of ${wordsOf(near)}`;
  const all = near.length === rest.length && near.length > 2;
  const whom = !near.length ? "no other" : all ? "all others" : those;
  return `The seed band of ${first.words} overlaps ${whom}.`;
}

// Whether any passes the teacher; for what has no teacher's level, where the start was.
function past(study, { ranked, what, measure }) {
  const [teacher, start] = [study.teacher[what], study.start[what]];
  if (measure.better < 0 || !Number.isFinite(teacher))
    return Number.isFinite(start) && `The start was at ${inWords(measure, start)}.`;
  const above = ranked.filter(({ mean }) => rounded(measure, mean) > rounded(measure, teacher));
  const level = `the teacher’s ${inWords(measure, teacher)}`;
  if (!above.length) return `None is above ${level}.`;
  const each = above.map(
    ({ words, least }) => `${words} (${least > teacher ? "every seed" : "the mean"})`,
  );
  return `Above ${level}: ${listed(each)}.`;
}

// What the table is of.
export function captionOf({ study, what, measure, x, place }) {
  const share = study.teacher[what];
  const error = 100 * Math.sqrt((share * (1 - share)) / study.prompts);
  return said(
    `${measure.axis}, ${x ? `after ${place}` : "before any training"}:`,
    `mean, least and greatest of ${study.seeds} seeds.`,
    `${study.words}, ${study.prompts} test prompts, the same for all.`,
    measure.share &&
      Number.isFinite(share) &&
      `The standard error of the teacher’s share is ${number(error, 1)} points.`,
  );
}
