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

from opd_toy import distributions, estimators, explorables, objectives, off_policy, sequences
from opd_toy.example import STUDENT
from opd_toy.explorables import host, trees
from opd_toy.explorables.host import HERE

CASES = 1200
TOLERANCE = 1e-12

# What the twin has beside the engine's functions; tested below by what each should do.
HELPERS = {"sum", "log_softmax_into", "score_table", "step", "set_probability", "floored"}


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def functions(module):
    """The functions that a module defines, those of a leading underscore left out."""
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


# Parts of the engine's tables; the twin's own parts are tested as helpers.
PARTS = {"by_row", "product", "score_table"}
ENGINE = {
    name: function
    for module in (distributions, objectives, estimators)
    for name, function in functions(module).items()
    if name not in PARTS
}
OF_TREES = {name for name in sequences.__all__ if inspect.isfunction(getattr(sequences, name))}


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
        p, q = np.exp(
            -random.uniform(5, 40) * (np.arange(size) != random.integers(size, size=(2, 1)))
        )
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
            "alpha": random.choice(
                [0, 1, 0.5, 1e-9, 1 - 1e-9, random.uniform(-1, 2), random.uniform(-1, 2)]
            ),
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
  for (let i = 0; i < bytes.length; i += 32768)
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
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
    return twin_page.evaluate(
        "async (source) => Object.keys(await import(source))", module_address()
    )


@pytest.fixture(scope="module")
def compared(exports):
    return {name: ENGINE[snake(name)] for name in exports if snake(name) in ENGINE}


@pytest.fixture(scope="module")
def results(twin_page, compared):
    """{name: [(family, case, engine's array, twin's numbers), ...]}"""
    every = list(cases())
    parameters = [
        [name, list(inspect.signature(function).parameters)] for name, function in compared.items()
    ]
    plain = [
        {key: x.tolist() if hasattr(x, "tolist") else x for key, x in case.items()}
        for case in every
    ]
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
    nothing but rounding: there 2e-16 is allowed as well, and so it is where a top-K head is
    renormalised or its tail added up.  The optimal baseline, a mean of
    log-ratios of both signs: the same mean of their magnitudes.
    """
    if name == "optimalBaseline":
        p, ratio = case["student"], distributions.log_ratio(case["student"], case["teacher"])
        weight = p * ((1 - p) ** 2 + (p**2).sum() - p**2)
        return np.where(weight > 0, weight * np.abs(ratio), 0).sum() / (weight.sum() or 1)
    if engine.ndim == 0 or name in EACH_BY_ITSELF:
        return np.abs(engine)
    row = np.abs(engine).max(axis=-1, keepdims=True)
    may_be_constant = family in ("tiny", "zeros") and re.fullmatch(
        "(skewed|alpha).*LogitGradient", name
    )
    summed = name == "topKReverseKlLogitGradient" and case["outside"] != "drop"
    return np.maximum(row, 2e-16 / TOLERANCE) if may_be_constant or summed else row


def error(name, family, case, engine, twin):
    """The largest error in units of the scale; infinities and NaN must be equal."""
    assert twin.size == engine.size, f"{twin.size} numbers for {engine.size}"
    twin = twin.reshape(engine.shape)
    finite = np.isfinite(engine)
    if not np.array_equal(engine[~finite], twin[~finite]) or not np.isfinite(twin[finite]).all():
        return np.inf
    difference = np.abs(np.where(finite, twin - np.where(finite, engine, 0), 0))
    with np.errstate(invalid="ignore"):
        size = np.broadcast_to(
            scale(name, family, case, np.where(finite, engine, 0)), difference.shape
        )
    wrong = difference > 0
    return float(np.max(difference[wrong] / np.maximum(size[wrong], 1e-300), initial=0.0))


# ---- the tests ----

EXPORTS = re.findall(
    r"^export (?:const|function|class|let) (\w+)",
    (HERE / "mathematics.js").read_text(),
    flags=re.MULTILINE,
)
TWINS = [name for name in EXPORTS if snake(name) in ENGINE]


def test_every_export_is_tested(exports):
    """Nothing stands in mathematics.js that is neither compared nor tested as a helper."""
    assert sorted(exports) == sorted(EXPORTS)
    assert {snake(name) for name in exports} - set(ENGINE) == HELPERS


@pytest.mark.parametrize("name", sorted(explorables.MODULES.values()))
def test_a_widget_takes_the_engines_functions_from_the_twin(name):
    own_files = [file for file in host.files(name) if file.startswith(name)]
    text = "".join((HERE / file).read_text() for file in own_files)
    imported = re.findall(r"import \{([^}]*)\} from \"./mathematics.js\"", text)
    taken = set(re.findall(r"\w+", " ".join(imported)))
    assert taken or name in ("control_study", "derail", "learning_curves"), (
        f"{name} imports nothing from mathematics.js"
    )  # those show recordings
    assert taken <= set(EXPORTS), f"mathematics.js has no {taken - set(EXPORTS)}"
    defined = re.findall(r"(?:function\*?|const|let|var) (\w+)", text)
    own = {each for each in defined if snake(each) in {*ENGINE, *OF_TREES}}
    assert not own, (
        f"{name} has its own {own}: the engine has it too, "
        "so it belongs in mathematics.js or tree_mathematics.js"
    )


def test_there_are_a_thousand_cases_of_every_kind(results):
    random = results["reverseKl"]
    assert len(random) >= 1000
    sizes = {len(case["student"]) for _, case, _, _ in random}
    assert {1, 2, 50} <= sizes
    values = np.array([engine for _, _, engine, _ in random])
    assert np.isinf(values).sum() >= 50 and (values == 0).sum() >= 50
    assert ((values > 0) & (values < 1e-15)).sum() >= 20 and (
        values[np.isfinite(values)] > 20
    ).sum() >= 20


@pytest.mark.parametrize("name", TWINS)
def test_the_twin_agrees_with_the_engine(name, results):
    worst = max(
        ((error(name, *row), index) for index, row in enumerate(results[name])),
        key=lambda pair: pair[0],
    )
    family, case, engine, twin = results[name][worst[1]]
    assert worst[0] <= TOLERANCE, (
        f"{name}, case {worst[1]} ({family}): error {worst[0]:.1e} of the scale\n"
        + "\n".join(
            f"{key} = {case[key]!r}" for key in inspect.signature(ENGINE[snake(name)]).parameters
        )
        + f"\nengine {engine!r}\ntwin {twin.reshape(engine.shape)!r}"
    )


def call(page, expression, arguments):
    return page.evaluate(
        f"""async ([source, all]) => {{
          const m = await import(source);
          return all.map((x) => m.{expression});
        }}""",
        [module_address(), arguments],
    )


def test_a_step_is_the_engines_softmax_of_the_moved_logits(twin_page):
    random = np.random.default_rng(1)
    moves = [
        (p, random.normal(0, 1, 6), random.uniform(0, 5)) for p in random.dirichlet(np.ones(6), 200)
    ]
    stepped = call(
        twin_page, "step(...x)", [[p.tolist(), g.tolist(), rate] for p, g, rate in moves]
    )
    expected = [distributions.softmax(np.log(p) - rate * g) for p, g, rate in moves]
    np.testing.assert_allclose(stepped, expected, rtol=TOLERANCE)


def test_a_score_table_is_weight_times_score(twin_page):
    random = np.random.default_rng(2)
    pairs = list(zip(random.dirichlet(np.ones(5), 100), random.normal(0, 3, (100, 5))))
    tables = call(twin_page, "scoreTable(...x)", [[p.tolist(), w.tolist()] for p, w in pairs])
    expected = [w[:, None] * (np.eye(5) - p) for p, w in pairs]
    np.testing.assert_allclose(tables, expected, rtol=1e-9, atol=TOLERANCE)
    assert call(twin_page, "sum(x)", [[0.1] * 10, [], [1, 2, 4]]) == [
        pytest.approx(1, rel=TOLERANCE),
        0,
        7,
    ]


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
        settings.append(
            [
                (p / p.sum()).tolist(),
                int(random.integers(5)),
                random.choice([0, 1, random.random()]),
            ]
        )
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
            np.testing.assert_allclose(
                now[others] / now[others].sum(), np.array(p)[others] / (1 - p[index]), rtol=1e-9
            )
        else:
            assert target - 4 * floor <= now[index] <= target + TOLERANCE
    assert 50 <= kept <= 350


def test_a_token_that_has_all_gives_to_the_others_alike(twin_page):
    (found,) = call(twin_page, "setProbability(...x, 0.005)", [[[1, 0, 0], 0, 0.4]])
    np.testing.assert_allclose(found, [0.4, 0.3, 0.3], rtol=TOLERANCE)


def test_the_floor_is_kept_and_the_rest_pays(twin_page):
    results = np.array(
        call(
            twin_page,
            "floored(x, 0.01)",
            [[0.5, 0.5, 0.0], [0.98, 0.02, 0.0], [0.2, 0.3, 0.5], [1.0, 0.0, 0.0]],
        )
    )
    np.testing.assert_allclose(results.sum(axis=1), 1, rtol=TOLERANCE)
    np.testing.assert_allclose(results[0], [0.495, 0.495, 0.01], rtol=TOLERANCE)
    np.testing.assert_allclose(results[2], [0.2, 0.3, 0.5], rtol=TOLERANCE)
    assert results.min() >= 0.01 - TOLERANCE


def test_an_unknown_kind_is_refused(twin_page):
    for name in ("kEstimator", "kEstimatorAsLoss", "kEstimatorAsReward"):
        message = twin_page.evaluate(
            f"""async (source) => {{
              const m = await import(source);
              try {{ m.{name}([1], [1], "k4"); }} catch (e) {{ return e.message; }}
            }}""",
            module_address(),
        )
        assert message == 'kind must be "k1", "k2" or "k3", not "k4"'


# ---- token trees: tree_mathematics.js against opd_toy.sequences ----

TREE_TEXT = (HERE / "tree_mathematics.js").read_text()
TREE_EXPORTS = re.findall(r"^export (?:const|function) (\w+)", TREE_TEXT, flags=re.MULTILINE)
TREE_TWINS = {"tokenCosts", "discountedReturn", "stateValues", "futureKl", "fipoWeight"}
TREE_HELPERS = {
    "tokenTree",
    "randomTrees",
    "repeated",
    "chances",
    "lagMoments",
    "biasAndVariance",
    "squaredBias",
    "polynomial",
    "leastErrorGamma",
}


def linked(text, *imported):
    """The address of a module together with those that it imports."""
    plain = [
        re.sub("^(import [^;]*;|export )", "", (HERE / name).read_text(), flags=re.MULTILINE)
        for name in imported
    ]
    text = "".join(plain) + re.sub("^import [^;]*;", "", text, flags=re.MULTILINE)
    return "data:text/javascript;base64," + base64.b64encode(text.encode()).decode()


def tree_module():
    return linked(TREE_TEXT, "mathematics.js", "draws.js")


def tree_cases():
    """(student, teacher, gamma, samples): far apart, near each other, confident, short and long."""
    random = np.random.default_rng(6)
    for number in range(60):
        vocabulary, length = int(random.integers(2, 5)), int(random.integers(1, 6))
        scale, distance = random.choice([0.3, 1, 4]), [2.0, 1.0, 1e-3][number % 3]
        logits = [
            scale * random.standard_normal((vocabulary**t, vocabulary)) for t in range(length)
        ]
        teacher = [z + distance * random.standard_normal(z.shape) for z in logits]
        gamma = [0.0, 1.0, 0.999, *random.random(3)][number % 6]
        yield (
            sequences.TokenTree(logits),
            sequences.TokenTree(teacher),
            gamma,
            float(10 ** random.uniform(0, 5)),
        )


@pytest.fixture(scope="module")
def tree_cases_in_both(twin_page):
    """[(case, what the JavaScript makes of it)]"""
    every = list(tree_cases())
    plain = [
        [[z.reshape(-1).tolist() for z in tree.logits] for tree in case[:2]] + list(case[2:])
        for case in every
    ]
    found = twin_page.evaluate(
        """async ([source, cases]) => {
          const m = await import(source);
          const lists = (levels) => levels.map((level) => [...level]);
          const tree = (logits) => m.tokenTree(logits.map((z) => Float64Array.from(z)));
          return cases.map(([student, teacher, gamma, samples]) => {
            const [p, q] = [tree(student), tree(teacher)];
            const costs = m.tokenCosts(p, q);
            return {
              probabilities: lists(p.probabilities),
              chances: lists(m.chances(p)),
              tokenCosts: costs,
              discountedReturn: costs.map((row) => m.discountedReturn(row, gamma)),
              stateValues: lists(m.stateValues(p, costs, gamma)),
              futureKl: m.futureKl(p, q, gamma, 2),
              fipoWeight: m.fipoWeight(p, q, gamma, 0.2, 0.3, 2),
              signals: ["sampled", "full_vocabulary"].map((signal) => {
                const moments = m.lagMoments(p, q, signal);
                const both = m.biasAndVariance(moments);
                return {
                  polynomials: both,
                  bias: m.squaredBias(moments[1], gamma),
                  at: both.map((each) => m.polynomial(each, gamma)),
                  best: m.leastErrorGamma(both, samples),
                };
              }),
            };
          });
        }""",
        [tree_module(), plain],
    )
    return list(zip(every, found))


def near(found, engine, scale=0.0):
    """Equal to 1e-12 of the largest, or of ``scale``."""
    found, engine = np.asarray(found, float), np.asarray(engine, float)
    assert found.shape == engine.shape
    assert np.abs(found - engine).max(initial=0) <= TOLERANCE * max(
        np.abs(engine).max(initial=0), scale
    )


def test_every_export_for_trees_is_tested():
    assert set(TREE_EXPORTS) == TREE_TWINS | TREE_HELPERS
    assert {name for name in TREE_EXPORTS if snake(name) in {*ENGINE, *OF_TREES}} == TREE_TWINS


def test_trees_and_the_costs_on_them(tree_cases_in_both):
    for (student, teacher, gamma, _), found in tree_cases_in_both:
        costs = sequences.token_costs(student, teacher)
        size = np.abs(
            np.concatenate([z.reshape(-1) for z in student.log_probabilities])
        ).max()  # two of these are subtracted
        for mine, theirs in zip(found["probabilities"], student.probabilities, strict=True):
            near(mine, theirs.reshape(-1))
        for mine, theirs in zip(
            found["chances"],
            [*student.prefix_probabilities(), student.sequence_probabilities()],
            strict=True,
        ):
            near(mine, theirs)
        near(found["tokenCosts"], costs, size)
        near(found["discountedReturn"], sequences.discounted_return(costs, gamma), size)
        for mine, theirs in zip(
            found["stateValues"], sequences.state_values(student, costs, gamma), strict=True
        ):
            near(mine, theirs, size)
        near(found["futureKl"], sequences.future_kl(student, teacher, gamma, 2.0), size)
        near(
            found["fipoWeight"], sequences.fipo_weight(student, teacher, gamma, 0.2, 0.3, 2.0), size
        )


def test_bias_and_variance_on_trees(tree_cases_in_both):
    for (student, teacher, gamma, samples), found in tree_cases_in_both:
        gradient = sequences.sequence_kl_gradient(student, teacher)
        rounding = (
            1e-15 * np.abs(np.concatenate([z.reshape(-1) for z in student.log_probabilities])).max()
        )  # of a cost
        for signal, mine in zip(("sampled", "full_vocabulary"), found["signals"], strict=True):
            bias, variance = sequences.bias_variance_polynomials(student, teacher, signal)
            loose = (
                rounding / np.abs(sequences.token_costs(student, teacher)).max()
            ) / TOLERANCE  # costs near 0 have fewer digits
            second = (
                sum(np.abs(x).max() for x in (bias, variance)) + (gradient**2).sum()
            )  # mean products, of which both are differences
            near(mine["polynomials"][0], bias, max(1, loose) * second)
            near(mine["polynomials"][1], variance, max(1, loose) * second)
            table = sequences.reward_to_go(student, teacher, gamma, signal)
            exact = (table.bias(gradient) ** 2).sum()
            near(mine["at"], [exact, table.total_variance()], max(1, loose) * second)
            assert gamma < 1 or mine["bias"] == 0
            near(
                mine["bias"],
                exact,
                max(1, loose) * (gradient**2).sum() * (1 - gamma) ** 2 + 1e-30 / TOLERANCE,
            )
            # the γ itself is known less well than the error there
            found_best, engines_best = (
                sequences.reward_to_go(student, teacher, x, signal).mean_squared_error(
                    gradient, samples
                )
                for x in (
                    float(mine["best"]),
                    sequences.best_gamma(student, teacher, samples, signal),
                )
            )
            assert 0 <= mine["best"] <= 1 and found_best <= engines_best * (1 + 1e-9) + 1e-30


def test_the_page_draws_the_trees_that_python_draws(twin_page):
    settings = [
        [2, 2, 0, 1.0],
        [3, 5, 248, 1.0],
        [3, 6, 2, 1.0],
        [4, 6, 9999, 0.35],
        [4, 3, 77, 0.0],
        [2, 6, 5, 3.0],
        [3, 5, 248, 0.5],
    ]
    found = twin_page.evaluate(
        """async ([source, settings]) => {
          const m = await import(source);
          const lists = (tree) => tree.logProbabilities.map((level) => [...level]);
          return settings.map((each) => m.randomTrees(...each).map(lists));
        }""",
        [tree_module(), settings],
    )
    for setting, pair in zip(settings, found):
        for mine, theirs in zip(pair, trees.random_trees(*setting), strict=True):
            assert (theirs.vocabulary, theirs.length) == tuple(setting[:2])
            for level, rows in zip(mine, theirs.log_probabilities, strict=True):
                near(level, rows.reshape(-1))
    repeated = twin_page.evaluate(
        """async ([source, p]) =>
          (await import(source)).repeated(p, 3).probabilities.map((level) => [...level])""",
        [tree_module(), STUDENT.tolist()],
    )
    for level, rows in zip(repeated, trees.notes_trees(3)[0].probabilities, strict=True):
        near(level, rows.reshape(-1))


def test_the_normal_numbers_are_normal_and_a_longer_tree_begins_like_a_shorter_one():
    numbers = trees.normals(3, 200_001)
    assert len(numbers) == 200_001 and abs(numbers.mean()) < 0.01 and abs(numbers.std() - 1) < 0.01
    assert abs((numbers**3).mean()) < 0.03 and abs((numbers**4).mean() - 3) < 0.06
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01
    for short, long in zip(trees.random_trees(3, 2, 8, 0.7), trees.random_trees(3, 4, 8, 0.7)):
        for a, b in zip(short.logits, long.logits):
            # the vector unit may round the last numbers of an array otherwise than the same
            # numbers in the middle of a longer one
            np.testing.assert_allclose(a, b, rtol=TOLERANCE)


# ---- tokens that another policy drew: off_policy_mathematics.js against opd_toy.off_policy ----

STALE_TEXT = (HERE / "off_policy_mathematics.js").read_text()
STALE_TWINS = {
    "tokenRatio": off_policy.ratio,
    "secondMoment": off_policy.second_moment,
    "stalePolicyGradient": off_policy.policy_gradient,
}
STALE_LIMITS = {
    "none": [None],
    "ratio": [None],
    "truncate": [0.5, 1.0, 2.0],
    "mask": [[0.5, 2.0], [1.0, 1.0], [0.0, 1.2]],
    "clip": [[0.2, 0.2], [0.0, 0.5], [0.5, 0.0]],
}


def stale_cases():
    """(p, q, mu, correction, limits, cost): mu near and far, and with tokens never drawn."""
    random = np.random.default_rng(9)
    rules = [(name, each) for name, limits in STALE_LIMITS.items() for each in limits]
    for number, case in enumerate(cases()):
        p, q, mu = case["student"], case["teacher"], case["behaviour"]
        if number % 5 == 1:
            mu = p.copy()
        if number % 5 == 2:
            mu = np.where(random.random(len(mu)) < 0.3, 0.0, mu)
            mu = mu / mu.sum() if mu.any() else p
        correction, limits = rules[number // 2 % len(rules)]
        yield p, q, mu, correction, limits, off_policy.COSTS[number % 2]


@pytest.fixture(scope="module")
def stale_in_both(twin_page):
    every = list(stale_cases())
    plain = [[p.tolist(), q.tolist(), mu.tolist(), *rule] for p, q, mu, *rule in every]
    found = twin_page.evaluate(
        """async ([source, cases]) => {
          const m = await import(source);
          return cases.map(([p, q, mu, ...rule]) => ({
            tokenRatio: m.tokenRatio(p, mu),
            secondMoment: m.secondMoment(p, mu),
            stalePolicyGradient: m.stalePolicyGradient(p, q, mu, ...rule),
          }));
        }""",
        [linked(STALE_TEXT, "mathematics.js"), plain],
    )
    return list(zip(every, found))


def test_every_export_for_stale_tokens_is_a_twin_or_part_of_one():
    exports = set(re.findall(r"^export (?:const|function) (\w+)", STALE_TEXT, flags=re.MULTILINE))
    assert exports == {*STALE_TWINS, "passed", "staleCost", "staleWeights"}
    assert set(STALE_LIMITS) == set(off_policy.CORRECTIONS)


def test_ratios_and_their_second_moment(stale_in_both):
    infinite = 0
    for (p, _, mu, *_), found in stale_in_both:
        for name in ("tokenRatio", "secondMoment"):
            engine = np.asarray(STALE_TWINS[name](p, mu))
            np.testing.assert_allclose(found[name], engine, rtol=TOLERANCE)
        infinite += np.isinf(engine)
    assert infinite > 50


def test_the_table_of_tokens_that_another_policy_drew(stale_in_both):
    seen = set()
    for (p, q, mu, correction, limits, cost), found in stale_in_both:
        limits = tuple(limits) if isinstance(limits, list) else limits
        engine = off_policy.policy_gradient(p, q, mu, correction, limits, cost)
        mine = np.array(found["stalePolicyGradient"], float)
        drawn = mu > 0  # the other rows count for nothing
        finite = np.isfinite(engine)
        assert np.array_equal(mine[drawn][~finite[drawn]], engine[drawn][~finite[drawn]])
        scale = np.abs(np.where(finite, engine, 0)).max(axis=1, keepdims=True)
        wrong = np.abs(np.where(finite, mine - np.where(finite, engine, 0), 0))
        assert (wrong <= TOLERANCE * scale)[drawn].all(), (correction, limits, cost)
        seen.add((correction, limits, cost, (engine[drawn] == 0).all(axis=1).any()))
    assert len(seen) > 25
