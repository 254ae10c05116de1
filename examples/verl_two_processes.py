"""verl's actor update with this book's losses on two processes, against one process.

    torchrun --standalone --nproc_per_node 2 examples/verl_two_processes.py

Each loss makes one update by verl's own code (verl_update.py).  The gradient that verl's
optimiser gets is compared with that of this book's loss in one process, on all texts at once.
Then, without processes: what the gradient of verl's default loss, k3, is on average.
"""

from functools import partial

import torch
from trl_gkd_trainer import tiny_model
from verl.trainer.ppo.core_algos import kl_penalty
from verl_distillation_loss import GAMMAS
from verl_update import PROMPT, VOCABULARY, logits, processors, texts, update

from opd_toy.lm.losses import distillation_loss, policy_gradient_loss, token_log_probabilities

# verl's loss_mode and the teacher's K tokens; None: the drawn token alone.
UPDATES = [
    *((name, None) for name in GAMMAS),
    ("top_k_reverse_kl", 8),
    ("top_k_reverse_kl", VOCABULARY),
]


def from_teacher(log_q, batch, k):
    """What verl's teacher hands over: the next token's log q, or those of the K likeliest."""
    ids = batch["input_ids"].roll(-1, 1)[..., None] if k is None else log_q.topk(k).indices
    return {"teacher_ids": ids, "teacher_logprobs": log_q.gather(-1, ids)}


def responses(values):
    """The places that predict a response's tokens."""
    return values[:, PROMPT - 1 : -1].contiguous()


def in_one_process(batch, log_q, loss_mode, k):
    """This book's loss of the whole batch, and its gradient (P,)."""
    student = tiny_model(0)
    mine, its = responses(logits(student, batch)), responses(log_q)
    mask = batch["response_mask"] != 0
    if k is None:
        drawn = (token_log_probabilities(x, batch["responses"]) for x in (mine, its))
        loss = policy_gradient_loss(*drawn, mask, gamma=GAMMAS[loss_mode])
    elif k < VOCABULARY:
        loss = distillation_loss(mine, its, "top_k_reverse_kl", mask, k=k, outside="tail")
    else:
        loss = distillation_loss(mine, its, "reverse_kl", mask)
    loss.backward()
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in student.parameters()])


def unclamped_k3(log_p, log_q):
    return (log_q - log_p).exp() - (log_q - log_p) - 1


def expected_gradient(penalty, mine, its):
    """Of an estimator of the KL as a loss, on average over the drawn token: (N, V)."""
    mine = mine.detach().requires_grad_()
    log_p = mine.log_softmax(-1)
    (log_p.exp().detach() * penalty(log_p, its.log_softmax(-1))).sum().backward()
    return mine.grad


def exact_gradient(objective, mine, its):
    """Of a KL, from the logits: (N, V)."""
    mine = mine.detach().requires_grad_()
    distillation_loss(mine, its, objective, normalizer=1).backward()
    return mine.grad


def apart(gradient, wanted):
    return ((gradient - wanted).norm() / wanted.norm()).item()


def report(*words):
    if torch.distributed.get_rank() == 0:
        print(*words)


def show_updates(batch, log_q):
    """verl's updates on all processes, each beside the book's loss in one."""
    ranks = torch.distributed.get_world_size()
    tokens = [int(mask.sum()) for mask in batch["response_mask"].chunk(ranks)]
    report(f"verl's FSDP2 engine on {ranks} processes, valid tokens {tokens}")
    for loss_mode, k in UPDATES:
        loss, gradient = update(batch | from_teacher(log_q, batch, k), loss_mode, k)
        wanted, reference = in_one_process(batch, log_q, loss_mode, k)
        report(
            f"{loss_mode}{f', K = {k}' if k else ''}: loss {loss:.6f}, in one process "
            f"{wanted:.6f}; gradient {apart(gradient, reference):.0e} of its length apart"
        )


def show_estimators(mine, its):
    """What k2 and k3 descend if they are differentiated, for logits (N, V)."""
    exact = [exact_gradient(f"{name}_kl", mine, its) for name in ("reverse", "forward")]
    for name, penalty in (
        ("verl's k2", partial(kl_penalty, kl_penalty="k2")),
        ("verl's k3", partial(kl_penalty, kl_penalty="k3")),
        ("k3 without clamps", unclamped_k3),
    ):
        gradient = expected_gradient(penalty, mine, its)
        reverse, forward = (apart(gradient, wanted) for wanted in exact)
        report(
            f"{name} as a loss, expected gradient: {reverse:.1g} of its length from the reverse "
            f"KL's, {forward:.1g} from the forward KL's"
        )
    clamped = its.exp()[kl_penalty(mine, its, "k3") == 10].sum() / len(mine)
    report(f"clamped by verl's k3, so without gradient: {clamped:.0%} of the teacher's probability")


if __name__ == "__main__":
    processors()
    made = texts()
    counts = made["response_mask"] != 0
    with torch.no_grad():
        of_student, of_teacher = (logits(tiny_model(i), made).log_softmax(-1) for i in (0, 1))
    show_updates(made, of_teacher)
    show_estimators(*(responses(x)[counts] for x in (of_student, of_teacher)))
    torch.distributed.destroy_process_group()
