"""Losses whose tokens a third model drew: the correction, the cost, where they rest."""

import json

import numpy as np
import pytest

from opd_toy import off_policy
from opd_toy.audit import AuditError, audit, spelling
from opd_toy.audit.expectation import UnknownName, assert_optimises, is_as_expected
from opd_toy.audit.stale import names
from opd_toy.audit.stale.measure import Table, _table, _walk
from opd_toy.audit.stale.triples import OLD, SIGNS, random_triples
from opd_toy.audit.stale.verdict import does_not_matter, law_of
from opd_toy.audit.ways import TOKENS, as_way
from opd_toy.estimators import expectation, policy_gradient, total_variance
from opd_toy.example import STUDENT as P
from opd_toy.example import TEACHER as Q
from tests import audit_stale_losses as losses
from tests import reference
from tests.audit_sequence_losses import audit_on_fewer

pytestmark = pytest.mark.usefixtures("one_thread")

CORRECTIONS = {
    ("none", None): losses.NO_RATIO,
    ("ratio", None): "weighted by the ratio",
    ("truncate", 2.1): "ratio truncated at 2.1 (biased where p/μ > 2.1)",
    ("mask", (0.5, 2.1)): "ratio masked outside 0.5 to 2.1 (biased there)",
    ("clip", (0.2, 0.3)): "ratio clipped at 0.2 and 0.3 (PPO)",
}


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda pair: pair[0])
@pytest.mark.parametrize("cost", off_policy.COSTS)
def test_every_correction_and_cost_is_told_and_is_the_engines(correction, cost):
    loss = losses.trainers_loss(*correction, cost == "kept")
    report = audit(loss, inputs=("logits", "log_probs"))
    kept = losses.KEPT if cost == "kept" else ""
    assert report.optimises == losses.STALE + kept + CORRECTIONS[correction]
    assert (report.correction, report.limits, report.cost) == (*correction, cost)
    assert report.rests_at_teacher == (cost == "recomputed") and report.terms == []
    table = off_policy.policy_gradient(P, Q, OLD, *correction, cost)
    exact = expectation(P, policy_gradient(P, Q))
    mean = expectation(OLD, table)
    reference.close(report.expected_gradient, mean)
    reference.close(report.variance, total_variance(OLD, table))
    off = np.linalg.norm(mean - exact) / np.linalg.norm(exact)
    assert abs(report.bias - off) < 1e-12
    assert ("off the fresh one by 0 of its length" in str(report)) == (off < 1e-12)
    plain = total_variance(P, policy_gradient(P, Q))
    reference.close(report.variance_compared["plain policy gradient"], plain)
    reference.close(report.variance_compared["the same on fresh tokens"], plain)
    assert ("does not rest at the teacher: the cost is the rollout's" in str(report)) == (
        cost == "kept"
    )
    assert json.loads(report.to_json())["optimises"] == report.optimises


@pytest.mark.parametrize("case", losses.OF_TOKENS, ids=lambda case: case[0].__name__)
def test_losses_of_the_drawn_tokens_log_probability(case):
    loss, verdict, rests = case
    report = audit(loss, inputs="token_log_probs")
    assert (report.optimises, report.rests_at_teacher) == (verdict, rests)
    assert report.drawn_from == "behaviour"
    assert report.tolerance == {"float64": 1e-9, "float32": 3e-6}[report.precision]


@pytest.mark.parametrize("case", losses.OF_LOGITS, ids=lambda case: case[0].__name__)
def test_losses_of_logits_and_batches(case):
    loss, verdict, rests = case
    report = audit(loss)
    assert (report.optimises, report.rests_at_teacher) == (verdict, rests)


@pytest.mark.parametrize(
    "correction", [("truncate", 2.1), ("mask", (0.5, 2.1)), ("clip", (0.2, 0.3))]
)
def test_one_law_for_every_seed(correction):
    way = as_way(
        losses.trainers_loss(*correction, False), inputs=("logits", "log_probs"), behaviour=None
    )
    walks = {
        (moved, sign): _walk(way, moved, sign)
        for moved in ("behaviour", "student")
        for sign in SIGNS
    }
    for seed in range(20):
        law = law_of(walks, [_table(way, triple) for triple in random_triples(seed)], 1e-9)
        found = names.correction_of(law)
        assert (found.kind, found.limits) == correction, seed


def test_a_mask_on_one_side_has_two_limits():
    loss = losses.trainers_loss("mask", (0.5, np.inf), False)
    assert audit(loss, inputs=("logits", "log_probs")).limits == (0.5, np.inf)
    assert audit(losses.masked_above, inputs="token_log_probs").limits == (0.0, 2.0)


def test_a_jump_is_seen_where_one_logit_alone_has_a_gradient():
    def loss(z, log_q, log_mu, token):
        ratio = (z.log_softmax(-1) - log_mu)[token].exp().detach()
        return (ratio <= 2) * ratio * z[token]

    way = as_way(loss, inputs=("logits", "log_probs"), behaviour=None)
    walk = _walk(way, "behaviour", 1)
    assert list(walk.jumps.values()) == [pytest.approx(np.log(2))]


def test_a_token_that_matters_on_one_triple_matters():
    triples = random_triples(0)[:2]
    one, other = (len(triple.student) for triple in triples)
    rows = np.tile(triples[0].student, (one, 1)), np.eye(other)
    alike, apart = (Table(triple, each, each, each) for triple, each in zip(triples, rows))
    assert does_not_matter([alike, alike], 1e-9) and not does_not_matter([alike, apart], 1e-9)


def test_a_clip_narrower_or_wider_is_no_other():
    """A law must hold on all triples: one limit's tables do not pass for another's."""
    ways = {
        limits: as_way(
            losses.trainers_loss("clip", limits, False),
            inputs=("logits", "log_probs"),
            behaviour=None,
        )
        for limits in ((0.2, 0.2), (0.2, 0.6))
    }
    one, other = ways.values()
    walks = {(m, s): _walk(one, m, s) for m in ("behaviour", "student") for s in SIGNS}
    tables = {way: [_table(way, triple) for triple in random_triples(0)] for way in (one, other)}
    assert law_of(walks, tables[one], 1e-9)
    assert law_of(walks, tables[other], 1e-9) is None


def test_who_drew_is_told_by_a_name_or_said():
    loss = losses.k2_truncated
    assert "rollout_lp: the behaviour's log-prob" in str(audit(loss, inputs="token_log_probs"))
    assert audit(loss, inputs="token_log_probs", behaviour=False).optimises == "reverse KL"

    def unnamed(student_lp, teacher_lp, other=None):
        return loss(student_lp, teacher_lp, student_lp.detach() if other is None else other)

    assert audit(unnamed, inputs="token_log_probs").optimises == "reverse KL"
    report = audit(unnamed, inputs="token_log_probs", behaviour="other")
    assert (report.correction, report.limits) == ("truncate", 2.0)
    with pytest.raises(AuditError, match="behaviour is 'mu', and unnamed is"):
        audit(unnamed, inputs="token_log_probs", behaviour="mu")
    with pytest.raises(AuditError, match="nothing is left for the teacher"):
        audit(unnamed, inputs="token_log_probs", behaviour="teacher_lp")
    with pytest.raises(ValueError, match="behaviour is 3; give the name"):
        audit(unnamed, behaviour=3)


def test_of_two_old_policies_the_sampler_draws():
    way = as_way(losses.sampler_and_old, TOKENS, inputs="token_log_probs", behaviour=None)
    assert way.behaviour_argument == "rollout_log_probs"
    roles = {argument.name: argument.role for argument in way.arguments}
    assert roles["old_log_probs"] == "old"


def test_spellings():
    loss, verdict, _ = losses.OF_TOKENS[4]
    short = "Reverse KL from stale tokens, truncated at 2.0"
    report = assert_optimises(loss, short, inputs="token_log_probs")
    assert is_as_expected(report, verdict)
    assert not is_as_expected(report, short.replace("2.0", "3"))
    with pytest.raises(AssertionError, match="expected 'reverse KL'"):
        assert_optimises(loss, "reverse KL", inputs="token_log_probs")
    with pytest.raises(UnknownName):
        is_as_expected(report, "stale nonsense")
    for _, name, _ in [*losses.OF_TOKENS, *losses.OF_LOGITS, *losses.OF_TEXTS]:
        assert spelling.is_known(name), name


def test_half_precision_is_not_judged():
    def coarse(student_lp, teacher_lp, rollout_lp):
        return losses.k2_truncated(*(x.bfloat16() for x in (student_lp, teacher_lp, rollout_lp)))

    report = audit(coarse, inputs="token_log_probs")
    assert report.optimises == "none of these" and report.correction is None
    assert report.tolerance == 3e-2
    assert "who drew the tokens cannot be told in bfloat16" in str(report)


@pytest.mark.parametrize("case", losses.OF_TEXTS, ids=lambda case: case[0].__name__)
def test_over_which_tokens_of_a_text_ratios_are_multiplied(case):
    loss, verdict, level = case
    report = audit_on_fewer(loss, inputs="token_log_probs")
    assert (report.optimises, report.stale["level"]) == (verdict, level)
    fresh = audit_on_fewer(loss, inputs="token_log_probs", behaviour=False)
    assert report.stale["on_fresh_texts"] == fresh.optimises
    assert fresh.stale is None
    assert "on texts of the student's own" in str(report)


def test_the_teachers_texts_are_stale_where_it_is_said_who_wrote_them():
    loss = losses.texts_without_ratio
    for behaviour, stale in ((None, False), ("old_lp", True)):
        options = {"drawn_from": "teacher", "behaviour": behaviour}
        found = audit_on_fewer(loss, inputs="token_log_probs", **options)
        assert (found.stale is not None) == stale


def test_the_map_of_a_token_ratio_and_of_a_product():
    token = audit_on_fewer(losses.token_ratios, inputs="token_log_probs").stale["map"]
    assert np.allclose(token, np.eye(4), atol=1e-4)
    so_far = audit_on_fewer(losses.products_so_far, inputs="token_log_probs").stale["map"]
    assert np.allclose(so_far, np.tri(4), atol=1e-4)
    whole = audit_on_fewer(losses.product_truncated, inputs="token_log_probs")
    assert np.allclose(whole.stale["map"], 1, atol=1e-4)
    assert (whole.stale["correction"], whole.stale["limits"]) == ("truncate", 2.0)


def test_texts_whose_whole_vocabulary_is_used_need_no_ratio():
    def whole(student_logits, teacher_logits, rollout_logits):
        return losses.reverse(student_logits, teacher_logits)

    report = audit_on_fewer(whole)
    assert report.optimises == "sum of local reverse KLs from stale texts"

    def batched(student_lp, rollout_lp, teacher_lp, mask):
        weight = (student_lp - rollout_lp).exp().clamp(max=2).detach()
        return (mask * weight * losses.costs(student_lp, teacher_lp) * student_lp).sum()

    report = audit_on_fewer(batched, inputs="token_log_probs", batched=True)
    assert report.optimises == losses.LOCAL + losses.CUT.replace("ratio", "ratio of the token")
