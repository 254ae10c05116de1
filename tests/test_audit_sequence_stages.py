"""The stages of an audit of texts apart: calls, tables, limits, verdicts, problems, what is near.

Samples are made by hand, and what is found in them is computed a second time.
"""

import inspect
import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opd_toy import objectives
from opd_toy.audit import AuditError, audit_sequence
from opd_toy.audit.sequence import beside, dependence, judge, limits, local, masks, measure, words
from opd_toy.audit.sequence import verdict as verdicts
from opd_toy.audit.sequence.bases import FORWARD, REVERSE, SEQUENCE_FORWARD
from opd_toy.audit.sequence.calls import SequenceCall
from opd_toy.audit.sequence.findings import Facts, findings
from opd_toy.audit.sequence.names import Piece, credit_pieces, lags, ones, position_pieces
from opd_toy.audit.sequence.normalisers import _by, _listed, _normaliser, name_batch, name_mask
from opd_toy.audit.sequence.samples import OF_A_DRAW, Sample, columns_of, reward_of, tabulate
from opd_toy.audit.sequence.verdict import (
    STUDENT_SETS,
    TEACHER_SETS,
    SequenceVerdict,
    _coefficients,
    _naming_tolerances,
    _pieces,
    explain,
)
from opd_toy.distributions import softmax
from opd_toy.sequences import (
    TokenTree,
    on_policy_gkd_gradient,
    reward_to_go,
    sequence_kl,
    sequence_kl_gradient,
)
from tests.audit_sequence_losses import REWARD_TO_GO, drawn, kl, to_go, weighted
from tests.written import check_text

pytestmark = pytest.mark.usefixtures("one_thread")


def trees(length=3, vocabulary=3, seed=0):
    return tuple(TokenTree.random(vocabulary, length, 2 * seed + side) for side in (0, 1))


def sample_of(table, pair=None, values=None, drawer="student", **more):
    pair = pair or trees()
    chances = dict(zip(("student", "teacher"), (t.sequence_probabilities() for t in pair)))
    values = np.zeros(len(table)) if values is None else values
    return Sample(*pair, table, values, chances, drawer, **more)


def engine(gamma=1.0, seed=0, length=3):
    """The sample of the engine's own estimator."""
    pair = trees(length, seed=seed)
    return sample_of(reward_to_go(*pair, gamma).dense(), pair)


# --- calls -----------------------------------------------------------------------------------


def test_calls_are_counted_and_what_they_have_in_common_kept():
    def loss(student, teacher, tokens):
        return torch.zeros(()) if tokens[0] == 1 else kl(student, teacher).sum()

    call = SequenceCall(loss, False)
    assert (call.count, call.arguments, call.takes_mask, call.touched) == (0, 3, False, set())
    student, teacher = np.random.default_rng(0).normal(size=(2, 1, 2, 3))
    for token, without in ((0, 0), (1, 1), (1, 2)):
        value, gradient = call.valued(student, teacher, np.array([[token, 0]]))
        assert gradient.shape == (1, 2, 3) and call.without_gradient == without
        assert np.isnan(value) == (token == 1) and gradient.any() == (token == 0)
    assert call.count == 3 and call.teacher_gradient and "no gradient" in str(call.no_gradient)
    one = call.one(student[0], teacher[0], np.array([0, 0]))
    assert one[0] == call.several(student[0], teacher[0], np.array([0, 0]))[0]
    np.testing.assert_array_equal(one[1], call.texts(student, teacher, np.array([[0, 0]]))[0])


def test_a_batch_of_one_and_of_two_and_the_mask_that_is_all_ones():
    seen = []

    def loss(student, teacher, tokens, mask):
        seen.append((student.shape, mask.dtype, mask.clone()))
        return (kl(student, teacher.detach()) * mask).sum()

    call = SequenceCall(loss, True)
    seen.clear()
    student, teacher = np.random.default_rng(0).normal(size=(2, 2, 2, 3))
    tokens = np.zeros((2, 2), int)
    value, gradient = call.one(student[0], teacher[0], tokens[0])
    both, gradients = call.valued(student, teacher, tokens)
    np.testing.assert_allclose(gradients[0], gradient)
    assert [tuple(shape) for shape, _, _ in seen] == [(1, 2, 3), (2, 2, 3)]
    assert all(dtype == torch.bool and mask.all() for _, dtype, mask in seen)
    half = call.valued(student, teacher, tokens, [[1, 0], [1, 0]])[1]
    assert half[:, 0].any() and not half[:, 1].any() and value < both


def test_the_first_refusal_is_the_one_that_is_told():
    def loss(student, teacher, tokens, mask):
        raise ValueError(f"a mask of {mask.dtype}")

    with pytest.raises(AuditError, match="a mask of torch.bool"):
        SequenceCall(loss, False)


def test_a_loss_that_drifts_is_noticed_at_the_end():
    later = []

    def loss(student, teacher, tokens):
        return kl(student, teacher).sum() * (2 if later else 1)

    call = SequenceCall(loss, False)
    call.check_unchanged()
    later.append(True)
    with pytest.raises(AuditError):
        call.check_unchanged()


def test_a_loss_that_drifts_is_refused_whatever_is_measured(monkeypatch):
    later = []
    call = SequenceCall(lambda s, t, k: kl(s, t).sum() * (2 if later else 1), False)
    later.append(True)
    monkeypatch.setattr(measure, "tabulate", lambda *_: engine())
    for name in ("observe_dependence", "observe_group"):
        monkeypatch.setattr(measure, name, lambda *_: None)
    measured = SimpleNamespace(copies=1, drawn_from="student", seed=0)
    for measures in (
        lambda: measure.measure(call, "student", None, 0),
        lambda: measure.measure_close(call, measured, None),
    ):
        with pytest.raises(AuditError):
            measures()


def test_what_is_taken_where_nothing_is_said():
    given = {"inputs": "logits", "k": 2, "labels": None, "drawn_from": "student", "reward": None,
             "batched": False, "behaviour": None, "seed": 0}  # fmt: skip
    parameters = inspect.signature(audit_sequence).parameters
    assert {name: parameters[name].default for name in given} == given
    assert list(parameters) == ["loss", *given]
    for wrong in ({"seed": -1}, {"seed": 0.5}, {"drawn_from": "nobody"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            audit_sequence(REWARD_TO_GO, **wrong)
    with pytest.raises(AuditError) as error:
        audit_sequence(REWARD_TO_GO, reward=3)
    said = "reward is 3; give the function of tokens (T,) that returns the number the loss uses"
    assert str(error.value) == said


# --- tables ----------------------------------------------------------------------------------


def test_a_table_lays_each_texts_gradient_on_the_prefixes_that_it_passes():
    """Against autograd through the tree's own logits, text by text and pair by pair."""
    pair = trees(3, 2, seed=4)

    def of_tree(parameters, tokens):
        rows, start = [], 0
        for t, z in enumerate(pair[0].logits):
            place = int("".join(map(str, [0, *tokens[:t]])), 2)
            rows.append(parameters[start : start + z.size].reshape(z.shape)[place])
            start += z.size
        return torch.stack(rows)

    teacher = torch.tensor(np.concatenate([z.ravel() for z in pair[1].logits]))
    leaf = torch.tensor(np.concatenate([z.ravel() for z in pair[0].logits]), requires_grad=True)
    wanted, values = [], []
    for text in itertools.product((0, 1), repeat=3):
        value = REWARD_TO_GO(of_tree(leaf, text), of_tree(teacher, text), torch.tensor(text))
        wanted.append(torch.autograd.grad(value, leaf)[0].numpy())
        values.append(value.item())
    found = tabulate(SequenceCall(REWARD_TO_GO, False), *pair, "student")
    np.testing.assert_allclose(found.table, wanted, atol=1e-14)
    np.testing.assert_allclose(found.values, values)
    assert found.gradients and found.rewards is None and found.is_finite

    def both(student, teacher, tokens):
        terms = zip(student, teacher, tokens)
        return sum(REWARD_TO_GO(*term) for term in terms) + 0 * student.sum()

    reward = lambda text: text.sum()
    of_pairs = tabulate(SequenceCall(both, True), *pair, "teacher", reward, copies=2)
    sums = [a + b for a, b in itertools.product(np.array(wanted), repeat=2)]
    np.testing.assert_allclose(of_pairs.table, sums, atol=1e-14)
    np.testing.assert_allclose(of_pairs.rewards, [bin(n).count("1") for n in range(8)])
    q = pair[1].sequence_probabilities()
    np.testing.assert_allclose(of_pairs.chances["teacher"], [a * b for a in q for b in q])
    assert of_pairs.drawer == "teacher" and columns_of(pair[0]).shape == (8, 3, 2)


def test_a_table_has_gradients_where_others_had_none():
    call = SequenceCall(lambda s, t, k: kl(s, t).sum() if len(k) > 2 else torch.zeros(()), False)
    still, moved = (tabulate(call, *trees(*size), "student") for size in ((2, 6), (3, 3)))
    assert not still.gradients and moved.gradients


def test_moments_of_a_table():
    found = engine(seed=1)
    p = found.student.sequence_probabilities()
    mean = sum(chance * row for chance, row in zip(p, found.table))
    np.testing.assert_allclose(found.expected, mean)
    np.testing.assert_allclose(mean, sequence_kl_gradient(found.student, found.teacher))
    assert [block.shape for block in found.blocks] == [(1, 3), (3, 3), (9, 3)]
    np.testing.assert_allclose(np.concatenate([b.ravel() for b in found.blocks]), mean)
    assert found.size**2 == pytest.approx(sum(c * r @ r for c, r in zip(p, found.table)))
    assert found.variance == pytest.approx(found.size**2 - mean @ mean)
    other = found.drawn_by("teacher")
    q = found.teacher.sequence_probabilities()
    np.testing.assert_allclose(other.expected, q @ found.table)
    for tolerance, share in ((1e-9, 1e-3), (2e-5, 0.02), (3e-2, 1.0)):
        assert OF_A_DRAW[tolerance] == share
        assert found.rounding(tolerance) == pytest.approx(tolerance * share * found.size)
        wanted = max(np.linalg.norm(mean), share * found.size)
        assert found.reference_length(tolerance) == pytest.approx(wanted)
    whole = {REVERSE: {(t, u): 1.0 for t in range(3) for u in range(t, 3)}}
    assert found.left_over(whole, 1e-9) < 1e-14
    local_only = {REVERSE: {(t, t): 1.0 for t in range(3)}}
    off = mean - on_policy_gkd_gradient(found.student, found.teacher)
    left = np.linalg.norm(off) / np.linalg.norm(mean)
    assert found.left_over(local_only, 1e-9) == pytest.approx(left)
    assert sample_of(0 * found.table).left_over(whole, 1e-9) == 0.0


def test_a_reward_is_a_finite_number():
    tokens = np.array([2, 0])
    assert reward_of(lambda text: text.sum(), tokens) == 2.0 == reward_of(lambda text: 2, tokens)
    grown = torch.tensor(3.0, requires_grad=True)
    assert reward_of(lambda text: grown * text[0], tokens) == 6.0
    for bad in (float("nan"), float("inf")):
        said = f"reward gives {bad!r} for the tokens [2, 0]; it must be a finite number"
        with pytest.raises(AuditError) as error:
            reward_of(lambda text, bad=bad: bad, tokens)
        assert str(error.value) == said
    changed = tokens.copy()
    reward_of(lambda text: text.zero_().sum(), changed)
    assert (changed == tokens).all()


def test_what_is_not_finite_is_refused_with_its_tokens():
    call = SimpleNamespace(no_gradient=AuditError("none"))
    spoilt = engine(length=2, seed=3)
    spoilt.table[4, 1] = np.nan
    with pytest.raises(AuditError) as error:
        measure._refuse(call, [engine(), spoilt])
    said = str(error.value)
    assert said == (
        "the gradient is not finite at ordinary logits (T = 2, V = 3, tokens [1, 1]): look for "
        "0/0, log(0) or 0 × inf, such as the standard deviation of equal numbers, or of one"
    )
    of_pairs = sample_of(np.full((81, 12), np.nan), trees(2, seed=3))
    with pytest.raises(AuditError, match="tokens a pair of sequences"):
        measure._refuse(call, [of_pairs])
    still = sample_of(np.zeros((27, 39)), gradients=False)
    with pytest.raises(AuditError, match="none"):
        measure._refuse(call, [still, still])
    assert measure._refuse(call, [still, engine()]) is None


def test_beyond_the_ordinary_a_loss_may_refuse():
    near = trees(2, 2)
    far = tuple(TokenTree(tuple(9 * z for z in tree.logits)) for tree in near)

    def refuses(student, teacher, tokens):
        if student.abs().max() > 3:
            raise ValueError("too far\nand more")
        return kl(student, teacher).sum()

    def spoilt(student, teacher, tokens):
        return kl(student, teacher).sum() * (float("nan") if tokens[0] == 1 else 1.0)

    def refuses_itself(student, teacher, tokens):
        if student.abs().max() > 3:
            raise AuditError("too far")
        return kl(student, teacher).sum()

    for loss, kind in ((refuses, "ValueError"), (refuses_itself, "AuditError")):
        call = SequenceCall(loss, False)
        found = measure._beyond(call, [near, far], "long", "student", None, 1)
        assert len(found.samples) == 1 and found.refused == f"the loss raised {kind}: too far"
    for role, many in (("far", 1), ("long", 0), ("wide", 0)):
        found = measure._beyond(SequenceCall(spoilt, False), [near], role, "student", None, 1)
        assert (len(found.samples), found.refused) == (many, None)


SPREADS = {"fit": 1, "confirm": 1, "far": 6, "long": 0.25, "wide": 0.25}


@pytest.mark.parametrize("role", measure.ROLES)
def test_how_far_apart_the_trees_of_a_role_are(role):
    """Of 255 logits each: their deviation, for close ones the student's from its teacher's."""
    made = list(measure.trees([(2, 7, 2)], role, 0))
    for student, teacher in made:
        mine, theirs = (np.concatenate([z.ravel() for z in x.logits]) for x in (student, teacher))
        if role.startswith("close"):
            assert np.std(mine - theirs) == pytest.approx(0.25, rel=0.2)
        both = np.std(mine), np.std(theirs)
        assert both == pytest.approx((SPREADS.get(role, 1),) * 2, rel=0.2)
    logits = [tree.logits[-1][-1, 0] for pair in made for tree in pair]
    assert (
        len({*logits, *(z.logits[-1][-1, 0] for z, _ in measure.trees([(2, 7, 1)], role, 1))}) == 5
    )


# --- how far apart ---------------------------------------------------------------------------


@pytest.mark.parametrize("x", [-20.0, -0.1, 0.1, 30.0])
def test_two_trees_apart_differ_by_one_log_ratio(x):
    student, teacher = limits.apart(x)
    for row in range(2):
        p, q = student.probabilities[1][row], teacher.probabilities[1][row]
        assert np.log(p[0]) - np.log(q[0]) == pytest.approx(x)
        assert max(p[0], q[0]) == pytest.approx(0.6) and p.sum() == pytest.approx(q.sum()) == 1
    np.testing.assert_allclose(student.logits[0], teacher.logits[0])
    np.testing.assert_allclose(student.logits[0], [[0.3, -0.3]])


def test_what_is_left_over_at_the_last_position():
    made = engine(seed=3)
    p, block = made.student.sequence_probabilities(), made.blocks[-1]
    length = np.linalg.norm(block)
    zero = SequenceVerdict(zero=True)
    for share, tolerance in ((1e-3, 1e-9), (0.02, 2e-5)):
        assert limits._off(made, zero, tolerance, 0.0) == pytest.approx(1.0)
        floored = limits._off(made, zero, tolerance, 0.25 * length)
        assert floored == pytest.approx(0.75) and limits._off(made, zero, tolerance, 2.0) == 0.0
        turned = made.table * np.where(np.arange(27) % 2, 1e4, -1e4)[:, None]
        loud = sample_of(turned - p @ turned + made.expected, (made.student, made.teacher))
        draws = loud.table[:, -block.size :]
        size = np.sqrt(sum(chance * row @ row for chance, row in zip(p, draws)))
        off = limits._off(loud, zero, tolerance, 0.0)
        assert off == pytest.approx(length / (share * size), rel=1e-6) and share * size > length
    pieces = credit_pieces(REVERSE, {T: 0.5 * np.eye(T) for T in (2, 3, 4)}, 1e-9)
    half = SequenceVerdict(tuple(pieces), named=True, bases=lambda sample: sample.bases)
    assert limits._off(made, half, 1e-9, 0.0) == pytest.approx(0.5)
    assert limits._off(sample_of(np.zeros((27, 39))), zero, 1e-9, 0.0) == 0.0


def test_the_limit_is_halved_down_to():
    for at in (-7.3, 7.3):
        found = limits._limit(lambda x, at=at: abs(x) < abs(at), 36.0 * np.sign(at))
        assert abs(found) <= abs(at) < abs(found) + 36 / 2**10
    assert limits._limit(lambda x: True, 36.0) == 36.0
    some = limits.Limits(-5.0, 36.0, (-30.0, 36.0))
    assert some.found == [("below", -5.0)]
    assert limits.Limits(-30.0, 7.0, (-30.0, 36.0)).found == [("above", 7.0)]


def observed(loss, tolerance=1e-9, verdict=None):
    call = SequenceCall(loss, False)
    measured = SimpleNamespace(ordinary=[engine()], drawn_from="student", copies=1)
    pieces = credit_pieces(REVERSE, {T: np.eye(T) for T in (2, 3, 4)}, 1e-9)
    verdict = verdict or SequenceVerdict(tuple(pieces), named=True, bases=lambda s: s.bases)
    return limits.observe_limits(call, measured, None, verdict, tolerance)


def test_limits_are_searched_as_far_as_the_format_shows():
    clamped = observed(weighted(lambda r: r.clamp(-3, 5)))
    assert (clamped.below, clamped.above) == (
        pytest.approx(-3, abs=0.04),
        pytest.approx(5, abs=0.04),
    )
    assert clamped.searched == (pytest.approx(np.log(3e-14 / 0.6)), 36.0)
    single = observed(weighted(lambda r: r.clamp(-3, 5)), 2e-5)
    assert single.searched == (pytest.approx(np.log(3e-6 / 0.6)), 36.0)
    assert observed(weighted(lambda r: r), 3e-2) is None
    for off, holds in ((0.995e-7, True), (1.005e-7, False)):
        found = observed(weighted(lambda r, off=off: (1 + off) * r))
        assert (found is not None) == holds and (found is None or found.found == [])
    assert observed(weighted(lambda r: r.clamp(-0.09, 5))) is None
    assert observed(weighted(lambda r: r.clamp(-3, 0.09))) is None
    near = observed(weighted(lambda r: r.clamp(-3, 0.14)))
    assert near.above == pytest.approx(0.14, abs=0.036)
    nothing = observed(weighted(lambda r: 0 * r), verdict=SequenceVerdict(zero=True))
    assert nothing.found == []


def test_a_limit_is_where_a_gradient_is_finite_and_rounding_is_that_of_the_largest_entry(
    monkeypatch,
):
    def spoilt(student, teacher, tokens):
        log_p, log_q = drawn(student, teacher, tokens)
        beyond = (log_p - log_q).max() > 5
        ends = student[0].sum() * (float("nan") if beyond else 0.0)
        return ((log_p - log_q).detach() * log_p).sum() + ends

    assert observed(spoilt).above == pytest.approx(5, abs=0.04)
    floors = []
    monkeypatch.setattr(limits, "_off", lambda *given: floors.append(given[-1]) or 0.0)
    made = engine()
    large = sample_of(1e3 * made.table, (made.student, made.teacher))
    measured = SimpleNamespace(ordinary=[made, large], drawn_from="student", copies=1)
    limits.observe_limits(SequenceCall(REWARD_TO_GO, False), measured, None, None, 1e-9)
    assert set(floors) == {1e-14 * np.abs(large.table).max()}


def test_a_case_for_each_sentence_on_masks_and_batches():
    clean = {"gradient": {}, "leak": {}, "nan": False, "labels": None, "nothing": True}
    padded = masks.MaskFacts(**clean, factor=dict.fromkeys(masks.MASKS, 0.5))
    holed = masks.MaskFacts(**clean, factor=dict.fromkeys(masks.MASKS, 1.0) | {masks.HOLE: None})
    batches = (
        masks.BatchFacts(True, (4, 2), None),
        masks.BatchFacts(False, (4, 2), (0.5, 0.5)),
        masks.BatchFacts(False, (4, 2), (0.5, 0.25)),
        masks.BatchFacts(False, (4, 4), (0.5, 0.5)),
        masks.BatchFacts(False, (4, 4), (1.0, 1.0)),
    )
    assert name_batch(batches[3], None, None).normalised_by == "unknown"
    valid = name_mask(holed, True)
    named = [name_mask(padded, True), valid]
    named += [
        name_batch(facts, valid if at < 3 else None, True) for at, facts in enumerate(batches)
    ]
    lines = [f"{each.fields}: {' | '.join(words for _, words in each.findings)}" for each in named]
    check_text("audit_findings.txt", "masks and batches", "\n".join(lines))
    check_text("audit_findings.txt", "meanings", "\n".join(
        line for name in words.MEANINGS for line in words._what_it_is(SimpleNamespace(
            objective=name, optimises=name, scale="1", description=None, unbiased_for={name: "1"}))
    ))  # fmt: skip


# --- divergences of the last position ----------------------------------------------------------


def candidate(name, objective=None, **parameters):
    return SimpleNamespace(name=name, objective=objective, parameters=tuple(parameters.items()))


SOFT = lambda p, t: softmax(np.log(p) / t)
VALUES = [
    (candidate("reverse KL", "reverse_kl"), objectives.reverse_kl),
    (
        candidate("reverse KL at temperature 2", temperature=2.0),
        lambda p, q: objectives.reverse_kl(SOFT(p, 2), SOFT(q, 2)),
    ),
    (
        candidate("forward KL, student's at 2", student_temperature=2.0),
        lambda p, q: objectives.forward_kl(SOFT(p, 2), q),
    ),
    (
        candidate("forward KL, teacher's at 2", teacher_temperature=2.0),
        lambda p, q: objectives.forward_kl(p, SOFT(q, 2)),
    ),
    (
        candidate("forward KL with skew", temperature=2.0, skew=0.1),
        lambda p, q: objectives.skewed_forward_kl(SOFT(p, 2), SOFT(q, 2), 0.1),
    ),
    (
        candidate("JSD", temperature=2.0, beta=0.3),
        lambda p, q: objectives.generalized_jsd(SOFT(p, 2), SOFT(q, 2), 0.3),
    ),
    (
        candidate("alpha", temperature=2.0, alpha=0.5),
        lambda p, q: objectives.alpha_divergence(SOFT(p, 2), SOFT(q, 2), 0.5),
    ),
    (
        candidate("JSD", "generalized_jsd", beta=0.3),
        lambda p, q: objectives.generalized_jsd(p, q, 0.3),
    ),
    (candidate("total variation"), None),
    (candidate("other", temperature=2.0, k=3), None),
]


@pytest.mark.parametrize("of, wanted", VALUES, ids=lambda x: getattr(x, "name", ""))
def test_the_value_of_a_divergence_of_softened_models(of, wanted):
    found = local.value_of(of)
    if wanted is None:
        assert found is None
        return
    p, q = np.random.default_rng(1).dirichlet(np.ones(4), (2, 5))
    np.testing.assert_allclose(found(p, q), wanted(p, q), rtol=1e-12)


def test_the_last_position_has_a_pair_for_each_prefix_of_texts_of_three():
    samples = [engine(0.0, seed, length) for seed, length in ((0, 3), (1, 2), (2, 3))]
    found = local._last_position(samples, [engine(0.0, 5)], "student", 1e-9)
    assert len(found.fit) == 27 and found.fit[:18].all() and not found.fit[18:].any()
    p, q = (np.concatenate([getattr(s, who).probabilities[2] for s in (samples[0], samples[2])])
            for who in ("student", "teacher"))  # fmt: skip
    np.testing.assert_allclose(
        found.gradients[:18], objectives.reverse_kl_logit_gradient(p, q), atol=1e-10
    )
    visits = samples[2].student.prefix_probabilities()[2]
    np.testing.assert_allclose(found.rounding[9:18], 1e-12 * samples[2].size / visits)
    assert not found.tier.any() and found.tolerance == 1e-9
    nothing = sample_of(np.zeros((27, 39)))
    assert local._last_position([engine(length=2), nothing], [], "student", 1e-9) is None


def of_local(gradient, sizes=((3, 3), (3, 3), (2, 3), (2, 3), (2, 3)), later=0.0):
    """Samples of texts of three whose expected gradient is a given one at each prefix.

    ``later``: so much of the later costs' reverse KL besides.
    """
    for seed, (vocabulary, length) in enumerate(sizes):
        student, teacher = trees(length, vocabulary, seed)
        visits = student.prefix_probabilities()
        rows = zip(visits, student.probabilities, teacher.probabilities)
        expected = np.concatenate([(v[:, None] * gradient(p, q)).ravel() for v, p, q in rows])
        pair = student, teacher
        expected += later * (sequence_kl_gradient(*pair) - on_policy_gkd_gradient(*pair))
        yield sample_of(np.tile(expected, (vocabulary**length, 1)), pair)


def test_a_divergence_at_each_position_and_the_reverse_kl_of_later_costs():
    gradient = lambda p, q: objectives.generalized_jsd_logit_gradient(p, q, 0.3)
    sizes = ((3, 3), (3, 3), (2, 3), (2, 3), (3, 2), (3, 2), (3, 2))
    *fitting, confirming = of_local(gradient, sizes, later=2.0)
    found = explain(fitting, [confirming], "student", False, 1e-9)
    assert found.name == (
        "sum of local JSD(β = 0.3) + 2 × reverse KL with a return of the later costs alone"
    )


def entropy_of(q):
    return -(q * np.log(q)).sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "gradient, name, value",
    [
        (lambda p, q: (p - q) / p.shape[-1], "forward KL, divided by V", None),
        (lambda p, q: entropy_of(q) ** 2 * (p - q), "H(q)^2 × forward KL", None),
        (
            lambda p, q: -2 * objectives.generalized_jsd_logit_gradient(p, q, 0.3),
            "JSD(β = 0.3)",
            lambda p, q: objectives.generalized_jsd(p, q, 0.3),
        ),
        (
            lambda p, q: 1.1 * p - q - 0.1 / p.shape[-1],
            "forward KL + 0.1 × cross-entropy with uniform labels",
            None,
        ),
        (
            lambda p, q: 2 * objectives.reverse_kl_logit_gradient(p, q) - (p - q),
            "forward KL − 2 × reverse KL",
            lambda p, q: objectives.forward_kl(p, q) - 2 * objectives.reverse_kl(p, q),
        ),
    ],
)
def test_the_divergence_of_the_last_position(gradient, name, value):
    *fitting, confirming = of_local(gradient)
    found = local.local_objective(fitting, [confirming], "student", 1e-9)
    assert found.name == name and (found.value is None) == (value is None)
    p, q = np.random.default_rng(1).dirichlet(np.ones(4), (2, 5))
    wanted = gradient(p, q)
    scale = (found.gradient(p, q) * wanted).sum() / (wanted**2).sum()
    np.testing.assert_allclose(found.gradient(p, q), scale * wanted, rtol=1e-9)
    if value:
        np.testing.assert_allclose(found.value(p, q), value(p, q), rtol=1e-9)


def test_no_divergence_where_none_fits_or_the_factor_has_no_law():
    for gradient in (
        lambda p, q: np.sin(9 * p) - p * np.sin(9 * p).sum(axis=-1, keepdims=True),
        lambda p, q: 0 * p,
        lambda p, q: (1 + 2 * entropy_of(q)) * (p - q),
    ):
        *fitting, confirming = of_local(gradient)
        assert local.local_objective(fitting, [confirming], "student", 1e-9) is None


# --- verdicts ----------------------------------------------------------------------------------


def piece(factor="1/T", name="x", kind=REVERSE, law=None, shape=np.eye, coefficients=None):
    coefficients = coefficients or {3: 1 / 3}
    return Piece(kind, name, factor, coefficients, shape, law)


def test_what_a_verdict_is_divided_by():
    for factors, per_token in (
        (["1/T"], True),
        (["2/T", "1/T"], True),
        (["1/T²"], True),
        (["0.5"], False),
        (["", "T"], False),
        (["1/(T − 1)"], False),
        (["(T − 1)/T"], False),
        (["1/T", ""], None),
        ([None], None),
        ([], None),
    ):
        verdict = SequenceVerdict(tuple(piece(each) for each in factors), named=True)
        assert verdict.per_token is per_token, factors
    assert SequenceVerdict((piece(),)).per_token is None
    named = SequenceVerdict((piece(None),), named=True)
    assert (named.scale, named.objective, named.name) == ("c(T)", "x", "c(T) × x")
    two = SequenceVerdict((piece(), piece("2")), named=True)
    assert (two.scale, two.objective, two.single) == ("1", None, None)
    assert SequenceVerdict((piece(""),), named=True).scale == "1"


def test_at_which_lengths_weights_are_known():
    by_law = SequenceVerdict((piece(law=lambda T: 1 / (T - 1) if T > 1 else np.nan),))
    assert by_law.known_at(3) and by_law.known_at(7) and not by_law.known_at(1)
    alone = SequenceVerdict((piece(), piece(law=lambda T: 1.0)))
    assert alone.known_at(3) and not alone.known_at(7)
    assert by_law.coefficients(3) == {REVERSE: {(t, t): 1 / 3 for t in range(3)}}
    both = _coefficients((piece(shape=ones), piece(shape=np.eye)), 3)
    assert both[REVERSE][0, 0] == pytest.approx(2 / 3) and both[REVERSE][0, 2] == pytest.approx(
        1 / 3
    )
    of_positions = piece(kind="reward", shape=np.ones)
    assert _coefficients((of_positions,), 3) == {"reward": {(t, t): 1 / 3 for t in range(3)}}


def test_the_credit_that_is_shown_is_the_reverse_kls():
    forward = piece(kind=FORWARD, coefficients={2: 1.0, 3: 1.0, 4: 1.0})
    reverse = [piece(coefficients={4: 1.0, 2: 1.0, 3: 1.0}, shape=of) for of in (np.eye, ones)]
    credits, kind = SequenceVerdict((forward, *reverse), named=True).credits()
    assert kind == REVERSE and list(credits) == [2, 3, 4]
    np.testing.assert_allclose(credits[3], np.eye(3) + ones(3))
    assert SequenceVerdict((forward,), named=True).credits()[1] == FORWARD
    assert SequenceVerdict((piece(shape=np.ones),), named=True).credits() == (None, None)


def test_sets_of_bases_from_the_simplest_on():
    assert [len(kinds) for kinds in STUDENT_SETS] == [1, 1, 1, 3, 2, 3, 3]
    assert STUDENT_SETS[0] == ((REVERSE, True),) and STUDENT_SETS[2] == ((SEQUENCE_FORWARD, False),)
    assert [sum(later for _, later in kinds) for kinds in STUDENT_SETS] == [1, 0, 0, 1, 1, 3, 0]
    assert [later for _, later in verdicts.FELT] == [True, False]
    assert sorted(TEACHER_SETS) == sorted(STUDENT_SETS)
    assert TEACHER_SETS[0] == STUDENT_SETS[2] and TEACHER_SETS[1] == STUDENT_SETS[6]
    assert _naming_tolerances(3e-2) == (0.003, 0.01, 0.03, 0.1)
    assert _naming_tolerances(1e-9) == pytest.approx((1e-8, 1e-6, 1e-9))
    assert _naming_tolerances(2e-4) == pytest.approx((2e-3, 0.1, 2e-4))


def test_a_name_counts_up_to_six_errors_and_a_thousandth_of_the_largest():
    found = {2: {REVERSE: {(0, 0): -2.0}, FORWARD: {(1, 1): 0.1}}}
    errors = {2: {REVERSE: {(0, 0): 0.01}, FORWARD: {(1, 1): 0.01}}}
    for off, within in ((0.0619, True), (0.0621, False)):
        for sign in (1, -1):
            short = {2: {REVERSE: {(0, 0): -2 + sign * off}, FORWARD: {(1, 1): 0.1}}}
            assert verdicts._within_errors(short, found, errors) == within
        missing = {2: found[2] | {FORWARD: {(1, 1): -off}}}
        assert verdicts._within_errors({2: {REVERSE: found[2][REVERSE]}}, missing, errors) == within


def test_a_gradient_is_felt_from_six_errors_on(monkeypatch):
    for multiples, felt in (((5.9, 0.0), False), ((0.0, 6.1), True), ((-6.1, 0.0), True)):
        found = [{REVERSE: dict(zip("ab", x))} for x in (multiples, (1.0, 1.0))]
        monkeypatch.setattr(verdicts, "fit", lambda *_, found=found: (*found, 1.0))
        assert verdicts._is_felt([engine(), engine(length=2)]) == felt


@pytest.mark.parametrize(
    "weigh, dtype, tolerance, zero",
    [
        (lambda costs: torch.ones_like(costs), torch.float64, 1e-9, True),
        (lambda costs: torch.ones_like(costs), torch.bfloat16, 3e-2, True),
        (lambda costs: costs, torch.float64, 1e-9, False),
    ],
)
def test_a_loss_of_nothing_at_one_length(weigh, dtype, tolerance, zero):
    def loss(student, teacher, tokens):
        log_p, log_q = drawn(student.to(dtype), teacher.to(dtype), tokens)
        return (weigh((log_p - log_q).detach()) * log_p).sum() * (len(tokens) > 2)

    call = SequenceCall(loss, False)
    pairs = [trees(length, 2, seed) for length in (2, 3) for seed in range(6)]
    made = [tabulate(call, *pair, "student") for pair in pairs]
    found = explain(made, made[:1], "student", False, tolerance, families=False)
    assert (found.zero, found.known) == (zero, zero)


def test_a_verdict_holds_on_every_tree_to_the_tolerance():
    """What is fitted to one tolerance, what its short numbers leave over to two."""
    made = [engine(seed=n, length=length) for n, length in enumerate((2, 2, 2, 3, 3, 3))]

    def name(confirming, fitting=made):
        return explain(fitting, confirming, "student", False, 1e-9, families=False).name

    expected = made[-1].expected
    aside = np.eye(39)[1] - expected[1] / (expected @ expected) * expected
    aside *= np.linalg.norm(expected) / np.linalg.norm(aside)
    for off, said in ((0.99e-9, "sequence reverse KL"), (1.01e-9, "none of these")):
        assert name([sample_of(made[-1].table + off * aside, trees(seed=5))]) == said
    for size, said in (
        (1 + 1.98e-9, ""),
        (1 + 2.02e-9, "1.000000002 × "),
        (float(np.float32(0.1)), "1/10 × "),
        (float(np.float32(0.3)), "0.3000000119 × "),
    ):
        grown = [sample_of(size * s.table, (s.student, s.teacher)) for s in made]
        assert name([], grown) == f"{said}sequence reverse KL"


def test_negligible_coefficients_are_left_out():
    for small, kept in ((0.9e-6, 1), (1.1e-6, 2)):
        found = {
            T: {
                REVERSE: {(t, u): -2.0 for t in range(T) for u in range(t, T)},
                FORWARD: {(t, t): 2 * small for t in range(T)},
            }
            for T in (2, 3, 4)
        }
        pieces = _pieces(((REVERSE, True), (FORWARD, False)), found, 1e-6)
        assert len(pieces) == kept and pieces[0].name == "sequence reverse KL"
    vectors = {T: {SEQUENCE_FORWARD: {(t, t): 1.0 for t in range(T)}} for T in (2, 3)}
    (whole,) = _pieces(((SEQUENCE_FORWARD, False),), vectors, 1e-6)
    assert whole.name == "sequence forward KL"
    at = "JSD at the teacher's prefixes"
    vectors = {T: {at: {(t, t): 1.0 for t in range(T)}} for T in (2, 3)}
    assert _pieces(((at, False),), vectors, 1e-6)[0].name == f"sum of {at}"


def test_what_drowns_in_rounding_is_zero_or_nothing():
    """The mean of draws of length 1: below 1e-12 of them it is 0, below 1e-9 or so not legible."""

    def drowned(mean):
        made = []
        for seed in range(6):
            pair = trees(2, seed=seed)
            p = pair[0].sequence_probabilities()
            turns = np.where(np.arange(9) % 2, 1.0, -1.0)
            turns -= p @ turns
            table = np.outer(turns, np.eye(12)[0]) / np.sqrt(p @ turns**2)
            made.append(sample_of(table + mean * np.eye(12)[1], pair))
        return explain(made[:5], made[5:], "student", False, 1e-9, families=False)

    made = [engine(seed=n, length=length) for n, length in enumerate((2, 2, 2, 3, 3, 3))]
    p = made[0].student.sequence_probabilities()
    turns = np.where(np.arange(9) % 2, 1e11, -1e11)
    loud = np.outer(turns - p @ turns, np.eye(12)[0])
    loud = sample_of(made[0].table + loud, (made[0].student, made[0].teacher))
    assert not explain(made, [loud], "student", False, 1e-9, families=False).known
    assert drowned(0.99e-12).zero and not drowned(1.01e-12).zero
    assert not drowned(1e-10).known


def test_the_first_set_that_has_a_name_is_taken_before_a_simpler_one_without(monkeypatch):
    nameless, named, later = (SequenceVerdict(named=each) for each in (False, True, True))
    for tried, taken in [
        ((nameless, None, named, later), named),
        ((None, nameless, SequenceVerdict(named=False)), nameless),
        ((named, later), named),
    ]:
        found = iter(tried)
        monkeypatch.setattr(verdicts, "_sets", lambda *_: [((), None)] * len(tried))  # noqa: B023
        monkeypatch.setattr(verdicts, "_try", lambda *_: next(found))  # noqa: B023
        assert explain([engine(seed=2)], [engine(seed=3)], "student", False, 1e-9) is taken


# --- problems, and what stands beside ----------------------------------------------------------


def reading(tolerance="float64", verdict=None):
    pieces = credit_pieces(REVERSE, {T: ones(T) for T in (2, 3, 4)}, 1e-9)
    return judge.Reading(verdict or SequenceVerdict(tuple(pieces), named=True), tolerance)


@pytest.mark.parametrize("role, slack", [("far", 100), ("long", 10), ("wide", 10)])
def test_a_problem_is_more_than_rounding(role, slack):
    made = engine(seed=2)
    aside = np.zeros_like(made.expected)
    aside[0] = np.linalg.norm(made.expected)
    for off, is_one in ((0.995, False), (1.005, True)):
        bent = sample_of(made.table + off * slack * 1e-9 * aside, trees(seed=2))
        found = judge._problem(role, measure.Beyond([bent]), reading())
        wanted = f"what is left over is {off * slack * 1e-9:.2g} of the gradient"
        assert found == (wanted if is_one else None)
    spoilt = made.table.copy()
    spoilt[[3, 5]] = np.inf
    found = judge._problem(role, measure.Beyond([sample_of(spoilt, trees(seed=2))]), reading())
    assert found == "the gradient is not finite for 2 of 27 sequences"
    refused = judge._problem(role, measure.Beyond([made], "it says no"), reading())
    assert refused == ("it says no" if role == "far" else None)
    unknown = reading(verdict=SequenceVerdict())
    assert judge._problem(role, measure.Beyond([sample_of(7 * made.table)]), unknown) is None


def test_the_finest_format_that_gives_a_verdict_is_taken():
    made = [engine(seed=n, length=length) for n, length in enumerate((2, 2, 2, 3, 3, 3))]
    measured = {"drawn_from": "student", "with_reward": False, "formats": {"float32", "float16"}}
    parts = {"fitting": made, "confirming": made[:1], "ordinary": made}
    found = judge.read(SimpleNamespace(**measured, **parts))
    assert (found.precision, found.verdict.name) == ("float64", "sequence reverse KL")
    for size, rests in ((0.995e-7, True), (1.005e-7, False)):
        assert found.rests(size) == rests


def test_how_far_apart_the_drawn_tokens_are():
    pair = trees(2, 2, seed=1)
    rows = [np.log([[1 - 2e-6, 2e-6]]), np.log([[0.5, 0.5], [0.5, 0.5]])]
    rare = [np.log([[1 - 0.9e-6, 0.9e-6]]), rows[1]]
    other = [np.log([[0.5, 0.5]]), rows[1]]
    table = np.zeros((4, pair[0].parameters))
    for student, far in ((rows, np.log(0.5 / 2e-6)), (rare, np.log((1 - 0.9e-6) / 0.5))):
        found = sample_of(table, (TokenTree(tuple(student)), TokenTree(tuple(other))))
        assert judge._farthest(found) == pytest.approx(far)
    assert judge._farthest(found.drawn_by("teacher")) == pytest.approx(np.log(0.5 / 0.9e-6))
    for limit, far in (
        (None, np.log(0.5 / 2e-6)),
        (limits.Limits(-20.0, 30.0, (-30, 36)), 20.0),
        (limits.Limits(-20.0, 17.0, (-30, 36)), 17.0),
    ):
        near = sample_of(table, (TokenTree(tuple(rows)), TokenTree(tuple(other))))
        beyond = {"far": measure.Beyond([near])}
        measured = SimpleNamespace(limits=limit, ordinary=[found], beyond=beyond)
        assert judge._farthest_of(measured) == pytest.approx(far)


def test_the_smallest_bias_that_can_be_seen_is_the_worst_trees():
    made = [engine(seed=n) for n in range(3)]
    lengths = [np.linalg.norm(s.expected) for s in made]
    shares = [max(n, 1e-3 * s.size) / n for n, s in zip(lengths, made)]
    nothing = sample_of(0 * made[0].table)
    assert judge._seen_from([*made, nothing], "x", 1e-9) == pytest.approx(1e-9 * max(shares))
    baseline = sample_of(made[0].table + 1e6, trees())
    mean = np.linalg.norm(baseline.expected)
    seen = judge._seen_from([baseline], "x", 2e-5)
    assert seen == pytest.approx(2e-5 * max(1, 0.02 * baseline.size / mean))
    assert judge._seen_from(made, "zero", 2e-5) == pytest.approx(2e-5 * 0.02)
    assert judge._seen_from(made, "x", 3e-2) == 3e-2


def test_where_alone_a_verdict_holds():
    masked = {yes: SimpleNamespace(fields={"respected": yes}) for yes in (True, False)}
    close = judge.Reading(SequenceVerdict(), "float64", close_only=True)
    for far, of, mask, said in (
        (None, reading(), None, ""),
        ("x", reading(), None, " while the two are close"),
        (None, close, masked[True], " while the two are close"),
        (None, reading(), masked[False], " where nothing is masked"),
        ("x", close, masked[False], " while the two are close where nothing is masked"),
    ):
        assert judge._limit(far, of, mask) == said


def test_what_is_said_where_the_texts_of_a_map_were_refused():
    refused = SimpleNamespace(dependence=None)
    assert judge._description(refused, "none of these", None, True) is None
    assert judge._map(None) is None


def test_with_the_others_texts_no_divergence_with_a_parameter_is_fitted():
    for gradient, name in (
        (lambda p, q: p - q, "sum of local forward KLs"),
        (lambda p, q: objectives.generalized_jsd_logit_gradient(p, q, 0.3), None),
    ):
        *fitting, confirming = of_local(gradient)
        measured = SimpleNamespace(takes_tokens=True, drawn_from="teacher", with_reward=False,
                                   fitting=fitting, confirming=[confirming])  # fmt: skip
        unknown = reading(verdict=SequenceVerdict())
        assert judge._with_other_tokens(measured, unknown) == name


def test_values_that_have_a_name():
    def of(value, tolerance=1e-9):
        found = []
        for seed, length in ((0, 2), (1, 2), (2, 3)):
            pair = trees(length, seed=seed)
            values = np.full(3**length, value(*pair))
            found.append(sample_of(np.zeros((3**length, pair[0].parameters)), pair, values))
        return beside.value_is(found, tolerance)

    def log_chances(tree):
        return np.log(tree.sequence_probabilities())

    cross = lambda p, q: -q.sequence_probabilities() @ log_chances(p)
    assert of(sequence_kl) == "sequence reverse KL"
    assert of(lambda p, q: 2 * sequence_kl(p, q)) == "2 × sequence reverse KL"
    assert of(lambda p, q: sequence_kl(p, q) / p.length) == "1/T × sequence reverse KL"
    assert of(lambda p, q: -sequence_kl(q, p)) == "−1 × sequence forward KL"
    assert of(cross) == "sequence cross-entropy with the teacher"
    assert of(lambda p, q: cross(p, p)) == "sequence entropy of the student"
    assert of(lambda p, q: np.sin(p.length) * cross(p, p)) == (
        "c(T) × sequence entropy of the student"
    )
    forward = lambda p, q: sum(
        visit @ objectives.forward_kl(a, b)
        for visit, a, b in zip(p.prefix_probabilities(), p.probabilities, q.probabilities)
    )
    assert of(forward) == "expected sum of local forward KLs"
    assert of(lambda p, q: 0.0) == "0" and of(lambda p, q: np.nan) is None
    assert of(lambda p, q: sequence_kl(p, q) ** 2) is None
    at_three = lambda off: lambda p, q: sequence_kl(p, q) * (1 + off * (p.length == 3))
    assert of(at_three(1.99e-7)) == "sequence reverse KL"
    assert (
        of(at_three(2.01e-7))
        == of(lambda p, q: at_three(-1.0)(p, q))
        == ("c(T) × sequence reverse KL")
    )
    pair = trees()
    p = pair[0].sequence_probabilities()
    turns = np.where(np.arange(27) % 2, 1e3, -1e3)
    turns -= p @ turns
    for off, nothing in ((0.99e-9, True), (1.01e-9, False)):
        values = turns + off * np.sqrt(p @ turns**2)
        found = beside.value_is([sample_of(np.zeros((27, 39)), pair, values)], 1e-9)
        assert (found == "0") == nothing
    second = trees(2, seed=1)[0].logits[0][0, 0]
    for off, name in ((0.99e-8, "sequence reverse KL"), (1.02e-8, None)):
        bent = lambda p, q, off=off: sequence_kl(p, q) * (1 + off * (p.logits[0][0, 0] == second))
        assert of(bent) == name


def test_distances_from_the_objectives_at_the_best_scale():
    made = [engine(0.5, seed) for seed in range(3)] + [engine(0.5, 4, length=2)]
    for sign in (1, -1):
        fitting = [sample_of(sign * s.table, (s.student, s.teacher)) for s in made]
        measured = SimpleNamespace(fitting=fitting, with_reward=False)
        found = beside.compared(measured, zero=False)
        expected = np.concatenate([s.expected / s.size for s in fitting[:3]])
        for name, gradient_of in (
            ("sequence reverse KL", sequence_kl_gradient),
            ("sum of local reverse KLs", on_policy_gkd_gradient),
        ):
            gradient = np.concatenate(
                [gradient_of(s.student, s.teacher) / s.size for s in fitting[:3]]
            )
            cosine = expected @ gradient / np.linalg.norm(expected) / np.linalg.norm(gradient)
            best = np.sqrt(1 - cosine**2) if sign > 0 else 1.0
            assert found["bias"][name] == pytest.approx(best)
            if name == found["nearest"]["name"]:
                ratio = np.linalg.norm(expected) / np.linalg.norm(gradient)
                assert found["nearest"]["cosine"] == pytest.approx(cosine)
                assert found["nearest"]["norm_ratio"] == pytest.approx(ratio)
    # At the length compared there may be nothing, though there is something at another.
    still = [sample_of(0 * made[0].table), made[3]]
    without = SimpleNamespace(fitting=still, with_reward=False)
    nothing = {"name": "sequence reverse KL", "cosine": 0.0, "norm_ratio": 0.0}
    for zero in (beside.compared(measured, zero=True), beside.compared(without, zero=False)):
        assert set(zero["bias"].values()) == {1.0} and zero["nearest"] == nothing


def unbiased(samples, objective, tolerance=1e-9, scale="1", beyond=()):
    beyond = {"long": measure.Beyond(list(beyond))}
    measured = SimpleNamespace(ordinary=samples, beyond=beyond, with_reward=False)
    verdict = SimpleNamespace(objective=objective, scale=scale)
    return beside.unbiased_for(measured, verdict, tolerance, {"long": 10})


def test_unbiased_is_what_follows_an_objective_on_every_tree():
    whole = [engine(1.0, seed, length) for seed, length in ((0, 2), (1, 2), (2, 3), (3, 3))]
    local_one = [engine(0.0, seed) for seed in range(3)]
    assert unbiased(whole, None) == {"sequence reverse KL": "1"}
    assert unbiased(local_one, None) == {"sum of local reverse KLs": "1"}
    scaled = [sample_of(0.5 / s.length * s.table, (s.student, s.teacher)) for s in whole]
    assert unbiased(scaled, None) == {"sequence reverse KL": "0.5/T"}
    for off, text in ((1.99e-8, "1"), (2.01e-8, "c(T)")):
        size = lambda s, off=off: 1 + off * (s.length == 3)
        drift = [sample_of(size(s) * s.table, (s.student, s.teacher)) for s in whole]
        assert unbiased(drift, None) == {"sequence reverse KL": text}
    odd = [sample_of(np.sin(s.length) * s.table, (s.student, s.teacher)) for s in whole]
    assert unbiased(odd, None) == {"sequence reverse KL": "c(T)"}
    # In half precision the verdict has looked closer: what it names, at its scale.
    for name in ("sum of local reverse KLs", None):
        found = unbiased(local_one, name, 3e-2, "0.3")
        assert found == ({name: "0.3"} if name else {})
    spoilt = sample_of(np.full_like(whole[0].table, np.nan), trees(2))
    assert unbiased([*whole, spoilt], None) == {}
    for off, follows in ((0.99e-9, True), (1.01e-9, False)):
        expected = whole[3].expected
        aside = np.eye(39)[1] - expected[1] / (expected @ expected) * expected
        aside *= off * np.linalg.norm(expected) / np.linalg.norm(aside)
        bent, far = (sample_of(whole[3].table + n * aside, trees(seed=3)) for n in (1, 10))
        assert bool(unbiased([bent], None)) == follows
        assert bool(unbiased(whole[:3], None, beyond=[far])) == follows
    small = sample_of(1e-14 * whole[3].table + np.where(np.arange(39) == 0, 1, 0), trees(seed=3))
    assert unbiased([small], None) == {} == unbiased([sample_of(np.zeros((27, 39)))], None)


# --- edges -------------------------------------------------------------------------------------


def said_of(fixed_point=0.0, condition=1.0, **measured):
    plain = {"drawn_from": "student", "teacher_gradient": False, "touched": (), "limits": None,
             "dependence": None}  # fmt: skip
    verdict = SequenceVerdict((piece(),), named=True, condition=condition)
    facts = Facts("x", None, None, fixed_point, dict.fromkeys(("far", "long", "wide")))
    found = findings(
        SimpleNamespace(**plain | measured), judge.Reading(verdict, "float64"), facts, None, None
    )
    return {entry["edge"]: (entry["severity"], entry["finding"]) for entry in found}


def test_edges_at_their_thresholds():
    for fixed_point, severity in ((0.995e-7, "fine"), (1.005e-7, "note")):
        assert said_of(fixed_point)["student = teacher"][0] == severity
    for condition, there in ((0.999e4, False), (1.001e4, True)):
        assert ("bases" in said_of(condition=condition)) == there
    some = limits.Limits(-5.0, 7.123, (-30.0, 36.0))
    assert said_of(limits=some)["far off"] == (
        "note",
        "the verdict holds down to log p/q = −5 and up to log p/q = 7.1, for the token that has it",
    )
    everywhere = limits.Limits(-30.0, 36.0, (-30.0, 36.0))
    assert said_of(limits=everywhere)["far off"] == ("fine", "")
    moves = SimpleNamespace(moves={}, constants=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opd_toy.audit.sequence.findings.alignment_findings", lambda _: [])
        check_text("audit_findings.txt", "constants", said_of(dependence=moves)["constants"][1])


def test_normalisers_at_their_thresholds():
    for off, valid in ((0.99e-4, True), (1.01e-4, False)):
        assert (_normaliser(1 + off, True) == "the valid tokens") == valid
        assert (_normaliser(0.5 - off, True) == "the padded length") == valid
        facts = SimpleNamespace(lengths=(4, 4), factors=(0.5 * (1 - off), 0.5))
        assert ("all tokens of the batch" in _by(facts, None, True)) == valid
    assert _normaliser(1.0, None) == "the valid tokens, or nothing"
    assert _normaliser(None, True) == "unknown" == _normaliser(0.7, True)
    assert _listed(((0, 1),)) == "position 2" and _listed(((1, 0),)) == "text 2's position 1"


def test_a_gradient_is_a_multiple_of_another_up_to_rounding():
    gradient = np.array([[3.0, 0.0], [0.0, 4.0]])
    aside = np.array([[0.0, 5.0], [0.0, 0.0]])
    for off, factor in ((0.99e-4, 2.0), (1.01e-4, None)):
        assert masks._factor(2 * (gradient + off * aside), gradient) == factor
    with warnings.catch_warnings(action="error"):
        assert masks._factor(0 * gradient, gradient) is None
        assert masks._factor(gradient, 0 * gradient) is None
        for spoilt in (np.nan, np.inf):
            assert masks._factor(np.full((2, 2), spoilt), gradient) is None
            assert masks._factor(gradient, np.full((2, 2), spoilt)) is None


def test_what_is_finite_where_a_position_is_valid():
    valid = np.array([[True, False]])

    def finite(value, gradient):
        call = SimpleNamespace(valued=lambda *_: (value, np.array(gradient)[None]))
        return masks._finite(call, None, None, None, valid)

    fine, spoilt = [1.0, 2.0], [1.0, np.nan]
    assert finite(1.0, [fine, spoilt]) and not finite(1.0, [spoilt, fine])
    assert not finite(np.nan, [fine, fine])

    def refuses(*_):
        raise AuditError("it cannot be called") from ValueError("a label\nof -100")

    call = SimpleNamespace(valued=refuses, texts=refuses)
    assert not masks._finite(call, None, None, None, valid)
    assert masks._error(call) == "a label"

    def refuses_itself(*_):
        raise AuditError("it cannot be called\nso")

    assert masks._error(SimpleNamespace(texts=refuses_itself)) == "it cannot be called"
    assert masks._error(SimpleNamespace(texts=lambda: None)) is None


@pytest.mark.parametrize("off, alike", [(0.99e-4, True), (1.01e-4, False)])
def test_factors_of_several_draws_are_one_up_to_rounding(off, alike, monkeypatch):
    loss = lambda student, teacher, tokens, mask: (kl(student, teacher) * mask).sum()
    last = 0.5 * (1 + off)
    of_each = itertools.cycle([0.5, 0.5, last])
    monkeypatch.setattr(masks, "_factor_of_valid", lambda *_: next(of_each))
    found = masks.observe_mask(SequenceCall(loss, False), 0, 1).factor
    assert set(found.values()) == {np.mean([0.5, 0.5, last]) if alike else None}
    of_two = iter([0.5, 0.25, 0.5, 0.25, last, 0.25])
    monkeypatch.setattr(masks, "_factor", lambda *_: next(of_two))
    assert masks.observe_batch(SequenceCall(loss, True), 0).shared != alike


def test_a_factor_that_depends_on_the_texts_is_none():
    def loss(student, teacher, tokens, mask):
        size = (student[..., 0].detach() ** 2 * mask).sum()
        return (1 + mask.numel() * size) * (kl(student, teacher) * mask).sum()

    facts = masks.observe_mask(SequenceCall(loss, False), 0, 1)
    assert facts.leak == facts.gradient == {} and set(facts.factor.values()) == {None}


def test_a_row_follows_the_score_of_softened_logits():
    logits = np.array([0.3, -1.0, 0.5, 2.0, -0.2])
    for temperature in (1.0, 2.5):
        row = -2 * (np.eye(5)[1] - softmax(logits / temperature))
        assert dependence._temperature(logits, row, 1, 1e-4) == pytest.approx(temperature)
        assert dependence._temperature(logits, -row, 1, 1e-4) == pytest.approx(temperature)
        for token in (0, 2, 3, 4):
            assert dependence._temperature(logits, row, token, 1e-4) is None
    rising = np.exp(-logits)
    rising[1] = 0
    rising[1] = -rising.sum()
    assert dependence._temperature(logits, rising, 1, 1e-4) is None
    with warnings.catch_warnings(action="error"):
        for some in (1, -1):
            assert (
                dependence._temperature(logits, some * np.array([1, -1, 0, 0, 0]), 1, 0.1) is None
            )
    spaced = np.array([0.0, 9.0, 1.0, 2.0, 3.0])
    for others in (np.ones(4), np.exp([0.1, 0.8, 2.1, 3.0])):  # flat; off its line but at the end
        row = np.insert(others, 1, -others.sum())
        assert dependence._temperature(spaced, row, 1, 1e-4) is None
    row = 3 * (np.eye(5)[1] - softmax(logits))
    for off, follows in ((0.9e-4, True), (1.1e-4, False)):
        moved = row + off * np.abs(row).max() * np.eye(5)[1]
        assert (dependence._temperature(logits, moved, 1, 1e-4) is not None) == follows


def test_what_counts_as_moved_depends_on_the_format():
    half = lambda student, teacher: kl(student.bfloat16(), teacher.bfloat16()).sum()
    for loss, seen in ((lambda student, teacher: kl(student, teacher).sum(), 1e-4), (half, 0.1)):
        assert dependence.observe_dependence(SequenceCall(loss, False), 0, 1).seen == seen


def test_a_change_is_relative_to_the_longer_row():
    before = np.array([[[3.0, 4.0], [0.0, 0.1], [1.0, 0.0]]])
    after = np.array([[[3.0, 3.0], [0.0, 0.0], [np.nan, 0.0]]])
    # The second row is short beside the first one's 5, a tenth of which counts.
    np.testing.assert_allclose(dependence._change(before[:, :2], after[:, :2]), [[0.2, 0.2]])
    assert dependence._change(before[:, 2:], after[:, 2:]) == [[1.0]]
    assert dependence._change(0 * before, 0 * before).tolist() == [[0.0] * 3]


def test_another_row_is_another_token_or_mask():
    tokens, mask = np.array([[0, 1], [2, 2]]), np.ones((2, 2), bool)
    inputs = [np.zeros((2, 2, 3)), np.zeros((2, 2, 3)), tokens, mask]
    for place, at in itertools.product(range(4), ((0, 1), (1, 0))):
        changed = dependence.with_row(inputs, place, at, spread=2.0)
        for n, (one, other) in enumerate(zip(inputs, changed)):
            differs = np.argwhere((one != other).reshape(2, 2, -1).any(axis=-1))
            assert differs.tolist() == ([list(at)] if n == place else [])
    assert dependence.with_row(inputs, 2, (0, 1))[2][0, 1] == 2
    assert dependence.with_row(inputs, 2, (1, 0))[2][1, 0] == 0
    full = [np.zeros((1, 3, 3))] * 2 + [np.array([[0, 1, 2]])]
    assert dependence.with_row(full, 2, (0, 2))[2].tolist() == [[0, 1, 0]]
    near, far = (dependence.with_row(inputs, 0, (0, 1), spread)[0] for spread in (1.0, 2.0))
    np.testing.assert_allclose(2 * near, far)


def test_a_reward_at_every_position_has_a_name():
    pieces = position_pieces("expected reward", "expected reward", {3: -np.ones(3)}, 1e-9)
    assert SequenceVerdict(tuple(pieces), named=True).name == "−1 × expected reward"
    discounted = credit_pieces(REVERSE, {T: lags(T, 0.5) for T in (2, 3)}, 1e-9)
    assert SequenceVerdict(tuple(discounted), named=True).objective.endswith("γ = 0.5")


def test_a_mean_of_texts_that_share_something_has_two_copies():
    """The variances of known estimators are those of a mean of two, at the verdict's scale."""
    made = engine()
    pieces = credit_pieces(REVERSE, {T: 3 * ones(T) for T in (2, 3, 4)}, 1e-9)
    verdict = SequenceVerdict(tuple(pieces), named=True)
    measured = SimpleNamespace(drawn_from="student", reference=made, copies=2)
    found = beside.known_variances(measured, verdict)
    for name, how in (
        ("exact local KLs", (0.0, "full_vocabulary")),
        ("own sampled cost", (0.0, "sampled")),
        ("exact local and later KLs", (1.0, "full_vocabulary")),
        ("sampled reward-to-go", (1.0, "sampled")),
    ):
        engines = reward_to_go(made.student, made.teacher, *how).total_variance()
        assert found[name] == pytest.approx(9 * engines / 2)
    assert len(found) == 4
    of_teacher = SimpleNamespace(drawn_from="teacher", reference=made, copies=1)
    assert beside.known_variances(of_teacher, verdict) == {}
    two = SequenceVerdict((*pieces, *pieces), named=True)
    plain = beside.known_variances(measured, two)["own sampled cost"]
    assert found["own sampled cost"] == pytest.approx(9 * plain)


def test_what_one_draw_carries():
    made = [engine(seed=n) for n in range(3)]
    measured = SimpleNamespace(drawn_from="student", copies=1, fitting=made)
    np.testing.assert_allclose(beside.carried(measured, 1e-9), ones(3), atol=1e-9)
    for changes in ({"drawn_from": "teacher"}, {"copies": 2}):
        other = SimpleNamespace(**vars(measured) | changes)
        assert beside.carried(other, 1e-9) is None
    np.testing.assert_allclose(beside.carried(measured, 3e-2), ones(3), atol=1e-9)
    shrinking = SimpleNamespace(**vars(measured) | {"fitting": [engine(0.05), engine(0.05, 1)]})
    np.testing.assert_allclose(beside.carried(shrinking, 1e-9), lags(3, 0.05), atol=1e-9)
    for scale in (1e-6, 1e6):
        grown = [sample_of(scale * s.table, (s.student, s.teacher)) for s in made]
        found = beside.carried(SimpleNamespace(**vars(measured) | {"fitting": grown}), 1e-9)
        np.testing.assert_allclose(found, scale * ones(3), rtol=1e-9, atol=0)
    exact = [(s.student, s.teacher) for s in made]
    exact = [sample_of(reward_to_go(*pair, 1.0, "full_vocabulary").dense(), pair) for pair in exact]
    found = beside.carried(SimpleNamespace(**vars(measured) | {"fitting": exact}), 1e-9)
    assert found is not None and not found.any()
    bent = [sample_of(s.table + 1e-6 * s.table**2, (s.student, s.teacher)) for s in made]
    assert beside.carried(SimpleNamespace(**vars(measured) | {"fitting": bent}), 1e-9) is None


@pytest.mark.parametrize("tolerance, share, first", [(1e-9, 1e-6, 5e-4), (3e-2, 0.1, 0.1)])
def test_what_is_small_beside_a_draw_is_not_carried(tolerance, share, first):
    """A thousand tolerances of a row's length, a tenth at the most."""
    for gamma in np.geomspace(first, 4 * first, 8):
        made = [engine(gamma, seed) for seed in range(2)]
        wanted = lags(3, gamma)
        for t in range(3):
            parts = zip(*(beside._row_equations(sample, t) for sample in made))
            design, target = (np.concatenate(part) for part in parts)
            sizes = wanted[t] * np.linalg.norm(design[:, :3], axis=0) / np.linalg.norm(target)
            wanted[t] *= sizes > share
        measured = SimpleNamespace(drawn_from="student", copies=1, fitting=made)
        np.testing.assert_allclose(beside.carried(measured, tolerance), wanted, atol=1e-9)


def test_a_score_is_the_tokens_and_costs_are_to_go():
    """The helpers of the tests' losses themselves."""
    student, teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([1, 3, 0])
    log_p, log_q = drawn(student, teacher, tokens)
    assert log_p[1] == student.log_softmax(-1)[1, 3] and log_q[2] == teacher.log_softmax(-1)[2, 0]
    costs = torch.tensor([1.0, 2.0, 4.0])
    assert to_go(costs, 0.5).tolist() == [3.0, 4.0, 4.0]
