"""Where the working of a sum slips: each token beside those that would have been right.

A token is *right* if it carries on correctly from what is written, a slip included: a number of
the question that has not been used, the digits of the sum of what stands there, the end after
the last number.  The first token that is not right is the slip.
"""

import dataclasses

from opd_toy import _validate


@dataclasses.dataclass(frozen=True)
class Step:
    """One token of an answer and, as one string, those that would be right.

    place: ("number" or "sum", numbers read, digits written), where it stands.
    """

    token: str
    right: str
    place: tuple

    @property
    def is_right(self):
        return self.token in self.right


def read_steps(terms, answer):
    """The ``Step`` of each token of ``answer``, a string, to a question of ``terms``.

    Reading ends with the answer, or at a sign of a kind that cannot stand there.
    Raises ValueError where a term is no whole number of one digit.
    """
    terms = [_validate.whole("terms", term, 0, 9) for term in terms]
    unused, numbers, total, term, kind, written = terms.copy(), 0, None, None, "number", ""
    steps = []
    for token in answer:
        closing = _closing(kind, numbers, len(terms))
        if kind == "sum":
            wanted = str(total + term)[::-1] + closing  # low digit first
            right = wanted[min(len(written), len(wanted) - 1)]
        else:
            right = closing if written else "".join(map(str, unused))
        steps.append(Step(token, right, (kind, numbers, len(written))))
        if token.isdigit():
            written += token
            continue
        if token != closing or not written:
            break
        number, written = int(written[::-1]), ""
        if kind == "sum":
            total, kind = number, "number"
            continue
        numbers += 1
        if number in unused:
            unused.remove(number)
        if total is None:
            total = number
        else:
            term, kind = number, "sum"
    return steps


def _closing(kind, numbers, terms):
    """The sign that ends what is being written."""
    if kind == "sum":
        return "." if numbers == terms else "+"
    return "=" if numbers else "+"


def slips(steps):
    """The positions of the tokens that are not right."""
    return [t for t, step in enumerate(steps) if not step.is_right]


def first_slip(steps):
    """The position of the first token that is not right, or ``len(steps)`` if all are."""
    return next((t for t, step in enumerate(steps) if not step.is_right), len(steps))
