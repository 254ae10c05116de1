"""Spellings of objectives, and the tests that rest on them."""

import json
import re
import tomllib

import pytest

from opd_toy.audit import assert_optimises, audit
from opd_toy.audit.expectation import UnknownName, is_as_expected
from opd_toy.audit.spelling import AROUND, KNOWN, is_known, nearest, read, same
from tests import audit_losses, audit_sequence_losses
from tests.audit_losses import forward, jsd, reverse
from tests.conftest import ROOT
from tests.written import check_text

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.usefixtures("one_thread")

ALIKE = [
    (
        *("forward KL", "Forward KL", "forward_kl", "FKL", "fkl", "forward-KL", "ForwardKL"),
        *("KL(q||p)", "KL(q‖p)", "KL(teacher || student)", "1 * forward KL", "JSD(beta=0)"),
    ),
    (
        *("reverse KL", "rkl", "RKL", "backward KL", "KL(p‖q)", "JSD(β = 1)", "alpha=1 divergence"),
        "KL(student || teacher)",
    ),
    (
        *("JSD(β = 0.5)", "JSD(beta=0.5)", "jsd beta .5", "JSD", "js divergence", "jsd_0.5"),
        *("generalized_jsd(beta=0.5)", "Jensen-Shannon divergence"),
    ),
    ("0.5 × reverse KL", "0.5 * reverse kl", "half reverse KL", "1/2 RKL", '".5 rkl"'),
    ("2 × reverse KL", "2 rkl", "2x rkl", "twice the reverse KL", "reverse KL + reverse KL"),
    ("reverse KL + 0.01 × forward KL", "0.01 forward_kl + rkl"),
    (
        *("reverse KL − 1e-05 × entropy", "rkl - 1e-5 entropy", "-0.00001*entropy + rkl"),
        "rkl + -1e-5 entropy",
    ),
    ("1/V × forward KL", "1/V * fkl", "forward KL / V."),
    ("1/V × forward KL + entropy", "fkl / V + entropy"),
    ("α-divergence(α = 2)", "alpha_divergence(alpha=2)", "alpha divergence 2"),
    ("α-divergence(α = -2)", "alpha_divergence(alpha=-2)", "alpha divergence, alpha = −2"),
    ("α-divergence(α = -1)",),  # and not the reverse KL, which has α = 1
    ("forward KL with skew 0.1", "skewed_forward_kl(skew=0.1)", "skewed forward KL, skew .1"),
    ("reverse KL with skew 0.1", "skewed_reverse_kl(skew=0.1)"),
    ("JSD(β = 0.5) at temperature 2", "jsd at temperature 2"),
    ("forward KL at temperature 2", "FKL(temperature=2)", "fkl, temp 2"),
    ("forward KL to the teacher at temperature 2",),
    (
        "reverse KL on the teacher's top 2, renormalized",
        "top_k_reverse_kl(k=2, outside='renormalize')",
        "RKL on teacher's top-2, renormalised",
    ),
    ("reverse KL on the teacher's top 2, tail dropped",),
    ("sum of local reverse KLs", "sum of local RKLs"),
    ("1/T × sum of local reverse KLs", "mean of local reverse KLs"),
    ("0.5/T × sum of local reverse KLs + 0.5/T × sum of local forward KLs",),
    ("sequence reverse KL", "sequence-level reverse KL", "sequence_reverse_kl"),
    ("reverse KL while the two are close",),
    ("reverse KL where |log p/q| ≤ 10", "rkl where |log p/q| <= 10"),
    ("reverse KL where |log p/q| ≥ 10",),
    ("KL(p‖q) × reverse KL",),
    ("zero", "Zero", "nothing"),
]


@pytest.mark.parametrize("names", ALIKE, ids=lambda names: names[0])
def test_spellings_of_one_objective(names):
    first = read(names[0])
    assert [name for name in names[1:] if not same(first, read(name))] == []
    others = [group[0] for group in ALIKE if group is not names]
    assert [other for other in others if same(first, read(other))] == []


MORE = """
1/V × (forward KL + 0.5 × reverse KL)
−2/V × (forward KL − 0.5 × reverse KL) + entropy
2 × (forward KL + forward KL)
−2/V × entropy − forward KL
0.5/T × sum of local reverse KLs
1e-05 × reverse KL / V
.5e-3 rkl
2. x rkl
(forward KL)
reverse KL to the teacher at temperature 2 with skew 0
temperature 1 forward KL to the teacher at temperature 1
jsd 0
alpha divergence 0
JSD beta 0.25, jsd beta
√H(q) × reverse KL − 1/√H(q) × forward KL
k² × α-divergence(α = -1.7)
half of the reverse KL and double the forward KL
Reverse_KL (biased by anything).
ratio clipped reverse KL (PPO)
behavior KLs, distances, entropies
top-k 5 and top 7
f-divergence with weight log p/q at least −0.1 and at most 0.3
reverse KL where log p/q ≤ 11 and q ≥ 1e-08
"""


def test_what_is_read():
    """Terms and numbers of the first spelling of each group, and of some odd ones."""
    wanted = [*(group[0] for group in ALIKE), *MORE.strip().splitlines()]
    lines = [f"{name}: {read(name)}, {is_known(name)}" for name in wanted]
    check_text("audit_parts.txt", "spellings", "\n".join(lines))
    check_text("audit_parts.txt", "words around names", " ".join(sorted(AROUND - {"#"})))
    check_text("audit_parts.txt", "known names", "\n".join(KNOWN))
    lines = [
        f"{name}: {nearest(name)}" for name in ("reverse LK", "forward", "JSDivergence", "zeros")
    ]
    check_text("audit_parts.txt", "nearest names", "\n".join(lines))


@pytest.mark.parametrize(
    "one, other, alike",
    [
        ("0.5 reverse KL", "0.500004 reverse KL", True),
        ("0.5 reverse KL", "0.500006 reverse KL", False),
        ("JSD(β = 0.5)", "JSD(β = 0.500004)", True),
        ("JSD(β = 0.5)", "JSD(β = 0.500006)", False),
        ("reverse KL at temperature 2", "reverse KL at temperature 2 once", False),
        ("reverse KL", "reverse KL + entropy", False),
        ("reverse KL + entropy", "reverse KL + forward KL", False),
        ("forward KL + reverse KL", "forward KL+reverse KL", True),
        ("reverse KL + 100 entropy", "reverse KL+1e+2 entropy", True),
        ("reverse KL on the top 2", "reverse KL on the top k", False),
    ],
)
def test_numbers_are_the_same_to_six_figures(one, other, alike):
    assert same(read(one), read(other)) == same(read(other), read(one)) == alike


def test_numbers_are_compared_as_numbers():
    assert same(read("JSD(β = 0.123457)"), read("jsd beta 0.12345678"))
    assert not same(read("JSD(β = 0.12)"), read("JSD(β = 0.123)"))
    assert not same(read("0.5 reverse KL"), read("reverse KL"))
    assert not same(read("0.5 reverse KL"), read("0.50001 reverse KL"))
    assert same(read("0.5 reverse KL"), read("0.5000001 reverse KL"))


def test_bounds_are_words_around_a_name():
    assert is_known("forward KL where log p/q ≤ 11 and log q/p ≤ 2.61")
    assert is_known("reverse KL on the student's top 2, tail as one token where p, q ≥ 1e-07")


def test_every_verdict_that_the_tests_know_is_known():
    verdicts = {verdict for _, verdict, _ in audit_sequence_losses.VERDICTS.values()}
    for table in vars(audit_losses).values():
        if isinstance(table, dict):
            entries = (value for value in table.values() if isinstance(value, tuple))
            verdicts |= {value[1] for value in entries if isinstance(value[1], str)}
    record = (ROOT / "figures" / "library-audits.json").read_text(encoding="utf-8")
    verdicts |= set(re.findall(r'"optimises": "(.*?)"', record)) - {"cannot be audited"}
    verdicts = {json.loads(f'"{verdict}"') for verdict in verdicts}
    assert len(verdicts) > 80
    assert sorted(verdict for verdict in verdicts if not is_known(verdict)) == []
    assert all(map(is_known, KNOWN))


@pytest.mark.parametrize(
    "name, near",
    [
        ("reverse LK", "reverse KL"),
        ("foward KL", "forward KL"),
        ("sum of locals reverse KL", "sum of local reverse KLs"),
        ("forward KL, more or less", "forward KL"),
        ("KL", None),
        ("Wasserstein", None),
        ("forward KL + Wasserstein", None),
        ("", None),
    ],
)
def test_an_unknown_name_has_neighbours(name, near):
    assert not is_known(name)
    assert near is None or near in nearest(name)


def test_a_test_in_one_line():
    assert assert_optimises(forward, "FKL").optimises == "forward KL"
    assert_optimises(jsd(0.3), "jsd beta .3", seed=2)
    with pytest.raises(AssertionError, match="expected 'reverse KL', found 'forward KL'") as caught:
        assert_optimises(forward, "reverse KL")
    assert str(audit(forward)) in str(caught.value)
    with pytest.raises(UnknownName, match="nearest: 'reverse KL'"):
        assert_optimises(reverse, "reverse LK")
    with pytest.raises(UnknownName) as caught:
        assert_optimises(reverse, "Wasserstein")
    check_text("audit_parts.txt", "an unknown name", str(caught.value))


def test_a_test_of_texts_in_one_line():
    with audit_sequence_losses.fewer_trees():
        assert_optimises(reverse, "sum of local RKLs", sequence=True)


def test_what_a_verdict_is_limited_to_belongs_to_it():
    report = audit(lambda s, t: (reverse(s, t) - 0.3).clamp(min=0))
    assert report.optimises.startswith("reverse KL") and not is_as_expected(report, "reverse KL")
    assert is_as_expected(report, report.optimises)


FIXTURE = """
import sys
import pytest

def test_light():
    assert "torch" not in sys.modules

def kl(a, b):
    return (a.softmax(-1) * (a.log_softmax(-1) - b.log_softmax(-1))).sum()

def test_right(assert_optimises):
    assert_optimises(lambda s, t: kl(s, t), "RKL")

def test_wrong(assert_optimises):
    assert_optimises(lambda s, t: kl(t, s), "reverse KL")
"""


def test_the_fixture(pytester, monkeypatch):
    """In a process of its own, so that what is imported shows."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pytester.makepyfile(FIXTURE)
    plugin = "opd_toy.commands.pytest_plugin"
    done = pytester.runpytest_subprocess("-p", plugin, "-p", "no:cacheprovider")
    done.assert_outcomes(passed=2, failed=1)
    done.stdout.fnmatch_lines(["*expected 'reverse KL', found 'forward KL'*"])


def test_the_fixture_is_an_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"opd_toy": "opd_toy.commands.pytest_plugin"}
