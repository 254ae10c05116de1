"""A generalised JSD with TRL's interface, right and with faults that TRL's own tests do not see."""

import torch

FAULTS = (
    "swapped weights",
    "swapped mixture",
    "detached weight",
    "factor of the squared temperature",
    "normalised by all tokens",
)
# Not a fault: M is the best of all mixtures, so that the JSD does not change with it to first
# order, and the gradient is the same.
HARMLESS = "detached mixture"


def jsd(
    student_logits,
    teacher_logits,
    labels=None,
    beta=0.5,
    temperature=1.0,
    reduction="batchmean",
    num_items_in_batch=None,
    *,
    fault=None,
):
    """β KL(q‖M) + (1 − β) KL(p‖M), M = β q + (1 − β) p, by autograd; logits (B, T, V)."""
    p, q = (logits.div(temperature).softmax(-1) for logits in (student_logits, teacher_logits))
    terms = divergence_terms(p, q, beta, fault)
    if fault == "factor of the squared temperature":
        terms = terms * temperature**2
    mask = torch.ones(terms.shape[:-1], dtype=torch.bool) if labels is None else labels != -100
    if reduction == "none":
        return terms
    valid = terms[mask]
    if num_items_in_batch is not None:
        return valid.sum() / num_items_in_batch
    if reduction != "batchmean":
        return valid.sum() if reduction == "sum" else valid.mean()
    if fault == "normalised by all tokens":
        return valid.sum() / mask.numel()
    return valid.sum() / (mask.sum() if labels is not None else len(mask))


def divergence_terms(p, q, beta, fault):
    """Shape (B, T, V), of each word of the vocabulary."""
    weight = p.detach() if fault == "detached weight" else p
    if beta == 0:
        return q * (q / p).log()
    if beta == 1:
        return weight * (p / q).log()
    share = 1 - beta if fault == "swapped mixture" else beta
    mixture = share * q + (1 - share) * p
    if fault == "detached mixture":
        mixture = mixture.detach()
    of_teacher = 1 - beta if fault == "swapped weights" else beta
    return of_teacher * q * (q / mixture).log() + (1 - of_teacher) * weight * (p / mixture).log()
