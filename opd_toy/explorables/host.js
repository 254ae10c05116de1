// The host for a page without a kernel.  It gives a widget the same model interface
// that Jupyter gives it (get, set, on, save_changes; here it stays, and needs no off) and
// keeps the state in the URL's hash, one `name={...}` a widget, so that a setting can be linked.

const readHash = (name) => {
  for (const part of location.hash.slice(1).split("&")) {
    const [key, ...rest] = part.split("=");
    if (key !== name) continue;
    try {
      return JSON.parse(decodeURIComponent(rest.join("="))) ?? {};
    } catch {
      return {}; // a hash typed wrong is no reason to lose the page
    }
  }
  return {};
};

const writeHash = (name, state) => {
  const others = location.hash
    .slice(1)
    .split("&")
    .filter((part) => part.includes("=") && part.split("=")[0] !== name);
  const text = JSON.stringify(state, (_, x) => (typeof x === "number" ? Number(x.toFixed(4)) : x));
  history.replaceState(
    null,
    "",
    `#${[...others, `${name}=${encodeURIComponent(text)}`].join("&")}`,
  );
};

// Accept from the hash only what has the shape of the widget's own state.
const alike = (given, own) =>
  Array.isArray(own)
    ? Array.isArray(given) &&
      given.length === own.length &&
      given.every((x) => typeof x === "number")
    : typeof given === typeof own && (typeof given !== "number" || Number.isFinite(given));

const repaired = (given, own, rule) => {
  if (rule === "text") return given.slice(0, 1000);
  if (rule === "distribution") {
    const normalised = (x) => {
      const total = x.reduce((a, b) => a + b, 0);
      return x.map((value) => value / total);
    };
    const shares = normalised(given.map((x) => Math.max(x, 0)));
    return shares.every(Number.isFinite) ? normalised(shares.map((x) => Math.max(x, 0.001))) : own;
  }
  if (rule.among) return rule.among.filter((each) => given.includes(each)); // some names of a list
  const [least, most, whole] = rule;
  if (typeof own === "number" && typeof whole === "boolean") {
    // a range; else a list of choices
    const x = Math.min(Math.max(given, least), most);
    return whole ? Math.round(x) : x;
  }
  return rule.includes(given) ? given : own;
};

// The second of a kind on a page is NAME-2 in the hash.
const keyOf = (name, element) => {
  const place = [...document.querySelectorAll(`[data-explorable="${name}"]`)].indexOf(element);
  return place > 0 ? `${name}-${place + 1}` : name;
};

export function mount(widget, element, initial, { name: kind, rules }) {
  const name = keyOf(kind, element);
  const own = { ...initial };
  const listeners = new Map();
  let pending = null;
  const linked = (values) =>
    Object.fromEntries(
      Object.entries(values)
        .filter(
          ([key, x]) =>
            Object.hasOwn(rules, key) &&
            (rules[key].among ? Array.isArray(x) : alike(x, initial[key])),
        )
        .map(([key, x]) => [key, repaired(x, initial[key], rules[key])]),
    );
  Object.assign(own, linked(readHash(name)));

  const model = {
    get: (key) => own[key],
    set(key, x) {
      if (JSON.stringify(own[key]) === JSON.stringify(x)) return;
      own[key] = x;
      for (const listener of listeners.get(`change:${key}`) ?? []) listener();
    },
    on(event, listener) {
      listeners.set(event, [...(listeners.get(event) ?? []), listener]);
    },
    save_changes() {
      clearTimeout(pending); // browsers limit how often the address may change
      pending = setTimeout(() => {
        const moved = Object.entries(own).filter(
          ([key, x]) => key in rules && JSON.stringify(x) !== JSON.stringify(initial[key]),
        );
        writeHash(name, Object.fromEntries(moved));
      }, 150);
    },
  };
  window.addEventListener("hashchange", () => {
    const given = { ...initial, ...linked(readHash(name)) };
    if (location.hash.includes(`${name}=`))
      Object.entries(given).forEach(([key, x]) => model.set(key, x));
  });
  element.replaceChildren();
  widget.render({ model, el: element });
  element.dataset.mounted = "true";
}
