"""A loss that makes its gradient with its value, as autograd wants it."""

import torch
from torch.autograd.function import once_differentiable

from opd_toy.lm import rows


def with_gradient(compute, *tensors):
    """The number that ``compute`` makes, differentiable in ``tensors``.

    compute takes one bool for each tensor, whether its gradient is wanted, and returns
    (value, gradients), None for those that are not.  Without autograd none is wanted.
    """
    with torch.autocast(tensors[0].device.type, enabled=False):
        if not torch.is_grad_enabled():
            return compute(*(False for _ in tensors))[0]
        return _WithGradient.apply(compute, *tensors)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, compute, *tensors):
        value, ctx.gradients = compute(*ctx.needs_input_grad[1:])
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        if ctx.gradients is None:
            raise RuntimeError(
                "backward() was called a second time on one loss, whose gradient is scaled in "
                "place and so serves once: compute the loss again, or add losses up and call "
                "backward() once"
            )
        gradients, ctx.gradients = ctx.gradients, None
        if not (upstream.is_cpu and upstream == 1):
            gradients = [each if each is None else _scaled(each, upstream) for each in gradients]
        return None, *(
            each if each is None else each.to(dtype) for each, dtype in zip(gradients, ctx.dtypes)
        )


def _scaled(gradient, upstream):
    """``gradient`` times ``upstream``, in place.

    On a GPU the kernel looks at ``upstream``, which mostly is 1, so that the host need not
    wait for it.
    """
    kernels = rows.device_kernels(gradient) if gradient.is_contiguous() else None
    return kernels.scale_(gradient, upstream) if kernels else gradient.mul_(upstream)
