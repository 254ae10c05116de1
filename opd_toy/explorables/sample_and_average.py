"""Sample and average: the mean of policy-gradient draws walks to the exact one (chapter 2)."""

import traitlets

from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables.host import Distribution, Explorable


class SampleAndAverage(Explorable):
    """Tokens drawn from the student, and the running mean of their policy gradients.

    Traits: ``student``, ``teacher`` (3 probabilities each), ``draws`` N (0…4096, how many
    tokens have been drawn), ``seed`` (0…9999, which tokens), ``component`` (1, 2 or 3,
    the logit whose gradient the first chart shows).
    """

    shown = (
        "The book's example. The mean policy gradient on logit 2 over 256 drawn tokens, beside "
        "the exact gradient −.08 and its band of two standard errors, σ/√N, which narrows as "
        "the number of draws N grows; of 100 such walks about 95 are inside the band. On "
        "logarithmic axes the error falls along a straight line of slope −1/2."
    )
    student = Distribution(STUDENT.tolist()).tag(sync=True)
    teacher = Distribution(TEACHER.tolist()).tag(sync=True)
    draws = traitlets.Int(256, min=0, max=4096).tag(sync=True)
    seed = traitlets.Int(1, min=0, max=9999).tag(sync=True)
    component = traitlets.Int(2, min=1, max=3).tag(sync=True)
