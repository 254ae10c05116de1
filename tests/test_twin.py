"""The sliders' mathematics (mathematics.js) against the engine, to 1e-12.

The JavaScript runs in Chromium.  What is compared is read off the two sides: a function
of the twin whose name is the engine's in camel case is called with the engine's own
parameters, in the engine's order, on the same numbers.
"""

import base64
import inspect
import re

import numpy as np
import pytest

from opd_toy import distributions, estimators, explorables, objectives
from opd_toy.explorables.host import HERE

CASES = 1200
TOLERANCE = 1e-12

# What the twin has beside the engine's functions; tested below by what each should do.
HELPERS = {"sum", "score_table", "step", "set_probability", "floored"}


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def functions(module):
    """The functions that a module defines, those of a leading underscore left out."""
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


ENGINE = functions(distributions) | functions(objectives) | functions(estimators)


# ---- the cases ----


def a_pair(random, size, family):
    """Student and teacher of one family: far apart, nearly equal, tiny, one-hot, with zeros."""
    concentration = random.choice([0.1, 0.5, 1.0, 10.0])
    p, q = np.maximum(random.dirichlet(np.full(size, concentration), 2), 1e-300)
    if family == "near":
        q = p * (1 + 10.0 ** random.uniform(-12, -2) * random.uniform(-1, 1, size))
    if family == "equal":
        q = p.copy()
    if family == "tiny":
        p, q = np.exp(random.normal(0, 60, (2, size)).clip(-300, 0))
    if family == "confident":
        p, q = np.exp(-random.uniform(5, 40) * (np.arange(size) != random.integers(size, size=(2, 1))))
    if family == "zeros":
        p, q = np.where(random.random((2, size)) < 0.4, 0.0, [p, q])
        p[random.integers(size)] += 0.5
        q[random.integers(size)] += 0.5
    return p / p.sum(), q / q.sum()


FAMILIES = ["apart", "near", "equal", "tiny", "confident", "zeros"]


def cases():
    """CASES dicts: one value for every parameter that a function of the engine may have."""
    random = np.random.default_rng(20240622)
    for number in range(CASES):
        family = FAMILIES[number % len(FAMILIES)]
        # A table has V rows: large V comes less often.
        size = int(random.integers(1, 51) if number % 12 < 6 else random.integers(1, 9))
        p, q = a_pair(random, size, family)
        behaviour = random.dirichlet(np.ones(size)) + 1e-6
        yield {
            "student": p,
            "teacher": q,
            "p": p,
            "q": q,
            "difference": p - q,
            "probabilities": p,
            "logits": random.normal(0, random.choice([0.1, 3, 300]), size),
            "table": random.normal(0, 1, (size, int(random.integers(1, 5)))),
            "behaviour": behaviour / behaviour.sum(),
            "reward": random.normal(0, 1, size),
            "beta": random.choice([0, 1, 0.5, 1e-9, 1 - 1e-9, random.random(), random.random()]),
            "skew": random.choice([0, 0.1, 0.5, 1e-9, 0.99, random.random(), random.random()]),
            "alpha": random.choice([0, 1, 0.5, 1e-9, 1 - 1e-9, random.uniform(-1, 2), random.uniform(-1, 2)]),
            "baseline": random.normal(),
            "clip": random.uniform(0.5, 3),
            "limit": random.uniform(0.1, 3),
            "weight": random.normal(),
            "mean": random.uniform(0.01, 3),
            "k": int(random.integers(1, size + 1)),
            "kind": ["k1", "k2", "k3"][number % 3],
            "outside": ["renormalize", "drop", "tail"][number // 3 % 3],
            "tail": ["sampled", "drop"][number % 2],
        }


# ---- both sides ----

RUN = """async ([source, names, cases]) => {
  const twin = await import(source);
  const numbers = [], sizes = [];
  for (const values of cases) for (const [name, parameters] of names) {
    const result = [twin[name](...parameters.map((key) => values[key]))].flat(Infinity);
    sizes.push(result.length);
    for (const x of result) numbers.push(x);
  }
  // as bytes: every bit arrives, infinities and all
  const bytes = new Uint8Array(Float64Array.from(numbers).buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return [sizes, btoa(text)];
}"""


def module_address():
    text = (HERE / "mathematics.js").read_bytes()
    return "data:text/javascript;base64," + base64.b64encode(text).decode()


@pytest.fixture(scope="module")
def twin_page(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.fixture(scope="module")
def exports(twin_page):
    """The names that mathematics.js exports."""
    return twin_page.evaluate("async (source) => Object.keys(await import(source))", module_address())


@pytest.fixture(scope="module")
def compared(exports):
    return {name: ENGINE[snake(name)] for name in exports if snake(name) in ENGINE}


@pytest.fixture(scope="module")
def results(twin_page, compared):
    """{name: [(family, case, engine's array, twin's numbers), ...]}"""
    every = list(cases())
    parameters = [[name, list(inspect.signature(function).parameters)] for name, function in compared.items()]
    plain = [{key: getattr(x, "tolist", lambda: x)() for key, x in case.items()} for case in every]
    sizes, data = twin_page.evaluate(RUN, [module_address(), parameters, plain])
    pieces = iter(np.split(np.frombuffer(base64.b64decode(data)), np.cumsum(sizes)[:-1]))
    found = {name: [] for name in compared}
    for number, case in enumerate(every):
        for name, needed in parameters:
            engine = np.asarray(compared[name](**{key: case[key] for key in needed}), dtype=float)
            found[name].append((FAMILIES[number % len(FAMILIES)], case, engine, next(pieces)))
    return found


# ---- how near is near ----

# Compared number by number: they come without a sum that could cancel.
EACH_BY_ITSELF = {"softmax", "logSoftmax", "logRatio", "kEstimator", "forwardKlLogitGradient"}


def scale(name, family, case, engine):
    """What 1e-12 is relative to: an array that broadcasts to the engine's.

    A value: itself.  A gradient, and each row of a table: the largest magnitude in the
    row, for its entries are differences from a mean.  With tiny or zero probabilities the
    signal of a skewed or alpha divergence can be constant to its last digit, and the row
    nothing but rounding: there 2e-16 is allowed as well.  The optimal baseline, a mean of
    log-ratios of both signs: the same mean of their magnitudes.
    """
    if name == "optimalBaseline":
        p, ratio = case["student"], distributions.log_ratio(case["student"], case["teacher"])
        weight = p * ((1 - p) ** 2 + (p**2).sum() - p**2)
        return np.where(weight > 0, weight * np.abs(ratio), 0).sum() / (weight.sum() or 1)
    if engine.ndim == 0 or name in EACH_BY_ITSELF:
        return np.abs(engine)
    row = np.abs(engine).max(axis=-1, keepdims=True)
    may_be_constant = family in ("tiny", "zeros") and re.fullmatch("(skewed|alpha).*LogitGradient", name)
    return np.maximum(row, 2e-16 / TOLERANCE) if may_be_constant else row


def error(name, family, case, engine, twin):
    """The largest error in units of the scale; infinities and NaN must be equal."""
    assert twin.size == engine.size, f"{twin.size} numbers for {engine.size}"
    twin = twin.reshape(engine.shape)
    finite = np.isfinite(engine)
    if not np.array_equal(engine[~finite], twin[~finite]) or not np.isfinite(twin[finite]).all():
        return np.inf
    difference = np.abs(np.where(finite, twin - np.where(finite, engine, 0), 0))
    with np.errstate(invalid="ignore"):
        size = np.broadcast_to(scale(name, family, case, np.where(finite, engine, 0)), difference.shape)
    wrong = difference > 0
    return float(np.max(difference[wrong] / np.maximum(size[wrong], 1e-300), initial=0.0))


# ---- the tests ----

EXPORTS = re.findall(r"^export (?:const|function|class|let) (\w+)", (HERE / "mathematics.js").read_text(), flags=re.MULTILINE)
TWINS = [name for name in EXPORTS if snake(name) in ENGINE]


def test_every_export_is_tested(exports):
    """Nothing stands in mathematics.js that is neither compared nor tested as a helper."""
    assert sorted(exports) == sorted(EXPORTS)
    assert {snake(name) for name in exports} - set(ENGINE) == HELPERS


def widget_modules():
    """{file name: text} of the widgets of opd_toy.explorables."""
    names = {getattr(explorables, name).__module__.rsplit(".", 1)[-1] for name in explorables.__all__}
    return {f"{name}.js": (HERE / f"{name}.js").read_text() for name in sorted(names)}


@pytest.mark.parametrize("file", widget_modules())
def test_a_widget_takes_the_engines_functions_from_the_twin(file):
    text = widget_modules()[file]
    imported = re.findall(r"import \{([^}]*)\} from \"./mathematics.js\"", text)
    taken = set(re.findall(r"\w+", " ".join(imported)))
    assert taken, f"{file} imports nothing from mathematics.js"
    assert taken <= set(EXPORTS), f"mathematics.js has no {taken - set(EXPORTS)}"
    defined = re.findall(r"(?:function\*?|const|let|var) (\w+)", text)
    own = {name for name in defined if snake(name) in ENGINE}
    assert not own, f"{file} has its own {own}: the engine has it too, so it belongs in mathematics.js"


def test_there_are_a_thousand_cases_of_every_kind(results):
    random = results["reverseKl"]
    assert len(random) >= 1000
    sizes = {len(case["student"]) for _, case, _, _ in random}
    assert {1, 2, 50} <= sizes
    values = np.array([engine for _, _, engine, _ in random])
    assert np.isinf(values).sum() >= 50 and (values == 0).sum() >= 50
    assert ((values > 0) & (values < 1e-15)).sum() >= 20 and (values[np.isfinite(values)] > 20).sum() >= 20


@pytest.mark.parametrize("name", TWINS)
def test_the_twin_agrees_with_the_engine(name, results):
    worst = max(((error(name, *row), index) for index, row in enumerate(results[name])), key=lambda pair: pair[0])
    family, case, engine, twin = results[name][worst[1]]
    assert worst[0] <= TOLERANCE, (
        f"{name}, case {worst[1]} ({family}): error {worst[0]:.1e} of the scale\n"
        + "\n".join(f"{key} = {case[key]!r}" for key in inspect.signature(ENGINE[snake(name)]).parameters)
        + f"\nengine {engine!r}\ntwin {twin.reshape(engine.shape)!r}"
    )


def call(page, expression, arguments):
    return page.evaluate(f"async ([source, all]) => {{ const m = await import(source); return all.map((x) => m.{expression}); }}",
                         [module_address(), arguments])


def test_a_step_is_the_engines_softmax_of_the_moved_logits(twin_page):
    random = np.random.default_rng(1)
    moves = [(p, random.normal(0, 1, 6), random.uniform(0, 5)) for p in random.dirichlet(np.ones(6), 200)]
    stepped = call(twin_page, "step(...x)", [[p.tolist(), g.tolist(), rate] for p, g, rate in moves])
    expected = [distributions.softmax(np.log(p) - rate * g) for p, g, rate in moves]
    np.testing.assert_allclose(stepped, expected, rtol=TOLERANCE)


def test_a_score_table_is_weight_times_score(twin_page):
    random = np.random.default_rng(2)
    pairs = list(zip(random.dirichlet(np.ones(5), 100), random.normal(0, 3, (100, 5))))
    tables = call(twin_page, "scoreTable(...x)", [[p.tolist(), w.tolist()] for p, w in pairs])
    expected = [w[:, None] * (np.eye(5) - p) for p, w in pairs]
    np.testing.assert_allclose(tables, expected, rtol=1e-9, atol=TOLERANCE)
    assert call(twin_page, "sum(x)", [[0.1] * 10, [], [1, 2, 4]]) == [pytest.approx(1, rel=TOLERANCE), 0, 7]


def test_equal_rows_have_no_variance_at_all(twin_page):
    random = np.random.default_rng(3)
    pairs = [random.dirichlet(np.ones(7), 2).tolist() for _ in range(100)]
    assert set(call(twin_page, "totalVariance(x[0], m.gkd(...x))", pairs)) == {0}


def test_setting_one_probability_keeps_a_distribution(twin_page):
    random = np.random.default_rng(4)
    floor = 0.005
    settings = []
    for _ in range(400):
        p = np.maximum(random.dirichlet(np.full(5, random.choice([0.2, 1, 5]))), floor)
        settings.append([(p / p.sum()).tolist(), int(random.integers(5)), random.choice([0, 1, random.random()])])
    results = np.array(call(twin_page, "setProbability(...x, 0.005)", settings))
    np.testing.assert_allclose(results.sum(axis=1), 1, rtol=TOLERANCE)
    assert results.min() >= floor - TOLERANCE
    kept = 0
    for (p, index, value), now in zip(settings, results):
        target = min(max(value, floor), 1 - 4 * floor)
        others = np.arange(5) != index
        if now[others].min() > floor + 1e-9:  # no other is held up by the floor
            kept += 1
            assert now[index] == pytest.approx(target, rel=TOLERANCE)
            np.testing.assert_allclose(now[others] / now[others].sum(), np.array(p)[others] / (1 - p[index]), rtol=1e-9)
        else:
            assert target - 4 * floor <= now[index] <= target + TOLERANCE
    assert 50 <= kept <= 350


def test_the_floor_is_kept_and_the_rest_pays(twin_page):
    results = np.array(call(twin_page, "floored(x, 0.01)", [[0.5, 0.5, 0.0], [0.98, 0.02, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(results.sum(axis=1), 1, rtol=TOLERANCE)
    np.testing.assert_allclose(results[0], [0.495, 0.495, 0.01], rtol=TOLERANCE)
    np.testing.assert_allclose(results[2], [0.2, 0.3, 0.5], rtol=TOLERANCE)
    assert results.min() >= 0.01 - TOLERANCE


def test_an_unknown_kind_is_refused(twin_page):
    for name in ("kEstimator", "kEstimatorAsLoss", "kEstimatorAsReward"):
        message = twin_page.evaluate(
            f'async (source) => {{ try {{ (await import(source)).{name}([1], [1], "k4"); }} catch (e) {{ return e.message; }} }}',
            module_address())
        assert message == 'kind must be "k1", "k2" or "k3", not "k4"'
