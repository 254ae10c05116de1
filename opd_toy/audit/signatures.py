"""The signature of whatever can be called, and how it is written; refusals of what cannot be."""

import functools
import inspect
import sys
import types
from dataclasses import dataclass

import torch

from opd_toy.audit.calling import AuditError

A_CLASS = (
    "write {name}(), an object: loss is the class {name}, whose call makes an object and no loss"
)
NOT_CALLABLE = "loss is {loss!r}, which cannot be called; give a function {wanted} -> scalar tensor"
UNBOUND = "its method is called on an object made without __init__"


@dataclass(frozen=True)
class Signature:
    """``function``: what is called; ``parameters``: of inspect, without ``self``.

    ``signature``: its text; ``spread``: whether it takes ``*arguments``; ``note``: for the
    report, or None.
    """

    function: object
    parameters: list
    signature: str
    spread: bool
    note: str | None = None


def read(loss, wanted):
    """-> Signature; AuditError for a class, and for what cannot be called."""
    if inspect.isclass(loss):
        raise AuditError(A_CLASS.format(name=loss.__name__))
    if not callable(loss):
        raise AuditError(NOT_CALLABLE.format(loss=loss, wanted=wanted))
    found = _signature(loss)
    parameters = list(found.parameters.values())
    function, note = loss, None
    if _is_unbound(loss, parameters):
        function, note = functools.partial(loss, _without_init(loss)), UNBOUND
        parameters = parameters[1:]
    spread = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return Signature(function, parameters, str(found), spread, note)


def call_text(loss):
    """How a loss is written in code: "my_loss", "KLDivLoss()", "Trainer().compute_loss"."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    if isinstance(loss, torch.nn.Module):
        inner = getattr(loss, "_orig_mod", loss)
        return f"{getattr(inner, 'original_name', type(inner).__name__)}()"
    if isinstance(loss, types.MethodType):
        owner = loss.__self__
        name = owner.__name__ if inspect.isclass(owner) else f"{type(owner).__name__}()"
        return f"{name}.{loss.__name__}"
    name = getattr(loss, "__qualname__", None) or getattr(loss, "name", None)
    if not isinstance(name, str):
        return f"{type(loss).__name__}()"
    name = name.rpartition("<locals>.")[2]
    return "loss" if name.endswith("<lambda>") else name


def _signature(loss):
    """Of a module's forward; of scripted code by its schema; of built-in functions (*arguments)."""
    if isinstance(loss, torch.nn.Module):
        loss = getattr(loss, "_orig_mod", loss).forward
    if type(loss).__name__ in ("ScriptFunction", "ScriptMethod"):
        return inspect.Signature(list(_of_schema(loss.schema)))
    try:
        return inspect.signature(loss)
    except (TypeError, ValueError):
        return inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL)])


def _of_schema(schema):
    empty = inspect.Parameter.empty
    for argument in schema.arguments:
        if argument.name == "self":
            continue
        yield inspect.Parameter(
            argument.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=argument.default_value if argument.has_default_value() else empty,
            annotation=int if str(argument.type) == "int" else empty,
        )


def _is_unbound(loss, parameters):
    """Whether this is a method taken from its class, so that ``self`` has no value yet."""
    return (
        isinstance(loss, types.FunctionType)
        and bool(parameters)
        and parameters[0].name == "self"
        and "." in loss.__qualname__
    )


def _without_init(method):
    """An object of the method's class, or a bare one where the class cannot be found."""
    found = sys.modules.get(method.__module__)
    for part in method.__qualname__.split(".")[:-1]:
        found = getattr(found, part, None)
    if not inspect.isclass(found):
        return types.SimpleNamespace()
    try:
        made = object.__new__(found)
    except TypeError:  # an abstract class, or one derived from a built-in type
        return types.SimpleNamespace()
    if isinstance(made, torch.nn.Module):
        torch.nn.Module.__init__(made)
    return made
