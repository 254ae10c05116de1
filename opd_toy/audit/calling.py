"""Calling somebody's loss: fresh inputs, gradients by autograd, refusals that say what to change.

Every refusal is an ``AuditError``; its message names what was found and what would
be right.  A loss is called on clones of leaves that require gradients, for the
teacher too: a forgotten detach shows in ``Called.teacher_gradient``.
"""

from dataclasses import dataclass

import numpy as np
import torch

INPUTS = ("student_logits", "teacher_logits", "tokens", "mask")
REPEATS = 20  # two draws of one's own are often the same token

# Every message has {subject}, what the sentence calls the loss, and {code}, how it is written.
NOT_A_FUNCTION = (
    "{subject} is not a function of its arguments: called twice on the same inputs it gave "
    "{first!r} and {other!r}{and_gradients}. Switch dropout off, keep no state between calls, "
    "and where it draws tokens itself take them as an argument: "
    "{entry}(lambda student, teacher, token: {code}(...))"
)
KEEPS_STATE = (
    "{subject} keeps something from call to call: on the same inputs it gave {first!r} at first "
    "and {last!r} after other calls. Take out what it caches or averages (a running mean, the "
    "first teacher it saw), or make a fresh one in every call: lambda *inputs: make_loss()(*inputs)"
)
TEACHER_ONLY = (
    "{subject} has a gradient, but none for the student's logits: it reaches the teacher's only. "
    "The student comes first and the teacher second; "
    "write {entry}(lambda student, teacher, *rest: {code}(teacher, student, *rest)) "
    "if yours has them the other way round, or name its arguments student and teacher"
)
GRAPH_CUT = (
    "{subject} has no gradient: its value does depend on the student's logits, but the graph is "
    "cut on the way. Take away .detach(), torch.no_grad(), .item(), .data, .numpy(), "
    "torch.tensor(...) or argmax where the student's probabilities go through them"
)
ALL_DETACHED = (
    "{subject} has no gradient: everything in it is detached, and its value does not even change "
    "with the student's logits. Let it depend on its first argument"
)
NO_TENSOR = (
    "{subject} returns {value!r}, a {type}; return the scalar tensor itself, "
    "without .item(), float() or .numpy(), so that it can be differentiated"
)
NOT_REAL = "{subject} returns a tensor of dtype {dtype}; return one real floating-point number"
NOT_SCALAR = (
    "{subject} returns a tensor of shape {shape}; return one number: "
    "write {entry}(lambda *inputs: {code}(*inputs).sum()), "
    "with .sum() or .mean(), whichever your training takes"
)
IN_PLACE = (
    "{subject} changes {changed} in place, so that its gradient cannot be computed; "
    "use the form without the trailing underscore, or .clone() first ({error})"
)
GRADIENT_RAISED = "{subject} can be called, but its gradient raised {error}"
PLAIN = {"subject": "the loss", "code": "loss", "entry": "audit"}


class AuditError(ValueError):
    """This loss cannot be audited; the message says what to change in it."""


class NoGradient(AuditError):
    """This call has no gradient for the student's logits; ``value`` is what it returned."""

    def __init__(self, message, value):
        super().__init__(message)
        self.value = value


@dataclass(frozen=True)
class Called:
    """What one call of a loss gave.

    ``student_gradient`` and ``teacher_gradient`` have the logits' shapes; the
    teacher's is None where autograd finds no way from the value to the teacher.
    ``touched`` names the inputs that the loss changed in place.
    """

    value: float
    student_gradient: np.ndarray
    teacher_gradient: np.ndarray | None
    touched: tuple

    @property
    def reaches_teacher(self):
        return self.teacher_gradient is not None and bool(np.any(self.teacher_gradient))


def gradient_of(loss, student, teacher, *rest):
    """Call ``loss(student, teacher, *rest)`` and differentiate it; -> Called.

    ``student`` and ``teacher`` are logits of any shape, ``rest`` whatever the loss
    takes besides (arrays become tensors).  AuditError for a loss that raises, or returns
    anything but one real floating-point number; NoGradient where no gradient reaches the
    student.  A value or gradient that is not finite is handed back as it is.
    """
    words = getattr(loss, "names", PLAIN)
    leaves = [
        torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=True)
        for values in (student, teacher)
    ]
    others = [torch.as_tensor(value) for value in rest]
    with torch.inference_mode(False), torch.enable_grad():
        # Clones, as logits come from a model: a loss that writes into them can be followed.
        inputs = [leaf.clone() for leaf in leaves] + [value.clone() for value in others]
        versions = [value._version for value in inputs]
        value = _scalar(loss(*inputs), words)
        touched = tuple(
            name
            for name, given, before, version in zip(INPUTS, inputs, leaves + others, versions)
            if given._version != version or not _equal(given, before)
        )
        if not value.requires_grad:
            message = _why_no_gradient(loss, leaves, others).format(**words)
            raise NoGradient(message, value.item())
        gradients = _differentiate(value, leaves, touched, words)
    if gradients[0] is None:
        raise NoGradient(TEACHER_ONLY.format(**words), value.item())
    student_gradient, teacher_gradient = (
        None if gradient is None else gradient.numpy() for gradient in gradients
    )
    return Called(value.item(), student_gradient, teacher_gradient, touched)


def check_deterministic(loss, student, teacher, *rest):
    """Call often on the same inputs; -> Called, the first.  AuditError where another differs."""
    first = gradient_of(loss, student, teacher, *rest)
    for _ in range(REPEATS):
        other = gradient_of(loss, student, teacher, *rest)
        if not _same(first, other):
            only_gradients = first.value == other.value
            raise AuditError(
                NOT_A_FUNCTION.format(
                    first=first.value,
                    other=other.value,
                    and_gradients=", with different gradients" if only_gradients else "",
                    **getattr(loss, "names", PLAIN),
                )
            )
    return first


def check_unchanged(loss, first, student, teacher, *rest):
    """AuditError where the loss, after many other calls, no longer gives ``first`` (Called)."""
    last = gradient_of(loss, student, teacher, *rest)
    if not _same(first, last):
        words = getattr(loss, "names", PLAIN)
        raise AuditError(KEEPS_STATE.format(first=first.value, last=last.value, **words))


def _same(one, other):
    return np.array_equal(one.value, other.value, equal_nan=True) and np.array_equal(
        one.student_gradient, other.student_gradient, equal_nan=True
    )


def _equal(one, other):
    return torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())


def _scalar(value, words):
    """``value`` as a real floating tensor without axes."""
    if not isinstance(value, torch.Tensor):
        kind = type(value).__name__
        raise AuditError(NO_TENSOR.format(value=value, type=kind, **words))
    if not value.is_floating_point():
        raise AuditError(NOT_REAL.format(dtype=value.dtype, **words))
    if value.numel() != 1:
        raise AuditError(NOT_SCALAR.format(shape=tuple(value.shape), **words))
    return value.reshape(())


def _differentiate(value, leaves, touched, words):
    try:
        return torch.autograd.grad(value, leaves, allow_unused=True)
    except Exception as error:  # a backward of somebody's own may raise anything
        if "inplace" in str(error) or "in-place" in str(error):
            changed = " and ".join(touched) or "a tensor it still needs"
            message = IN_PLACE.format(changed=changed, error=first_line(error), **words)
            raise AuditError(message) from error
        raise AuditError(GRADIENT_RAISED.format(error=described(error), **words)) from error


def _why_no_gradient(loss, leaves, others):
    """Does the value depend on the student's logits although no gradient does?"""
    student, teacher = leaves
    shift = torch.cos(torch.arange(student.numel(), dtype=torch.float64)).reshape(student.shape)

    def value_at(logits):
        inputs = [value.clone() for value in (logits, teacher, *others)]
        return loss(*inputs).item()

    try:
        cut = value_at(student) != value_at(student + 0.1 * shift)
    except Exception:  # the second logits are ours, not the caller's: nothing to report about them
        cut = False
    return GRAPH_CUT if cut else ALL_DETACHED


def described(error):
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error):
    text = str(error).strip()
    return text.splitlines()[0] if text else "(no message)"
