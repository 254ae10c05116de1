"""What each argument of a loss gets, and what is refused: tests/audit_bindings.txt has it whole.

A loss is bound by its names and places, its options and what shows when it is tried; the text
is what a report says of it, or the refusal.
"""

import functools
import types

import numpy as np
import pytest
import torch

from opd_toy.audit import calling
from opd_toy.audit.signatures import call_text
from opd_toy.audit.signatures import read as read_signature
from opd_toy.audit.ways import TEXTS, TOKENS, as_way, roles
from opd_toy.audit.ways.described import description
from opd_toy.audit.ways.returned import loss_in
from tests import audit_calls as calls
from tests.audit_losses import forward, reverse
from tests.written import check_text

pytestmark = pytest.mark.usefixtures("one_thread")

TOKEN_LOG_PROBS = {"inputs": "token_log_probs"}
ASKED = {"inputs": "token_log_probs", "behaviour": None}
PAIR = {"inputs": ("log_probs", "probs")}
FIRST = {"inputs": "top_k", "k": 3}
SHIFTED = {"labels": "shift_inside"}
ALIGNED = {"labels": "aligned"}


class Trainer:
    def __init__(self):
        self.scale = 2.0

    def compute_loss(self, student_logits, teacher_logits):
        return self.scale * reverse(student_logits, teacher_logits)

    def plain(self, teacher_logits, student_logits):
        return reverse(student_logits, teacher_logits)


class Module(torch.nn.Module):
    def forward(self, teacher_logits, student_logits):
        return reverse(student_logits, teacher_logits)

    def other(self, student, teacher):
        return self.training * reverse(student, teacher)


def shifts_ids(batch):
    student, teacher = (batch[f"{who}_logits"][..., :-1, :] for who in ("student", "teacher"))
    return reverse(student, teacher) * (1 + batch["input_ids"][..., 1:]).sum()


def reads(*keys):
    def loss(batch):
        return sum(batch[key].sum() for key in keys) + reverse(batch["logits"], batch["ref_logits"])

    return loss


def by_attribute(batch):
    return reverse(batch.policy_logits, batch.get("teacher_logits")) * batch.pop("none", 1)


def asks(batch):
    assert "student_logits" in batch and "old_logits" in batch and "no_such_thing" not in batch
    assert not hasattr(batch, "no_such_thing") and not hasattr(batch, "__no_such_thing__")
    assert batch.pop("no_such_thing", 3) == 3 and batch.get("no_such_thing", 4) == 4
    assert torch.is_tensor(batch.pop("student_logits", 5)) and torch.is_tensor(batch.pop("labels"))
    return reverse(batch["student_logits"], batch["teacher_logits"])


def out_of_place(student, teacher, labels):
    return reverse(student[..., :-1, :], teacher[..., :-1, :]) * (labels[..., 1:] >= 0).sum()


def last_row_left_out(student, teacher, labels):
    """And yet nothing is shifted: the first label counts."""
    return reverse(student[..., :-1, :], teacher[..., :-1, :]) * (200 + labels[..., 0]).sum()


def first_label_in_the_value(student, teacher, labels):
    return reverse(student[..., :-1, :], teacher[..., :-1, :]) + labels[..., 0].double().sum()


def last_row_in_part(student, teacher, labels):
    return reverse(student[..., :-1, :], teacher[..., :-1, :]) + student[..., -1, 0].sum()


# ---- (loss, options) by name; what is a token's first, then what is a text's ----

OF_TOKENS = {
    "names in other places": (lambda teacher_logits, student_logits: 0, {}),
    "unknown names": (lambda a, b, c: 0, {}),
    "unknown third": (lambda a, b, c: 0, {"batched": True}),
    "one known": (lambda a, teacher: 0, {}),
    "the other known": (lambda ref, b: 0, {}),
    "token in front": (lambda token, a, b: 0, {}),
    "labels": (lambda logits, teacher_logits, labels: 0, {}),
    "defaults": (lambda student, teacher=None, token=None, beta=0.5: 0, {}),
    "defaults alone": (lambda a=None, b=None: 0, {}),
    "tokens by default": (lambda s, t, tokens=None, mask=None, k=3: 0, {}),
    "keywords alone": (lambda *, teacher, student, token=None: 0, {}),
    "keyword without a default": (lambda s, t, *, beta: 0, {}),
    "keyword that nothing tells": (lambda s, t, *, x: 0, {}),
    "keywords by default": (lambda *, x=None, y=None: 0, {}),
    "defaults behind a setting": (lambda beta=0.5, a=None, b=None: 0, {}),
    "default beside a token": (lambda token, a=None: 0, {}),
    "third of log-probabilities": (lambda student, teacher, logps: 0, {}),
    "inputs and a setting": (lambda inputs, beta=0.5: 0, {}),
    "setting": (lambda s, t, temperature: 0, {}),
    "T alone": (lambda s, t, T: 0, {}),
    "S and T": (lambda logits_T, logits_S: 0, {}),
    "mask": (lambda s, t, mask: 0, {}),
    "advantages": (lambda log_p, old_log_p, advantages: 0, {}),
    "model": (lambda ref_model, inputs, labels: 0, {}),
    "nothing": (lambda: 0, {}),
    "one": (lambda student: 0, {}),
    "four": (lambda a, b, c, d: 0, {}),
    "two students": (lambda student, policy, token: 0, {}),
    "target": (lambda logits, target: 0, {}),
    "target beside a teacher": (lambda logits, teacher_logits, target: 0, {}),
    "two unknown and a target": (lambda a, b, target: 0, {}),
    "draft and target": (lambda draft_logits, target_logits: 0, {}),
    "reference alone": (lambda logp, ref_logp: 0, TOKEN_LOG_PROBS),
    "reference and teacher": (lambda logp, ref_logp, teacher_logp: 0, TOKEN_LOG_PROBS),
    "old for the teacher": (lambda new_logits, old_logits: 0, {}),
    "old": (lambda logp, old_logp, ref_logp: 0, TOKEN_LOG_PROBS),
    "old, whole": (lambda log_p, old_log_p, ref_log_p, token: 0, {"inputs": "log_probs"}),
    "old of three": (
        lambda logp, rollout_p, ref_logp: 0,
        {"inputs": ("token_log_probs", "token_log_probs", "probs"), "behaviour": None},
    ),
    "behaviour by its name": (lambda logp, rollout_logp, ref_logp: 0, {"behaviour": None}),
    "behaviour of two": (lambda logp, old_lp, mu_lp, ref_lp: 0, ASKED),
    "behaviour, and a reference": (lambda logp, ref_logp, teacher_logp: 0, ASKED),
    "behaviour of any arguments": (lambda *inputs: reverse(*inputs), {"behaviour": None}),
    "behaviour said": (lambda a, b, c: 0, {"behaviour": "c"}),
    "behaviour said, by default": (lambda a, b, token, c=None: 0, {"behaviour": "c"}),
    "behaviour not there": (lambda a, b, c: 0, {"behaviour": "d"}),
    "behaviour and no teacher": (lambda a, b: 0, {"behaviour": "b"}),
    "behaviour without a teacher": (lambda a, teacher: 0, {"behaviour": "teacher"}),
    "log-probabilities and probabilities": (lambda a, b: 0, PAIR),
    "first 3": (lambda student, ids, log_q: 0, FIRST),
    "first 3 by name": (lambda teacher_topk_logprobs, teacher_topk_ids, logits: 0, FIRST),
    "logits for first": (calls.on_first, {}),
    "probabilities for logits": (lambda student_probs, teacher_probs: student_probs.sum(), {}),
    "one of them for logits": (lambda logits, ref_logps: ref_logps[7] + logits.sum(), {}),
    "log-probabilities for logits": (lambda log_p, log_q: (log_p - log_q).sum(), {}),
    "with tokens for logits": (lambda log_p, log_q, token: (log_p - log_q)[token], {}),
    "logits after all": (lambda log_p, log_q: reverse(log_p, log_q), {}),
    "any arguments": (lambda *inputs: reverse(*inputs), {}),
    "any three": (lambda *inputs: reverse(*inputs[:2]) + 0 * inputs[2], {}),
    "any after one": (lambda token, *inputs: reverse(*inputs), {}),
    "any, in error": (lambda *inputs: inputs[0] + None, {}),
    "built in": (torch.nn.functional.mse_loss, {}),
    "batch": (reads("student_logits"), {}),
    "batch of many": (reads("old_logps", "labels", "num_items_in_batch", "input_ids"), {}),
    "batch without a mask": (reads("completion_mask"), {}),
    "batch with targets": (reads("targets"), {}),
    "batch by attribute": (by_attribute, {}),
    "batch that asks": (asks, {}),
    "batch and no teacher": (reads(), {"behaviour": "ref_logits"}),
    "keywords as a batch": (lambda **batch: batch["student_logits"].sum() * batch["labels"], {}),
    "other keywords": (lambda **batch: batch["logits"], {}),
    "batch without": (lambda batch: batch["no_such_thing"], {}),
    "method": (Trainer().compute_loss, {}),
    "unbound": (Trainer.plain, {}),
    "unbound in need": (Trainer.compute_loss, {}),
    "module": (Module(), {}),
    "module's method": (Module.other, {}),
    "class": (Module, {}),
    "number": (7, {}),
    "batched": (lambda labels, logits, teacher_logits: 0, {"batched": True}),
    "partial": (functools.partial(lambda s, t, beta, k=2: 0, beta=0.5), {}),
}
OF_TEXTS = {
    "four": (lambda a, b, c, d: 0, {}),
    "mask by name": (lambda mask, s, t: 0, {}),
    "labels": (calls.with_labels, {}),
    "labels, aligned": (calls.with_labels, ALIGNED),
    "labels, shifted": (calls.with_labels, SHIFTED),
    "third said to be labels": (lambda s, t, y: 0, ALIGNED),
    "labels by default": (lambda s, t, labels=None: 0, {}),
    "labels by default, aligned": (lambda s, t, labels=None: 0, ALIGNED),
    "ids by default, aligned": (lambda s, t, input_ids=None: 0, ALIGNED),
    "any after labels": (lambda labels, *inputs: reverse(*inputs[:2]), {}),
    "shifts": (out_of_place, {}),
    "shifts ids": (shifts_ids, {}),
    "first label in the value": (first_label_in_the_value, {}),
    "last row in part": (last_row_in_part, {}),
    "last row left out": (last_row_left_out, {}),
    "shifts in batches": (out_of_place, {"batched": True}),
    "masks by default": (lambda s, t, loss_mask=None, token_mask=None: 0, {}),
    "completions": (calls.k3_of_completions, {}),
    "completions in batches": (calls.k3_of_completions, {"batched": True}),
    "clipped": (calls.clipped_ratio, TOKEN_LOG_PROBS),
    "batch": (calls.of_shifted_batch, {}),
    "batch of two": (calls.with_data, {}),
    "data": (calls.labels_of_batch, {"batched": True}),
    "any arguments": (lambda *inputs: reverse(*inputs[:2]).sum(), {}),
    "any four": (lambda *inputs: (reverse(*inputs[:2]) * inputs[3]).sum() + 0 * inputs[2], {}),
}


def told(way):
    """What a report says of a way, and what it takes."""
    found = description(way)
    lines = [f"{found['loss']}, {way.count} inputs{', shifted' * way.shift}"]
    lines += [f"{argument}: {words}" for argument, words in found["arguments"].items()]
    behaviour = [f"behaviour: {way.behaviour_argument}"] if way.behaviour_argument else []
    return "\n".join([*lines, *behaviour, *found["notes"]])


@pytest.mark.parametrize("level, losses", [(TOKENS, OF_TOKENS), (TEXTS, OF_TEXTS)])
def test_what_each_argument_gets(level, losses):
    for name, (loss, options) in losses.items():
        try:
            text = told(as_way(loss, level, **options))
        except ValueError as refusal:
            text = f"refused: {refusal}"
        check_text("audit_bindings.txt", f"{level.entry}: {name}", text)


# ---- what is handed over ----

STUDENT = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.0, 3.0, 1.0], [-2.0, 0.0, 1.0]], dtype=torch.float64)
BEHAVIOUR = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
TOKEN_ARGUMENTS = STUDENT[0], TEACHER[0], torch.tensor(2)
TEXT_ARGUMENTS = STUDENT, TEACHER, torch.tensor([2, 1]), torch.tensor([True, False])
WITH_FIRST = {"inputs": "top_k", "k": 2}
HANDED = [
    (TOKENS, "student, teacher, token", {}),
    (TOKENS, "student, teacher, labels", {"batched": True}),
    (TOKENS, "log_p, old_log_p, ref_log_p, token", {"inputs": "log_probs"}),
    (TOKENS, "logp, old_logp, ref_logp", TOKEN_LOG_PROBS),
    (TOKENS, "p, q", {"inputs": ("log_probs", "probs")}),
    (TOKENS, "student, ids, log_q", WITH_FIRST),
    (TOKENS, "student, teacher, rollout_logits, token", {"behaviour": None}),
    (TEXTS, "student, teacher, tokens, mask", {}),
    (TEXTS, "student, teacher, labels", {"labels": "shift_inside"}),
    (TEXTS, "logp, ref_logp, mask", TOKEN_LOG_PROBS),
    (TEXTS, "student, ids, log_q", {"inputs": "top_k", "k": 9}),
    (TEXTS, "p, q, rollout_p", {"inputs": ("probs", "probs", "probs"), "behaviour": None}),
]


def in_digits(value):
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return "[" + ", ".join(map(in_digits, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("level, names, options", HANDED)
def test_what_is_handed_over(level, names, options):
    """The numbers that reach the loss; the behaviour's once for its own and once for none."""
    given = []
    first = names.split(", ")[0]
    loss = eval(f"lambda {names}: given.append(({names},)) or {first}.sum()", {"given": given})
    way = as_way(loss, level, **options)
    inputs = TOKEN_ARGUMENTS if level is TOKENS else TEXT_ARGUMENTS
    lines = []
    behaviours = (
        (None, BEHAVIOUR[0] if level is TOKENS else BEHAVIOUR)
        if way.behaviour_argument
        else (None,)
    )
    for behaviour in behaviours:
        called = way if behaviour is None else way.drawn_by(behaviour)
        called(*inputs[: way.count])
        lines += [
            f"{name}: {in_digits(value)}" for name, value in zip(names.split(", "), given[-1])
        ]
    check_text("audit_bindings.txt", f"handed over to ({names}) with {options}", "\n".join(lines))


@pytest.mark.parametrize("form", ["logits", "log_probs"])
def test_what_a_batch_hands_over(form):
    """By the keys of its entries, but for those whose form is said."""
    keys, given = ("student_logits", "ref_logps", "old_probs", "labels", "targets"), {}

    def loss(batch):
        given.update({key: batch[key] for key in keys})
        return reverse(batch["student_logits"], batch["teacher_logits"])

    as_way(loss, TOKENS, inputs=form)(*TOKEN_ARGUMENTS)
    lines = [f"{key}: {in_digits(value)}" for key, value in given.items()]
    check_text("audit_bindings.txt", f"handed over in a batch of {form}", "\n".join(lines))


# ---- names ----

NAMES = """
student_logits stu_logits policy_logits actor_logps current_logps curr_lp cur_probs new_logits
draft_logits learner trainable_logits pred_probs preds predicted predictions y_pred
teacher_logits expert_logits y_true soft_labels soft_targets oracle frozen_logits ema_logits
logits_tea logits_tch ref_logits reference_logps base_logprobs old_logps prev_lp previous_logits
generation_logps behavior_logprobs behaviour_lp sampling_logps sampler_lp rollout_log_probs
behav_lp behave_lp log_mu gen_logps inference_logps infer_lp vllm_logps sglang_lp stale_logits
prox_logps proximal_logps logprob logprobs logps logp logq logpi lp lq log_p log_q log_pi log_ps
log_prob log_probs log_probability log_probabilities prob probs probability probabilities proba
logit logits output outputs hidden token tokens ids action actions completion completions response
responses sample sampled samples target targets tgt target_logits target_probs draft_target
batch minibatch microbatch data num_batch inputs example features kwargs label labels teacher_labels
student_labels mask masks teacher_mask attention_mask advantage advantages reward rewards returns
temperature temp tau beta alpha gamma lam lambda_ lmbda coef coeff eps epsilon clip reduction
config cfg args tokenizer baseline model step scale num n vocab_size estimator weight weights size
pad_token_id ignore_index eos_id bos len length lengths count studentLogits logitsT KLDiv x _ T
data_labels batch_labels true_soft_student reference_model per_token_logps topk_ids topk_logprobs
teacher_topk_indices label_ids input_ids teacher_idx student_topk_logps top_values topk_scores index
"""


def test_what_names_say():
    lines = [f"{name}: {roles.guess(name)}, {roles.of_top_k(name)}" for name in NAMES.split()]
    check_text("audit_bindings.txt", "what names say", "\n".join(lines))
    drawers = [name for name in NAMES.split() if roles.DRAWERS & set(roles.words(name))]
    alone = [name for name in NAMES.split() if roles.ALONE & set(roles.words(name))]
    check_text("audit_bindings.txt", "drawers and batches", f"{drawers}\n{alone}")
    pairs = [("logits_s", "logits_t"), ("s", "t"), ("t_s", "t_t"), ("a", "b"), ("s_x", "x", "t_x")]
    assert [roles.student_and_teacher(names) for names in pairs] == [
        {"logits_s": "student", "logits_t": "teacher"},
        {"s": "student", "t": "teacher"},
        {"t_s": "student", "t_t": "teacher"},
        {},
        {"s_x": "student", "t_x": "teacher"},
    ]


def test_how_a_loss_is_written():
    named = types.SimpleNamespace(name="built by hand")
    for loss, text in (
        (forward, "forward"),
        (lambda s, t: 0, "loss"),
        (functools.partial(functools.partial(forward, 1)), "forward"),
        (Trainer().compute_loss, "Trainer().compute_loss"),
        (Trainer.plain, "Trainer.plain"),
        (Module(), "Module()"),
        (Module().other, "Module().other"),
        (dict.fromkeys, "dict.fromkeys"),
        (torch.nn.functional.mse_loss, "mse_loss"),
        (named, "built by hand"),
        (types.SimpleNamespace(name=3), "SimpleNamespace()"),
        (np.vectorize(abs), "vectorize()"),
    ):
        assert call_text(loss) == text
    read = read_signature(lambda *inputs, beta=1: 0, "")
    assert (read.spread, read.signature, read.note) == (True, "(*inputs, beta=1)", None)
    assert not read_signature(forward, "").spread
    unbound = read_signature(Trainer.plain, "")
    assert [p.name for p in unbound.parameters] == ["teacher_logits", "student_logits"]
    assert unbound.note == "its method is called on an object made without __init__"


def local_method():
    class Local:
        def loss(self, student, teacher):
            return forward(student, teacher), self

    return Local.loss


def test_objects_made_without_init():
    """Of the method's class, of a module with what modules need, or a bare one."""
    inputs = STUDENT[0], TEACHER[0]
    assert isinstance(
        read_signature(local_method(), "").function(*inputs)[1], types.SimpleNamespace
    )
    assert isinstance(read_signature(Trainer.plain, "").function.args[0], Trainer)
    module = read_signature(Module.other, "").function.args[0]
    assert isinstance(module, Module) and module.training


# ---- what is returned, and what is refused when it is called ----

ONE, TWO, ROW = torch.tensor(1.0), torch.tensor(2.0), torch.ones(3)
WORDS = {"entry": "audit", "code": "mine", "subject": "mine"}
RETURNED = (
    *(
        ONE,
        3,
        None,
        (ROW, ONE),
        (ROW, ONE, TWO),
        [ONE, TWO],
        [ROW, ROW],
        (),
        (ROW, torch.tensor(1)),
    ),
    *(
        {"loss": TWO, "total_loss": ONE},
        {"total_loss": ONE, "aux_loss": TWO},
        {"a_LOSS": ONE, "b": 1},
    ),
    *({"a_loss": ONE, "b_loss": TWO}, {"kl": ONE}, {}, {"loss": ROW}, {"my_loss": ROW, 3: ONE}),
    *(types.SimpleNamespace(loss=ONE), types.SimpleNamespace(loss=3)),
)


def test_where_the_loss_is_found():
    lines = []
    for value in RETURNED:
        try:
            found, where = loss_in(value, WORDS)
            found = in_digits(found) if isinstance(found, (torch.Tensor, int)) else type(found)
            lines.append(f"{type(value).__name__}: {found}, {where}")
        except calling.AuditError as refusal:
            lines.append(f"refused: {refusal}")
    check_text("audit_bindings.txt", "where the loss is found", "\n".join(lines))


class Raises(torch.autograd.Function):
    """The sum of the logits with a gradient that raises what it is told."""

    @staticmethod
    def forward(context, logits, words):
        context.words = words
        return logits.sum()

    @staticmethod
    def backward(context, above):
        raise RuntimeError(context.words)


def in_turn(*values):
    """Each call another gradient, a value of 1."""
    given = iter(values * 30)
    return lambda student, teacher: 1 + next(given) * (student - student.detach()).sum()


def detached_and_easily_lost():
    """Without a gradient, and not to be called at other logits."""
    first = []

    def loss(student, teacher):
        first.append(student.detach().clone())
        if not torch.equal(student, first[0]):
            raise ValueError
        return student.detach().sum()

    return loss


def writes_nothing_back(student, teacher, token):
    student.add_(0.0), token.add_(1)
    return (student * teacher).sum()


CALLED = {
    "in place, ours": lambda s, t: Raises.apply(s, "an inplace operation\nand more"),
    "in-place, both": lambda s, t: Raises.apply(s.add_(1) * t.add_(1), "an in-place one"),
    "raises": lambda s, t: Raises.apply(s, "no such luck\nand more"),
    "raises nothing": lambda s, t: Raises.apply(s, ""),
    "other gradients": in_turn(1.0, 2.0),
    "other at last": in_turn(*[1.0] * 20, 2.0),
    "only beyond": in_turn(*[1.0] * 21, 2.0),
    "lost": detached_and_easily_lost(),
    "cut": lambda s, t: s.detach().sum() ** 2,
    "cut, in place": lambda s, t: s.sub_(1).detach().sum(),
    "detached": lambda s, t: t.sum().detach(),
    "the teacher's": lambda s, t: t.sum() + 0 * s.detach().sum(),
    "one number in brackets": lambda s, t: (s * t).sum()[None, None],
}


def test_calls_and_refusals():
    lines = []
    for name, loss in CALLED.items():
        try:
            found = calling.check_deterministic(loss, STUDENT[0].numpy(), TEACHER[0].numpy())
            gradients = found.student_gradient.tolist(), found.teacher_gradient
            lines.append(f"{name}: {found.value:.4g}, {in_digits(gradients[0])}, {gradients[1]}")
        except calling.NoGradient as refusal:
            lines.append(f"{name}: {refusal.value:.4g}, {refusal}")
        except calling.AuditError as refusal:
            lines.append(f"{name}: {refusal}")
    found = calling.gradient_of(writes_nothing_back, STUDENT[0], TEACHER[0], np.array(2))
    lines.append(f"touched {found.touched}, {found.reaches_teacher}")
    beside = calling.gradient_of(lambda s, t: s.data.add_(1).sum() + (s * t).sum(), *STUDENT)
    lines.append(f"touched beside the graph {beside.touched}")
    counted = lambda s, t, token: token.add_(1) * 1.0
    with pytest.raises(calling.NoGradient, match="everything in it is detached"):
        calling.gradient_of(counted, STUDENT[0], TEACHER[0], np.array(2))
    check_text("audit_bindings.txt", "calls", "\n".join(lines))
    assert calling.first_line(ValueError("\n a\nb")) == "a"
    assert calling.described(KeyError()) == "KeyError: (no message)"
