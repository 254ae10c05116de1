"""Names of token losses beyond the KLs, and near neighbours that must not be called so."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from opd_toy.audit import audit, spelling
from opd_toy.audit.drawing import of_tokens
from opd_toy.audit.expectation import is_as_expected
from opd_toy.audit.token import geometric as geometric_targets
from opd_toy.audit.token.pairs import Pairs
from opd_toy.example import STUDENT, TEACHER
from tests.audit_losses import (
    NONE,
    entropy,
    forward,
    gradient_policy,
    in_format,
    jsd,
    logs,
    probs,
    ratio,
    reverse,
    top_k,
)
from tests.audit_reports import check_report

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]


def skewed(direction, share, weight=1.0):
    def loss(student, teacher):
        own, other = (student, teacher) if direction == "reverse" else (teacher, student)
        mixture = share * probs(own) + (1 - share) * probs(other)
        return weight * (probs(own) * (logs(own) - mixture.log())).sum()

    return loss


def tempered(loss, student, teacher, factor=1.0):
    return lambda s, t: factor * loss(s / student, t / teacher)


def total_variation(student, teacher):
    return (probs(student) - probs(teacher)).abs().sum() / 2


def head(student, teacher, k, of="teacher"):
    return (teacher if of == "teacher" else student).topk(min(k, len(student))).indices


def on_head(loss, k, of="teacher"):
    """A loss of both renormalised on the k likeliest tokens of one of them."""

    def of_head(student, teacher):
        kept = head(student, teacher, k, of)
        return loss(student[kept], teacher[kept])

    return of_head


def half_half(student, teacher):
    return 0.5 * forward(student, teacher) + 0.5 * reverse(student, teacher)


def other_teacher(outside, direction="reverse", k=3, renormalized=True):
    """A KL to a teacher that is ``outside(mass left, tokens left)`` beyond its top k."""

    def loss(student, teacher):
        p, q = probs(student), probs(teacher)
        kept = torch.zeros(len(q), dtype=torch.bool).index_fill(0, head(student, teacher, k), True)
        inside = q / q[kept].sum() if renormalized else q
        made = torch.where(kept, inside, outside(q[~kept].sum(), (~kept).sum().clamp(min=1)))
        if direction == "forward":
            return (made * (made.log() - logs(student))).sum()
        return (p * (logs(student) - made.log())).sum()

    return loss


def weighted(weight, first=forward, second=reverse):
    """weight × first + (1 − weight) × second, the weight a detached number of the pair."""

    def loss(student, teacher):
        share = weight(student, teacher).detach()
        return share * first(student, teacher) + (1 - share) * second(student, teacher)

    return loss


def geometric(student, teacher, share=0.5):
    return (share * logs(teacher) + (1 - share) * logs(student)).log_softmax(-1)


def over_vocabulary(loss, factor=1.0):
    return lambda s, t: factor * loss(s, t) / len(s)


def plus(*losses):
    return lambda *inputs: sum(loss(*inputs) for loss in losses)


def pq(student, teacher):
    return (probs(student) * probs(teacher)).sum()


NAMED = {
    # Temperatures.
    "JSD at .9": (tempered(jsd(0.5), 0.9, 0.9), "JSD(β = 0.5) at temperature 0.9"),
    "JSD at 2, squared": (tempered(jsd(0.3), 2, 2, 4), "4 × JSD(β = 0.3) at temperature 2"),
    "JSD, student alone": (
        tempered(jsd(0.5), 0.7, 1),
        "JSD(β = 0.5) with the student alone at temperature 0.7",
    ),
    "JSD, teacher alone": (
        tempered(jsd(0.1), 1, 1.5),
        "JSD(β = 0.1) to the teacher at temperature 1.5",
    ),
    "skewed at 1.3": (
        tempered(skewed("forward", 0.1), 1.3, 1.3),
        "forward KL with skew 0.1 at temperature 1.3",
    ),
    "total variation at 2": (tempered(total_variation, 2, 2), "total variation at temperature 2"),
    "both KLs at 3": (
        tempered(half_half, 3, 3),
        "0.5 × forward KL at temperature 3 + 0.5 × reverse KL at temperature 3",
    ),
    "JSD at .9 over V": (
        over_vocabulary(tempered(jsd(0.5), 0.9, 0.9)),
        "1/V × JSD(β = 0.5) at temperature 0.9",
    ),
    "top 2 at 2": (
        on_head(tempered(forward, 2, 2), 2),
        "forward KL at temperature 2 on the teacher's top 2, renormalized",
    ),
    "JSD on top 2 at .9": (
        on_head(tempered(jsd(0.5), 0.9, 0.9), 2),
        "JSD(β = 0.5) at temperature 0.9 on the teacher's top 2, renormalized",
    ),
    # Functions of the log-ratio.
    "χ²(p‖q)": (lambda s, t: (probs(s) ** 2 / probs(t)).sum() - 1, "χ²(p‖q)"),
    "χ²(q‖p)": (lambda s, t: ((probs(s) - probs(t)) ** 2 / probs(s)).sum(), "χ²(q‖p)"),
    "Hellinger": (
        lambda s, t: ((probs(s).sqrt() - probs(t).sqrt()) ** 2).sum() / 2,
        "squared Hellinger",
    ),
    "triangular": (
        lambda s, t: ((probs(s) - probs(t)) ** 2 / (probs(s) + probs(t))).sum(),
        "triangular discrimination",
    ),
    "tanh": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).tanh()),
        "f-divergence with weight tanh(log p/q)",
    ),
    "log cosh": (
        lambda s, t, k: ratio(s, t, k).cosh().log(),
        "f-divergence with weight tanh(log p/q)",
    ),
    "soft clip": (
        gradient_policy(lambda s, t, k: 10 * (ratio(s, t, k) / 10).tanh()),
        "10 × f-divergence with weight tanh(0.1 log p/q)",
    ),
    "sigmoid": (
        gradient_policy(lambda s, t, k: (2 * ratio(s, t, k)).sigmoid()),
        "f-divergence with weight sigmoid(2 log p/q)",
    ),
    "sigmoid, plain": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).sigmoid()),
        "forward KL with skew 0.5",
    ),
    "tanh over V": (
        lambda s, t, k: ratio(s, t, k).tanh().detach() * logs(s)[k] / len(s),
        "1/V × f-divergence with weight tanh(log p/q)",
    ),
    "cube": (
        lambda s, t, k: ratio(s, t, k).abs() ** 3 / 3,
        "f-divergence with weight sign(log p/q) |log p/q|^2",
    ),
    "arctan": (gradient_policy(lambda s, t, k: ratio(s, t, k).atan()), "f-divergence"),
    "soft JSD and hard labels": (
        lambda s, t: 4 * jsd(0.5)(s / 2, t / 2) + 0.5 * F.cross_entropy(s, t.argmax()),
        "4 × JSD(β = 0.5) at temperature 2"
        " + 0.5 × cross-entropy with the teacher's likeliest token",
    ),
    "both skews": (
        plus(skewed("forward", 0.1), skewed("reverse", 0.3, 2)),
        "2 × reverse KL with skew 0.3 + forward KL with skew 0.1",
    ),
    "KL and total variation": (
        plus(reverse, lambda s, t: 0.5 * total_variation(s, t)),
        "reverse KL + 0.5 × total variation",
    ),
    "Rényi": (
        lambda s, t: (2 * logs(s) - logs(t)).exp().sum().log(),
        "Rényi divergence(α = 2)",
    ),
    # The first tokens.
    "half each on top 2": (
        on_head(half_half, 2),
        "0.5 × reverse KL on the teacher's top 2, renormalized"
        " + 0.5 × forward KL on the teacher's top 2, renormalized",
    ),
    "half each on top 64": (
        on_head(half_half, 64, "student"),
        "0.5 × reverse KL on the student's top 64, renormalized"
        " + 0.5 × forward KL on the student's top 64, renormalized",
    ),
    "floored at 1e-10": (
        other_teacher(lambda *_: torch.tensor(1e-10, dtype=torch.float64)),
        "reverse KL to the teacher renormalized on its top 3, and with q = 1e-10 outside",
    ),
    "floored at −100": (
        other_teacher(lambda *_: torch.tensor(-100.0).double().exp(), renormalized=False),
        "reverse KL to the teacher with q = e^−100 outside its top 3",
    ),
    "uniform outside": (
        other_teacher(lambda left, n: left / n, "forward", renormalized=False),
        "forward KL to the teacher made uniform outside its top 3",
    ),
    "uniform outside, reverse": (
        other_teacher(lambda left, n: left / n, renormalized=False),
        "reverse KL to the teacher made uniform outside its top 3",
    ),
    "skewed on top 2": (
        on_head(skewed("forward", 0.1), 2),
        "forward KL with skew 0.1 on the teacher's top 2, renormalized",
    ),
    "total variation on top 3": (
        on_head(total_variation, 3, "student"),
        "total variation on the student's top 3, renormalized",
    ),
    "tail dropped at .7": (
        tempered(top_k(3, outside="drop", direction="forward"), 0.7, 0.7),
        "forward KL at temperature 0.7 on the teacher's top 3, tail dropped",
    ),
    "tail as one token at 2": (
        tempered(top_k(3, outside="tail"), 2, 2),
        "reverse KL at temperature 2 on the teacher's top 3, tail as one token",
    ),
    # Sums of p q, geometric targets, 1/V on one of two.
    "sum of p q": (lambda s, t: -pq(s, t), "−1 × expected teacher probability"),
    "q of the token drawn": (
        gradient_policy(lambda s, t, k: -probs(t)[k]),
        "−1 × expected teacher probability",
    ),
    "geometric, fixed": (
        lambda s, t: forward(s, geometric(s, t).detach()),
        "forward KL to the geometric target q^0.5 p^0.5, held fixed",
    ),
    "beyond the teacher": (
        lambda s, t: forward(s, geometric(s, t, 1.5).detach()),
        "forward KL to the geometric target q^1.5 p^−0.5, held fixed",
    ),
    "1/V on one": (plus(forward, over_vocabulary(reverse, 2)), "2/V × reverse KL + forward KL"),
    "1/V on the entropy": (
        lambda s, t: reverse(s, t) - 0.1 * entropy(s) / len(s),
        "reverse KL − 0.1/V × entropy",
    ),
    # Weights that depend on the pair.
    "teacher's confidence": (
        weighted(lambda s, t: probs(t).max(), reverse, forward),
        "(1 − max q) × forward KL + max q × reverse KL",
    ),
    "teacher's normalised entropy": (
        weighted(lambda s, t: entropy(t) / math.log(len(t))),
        "H(q)/log V × forward KL + (1 − H(q)/log V) × reverse KL",
    ),
    "entropy-aware": (
        lambda s, t: reverse(s, t) + 0.5 * entropy(t).detach() * forward(s, t),
        "0.5 × H(q) × forward KL + reverse KL",
    ),
    "JSD times the teacher's entropy": (
        lambda s, t: entropy(t).detach() * jsd(0.5)(s, t),
        "H(q) × JSD(β = 0.5)",
    ),
    "sigmoid of the entropy": (
        weighted(lambda s, t: (5 * (entropy(t) - 0.8)).sigmoid()),
        "sigmoid(−4 + 5 × H(q)) × forward KL + (1 − sigmoid(−4 + 5 × H(q))) × reverse KL",
    ),
    "entropy bonus times the teacher's entropy": (
        lambda s, t: reverse(s, t) - 0.1 * entropy(t).detach() * entropy(s),
        "reverse KL − 0.1 × H(q) × entropy",
    ),
    "exponential of the KL": (
        weighted(lambda s, t: (-reverse(s, t)).exp()),
        "exp(−KL(p‖q)) × forward KL + (1 − exp(−KL(p‖q))) × reverse KL",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_name(name):
    loss, verdict = NAMED[name]
    report = audit(loss)
    assert report.optimises == verdict
    assert report.holds_everywhere
    check_report(name, report)


CLIPPED = {
    "uneven": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).clamp(-0.1, 0.3)),
        "reverse KL where log p/q ≤ 0.3 and log q/p ≤ 0.1",
        "f-divergence with weight log p/q at least −0.1 and at most 0.3",
    ),
    "on one side": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).clamp(max=0.3)),
        "reverse KL where log p/q ≤ 0.3",
        "f-divergence with weight log p/q at most 0.3",
    ),
    "importance weight": (
        gradient_policy(lambda s, t, k: -(-ratio(s, t, k)).exp().clamp(0.8, 1.2)),
        "forward KL where log p/q ≤ 0.223 and log q/p ≤ 0.182",
        "f-divergence with weight −q/p, q/p at least 0.8 and at most 1.2",
    ),
}


@pytest.mark.parametrize("name", CLIPPED)
def test_a_clipped_weight_has_a_limit_and_a_name_beyond_it(name):
    loss, verdict, everywhere = CLIPPED[name]
    report = audit(loss)
    assert (report.optimises, report.also) == (verdict, everywhere)
    assert f"that is {everywhere}" in str(report) and not report.holds_everywhere
    assert is_as_expected(report, everywhere)
    check_report(name, report)


NEIGHBOURS = {
    "JSD at two temperatures": tempered(jsd(0.5), 0.9, 1.1),
    "JSD at .9, a little entropy": plus(
        tempered(jsd(0.5), 0.9, 0.9), lambda s, t: 1e-6 * (probs(s) ** 2).sum()
    ),
    "total variation of the square roots": lambda s, t: (
        (probs(s).sqrt() - probs(t).sqrt()).abs().sum()
    ),
    "tanh, more where the KL is large": gradient_policy(
        lambda s, t, k: ratio(s, t, k).tanh() * (1 + 1e-4 * reverse(s, t))
    ),
    "tanh, more where p is": gradient_policy(
        lambda s, t, k: ratio(s, t, k).tanh() + 1e-5 * probs(s)[k]
    ),
    "tanh with the logits' constant": plus(
        gradient_policy(lambda s, t, k: ratio(s, t, k).atan()),
        lambda s, t, k: 1e-4 * s.logsumexp(-1) ** 2,
    ),
    "not increasing": gradient_policy(lambda s, t, k: ratio(s, t, k) * ratio(s, t, k).sigmoid()),
    "arctan of V": gradient_policy(lambda s, t, k: (ratio(s, t, k) * (1 + len(s) / 1e4)).atan()),
    "half each on top 2, and the square": plus(
        on_head(half_half, 2), lambda s, t: 1e-5 * (probs(s) ** 2).sum()
    ),
    "top 2 and top 3": plus(on_head(forward, 2), on_head(reverse, 3)),
    "teacher floored, by the pair": other_teacher(lambda left, n: 1e-3 * left),
    "sum of p q²": lambda s, t: -(probs(s) * probs(t) ** 2).sum(),
    "arithmetic target of the logits": lambda s, t: reverse(s, (s + t).detach().sin()),
    "log V on one": lambda s, t: forward(s, t) + reverse(s, t) / math.log(1 + len(s)),
    "switched by the entropy": weighted(lambda s, t: (entropy(t) > 0.8).double()),
    "switched": weighted(lambda s, t: (s.argmax() == t.argmax()).double()),
    "weights of two numbers": weighted(lambda s, t: probs(t).max() * entropy(s) / 3),
}


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_near_neighbour_is_not_called_so(name):
    report = audit(NEIGHBOURS[name])
    assert report.optimises == NONE
    check_report(name, report)


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("name", ["JSD at .9", "arctan", "half each on top 2"])
def test_a_name_does_not_hang_on_the_seed(name, seed):
    loss, verdict = NAMED[name]
    assert audit(loss, seed=seed).optimises == verdict


def test_what_levels_off_in_float32_is_no_clamp():
    """A token outside the first K: 1 / (1 - q) comes to rest at 1, without a kink."""

    def renormalized_teacher(student, teacher):
        log_q, first = teacher.float().log_softmax(-1).topk(2)
        log_q = log_q.log_softmax(-1)
        return (log_q.exp() * (log_q - student.float().log_softmax(-1)[first])).sum()

    found = audit(renormalized_teacher).optimises
    assert found == "forward KL to the teacher renormalized on the teacher's top 2"


@pytest.mark.parametrize(
    "name", ["JSD at .9", "tanh", "arctan", "half each on top 2", "entropy-aware"]
)
def test_names_in_float32(name):
    loss, verdict = NAMED[name]
    assert audit(in_format(loss, torch.float32)).optimises == verdict


def test_every_name_can_be_expected():
    """As by ``--expect``: its spelling is known, and no two names are spelled alike."""
    found = {verdict: spelling.read(verdict) for _, verdict in NAMED.values()}
    assert all(spelling.is_known(verdict) for verdict in found)
    assert len({str(reading) for reading in found.values()}) == len(found)


def test_parameters_of_a_name():
    report = audit(NAMED["JSD at 2, squared"][0])
    assert (report.parameters, report.scale) == ({"beta": 0.3, "temperature": 2.0}, 4.0)
    report = audit(NAMED["JSD, student alone"][0])
    assert report.parameters == {"beta": 0.5, "student_temperature": 0.7}
    report = audit(NAMED["JSD, teacher alone"][0])
    assert report.parameters == {"beta": 0.1, "teacher_temperature": 1.5}
    report = audit(NAMED["floored at 1e-10"][0])
    assert report.parameters == {
        "k": 3,
        "whose": "teacher",
        "outside": "teacher floored at 1e-10",
    }


@pytest.mark.parametrize(
    "loss, also",
    [
        (plus(forward, reverse), "Jeffreys divergence KL(p‖q) + KL(q‖p)"),
        (jsd(0.5), "Jensen–Shannon divergence"),
        (lambda s, t: ((probs(s) ** 2 / probs(t)).sum() - 1) / 2, "0.5 × χ²(p‖q)"),
        (
            lambda s, t: -(probs(s) * logs(t)).sum(),
            "the expected −log q of the student's token, −Σ p log q",
        ),
    ],
)
def test_other_names(loss, also):
    report = audit(loss)
    assert report.also == also and f"that is {also}" in str(report)
    assert audit(jsd(0.3)).also is None


# ---- the curve of a weight ----


def curve_of(report):
    return np.array(report.weight["log_ratio"]), np.array(report.weight["weight"])


def test_the_curve_is_the_weight():
    """Recovered without its formula: the arctan, in float64 and float32, drawn or not."""
    report = audit(NAMED["arctan"][0])
    ratios, weights = curve_of(report)
    np.testing.assert_allclose(weights, np.arctan(ratios), atol=1e-5)
    assert ratios[0] < -3 and ratios[-1] > 2 and report.weight["increasing"]
    assert "its weight w(log p/q), less w(0): w(" in str(report)
    ratios, weights = curve_of(audit(NAMED["χ²(p‖q)"][0]))
    np.testing.assert_allclose(weights, 2 * np.expm1(ratios), rtol=1e-3, atol=2e-3)
    ratios, weights = curve_of(audit(over_vocabulary(total_variation)))  # in front of it is 1/V
    np.testing.assert_allclose(weights, np.sign(ratios) / 2, atol=1e-6)
    assert audit(reverse).weight is None


def test_the_curve_is_drawn():
    page = of_tokens(audit(NAMED["arctan"][0]))
    assert "Beside it the weight of each log-ratio log p/q, from −1." in page
    assert "Beside it" not in of_tokens(audit(reverse))


@pytest.mark.parametrize("power", [0.3, 1.5])
def test_gradients_to_geometric_targets_are_autograds(power):
    draw = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 4, 5, generator=draw, dtype=torch.float64)
    pairs = Pairs(s.numpy(), t.numpy())
    p, q = s.requires_grad_().log_softmax(-1), t.log_softmax(-1)
    mixed = power * q + (1 - power) * p
    m, kl = mixed.log_softmax(-1), lambda a, b: (a.exp() * (a - b)).sum()
    renyi = (power * p + (1 - power) * q).logsumexp(-1).sum() / (power - 1)
    divergences = kl(m.detach(), p), kl(m, p), kl(p, m), kl(q, m), kl(m, q), renyi
    families = *geometric_targets.FAMILIES[:5], geometric_targets.FAMILIES[5 if power < 1 else 6]
    for family, divergence in zip(families, divergences):
        (member,) = family.members(power)
        (wanted,) = torch.autograd.grad(divergence, s, retain_graph=True)
        np.testing.assert_allclose(member.gradient(pairs), wanted, atol=1e-12)


def test_what_has_no_name_is_described():
    falling = audit(NEIGHBOURS["not increasing"])
    assert falling.ratio_alone and not falling.weight["increasing"]
    assert "its weight falls between log p/q = " in str(falling)
    by_pair = audit(NEIGHBOURS["tanh, more where the KL is large"])
    assert by_pair.ratio_alone and by_pair.weight is None
    assert "another one from pair to pair" in str(by_pair)
    by_token = audit(NEIGHBOURS["tanh, more where p is"])
    assert by_token.ratio_alone is False
    assert "looks at more than log p/q" in str(by_token)
    assert "a draw acts on the log-probability of the token drawn alone" in str(by_token)
    whole = audit(NEIGHBOURS["sum of p q²"])
    assert whole.acts_on == "all tokens alike, whatever is drawn"
    logit = audit(lambda s, t, k: s[k])
    assert logit.acts_on == "the logit of the token drawn alone"
    mixed = audit(NEIGHBOURS["weights of two numbers"])
    assert [term["law"] for term in mixed.mixture] == [None, None]
    assert "on each pair a sum of forward KL and reverse KL" in str(mixed)
    weight = TEACHER.max() * entropy(torch.tensor(STUDENT).log()).item() / 3
    at_notes_pair = [term["at_notes_pair"] for term in mixed.mixture]
    np.testing.assert_allclose(at_notes_pair, [weight, 1 - weight])


def test_the_law_of_a_factor():
    report = audit(lambda s, t: reverse(s, t).exp())
    assert report.optimises == "reverse KL × a factor that depends on the pair"
    assert report.factor == "exp(KL(p‖q))" and "the factor is exp(KL(p‖q))" in str(report)
    assert audit(lambda s, t: reverse(s, t) ** 2).factor == "2 × KL(p‖q)"


def test_the_nearest_is_sought_among_more_than_kls():
    near = audit(lambda s, t: total_variation(s, t) + 1e-3 * F.mse_loss(s, t)).nearest
    assert near["name"] == "total variation" and near["cosine"] > 0.999
