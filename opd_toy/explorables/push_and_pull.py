"""Push and pull: what one descent step does to each of three tokens (chapter 3)."""

import traitlets

from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables.host import Distribution, Explorable

OBJECTIVES = (
    "forward_kl",
    "reverse_kl",
    "jsd",
    "rescaled_jsd",
    "alpha",
    "skewed_forward_kl",
    "skewed_reverse_kl",
)


class PushAndPull(Explorable):
    """Student and teacher over three tokens, and the push of each objective.

    Traits: ``student``, ``teacher`` (3 probabilities each), ``objective`` (whose field
    and path the triangle draws), ``beta`` of the JSD, ``alpha`` of the alpha-divergence,
    ``skew`` of the skewed divergences, ``token`` (1, 2 or 3: for which token the
    triangle shades where forward and reverse KL disagree), ``objectives`` (which of
    the objectives are offered, set once).
    """

    shown = (
        "The book's example. Student (.2, .3, .5), teacher (.7, .2, .1): under forward KL "
        "token 1 is raised, tokens 2 and 3 lowered; under reverse KL tokens 1 and 2 are "
        "raised, token 3 lowered. Beside it the probability triangle with the path of descent "
        "from student to teacher."
    )
    student = Distribution(STUDENT.tolist()).tag(sync=True)
    teacher = Distribution(TEACHER.tolist()).tag(sync=True)
    objective = traitlets.Enum(OBJECTIVES, "reverse_kl").tag(sync=True)
    beta = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    alpha = traitlets.Float(0.5, min=-0.5, max=1.5).tag(sync=True)
    skew = traitlets.Float(0.1, min=0, max=0.99).tag(sync=True)
    token = traitlets.Int(2, min=1, max=3).tag(sync=True)
    objectives = traitlets.List(
        traitlets.Enum(OBJECTIVES), ["forward_kl", "reverse_kl", "jsd"], minlen=1
    ).tag(sync=True)
