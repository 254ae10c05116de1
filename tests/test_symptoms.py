"""The page of symptoms: every row leads to a section, and the search finds a user's words."""

import inspect
import re

import numpy as np
import pytest
import torch

from opd_toy import estimators, off_policy
from opd_toy.distributions import kl, softmax
from opd_toy.example import TEACHER_TREE
from opd_toy.pages import symptoms
from tests.conftest import ROOT
from tests.pages_run import run

PAGE = (ROOT / "book" / "symptoms.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^\((sec-[\w-]+)\)=\n### (.*)\n", PAGE, re.MULTILINE))
# What users type, and the section that answers; 152064 and its like are no words to the search.
TYPED = {
    "OOM": "out-of-memory",
    "out of memory": "out-of-memory",
    "NaN": "nan",
    "inf": "nan",
    "shape mismatch": "vocabulary-size",
    "152064": "vocabulary-size",
    "151936": "vocabulary-size",
    "different tokenizer": "other-tokenizer",
    "negative loss": "negative-loss",
    "flat loss": "flat-loss",
    "plateau": "flat-loss",
    "student does not learn": "no-learning",
    "loss falls KL rises": "falls-and-rises",
    "EOS": "longer",
    "longer answers": "longer",
    "repetition": "longer",
    "top-p": "temperature",
    "temperature": "temperature",
    "DDP": "more-gpus",
    "gradient accumulation": "more-gpus",
    "multi-GPU": "more-gpus",
    "async": "stale",
    "stale rollouts": "stale",
    "self-distillation": "hint",
    "hint": "hint",
    "several teachers": "several-teachers",
    "top-64": "top-64",
    "clip": "clip",
    "forking tokens": "forks",
    "learning rate": "rate",
    "how many samples": "samples",
    "reward weight": "reward-weight",
    "multiple teachers": "several-teachers",
    "teachers, several": "several-teachers",
    "vocab size mismatch": "vocabulary-size",
    "cross-tokenizer": "other-tokenizer",
    "mismatch of tokenizers": "other-tokenizer",
    "logprobs": "top-64",
    "top-k logprobs": "top-64",
    "hyperparameters": "start",
    "GRPO reward plus distillation": "reward-weight",
    "how many samples per prompt": "samples",
    "num_generations": "samples",
    "answers grow longer": "longer",
    "temperature 0.7": "temperature",
    "temperature .7": "temperature",
    "entropy weights": "forks",
    "padding": "nan",
    "pad token": "longer",
    "recipe": "start",
    "which loss": "decide-settings",
}


def test_every_row_leads_to_a_section_and_every_section_has_a_row():
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| \[[^]]+\]\(#([\w-]+)\) \|$", PAGE, re.MULTILINE)
    assert len(rows) == len(set(rows)) > 20 and set(rows) == set(SECTIONS)


@pytest.mark.parametrize("label", SECTIONS)
def test_a_section_has_a_first_check_and_leads_on(label):
    section = PAGE.split(f"({label})=\n")[1].split("\n(sec-")[0]
    assert section.count("*First check.*") == 1
    assert re.search(r"\]\((#|[\w-]+\.md)", section)


def test_the_words_for_the_search_lead_to_sections_of_their_page():
    for name in ("symptoms", "decide"):
        page = (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")
        listed = re.search(r"^search:\n((?:  .*\n)+)", page, re.MULTILINE)[1]
        labels = re.findall(r"^  ([\w-]+):", listed, re.MULTILINE)
        assert labels and all(f"\n({label})=\n" in page for label in labels)
        if name == "symptoms":
            assert set(labels) == set(SECTIONS)


@pytest.fixture(scope="module")
def names():
    """What the page computed; its cells hold the assertions on what the text says."""
    return run("symptoms.md")[2]


def test_the_bias_of_old_texts_is_that_of_the_engines_tables(names):
    """Means and variances of one pair, by the tables that the page's formulas stand for."""
    (none, ratio, cut, masked, clip) = names["stale"](0.3, pairs=1, tokens=30)
    generator = np.random.default_rng(0)
    z = 3 * generator.normal(size=(1, 30))
    q, mu = (softmax(z + scale * generator.normal(size=z.shape))[0] for scale in (1, 0.3))
    p = softmax(z)[0]
    goal = estimators.expectation(p, estimators.gkd(p, q))
    unit = estimators.total_variance(p, estimators.policy_gradient(p, q))
    weighted = off_policy.policy_gradient
    tables = {
        none: estimators.policy_gradient(p, q),
        ratio: weighted(p, q, mu),
        cut: weighted(p, q, mu, "truncate", 2),
    }
    for (off, variance), table in tables.items():
        bias = estimators.expectation(mu, table) - goal
        assert off == pytest.approx(np.linalg.norm(bias) / np.linalg.norm(goal), abs=1e-12)
        assert variance == pytest.approx(estimators.total_variance(mu, table) / unit, rel=1e-9)
    cost, w = np.log(p / q), p / mu
    for found, gone in (
        (masked, (w <= 0.5) | (w >= 2)),
        (clip, ((cost < 0) & (w > 1.2)) | ((cost > 0) & (w < 0.8))),
    ):
        table = np.where(gone[:, None], 0, weighted(p, q, mu))
        bias = estimators.expectation(mu, table) - goal
        assert found[0] == pytest.approx(np.linalg.norm(bias) / np.linalg.norm(goal), rel=1e-9)


def test_how_far_a_student_has_drifted_by_its_definition():
    generator = np.random.default_rng(0)
    z = 3 * generator.normal(size=30)
    p, mu = softmax(z), softmax(z + generator.normal(size=30))
    wanted = [mu @ abs(np.log(p / mu)), mu[p > 2 * mu].sum(), -kl(mu, p)]
    assert symptoms.drift(1, pairs=1, tokens=30) == pytest.approx(wanted, rel=1e-9)


def test_descent_on_the_teachers_first_64_by_autograd():
    """Two steps of each rule, the four losses written out."""
    generator = np.random.default_rng(1)
    teacher, start = softmax(generator.normal(size=70)), generator.normal(size=70)
    known = torch.tensor(teacher >= np.sort(teacher)[-64])
    q = torch.tensor(teacher)

    def losses(z):
        p = torch.softmax(z, 0)
        ratio, p_in, q_in = p * (p / q).log(), p[known].sum(), q[known].sum()
        head = ratio[known].sum()
        yield "dropped", head
        yield "dropped, with Σ (q − p) added", head + q_in - p_in
        yield "renormalised", head / p_in - (p_in / q_in).log()
        yield "as one more outcome", head + (1 - p_in) * ((1 - p_in) / (1 - q_in)).log()

    paths = symptoms.top_64_of(teacher, start, steps=2)
    for at, name in enumerate(paths):
        z = torch.tensor(start, requires_grad=True)
        for place in paths[name]:
            np.testing.assert_allclose(place, z.detach(), atol=1e-12, err_msg=name)
            named, loss = list(losses(z))[at]
            assert named == name
            z = (z - torch.autograd.grad(loss, z)[0]).detach().requires_grad_()
        assert len(paths[name]) == 3


def test_a_teacher_with_a_hint_moves_behind_its_student():
    """Two steps written out."""
    hinted, z, behind = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]), np.zeros(3), np.zeros(3)
    for steps in (1, 2):
        p, teachers = softmax(z), softmax(behind + np.log(hinted))
        pulls = [p * (np.log(p / q) - kl(p, q)) for q in teachers]
        z = z - np.mean(pulls, axis=0)
        behind = behind + 0.25 * (z - behind)
        np.testing.assert_allclose(
            symptoms.own_teacher(hinted, 0.25, steps), softmax(z), rtol=1e-12
        )


def test_where_forward_kl_and_a_reward_are_at_rest_their_gradients_cancel():
    teacher, passing = np.array([0.5, 0.3, 0.2]), np.array([0.0, 1.0, 0.0])
    p = symptoms.with_forward_kl(teacher, passing, 0.5)
    np.testing.assert_allclose(p - teacher, 0.5 * p * (passing - p @ passing), atol=1e-12)
    np.testing.assert_allclose(symptoms.with_forward_kl(teacher, passing, 0), teacher, rtol=1e-12)


def test_factors_on_the_odds_by_another_way():
    """Two tokens: at rest the last token is tilted by e^w, the first by what it is worth then."""
    weight = 0.7
    first, last = TEACHER_TREE.probabilities
    tilted = last * np.exp(weight * np.eye(3)[0])
    passing = (tilted / tilted.sum(axis=1, keepdims=True))[:, 0]
    begun = first[0] * np.exp(weight * passing)
    (then, now) = (first[0] @ last[:, 0], begun @ passing / begun.sum())
    factor = now / (1 - now) / (then / (1 - then))
    assert symptoms.factor_on_the_odds(weight) == pytest.approx(factor, rel=1e-6)  # descent's end

    chances = [1.0]  # of passing from the k-th token from the end; a right token is tilted
    for _ in range(8):
        chances.append(chances[-1] / (1 + np.exp(-weight * chances[-1])))
    chances = np.cumprod([1 / (1 + np.exp(-weight * chance)) for chance in chances[:8]])
    factor = chances[-1] / (1 - chances[-1]) * (1 - 0.5**8) / 0.5**8
    assert symptoms.factor_of_eight(weight) == pytest.approx(factor, rel=1e-12)
    assert symptoms.factor_of_eight(0) == pytest.approx(1, rel=1e-12)


def test_as_many_pairs_and_steps_as_the_page_counts_on():
    def unless_named(function):
        given = inspect.signature(function).parameters.values()
        return {each.name: each.default for each in given if each.default is not each.empty}

    assert unless_named(symptoms.stale) == {"pairs": 200, "tokens": 500, "seed": 0}
    assert unless_named(symptoms.drift) == {"pairs": 200, "tokens": 500}
    assert unless_named(symptoms.own_teacher) == {"steps": 2000}
    assert unless_named(symptoms.top_64_of) == {"steps": 1000}
    assert list(symptoms.stale(0.2, 2, 5)) == list(symptoms.stale(0.2, 2, 5, seed=0))
    assert list(symptoms.stale(0.2, 2, 5)) != list(symptoms.stale(0.2, 2, 5, seed=1))


def test_numbers_worked_out_by_hand(names):
    """Formulas apart from the engine: memory, the two means of hints, the odds of passing."""
    assert names["one_tensor"] == pytest.approx(8192 * 151936 * 4 / 1024**3)
    (a, b), half = names["hinted"], 0.5
    product = np.sqrt(a * b)
    assert names["geometric"] == pytest.approx(product / product.sum(), abs=1e-6)
    assert names["floor"] == pytest.approx(-np.log(product.sum()), abs=1e-6)
    mixed = half * (a + b)
    between = half * ((a * np.log(a / mixed)).sum() + (b * np.log(b / mixed)).sum())
    assert names["information"] == pytest.approx(between, abs=1e-6)
    assert names["reached"] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))])
    for weight, end in zip((1, 2), names["forward"]):  # q/p − w R is the same for both outcomes
        assert half / end - half / (1 - end) == pytest.approx(-weight, abs=1e-6)


def test_the_search_finds_what_users_type(page, built_book):
    """From disk, as typed: a link to the section that answers is the first."""
    address = (built_book / "search.html").as_uri()
    for place, (typed, section) in enumerate(TYPED.items()):
        if place < 5:
            page.goto(f"{address}?q={typed}")
        else:  # as the page itself asks on loading, without loading it
            page.evaluate(
                """typed => {
                    document.getElementById("search-results").replaceChildren();
                    Search.performSearch(typed);
                }""",
                typed,
            )
        links = page.locator("#search-results ul.search li a")
        links.first.wait_for()
        page.get_by_text("Search finished").first.wait_for()
        page.locator(f"#search-results a[href*='#sec-{section}']").first.wait_for()
        first = links.first
        assert f"#sec-{section}" in first.get_attribute("href"), (
            typed,
            first.get_attribute("href"),
        )
        assert " > " in first.inner_text() or section == "decide-settings"  # its heading is named
    assert page.refused == [] and page.faults == []
