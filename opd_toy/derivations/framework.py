"""How a formula of the book is written down, checked and shown.

A ``Derivation`` is one or more chains of sympy expressions.  Every step of a chain is
checked against the one before it, twice and by separate roads:

- exactly, for a vocabulary of any size V: p is replaced by softmax(z), derivatives are
  taken by sympy, sums over 1..V are reduced to a normal form, and the difference of the
  two sides must come out as 0.  What sympy cannot bring to 0 is an error;
- in numbers: both sides are evaluated at random points for V = 2, 3 and 5 to thirty
  digits, derivatives by central differences on the definitions.  See ``witness``.

Where a sequence of any length T is meant, sums over its positions and means over sequences
are brought to a normal form by ``horizon``, and the numbers come from whole trees of
sequences with T = 2, 3 and 4.

The formulas a page displays are printed from these same expressions.
"""

from dataclasses import dataclass

import sympy as sp
from sympy import KroneckerDelta, Sum, Symbol

from opd_toy.derivations import horizon
from opd_toy.derivations.exact import (
    DerivationError,
    equal_to_zero,
    is_zero,
    log_is_at_most_x_minus_one,
    normal_form,
    reduce,
)
from opd_toy.derivations.notation import (
    C,
    SequenceMean,
    SquaredLength,
    V,
    cost,
    cost_bound,
    delta,
    gamma,
    of_sequences,
    score_at,
    score_bound,
)
from opd_toy.derivations.printing import flat_factors, flat_terms, latex


@dataclass(frozen=True)
class Step:
    """One line of a chain: an expression, how it stands to the line before, and why.

    ``relation`` is "=", ">=", "<=", "<" or "<=>".  ``by`` is what an inequality or an
    equivalence is checked with, see ``CHECKS``.
    """

    expression: sp.Basic
    reason: str = ""
    relation: str = "="
    by: tuple = ()

    @property
    def latex(self):
        return latex(self.expression)

    @property
    def sign(self):
        """The relation to the line before, in LaTeX."""
        return RELATIONS[self.relation]


@dataclass(frozen=True)
class Chain:
    """Expressions that follow one from another; ``distinct`` lists pairs of different indices."""

    steps: tuple
    title: str = ""
    distinct: tuple = ()

    @property
    def left(self):
        return self.steps[0].expression

    @property
    def right(self):
        return self.steps[-1].expression


def chain(start, *lines, title="", distinct=()):
    """Chain(start, (expression, reason[, relation[, by]]), …)."""
    return Chain((Step(start), *(Step(*line) for line in lines)), title, distinct)


@dataclass(frozen=True)
class Derivation:
    """A claim of the ledger and the chains that prove it."""

    id: str
    claim: str  # in words; the ledger says what it means for the reader
    chains: tuple
    setting: str = "any vocabulary size V"

    @property
    def steps(self):
        """All lines of all chains; the first of each is its start, the others are checked."""
        return tuple(step for part in self.chains for step in part.steps)

    def latex_claim(self, *titles):
        """The claim: first and last expression of each chain, one line a chain.

        With titles, only of the chains that have one of them.  Raises ValueError for others.
        """
        known = [part.title for part in self.chains]
        if strange := set(titles).difference(known):
            raise ValueError(f"titles must be among {known}, not {sorted(strange)}")
        parts = [part for part in self.chains if not titles or part.title in titles]
        claims = {_claim_parts(part): part for part in parts}  # two routes, one claim
        wide = max(len(left) + len(right) for left, _, right in claims) > WIDE
        if len(claims) == 1 and not wide:
            return " ".join(*claims)
        if wide:  # then the left sides are not lined up, and a wide line is broken
            lines = [_wide_line(*parts, claims[parts]) for parts in claims]
        else:
            lines = [f"{left} &{sign} {right}" for left, sign, right in claims]
        return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"

    def markdown(self):
        """The steps with their reasons, as Markdown with displayed mathematics."""
        return "\n\n".join(_chain_markdown(part) for part in self.chains)

    def check(self):
        """Check every step exactly and in numbers; DerivationError at the first that fails."""
        for part in self.chains:
            if len(part.steps) < 2:
                raise DerivationError(
                    f"{self.id}: {part.title or 'the chain'} has one line and so no step to check; "
                    "say at least what it is equal to"
                )
            for before, step in zip(part.steps, part.steps[1:]):
                check_step(self.id, part, before, step)

    def evaluate(self, student, teacher, chain=0, **indices):
        """The last expression of a chain at given probabilities, as a float; see ``evaluation``.

        A tree of two positions takes pairs, the first token's probabilities and the second's.
        """
        from opd_toy.derivations.evaluation import evaluate

        return evaluate(self.chains[chain].right, student, teacher, **indices)


RELATIONS = {"=": "=", ">=": r"\ge", "<=": r"\le", "<": "<", "<=>": r"\iff"}
WIDE = 280  # characters of LaTeX that do not fit the page's column in one line
LONG = 230  # of one side of a relation; such a side is broken before its last term


def _claim_parts(part):
    """First and last expression of a chain, and the strongest relation that its steps add up to."""
    used = {step.relation for step in part.steps[1:]}
    relation = next(sign for sign in ("<=>", "<", ">=", "<=", "=") if sign in used)
    return latex(part.left), RELATIONS[relation], latex(part.right)


def _wide_line(left, sign, right, part):
    """A claim that has the page's column to itself, broken at its relation if it does not fit."""
    if len(left) + len(right) <= WIDE:
        return f"& {left} {sign} {right}"
    return f"& {_broken(left, part.left)} \\\\\n& \\quad {sign} {_broken(right, part.right)}"


def _broken(text, expression, limit=LONG):
    """One side of a claim; of a sum longer than the limit the last term has a second line."""
    sign, term = flat_terms(expression)[-1]
    last = (
        rf"\left( {latex(term)} \right)" if sign < 0 and isinstance(term, sp.Add) else latex(term)
    )
    head = text.removesuffix(last).rstrip()
    if len(text) <= limit or head == text or head[-2:] not in (" +", " -"):
        return text
    return f"{head[:-2]} \\\\\n& \\qquad {{}} {head[-1]} {last}"


def _chain_markdown(part):
    first = (
        part.title[:1].upper() if part.title[:1].isascii() else part.title[:1]
    )  # a Greek letter is a symbol: α, not Α
    heading = [f"**{first}{part.title[1:]}.**"] if part.title else []
    start = f"$$\n{_step_latex(part.steps[0])}\n$$"
    lines = [f"{step.reason}\n\n$$\n{_step_latex(step, step.sign)}\n$$" for step in part.steps[1:]]
    return "\n\n".join([*heading, start, *lines])


def _step_latex(step, sign=""):
    """A line of a proof; a sum that does not fit goes on in a second line."""
    text = _broken(step.latex, step.expression, WIDE)
    line = f"{sign} {text}".lstrip()
    return line if text == step.latex else f"\\begin{{aligned}}\n& {line}\n\\end{{aligned}}"


def check_step(name, part, before, step):
    """Raise DerivationError, naming the place, unless ``step`` follows from ``before``."""
    problem = exact_problem(part, before, step) or witness_problem(name, part, before, step)
    if problem:
        where = f"{name}, step {part.steps.index(step)} of {part.title or 'the chain'}"
        line = f"{before.latex} {step.relation} {step.latex}"
        raise DerivationError(f"{where}: {line} does not hold: {problem}")


def exact_problem(part, before, step):
    """What is wrong with a step by exact computation for every V, or None."""
    return CHECKS[step.relation](part, before.expression, step.expression, *step.by)


def _equal(part, before, after):
    if of_sequences(before) or of_sequences(after):
        return (
            None
            if horizon.is_zero(after - before)
            else "the two sides do not have the same normal form"
        )
    difference = normal_form(after) - normal_form(before)
    difference = difference.xreplace({delta(*pair): sp.S.Zero for pair in part.distinct})
    return (
        None
        if equal_to_zero(reduce(difference))
        else f"the difference comes out as {difference}, not 0"
    )


def _at_least(part, before, after, positive, ratio, index):
    """before - after = Σ positive·(ratio - 1 - log ratio), and log x <= x - 1."""
    if not (positive.is_positive and ratio.is_positive and log_is_at_most_x_minus_one()):
        return f"the weight {positive} and the ratio {ratio} must be positive"
    gap = Sum(positive * (ratio - 1 - sp.log(ratio)), (index, 1, V))
    return (
        None if is_zero(before - after - gap) else "the gap is not a sum of weight·(x - 1 - log x)"
    )


def _at_most(part, before, after, gap):
    """after - before = gap, which can be read off to be nowhere negative."""
    if not _nonnegative(gap):
        return f"nothing shows that {gap} is never negative"
    return _equal(part, before + gap, after)


def _nonnegative(e):
    """Read off: a square, a bound less what it bounds, a positive symbol.

    Sums, means and products of such are not negative either.
    """
    if isinstance(e, SquaredLength) or (
        isinstance(e, sp.Pow) and e.exp.is_Integer and e.exp.is_even
    ):
        return True
    if isinstance(e, (Sum, SequenceMean)):
        return _nonnegative(e.args[0])
    if isinstance(e, sp.Add):
        return _is_margin(e) or all(map(_nonnegative, e.args))
    if isinstance(e, sp.Mul):
        return all(map(_nonnegative, e.args))
    if isinstance(e, sp.Pow):
        return bool(e.base.is_positive) or any(
            sp.expand(e.base - margin) == 0 for margin in DISCOUNT_MARGINS
        )
    return bool(e.is_nonnegative)


def _is_margin(e):
    """B_r² - r_t², B_s² - ‖s_t‖², and 1 - γ² or 1 - γ."""
    positions = {index for one in e.atoms(sp.Indexed) for index in one.indices}
    margins = [bound**2 - square for index in positions for bound, square in _bounds(index)]
    return any(sp.expand(e - margin) == 0 for margin in (*DISCOUNT_MARGINS, *margins))


DISCOUNT_MARGINS = (1 - gamma, 1 - gamma**2)  # positive: these steps are for γ < 1


def _bounds(index):
    return (cost_bound, cost[index] ** 2), (score_bound, SquaredLength(score_at[index]))


def _below_zero(part, before, after):
    """before = -(product of positive factors) and after = 0."""
    if after != 0:
        return "the right side must be 0"
    sign, *factors = flat_factors(before)
    wrong = [f for f in factors if not _positive(f, part)]
    return f"not known to be positive: {wrong}" if wrong or sign != -1 else None


def _positive(e, part):
    """Positive by assumption, or the square of a cost, or a sum without negative terms.

    Such a sum needs one term that is positive.
    """
    if isinstance(e, sp.Pow) and e.exp == 2 and isinstance(e.base, sp.Indexed) and e.base.base == C:
        return True  # where the cost is not 0
    if isinstance(e, Sum):
        index = e.variables[0]
        values = [
            e.function.xreplace({d: bit})
            for d in e.atoms(KroneckerDelta)
            for bit in (sp.S.Zero, sp.S.One)
        ]
        values = [sp.Mul(*flat_factors(value)).doit() for value in values]
        there = [e.function.xreplace({index: other}) for pair in part.distinct for other in pair]
        there = [
            sp.Mul(
                *flat_factors(t.xreplace({delta(*pair): sp.S.Zero for pair in part.distinct}))
            ).doit()
            for t in there
        ]
        return all(value.is_nonnegative for value in values) and any(t.is_positive for t in there)
    return bool(e.is_positive)


def _equivalent(part, before, after, by):
    """lhs - rhs of one side is a positive factor times lhs - rhs of the other, or both
    sides went through the same increasing function."""
    if type(before) is not type(after):
        return "the two inequalities point in different directions"
    if isinstance(by, sp.core.function.FunctionClass):
        at = Symbol("x", positive=True)
        increasing = sp.diff(by(at), at).is_positive
        same = all(is_zero(one - by(other)) for one, other in zip(before.args, after.args))
        return None if increasing and same else f"not the increasing function {by} of both sides"
    if not by.is_positive:
        return f"the factor {by} must be positive"
    gap = (before.lhs - before.rhs) - by * (after.lhs - after.rhs)
    return None if is_zero(gap) else f"{latex(by)} is not the ratio of the two sides"


CHECKS = {"=": _equal, ">=": _at_least, "<=": _at_most, "<": _below_zero, "<=>": _equivalent}


def witness_problem(name, part, before, step):
    """What is wrong with a step at random points, or None."""
    from opd_toy.derivations.witness import counterexample

    return counterexample(
        before.expression, step.expression, step.relation, part.distinct, seed=name
    )
