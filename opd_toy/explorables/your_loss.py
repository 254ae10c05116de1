"""Your loss: a formula typed by the reader, and what it really optimises (chapter 7)."""

import traitlets

from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables.host import Distribution, Explorable
from opd_toy.explorables.your_loss_language import FormulaError, parse


class FormulaText(traitlets.Unicode):
    """A formula that ``your_loss_language.parse`` can read."""

    def validate(self, obj, value):
        value = super().validate(obj, value)
        try:
            parse(value)
        except FormulaError as error:
            raise traitlets.TraitError(f"{self.name} cannot be read: {error}") from error
        return value


class YourLoss(Explorable):
    """A loss of one position as a formula: its mean gradient, its draws, and the name it earns.

    Traits: ``formula`` (``your_loss_language`` has the language; ``opd_toy.audit.formulas``
    makes a loss in PyTorch of it), ``drawn_from`` ("student" or "teacher": who draws the token
    [k]), ``student``, ``teacher`` (3 probabilities each).
    """

    shown = (
        "The policy gradient as a formula, sg(log p[k] − log q[k]) · log p[k], on the book's "
        "example. Averaged over tokens that the student draws its gradient is the reverse KL's: "
        "it raises tokens 1 and 2 and lowers token 3. Single draws spread widely about it. "
        "Descent on it ends at the teacher. Below the formula stands in PyTorch."
    )
    formula = FormulaText("sg(log p[k] - log q[k]) * log p[k]").tag(sync=True)
    drawn_from = traitlets.Enum(("student", "teacher"), "student").tag(sync=True)
    student = Distribution(STUDENT.tolist()).tag(sync=True)
    teacher = Distribution(TEACHER.tolist()).tag(sync=True)
