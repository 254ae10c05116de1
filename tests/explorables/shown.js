// A tour of an explorable, and in few lines what it shows after each step: see shown.py.

const NUMBER = /-?\d+(\.\d+)?(e[-+]?\d+)?/g;
const MEASURE = / (d|r|[xy][12]?|c[xy]|width|height|transform|style|opacity|stroke-\w+)="([^"]*)"/g;
// ids differ from page to page, and whole numbers are held to the engine's
const LEFT_OUT = / (id|for|name|aria-(?:labelledby|describedby)|clip-path|data-value)="[^"]*"/g;

// Coordinates as a sum, that moves when one of them does; all else as a hash.
const signature = (html) => {
  const numbers = [];
  const words = html.replace(LEFT_OUT, "").replace(MEASURE, (_, name, text) => {
    const times = /^(style|opacity|stroke)/.test(name) ? 100 : 1;
    return name + text.replace(NUMBER, (x) => (numbers.push(times * x), "#"));
  });
  let hash = 0;
  for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ words.charCodeAt(i), 16777619);
  // all of one sign, so that equal shifts add up, and no two alike
  const sum = numbers.reduce((total, x, i) => total + (1 + ((0.618034 * i) % 1)) * x, 0);
  return `${(hash >>> 0).toString(36)} ${sum.toFixed(1)}`;
};

// {part of the explorable: what it shows}: the sentence, what stands outside of the pictures, and
// each picture by its size.
const look = (root) => {
  const pieces = root.innerHTML.split(/<svg|<\/svg>/);
  const inputs = [...root.querySelectorAll("input, textarea")];
  const held = inputs.map(({ type, value, checked }) =>
    type === "range" ? ` x="${100 * value}"` : `${value} ${checked}`,
  );
  const parts = { page: [...pieces.filter((_, i) => i % 2 === 0), ...held].join() };
  for (const picture of pieces.filter((_, i) => i % 2))
    parts[picture.match(/viewBox="0 0 ([^"]*)"/)[1]] = "";
  for (const picture of pieces.filter((_, i) => i % 2))
    parts[picture.match(/viewBox="0 0 ([^"]*)"/)[1]] += picture;
  return parts;
};

// ---- moving ----

const shown = (root, selector) =>
  [...root.querySelectorAll(selector)].filter((node) => node.getClientRects().length);

const moveTo = (input, value) => {
  input.value = value;
  input.dispatchEvent(new Event("input", { bubbles: true }));
};

// To a point of its picture.
const drag = (handle, x, y) => {
  const at = new DOMPoint(x, y).matrixTransform(handle.ownerSVGElement.getScreenCTM());
  handle.setPointerCapture = handle.hasPointerCapture = () => true; // there is no such pointer
  for (const kind of ["pointerdown", "pointermove"])
    handle.dispatchEvent(new PointerEvent(kind, { clientX: at.x, clientY: at.y }));
};

const byAddress = (name, state) =>
  new Promise((done) => {
    addEventListener("hashchange", () => done(), { once: true });
    const before = location.href;
    location.hash = `${name}=${encodeURIComponent(JSON.stringify(state))}`;
    if (location.href === before) done();
  });

// What can be pressed, shown or not.
const pressed = (root) =>
  [...root.querySelectorAll("button:enabled, .opd-press")].filter(
    ({ textContent }) => textContent !== "Reset",
  );

// The steps of the tour, each done when its title is there.
function* steps(root) {
  const reset = () => shown(root, "button").find((each) => each.textContent === "Reset").click();
  const moves = function* (view) {
    for (const input of shown(root, "input[type=range]"))
      for (const share of [0, 1, 0.37]) {
        moveTo(input, Number(input.min) + share * (input.max - input.min));
        yield `${view}${input.name} at ${share} of its way`;
      }
    for (const handle of shown(root, "[data-handle]"))
      for (const [x, y] of [
        [150, 180],
        [240, 90],
      ]) {
        drag(handle, x, y);
        yield `${view}${handle.dataset.handle} to ${x}, ${y}`;
      }
    reset();
  };
  yield "at first";
  for (const node of pressed(root)) {
    node.dispatchEvent(new Event("click"));
    yield `pressed ${node.textContent}`;
    reset();
  }
  yield* moves("");
  const labels = () => shown(root, ".opd-choice label, .opd-checks label");
  const first = labels();
  for (const label of first) {
    label.click();
    yield label.textContent;
    if (!label.closest('[data-name="view"]')) continue;
    const view = `${label.textContent}: `;
    for (const other of labels().filter((each) => !first.includes(each))) {
      other.click();
      yield view + other.textContent;
    }
    yield* moves(view);
  }
  reset();
}

// The animation, frame by frame: from where it stands, paused, to its end and from there again.
function* play(root) {
  const button = shown(root, "button").find((each) => each.textContent === "Play");
  if (!button) return;
  let [waiting, now] = [null, 1000];
  window.requestAnimationFrame = (frame) => ((waiting = frame), 1);
  window.cancelAnimationFrame = () => (waiting = null);
  const frames = function* (count) {
    for (let i = 0; i < count && waiting; i++) {
      const frame = waiting;
      waiting = null;
      frame((now += 21)); // milliseconds
      yield `frame at ${now}`;
    }
  };
  const press = function* (reduced) {
    window.matchMedia = () => ({ matches: reduced });
    button.click();
    yield button.textContent;
  };
  yield* press(false);
  yield* frames(50);
  yield* press(false);
  yield* frames(9); // of which there is none
  yield* press(false);
  for (const title of frames(2000)) if (!waiting) yield `ended by the ${title}`;
  yield* press(true);
  yield* press(false);
  yield* frames(7);
  yield* press(true);
}

// What is typed is shown at once, and said after a pause; what is pressed is said at once.
function* type(root) {
  const field = root.querySelector("textarea");
  if (!field) return;
  const [later, never, waiting] = [window.setTimeout, window.clearTimeout, new Map()];
  let count = 1e6;
  window.setTimeout = (act) => (waiting.set(++count, act), count);
  window.clearTimeout = (timer) => waiting.delete(timer);
  for (const text of ["sum(p*", "sum(p*p)", "log p", "log q[k]", "log p[k]"]) {
    field.value = text;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    yield `typed ${text}`;
    const acts = [...waiting.values()];
    waiting.clear();
    for (const act of acts) act();
    yield `and paused after ${text}`;
  }
  for (const node of pressed(root)) {
    node.dispatchEvent(new Event("click"));
    yield `then ${node.textContent}`;
  }
  [window.setTimeout, window.clearTimeout] = [later, never];
}

// [title, sentence, parts] of each step that changes something: of what has changed, a line each.
const tour = async (root, states) => {
  const found = [];
  let before = {};
  const note = (title) => {
    const now = look(root);
    const changed = Object.entries(now).filter(([part, html]) => html !== before[part]);
    const parts = changed.map(([part, html]) => `${part}: ${signature(html)}`);
    const sentence = root.querySelector("[aria-live]").textContent;
    const said = sentence === before.sentence ? "" : `${sentence}\n`;
    if (said || parts.length) found.push([title, said, `${parts.join(" | ")}\n`]);
    before = { ...now, sentence };
  };
  for (const title of steps(root)) note(title);
  for (const title of play(root)) note(title);
  for (const title of type(root)) note(title);
  shown(root, "button").find((each) => each.textContent === "Reset").click();
  await new Promise((done) => setTimeout(done, 200)); // until the address is written
  for (const state of states) {
    await byAddress(root.dataset.explorable, state);
    note(JSON.stringify(state));
  }
  for (const node of pressed(root)) {
    node.dispatchEvent(new Event("click"));
    note(`and then ${node.textContent}`);
  }
  return found;
};
