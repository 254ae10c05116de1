"""What the explorables share, called by itself in a page that has it: ``opd``."""

import json
import urllib.parse

import numpy as np
import pytest

from opd_toy.explorables.trees import uniforms
from tests.explorables.opened import lent_pages, open_explorables

lent = pytest.fixture(lent_pages, scope="module")
opened = pytest.fixture(open_explorables)


@pytest.fixture
def page(opened):
    return opened("WhichToken").page


def test_a_token_is_drawn_by_its_share(page):
    """At a bound the next one; beyond the last bound, for a sum may fall short of 1, the last."""
    cases = [([0.25, 0.5, 0.25], u) for u in (0, 0.2, 0.25, 0.5, 0.75, 0.9)]
    cases += [([0.3, 0.3, 0.3], 0.95), ([1.0], 0.5), ([0.0, 1.0], 0.0)]
    found = page.evaluate("(cases) => cases.map(([p, u]) => opd.drawn(p, u))", cases)
    assert found == [int(np.searchsorted(np.cumsum(p)[:-1], u, side="right")) for p, u in cases]


def test_a_stream_of_numbers_goes_on_where_some_are_skipped(page):
    found = page.evaluate("""() => {
      const [next, filled] = [opd.uniforms(7, 3), [9, 9, 9, 9, 9]];
      opd.fillUniforms(filled, 1, 4, 7, 3);
      return [next(), next(), next(), ...filled];
    }""")
    wanted = uniforms(7, 6)[3:].tolist()
    assert found == [*wanted, 9, *wanted, 9]


def test_one_change_of_a_state_is_shown_once(page):
    """A change of several values too; and one from elsewhere, before and after."""
    found = page.evaluate("""() => {
      const [values, heard, counted] = [{ a: 1, b: 1 }, {}, []];
      let [shown, saved] = [0, 0];
      const model = {
        get: (name) => values[name],
        set: (name, x) => ((values[name] = x), heard[`change:${name}`]()),
        on: (event, listener) => (heard[event] = listener),
        save_changes: () => (saved += 1),
      };
      const self = opd.state(model, ["a", "b"], () => (shown += 1));
      const acts = [
        () => model.set("a", 2), () => self.set({ a: 3, b: 3 }), () => model.set("b", 4),
      ];
      for (const act of acts) act(counted.push([shown, saved]));
      return [...counted, [shown, saved]];
    }""")
    assert found == [[0, 0], [1, 0], [2, 1], [3, 1]]


def test_an_animation_moves_at_its_rate(page):
    found = page.evaluate("""() => {
      const [frames, moves] = [[], []];
      window.requestAnimationFrame = (frame) => frames.push(frame);
      let [now, ended] = [0, 0];
      const tick = () => moves.push(now) < 5;
      const moving = opd.animation(tick, 50, () => (ended += 1));
      moving.start();
      for (now = 10; frames.length; now += 10) frames.shift()(now);
      return [moves, ended, moving.running()];
    }""")
    assert found == [[20, 40, 60, 80, 100], 1, False]


A_THIRD, SURE = [1 / 3] * 3, [1 / 1002, 1 / 1002, 1000 / 1002]
# (what may be there, what is, what the address has, what is then)
GIVEN = [
    ("distribution", A_THIRD, [0, 0, 7], SURE),
    ("distribution", A_THIRD, [1, -3, 1], [500 / 1001, 1 / 1001, 500 / 1001]),
    ("distribution", A_THIRD, [0, 0, 0], A_THIRD),
    ("distribution", A_THIRD, [1, 1], A_THIRD),
    ("distribution", A_THIRD, ["1", "1", "1"], A_THIRD),
    ("distribution", A_THIRD, [1, None, 1], A_THIRD),
    ("distribution", A_THIRD, [1, np.inf, 1], A_THIRD),
    ("distribution", A_THIRD, {"length": 3}, A_THIRD),
    ([1, 5, True], 3, 2.5, 3),
    ([1, 5, True], 3, 0, 1),
    ([1, 5, True], 3, 6, 5),
    ([1, 5, True], 3, np.inf, 3),
    ([1, 5, True], 3, "4", 3),
    ([0.5, 5, False], 3, 2.5, 2.5),
    ([1, 4, 16], 4, 16, 16),
    ([1, 4, 16], 4, 5, 4),
    (["x", "y"], "x", "y", "y"),
    (["x", "y"], "x", "z", "x"),
    (["x", "y"], "x", 1, "x"),
    ({"among": ["a", "b", "c"]}, ["a"], ["c", 7, "b", "c"], ["b", "c"]),
    ({"among": ["a", "b", "c"]}, ["a"], "bc", ["a"]),
    ("text", "a", "b" * 1001, "b" * 1000),
    ("text", "a", 1, "a"),
    (None, 1, 2, 1),
]


def test_of_an_address_that_is_taken_which_fits(page):
    rules = {f"t{n}": rule for n, (rule, *_) in enumerate(GIVEN) if rule}
    own = {f"t{n}": here for n, (_, here, *_) in enumerate(GIVEN)}
    asked = json.dumps({f"t{n}": there for n, (_, _, there, _) in enumerate(GIVEN)})
    text = urllib.parse.quote(asked.replace("Infinity", "1e999"))
    found = page.evaluate(
        """([own, rules, text]) => {
          history.replaceState(null, "", `#other=1&thing=${text}`);
          let found = null;
          const names = Object.keys(own);
          const render = ({ model }) => (found = names.map((name) => model.get(name)));
          opd.mount({ render }, document.createElement("div"), own, { name: "thing", rules });
          return found;
        }""",
        [own, rules, text],
    )
    for (rule, _, there, wanted), value in zip(GIVEN, found, strict=True):
        close = rule == "distribution"
        assert value == (pytest.approx(wanted, rel=1e-15) if close else wanted), (rule, there)


def test_what_has_moved_is_written_beside_what_is_another_s(page):
    page.evaluate("""() => {
      history.replaceState(null, "", "#other=1&junk&&thing=7");
      const render = ({ model }) => {
        model.set("x", 1 / 3);
        model.save_changes();
      };
      const rules = { x: [0, 1, false], y: [0, 9, true] };
      const own = { x: 0.5, y: 1, z: 2 };
      opd.mount({ render }, document.createElement("div"), own, { name: "thing", rules });
    }""")
    page.wait_for_function("timersWaiting() === 0", timeout=10_000)
    assert page.url.partition("#")[2] == "other=1&thing=%7B%22x%22%3A0.3333%7D"
