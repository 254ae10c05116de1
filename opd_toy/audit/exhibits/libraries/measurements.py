"""What the chapter says of the libraries beside the verdicts, measured: one function a finding."""

from functools import partial
from importlib.resources import files

import torch

from opd_toy.audit.exhibits.libraries import areal, axolotl, liger, swift, tinker, trl, verl
from opd_toy.example import STUDENT, TEACHER

SEED = 0


def logits(probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def written(probabilities):
    """(0.2, 0.3, 0.5): as part of a name in the record."""
    return str(tuple(map(float, probabilities)))


def value_and_gradient(loss, student, *rest):
    """A number, and its gradient (V,) in the student's logits."""
    leaf = student.clone().requires_grad_()
    value = loss(leaf, *rest)
    return value.item(), torch.autograd.grad(value, leaf)[0]


# --- verl ------------------------------------------------------------------------------


def k3_clamp():
    """The values of log q/p outside of which verl's k3 has no gradient at all, by bisection."""
    return {
        "log q/p above which the gradient is 0": _last_alive(1.0, 30.0),
        "log q/p below which the gradient is 0": _last_alive(-1.0, -30.0),
    }


def _last_alive(inside, outside):
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if _k3_gradient(middle) else (inside, middle)
    return inside


def _k3_gradient(log_ratio):
    """In the student's log-probability, at log q/p = ``log_ratio``."""
    from verl.trainer.ppo.core_algos import kl_penalty

    log_p = torch.zeros((), dtype=torch.float64)
    return value_and_gradient(lambda x: kl_penalty(x, x.detach() + log_ratio, "k3"), log_p)[1]


def verl_defaults():
    """distillation.yaml, which verl's trainers read, beside the dataclass without it."""
    from omegaconf import OmegaConf
    from verl.workers.config import DistillationLossConfig

    file = files("verl") / "trainer" / "config" / "distillation" / "distillation.yaml"
    read = OmegaConf.create(file.read_text()).distillation_loss
    made = DistillationLossConfig()
    names = ("loss_mode", "use_policy_gradient", "loss_max_clamp", "log_prob_min_clamp", "topk")
    return {
        "distillation.yaml": {name: read[name] for name in names},
        "DistillationLossConfig()": {name: getattr(made, name) for name in names},
    }


def top_k_at_the_minimum():
    """|gradient| of verl's top-K at student = teacher, and a case that the cut at 0 silences."""
    norms = {}
    for pair in (TEACHER, STUDENT):
        for k in (1, 2):
            same = logits(pair)
            _, gradient = value_and_gradient(partial(verl.top_k_processor, k=k), same, same)
            norms[f"teacher {written(pair)}, K = {k}"] = gradient.norm().item()
    student, teacher = (0.55, 0.1, 0.35), (0.5, 0.2, 0.3)
    both = logits(student), logits(teacher)
    value, before = value_and_gradient(partial(verl.top_k_processor, k=2), *both)
    _, after = value_and_gradient(partial(verl.top_k, k=2), *both)
    return {
        "gradient norm at student = teacher": norms,
        f"student {student}, teacher {teacher}, K = 2": {
            "value": value,
            "gradient norm": before.norm().item(),
            "gradient norm after clamp_min(0)": after.norm().item(),
        },
    }


# --- TRL -------------------------------------------------------------------------------


def masked_vocabulary():
    """Whether GKD's loss and gradient are finite with a logit of -inf, at each beta."""
    masked_in = {
        "in both": (True, True),
        "in the teacher": (False, True),
        "in the student": (True, False),
    }
    found = {}
    for words, masked in masked_in.items():
        student, teacher = map(_with_a_fourth_token, (STUDENT, TEACHER), masked)
        for beta in (0, 0.5, 1):
            value, gradient = value_and_gradient(partial(trl.gkd, beta=beta), student, teacher)
            found[f"-inf {words}, beta = {beta}"] = {
                "value": repr(value),
                "gradient finite": bool(gradient.isfinite().all()),
            }
    return found


def _with_a_fourth_token(probabilities, masked):
    return torch.cat([logits(probabilities), torch.tensor([-torch.inf if masked else -5.0])])


def beta_near_its_ends():
    """GKD's loss and gradient norm at the notes' pair."""
    found = {}
    for beta in (0, 0.001, 0.5, 0.999, 1):
        loss = partial(trl.gkd, beta=beta)
        value, gradient = value_and_gradient(loss, logits(STUDENT), logits(TEACHER))
        found[f"beta = {beta}"] = {"value": value, "gradient norm": gradient.norm().item()}
    return found


def close_models_in_float32():
    """Relative errors of the reverse KL of close models in float32, V = 151,936, by three sums."""
    draw = torch.Generator().manual_seed(SEED)
    teacher = 2 * torch.randn(151_936, generator=draw, dtype=torch.float64)
    errors = []
    for _ in range(5):
        noise = torch.randn(len(teacher), generator=draw, dtype=torch.float64)
        student = (teacher + 3e-3 * noise).float()
        true = reverse_kls(student.double(), teacher.float().double())["Σ p d"]
        single = reverse_kls(student, teacher.float())
        errors.append({name: abs(value / true - 1) for name, value in single.items()})
    return {
        "KL": true,
        "relative error of the value, largest of 5": {
            name: max(error[name] for error in errors) for name in errors[0]
        },
    }


def reverse_kls(student, teacher):
    """In the inputs' precision: by GKDTrainer, and by two sums with d = log p - log q."""
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    p, d = log_p.exp(), log_p - log_q
    return {
        "GKDTrainer": trl.gkd(student, teacher, beta=1).item(),
        "Σ p d": (p * d).sum().item(),
        "Σ p (d + expm1(-d))": (p * (d + torch.expm1(-d))).sum().item(),
    }


# --- Liger, tinker-cookbook --------------------------------------------------------------


def identical_models():
    """LigerFusedLinearJSDLoss() in expectation over the teacher's tokens; its entropy's half."""
    row = logits(TEACHER)
    values = [liger.jsd(row, row, torch.tensor(token)).item() for token in range(len(TEACHER))]
    return {
        "identical models score": float(TEACHER @ values),
        "half the teacher's entropy": -0.5 * (row.exp() * row).sum().item(),
    }


def advantages_of_the_prompt():
    """Of two prompt positions in front of three tokens that the student drew."""
    student = torch.tensor([0.5, 0.5, *STUDENT], dtype=torch.float32).log()
    teacher = torch.tensor([0.5, 0.5, *TEACHER], dtype=torch.float32).log()
    text = student, teacher, torch.arange(5), torch.tensor([0, 0, 1, 1, 1])
    return {
        f"discount {discount:g}": tinker.advantages(
            *text, module="distillation", discount=discount
        ).tolist()
        for discount in (0.0, 0.9, 1.0)
    }


# --- AReaL, Axolotl, ms-swift ------------------------------------------------------------


def teachers_of_the_joint_loss():
    """AReaL's gradients, for the token drawn first, at two teachers: joint and pure."""
    drawn, student = torch.tensor(0), logits(STUDENT).float()
    return {
        f"rl_loss_weight = {weight}": {
            f"teacher {written(teacher)}": value_and_gradient(
                partial(areal.distillation, rl_loss_weight=weight),
                student,
                logits(teacher).float(),
                drawn,
            )[1].tolist()
            for teacher in (TEACHER, TEACHER[::-1].copy())
        }
        for weight in (1.0, 0.0)
    }


def value_and_gradient_at_a_temperature():
    """The slope of Axolotl's value along the first logit, over the gradient that it returns."""
    step = torch.tensor([1e-2, 0.0, 0.0])
    found = {}
    for temperature in (1.0, 2.0):
        loss = partial(axolotl.fused, k=3, beta=0.0, normalize=True, temperature=temperature)
        student, teacher = logits(STUDENT).float(), logits(TEACHER).float()
        _, gradient = value_and_gradient(loss, student, teacher)
        slope = (loss(student + step, teacher) - loss(student - step, teacher)) / 2e-2
        found[f"kd_temperature = {temperature:g}"] = (slope / gradient[0]).item()
    return found


def vocabularies_of_two_sizes():
    """ms-swift's loss of a student that agrees with its teacher on the student's three tokens.

    The teacher has a fourth, of logit 0.  A constant on the student's logits changes no
    probability of the student.
    """
    teacher = torch.cat([logits(STUDENT), torch.zeros(1, dtype=torch.float64)])
    found = {}
    for constant in (-3.0, 0.0, 3.0):
        loss = partial(swift.gkd, beta=0.0)
        value, gradient = value_and_gradient(loss, logits(STUDENT) + constant, teacher)
        found[f"constant {constant:g}"] = {"value": value, "gradient": gradient.tolist()}
    return found


MEASUREMENTS = {
    "verl: k3's clamp": k3_clamp,
    "verl: the defaults of distillation": verl_defaults,
    "verl: top-K at the minimum": top_k_at_the_minimum,
    "trl: a masked vocabulary": masked_vocabulary,
    "trl: beta near its ends": beta_near_its_ends,
    "liger-kernel: identical models": identical_models,
    "tinker-cookbook: advantages of the prompt": advantages_of_the_prompt,
    "areal: teachers of the joint loss": teachers_of_the_joint_loss,
    "axolotl: the value's slope over the gradient": value_and_gradient_at_a_temperature,
    "ms-swift: vocabularies of two sizes": vocabularies_of_two_sizes,
    "trl: close models in float32": close_models_in_float32,
}
