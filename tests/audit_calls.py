"""Losses as trainers call them: by name, from log-probabilities, labels, batches, in objects."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


def logs(z):
    return z.log_softmax(-1)


def forward(student, teacher):
    return (logs(teacher).exp() * (logs(teacher) - logs(student))).sum(-1)


def reverse(student, teacher):
    return (logs(student).exp() * (logs(student) - logs(teacher))).sum(-1)


def drawn(z, tokens):
    return logs(z).gather(-1, tokens[..., None])[..., 0]


# --- names that tell -----------------------------------------------------------------------


def teacher_first(teacher_logits, student_logits):
    return F.kl_div(logs(student_logits), teacher_logits.softmax(-1), reduction="sum")


def true_and_predicted(y_true, y_pred):
    return forward(y_pred, y_true)


def s_and_t(logits_T, logits_S):
    return forward(logits_S, logits_T)


def target_and_draft(target_logits, draft_logits):
    return forward(draft_logits, target_logits)


def reference_first(ref_logits, logits):
    return forward(logits, ref_logits)


def by_keyword(*, teacher, student):
    return forward(student, teacher)


def model_outputs(teacher_outputs, outputs):
    return forward(outputs.logits, teacher_outputs.logits)


class Swapped(torch.nn.Module):
    def forward(self, y_t, y_s):
        return forward(y_s, y_t)


class Trainer:
    scale = 1.0

    def __init__(self):
        self.beta = 1.0

    def unbound(self, teacher, student):
        return self.scale * forward(student, teacher)

    def bound(self, teacher, student):
        return self.beta * forward(student, teacher)

    @staticmethod
    def static(teacher, student):
        return forward(student, teacher)

    def __call__(self, teacher, student):
        return self.bound(teacher, student)


def teacher_and_student(logits_tea, logits_stu):
    return forward(logits_stu, logits_tea)


def soft_targets(soft_labels, soft_preds):
    return forward(soft_preds, soft_labels)


NAMED = {
    "tea and stu": teacher_and_student,
    "soft labels": soft_targets,
    "teacher first": teacher_first,
    "y_true": true_and_predicted,
    "S and T": s_and_t,
    "target and draft": target_and_draft,
    "ref": reference_first,
    "keywords": by_keyword,
    "outputs": model_outputs,
    "module": Swapped(),
    "unbound": Trainer.unbound,
    "bound": Trainer().bound,
    "static": Trainer.static,
    "object": Trainer(),
}


# --- log-probabilities ---------------------------------------------------------------------


def k3_of_completions(per_token_logps, ref_per_token_logps, completion_mask):
    ratio = ref_per_token_logps - per_token_logps
    return ((ratio.exp() - 1 - ratio) * completion_mask).sum() / completion_mask.sum()


def first_step(log_prob, old_log_prob, ref_log_prob):
    return ((log_prob - old_log_prob).exp() * (log_prob - ref_log_prob).detach()).sum()


def with_old_policy(prev_logprobs, curr_logprobs, teacher_logprobs, loss_mask):
    ratio = (curr_logprobs - prev_logprobs).exp()
    return (ratio * (curr_logprobs - teacher_logprobs).detach() * loss_mask).sum()


def clipped_ratio(log_probs, old_log_probs, advantages, action_mask):
    ratio = (log_probs - old_log_probs).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    return -(gain * action_mask).sum() / action_mask.sum()


def gathers_itself(student_logprobs, teacher_logprobs, tokens):
    chosen = tokens[..., None]
    log_p, log_q = (x.gather(-1, chosen)[..., 0] for x in (student_logprobs, teacher_logprobs))
    return ((log_p - log_q).detach() * log_p).sum()


def of_probabilities(student_probs, teacher_probs):
    return (student_probs * (student_probs / teacher_probs).log()).sum()


def on_first(student_logits, teacher_topk_logprobs, teacher_topk_ids):
    log_p = logs(student_logits).gather(-1, teacher_topk_ids)
    return (teacher_topk_logprobs.exp() * (teacher_topk_logprobs - log_p)).sum()


# --- labels and batches --------------------------------------------------------------------


def with_labels(student_logits, teacher_logits, labels):
    counts = labels != -100
    return (forward(student_logits, teacher_logits) * counts).sum() / counts.sum()


def shifting(student_logits, teacher_logits, labels):
    return with_labels(student_logits[..., :-1, :], teacher_logits[..., :-1, :], labels[..., 1:])


def of_batch(batch):
    log_p, log_q = (drawn(batch[f"{who}_logits"], batch["input_ids"]) for who in WHO)
    return ((log_p - log_q).detach() * log_p * batch["attention_mask"]).sum()


def of_shifted_batch(inputs):
    return shifting(*[inputs[f"{who}_logits"] for who in WHO], inputs["labels"])


def with_data(next_token_logits, data):
    log_p, log_q = (drawn(z, data["input_ids"]) for z in (next_token_logits, data["ref_logits"]))
    return ((log_p - log_q).detach() * log_p * data["token_mask"]).sum()


def labels_of_batch(logits, teacher_logits, no_model_batch):
    counts = (no_model_batch["label"] != -100).int().view(-1)
    return (forward(logits, teacher_logits).view(-1) * counts).sum() / counts.sum()


def of_keywords(**batch):
    counts = batch["attention_mask"]
    return (reverse(batch["student_logits"], batch["teacher_logits"]) * counts).sum()


WHO = ("student", "teacher")


# --- what is returned ----------------------------------------------------------------------


@dataclass
class Output:
    loss: torch.Tensor


RETURNS = {
    "the first of the tuple of 2": lambda s, t: (forward(s, t), {}),
    "the only number, at [1], of the tuple of 2": lambda s, t: (s, forward(s, t)),
    "the entry 'loss' of the dict": lambda s, t: {"aux_loss": s.sum(), "loss": forward(s, t)},
    "the entry 'total_loss' of the dict": lambda s, t: {"total_loss": forward(s, t), "kd_loss": s},
    "the entry 'kd_loss' of the dict": lambda s, t: {"kd_loss": forward(s, t), "kl": s},
    "the .loss of the Output": lambda s, t: Output(forward(s, t)),
}


# --- batches of single positions -----------------------------------------------------------


def of_positions(student_logits, teacher_logits, labels=None, T=4):
    log_p, q = F.log_softmax(student_logits / T, dim=1), F.softmax(teacher_logits / T, dim=1)
    return F.kl_div(log_p, q, reduction="batchmean") * T * T


def with_hard_labels(student_logits, teacher_logits, labels):
    soft = of_positions(student_logits, teacher_logits, T=1)
    return 0.5 * F.cross_entropy(student_logits, labels) + 0.5 * soft
