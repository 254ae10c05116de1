"""The record of the libraries' losses: current, complete, and what the table of settings says."""

import dataclasses
import functools
import json
import math
import re
import shutil
import subprocess
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from opd_toy.audit.exhibits.libraries import __main__ as command
from opd_toy.audit.exhibits.libraries import measurements, record
from opd_toy.audit.exhibits.libraries.library_loss import LibraryLoss
from opd_toy.audit.exhibits.libraries.measurements import MEASUREMENTS
from opd_toy.audit.exhibits.libraries.record import (
    LIBRARY_LOSSES,
    NAMES,
    PACKAGES,
    READ,
    RECORD,
    SEED,
)
from opd_toy.audit.exhibits.libraries.settings import GOALS
from opd_toy.records import provenance
from tests.conftest import ROOT

KEPT = json.loads(RECORD.read_text(encoding="utf-8"))
AUDITS = {entry["id"]: entry for entry in KEPT["results"]["audits"]}
MEASURED = KEPT["results"]["measurements"]
PINS = dict(
    re.findall(r"^([\w-]+)==([^;\s]+)", (ROOT / "requirements-peers.txt").read_text(), re.MULTILINE)
)


def report(name):
    return AUDITS[name]["report"]


def broken_edges(name):
    found = [edge["finding"] for edge in report(name)["edges"] if edge["severity"] == "broken"]
    return " ".join(found)


def test_the_record_is_current():
    assert provenance.is_current(RECORD), (
        "figures/library-audits.json is out of date: make audit-peers"
    )


USED = (
    "objectives",
    "estimators",
    "example",
    "sequences/trees",
    "audit/report",
    "audit/calling",
    "audit/token/verdict",
    "audit/exhibits/libraries/verl",
    "audit/exhibits/libraries/measurements",
    "audit/exhibits/libraries/record",
)
UNUSED = (
    "derivations/chapter_1",
    "pages/page",
    "pages/drawing",
    "explorables/palette",
    "audit/exhibits/museum",
    "audit/exhibits/libraries/settings",
    "audit/exhibits/libraries/__main__",
)


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A copy of what records may depend on, in the place of the checkout."""
    root = tmp_path_factory.mktemp("copy")
    shutil.copytree(
        ROOT / "opd_toy", root / "opd_toy", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / "requirements-peers.txt", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "ROOT", root)
        yield root


@functools.cache
def hash_as_it_is():
    """Of the checkout, and so of the copy before anything is planted in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "ROOT", ROOT)
        return hash_now()


def hash_now():
    return provenance.source_hash(*command.SOURCES["modules"], files=command.SOURCES["files"])


def changes(path, text):
    """Whether the hash is another one with ``text`` in the file."""
    before = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    try:
        return hash_now() != hash_as_it_is()
    finally:
        path.write_text(before, encoding="utf-8")


@pytest.mark.parametrize("name", [*USED, *UNUSED])
def test_a_change_counts_where_the_audits_use_it(copied, name):
    path = copied / f"opd_toy/{name}.py"
    text = path.read_text(encoding="utf-8")
    assert changes(path, f"{text}\nPLANTED = 1\n") == (name in USED)
    assert not changes(path, f"# a comment\n{text}")


def test_another_version_of_a_library_counts(copied):
    path = copied / "requirements-peers.txt"
    assert changes(path, path.read_text().replace(f"trl=={PINS['trl']}", "trl==0.0.0"))


def test_the_record_names_the_pinned_versions():
    made = KEPT["provenance"]
    own = [entry for entry in AUDITS.values() if not entry["source"]]
    assert all(entry["version"] == PINS[entry["library"]] for entry in own)
    assert {entry["library"] for entry in own} == set(PACKAGES)
    read = [entry for entry in AUDITS.values() if entry["source"]]
    assert all(entry["source"]["commit"].startswith(entry["version"]) for entry in read)
    assert {entry["library"] for entry in read} == set(READ)
    assert made["command"] == f"{command.COMMAND} --record" and made["seed"] == SEED
    assert (made["modules"], made["files"]) == tuple(command.SOURCES.values())


def test_every_loss_is_recorded_and_nothing_else():
    assert set(AUDITS) == set(LIBRARY_LOSSES) and set(MEASURED) == set(MEASUREMENTS)
    kept = {field.name for field in dataclasses.fields(LibraryLoss)} - {"adapter"}
    for name, entry in AUDITS.items():
        loss = LIBRARY_LOSSES[name]
        assert kept <= set(entry) and loss.when_you_want_it and loss.option
        # why a loss cannot be audited goes into the note
        same = kept if entry["report"] else kept - {"note"}
        facts = dataclasses.asdict(loss) | {"without": list(loss.without)}
        assert {field: entry[field] for field in same} == {field: facts[field] for field in same}
    assert {entry["library"] for entry in AUDITS.values()} == set(NAMES)


def test_what_cannot_be_audited_says_why():
    (refused,) = [entry for entry in AUDITS.values() if entry["report"] is None]
    assert refused["optimises"] == "cannot be audited" and "NotImplementedError" in refused["note"]


def test_a_refusal_is_recorded_with_its_reason():
    def refuses(student, teacher, token):
        raise NotImplementedError

    loss = LibraryLoss(
        id="x",
        library="torch",
        function="f",
        option="o",
        estimator="token drawn",
        when_you_want_it="never",
        adapter=refuses,
    )
    for note, recorded in (("", "NotImplementedError"), ("why", "why; NotImplementedError")):
        entry = record.audited(dataclasses.replace(loss, note=note))
        assert entry["optimises"] == "cannot be audited" and entry["note"] == recorded


def test_all_is_computed_on_one_thread(monkeypatch):
    """As sums in another order round otherwise."""
    monkeypatch.setattr(record, "MEASUREMENTS", {"threads": torch.get_num_threads})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert record.results_of([])["measurements"] == {"threads": 1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


VERDICTS = {
    "verl-k1": "zero",
    "verl-k2": "reverse KL",
    "verl-k3": "forward KL",
    "verl-k1+": "reverse KL",
    "verl-k3+": "reverse KL",
    "verl-abs": "2 × total variation",
    "verl-full": "cannot be audited",
    "verl-distillation-k1-reward": "reverse KL",
    "verl-distillation-k2-reward": "none of these",
    "verl-distillation-k3": "forward KL",
    "verl-distillation-k3-reward": "reverse KL − forward KL",
    "verl-distillation-dataclass": "reverse KL − forward KL",
    "trl-gkd-0": "forward KL",
    "trl-gkd-0.5": "JSD(β = 0.5)",
    "trl-gkd-0.999": "JSD(β = 0.999)",
    "trl-gkd-1": "reverse KL",
    "trl-distillation-1": "reverse KL",
    "trl-sdpo-token": "reverse KL",
    "trl-grpo-kl": "reverse KL",
    "trl-grpo-kl-uncorrected": "forward KL",
    "trl-server-no-tail": "zero",
    "trl-server-tail": "none of these",
    "liger-jsd-default-student": "0.5 × JSD(β = 0.5)",
    "liger-jsd-default-teacher": "0.5 × JSD(β = 0.5) + 0.5 × forward KL",
    "liger-jsd-1": "reverse KL",
    "liger-grpo-kl": "forward KL",
    "liger-grpo-kl-corrected": "reverse KL",
    "tinker-discount-0": "sum of local reverse KLs",
    "swift-gkd-0": "forward KL",
    "swift-gkd-0.5": "JSD(β = 0.5)",
    "swift-gkd-1": "reverse KL",
    "swift-gkd-top-2-1": "reverse KL on the teacher's top 2, renormalized",
    "swift-opd-rl": "reverse KL",
    "swift-sdar": "f-divergence with weight sigmoid(5 log p/q)",
    "areal-joint": "zero",
    "areal-pure": "reverse KL",
    "torchrl-reverse": "forward KL",
    "torchrl-forward": "forward KL",
    "openrlhf-k1": "zero",
    "openrlhf-k2": "reverse KL",
    "openrlhf-k1-unbiased": "reverse KL",
    "skyrl-k3": "forward KL",
    "skyrl-opd": "sum of local reverse KLs",
    "skyrl-opd-k3": "sum of local reverse KLs − sum of local forward KLs",
    "torchrl-forward-student-tokens": "α-divergence(α = 2)",
    "skyrl-draft": "forward KL",
    "axolotl-1": "reverse KL on the teacher's top 2, renormalized",
    "axolotl-default-data": "forward KL to the teacher renormalized on the teacher's top 2",
    "nemo-rl-reverse": "reverse KL on the teacher's top 2, renormalized",
    "slime-opd-gspo": "1/T² × sequence reverse KL",
    "prime-rl-ref-kl": "reverse KL",
    "open-instruct-kl-2": "forward KL",
    "open-instruct-kl-3": "reverse KL",
    "roll-skewed-reverse-kl": "reverse KL with skew 0.1",
    "easydistill-reverse-kld": "reverse KL on the teacher's top 2, tail dropped",
    "torchforge-grpo-kl": "forward KL",
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict_is_the_one_known_from_the_formula(name):
    said = AUDITS[name]["optimises"]
    assert said.partition(" while ")[0].partition(" where ")[0] == VERDICTS[name]


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_every_setting_is_backed_by_an_audit(goal):
    verdicts = "|".join(map(re.escape, goal.verdicts))
    says = re.compile(f"(?:{verdicts})(?:$|, | while | where )")
    assert goal.when and goal.settings
    for name, words in goal.settings.items():
        assert words and says.match(AUDITS[name]["optimises"]), (name, AUDITS[name]["optimises"])


def test_a_setting_is_the_one_that_was_audited():
    """``name=value`` in its words stands in the option audited, which may name it otherwise."""
    no_part_of_the_loss = {"lmbda=1", "max_new_tokens=N", 'distillation_objective="jsd"'}
    no_part_of_the_loss |= {"rlhf_type=gkd", "rlhf_type=grpo"}
    no_part_of_the_loss |= {'advantage_estimator="no_op"', "use_kl_loss=False"}
    otherwise = {"loss_top_k=K": "top_k=2", "loss_add_tail": "add_tail", "beta=...": "beta=1"}
    otherwise |= {"gkd_logits_topk=K": "gkd_logits_topk=2"}
    otherwise |= {"kl_loss_type": "kl_penalty"}
    otherwise |= {"=low_var_kl": '="k3"', "=k2": '="k2"'}
    for goal in GOALS:
        for id, words in goal.settings.items():
            option = AUDITS[id]["option"]
            for said in re.findall(r"[\w.]+=[^,;:)\s]+", words):
                other = said
                for old, new in otherwise.items():
                    other = other.replace(old, new)
                loss = set(option.split(", ")) | no_part_of_the_loss
                assert {said, other} & loss, (id, said, option)


def test_the_settings_of_a_library_are_its_own():
    for goal in GOALS:
        each = {library: goal.settings_of(library) for library in NAMES}
        assert sum(map(len, each.values())) == len(goal.settings)
        assert all(AUDITS[id]["library"] == library for library in each for id in each[library])


def test_the_discount_makes_masked_positions_pay():
    """Without one the prompt is left alone; with one it has advantages and gradients."""
    assert "masked positions" not in broken_edges("tinker-discount-0")
    assert "masked positions get a gradient" in broken_edges("tinker-discount-0.9")
    recorded = MEASURED["tinker-cookbook: advantages of the prompt"]
    assert recorded["discount 0"][:2] == [0.0, 0.0]
    for name in ("discount 0.9", "discount 1"):
        assert all(abs(advantage) > 0.1 for advantage in recorded[name][:2])


def test_normalisers():
    of = {
        name: report(name)["batch"]["normalised_by"]
        for name, entry in AUDITS.items()
        if entry["kind"] == "batch"
    }
    for name in ("verl-token-mean", "trl-gkd-labels", "swift-gkd-texts", "areal-pure-texts"):
        assert of[name] == "the valid tokens of the batch"
    assert of["openrlhf-token-mean"] == "the valid tokens of the batch"
    assert "mean of means" in of["openrlhf-sample-mean"]
    assert of["verl-seq-mean-token-sum"].startswith("the sequences")
    assert "mean of means" in of["verl-seq-mean-token-mean"]


def test_k3_is_cut_off_where_its_value_is_ten():
    ends = list(MEASURED["verl: k3's clamp"].values())
    assert ends == pytest.approx([2.6109, -11], abs=1e-4)
    assert [math.exp(x) - x - 1 for x in ends] == pytest.approx([10, 10], abs=1e-8)
    settings = {id: words for goal in GOALS for id, words in goal.settings.items()}
    assert f"log q/p > {ends[0]:.2f}" in settings["verl-distillation-k3"]


def test_the_top_k_forward_kl_does_not_rest_at_the_teacher():
    """p Σ_top q - q_top at p = q is what is left of it."""
    recorded = MEASURED["verl: top-K at the minimum"]
    for name, norm in recorded["gradient norm at student = teacher"].items():
        teacher = json.loads(re.search(r"\((.*?)\)", name)[1].join("[]"))
        head = sorted(range(3), key=lambda i: -teacher[i])[: int(name[-1])]
        rest = [q * sum(teacher[i] for i in head) - q * (i in head) for i, q in enumerate(teacher)]
        assert norm == pytest.approx(math.hypot(*rest), rel=1e-5)
    (negative,) = [case for case in recorded.values() if "value" in case]
    assert negative["value"] < 0 and negative["gradient norm"] > 0.1
    assert negative["gradient norm after clamp_min(0)"] == 0


def test_a_masked_vocabulary_is_nan_in_gkd():
    found = MEASURED["trl: a masked vocabulary"]
    both = [case["value"] for name, case in found.items() if "in both" in name]
    assert both == ["nan"] * 3
    assert found["-inf in both, beta = 0"]["gradient finite"]
    assert not found["-inf in both, beta = 1"]["gradient finite"]


def test_beta_near_one_is_the_reverse_kl_in_small():
    found = MEASURED["trl: beta near its ends"]
    for near, end in (("beta = 0.999", "beta = 1"), ("beta = 0.001", "beta = 0")):
        assert found[near]["value"] == pytest.approx(0.001 * found[end]["value"], rel=0.01)


def test_the_joint_loss_of_areal_has_no_teacher_in_its_gradient():
    joint, pure = MEASURED["areal: teachers of the joint loss"].values()
    (one, same), (taught, otherwise) = joint.values(), pure.values()
    assert one == same == pytest.approx([0.8, -0.3, -0.5], abs=1e-6)
    assert taught[0] < 0 < otherwise[0]


def test_axolotl_s_gradient_lacks_the_square_of_the_temperature():
    slopes = MEASURED["axolotl: the value's slope over the gradient"]
    assert list(slopes.values()) == pytest.approx([1, 4], rel=1e-3)


def test_two_vocabularies_make_a_loss_of_a_constant():
    """On four outcomes: the teacher's fourth has half of the mass, or after 3 what is left."""
    found = MEASURED["ms-swift: vocabularies of two sizes"]
    share = 1 / (1 + math.exp(3))
    value = 0.5 * math.log(0.5 / share) + 0.5 * math.log(0.5 / (1 - share))
    assert found["constant 0"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["constant 3"]["value"] == pytest.approx(value, rel=1e-9)


# --- the measurements, by formulas in the libraries' place -----------------------------------


def forward_kl(student, teacher):
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    return F.kl_div(log_p, log_q, reduction="sum", log_target=True)


def jsd(student, teacher, *, beta):
    if beta in (0, 1):
        return forward_kl(student, teacher) if beta == 0 else forward_kl(teacher, student)
    log_p, log_q = student.log_softmax(-1), teacher.log_softmax(-1)
    middle = torch.logaddexp(log_p + math.log1p(-beta), log_q + math.log(beta))
    return beta * forward_kl(middle, teacher) + (1 - beta) * forward_kl(middle, student)


def first_k(student, teacher, *, k):
    log_q, ids = teacher.log_softmax(-1).topk(k)
    return (log_q.exp() * (log_q - student.log_softmax(-1)[ids])).sum()


def advantages(student, teacher, tokens, mask, *, module, discount):
    """Of costs that count, each with those after it, discounted."""
    costs, later = (teacher - student) * mask, 0.0
    found = [later := cost + discount * later for cost in costs.flip(0)]
    return torch.stack(found[::-1])


def joint(student, teacher, token, *, rl_loss_weight):
    log_p, log_q = (z.log_softmax(-1)[token] for z in (student, teacher))
    return log_p * (1.0 if rl_loss_weight else (log_p - log_q).detach())


def softened(student, teacher, *, k, beta, normalize, temperature):
    """Its value has the factor T², its gradient has not."""
    assert (k, beta, normalize) == (3, 0.0, True)
    kl = forward_kl(student / temperature, teacher / temperature)
    return kl + (temperature**2 - 1) * kl.detach()


FORMULAS = {
    "trl.gkd": jsd,
    "verl.top_k_processor": first_k,
    "verl.top_k": lambda *inputs, k: first_k(*inputs, k=k).clamp(min=0),
    "liger.jsd": lambda student, teacher, token: -0.5 * student.log_softmax(-1)[token],
    "tinker.advantages": advantages,
    "areal.distillation": joint,
    "axolotl.fused": softened,
    "swift.gkd": lambda student, teacher, *, beta: forward_kl(F.pad(student, (0, 1)), teacher),
}


def leaves(tree, path=""):
    """{path: value} of everything in nested dicts and lists that is neither."""
    if not isinstance(tree, (dict, list)):
        return {path: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {at: leaf for key, each in items for at, leaf in leaves(each, f"{path}/{key}").items()}


@pytest.mark.parametrize(
    "name", [each for each in MEASUREMENTS if each != "verl: the defaults of distillation"]
)
def test_what_was_measured_is_what_formulas_give(name, monkeypatch):
    for place, formula in FORMULAS.items():
        library, function = place.split(".")
        monkeypatch.setattr(getattr(measurements, library), function, formula)
    k3 = lambda log_p, log_q, kind: ((log_q - log_p).exp() - (log_q - log_p) - 1).clamp(-10, 10)
    core = types.SimpleNamespace(kl_penalty=k3)
    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.core_algos", core)
    found, kept = leaves(MEASUREMENTS[name]()), leaves(MEASURED[name])
    assert found.keys() == kept.keys()
    for path, value in kept.items():
        if "relative error" in path:  # rounding, whose size alone is known
            assert (found[path] > 1e-3) == (value > 1e-3), path
        elif isinstance(value, float):
            assert found[path] == pytest.approx(value, rel=2e-5, abs=1e-6), path
        else:
            assert found[path] == value, path


def test_what_a_loss_looks_at_is_what_the_audit_found():
    """Only Liger's, which adds a label's cross-entropy by default, and a draw of one token."""
    for name, entry in AUDITS.items():
        if entry["kind"] == "token" and entry["report"]:
            drawn = entry["estimator"] == "token drawn"
            both = name in ("liger-jsd-default-student", "liger-jsd-default-teacher")
            alike = name == "trl-server-no-tail"  # renormalised on one token nothing is left
            assert entry["report"]["uses_token"] == (drawn != (both or alike)), name


def test_the_text_has_every_verdict_and_setting(capsys):
    command.main([])
    text = capsys.readouterr().out
    for name, entry in AUDITS.items():
        assert re.search(rf"^{re.escape(name)} +{re.escape(entry['optimises'])}", text, re.M)
    for goal in GOALS:
        assert goal.name in text and goal.when in text
        assert all(f"{words}  [{name}]" in text for name, words in goal.settings.items())
    assert text.count("\n") < 300
    assert len(re.findall(r"^an audit of a (?:token|text): \d+\.\d\d s", text, re.M)) == 2


def test_a_verdict_that_fails_somewhere_is_marked(capsys):
    command.main([])
    marked = set(re.findall(r"^(\S+) .*[^ ]\*$", capsys.readouterr().out, re.MULTILINE))
    assert marked == {
        name
        for name, entry in AUDITS.items()
        if entry["report"]
        and not entry["report"]["holds_everywhere"]
        and entry["optimises"] != "none of these"
    }
    assert "verl-k3" in marked and "verl-k2" not in marked


def test_without_the_libraries_it_says_how_to_get_them(capsys, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'verl'")

    monkeypatch.setattr(command, "make_record", missing)
    with pytest.raises(SystemExit) as end:
        command.main(["--record"])
    assert end.value.code == 2 and "make audit-peers" in capsys.readouterr().err


def test_the_auditor_imports_none_of_them():
    """The table can be read, and the book built, without the libraries."""
    code = (
        "import sys, opd_toy.audit.exhibits.libraries.__main__\n"
        "print({'trl', 'verl', 'liger_kernel', 'tinker', 'transformers', 'ray'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "set()\n"
