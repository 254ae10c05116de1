"""Calling somebody's loss: fresh inputs, gradients by autograd, refusals that say what to change.

Every refusal is an ``AuditError``; its message names what was found and what would
be right.  A loss is called on clones of leaves that require gradients, for the
teacher too: a forgotten detach shows in ``Called.teacher_gradient``.
"""

from dataclasses import dataclass

import numpy as np
import torch

from opd_toy.audit import formats

TOKEN_WISE = "loss(student_logits (V,), teacher_logits (V,), token)"
REPEATS = 20  # two draws of one's own are often the same token

ADAPT = (
    "Adapt another interface with a lambda, such as lambda student, teacher, token: "
    "loss(student[None], teacher[None], token[None]).sum() for batches (B, V), "
    "or loss(student.log_softmax(-1), teacher.softmax(-1)) for one that wants probabilities; "
    "one that keeps K tokens needs a small K here, such as 1 or 2"
)
RAISED = "the loss raised {error}. It was called as {wanted}, here with {shapes}. {adapt}"
NOT_A_FUNCTION = (
    "the loss is not a function of its arguments: called twice on the same inputs it gave "
    "{first!r} and {other!r}{and_gradients}. Switch dropout off, keep no state between calls, "
    "and where it draws tokens itself take them as an argument"
)
KEEPS_STATE = (
    "the loss keeps something from call to call: on the same inputs it gave {first!r} at first "
    "and {last!r} after other calls. Take out what it caches or averages (a running mean, the "
    "first teacher it saw), or make a fresh one in every call: lambda *inputs: make_loss()(*inputs)"
)
TEACHER_ONLY = (
    "the loss has a gradient, but none for the student's logits: it reaches the teacher's only. "
    "The student comes first and the teacher second; "
    "give lambda student, teacher, *rest: loss(teacher, student, *rest) "
    "if yours has them the other way round"
)
GRAPH_CUT = (
    "the loss has no gradient: its value does depend on the student's logits, but the graph is "
    "cut on the way. Take away .detach(), torch.no_grad(), .item(), .data, .numpy(), "
    "torch.tensor(...) or argmax where the student's probabilities go through them"
)
ALL_DETACHED = (
    "the loss has no gradient: everything in it is detached, and its value does not even change "
    "with the student's logits. Let it depend on its first argument"
)
SEVERAL_VALUES = (
    "the loss returns a {type} of {length}; "
    "return the loss alone, such as lambda *inputs: loss(*inputs)[0]"
)
NO_TENSOR = (
    "the loss returns {value!r}, a {type}; return the scalar tensor itself, "
    "without .item(), float() or .numpy(), so that it can be differentiated"
)
NOT_REAL = "the loss returns a tensor of dtype {dtype}; return one real floating-point number"
NOT_SCALAR = (
    "the loss returns a tensor of shape {shape}; "
    "return one number: add .sum() or .mean(), whichever your training takes"
)
IN_PLACE = (
    "the loss changes {changed} in place, so that its gradient cannot be computed; "
    "use the form without the trailing underscore, or .clone() first ({error})"
)
GRADIENT_RAISED = "the loss can be called, but its gradient raised {error}"


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
    ``touched`` names the inputs that the loss changed in place, ``dtype`` the
    precision to which the student's gradient was rounded (``formats.precision``).
    """

    value: float
    student_gradient: np.ndarray
    teacher_gradient: np.ndarray | None
    touched: tuple

    @property
    def dtype(self):
        return formats.precision(self.student_gradient)

    @property
    def reaches_teacher(self):
        return self.teacher_gradient is not None and bool(np.any(self.teacher_gradient))


def gradient_of(
    loss,
    student,
    teacher,
    *rest,
    names=("student_logits", "teacher_logits", "token"),
    wanted=TOKEN_WISE,
):
    """Call ``loss(student, teacher, *rest)`` and differentiate it; -> Called.

    ``student`` and ``teacher`` are logits of any shape, ``rest`` whatever the loss
    takes besides (arrays become tensors).  ``names`` and ``wanted`` serve the error
    messages.  AuditError for a loss that raises, or returns anything but one real
    floating-point number; NoGradient where no gradient reaches the student.  A value
    or gradient that is not finite is handed back as it is.
    """
    leaves = [
        torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=True)
        for values in (student, teacher)
    ]
    others = [torch.as_tensor(value) for value in rest]
    with torch.inference_mode(False), torch.enable_grad():
        # Clones, as logits come from a model: a loss that writes into them can be followed.
        inputs = [leaf.clone() for leaf in leaves] + [value.clone() for value in others]
        versions = [value._version for value in inputs]
        value = _scalar(_call(loss, inputs, names, wanted))
        touched = tuple(
            name
            for name, given, before, version in zip(names, inputs, leaves + others, versions)
            if given._version != version or not _equal(given, before)
        )
        if not value.requires_grad:
            raise NoGradient(_why_no_gradient(loss, leaves, others), float(value))
        gradients = _differentiate(value, leaves, touched)
    if gradients[0] is None:
        raise NoGradient(TEACHER_ONLY, float(value.detach()))
    student_gradient, teacher_gradient = (
        None if gradient is None else gradient.numpy() for gradient in gradients
    )
    return Called(float(value.detach()), student_gradient, teacher_gradient, touched)


def check_deterministic(loss, student, teacher, *rest, **messages):
    """Call often on the same inputs; -> Called, the first.  AuditError where another differs."""
    first = gradient_of(loss, student, teacher, *rest, **messages)
    for _ in range(REPEATS):
        other = gradient_of(loss, student, teacher, *rest, **messages)
        if not _same(first, other):
            only_gradients = first.value == other.value
            raise AuditError(
                NOT_A_FUNCTION.format(
                    first=first.value,
                    other=other.value,
                    and_gradients=", with different gradients" if only_gradients else "",
                )
            )
    return first


def check_unchanged(loss, first, student, teacher, *rest, **messages):
    """AuditError where the loss, after many other calls, no longer gives ``first`` (Called)."""
    last = gradient_of(loss, student, teacher, *rest, **messages)
    if not _same(first, last):
        raise AuditError(KEEPS_STATE.format(first=first.value, last=last.value))


def _same(one, other):
    return np.array_equal(one.value, other.value, equal_nan=True) and np.array_equal(
        one.student_gradient, other.student_gradient, equal_nan=True
    )


def _equal(one, other):
    return torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())


def _call(loss, inputs, names, wanted):
    try:
        return loss(*inputs)
    except AuditError:
        raise
    except Exception as error:
        shapes = ", ".join(
            f"{name} {tuple(value.shape)}"
            if value.ndim
            else f"{name} {value.item()!r} (a tensor without axes)"
            for name, value in zip(names, inputs)
        )
        message = RAISED.format(error=described(error), wanted=wanted, shapes=shapes, adapt=ADAPT)
        raise AuditError(message) from error


def _scalar(value):
    """``value`` as a real floating tensor without axes."""
    kind = type(value).__name__
    if isinstance(value, (tuple, list, dict)):
        raise AuditError(SEVERAL_VALUES.format(type=kind, length=len(value)))
    if not isinstance(value, torch.Tensor):
        raise AuditError(NO_TENSOR.format(value=value, type=kind))
    if value.is_complex() or not value.is_floating_point():
        raise AuditError(NOT_REAL.format(dtype=value.dtype))
    if value.numel() != 1:
        raise AuditError(NOT_SCALAR.format(shape=tuple(value.shape)))
    return value.reshape(())


def _differentiate(value, leaves, touched):
    try:
        return torch.autograd.grad(value, leaves, allow_unused=True)
    except RuntimeError as error:
        if "inplace" in str(error) or "in-place" in str(error):
            changed = " and ".join(touched) or "a tensor it still needs"
            message = IN_PLACE.format(changed=changed, error=first_line(error))
            raise AuditError(message) from error
        raise AuditError(GRADIENT_RAISED.format(error=described(error))) from error


def _why_no_gradient(loss, leaves, others):
    """Does the value depend on the student's logits although no gradient does?"""
    student, teacher = (leaf.detach() for leaf in leaves)
    shift = torch.cos(torch.arange(student.numel(), dtype=torch.float64)).reshape(student.shape)

    def value_at(logits):
        rest = [value.clone() for value in others]
        return float(
            loss(logits.requires_grad_(), teacher.clone().requires_grad_(), *rest).detach()
        )

    try:
        cut = value_at(student.clone()) != value_at(student + 0.1 * shift)
    except Exception:  # the second logits are ours, not the caller's: nothing to report about them
        cut = False
    return GRAPH_CUT if cut else ALL_DETACHED


def described(error):
    return f"{type(error).__name__}: {first_line(error)}"


def first_line(error):
    text = str(error).strip()
    return text.splitlines()[0] if text else "(no message)"
