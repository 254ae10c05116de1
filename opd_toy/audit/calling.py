"""Calling somebody's loss: fresh inputs, gradients by autograd, and refusals that say what to change.

Every refusal is an ``AuditError``; its message names what was found and what would
be right.  A loss is called on clones of leaves that require gradients, for the
teacher too: a forgotten detach shows in ``Called.teacher_gradient``.
"""

import inspect
from dataclasses import dataclass

import numpy as np
import torch

TOKEN_WISE = "loss(student_logits (V,), teacher_logits (V,), token)"
TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 3e-2, "bfloat16": 3e-2}
FEW = 16  # so few different numbers, such as 0 and 1 of one-hot rows, are exact in any format
REPEATS = 20  # two draws of one's own are often the same token
ADAPT = (
    "Adapt another interface with a lambda, such as "
    "lambda student, teacher, token: loss(student[None], teacher[None], token[None]).sum() for batches (B, V), "
    "or loss(student.log_softmax(-1), teacher.softmax(-1)) for one that wants probabilities; "
    "one that keeps K tokens needs a small K here, such as 1 or 2"
)


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
    teacher's is None where the value does not hang on the teacher through autograd.
    ``touched`` names the inputs that the loss changed in place, ``dtype`` the
    precision to which the student's gradient was rounded (``precision``).
    """

    value: float
    student_gradient: np.ndarray
    teacher_gradient: np.ndarray | None
    touched: tuple

    @property
    def dtype(self):
        return precision(self.student_gradient)


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
            name for name, given, before, version in zip(names, inputs, leaves + others, versions)
            if given._version != version or not (torch.equal(given, before) or torch.equal(given.nan_to_num(), before.nan_to_num()))
        )  # fmt: skip
        if not value.requires_grad:
            raise NoGradient(_why_no_gradient(loss, leaves, others), float(value))
        gradients = _differentiate(value, leaves, touched)
    if gradients[0] is None:
        raise NoGradient(
            "the loss has a gradient, but none for the student's logits: it reaches the teacher's only. "
            "The student comes first and the teacher second; give lambda student, teacher, *rest: loss(teacher, student, *rest) if yours has them the other way round",
            float(value.detach()),
        )
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
            raise AuditError(
                f"the loss is not a function of its arguments: called twice on the same inputs it gave {first.value!r} and {other.value!r}"
                + ("" if first.value != other.value else ", with different gradients")
                + ". Switch dropout off, keep no state between calls, and where it draws tokens itself take them as an argument"
            )
    return first


def check_unchanged(loss, first, student, teacher, *rest, **messages):
    """AuditError where the loss, after many other calls, no longer gives what it gave at first (Called)."""
    last = gradient_of(loss, student, teacher, *rest, **messages)
    if not _same(first, last):
        raise AuditError(
            f"the loss keeps something from call to call: on the same inputs it gave {first.value!r} at first and {last.value!r} after other calls. "
            "Take out what it caches or averages (a running mean, the first teacher it saw), or make a fresh one in every call: lambda *inputs: make_loss()(*inputs)"
        )


def _same(one, other):
    return np.array_equal(one.value, other.value, equal_nan=True) and np.array_equal(
        one.student_gradient, other.student_gradient, equal_nan=True
    )


def arguments_taken(loss, most, wanted=TOKEN_WISE):
    """How many of ``most`` positional arguments to hand the loss: at least 2.

    The third and later ones are handed over where the loss has no default for them;
    one with a default, such as ``beta=0.5``, keeps it unless its name says that it
    is the token or the mask that comes at this place.  ``*arguments`` get all that are accepted.
    AuditError for a signature that cannot take the two logits, or wants a mask third.
    """
    if inspect.isclass(loss):
        raise AuditError(
            f"loss is the class {loss.__name__}, whose call makes an object and no loss; give an object of it: {loss.__name__}()"
        )
    try:
        signature = inspect.signature(loss.forward if isinstance(loss, torch.nn.Module) else loss)
    except (TypeError, ValueError):
        if not callable(loss):
            raise AuditError(
                f"loss is {loss!r}, which cannot be called; give a function {wanted} -> scalar tensor"
            ) from None
        return most
    positional, needed = 0, 0
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional = needed = max(positional, _accepted(loss, most))
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            positional += 1
            if (
                positional == 3
                and parameter.name.endswith("mask")
                and parameter.default is parameter.empty
            ):
                instead = (
                    "lambda student, teacher, tokens, mask: loss(student, teacher, mask)"
                    if most == 4
                    else "lambda student, teacher: loss(student, teacher, mask=...)"
                )
                raise AuditError(
                    f"the loss is {_name(loss)}{signature}, whose third argument is a mask; it is called as {wanted}: give {instead}"
                )
            if (
                parameter.default is parameter.empty
                or (positional == 3 and parameter.name in ("token", "tokens"))
                or (positional == most == 4 and parameter.name.endswith("mask"))
            ):
                needed = positional
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise AuditError(
                f"the loss is {_name(loss)}{signature}: its argument {parameter.name} has no default; it is called as {wanted}, so set it: functools.partial(loss, {parameter.name}=...)"
            )
    if positional < 2 or needed > most:
        raise AuditError(f"the loss is {_name(loss)}{signature}; it is called as {wanted}. {ADAPT}")
    return max(2, needed)


def _accepted(loss, most):
    """How many arguments reach through a loss of ``*arguments`` to what it calls: most, unless that takes fewer."""
    for count in range(most, 2, -1):
        try:
            loss(
                *(torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2)),
                *(torch.zeros((), dtype=torch.int64) for _ in range(count - 2)),
            )
        except TypeError as error:
            if "positional argument" in str(error):
                continue
        except Exception:  # what else is wrong will be met, and told, in the audit
            pass
        return count
    return 2


def precision(*gradients):
    """The coarsest format all these numbers are exact in: "float64", "float32", "float16" or "bfloat16".

    A gradient that went through ``.float()`` comes back as float64 but holds only
    float32's numbers.  Zeros, and numbers that are not finite, say nothing; neither do
    many numbers of which few differ.
    """
    numbers = torch.tensor(
        np.concatenate([np.ravel(gradient) for gradient in gradients]), dtype=torch.float64
    )
    numbers = numbers[torch.isfinite(numbers) & (numbers != 0)]
    if len(numbers) and not (len(numbers) > 4 * FEW and len(numbers.abs().unique()) <= FEW):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            if torch.equal(numbers.to(dtype).double(), numbers):
                return str(dtype).removeprefix("torch.")
    return "float64"


def formats_inside(loss, student, teacher, *rest):
    """Names of the floating formats, such as {"float32", "float64"}, in which arrays inside the loss are computed."""
    seen = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            for value in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(value, torch.Tensor) and value.ndim and value.is_floating_point():
                    seen.add(str(value.dtype).removeprefix("torch."))
            return result

    inputs = [
        torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=True).clone()
        for values in (student, teacher)
    ]
    try:
        with Watch():
            loss(*inputs, *[torch.as_tensor(value) for value in rest])
    except (
        Exception
    ):  # it can be called, but not under watch (compiled code): what was seen must do
        pass
    return seen


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
        raise AuditError(
            f"the loss raised {type(error).__name__}: {_first_line(error)}. It was called as {wanted}, here with {shapes}. {ADAPT}"
        ) from error


def _scalar(value):
    """``value`` as a real floating tensor without axes."""
    if isinstance(value, (tuple, list, dict)):
        raise AuditError(
            f"the loss returns a {type(value).__name__} of {len(value)}; return the loss alone, such as lambda *inputs: loss(*inputs)[0]"
        )
    if not isinstance(value, torch.Tensor):
        raise AuditError(
            f"the loss returns {value!r}, a {type(value).__name__}; return the scalar tensor itself, without .item(), float() or .numpy(), so that it can be differentiated"
        )
    if value.is_complex() or not value.is_floating_point():
        raise AuditError(
            f"the loss returns a tensor of dtype {value.dtype}; return one real floating-point number"
        )
    if value.numel() != 1:
        raise AuditError(
            f"the loss returns a tensor of shape {tuple(value.shape)}; return one number: add .sum() or .mean(), whichever your training takes"
        )
    return value.reshape(())


def _differentiate(value, leaves, touched):
    try:
        return torch.autograd.grad(value, leaves, allow_unused=True)
    except RuntimeError as error:
        if "inplace" in str(error) or "in-place" in str(error):
            changed = " and ".join(touched) or "a tensor it still needs"
            raise AuditError(
                f"the loss changes {changed} in place, so that its gradient cannot be computed; use the form without the trailing underscore, or .clone() first ({_first_line(error)})"
            ) from error
        raise AuditError(
            f"the loss can be called, but its gradient raised {type(error).__name__}: {_first_line(error)}"
        ) from error


def _why_no_gradient(loss, leaves, others):
    """Does the value hang on the student's logits although no gradient does?"""
    values = []
    for shift in (0.0, 0.1):
        student = leaves[0].detach() + shift * torch.cos(
            torch.arange(leaves[0].numel(), dtype=torch.float64)
        ).reshape(leaves[0].shape)
        try:
            values.append(
                float(
                    loss(
                        student.requires_grad_(),
                        leaves[1].clone(),
                        *[value.clone() for value in others],
                    ).detach()
                )
            )
        except (
            Exception
        ):  # the second logits are ours, not the caller's: nothing to report about them
            values.append(values[0])
    if values[0] != values[1]:
        return (
            "the loss has no gradient: its value does depend on the student's logits, but the graph is cut on the way. "
            "Take away .detach(), torch.no_grad(), .item(), .data, .numpy(), torch.tensor(...) or argmax where the student's probabilities go through them"
        )
    return "the loss has no gradient: everything in it is detached, and its value does not even change with the student's logits. Let it depend on its first argument"


def _name(loss):
    return getattr(loss, "__name__", type(loss).__name__)


def _first_line(error):
    text = str(error).strip()
    return text.splitlines()[0] if text else "(no message)"
