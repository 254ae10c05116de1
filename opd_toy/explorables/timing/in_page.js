// Run in the page of one explorable: how long it takes to follow its controls.  A time is three,
// in ms: until the scripts have ended, until all is laid out, until the frame is drawn.

// Calls back when the frame that is being made has been drawn.
const drawn = (then) => {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = then;
  port2.postMessage(null); // heard after style, layout and paint
};

// Does `act` where a frame begins, as the browser does with what a pointer did.
const timed = (act, frame = requestAnimationFrame) =>
  new Promise((done) =>
    frame((now) => {
      const times = [];
      const began = performance.now();
      const note = () => times.push(performance.now() - began);
      act(now);
      note();
      document.body.getBoundingClientRect(); // asks for the layout, which the frame needs anyway
      note();
      drawn(() => {
        note();
        done(times);
      });
    }),
  );

// ---- the controls: each has a name, and moves to its k-th value ----

// Far apart and never twice in a row, in the end all over [0, 1].
const spread = (k, irrational = 0.618034) => (0.37 + irrational * k) % 1;
const nth = (list, k) => list[k % list.length];
const happens = (node, Kind, name, more) =>
  node.dispatchEvent(new Kind(name, { bubbles: true, ...more }));

const range = (input) => ({
  name: input.ariaLabel,
  move(k) {
    const [min, max] = [Number(input.min), Number(input.max)];
    input.value = min + (max - min) * spread(k);
    happens(input, Event, "input");
  },
});

// Radio buttons and switches, one after another.
const choice = (group) => ({
  name: group.querySelector("legend")?.textContent ?? "switches",
  move: (k) => nth([...group.querySelectorAll("input")], k).click(),
});

// Letter by letter.
const field = (input) => {
  const whole = input.value;
  return {
    name: "the formula, typed",
    move(k) {
      input.value = whole.slice(0, 1 + (k % whole.length));
      happens(input, Event, "input");
    },
  };
};

const handle = (node) => {
  node.setPointerCapture = () => {}; // which refuses a pointer that is none
  node.hasPointerCapture = () => true;
  return {
    name: `the picture's handle: ${node.dataset.handle}`,
    move(k) {
      const box = node.ownerSVGElement.getBoundingClientRect();
      happens(node, PointerEvent, "pointermove", {
        clientX: box.x + box.width * spread(k),
        clientY: box.y + box.height * spread(k, 0.754878),
      });
    },
  };
};

const KINDS = [
  ["input[type=range]", range],
  [".opd-choice, .opd-checks", choice],
  ["textarea", field],
  ["[data-handle]", handle],
];
const controlsOf = (root) =>
  KINDS.flatMap(([selector, of]) =>
    [...root.querySelectorAll(selector)].map((node) => ({ node, ...of(node) })),
  );

const shownButtons = (root) =>
  [...root.querySelectorAll("button")].filter(
    (button) =>
      button.checkVisibility() && !button.disabled && !/^(Play|Copy)/.test(button.textContent),
  );
const buttons = (root) => ({
  node: root,
  name: "the buttons",
  move: (k) => nth(shownButtons(root), k).click(),
});

// ---- what is timed ----

// Whether the slider has updated since it was last asked: each update writes its numbers anew.
function watch(root) {
  let updated = false;
  const observer = new MutationObserver(() => (updated = true));
  observer.observe(root, { subtree: true, attributeFilter: ["data-value"] });
  return () => {
    const was = updated;
    updated = false;
    return was;
  };
}

// Moves every control to `rounds` values, in turns, so that each meets the others at many; then
// plays so many steps, where there is "Play".  -> {control: [time, …]}, of moves that update.
async function updates(root, rounds) {
  const updated = watch(root);
  const found = {};
  const controls = [...controlsOf(root), buttons(root)];
  for (let k = 0; k < rounds; k++)
    for (const { node, name, move } of controls)
      if (node.checkVisibility()) {
        const time = await timed(() => move(k));
        if (updated()) (found[name] ??= []).push(time);
      }
  const play = [...root.querySelectorAll("button")].find((each) => each.textContent === "Play");
  if (play) found["Play, a step"] = await steps(root, play, rounds, updated);
  return found;
}

async function steps(root, play, rounds, updated) {
  const own = window.requestAnimationFrame;
  let [next, found] = [null, []];
  window.requestAnimationFrame = (tick) => (next = tick) && 0;
  shownButtons(root)
    .find((each) => each.textContent === "Reset")
    .click();
  play.click();
  updated();
  while (next && found.length < rounds) {
    const tick = next;
    next = null;
    const time = await timed(tick, own);
    if (updated()) found.push(time); // else this frame comes too soon for a step
  }
  if (next) play.click(); // once more stops it
  window.requestAnimationFrame = own;
  return found;
}

// A frame in which nothing happens, as a floor of what can be measured.
async function nothing(rounds) {
  const found = [];
  for (let k = 0; k < rounds; k++) found.push(await timed(() => {}));
  return found;
}
