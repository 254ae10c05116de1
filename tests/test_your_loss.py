"""The language of “Your loss”: JavaScript against Python, and both against the auditor.

The JavaScript runs in Chromium.  On two hundred formulas its trees, its PyTorch code, its gradients
and its names are those of Python and of the auditor.
"""

import base64
import math
import re

import numpy as np
import pytest
import torch

from opd_toy.audit.exhibits import museum
from opd_toy.audit.formulas import formula
from opd_toy.audit.token import candidates, temperatures, weights
from opd_toy.audit.token.pairs import TIERS, Pairs
from opd_toy.distributions import softmax
from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables import YourLoss, trees
from opd_toy.explorables.host import _inlined, files
from opd_toy.explorables.your_loss_language import FUNCTIONS, FormulaError, parse
from tests.explorables.opened import lent_pages, open_explorables
from tests.explorables.your_loss import (
    KNOWN,
    audited,
    defined,
    gradient_table,
    known_formulas,
    name_on_the_page,
)

lent = pytest.fixture(lent_pages, scope="module")
opened = pytest.fixture(open_explorables)
pytestmark = pytest.mark.usefixtures("one_thread")

JSD = "b*sum(q*(log q - log m)) + (1 - b)*sum(p*(log p - log m))"
BY_HAND = [
    *KNOWN,
    "2*sum(q*(log q - log p))",
    "sum(p*(log p - log q))/V",
    "-sum(q*log p)",
    "-log p[k]",
    "-q[k]*log p[k]",
    "-mean(log p)",
    "0.9*sum(q*(log q - log p)) - 0.1*mean(log p)",
    "sum(p*log p)",
    "sum(p*(log p - log q)) - 0.1*sum(p*log p)",
    "sum(p*(log p - log q)) + 0.1*sum(p*log p)",
    "sum(p*(log p - log q)) + 3*sum(q*(log q - log p))",
    "sum((p - q)*(log p - log q))",
    *(f"b = {b}; m = (1 - b)*p + b*q; {JSD}" for b in (0.1, 0.3, 0.5, 0.9)),
    f"b = 0.5; m = (p + q)/2; 2*({JSD})",
    *(f"sum(p*(log p - log({a}*p + (1 - {a})*q)))" for a in (0.1, 0.7)),
    *(f"sum(q*(log q - log({a}*q + (1 - {a})*p)))" for a in (0.1, 0.7)),
    "sum(softmax(t/2)*(log_softmax(t/2) - log_softmax(z/2)))",
    "9*sum(softmax(z/3)*(log_softmax(z/3) - log_softmax(t/3)))",
    "sum(p*(log p - log_softmax(t/0.7)))",
    "sum(softmax(z/2)*(log_softmax(z/2) - log q))",
    "sum(softmax(t/4)*(log_softmax(t/4) - log p))",
    "sum(q*(log q - log_softmax(z*2)))",
    "sg(log p[k] - 2*log q[k])*log p[k]",
    "sg(log p[k] - log q[k] - 1)*log p[k]",
    "(log p[k] - log q[k])^2/2",
    "sum(sg(p)*(log p - log q)^2)/2",
    "p[k]/sg(p[k])*sg(log p[k] - log q[k])",
    "sg(exp(log q[k] - log p[k]) - 1 + log p[k] - log q[k])*log p[k]",
    "exp(log q[k] - log p[k])",
    "sum(p*(log p - log q))^2",
    "sqrt(sum(q*(log q - log p)))",
    "sg(sum(p*(log p - log q)))*sum(q*(log q - log p))",
    "max(sum(p*(log p - log q)) - 0.1, 0)",
    "4*(1 - sum(sqrt(p*q)))",
    "sum(p^2/q)",
    "sum(q^2/p)",
    "sum((p - q)^2)",
    "sum((sqrt(p) - sqrt(q))^2)",
    "abs(log p[k] - log q[k])",
    "sg(tanh(log p[k] - log q[k]))*log p[k]",
    "sg(sigmoid(log p[k] - log q[k]))*log p[k]",
    "mean((z - t)^2)",
    "sum(abs(z - t))",
    "-sum(p*q)",
    "-log(sum(p*q))",
    "-log sigmoid(log p[k] - log q[k])",
    "max(p) - p[k]",
    "min(log p - log q)",
    "sum(where(p > q, p*(log p - log q), 0))",
    "sum(where(q == max(q), 1, 0)*(0 - log p))",
    "clamp(sum(p*(log p - log q)), 0, 5)",
    "sum(clamp(q*(log q - log p), -1, 0.05))",
    "0*sum(p) + log p[k]",
    "sg(log p[k])*log p[k]",
    "sum(p)",
    "w = sg(max(p)); w*sum(p*(log p - log q)) + (1 - w)*sum(q*(log q - log p))",
    "lambda = 0.5; loss = sum(p*(log p - log q)); lambda*loss + (1 - lambda)*sum(p*log p)",
]

# ---- at random, but seeded: what can be written at all ----


def random_formulas(count, seed=7):
    random = np.random.default_rng(seed)
    found = []
    while len(found) < count:
        text = a_loss(random)
        try:
            parse(text)
        except FormulaError:  # no gradient reaches the student
            continue
        if text not in (*BY_HAND, *found):
            found.append(text)
    return found


def pick(random, *options):
    return options[random.integers(len(options))]


def a_number(random):
    return pick(random, "0.45", "2", "1.7", "0.12", "3", ".35", "1.3e-1")  # no tie at the pairs


def a_loss(random):
    """Half are sums of known objectives, half anything."""
    if random.random() < 0.5:
        terms = [
            f"{a_number(random)}*{pick(random, *OBJECTIVES)}" for _ in range(random.integers(1, 4))
        ]
        return pick(random, " + ", " - ").join(terms)
    shares, signal = positive(random, 2), any_list(random, 2)
    return pick(
        random,
        f"sum({shares}*{signal})",
        f"mean({signal})",
        f"({signal})[k]",
        f"sg({signal})[k] * log p[k]",
        f"({shares})[k]*log p[k] − sum({signal})/V",
        f"sum({signal}) * mean({shares})",
        f"where(p[k] ≥ q[k], ({signal})[k], log p[k])",
    )


OBJECTIVES = [
    "sum(p*(log p - log q))",
    "sum(q*(log q - log p))",
    "sum(p*log p)",
    "mean(log p)",
    "log p[k]",
    "sg(log p[k] - log q[k])*log p[k]",
    "(exp(log q[k] - log p[k]) + log p[k])",
    "sum(q*(log q - log(0.5*p + 0.5*q)))",
    "sum(sqrt(p*q))",
    "sum(softmax(t/2)*log_softmax(z/2))",
]


def positive(random, depth):
    if depth == 0 or random.random() < 0.2:
        return pick(random, "p", "q", "softmax(z/2)", "softmax(t/3)", "p", "q")
    one, other = positive(random, depth - 1), positive(random, depth - 1)
    return pick(
        random,
        f"({one} + {other})",
        f"{one}*{other}",
        f"({one})^{a_number(random)}",
        f"exp(-abs({any_list(random, depth - 1)}))",
        f"sigmoid({any_list(random, depth - 1)})",
        f"max({one}, {other})",
        f"sqrt({one})",
        f"min({one}, {a_number(random)})",
    )


def any_list(random, depth):
    if depth == 0 or random.random() < 0.2:
        return pick(random, "log p", "log q", "log_softmax(z/2)", "(log p - log q)", "z", "ln(p)")
    one, other = any_list(random, depth - 1), any_list(random, depth - 1)
    return pick(
        random,
        f"({one} - {other})",
        f"({one} + {a_number(random)} * {other})",
        f"clamp({one}, -{a_number(random)}, 2)",
        f"tanh({one})",
        f"abs({one})",
        f"log({positive(random, depth - 1)})",
        f"where({one} < {other}, {one}, {a_number(random)})",
        f"sg({one})",
        f"min({one}, {other})",
        f"-{one}",
    )


FORMULAS = [*BY_HAND, *random_formulas(200 - len(BY_HAND))]


# ---- the JavaScript ----


@pytest.fixture(scope="module")
def in_the_page(browser):
    """in_the_page(expression, arguments): [expression of x for x in arguments] in JavaScript."""
    needed = [*files("your_loss_verdict"), "your_loss_language.js", "your_loss_code.js"]
    names = "parse, torchCode, lossTable, verdictOf, softmax, allPairs, sets"
    sets = "const sets = { TERMS, TERMS_OVER_VOCABULARY, COMPARED, NAMED, DIVERGENCES, WEIGHTS, "
    sets += "BOTH_SKEWS: [BOTH_SKEWS], TEMPERED_KLS, TEMPERED_DIVERGENCES };"
    text = f"{''.join(map(_inlined, needed))}{sets}export {{ {names} }};"
    source = "data:text/javascript;charset=utf-8;base64," + base64.b64encode(text.encode()).decode()
    page = browser.new_page()
    yield lambda expression, arguments: page.evaluate(
        f"""async ([source, all]) => {{
          const {{ {names} }} = await import(source);
          return all.map((x) => {expression});
        }}""",
        [source, arguments],
    )
    page.close()


def test_there_are_two_hundred_formulas_of_every_kind():
    assert len(set(FORMULAS)) == len(FORMULAS) == 200
    text = " ".join(FORMULAS)
    for word in FUNCTIONS:
        assert f"{word}(" in text or f"{word} " in text, word
    for word in ("clamp(", "where(", "[k]", "^", "/", "V", "≥", "−"):
        assert word in text, word


def test_the_code_is_the_same_and_does_not_name_what_it_does_not_use(in_the_page):
    for text, code in zip(FORMULAS, in_the_page("torchCode(parse(x))", FORMULAS), strict=True):
        assert code == formula(text).code, text
        for name in re.findall(r"^    (\w+) = ", code, flags=re.MULTILINE):
            assert len(re.findall(rf"\b{name}\b", code)) > 1, (text, name)


# Each asks for a slope where two are equal, or at an edge.
TIED = [
    *("max(p[k], q[k])", "min(p[k], q[k])", "sum(min(p, q))", "max(log p, log q)[k]"),
    *("max(p)", "min(p)", "max(z)*p[k]", "min(q - p)", "abs(p[k] - q[k])", "sum(abs(z - t))"),
    *("clamp(z[k], 0.5, 2)", "clamp(z[k], -2, 0.5)", "min(z[k], 0.5)", "max(z[k], 0.5)"),
    *(f"sum(where(z {sign} t, p, 2*p))" for sign in ("<", ">", "<=", ">=", "==", "!=")),
    *("max(p[k], p[k])", "min(z[k], p[k])", "max(z[k], p[k])"),
    *("sum((z - t)^2)", "sum((z - t)^0)*p[k]", "sum(sg(z - t)^p)", "sqrt(p[k]/q[k])"),
]


@pytest.mark.parametrize(
    "pair",
    [[[0.5, 0.5, -1.0], [0.5, 0.5, -1.0]], [[0.5, 0.5, 0.5, 0.5], [0.5, 0.25, 0.5, 1.0]]],
    ids=["equal", "even"],
)
def test_where_two_are_equal_the_slopes_are_those_of_autograd(pair, in_the_page):
    for text, table in zip(TIED, in_the_page(f"lossTable(parse(x), ...{pair})", TIED)):
        rows = gradient_table(formula(text), *pair)
        np.testing.assert_allclose(table["rows"], rows, rtol=1e-12, atol=1e-15, err_msg=text)


# {what the page has: what the auditor has}
THE_AUDITORS = {
    "TERMS": candidates.TERMS,
    "TERMS_OVER_VOCABULARY": candidates.TERMS_OVER_VOCABULARY,
    "COMPARED": (*candidates.KLS, candidates.jsd(0.5)),
    "NAMED": weights.NAMED,
    "DIVERGENCES": candidates.DIVERGENCES,
    "BOTH_SKEWS": (candidates.BOTH_SKEWS,),
    "TEMPERED_KLS": temperatures.KLS_AT_ONE_TEMPERATURE,
    "TEMPERED_DIVERGENCES": temperatures.DIVERGENCES_AT_TEMPERATURE[:4],  # of both models
    "WEIGHTS": (  # on coarser grids than the auditor's
        candidates.line(weights.tanh_of, (0.1, 0.3, 0.6, 1, 2, 5, 15), (0, np.inf)),
        candidates.line(weights.power_of, (0.3, 0.6, 1.4, 2, 3), (0, 12)),
    ),
}
# Of some candidates or families: [grid, bounds] of each family, and [name, gradients] of all.
ALL_OF = """(() => {{
  const [students, teachers] = {pairs};
  const pairs = students.map((z, i) => ({{
    z, t: teachers[i], p: softmax(z), q: softmax(teachers[i]),
  }}));
  const families = sets[x].filter(({{ grid }}) => grid);
  const members = ({{ grid, members }}) => grid.flatMap((at) => members(...at));
  const all = families.length ? families.flatMap(members) : sets[x];
  return [
    families.map(({{ grid, bounds }}) => [grid, bounds]),
    all.map(({{ name, gradient }}) => [name, pairs.map(gradient)]),
  ];
}})()"""


def test_the_candidates_are_the_auditors(in_the_page):
    pairs = np.random.default_rng(8).normal(0, 1, (2, 3, 4))
    in_page = in_the_page(ALL_OF.format(pairs=pairs.tolist()), list(THE_AUDITORS))
    for known, (grids, members) in zip(THE_AUDITORS.values(), in_page, strict=True):
        families = [each for each in known if isinstance(each, candidates.Family)]
        wanted = [[[*map(list, each.grid)], [*map(list, each.bounds)]] for each in families]
        assert grids == wanted
        all_of = [each for of in families for at in of.grid for each in of.members(*at)] or known
        for candidate, (name, gradients) in zip(all_of, members, strict=True):
            assert name == candidate.name
            engine = candidate.gradient(Pairs(*pairs))
            size = np.abs(engine).max(axis=1, keepdims=True)
            assert (np.abs(engine - gradients) <= 1e-11 * size + 1e-15).all(), name


def described_pairs():
    """(student's logits, teacher's, tier, for fitting) of the pairs that a verdict is found on."""
    numbers = iter(trees.uniforms(1, 1000))
    normal = lambda: (
        math.sqrt(-2 * math.log(1 - next(numbers))) * math.cos(2 * math.pi * next(numbers))
    )
    normals = lambda size, spread: np.array([spread * normal() for _ in range(size)])
    yield np.log(STUDENT), np.log(TEACHER), 1, True
    for tier, (sizes, spread) in enumerate(TIERS):
        for i, size in enumerate(sizes):
            logits = normals(size, spread), normals(size, spread)
            yield *logits, tier, i < 4 if tier == 1 else i % 2 == 0
    alike = [(size, sharpness, 0.05, 1) for size in (3, 5) for sharpness in (0.4, 2)]
    for size, sharpness, apart, tier in [*alike, *((size, 1, 0.2, 0) for size in (3, 5, 8))]:
        teacher = normals(size, 1.2)
        yield sharpness * teacher + normals(size, apart), teacher, tier, False
    for far in (4, 8, 16):
        yield [0, far, -far], [0.1, -far, far], 4, False


def test_the_pairs_of_a_verdict_are_those_described(in_the_page):
    (found,) = in_the_page("allPairs().map(({ z, t, tier, fit }) => [z, t, tier, fit])", [0])
    for (z, t, tier, fit), (student, teacher, *kind) in zip(found, described_pairs(), strict=True):
        assert [tier, fit] == kind
        np.testing.assert_allclose(z, student, rtol=1e-12)
        np.testing.assert_allclose(t, teacher, rtol=1e-12)


def test_gradients_are_those_of_autograd(in_the_page):
    random = np.random.default_rng(3)
    cases = [
        (text, *(spread * random.standard_normal((2, size))).tolist())
        for text in FORMULAS
        for size, spread in ((3, 1.0), (5, 3.0))
    ]
    found = in_the_page("lossTable(parse(x[0]), x[1], x[2])", cases)
    for (text, student, teacher), table in zip(cases, found, strict=True):
        rows = gradient_table(formula(text), student, teacher)
        scale = max(np.abs(rows).max(), np.abs(table["values"]).max(), 1e-3)
        assert np.abs(np.array(table["rows"]) - rows).max() <= 1e-12 * scale, text


@pytest.mark.parametrize("part", range(10))
def test_expected_gradient_and_name_are_the_auditors(part, in_the_page):
    random = np.random.default_rng(part)
    cases = [
        (text, "student" if random.random() < 0.7 else "teacher") for text in FORMULAS[part::10]
    ]
    logits = [np.log(each).tolist() for each in (STUDENT, TEACHER)]
    tables = in_the_page(f"lossTable(parse(x[0]), ...{logits})", cases)
    names = in_the_page("verdictOf(parse(x[0]), x[1])", cases)
    for (text, drawn_from), table, name in zip(cases, tables, names, strict=True):
        weights = STUDENT if drawn_from == "student" else TEACHER
        wanted = audited(text, drawn_from).expected_gradient
        apart = np.abs(weights @ np.array(table["rows"]) - wanted).max()
        assert apart <= 1e-10 * np.abs(wanted).max() + 1e-15, text  # where the mean is 0: rounding
        report = audited(text, drawn_from)
        on_all = report.holds_up_to == report.farthest
        if report.optimises == "zero" and (name["name"].startswith("zero") or not on_all):
            continue  # which pairs show that a clamp of p alone lets something through is chance
        assert name["name"] == name_on_the_page(text, drawn_from), (text, drawn_from)


def test_a_neighbour_of_a_named_loss_has_not_its_name(in_the_page):
    for text in ("sum(p*(log p - log q))", "sum(q*(log q - log p))", "sg(log p[k])*log p[k]"):
        close = f"{text} + 1e-5*sum(p^3)"
        here, there = in_the_page('verdictOf(parse(x), "student").name', [text, close])
        assert here != there == "none of these"


# ---- errors ----

WRONG = [  # (formula, line, column, what was expected)
    ("", 1, 1, "a loss, such as"),
    ("  ", 1, 1, "a loss, such as"),
    ("p +", 1, 4, "a number, a name such as p"),
    ("2 * ) p", 1, 5, "a number, a name such as p"),
    ("sum(p*(log p - log q)", 1, 22, "an operator or “)”"),
    ("sum(p, q)", 1, 6, "“)”: sum takes 1"),
    ("clamp(p[k], 1)", 1, 14, "“,”: clamp takes 3"),
    ("lgo p[k]", 1, 1, "p, q, z, t, V, a name set before"),
    ("log p^2", 1, 6, "parentheses: log(…^…) or (log …)^…"),
    ("sum p", 1, 5, "“(” after sum"),
    ("k*log p[k]", 1, 1, "k in brackets alone"),
    ("log p[2]", 1, 7, "k, the drawn token"),
    ("V[k]*p[k]", 1, 2, "a list over the tokens before “[”"),
    ("log p[k", 1, 8, "“]”"),
    ("log p - log q", 1, 1, "one number: add the list up"),
    ("sum(p[k])", 1, 5, "a list over the tokens in sum(…)"),
    ("where(p, 1, 2)", 1, 7, "a comparison first"),
    ("sum(p > q)", 1, 7, "a number or a list"),
    ("clamp(p[k], q[k], 1)", 1, 13, "a plain number as a bound"),
    ("sg(log p[k] - log q[k])", 1, 1, "p or z outside of sg(…)"),
    ("log q[k]", 1, 1, "p or z outside of sg(…)"),
    ("log p[k] log q[k]", 1, 10, "an operator or the end"),
    ("log p[k] $ 2", 1, 10, "an operator or the end"),
    ("p = 3; log p[k]", 1, 1, "a name of your own"),
    ("m = p + q\nlog n[k]", 2, 5, "p, q, z, t, V, a name set before"),
    ("m = p > q; m[k]", 1, 7, "an operator, or “;” and the loss"),
    ("m = p", 1, 6, "a loss, such as"),
    ("1e999*log p[k]", 1, 1, "a finite number"),
    ("log log p[k]", 1, 5, "a name, or “(” after log"),
    ("-" * 40 + "p[k]", 1, 31, "at most 30 operands within each other"),
    ("(" * 40, 1, 31, "at most 30 operands within each other"),
    ("p[k]" + " + p[k]" * 99, 1, 421, "the end: a formula has at most 300 words and signs"),
    ("log 🙂[k]", 1, 5, "a number, a name such as p"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[repr(text) for text, *_ in WRONG])
def test_what_is_wrong_is_said_with_its_column(wrong, in_the_page):
    text, line, column, expected = wrong
    with pytest.raises(FormulaError) as caught:
        formula(text)
    error = caught.value
    assert (error.line, error.column) == (line, column)
    assert error.expected.startswith(expected)
    assert str(error).endswith("\n" + " " * (column - 1) + "^")
    (found,) = in_the_page(
        "(() => { try { parse(x); } catch (e) { return [e.line, e.column, e.expected]; } })()",
        [text],
    )
    assert found == [line, column, error.expected]


def test_a_formula_may_have_as_many_words_as_it_says_and_functions_of_numbers_alone(in_the_page):
    texts = ["p[k]" + " + p[k]" * 59]  # 299 and its end
    texts += [f"{name}(2)*p[k]" for name in ("log", "exp", "sqrt", "abs", "tanh", "sigmoid", "sg")]
    texts += [f"{name}*p[k]" for name in ("clamp(3, 0, 1)", "min(2, 3)", "max(2, 3)")]
    found = in_the_page("torchCode(parse(x))", texts)
    assert found == [formula(text).code for text in texts]


def test_every_way_of_spelling_is_the_same_tree():
    plain = formula("sg(log p[k] - log q[k]) * sum(p) / 2").code
    for text in (
        "detach(ln p[k] − ln q[k]) · Σ(p) ÷ 2",
        "sg(log(p[k]) – log(q)[k]) × ∑(p)/2",
        "(sg(log p[k]\n  - log q[k])\n * sum(p) / 2)",
        "\n\nsg(log p[k] - log q[k])*sum(p)/2 ;\n",
    ):
        assert formula(text).code == plain
    assert formula("σ(z[k])").code == formula("sigmoid(z[k])").code
    assert formula("√(p)[k]").code == formula("sqrt(p)[k]").code
    assert formula("p[k]**2").code == formula("p[k]^2").code


def test_precedence_is_that_of_mathematics():
    for text, wanted in [
        ("-p[k]^2", "-p[token] ** 2"),
        ("p[k] - (q[k] - 1)", "p[token] - (q[token] - 1)"),
        ("p[k] / (q[k] * 2)", "p[token] / (q[token] * 2)"),
        ("(p[k] + q[k]) * 2", "(p[token] + q[token]) * 2"),
        ("2^p[k]^2", "2 ** p[token] ** 2"),
        ("(2^p[k])^2", "(2 ** p[token]) ** 2"),
        ("p[k]^-1", "p[token] ** -1"),
        ("log p[k] * 2", "log_p[token] * 2"),
    ]:
        assert formula(text).code.endswith(f"    return {wanted}\n"), text


# ---- what the page offers, and how it is typed ----


def test_the_mistakes_are_the_museums():
    of_museum = {
        "policy gradient": "policy_gradient",
        "reverse KL": "reverse_kl",
        "forward KL": "forward_kl",
        "k1 as a loss": "k1_as_loss",
        "k3 as a loss": "k3_as_loss",
        "k3 with a clamp": "k3_clamped",
        "KL as the advantage": "kl_as_advantage",
        "no stop-gradient": "without_stop_gradient",
        "clamped log-ratio": "clamped_policy_gradient",
        "β near its end": "jsd_near_its_end",
        "no factor T²": "tempered_without_square",
    }
    assert set(known_formulas()) == {*of_museum, "total variation"}
    random = np.random.default_rng(1)
    for label, name in of_museum.items():
        for scale in (1.0, 3.0):
            pair = scale * random.standard_normal((2, 4))
            mine = gradient_table(formula(known_formulas()[label]), *pair)
            theirs = gradient_table(getattr(museum, name), *pair)
            size = max(np.abs(theirs).max(), 1)
            assert np.abs(mine - theirs).max() <= 1e-12 * size, label


def test_typed_shown_and_linked(opened):
    widget = opened("YourLoss")
    field = widget.root.get_by_label("A loss of one position")
    field.fill("3*sum(p*(log p - log q))")
    seen = settled(widget)
    assert seen.words["verdict"] == "3 × reverse KL" and seen.choices["known"] is None
    assert "no drawn token" not in seen.sentence and "every draw gives the same" in seen.sentence
    assert widget.hash() == {"your-loss": {"formula": "3*sum(p*(log p - log q))"}}
    again = opened("YourLoss")
    again.goto(widget.page.url)
    assert again.check().code == seen.code
    assert again.root.locator("textarea").input_value() == "3*sum(p*(log p - log q))"


def settled(widget):
    widget.page.wait_for_function("timersWaiting() === 0", timeout=10_000)
    return widget.check()


def test_a_fault_is_marked_said_and_leaves_the_last_formula_there(opened):
    widget = opened("YourLoss")
    field, before = widget.root.locator("textarea"), widget.check()
    field.fill("sum(p*(log p - lgo q))")
    assert widget.root.locator(".opd-error pre").inner_text().split("\n") == [
        "sum(p*(log p - lgo q))",
        " " * 15 + "^",
    ]
    assert widget.root.locator(".opd-error p").inner_text().startswith("column 16: expected p, q")
    assert field.get_attribute("aria-invalid") == "true"
    described = field.get_attribute("aria-describedby").split()[0]
    assert widget.root.locator(f"#{described}").is_visible()
    widget.page.wait_for_function("timersWaiting() === 0", timeout=10_000)
    said = widget.root.locator("[aria-live]").inner_text()
    assert said.startswith("This cannot be read at “lgo q))”: column 16: expected p, q, z")
    assert widget.root.locator("[data-stale=true]").count() > 4 and widget.hash() == {}
    widget.root.get_by_role("button", name="A rare token").click()  # the text stays where it is
    assert field.input_value() == "sum(p*(log p - lgo q))"
    field.fill("sum(p*(log p - log q))")
    seen = settled(widget)
    assert seen.code != before.code and field.get_attribute("aria-invalid") == "false"
    assert widget.root.locator(".opd-error").is_hidden()
    field.fill("(")
    widget.root.get_by_role("button", name="Reset").click()
    assert widget.check().__dict__ == before.__dict__ and field.input_value() != "("


def test_the_code_can_be_copied_or_stands_selected(opened):
    widget = opened("YourLoss")
    widget.root.get_by_role("button", name="Copy the code").click()
    selected = widget.page.evaluate("getSelection().toString()")
    assert selected.strip() == widget.check().code[0].strip()


def test_the_sentence_waits_for_a_pause_in_typing(opened):
    widget = opened("YourLoss")
    before = widget.check().sentence
    shown = widget.root.evaluate(  # timers of a page end in order, however slow it is
        """async (root) => {
            const field = root.querySelector("textarea");
            field.value = "sum(q*(log q - log p))";
            field.dispatchEvent(new Event("input", { bubbles: true }));
            await new Promise((done) => setTimeout(done, 300));
            const parts = ["[data-name=verdict]", "[aria-live]"];
            return parts.map((at) => root.querySelector(at).innerText);
        }"""
    )
    assert shown == ["forward KL", before]
    assert settled(widget).sentence != before


def test_a_formula_from_the_address_that_cannot_be_read(opened):
    widget = opened("YourLoss")
    for text in ("p +", "<img src=x onerror=alert(1)>", "x" * 5000, "((((" * 200):
        again = opened("YourLoss")
        again.set(formula=text)
        assert again.page.faults == []
        assert again.root.locator("textarea").input_value() == text[:1000]
        assert again.root.locator("[aria-live]").inner_text().startswith("This cannot be read at")
        again.root.get_by_role("button", name="Reset").click()
        assert again.check().code == widget.check().code


def test_where_descent_ends(opened):
    for text, end, says in [
        ("sg(log p[k] - log q[k])*log p[k]", TEACHER, "the teacher."),
        ("(log p[k] - log q[k])*log p[k]", np.sqrt(TEACHER), "not the teacher, (0.70, 0.20, 0.10)"),
        ("sum(sg(p)*(z - t)^2)", TEACHER, "the teacher."),
        ("1e6*sum(q*(log q - log p))", TEACHER, "the teacher."),
        ("1e-6*sum(q*(log q - log p))", TEACHER, "the teacher."),
        ("log p[k]", STUDENT, "Descent stays where it is."),
        ("-sum(p*q)", [0.9998, 0.0001, 0.0001], "the edge: nothing is left of t₂ and t₃."),
    ]:
        widget = opened("YourLoss", formula=text)
        seen = widget.check()
        wanted = np.array(end) / np.sum(end)
        np.testing.assert_allclose(seen.table(1)[:3, 1], wanted, atol=2e-4)
        assert says in seen.sentence, text


CORNERS = np.array([[30.0, 296], [180, 36], [330, 296]])


def test_bars_and_spreads_are_drawn_to_scale(opened):
    for state in ({}, {"formula": "log p[k] - log q[k]"}, {"student": [0.02, 0.28, 0.7]}):
        widget = opened("YourLoss", **state)
        table = widget.check().table(0)
        bars = widget.root.locator("svg rect.opd-fill").evaluate_all(
            "(bars) => bars.map((bar) => [bar.x, bar.width].map((each) => each.baseVal.value))"
        )
        bars = np.array(bars).reshape(3, 3, 2)  # token, loss, (left, width)
        means = table[:, [0, 2, 3]]
        scale = (bars[..., 1] / np.maximum(np.abs(means), 1e-12))[np.abs(means) > 0.01].mean()
        np.testing.assert_allclose(bars[..., 1], np.abs(means) * scale, atol=0.02)
        assert ((bars[..., 0] < 189.99) == ((means > 0) & (bars[..., 1] > 0.01))).all()
        for token in range(3):
            drawn = widget.root.locator(f"[data-whisker='{token}']").get_attribute("d")
            left, right = (float(x) for x in re.match(r"M([\d.]+) .*H([\d.]+)m", drawn).groups())
            ends = 190 - scale * (table[token, 0] + np.array([1, -1]) * table[token, 1])
            np.testing.assert_allclose([left, right], np.clip(ends, 45, 335), atol=0.02)


def test_the_path_is_that_of_descent(opened):
    for text in (KNOWN[0], "(log p[k] - log q[k]) * log p[k]", "3*sum(q*(log q - log p))"):
        widget = opened("YourLoss", formula=text)
        p, q = np.log(STUDENT), np.log(TEACHER)
        loss = formula(text)
        for _ in range(400):  # shorter steps than the page's, to somewhere on the way
            p = p - 0.005 * softmax(p) @ gradient_table(loss, p, q)
        middle = softmax(p) @ CORNERS
        path = widget.root.locator("[data-path=yours]").get_attribute("d").strip("M").split("L")
        path = np.array([[float(x) for x in point.split()] for point in path])
        assert np.abs(path[0] - STUDENT @ CORNERS).max() < 0.06
        assert polyline_distance(middle, path) < 0.6, text
        cross = widget.root.locator("path.opd-cross").get_attribute("d")
        x, y = (float(each) + 6 for each in re.match(r"M([\d.]+) ([\d.]+)l12 12", cross).groups())
        assert np.abs(path[-1] - [x, y]).max() < 0.06


def polyline_distance(point, path):
    a, step = path[:-1], np.diff(path, axis=0)
    along = ((point - a) * step).sum(1) / np.maximum((step**2).sum(1), 1e-12)
    return np.hypot(*(point - a - along.clip(0, 1)[:, None] * step).T).min()


def test_what_is_not_finite_is_said(opened):
    seen = opened("YourLoss", formula="sqrt(log p[k] - 1)")
    assert "Here the gradient is not finite." in seen.root.locator("[aria-live]").inner_text()
    assert seen.page.faults == []


def test_the_trait_refuses_what_cannot_be_read():
    import traitlets

    with pytest.raises(traitlets.TraitError, match=r"formula cannot be read: column 4: expected"):
        YourLoss(formula="p +")
    explorer = YourLoss(formula="-log p[k]")
    assert audited(explorer.formula, "teacher").optimises == "forward KL"


def test_the_code_on_the_page_runs(opened):
    loss = defined(opened("YourLoss").check().code[0])
    z = torch.tensor(np.log(STUDENT), requires_grad=True)
    loss(z, torch.tensor(np.log(TEACHER)), torch.tensor(1)).backward()
    p = softmax(np.log(STUDENT))
    np.testing.assert_allclose(z.grad, np.log(0.3 / 0.2) * (np.eye(3)[1] - p), rtol=1e-12)
