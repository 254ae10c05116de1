// The PyTorch code of a formula: the twin of your_loss_code.py, held to the same text by a test.

const SET = {
  log_p: "student_logits.log_softmax(-1)",
  log_q: "teacher_logits.log_softmax(-1).detach()",
  p: "student_logits.softmax(-1)",
  q: "teacher_logits.softmax(-1).detach()",
  z: "student_logits",
  t: "teacher_logits.detach()",
  V: "student_logits.shape[-1]",
};
const [ADDING, MULTIPLYING, NEGATING, RAISING, CLOSE] = [2, 3, 4, 5, 6]; // how tightly code binds
const LEVELS = { "+": ADDING, "-": ADDING, "*": MULTIPLYING, "/": MULTIPLYING, "^": RAISING };
const METHODS = {
  ...Object.fromEntries(
    ["log", "exp", "sqrt", "abs", "sigmoid", "tanh"].map((name) => [name, `.${name}()`]),
  ),
  softmax: ".softmax(-1)",
  log_softmax: ".log_softmax(-1)",
  sum: ".sum()",
  mean: ".mean()",
  sg: ".detach()",
};
const RESERVED = [
  ...["False", "None", "True", "and", "as", "assert", "async", "await", "break", "class"],
  ...["continue", "def", "del", "elif", "else", "except", "finally", "for", "from", "global"],
  ...["if", "import", "in", "is", "lambda", "nonlocal", "not", "or", "pass", "raise", "return"],
  ...["try", "while", "with", "yield", "loss", "token", "student_logits", "teacher_logits"],
  ...["math", "torch", "log_p", "log_q"],
];
const identifier = (name) => (RESERVED.includes(name) ? `${name}_` : name);

// The definition of `loss` in PyTorch, as text.
export function torchCode({ settings, loss }) {
  const used = new Set();
  const code = codeWriter((name) => {
    used.add(name);
    return name;
  });
  const body = [
    ...settings.map(([name, part]) => `${identifier(name)} = ${code(part)[0]}`),
    `return ${code(loss)[0]}`,
  ];
  const lines = Object.keys(SET).filter((name) => used.has(name));
  const imports = ["math", "torch"].filter((name) => used.has(name));
  return [
    ...imports.map((name) => `import ${name}\n`),
    imports.length ? "\n\n" : "",
    `def loss(student_logits, teacher_logits${used.has("k") ? ", token" : ""}):\n`,
    ...[...lines.map((name) => `${name} = ${SET[name]}`), ...body].map((line) => `    ${line}\n`),
  ].join("");
}

// A function from a node to [its code, how tightly that binds]; `use` is told what it needs.
function codeWriter(use) {
  const code = (part) => kinds[part.kind](part);
  const plainly = (part) => code(part)[0];
  const within = (part, least) => {
    const [text, level] = code(part);
    return level >= least ? text : `(${text})`;
  };
  const kinds = {
    number: ({ name }) => [name.replace(/^0+(?=\d)/, ""), CLOSE],
    name: ({ name }) => [Object.hasOwn(SET, name) ? use(name) : identifier(name), CLOSE],
    minus: ({ parts }) => [`-${within(parts[0], NEGATING)}`, NEGATING],
    at({ parts }) {
      use("k");
      return [`${within(parts[0], CLOSE)}[token]`, CLOSE];
    },
    op({ name, parts }) {
      const level = LEVELS[name] ?? 1;
      const raised = name === "^";
      const [left, right] = raised ? [CLOSE, NEGATING] : [level, level + 1];
      const sides = [within(parts[0], left), within(parts[1], right)];
      return [sides.join(raised ? " ** " : ` ${name} `), level];
    },
    of: (part) => [applied(part), CLOSE],
  };
  function applied({ name, parts, plain }) {
    const [inner] = parts;
    if (name === "log" && inner.kind === "name" && Object.hasOwn(SET, `log_${inner.name}`))
      return use(`log_${inner.name}`);
    if (name === "where") return where(...parts);
    if (plain) return ofNumbers(name, parts.map(plainly));
    if (METHODS[name]) return within(inner, CLOSE) + METHODS[name];
    if (name === "clamp")
      return `${within(inner, CLOSE)}.clamp(${parts.slice(1).map(plainly).join(", ")})`;
    if (parts.length === 1) return `${within(inner, CLOSE)}.a${name}()`;
    const tensors = parts.filter((part) => !part.plain);
    if (tensors.length === 1) {
      // torch.minimum takes tensors alone
      const bound = plainly(parts.find((part) => part.plain));
      return `${within(tensors[0], CLOSE)}.clamp(${name === "min" ? "max" : "min"}=${bound})`;
    }
    const both = parts.map(plainly).join(", ");
    return `${use("torch")}.${name}imum(${both})`;
  }
  // Of numbers alone, which PyTorch's functions do not take.
  function ofNumbers(name, codes) {
    if (name === "sg") return `(${codes[0]})`;
    if (name === "sigmoid") return `(1 / (1 + ${use("math")}.exp(-(${codes[0]}))))`;
    if (name === "clamp") return `min(max(${codes[0]}, ${codes[1]}), ${codes[2]})`;
    if (["abs", "min", "max"].includes(name)) return `${name}(${codes.join(", ")})`;
    return `${use("math")}.${name}(${codes[0]})`;
  }
  function where(condition, first, second) {
    let codes = [first, second].map(plainly);
    const test = plainly(condition);
    if (first.plain && second.plain)
      codes = codes.map((each) => `student_logits.new_tensor(${each})`); // else in float32
    return `${use("torch")}.where(${test}, ${codes.join(", ")})`;
  }
  return code;
}
