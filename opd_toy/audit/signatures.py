"""How many arguments a loss wants, read off its signature; refusals where it cannot be called."""

import inspect

import torch

from opd_toy.audit.calling import ADAPT, TOKEN_WISE, AuditError

A_CLASS = (
    "loss is the class {name}, whose call makes an object and no loss; "
    "give an object of it: {name}()"
)
NOT_CALLABLE = "loss is {loss!r}, which cannot be called; give a function {wanted} -> scalar tensor"
MASK_THIRD = (
    "the loss is {loss}, whose third argument is a mask; it is called as {wanted}: give {instead}"
)
TAKE_MASK_FOURTH = "lambda student, teacher, tokens, mask: loss(student, teacher, mask)"
SET_MASK = "lambda student, teacher: loss(student, teacher, mask=...)"
KEYWORD_NEEDED = (
    "the loss is {loss}: its argument {name} has no default; it is called as {wanted}, "
    "so set it: functools.partial(loss, {name}=...)"
)
OTHER_INTERFACE = "the loss is {loss}; it is called as {wanted}. {adapt}"


def arguments_taken(loss, most, wanted=TOKEN_WISE):
    """How many of ``most`` positional arguments to hand the loss: at least 2.

    The third and later ones are handed over where the loss has no default for them;
    one with a default, such as ``beta=0.5``, keeps it unless its name says that it
    is the token or the mask that comes at this place.  ``*arguments`` get all that are accepted.
    AuditError for a signature that cannot take the two logits, or wants a mask third.
    """
    signature = _signature(loss, wanted)
    if signature is None:
        return most
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    described = getattr(loss, "__name__", type(loss).__name__) + str(signature)
    _refuse_mask_third(positional, most, described, wanted)
    taken = len(positional)
    needed = max(
        (place for place, p in enumerate(positional, start=1) if _is_handed_over(p, place, most)),
        default=0,
    )
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        taken = needed = max(taken, _accepted(loss, most))
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and p.default is p.empty:
            raise AuditError(KEYWORD_NEEDED.format(loss=described, name=p.name, wanted=wanted))
    if taken < 2 or needed > most:
        raise AuditError(OTHER_INTERFACE.format(loss=described, wanted=wanted, adapt=ADAPT))
    return max(2, needed)


def takes_keyword_mask(loss):
    """Whether the mask goes in by name: ``loss(student, teacher, tokens, *, mask)``."""
    try:
        parameter = inspect.signature(loss).parameters.get("mask")
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.kind is parameter.KEYWORD_ONLY


def _signature(loss, wanted):
    """None for what can be called but has no signature, such as built-in functions."""
    if inspect.isclass(loss):
        raise AuditError(A_CLASS.format(name=loss.__name__))
    try:
        return inspect.signature(loss.forward if isinstance(loss, torch.nn.Module) else loss)
    except (TypeError, ValueError):
        if not callable(loss):
            raise AuditError(NOT_CALLABLE.format(loss=loss, wanted=wanted)) from None
        return None


def _is_handed_over(parameter, place, most):
    if parameter.default is parameter.empty:
        return True
    if place == 3 and parameter.name in ("token", "tokens"):
        return True
    return place == most == 4 and parameter.name.endswith("mask")


def _refuse_mask_third(positional, most, described, wanted):
    if len(positional) < 3:
        return
    third = positional[2]
    if third.name.endswith("mask") and third.default is third.empty:
        instead = TAKE_MASK_FOURTH if most == 4 else SET_MASK
        raise AuditError(MASK_THIRD.format(loss=described, wanted=wanted, instead=instead))


def _accepted(loss, most):
    """How many arguments a loss of ``*arguments`` accepts: what it calls may take fewer."""
    for count in range(most, 2, -1):
        logits = [torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
        try:
            loss(*logits, *(torch.zeros((), dtype=torch.int64) for _ in range(count - 2)))
        except TypeError as error:
            if "positional argument" in str(error):
                continue
        except Exception:  # any other fault will be met, and told, in the audit
            pass
        return count
    return 2
