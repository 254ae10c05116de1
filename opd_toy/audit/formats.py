"""In which floating-point format a loss computes, and how small a bias can be seen there."""

import math

import numpy as np
import torch

TOLERANCES = {"float64": 1e-9, "float32": 2e-5, "float16": 3e-2, "bfloat16": 3e-2}
COARSE = 1e-3  # tolerances above are half precision's
FEW = 16  # so few different numbers, such as 0 and 1 of one-hot rows, are exact in any format
ORDER = 6  # of the differences in which a smooth function is gone and its rounding is left
POINTS = 24
DROWNED = 0.05  # rounding above this share of the numbers: they are 0 but for rounding
# (spacing of the points, ((format, least rounding that shows it), ...)), the coarsest first.
# Half precision needs a wide spacing: its inputs change only every .01 or so.
ROUNDED = (
    (3e-2, (("bfloat16", 4e-4), ("float16", 4e-5))),
    (1e-4, (("float32", 1e-11),)),
)


def precision(*gradients):
    """The coarsest format in which all these numbers are exact: a key of ``TOLERANCES``.

    A gradient that went through ``.float()`` comes back as float64 but holds only
    float32's numbers.  Zeros, and numbers that are not finite, say nothing; neither do
    many numbers of which few differ.
    """
    numbers = torch.tensor(np.concatenate([np.ravel(gradient) for gradient in gradients]))
    numbers = numbers[torch.isfinite(numbers) & (numbers != 0)]
    repetitive = len(numbers) > 4 * FEW and len(numbers.abs().unique()) <= FEW
    if len(numbers) and not repetitive:
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            if torch.equal(numbers.to(dtype).double(), numbers):
                return _name(dtype)
    return "float64"


def by_rounding(numbers_at):
    """The format whose rounding shows in ``numbers_at(step)`` (N,), smooth but for rounding.

    Numbers that are computed in float32 somewhere on the way carry its rounding even
    where all that goes in and comes out is float64: in scalars, in compiled code, in a
    backward of one's own.  A constant in float32 has none, it never changes.
    """
    for spacing, named in ROUNDED:
        found = np.array([numbers_at(spacing * step) for step in range(POINTS)])
        noise = _rounding(found)
        for name, least in named:
            if least < noise < DROWNED:
                return name
    return "float64"


def _rounding(found):
    """Of numbers (POINTS, N) at equal spacings: their rounding, relative to the largest."""
    found = found[:, np.isfinite(found).all(axis=0)]
    if not found.any():
        return 0.0
    # A kink shows in ORDER of the differences: less than half of them are to be looked at.
    differences = np.quantile(np.abs(np.diff(found, ORDER, axis=0)), 0.4, axis=0)
    spread = math.sqrt(math.comb(2 * ORDER, ORDER))
    return float(differences.max() / spread / np.abs(found).max())


def formats_inside(loss, student, teacher, *rest):
    """Names of the formats, such as {"float32"}, in which arrays inside the loss are computed."""
    seen = set()

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            for value in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(value, torch.Tensor) and value.ndim and value.is_floating_point():
                    seen.add(_name(value.dtype))
            return result

    inputs = [
        torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=True).clone()
        for values in (student, teacher)
    ]
    try:
        with Watch():
            loss(*inputs, *[torch.as_tensor(value) for value in rest])
    except Exception:  # compiled code cannot be watched: what was seen until then must do
        pass
    return seen


def candidates(found, inside):
    """Formats to try: the one found, then the coarser ones inside the loss, the finest first.

    A loss that works in two formats is held to the coarser only if it must be.
    """
    coarser = [
        name for name, limit in TOLERANCES.items() if name in inside and limit > TOLERANCES[found]
    ]
    return list(dict.fromkeys([found, *coarser]))


def _name(dtype):
    return str(dtype).removeprefix("torch.")
