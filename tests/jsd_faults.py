"""A generalised JSD as TRL's interface has it, right and with planted faults that TRL's own tests do not see."""

import torch


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
    """beta KL(q || M) + (1 - beta) KL(p || M), M = beta q + (1 - beta) p, by autograd; (B, T, V) logits."""
    p, q = (student_logits / temperature).softmax(-1), (teacher_logits / temperature).softmax(-1)
    if beta in (0, 1):
        terms = p * (p / q).log() if beta else q * (q / p).log()
        terms = (
            (p.detach() if beta else q) * (p / q).log()
            if fault == "detached weight" and beta
            else terms
        )
    else:
        share = 1 - beta if fault == "swapped mixture" else beta
        mixture = share * q + (1 - share) * p
        if fault == "detached mixture":
            mixture = mixture.detach()
        weight = 1 - beta if fault == "swapped weights" else beta
        first = p.detach() if fault == "detached weight" else p
        terms = weight * q * (q / mixture).log() + (1 - weight) * first * (p / mixture).log()
    if fault == "factor of the squared temperature":
        terms = terms * temperature**2
    mask = torch.ones(terms.shape[:-1], dtype=torch.bool) if labels is None else labels != -100
    if reduction == "none":
        return terms
    total = terms[mask].sum()
    if num_items_in_batch is not None:
        return total / num_items_in_batch
    if reduction != "batchmean":
        return total if reduction == "sum" else total / terms[mask].numel()
    if fault == "normalised by all tokens":
        return total / mask.numel()
    return total / (mask.sum() if labels is not None else len(mask))


FAULTS = (
    "swapped weights",
    "swapped mixture",
    "detached weight",
    "factor of the squared temperature",
    "normalised by all tokens",
)
# Not a fault: M is the best of all mixtures, so the JSD does not change with it to first order, and the gradient is the same.
HARMLESS = "detached mixture"
