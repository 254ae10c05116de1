"""Geometric targets: m in proportion to q^a p^(1 - a), held fixed or differentiated through.

With a = 1/2 the normalised geometric mean of the two; a > 1 lies beyond the teacher.
"""

from opd_toy.audit.token.candidates import KLS, Candidate, line
from opd_toy.audit.token.names import format_number
from opd_toy.audit.token.weights import ratio_of
from opd_toy.distributions import softmax

_GRID = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.3, 2.0, 4.0)


def _parts(pairs, a):
    """m (N, V), and m_j (s_j - sum m s) with s = log q/p, its covariance with the score."""
    r = ratio_of(pairs)
    m = softmax(pairs.student_logits - a * r)
    return m, m * (-r - (m * -r).sum(axis=-1, keepdims=True))


def _forward_fixed(pairs, a):
    return pairs.p - _parts(pairs, a)[0]


def _forward(pairs, a):
    m, spread = _parts(pairs, a)
    return a * (1 - a) * spread + pairs.p - m


def _reverse(pairs, a):
    return a * KLS[1].gradient(pairs) - (1 - a) * (pairs.p - _parts(pairs, a)[0])


def _of_teacher(pairs, a):
    return (1 - a) * (_parts(pairs, a)[0] - pairs.q)


def _to_teacher(pairs, a):
    return -((1 - a) ** 2) * _parts(pairs, a)[1]


def _named(words, gradient):
    def member(a):
        target = f"q^{format_number(a)} p^{format_number(1 - a, 6)}".replace("-", "−")
        return Candidate(
            words.format(target), lambda pairs: gradient(pairs, a), None, (("power", float(a)),)
        )

    return line(member, _GRID, (0, 10))


def _renyi(alpha):
    """log(sum p^α q^(1 − α)) / (α − 1), whose gradient is a multiple of p - m at a = 1 − α."""
    return Candidate(
        f"Rényi divergence(α = {format_number(alpha)})",
        lambda pairs: alpha / (1 - alpha) * _forward_fixed(pairs, 1 - alpha),
        None,
        (("alpha", float(alpha)),),
    )


FAMILIES = (
    _named("forward KL to the geometric target {}, held fixed", _forward_fixed),
    _named("forward KL to the geometric target {}", _forward),
    _named("reverse KL to the geometric target {}", _reverse),
    _named("KL of the teacher to the geometric target {}", _of_teacher),
    _named("KL of the geometric target {} to the teacher", _to_teacher),
    line(_renyi, (0.05, 0.3, 0.6, 0.9), (0, 1)),
    line(_renyi, (1.1, 1.5, 2.0, 4.0), (1, 20)),
)
