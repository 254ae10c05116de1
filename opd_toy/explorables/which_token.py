"""Which token was drawn? GKD's row stands still, the policy gradient's flips (chapter 4)."""

import traitlets

from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables.host import Distribution, Explorable


class WhichToken(Explorable):
    """The exact gradient beside the policy gradient of one drawn token.

    Traits: ``student``, ``teacher`` (3 probabilities each), ``token`` (1, 2 or 3, the
    token drawn), ``seed`` (0…9999) and ``draws`` (0…999): the button "Draw one" sets the
    token to draw number ``draws`` of the seed's stream, and the tokens so drawn are counted.
    """

    shown = (
        "The book's example. GKD's push raises t₁ and, slightly, t₂ and lowers t₃, whatever is "
        "drawn. With t₃ drawn the policy gradient lowers t₃ and raises t₁ and t₂ in proportion "
        "to the student's own probabilities; with t₁ or t₂ drawn it lowers t₂. Averaged over "
        "the draws it is GKD's gradient; its total variance is .4650, GKD's is 0."
    )
    student = Distribution(STUDENT.tolist()).tag(sync=True)
    teacher = Distribution(TEACHER.tolist()).tag(sync=True)
    token = traitlets.Int(3, min=1, max=3).tag(sync=True)
    seed = traitlets.Int(1, min=0, max=9999).tag(sync=True)
    draws = traitlets.Int(0, min=0, max=999).tag(sync=True)
