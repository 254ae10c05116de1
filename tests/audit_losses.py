"""Losses of one token as people write them, in plain torch, and what they optimise."""

import functools

import torch
import torch.nn.functional as F

NONE = "none of these"


def logs(logits):
    return logits.log_softmax(-1)


def probs(logits):
    return logits.softmax(-1)


def forward(student, teacher):
    return F.kl_div(logs(student), probs(teacher), reduction="sum")


def reverse(student, teacher):
    return (probs(student) * (logs(student) - logs(teacher))).sum()


def entropy(student):
    return -(probs(student) * logs(student)).sum()


def jsd(beta, weight=None, teacher_share=None):
    weight, teacher_share = (beta if value is None else value for value in (weight, teacher_share))

    def loss(student, teacher):
        p, q = probs(student), probs(teacher)
        mixture = (1 - teacher_share) * p + teacher_share * q
        return (
            weight * (q * (q / mixture).log()).sum()
            + (1 - weight) * (p * (p / mixture).log()).sum()
        )

    return loss


def ratio(student, teacher, token):
    """log p - log q of the token drawn."""
    return (logs(student) - logs(teacher))[token]


def k3(student, teacher, token):
    difference = ratio(student, teacher, token)
    return torch.exp(-difference) - 1 + difference


def gradient_policy(weight):
    """weight(student, teacher, token), detached, on the log-probability of the token drawn."""
    return lambda student, teacher, token: (
        weight(student, teacher, token).detach() * logs(student)[token]
    )


def on_policy_ratio(student, token):
    log_p = logs(student)[token]
    return torch.exp(log_p - log_p.detach())


def top_k(k, *, of="teacher", outside="renormalize", direction="reverse"):
    def loss(student, teacher):
        head = (teacher if of == "teacher" else student).topk(min(k, len(student))).indices
        p, q = probs(student)[head], probs(teacher)[head]
        if outside == "renormalize":
            p, q = p / p.sum(), q / q.sum()
        if outside == "tail" and k < len(student):
            rest = torch.ones(len(student), dtype=torch.bool).index_fill(0, head, False)
            p, q = (
                torch.cat([x, probs(z)[rest].sum()[None]]) for x, z in ((p, student), (q, teacher))
            )
        return (p * (p / q).log()).sum() if direction == "reverse" else (q * (q / p).log()).sum()

    return loss


def in_format(loss, dtype):
    return functools.wraps(loss)(
        lambda student, teacher, *token: loss(student.to(dtype), teacher.to(dtype), *token)
    )


def swapped(loss):
    return lambda student, teacher: loss(teacher, student)


CLOSE = " while the two are close"


def holds_everywhere(verdict):
    return not any(words in verdict for words in (NONE, " where ", " close"))


DIFFERS = " × a factor that depends on the pair"


VERDICTS = {
    # One divergence, its scale and its direction.
    "forward": (forward, "forward KL"),
    "reverse": (reverse, "reverse KL"),
    "arguments swapped": (swapped(forward), "reverse KL"),
    "twice": (lambda s, t: 2 * reverse(s, t), "2 × reverse KL"),
    "wrong sign": (lambda s, t: -forward(s, t), "−1 × forward KL"),
    "a millionth more": (lambda s, t: 1.000001 * reverse(s, t), "1.000001 × reverse KL"),
    "tiny scale": (lambda s, t: 1e-20 * reverse(s, t), "1e-20 × reverse KL"),
    "soft labels": (lambda s, t: F.cross_entropy(s, probs(t)), "forward KL"),
    "log of softmax": (
        lambda s, t: (probs(s) * (probs(s).log() - probs(t).log())).sum(),
        "reverse KL",
    ),
    "both weights": (
        lambda s, t: 0.5 * forward(s, t) + 0.5 * reverse(s, t),
        "0.5 × forward KL + 0.5 × reverse KL",
    ),
    "one percent forward": (
        lambda s, t: reverse(s, t) + 0.01 * forward(s, t),
        "reverse KL + 0.01 × forward KL",
    ),
    "entropy bonus": (lambda s, t: reverse(s, t) - 0.1 * entropy(s), "reverse KL − 0.1 × entropy"),
    "teacher's score alone": (lambda s, t: -(probs(s) * logs(t)).sum(), "reverse KL + entropy"),
    "entropy alone": (lambda s, t: -entropy(s), "−1 × entropy"),
    "weights detached": (lambda s, t: (probs(s).detach() * (logs(s) - logs(t))).sum(), "zero"),
    # F.kl_div's arguments.
    "kl_div other way round": (
        lambda s, t: F.kl_div(logs(t), logs(s), reduction="sum", log_target=True),
        "reverse KL",
    ),
    "kl_div of probabilities": (
        lambda s, t: F.kl_div(probs(s), probs(t), reduction="sum"),
        "−1 × expected teacher probability",
    ),
    "kl_div log_target forgotten the other way": (
        lambda s, t: F.kl_div(logs(s), probs(t), reduction="sum", log_target=True),
        NONE,
    ),
    "kl_div batchmean of one row": (
        lambda s, t: F.kl_div(logs(s)[None], probs(t)[None], reduction="batchmean"),
        "forward KL",
    ),
    "kl_div batchmean without a batch": (
        lambda s, t: F.kl_div(logs(s), probs(t), reduction="batchmean"),
        "1/V × forward KL",
    ),
    "mean over the vocabulary": (
        lambda s, t: 2 * (probs(s) * (logs(s) - logs(t))).mean(),
        "2/V × reverse KL",
    ),
    # Sampled: as losses, as rewards.
    "k1 as a loss": (ratio, "zero"),
    "k1 as a loss, teacher detached": (lambda s, t, k: ratio(s, t.detach(), k), "zero"),
    "k2 as a loss": (lambda s, t, k: ratio(s, t, k) ** 2 / 2, "reverse KL"),
    "k3 as a loss": (k3, "forward KL"),
    "k3 as a loss, at most 10": (
        lambda s, t, k: k3(s, t, k).clamp(max=10),
        "forward KL where log p/q ≤ 11 and log q/p ≤ 2.61",
    ),
    "k1 as a reward": (gradient_policy(ratio), "reverse KL"),
    "k2 as a reward": (gradient_policy(lambda s, t, k: ratio(s, t, k) ** 2 / 2), NONE),
    "k3 as a reward": (gradient_policy(k3), "reverse KL − forward KL"),
    "forgotten detach": (lambda s, t, k: ratio(s, t, k) * logs(s)[k], "reverse KL − entropy"),
    "constant baseline": (gradient_policy(lambda s, t, k: ratio(s, t, k) - 7), "reverse KL"),
    "KL as the baseline": (
        gradient_policy(lambda s, t, k: ratio(s, t, k) - reverse(s, t)),
        "reverse KL",
    ),
    "KL as the advantage": (gradient_policy(lambda s, t, k: reverse(s, t)), "zero"),
    "baseline of the token": (gradient_policy(lambda s, t, k: ratio(s, t, k) - 0.3 * k), NONE),
    "baseline of its log-probability": (
        gradient_policy(lambda s, t, k: ratio(s, t, k) - 0.3 * logs(s)[k]),
        "reverse KL + 0.3 × entropy",
    ),
    "clamped at 5": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).clamp(-5, 5)),
        "reverse KL where |log p/q| ≤ 5",
    ),
    "clamped at 0.2": (
        gradient_policy(lambda s, t, k: ratio(s, t, k).clamp(-0.2, 0.2)),
        "reverse KL where |log p/q| ≤ 0.2",
    ),
    "normalized by its deviation": (
        gradient_policy(
            lambda s, t, k: (
                (ratio(s, t, k) - reverse(s, t))
                / (probs(s) * (logs(s) - logs(t) - reverse(s, t)) ** 2).sum().sqrt()
            )
        ),
        "1/std(log p/q) × reverse KL",
    ),
    "importance ratio": (
        lambda s, t, k: on_policy_ratio(s, k) * ratio(s, t, k).detach(),
        "reverse KL",
    ),
    "PPO's clip at ratio 1": (
        lambda s, t, k: torch.maximum(
            on_policy_ratio(s, k) * ratio(s, t, k).detach(),
            on_policy_ratio(s, k).clamp(0.8, 1.2) * ratio(s, t, k).detach(),
        ),
        "reverse KL",
    ),
    "ratio to the wrong model": (
        lambda s, t, k: ratio(s, t, k).detach() * torch.exp(logs(s)[k] - logs(t)[k].detach()),
        NONE,
    ),
    "only odd tokens": (
        lambda s, t, k: ratio(s, t, k).detach() * logs(s)[k] if k % 2 else torch.zeros(()),
        NONE,
    ),
    # Families.
    "JSD": (jsd(0.3), "JSD(β = 0.3)"),
    "JSD near its end": (jsd(0.999), "JSD(β = 0.999)"),
    "JSD nearer its end": (jsd(0.999999), "JSD(β = 0.999999)"),
    # KL(q‖M) and KL(p‖M) in other proportions than M's are two skewed KLs.
    "JSD, weights swapped": (
        jsd(0.3, weight=0.7),
        "0.7 × forward KL with skew 0.3 + 0.3 × reverse KL with skew 0.7",
    ),
    "JSD, mixture swapped": (
        jsd(0.3, teacher_share=0.7),
        "0.7 × reverse KL with skew 0.3 + 0.3 × forward KL with skew 0.7",
    ),
    "JSD, half weight, and reverse": (
        lambda s, t: 0.5 * jsd(0.4)(s, t) + 0.5 * reverse(s, t),
        "0.5 × JSD(β = 0.4) + 0.5 × reverse KL",
    ),
    "skewed reverse": (
        lambda s, t: (probs(s) * (logs(s) - (0.9 * probs(t) + 0.1 * probs(s)).log())).sum(),
        "reverse KL with skew 0.1",
    ),
    "skewed forward": (
        lambda s, t: (probs(t) * (logs(t) - (0.9 * probs(s) + 0.1 * probs(t)).log())).sum(),
        "forward KL with skew 0.1",
    ),
    "skew of a millionth": (
        lambda s, t: (probs(s) * (logs(s) - ((1 - 1e-6) * probs(t) + 1e-6 * probs(s)).log())).sum(),
        "reverse KL with skew 1e-06",
    ),
    "chi squared": (lambda s, t: ((probs(s) ** 2 / probs(t)).sum() - 1) / 2, "α-divergence(α = 2)"),
    "Hellinger": (
        lambda s, t: 4 * (1 - (probs(s) * probs(t)).sqrt().sum()),
        "α-divergence(α = 0.5)",
    ),
    "temperature": (lambda s, t: forward(s / 4, t / 4), "forward KL at temperature 4"),
    "temperature, T squared": (
        lambda s, t: 16 * forward(s / 4, t / 4),
        "16 × forward KL at temperature 4",
    ),
    "temperature of the teacher": (
        lambda s, t: forward(s, t / 4),
        "forward KL to the teacher at temperature 4",
    ),
    "temperature of the teacher, reverse": (
        lambda s, t: reverse(s, t / 2),
        "reverse KL to the teacher at temperature 2",
    ),
    "temperature of the student": (
        lambda s, t: forward(s / 2, t),
        "forward KL with the student alone at temperature 2",
    ),
    "temperature, reverse": (
        lambda s, t: reverse(s / 4, t / 4),
        "reverse KL at temperature 4",
    ),
    "temperature of the student, reverse": (
        lambda s, t: reverse(s / 2, t),
        "reverse KL with the student alone at temperature 2",
    ),
    "soft and hard": (
        lambda s, t: 2 * forward(s / 2, t / 2) + 0.5 * F.cross_entropy(s, t.argmax()),
        "2 × forward KL at temperature 2 + 0.5 × cross-entropy with the teacher's likeliest token",
    ),
    "hard labels": (
        lambda s, t: F.cross_entropy(s, t.argmax()),
        "cross-entropy with the teacher's likeliest token",
    ),
    "own hard labels": (
        lambda s, t: F.cross_entropy(s, s.argmax()),
        "cross-entropy with the student's likeliest token",
    ),
    # Truncated; a K above the small vocabularies must be seen too.
    "top 2": (top_k(2), "reverse KL on the teacher's top 2, renormalized"),
    "top 2, dropped": (top_k(2, outside="drop"), "reverse KL on the teacher's top 2, tail dropped"),
    "top 2, tail": (
        top_k(2, outside="tail"),
        "reverse KL on the teacher's top 2, tail as one token",
    ),
    "student's top 3": (top_k(3, of="student"), "reverse KL on the student's top 3, renormalized"),
    "forward on top 2": (
        top_k(2, direction="forward"),
        "forward KL on the teacher's top 2, renormalized",
    ),
    "forward on top 2, dropped": (
        top_k(2, outside="drop", direction="forward"),
        "forward KL on the teacher's top 2, tail dropped",
    ),
    "top 32": (top_k(32), "reverse KL on the teacher's top 32, renormalized"),
    "top 100, dropped": (
        top_k(100, outside="drop"),
        "reverse KL on the teacher's top 100, tail dropped",
    ),
    "forward on top 512, tail": (
        top_k(512, outside="tail", direction="forward"),
        "forward KL on the teacher's top 512, tail as one token",
    ),
    "only beyond the top 32": (
        lambda s, t: (probs(s) * (logs(s) - logs(t)))[t.argsort(descending=True)[32:]].sum(),
        NONE,
    ),
    # Right direction, length of the pair's own.
    "weighted by the teacher's entropy": (
        lambda s, t: reverse(s, t) * entropy(t).detach(),
        "H(q) × reverse KL",
    ),
    "KL squared": (lambda s, t: reverse(s, t) ** 2, "2 × KL(p‖q) × reverse KL"),
    "exponential of KL": (lambda s, t: reverse(s, t).exp(), "reverse KL" + DIFFERS),
    "weighted by almost 1": (
        lambda s, t: reverse(s, t) * (1 + 1e-6 * entropy(t)),
        "reverse KL" + DIFFERS,
    ),
    "KL above a margin": (lambda s, t: (reverse(s, t) - 0.3).clamp(min=0), "reverse KL" + DIFFERS),
    # None of these, however close.
    "mean squared logits": (F.mse_loss, NONE),
    "total variation of the logits": (lambda s, t: (s - t).abs().sum() / 2, NONE),
    "epsilon in the logs": (
        lambda s, t: (probs(s) * ((probs(s) + 1e-8).log() - (probs(t) + 1e-8).log())).sum(),
        NONE,
    ),
    "a ten-millionth of something": (lambda s, t: reverse(s, t) + 1e-7 * s.sin().sum(), NONE),
    "z-loss": (lambda s, t: reverse(s, t) + 1e-4 * s.logsumexp(-1) ** 2, NONE),
    "labels shifted": (lambda s, t: reverse(s, t.roll(1)), NONE),
    "the smaller of the two": (lambda s, t: torch.minimum(forward(s, t), reverse(s, t)), NONE),
    "log-probabilities at least -20": (
        lambda s, t: (probs(s) * (logs(s).clamp(min=-20) - logs(t).clamp(min=-20))).sum(),
        "reverse KL where p, q ≥ 2.06e-09",
    ),
    # In other formats.
    "float32": (in_format(reverse, torch.float32), "reverse KL"),
    "float32 inside JSD": (in_format(jsd(0.1), torch.float32), "JSD(β = 0.1)"),
    "float32 for one of the two": (
        lambda s, t: (probs(s) * (logs(s) - logs(t.float()))).sum(),
        "reverse KL",
    ),
    "float32 and one percent": (
        in_format(lambda s, t: reverse(s, t) + 0.01 * forward(s, t), torch.float32),
        "reverse KL + 0.01 × forward KL",
    ),
    "float16": (in_format(forward, torch.float16), "forward KL"),
    "bfloat16": (in_format(reverse, torch.bfloat16), "reverse KL"),
    "bfloat16, sampled": (in_format(gradient_policy(ratio), torch.bfloat16), "reverse KL"),
}
