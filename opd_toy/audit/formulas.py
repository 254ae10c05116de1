"""A loss from a formula of the small language of “Your loss”: ``audit(formula("…"))``."""

from opd_toy.explorables.your_loss_code import torch_code
from opd_toy.explorables.your_loss_language import parse


def formula(text):
    """``text``, such as "sg(log p[k] - log q[k]) * log p[k]", as a loss in PyTorch.

    The loss takes (student_logits (V,), teacher_logits (V,)) and, where the formula has [k], the
    token; its ``code`` is its definition as text.  FormulaError, which names the column and what
    was expected, where ``text`` cannot be read.
    """
    code = torch_code(parse(text))
    names = {}
    exec(code, names)  # written from the tree: of the text no more than its numbers and names
    loss = names["loss"]
    loss.code, loss.__doc__ = code, text
    return loss
