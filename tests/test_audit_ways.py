"""How a loss is called: names before places, other inputs, labels, batches, what is returned."""

import functools
import types

import pytest
import torch
import torch.nn.functional as F

from opd_toy.audit import AuditError, audit
from opd_toy.audit.ways import TEXTS, TOKENS, as_way, reported, roles
from opd_toy.audit.ways.described import words_of
from tests import audit_calls as calls
from tests.audit_sequence_losses import audit_on_fewer
from tests.test_audit_stages import report as report_with

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("error::RuntimeWarning", "error::UserWarning"),
]

WITH_RATIO = "sum of local reverse KLs from stale texts, weighted by the ratio of the token"


@pytest.mark.parametrize("name", calls.NAMED)
def test_a_name_wins_over_the_place(name):
    """By their places each of these would follow the reverse KL."""
    report = audit(calls.NAMED[name])
    assert report.optimises == "forward KL"
    assert "the names tell which is which" in report.call["notes"][0]
    assert report.call["notes"][0] in str(report)


def test_where_nothing_tells_the_place_does():
    report = audit(lambda a, b: calls.forward(a, b))
    assert report.optimises == "forward KL" and report.call["notes"] == []
    assert list(report.call["arguments"].values()) == [
        "the student's logits",
        "the teacher's logits",
    ]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ref_log_probs", ("reference", "log_probs")),
        ("per_token_logps", (None, "log_probs")),
        ("old_logprobs", ("old", "log_probs")),
        ("studentLogits", ("student", "logits")),
        ("soft_labels", ("teacher", None)),
        ("completion_mask", (None, "mask")),
        ("input_ids", (None, "tokens")),
        ("response_log_probs", (None, "log_probs")),
        ("labels", (None, "labels")),
        ("temperature", (None, "setting")),
        ("teacher_temperature", (None, "setting")),
        ("sample_weights", (None, "setting")),
        ("pad_token_id", (None, "setting")),
        ("batch_size", (None, "setting")),
        ("num_items_in_batch", (None, "setting")),
        ("no_model_batch", (None, "batch")),
        ("x", (None, None)),
    ],
)
def test_what_a_name_says(name, expected):
    assert roles.guess(name) == expected


def test_reference_is_the_teacher_unless_there_is_another():
    way = as_way(lambda logp, ref_logp: 0, TOKENS, inputs="token_log_probs")
    assert [argument.role for argument in way.arguments] == ["student", "teacher"]
    way = as_way(lambda logp, ref_logp, teacher_logp: 0, TOKENS, inputs="token_log_probs")
    assert [argument.role for argument in way.arguments] == ["student", "old", "teacher"]


def test_an_old_policy_is_the_teacher_where_there_is_no_other():
    way = as_way(lambda old_logits, new_logits: 0, TOKENS)
    assert [argument.role for argument in way.arguments] == ["teacher", "student"]


def test_targets_are_the_tokens_beside_a_teacher():
    way = as_way(lambda logits, ref_logits, targets: logits.sum(), TEXTS)
    assert [argument.role for argument in way.arguments] == ["student", "teacher", "tokens"]
    way = as_way(lambda targets, logits: logits.sum(), TEXTS)
    assert [argument.role for argument in way.arguments] == ["teacher", "student"]


TEXT_VERDICTS = [
    (calls.k3_of_completions, {"inputs": "token_log_probs"}, "1/T × sum of local forward KLs"),
    (calls.first_step, {"inputs": "token_log_probs"}, WITH_RATIO),
    (calls.gathers_itself, {"inputs": "log_probs"}, "sum of local reverse KLs"),
    (calls.with_labels, {}, "1/T × sum of local forward KLs"),
    (calls.with_labels, {"labels": "aligned"}, "1/T × sum of local forward KLs"),
    (
        lambda s, t, y: calls.with_labels(s, t, y),
        {"labels": "aligned"},
        "1/T × sum of local forward KLs",
    ),
    (calls.shifting, {}, "1/T × sum of local forward KLs"),
    (calls.shifting, {"labels": "shift_inside"}, "1/T × sum of local forward KLs"),
    (calls.of_batch, {}, "sum of local reverse KLs"),
    (calls.of_shifted_batch, {}, "1/T × sum of local forward KLs"),
    (calls.of_keywords, {}, "sum of local reverse KLs"),
    (calls.with_old_policy, {"inputs": "token_log_probs"}, WITH_RATIO),
    (calls.with_data, {}, "sum of local reverse KLs"),
    (calls.labels_of_batch, {"batched": True}, "1/T × sum of local forward KLs"),
]


@pytest.mark.parametrize("loss, options, expected", TEXT_VERDICTS)
def test_texts(loss, options, expected):
    report = audit_on_fewer(loss, **options)
    assert report.optimises == expected
    assert [entry for entry in report.edges if entry["severity"] == "broken"] == []


def test_a_shift_inside_is_said_and_told_from_a_label_too_early():
    assert "holds logits t against label t + 1" in str(audit_on_fewer(calls.shifting))
    aligned = audit_on_fewer(calls.shifting, labels="aligned")
    assert aligned.optimises != "1/T × sum of local forward KLs"
    assert not as_way(calls.with_labels, TEXTS).shift


def test_labels_cover_the_mask():
    """An error in the counting shows although the loss takes no mask."""

    def counts_all(student_logits, teacher_logits, labels):
        return calls.forward(student_logits, teacher_logits).sum() / (labels > -200).sum()

    report = audit_on_fewer(counts_all)
    assert any("masked" in e["finding"] for e in report.edges if e["severity"] == "broken")


TOKEN_VERDICTS = [
    (calls.of_positions, {"batched": True}, "16 × forward KL at temperature 4"),
    (calls.with_hard_labels, {"batched": True, "drawn_from": "teacher"}, "forward KL"),
    (lambda lp, lq: (lp - lq).detach() * lp, {"inputs": "token_log_probs"}, "reverse KL"),
    (calls.of_probabilities, {"inputs": "probs"}, "reverse KL"),
    (
        functools.partial(F.kl_div, reduction="sum"),
        {"inputs": ("log_probs", "probs")},
        "forward KL",
    ),
    (
        calls.on_first,
        {"inputs": "top_k", "k": 2},
        "forward KL on the teacher's top 2, tail dropped",
    ),
    (
        lambda student, ids, log_q: (log_q.exp() * (log_q - calls.logs(student)[ids])).sum(),
        {"inputs": "top_k", "k": 1},
        "forward KL on the teacher's top 1, tail dropped",
    ),
]


@pytest.mark.parametrize("loss, options, expected", TOKEN_VERDICTS)
def test_other_inputs(loss, options, expected):
    assert audit(loss, **options).optimises == expected


@pytest.mark.parametrize("where", calls.RETURNS)
def test_the_loss_is_found_in_what_is_returned(where):
    report = audit(calls.RETURNS[where])
    assert report.optimises == "forward KL"
    assert f"the loss is {where} that it returns" in str(report)


def scripted(student_logits: torch.Tensor, teacher_logits: torch.Tensor, beta: float = 0.5):
    log_p, log_q = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum()


class Scripted(torch.nn.Module):
    def forward(self, teacher_logits: torch.Tensor, student_logits: torch.Tensor):
        log_p, log_q = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.jit.script(scripted),
        lambda: torch.jit.script(Scripted()),
        lambda: functools.partial(scripted, beta=1.0),
        lambda: lambda *inputs: scripted(*inputs),
        lambda: lambda *inputs: Scripted()(*reversed(inputs)),  # two, and no third
    ],
)
def test_whatever_can_be_called(make):
    assert audit(make()).optimises == "reverse KL"


def scripted_of_token(student_logits: torch.Tensor, teacher_logits: torch.Tensor, token: int):
    return student_logits[token] - teacher_logits[token]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*torch.jit")
def test_a_scripted_token_is_a_number():
    way = as_way(torch.jit.script(scripted_of_token), TOKENS)
    assert [argument.whole_number for argument in way.arguments] == [False, False, True]


def test_arguments_without_a_name_are_counted_from_1():
    way = as_way(lambda *inputs: calls.reverse(*inputs[:2]), TOKENS)
    assert list(words_of(way))[:2] == ["argument 1", "argument 2"]


def test_compiled_code_keeps_its_names():
    """Not called: the first compilation of a process takes seconds."""
    for loss in (Scripted(), calls.teacher_first):
        way = as_way(torch.compile(loss, backend="eager"), TOKENS)
        assert [argument.role for argument in way.arguments] == ["teacher", "student"]


@pytest.mark.parametrize("annotation", [int, "int"])  # a string where annotations are postponed
def test_an_annotated_token_is_a_number(annotation):
    def loss(student, teacher, token: annotation):
        assert isinstance(token, int)
        ratio = calls.logs(student)[token] - calls.logs(teacher)[token]
        return ratio.detach() * calls.logs(student)[token]

    assert audit(loss).optimises == "reverse KL"


class Counting:
    def __init__(self):
        self.weight = 2.0

    def loss(self, student, teacher):
        return self.weight * calls.reverse(student, teacher)


REFUSALS = [
    (audit_on_fewer, calls.k3_of_completions, 'k3_of_completions, inputs="token_log_probs")'),
    (
        audit_on_fewer,
        lambda log_p, log_q: ((log_p - log_q).detach() * log_p).mean(),
        "log_p, log_q",
    ),
    (audit_on_fewer, calls.gathers_itself, 'gathers_itself, inputs="log_probs")'),
    (audit, calls.of_probabilities, 'audit(of_probabilities, inputs="probs")'),
    (
        audit,
        lambda student_logits, teacher_logits, temperature: 0,
        "audit(functools.partial(loss, temperature=...))",
    ),
    (audit_on_fewer, calls.clipped_ratio, "advantages=(teacher_log_p - log_p).detach()"),
    (audit, Counting.loss, "write audit(Counting(...).loss), the method of an object"),
    (audit, Counting, "write Counting(), an object"),
    (audit, lambda s, t, mask: 0, "write audit_sequence(loss)"),
    (audit, lambda s, t: {"kl": s, "ce": t}, "its keys are 'kl', 'ce'"),
    (audit, calls.on_first, 'write audit(on_first, inputs="top_k", k=2)'),
    (audit, calls.of_positions, "audit(of_positions, batched=True)"),
    (audit, lambda student, teacher, T: 0, "partial(loss, T=...)"),
    (audit_on_fewer, lambda model, inputs: 0, "runs model itself"),
    (audit, lambda logits, data: calls.forward(logits, data), "data: a batch"),
]


@pytest.mark.parametrize("entry, loss, words", REFUSALS)
def test_a_refusal_says_in_its_first_line_what_to_write(entry, loss, words):
    with pytest.raises(AuditError) as refusal:
        entry(loss)
    assert words in str(refusal.value).splitlines()[0]


def test_the_advice_on_advantages_holds():
    report = audit_on_fewer(
        lambda log_p, teacher_log_p, mask: calls.clipped_ratio(
            log_p, log_p.detach(), advantages=(teacher_log_p - log_p).detach(), action_mask=mask
        ),
        inputs="token_log_probs",
    )
    assert report.optimises == "1/T × sum of local reverse KLs"


def test_names_of_log_probabilities_are_no_matter_where_logits_do():
    assert audit(lambda log_p, log_q: calls.reverse(log_p, log_q)).optimises == "reverse KL"


def test_without_names_a_report_says_what_the_loss_may_want():
    report = audit_on_fewer(lambda a, b: ((a - b).detach() * a).sum())
    assert report.optimises == "none of these"
    assert 'inputs="token_log_probs": then it optimises sum of local reverse KLs' in str(report)
    assert audit(lambda s, t: (calls.logs(s) - calls.logs(t)).abs().max()).call["notes"] == []
    # Of the token drawn alone it would be zero in expectation, which nobody means.
    assert 'inputs="log_probs"' in str(audit(lambda a, b: (a - b).mean()))


def test_other_inputs_are_tried_until_one_has_a_name():
    asked = []

    def again(inputs):
        asked.append(inputs)
        if inputs == "token_log_probs":
            raise AuditError("not of one number")
        return types.SimpleNamespace(optimises={"log_probs": "zero"}.get(inputs, "reverse KL"))

    for inputs, tried in (("logits", ["token_log_probs", "log_probs", "probs"]), ("log_probs", [])):
        way = as_way(lambda a, b: (a - b).mean(), TOKENS, inputs=inputs)
        asked.clear()
        notes = reported(report_with(optimises="none of these"), way, False, again).call["notes"]
        assert asked == tried
        if tried:
            assert notes[-1].endswith('write inputs="probs": then it optimises reverse KL')
    reported(report_with(), way, False, again)
    assert asked == []


@pytest.mark.parametrize(
    "options, words",
    [
        ({"inputs": "logprobs"}, "inputs is 'logprobs'"),
        ({"inputs": ("probs",)}, "inputs is"),
        ({"inputs": ("probs", "probs", "top_k")}, r"inputs\[2\] is 'top_k'"),
        ({"behaviour": 3}, "behaviour is 3; give the name of the loss's argument"),
        ({"inputs": ("probs", "p")}, r"inputs is 'p'|inputs\[1\]"),
        ({"inputs": "top_k", "k": 0}, "k is 0"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        audit(calls.teacher_first, **options)
