"""Checks of tensors that a caller hands in; numbers and names are checked by ``_validate``.

Every error is a ValueError that names the argument, quotes what came and says what would
be right.
"""

import numbers

import torch

from opd_toy._validate import quote


def float_tensor(name, value, last="V"):
    """``value``, a float tensor (..., last); ``last`` None: of any shape."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is {quote(value)}; give a torch tensor")
    if not value.is_floating_point():
        raise ValueError(f"{name} has dtype {value.dtype}; give a float tensor")
    if last and (value.ndim == 0 or value.shape[-1] == 0):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; give (..., {last}) with {last} at least 1"
        )
    return value


def shaped(name, value, shape):
    """``value``, a tensor of this shape."""
    if not isinstance(value, torch.Tensor):
        raise ValueError(f"{name} is {quote(value)}; give a tensor of shape {tuple(shape)}")
    if tuple(value.shape) != tuple(shape):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; give one entry a token, shape {tuple(shape)}"
        )
    return value


def zero_or_one(name, mask):
    """``mask``, a tensor of True or 1 and False or 0."""
    if not isinstance(mask, torch.Tensor):
        raise ValueError(f"{name} is {quote(mask)}; give a tensor with one entry a token")
    if mask.dtype != torch.bool and ((mask != 0) & (mask != 1)).any():
        wrong = mask[(mask != 0) & (mask != 1)][0].item()
        raise ValueError(
            f"{name} holds {wrong!r}; give True or 1 for a valid token and False or 0 for "
            "another (from labels: labels != -100)"
        )
    return mask


def positive_normalizer(normalizer):
    """``normalizer``, one number above 0 or a tensor of one."""
    one_number = (
        normalizer.numel() == 1
        if isinstance(normalizer, torch.Tensor)
        else isinstance(normalizer, numbers.Real)
    )
    if not one_number or not normalizer > 0:
        raise ValueError(
            f"normalizer is {quote(normalizer)}; give one number above 0, such as the count "
            "of valid tokens"
        )
    return normalizer


def same_device(first, a, second, b):
    if a.device != b.device:
        raise ValueError(
            f"{first} is on {a.device} and {second} on {b.device}; move both to one device"
        )


def pair(first, student, second, teacher):
    """Float tensors with equal leading axes, on one device."""
    float_tensor(first, student), float_tensor(second, teacher)
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"{first} has shape {tuple(student.shape)} and {second} {tuple(teacher.shape)}; "
            "their leading axes must be equal"
        )
    same_device(first, student, second, teacher)


def same_vocabulary(first, student, second, teacher):
    if student != teacher:
        raise ValueError(
            f"{first} has V = {student} and {second} V = {teacher}; both must have one "
            "vocabulary: if the larger is only padded, cut it to the smaller"
        )


def hidden_and_heads(student_hidden, student_weight, teacher_hidden, teacher_weight):
    """Hidden states (..., H) and output heads (V, H) of two models, all on one device.

    H may differ between the models; the vocabularies are looked at elsewhere.
    """
    for name, hidden, weight in (
        ("student", student_hidden, student_weight),
        ("teacher", teacher_hidden, teacher_weight),
    ):
        hidden_and_head(name, hidden, weight)
        same_device("student_hidden", student_hidden, f"{name}_weight", weight)
    pair("student_hidden", student_hidden, "teacher_hidden", teacher_hidden)


def hidden_and_head(name, hidden, weight):
    """Hidden states (..., H) and an output head (V, H) of the model called ``name``."""
    float_tensor(f"{name}_hidden", hidden, "H"), float_tensor(f"{name}_weight", weight, "H")
    if weight.ndim != 2 or hidden.shape[-1] != weight.shape[1] or not len(weight):
        raise ValueError(
            f"{name}_hidden has shape {tuple(hidden.shape)} and {name}_weight "
            f"{tuple(weight.shape)}; give (..., H) and (V, H) with V at least 1"
        )


def may_overwrite(student, teacher):
    """Whether the student's logits may give their memory to their gradient."""
    if student.is_leaf and student.requires_grad:
        raise ValueError(
            "overwrite_logits is True and student_logits a leaf, which would lose its values to "
            "its gradient; give logits that a model computed, or overwrite_logits=False"
        )
    one_memory = student.untyped_storage().data_ptr() == teacher.untyped_storage().data_ptr()
    if one_memory or 0 in student.stride():
        raise ValueError(
            "overwrite_logits is True and student_logits shares memory with itself (expand) or "
            "with teacher_logits; give overwrite_logits=False"
        )


def token_ids(logits, tokens):
    """``tokens`` (...) as int64, each a token of ``logits`` (..., V)."""
    shaped("tokens", tokens, logits.shape[:-1])
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens has dtype {tokens.dtype}; give whole numbers (torch.int64)")
    same_device("logits", logits, "tokens", tokens)
    wrong = (tokens < 0) | (tokens >= logits.shape[-1])
    if tokens.is_cpu and wrong.any():  # elsewhere it would wait for the device
        raise ValueError(
            f"tokens holds {tokens[wrong][0].item()}; give whole numbers from 0 to V - 1 = "
            f"{logits.shape[-1] - 1}, and any of them where the mask is 0"
        )
    return tokens.to(torch.int64)


def log_probabilities_like(name, value, log_p):
    """A constant float tensor of the shape and device of ``student_log_probabilities``."""
    float_tensor(name, shaped(name, value, log_p.shape), None)
    same_device("student_log_probabilities", log_p, name, value)
    return value.detach()
