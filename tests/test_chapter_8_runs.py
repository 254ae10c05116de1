"""Chapter 8's record is whole, its verdicts follow from its numbers, the ledger repeats them."""

import copy
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest

from opd_toy.ledger import CLAIMS
from opd_toy.ledger.evidence import figure
from opd_toy.pages import claim_by_claim
from opd_toy.pages.drawing import Style
from opd_toy.pages.numbers import plain
from opd_toy.records.provenance import recorded
from tests import shown


@pytest.fixture(scope="module")
def study():
    return recorded("lm-study-cpu", "study")


def test_the_study_is_whole(study):
    from opd_toy.lm.methods import METHODS
    from opd_toy.lm.presets import PRESETS

    cpu = PRESETS["cpu"]
    assert study["methods"] == {name: method.words for name, method in METHODS.items()}
    assert tuple(study["seeds"]) == cpu.seeds and len(cpu.seeds) >= 3
    for name, runs in study["curves"].items():
        assert [run["steps"][-1] for run in runs] == [cpu.distillation.steps] * len(cpu.seeds), name


def test_the_verdicts_follow_from_the_numbers(study):
    from opd_toy.lm.study.claims import judge

    assert judge(study) == study["claims"]
    worse = copy.deepcopy(study)
    for seed in worse["final"]["pg_0"]:
        seed["sequence_kl"] = 0.0
    changed = {
        row["id"]
        for row, before in zip(judge(worse), study["claims"])
        if row["verdict"] != before["verdict"]
    }
    assert "gkd-pg-summary" in changed


def test_the_rows_of_the_claims_are_those_that_the_page_shows(study):
    """Also of the text kept of it; a bar does not end a cell."""
    kept = set(shown.kept("08-claim-by-claim"))
    words, in_cell = claim_by_claim.in_words, lambda text: text.replace("|", r"\|")
    for claim in study["claims"]:
        cells = words(claim["claim"]), claim_by_claim.verdict(claim), ""
        begun = f"| {' | '.join(map(in_cell, cells))}"
        assert [row for row in kept if row.startswith(begun)], begun
        rule = words(f"*{claim['claim']}* {claim['criterion']}")
        assert f"| {in_cell(rule)} | {in_cell(claim_by_claim.figures_of(claim))} |" in kept


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ((0.01684, 0.0601), "0.017 ± 0.060"),
        ((-0.0068, 0.0699), "−0.007 ± 0.070"),
        ((22.34, 1.234), "22.3 ± 1.2"),
        ((295712.3, 8221.4), "295712 ± 8221"),
        ((0.99999, 0.00002), "1.000 ± 0.000"),
        ((1.0, 0.0), "1.00"),
        ((1.0, np.nan), "1.00"),
        ((np.nan, np.nan), "–"),
    ],
)
def test_a_value_has_the_digits_that_its_error_allows(pair, words):
    assert claim_by_claim.plus_minus(pair) == words


def test_means_and_slopes_are_those_of_the_definitions(monkeypatch):
    mean, error = claim_by_claim.seed_mean([1.0, 2.0, 6.0])
    assert (mean, error) == pytest.approx((3.0, np.sqrt(7.0 / 3)))  # variance 7, three seeds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(claim_by_claim.seed_mean([1.0])[1])
    # a variance of the length's square, known to 3 % and to 4 %, over a ratio of 4 in the length
    growth = {
        "lengths": [1, 2, 4, 8, 16],
        "pg": {"variance": [[9, 9], [9, 9], [16.0, 0.48], [9, 9], [256.0, 10.24]]},
    }
    made = {"frozen": {"start": {"growth": growth}}}
    monkeypatch.setattr(claim_by_claim, "study", lambda: made)
    assert claim_by_claim.slope("start", "pg") == pytest.approx((2.0, 0.05 / np.log(4)))


def test_what_was_not_measured_has_a_dash_and_what_was_not_asked_no_words(monkeypatch):
    frozen = {"start": {"estimators": {"gkd": {"bias": [None, None]}}}}
    monkeypatch.setattr(claim_by_claim, "study", lambda: {"frozen": frozen})
    assert claim_by_claim.plus_minus(claim_by_claim.gradient("start", "gkd", "bias")) == "–"
    asked = {"figure": {"a": None, "b": [None, None], "c": [2.0, None]}, "verdict": "seen"}
    assert claim_by_claim.figures_of(asked) == "a: –; b: –; c: 2.00"
    parts = {"one": True, "two": False, "three": None}
    said = "**seen**. Holds: one. Does not hold: two."
    assert claim_by_claim.verdict(asked | {"parts": parts}) == said
    assert claim_by_claim.verdict(asked | {"parts": {"one": True, "three": None}}) == "**seen**"


def test_positions_that_thirty_texts_reach_are_drawn(monkeypatch):
    kls = {"own": [0.1, 0.2, 0.3], "teacher": [0.4, 0.5, 0.6]}
    reached = {"own": [31, 30, 29], "teacher": [30, 29, 31]}
    made = {"exposure": dict.fromkeys(("seqkd", "gkd"), kls | {"positions": reached})}
    monkeypatch.setattr(claim_by_claim, "study", lambda: made)
    drawn = claim_by_claim.exposed(Style())
    lines = [line.get_ydata() for line in drawn.axes[1].lines]
    np.testing.assert_array_equal(lines, [[0.1, 0.2, np.nan], [0.4, np.nan, 0.6]])
    plt.close(drawn)


def test_no_accuracy_lost_means_that_none_is_clearly_lost(study):
    from opd_toy.lm.study.clearly import clearly_above

    lost = [
        gkd["accuracy"] - top["accuracy"]
        for gkd, top in zip(study["final"]["gkd"], study["final"]["top_k"])
    ]
    (claim,) = [c for c in study["claims"] if "costs no accuracy to be told" in c["parts"]]
    holds = claim["parts"]["costs no accuracy to be told"]
    assert holds is not clearly_above(np.array(lost))
    said = claim_by_claim.verdict(claim)
    words = "it ends as accurate as GKD, within the error"
    assert (words in said.split("Does not hold")[0]) == holds


def test_no_code_name_is_left_in_what_is_said_of_a_claim(study):
    for claim in study["claims"]:
        said = claim_by_claim.in_words("{claim} {criterion}".format(**claim))
        said += claim_by_claim.verdict(claim) + claim_by_claim.figures_of(claim)
        assert re.findall(r"\b[a-z]+_\w+|\b(?:gkd|seqkd|rlvr|jsd)\b", said) == []


def test_the_student_after_gkd_is_not_called_like_the_estimator(study):
    figures = {claim["id"]: claim_by_claim.figures_of(claim) for claim in study["claims"]}
    assert "token noise of GKD, at the start: 0.00" in figures["pg-variance"]
    assert "token noise of GKD, after GKD: 0.00" in figures["pg-variance"]
    assert "sequence KL, GKD: 1.685" in figures["jsd-endpoints"]  # here it is the method


def by_seed(study, method, measure):
    return np.array([seed[measure] for seed in study["final"][method]])


def verdict(study, name):
    return next(row["verdict"] for row in study["claims"] if row["id"] == name)


def clearly(differences, more=0.0):
    """Positive for every seed, and in the mean by more than two standard errors.

    ``more`` is a standard error of another kind, added in squares.
    """
    of_seeds = differences.std(ddof=1) / np.sqrt(len(differences))
    return (differences > 0).all() and differences.mean() > 2 * np.hypot(of_seeds, more)


def words(parts):
    return "seen" if all(parts) else "seen under conditions" if any(parts) else "not seen"


def row(id):
    """(how a claim is shown, its figure) in the ledger."""
    (claim,) = [claim for claim in CLAIMS if claim.id == id]
    return claim.shown_by, figure(claim)


def test_reward_mixing(study):
    """Does a reward lead past the teacher, from there and from below, and past no reward?"""
    mixed, teacher = by_seed(study, "opd_reward", "accuracy"), study["final"]["teacher"]
    of_teacher = np.sqrt(
        teacher["accuracy"] * (1 - teacher["accuracy"]) / study["final"]["prompts"]
    )
    ends = {name: found["final"] for name, found in study["from_teacher"]["methods"].items()}
    gain, of_prompts = np.array([seed["gain"] for seed in ends["opd_reward"]]).T
    from_there = clearly(gain, of_prompts.mean()) and clearly(
        gain - [seed["gain"][0] for seed in ends["gkd"]]
    )
    parts = (
        from_there,
        clearly(mixed - teacher["accuracy"], of_teacher),
        clearly(mixed - by_seed(study, "pg_0", "accuracy")),
    )
    # The gain is in the measures as well, and the control has not moved.
    for found in ends.values():
        for seed in found:
            assert seed["right_working"] - teacher["right_working"] == pytest.approx(
                seed["gain"][0], abs=2e-5
            )
    assert all(
        seed["gain"] == [0, 0] and seed["accuracy"] == teacher["accuracy"] for seed in ends["gkd"]
    )
    assert verdict(study, "reward-mixing") == words(parts)
    shown_by, shown = row("reward-mixing")
    assert "experiment" in shown_by and shown.endswith(f": {words(parts)}")


def test_each_panel_names_the_method_that_it_draws(study):
    panels = claim_by_claim.exposed(Style()).axes
    names = [panel.get_title().split(",")[0] for panel in panels]
    assert names == ["SeqKD", "GKD"]
    for panel, name in zip(panels, names):
        own = study["exposure"][name.lower()]["own"]
        assert panel.lines[0].get_ydata()[:3].tolist() == own[:3]


def test_exposure_bias(study):
    """A token's KL on own prefixes over that on the teacher's, by who wrote the texts."""
    ratios = {}
    for name in ("seqkd", "on_policy_forward_kl", "off_policy_reverse_kl", "gkd"):
        rows = study["exposure"][name]["per_token"]
        ratios[name] = np.log(np.divide(rows["own"], rows["teacher"]))
    narrower = [
        clearly(ratios[others] - ratios[own])
        for others, own in (("seqkd", "on_policy_forward_kl"), ("off_policy_reverse_kl", "gkd"))
    ]
    parts = clearly(ratios["seqkd"]), *narrower
    assert verdict(study, "exposure-bias") == words(parts)
    _, shown = row("exposure-bias")
    assert all(plain(np.exp(ratio.mean())) in shown for ratio in ratios.values())
    assert words(parts) in shown
