// The small language of a loss of one position: the twin of your_loss_language.py, which says
// what it is.  A test holds both to the same trees and the same errors.
// A node is { kind, name, parts, position, shape, truth, plain, learns, drawn }.

const LISTS = { p: true, q: false, z: true, t: false }; // does it move with the student?
const among = (names, counts) => Object.fromEntries(names.map((name) => [name, counts]));
export const FUNCTIONS = {
  ...among(["log", "exp", "sqrt", "abs", "sigmoid", "tanh", "sg"], [1]),
  ...among(["sum", "mean", "softmax", "log_softmax"], [1]),
  ...among(["min", "max"], [1, 2]),
  ...among(["clamp", "where"], [3]),
};
const SAME = { ln: "log", detach: "sg", Σ: "sum", "∑": "sum", σ: "sigmoid", "√": "sqrt" };
const SPELLINGS = {
  ...among(["−", "–"], "-"),
  ...among(["·", "×"], "*"),
  "÷": "/",
  "**": "^",
  "≤": "<=",
  "≥": ">=",
  "≠": "!=",
};
const COMPARISONS = ["<", ">", "<=", ">=", "==", "!="];
const PREFIX = ["log", "exp"]; // these need no parentheses before one name: log p[k]
const OF_LIST = ["sum", "mean", "softmax", "log_softmax"];
const PIECE = new RegExp(
  [
    /(?<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)/,
    /(?<name>[A-Za-zΑ-Ωα-ω_][A-Za-zΑ-Ωα-ω0-9_]*|[∑√])/,
    /(?<mark>\*\*|<=|>=|==|!=|[-−–+*·×/÷^()[\],;\n=<>≤≥≠])/,
    /(?<space>\s)/,
    /(?<strange>.)/u,
  ]
    .map((each) => each.source)
    .join("|"),
  "yu",
);

const [LONGEST, DEEPEST] = [300, 30]; // words and signs of a formula; operands within each other

const OPERAND = "a number, a name such as p, a function or “(”";
const KNOWN = `p, q, z, t, V, a name set before, or one of ${Object.keys(FUNCTIONS).join(", ")}`;
const EXAMPLE = "a loss, such as sum(p*(log p - log q))";
const ONE_NUMBER = "one number: add the list up by sum(…) or take the drawn token's entry by [k]";
const NO_STUDENT = "p or z outside of sg(…): as it is, no gradient reaches the student";
const TOO_LONG = `the end: a formula has at most ${LONGEST} words and signs`;
const TOO_DEEP = `at most ${DEEPEST} operands within each other`;
const NOT_COMPARED = "a number or a list; a comparison stands in where(…) alone";

const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);

// What is wrong with a formula: where, and what was expected.
function formulaError(text, position, expected) {
  const before = text.slice(0, position).split("\n");
  const [line, column] = [before.length, [...before.at(-1)].length + 1];
  const place = text.trim().includes("\n") ? `line ${line}, column` : "column";
  const error = new Error(`${place} ${column}: expected ${expected}`);
  const source = text.split("\n")[line - 1];
  return Object.assign(error, { line, column, expected, source });
}

function pieces(text) {
  const found = [];
  PIECE.lastIndex = 0;
  while (PIECE.lastIndex < text.length) {
    const position = PIECE.lastIndex;
    const { groups, 0: word } = PIECE.exec(text);
    const kind = Object.keys(groups).find((each) => groups[each] !== undefined);
    if (kind !== "space") found.push({ kind, word: own(SPELLINGS, word) ?? word, position });
  }
  return [...found, { kind: "end", word: "", position: text.trimEnd().length }];
}

function node(kind, name, parts, position, more = {}) {
  const { like, ...known } = more; // what a name of the reader's own stands for
  const sources = like ? [like] : parts;
  return {
    kind,
    name,
    parts,
    position,
    shape: "number",
    truth: false,
    plain: sources.length > 0 && sources.every((part) => part.plain),
    learns: sources.some((part) => part.learns) && !known.truth && name !== "sg",
    drawn: sources.some((part) => part.drawn),
    ...known,
  };
}

// { text, settings: [[name, node]], loss }; throws a formulaError where it cannot be read.
export function parse(text) {
  const tokens = pieces(text);
  const mine = {};
  let [place, depth, nested] = [0, 0, 0]; // depth of parentheses, of operands

  // ---- reading ----

  function skipLines() {
    while (depth && tokens[place].word === "\n") place += 1; // within parentheses a line goes on
  }
  function now() {
    skipLines();
    return tokens[place];
  }
  function fail(expected, position = now().position) {
    throw formulaError(text, position, expected);
  }
  function take(...words) {
    const { kind, word } = now();
    if (kind !== "mark" || !words.includes(word)) return null;
    place += 1;
    return word;
  }
  const need = (word, expected) => take(word) ?? fail(expected);
  const value = (part) => (part.truth ? fail(NOT_COMPARED, part.position) : part);

  // ---- the grammar ----

  function program() {
    const settings = [];
    for (;;) {
      while (take(";", "\n"));
      const { kind, word: name, position } = now();
      if (kind === "end") fail(EXAMPLE);
      if (kind === "name" && tokens[place + 1].word === "=") {
        setting(name, settings);
        continue;
      }
      const loss = comparison();
      while (take(";", "\n"));
      if (now().kind !== "end") fail("an operator or the end");
      return { text, settings, loss: checked(loss, position) };
    }
  }
  function setting(name, settings) {
    const taken = [LISTS, FUNCTIONS, SAME, { k: 1, V: 1 }];
    if (taken.some((names) => Object.hasOwn(names, name))) fail("a name of your own before “=”");
    place += 2;
    mine[name] = value(total());
    settings.push([name, mine[name]]);
    if (now().kind !== "end" && !take(";", "\n")) fail("an operator, or “;” and the loss");
  }
  function checked(loss, position) {
    value(loss);
    if (loss.shape === "list") fail(ONE_NUMBER, position);
    if (!loss.learns) fail(NO_STUDENT, position);
    return loss;
  }
  function comparison() {
    const left = total();
    const { position } = now();
    const word = take(...COMPARISONS);
    return word ? joined(word, left, total(), position) : left;
  }
  const total = () => chain(["+", "-"], multiplied);
  const multiplied = () => chain(["*", "/"], negated);
  function chain(words, operand) {
    let left = operand();
    for (;;) {
      const { position } = now();
      const word = take(...words);
      if (!word) return left;
      left = joined(word, left, operand(), position);
    }
  }
  function negated() {
    const { position } = now();
    nested += 1;
    if (nested > DEEPEST) fail(TOO_DEEP);
    const found = take("+") ? negated() : take("-") ? minus(position) : power();
    nested -= 1;
    return found;
  }
  function minus(position) {
    const inner = value(negated());
    return node("minus", "-", [inner], position, { shape: inner.shape });
  }
  function power() {
    const base = entry();
    const { position } = now();
    return take("^") ? joined("^", base, negated(), position) : base;
  }
  function joined(word, ...parts) {
    const position = parts.pop();
    parts.forEach(value);
    const shape = parts.some((part) => part.shape === "list") ? "list" : "number";
    return node("op", word, parts, position, { shape, truth: COMPARISONS.includes(word) });
  }
  function entry() {
    let inner = atom();
    for (;;) {
      const { position } = now();
      if (!take("[")) return inner;
      if (inner.shape !== "list" || inner.truth)
        fail("a list over the tokens before “[”, such as p", position);
      if (now().kind !== "name" || now().word !== "k") fail("k, the drawn token");
      place += 1;
      need("]", "“]”");
      inner = node("at", "k", [inner], inner.position, { drawn: true });
    }
  }
  function atom() {
    const { kind, word, position } = now();
    if (kind === "number") {
      place += 1;
      if (!Number.isFinite(Number(word))) fail("a finite number", position);
      return node("number", word, [], position, { plain: true });
    }
    if (kind === "name") {
      place += 1;
      return named(own(SAME, word) ?? word, position);
    }
    if (!take("(")) fail(OPERAND);
    const inner = inside();
    need(")", "an operator or “)”");
    return inner;
  }
  // What stands within parentheses, up to a comma or the end, over lines that end there.
  function inside() {
    depth += 1;
    const found = comparison();
    skipLines();
    depth -= 1;
    return found;
  }
  function named(name, position) {
    if (Object.hasOwn(FUNCTIONS, name)) return call(name, position);
    if (Object.hasOwn(LISTS, name))
      return node("name", name, [], position, { shape: "list", learns: LISTS[name] });
    if (name === "V") return node("name", name, [], position, { plain: true });
    if (name === "k") fail("k in brackets alone, as in p[k]", position);
    const like = own(mine, name) ?? fail(KNOWN, position);
    return node("name", name, [], position, { shape: like.shape, like });
  }
  function call(name, position) {
    if (!take("(")) {
      if (!PREFIX.includes(name)) fail(`“(” after ${name}`);
      if (PREFIX.includes(now().word)) fail(`a name, or “(” after ${name}`);
      const argument = value(entry());
      if (now().word === "^") fail(`parentheses: ${name}(…^…) or (${name} …)^…`);
      return applied(name, [argument], position);
    }
    const counts = FUNCTIONS[name];
    const parts = [inside()];
    while (take(",")) {
      if (parts.length === counts.at(-1))
        fail(`“)”: ${name} takes ${counts.at(-1)}`, tokens[place - 1].position);
      parts.push(inside());
    }
    if (parts.length < counts[0] && now().word === ")") fail(`“,”: ${name} takes ${counts[0]}`);
    const more = parts.length < counts.at(-1);
    need(")", more ? "an operator, “,” or “)”" : "an operator or “)”");
    return applied(name, parts, position);
  }
  // A function of its arguments, where their shapes fit.
  function applied(name, parts, position) {
    parts.forEach((part, i) => {
      if (name !== "where" || i > 0) value(part);
      else if (!part.truth || part.plain) fail("a comparison first, such as p > q", part.position);
    });
    const reduces = OF_LIST.includes(name) || (["min", "max"].includes(name) && parts.length === 1);
    if (reduces && parts[0].shape !== "list")
      fail(`a list over the tokens in ${name}(…), such as p`, parts[0].position);
    if (name === "clamp")
      for (const bound of parts.slice(1))
        if (!bound.plain) fail("a plain number as a bound", bound.position);
    if (name === "log" && parts[0].kind === "at") {
      // log p[k] is (log p)[k]
      const inner = applied("log", parts[0].parts, position);
      return node("at", "k", [inner], position, { drawn: true });
    }
    const lists = parts.some((part) => part.shape === "list");
    const whole = lists && (!reduces || ["softmax", "log_softmax"].includes(name));
    return node("of", name, parts, position, { shape: whole ? "list" : "number" });
  }

  if (tokens.length > LONGEST) fail(TOO_LONG, tokens[LONGEST].position);
  return program();
}
