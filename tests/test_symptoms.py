"""The page of symptoms: every row leads to a section, and the search finds a user's words."""

import re

import numpy as np
import pytest

from opd_toy import estimators, off_policy
from opd_toy.distributions import kl, softmax
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
    for typed, section in TYPED.items():
        page.goto((built_book / "search.html").as_uri() + f"?q={typed}")
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
