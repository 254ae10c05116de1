"""The loss in what a loss returns: a tuple, a dict, an object with ``.loss``."""

from collections.abc import Mapping

import torch

from opd_toy.audit.calling import AuditError

SEVERAL_VALUES = (
    "write {entry}(lambda *inputs: {code}(*inputs)[0]), with the place or key of the loss: "
    "{subject} returns a {type} of {length}, and which entry of it is the loss is not told{keys}"
)


def loss_in(value, names):
    """(the loss, where it was found: words or None); ``names``: of the loss, for the refusal."""
    if isinstance(value, torch.Tensor):
        return value, None
    kind = type(value).__name__
    if isinstance(value, Mapping):
        likely = [key for key in value if "loss" in str(key).lower() and _is_number(value[key])]
        usual = [key for key in ("loss", "total_loss") if key in value]
        if usual or len(likely) == 1:
            key = (usual or likely)[0]
            return value[key], f"the entry {key!r} of the {kind} that it returns"
    elif isinstance(getattr(value, "loss", None), torch.Tensor):
        return value.loss, f"the .loss of the {kind} that it returns"
    elif isinstance(value, (tuple, list)):
        numbers = [place for place, entry in enumerate(value) if _is_number(entry)]
        if 0 in numbers or len(numbers) == 1:
            place = "first" if 0 in numbers else f"only number, at [{numbers[0]}],"
            found = value[0 if 0 in numbers else numbers[0]]
            return found, f"the {place} of the {kind} of {len(value)} that it returns"
    if isinstance(value, (Mapping, tuple, list)):
        keys = f": its keys are {', '.join(map(repr, value))}" if isinstance(value, Mapping) else ""
        message = SEVERAL_VALUES.format(type=kind, length=len(value), keys=keys, **names)
        raise AuditError(message)
    return value, None


def _is_number(value):
    return isinstance(value, torch.Tensor) and value.numel() == 1 and value.is_floating_point()
