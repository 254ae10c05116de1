"""What of the book's claims a study of the lab shows: rules over the numbers of its record.

A claim has parts, each a statement that is true or not of the record, or, where the errors
are too large to tell (None), neither.  All that can be told are true: "seen"; some: "seen
under conditions", those that are; none: "not seen"; and where nothing can be told:
"undecided".

The thresholds were written before the numbers were seen.  After a first record a reviewer
had variances on the same texts compared as pairs, which they had not been, growth taken
from texts of four tokens on, where it had been from one, and the two divergences kept apart
in exposure; these rules are the stricter for it, but for the pairs, which tell more.  After
a second, agreement and bias are measured on estimators with less noise and the same means,
and whether the reward passes the teacher is asked where it can be answered, too: of a
student that starts as the teacher itself.

"Clearly" always means: by more than two standard errors, see ``clearly``.  Of three seeds
without any difference 9 in 100 would pass, not 2, so that among thirty parts two or three
may; and all share one teacher and one start.  Errors of gradients are the jackknife's over
blocks of texts.
"""

from opd_toy.lm.study import claims_on_gradients, claims_on_training
from opd_toy.lm.study.record import Record

RULES = (*claims_on_gradients.RULES, *claims_on_training.RULES)


def judge(results):
    """The claims that the methods of these results bear on.

    [{"id", "claim", "criterion", "verdict", "parts", "figure"}], see ``rules.Rule``.
    """
    record = Record(results)
    return [row for rule in RULES if (row := rule.judged(record))]
