"""Losses whose library is not to be had as a package: readings of their code, in our own.

Each has the repository, the path and the commit that was read, see SOURCES.  They are written
from what the code computes, and hold as far as the reading does; where a package can be
installed, its own code is audited instead.  ``as_read_drawn`` has those of the token drawn.
"""

from functools import partial

import torch

from opd_toy.audit.exhibits.libraries.library_loss import (
    BETWEEN,
    FIRST_K,
    FORWARD,
    REVERSE,
    WHOLE,
    LibraryLoss,
    Source,
)

SOURCES = {
    "NeMo-RL": Source(
        repository="NVIDIA-NeMo/RL",
        path="nemo_rl/algorithms/loss/loss_functions.py",
        commit="006907a9570734f3e5d484c08ada84b0b89224c9",
    ),
    "slime": Source(
        repository="THUDM/slime",
        path="slime/backends/megatron_utils/loss.py",
        commit="00c2d6db0f23a4900be6e80a8eb81eebf9e1ebff",
    ),
    "prime-rl": Source(
        repository="polyphilz/prime-rl",
        path="src/prime_rl/trainer/rl/loss.py",
        commit="9895dbb45761769414dd921ee2027c63ed20d428",
        of="PrimeIntellect-ai/prime-rl",
    ),
    "ROLL": Source(
        repository="breaddaerb/ROLL",
        path="roll/pipeline/distill/various_divergence.py",
        commit="cec5234ac2ba44039dfe02483286fcc72d4b8eb8",
        of="alibaba/ROLL",
    ),
    "open-instruct": Source(
        repository="allenai/open-instruct",
        path="open_instruct/grpo_utils.py",
        commit="0063d1271f28a3f7f9a086cfbd2a4801b59a5357",
    ),
    "DistillKit": Source(
        repository="arcee-ai/DistillKit",
        path="distillkit/lossfuncs/kl.py",
        commit="361c7ac00c8e4abf74dc49691606beb6a6d1f588",
    ),
    "EasyDistill": Source(
        repository="webbigdata-jp/easydistill",
        path="easydistill/kd/train.py",
        commit="2725fec9cd391dd8726ef7f595e3897222db5346",
        of="modelscope/easydistill",
    ),
    "torchforge": Source(
        repository="meta-pytorch/torchforge",
        path="src/forge/losses/grpo_loss.py",
        commit="09de9aa44b01cbb43f7f381e6adb8359709f697f",
    ),
}

# --- the readings ----------------------------------------------------------------------


def _logs(student, teacher):
    return student.log_softmax(-1), teacher.detach().log_softmax(-1)


def _kl(log_a, log_b):
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def nemo(student, teacher, *, forward, zero_outside_topk=False, k=2):
    """``forward``: the weight of the forward KL, 1, 0 or mixed_kl_weight."""
    log_q, first = teacher.detach().topk(k)
    log_q, log_p = log_q.log_softmax(-1), student[first].log_softmax(-1)
    outside = 0.0
    if zero_outside_topk:
        everywhere = student.log_softmax(-1)
        log_p = everywhere[first]
        negative_entropy = (everywhere.exp() * everywhere).sum() - (log_p.exp() * log_p).sum()
        outside = negative_entropy + 100 * (1 - log_p.exp().sum())
    reverse = _kl(log_p, log_q) + outside
    return forward * _kl(log_q, log_p) + (1 - forward) * reverse


def roll(student, teacher, *, objective, skew=0.1, alpha=0.5):
    log_p, log_q = _logs(student, teacher)
    p, q = log_p.exp(), log_q.exp()
    if objective == "adaptive_kl":
        return _adaptive(log_p, log_q, alpha)
    if objective == "js_divergence":
        middle = ((p + q) / 2).log()
        return (_kl(log_q, middle) + _kl(log_p, middle)) / 2
    return {
        "forward_kl": lambda: _kl(log_q, log_p),
        "reverse_kl": lambda: _kl(log_p, log_q),
        "skewed_forward_kl": lambda: _kl(log_q, (skew * q + (1 - skew) * p).log()),
        "skewed_reverse_kl": lambda: _kl(log_p, ((1 - skew) * q + skew * p).log()),
    }[objective]()


def _adaptive(log_p, log_q, alpha):
    """Both KLs, each weighted by where the two models differ: the forward one by the head."""
    q, order = log_q.exp().sort()
    gap = (q - log_p.exp()[order]).abs().detach()
    tail = gap[q.cumsum(-1) <= alpha].sum()
    head = gap.sum() - tail
    return (head * _kl(log_q, log_p) + tail * _kl(log_p, log_q)) / (head + tail)


def distillkit(student, teacher, *, missing, temperature=1.0, k=2):
    log_p, log_q = _logs(student / temperature, teacher / temperature)
    log_q, first = log_q.topk(k)
    log_p = log_p[first]
    if missing == "zero":
        return temperature**2 * _kl(log_q - log_q.logsumexp(-1), log_p)
    rest_q, rest_p = (_log_of_the_rest(log) for log in (log_q, log_p))
    rest = torch.where(rest_q.exp() > 1e-6, _kl(rest_q[None], rest_p[None]), 0.0)
    return temperature**2 * (_kl(log_q, log_p) + rest)


def _log_of_the_rest(log):
    """log(1 - Σ exp log), at least some 1e-6."""
    return torch.log(-torch.expm1(log.logsumexp(-1).clamp(max=-1e-6)))


def easydistill(student, teacher, *, direction, k=2):
    """The distillation term alone, kd_ratio=1."""
    log_p, log_q = _logs(student, teacher)
    log_q, first = log_q.topk(k)
    log_q, log_p = log_q.exp().clamp(min=1e-10).log(), log_p[first]
    return _kl(log_q, log_p) if direction == "forward_kld" else _kl(log_p, log_q)


# --- what is audited -------------------------------------------------------------------


def read(library, name, function, option, estimator, adapter, *, when, note="", kind="token"):
    return LibraryLoss(
        id=f"{library.lower()}-{name}",
        library=library,
        function=function,
        option=option,
        estimator=estimator,
        kind=kind,
        adapter=adapter,
        when_you_want_it=when,
        note=note,
        source=SOURCES[library],
    )


def _nemo(name, option, *, when, note="", **options):
    function = "nemo_rl.algorithms.loss.loss_functions.DistillationLossFn"
    adapter = partial(nemo, **options)
    return read(
        "NeMo-RL", name, function, f"{option}, K = 2", FIRST_K, adapter, when=when, note=note
    )


ON_FIRST = "on the teacher's first K"
NEMO = (
    _nemo(
        "mixed",
        'kl_type="mixed", mixed_kl_weight=0.5, zero_outside_topk=false',
        when=f"both KLs at once, {ON_FIRST}",
        note="the default, with K = 64 in its example",
        forward=0.5,
    ),
    _nemo(
        "forward",
        'kl_type="forward", zero_outside_topk=false',
        when=f"{FORWARD}, {ON_FIRST}",
        forward=1.0,
    ),
    _nemo(
        "reverse",
        'kl_type="reverse", zero_outside_topk=false',
        when=f"{REVERSE}, {ON_FIRST}",
        forward=0.0,
    ),
    _nemo(
        "reverse-zero-outside",
        'kl_type="reverse", zero_outside_topk=true',
        when=f"{REVERSE}, with nothing outside the teacher's first K",
        note="tokens outside count with log q = −100",
        forward=0.0,
        zero_outside_topk=True,
    ),
)


def _roll(objective, *, when, note=""):
    function = "roll.pipeline.distill.various_divergence.VariousDivergence"
    option, adapter = f"kd_objective={objective}", partial(roll, objective=objective)
    name = objective.replace("_", "-")
    return read("ROLL", name, function, option, WHOLE, adapter, when=when, note=note)


ROLL = (
    _roll("forward_kl", when=FORWARD),
    _roll("reverse_kl", when=REVERSE),
    _roll("js_divergence", when=BETWEEN),
    _roll("skewed_forward_kl", when=BETWEEN, note="skew_lambda=0.1"),
    _roll("skewed_reverse_kl", when=BETWEEN, note="skew_lambda=0.1"),
    _roll(
        "adaptive_kl",
        when="both KLs at once, each where the models differ",
        note="adaptive_kl_alpha=0.5; the weights depend on the pair and are detached",
    ),
)


def _distillkit(name, option, *, when, note="", **options):
    function, adapter = "distillkit.lossfuncs.kl.KLDLoss", partial(distillkit, **options)
    return read(
        "DistillKit", name, function, f"{option}, K = 2", FIRST_K, adapter, when=when, note=note
    )


DISTILLKIT = (
    _distillkit(
        "zero",
        "missing_probability_handling=zero, temperature=1",
        when=f"{FORWARD}, to a teacher that has nothing outside its first K",
        note="the default",
        missing="zero",
    ),
    _distillkit(
        "uniform",
        "missing_probability_handling=symmetric_uniform, temperature=1",
        when=f"{FORWARD}, {ON_FIRST}",
        note="the rest is one more outcome, spread evenly in both models",
        missing="symmetric_uniform",
    ),
    _distillkit(
        "zero-temperature-2",
        "missing_probability_handling=zero, temperature=2",
        when=f"{FORWARD}, of softened models",
        note="with the factor T²",
        missing="zero",
        temperature=2.0,
    ),
)


def _easydistill(direction, *, when, note):
    return read(
        "EasyDistill",
        direction.replace("_", "-"),
        "easydistill.kd.train.DistillSFTTrainer",
        f"distillation_type={direction}, kd_ratio=1, K = 2",
        FIRST_K,
        partial(easydistill, direction=direction),
        when=when,
        note=note,
    )


EASYDISTILL = (
    _easydistill(
        "forward_kld",
        when="forward KL where only the first K were stored, "
        "with K so large that next to nothing is left out",
        note="the default, with kd_ratio=0.5 beside the cross-entropy of the labels",
    ),
    _easydistill(
        "reverse_kld",
        when="with K so large that next to nothing is left out: "
        "the sum over K alone can be made negative by leaving the first K",
        note="neither model is renormalised",
    ),
)

LOSSES = (*NEMO, *ROLL, *DISTILLKIT, *EASYDISTILL)
