"""What is made of the libraries' audits: words in tables, differences, the record, the readings."""

import copy
import dataclasses
import datetime
import importlib
import json
import os
import re
import statistics
import sys
import warnings

import numpy as np
import pytest
import torch

from opd_toy.audit.exhibits import museum
from opd_toy.audit.exhibits.libraries import __main__ as command
from opd_toy.audit.exhibits.libraries import index, record
from opd_toy.audit.exhibits.libraries.differences import differences
from opd_toy.audit.exhibits.libraries.library_loss import (
    log_probabilities,
    log_probabilities_of_texts,
)
from opd_toy.audit.exhibits.libraries.loading import Absent, Anything, load
from opd_toy.audit.exhibits.libraries.record import LIBRARY_LOSSES, RECORD
from opd_toy.audit.exhibits.libraries.settings import as_code
from opd_toy.audit.token.measure import tabulate
from opd_toy.distributions import log_softmax
from opd_toy.estimators import total_variance
from opd_toy.example import STUDENT, TEACHER
from tests.audit_sequence_losses import audit_on_fewer
from tests.written import check_text

pytestmark = pytest.mark.usefixtures("one_thread")
RESULTS = json.loads(RECORD.read_text(encoding="utf-8"))["results"]
AUDITS = {entry["id"]: entry for entry in RESULTS["audits"]}
READ = [name for name, loss in LIBRARY_LOSSES.items() if loss.source]


# --- the readings --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [each for each in READ if LIBRARY_LOSSES[each].kind == "token"])
def test_a_reading_has_the_gradients_that_were_recorded(name):
    report = AUDITS[name]["report"]
    arguments = 3 if report["uses_token"] else 2
    rows = tabulate(LIBRARY_LOSSES[name].adapter, arguments, np.log(STUDENT), np.log(TEACHER)).rows
    rows = np.broadcast_to(rows, (3, 3))
    np.testing.assert_allclose(STUDENT @ rows, report["expected_gradient"], atol=1e-9)
    assert total_variance(STUDENT, rows) == pytest.approx(report["variance"], abs=1e-9)
    same = tabulate(LIBRARY_LOSSES[name].adapter, arguments, np.log(TEACHER), np.log(TEACHER))
    value = TEACHER @ np.broadcast_to(same.values, 3)
    kept = report["value_at_teacher"]["value"]
    assert value == pytest.approx(np.nan if kept is None else kept, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("name", [each for each in READ if LIBRARY_LOSSES[each].kind != "token"])
def test_a_reading_of_texts_is_what_was_recorded(name):
    entry, found = AUDITS[name], audit_on_fewer(LIBRARY_LOSSES[name].adapter)
    assert found.optimises == entry["optimises"]
    np.testing.assert_allclose(
        found.expected_gradient, entry["report"]["expected_gradient"], atol=1e-9
    )
    assert found.variance == pytest.approx(entry["report"]["variance"], rel=1e-9)
    stale = entry["report"]["stale"]
    for key in ("level", "cost", "correction", "limits") if stale else ():
        assert json.loads(json.dumps(found.stale[key])) == stale[key]


@pytest.mark.parametrize("estimator", range(4))
def test_open_instruct_holds_the_log_ratio_within_forty(estimator):
    loss = LIBRARY_LOSSES[f"open-instruct-kl-{estimator}"].adapter
    for log_ratio, held in ((39.9, False), (40.1, True), (-39.9, False), (-40.1, True)):
        student, teacher = torch.zeros(2, 2, dtype=torch.float64)
        (teacher if log_ratio > 0 else student)[0] = -abs(log_ratio) - np.log(2)
        cost = (student.log_softmax(-1) - teacher.log_softmax(-1))[0].item()
        student.requires_grad_()
        value = loss(student, teacher, torch.tensor(0))
        (gradient,) = torch.autograd.grad(value, student)
        assert cost == pytest.approx(log_ratio, abs=1e-9) and (abs(cost) > 40) == held
        if estimator < 3:
            assert (not gradient.any()) == held
        else:
            assert value.item() == pytest.approx(np.clip(cost, -40, 40))


def test_the_tail_of_a_stored_teacher_is_cut_at_1e_minus_10():
    loss = LIBRARY_LOSSES["easydistill-reverse-kld"].adapter
    student = torch.tensor([0.0, 0.0, -5.0], dtype=torch.float64)
    for second in (-30.0, -40.0):  # both below e^-23
        teacher = torch.tensor([0.0, second, -50.0], dtype=torch.float64)
        p = student.log_softmax(-1)[:2].exp()
        wanted = p[0] * p[0].log() + p[1] * (p[1].log() + 10 * np.log(10))
        assert loss(student, teacher).item() == pytest.approx(wanted.item(), rel=1e-9)


def test_the_rest_of_a_stored_teacher_counts_from_a_millionth_on():
    loss = LIBRARY_LOSSES["distillkit-uniform"].adapter
    student = torch.tensor([0.2, -0.1, -30.0], dtype=torch.float64)
    for rest in (1e-9, 1.5e-6):
        q = torch.tensor([0.5 - rest, 0.5, rest], dtype=torch.float64)
        wanted = (q[:2] * (q[:2].log() - student.log_softmax(-1)[:2])).sum().item()
        wanted += rest * np.log(rest / 1e-6) if rest > 1e-6 else 0.0
        assert loss(student, q.log()).item() == pytest.approx(wanted, abs=1e-11)


def test_prime_rl_drops_what_has_fallen_and_holds_the_student_near_the_author():
    loss = LIBRARY_LOSSES["prime-rl-ref-kl-old"].adapter
    p, mu = np.array([0.3, 0.3, 0.6, 0.3]), np.array([0.49, 0.51, 0.2, 0.9])
    q, mask = np.array([0.2, 0.4, 0.5, 0.6]), np.array([1.0, 1.0, 1.0, 0.0])
    logits = [torch.tensor(np.log(np.stack([x, 1 - x], axis=-1))) for x in (p, q, mu)]
    found = loss(*logits, torch.zeros(4, dtype=torch.int64), torch.tensor(mask)).item()
    apart, kept = np.log(p / mu), np.array([1.0, 0.0, 1.0, 1.0])
    terms = kept * np.log(p / q) * p / mu + 1e-3 * apart**2
    assert found == pytest.approx(mask @ terms, rel=1e-12)


def test_log_probabilities_are_the_tokens_and_the_teacher_is_data():
    random = np.random.default_rng(0)
    logits = [torch.tensor(random.normal(size=(2, 3, 4)), requires_grad=True) for _ in range(2)]
    tokens = torch.tensor([[1, 2, -100], [3, 0, 1]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    found = log_probabilities_of_texts(*logits, tokens, mask)
    for values, z in zip(found, logits):
        rows = log_softmax(z.detach().numpy())
        wanted = [[rows[b, t, max(tokens[b, t], 0)] for t in range(3)] for b in range(2)]
        np.testing.assert_allclose(values.detach().numpy(), wanted)
    assert [values.requires_grad for values in found] == [True, False]
    one = log_probabilities(logits[0][0, 0], logits[1][0, 0], torch.tensor(1))
    assert [x.item() for x in one] == [x[0, 0].item() for x in found]
    assert [x.requires_grad for x in one] == [True, False]


def test_an_entry_of_the_record_is_made_of_the_loss_and_its_report(monkeypatch):
    kept = AUDITS["roll-forward-kl"]
    made = json.loads(json.dumps(record.audited(LIBRARY_LOSSES["roll-forward-kl"])))
    assert list(made) == list(kept) and made["date"] == str(
        datetime.datetime.now(datetime.UTC).date()
    )
    for name in set(kept) - {"date", "seconds", "report"}:
        assert made[name] == kept[name], name
    assert 0 < made["seconds"] == round(made["seconds"], 2)
    assert made["report"]["expected_gradient"] == pytest.approx(kept["report"]["expected_gradient"])

    def warns(student, teacher):
        warnings.warn("of a library", stacklevel=1)
        return LIBRARY_LOSSES["roll-forward-kl"].adapter(student, teacher)

    own = dataclasses.replace(
        LIBRARY_LOSSES["roll-forward-kl"], source=None, library="numpy", adapter=warns
    )
    monkeypatch.setattr(record, "MEASUREMENTS", {})
    with warnings.catch_warnings(action="error"):
        (entry,) = record.results_of([own])["audits"]
    assert entry["optimises"] == "forward KL"
    own = dataclasses.replace(LIBRARY_LOSSES["roll-forward-kl"], source=None, library="numpy")
    entry = record.audited(dataclasses.replace(own, drawn_from="teacher"))
    assert entry["version"] == np.__version__ and entry["source"] is None
    assert entry["report"]["drawn_from"] == "teacher"


def test_a_loss_is_audited_with_its_options_and_the_record_s_seed(monkeypatch):
    monkeypatch.setattr(record, "SEED", 5)
    for name in ("audit", "audit_sequence"):
        monkeypatch.setattr(record, name, lambda loss, name=name, **options: (name, options))
    loss = dataclasses.replace(LIBRARY_LOSSES["roll-forward-kl"], drawn_from="teacher")
    assert record.report_of(loss) == ("audit", {"drawn_from": "teacher", "seed": 5})
    for kind, batched in (("sequence", False), ("batch", True)):
        found = record.report_of(dataclasses.replace(loss, kind=kind))
        assert found == ("audit_sequence", {"batched": batched, "seed": 5})


# --- words of the index --------------------------------------------------------------------


def entry(report=None, **facts):
    plain = {
        "holds_everywhere": True,
        "edges": [],
        "variance": 1.0,
        "variance_compared": {"plain policy gradient": 4.0, "own sampled cost": 0.5},
        "fixed_point": {"is_fixed": True, "gradient_norm": 0.0},
    }
    report = None if report is False else plain | (report or {})
    return {"optimises": "reverse KL", "kind": "token", "note": "why", "report": report} | facts


@pytest.mark.parametrize(
    "made, said",
    [
        (entry(), "reverse KL"),
        (entry(False, optimises="cannot be audited"), "cannot be audited: why"),
        (
            entry({"nearest": {"name": "x", "cosine": 0.98765}}, optimises="none of these, far"),
            "none of these; nearest: x, cosine 0.988",
        ),
        (entry({"holds_everywhere": False, "holds_up_to": 9.04}), "reverse KL (up to a log-ratio "
         "of 9.0)"),
        (entry({"holds_everywhere": False, "holds_up_to": None}), "reverse KL"),
        (entry({"holds_everywhere": False, "holds_up_to": 9.0}, optimises="x where y"),
         "x where y"),
        (entry({"holds_up_to": 9.0}), "reverse KL"),
    ],
)  # fmt: skip
def test_what_is_followed(made, said):
    assert index.follows(made) == said


def test_noise_is_a_ratio_of_variances():
    assert index.noise(entry()) == "0.25" and index.noise(entry(kind="batch")) == "2.00"
    assert index.noise(entry({"variance": 0})) == "0" and index.noise(entry(False)) == "–"
    assert index.noise(entry({"variance_compared": {"plain policy gradient": 0.0}})) == "–"


def edge(name, severity, finding):
    return {"edge": name, "severity": severity, "finding": finding}


@pytest.mark.parametrize(
    "made, said",
    [
        (entry(False), ""),
        (entry({"edges": [edge("a token masked (−inf) in both", "broken", "NaN")]}),
         "NaN where both mask a token"),
        (entry({"edges": [edge("a token masked (−inf) in the teacher only", "broken", "a NaN")]}),
         "NaN where the teacher masks a token"),
        (entry({"edges": [edge("a token masked (−inf) in the student only", "broken", "NaN")]}),
         "NaN where the student masks a token"),
        (entry({"edges": [edge("a token masked (−inf) in both", "broken", "value x")]}),
         "a token masked (−inf) in both: value x"),
        (entry({"edges": [edge("a token masked (−inf) in both", "note", "x")]}), ""),
        (entry({"edges": [edge("clamp", "note", "x"), edge("dead gradient", "note", "y")]}),
         "x; gradient y"),
        (entry({"edges": [edge("z", "broken", "value y"), edge("z", "broken", "w")]}),
         "z: value y; w"),
        (entry({"edges": [edge("z", "note", "value y"), edge("y", "fine", "")]}), ""),
        (entry({"fixed_point": {"is_fixed": False, "gradient_norm": 0.126}}),
         "gradient 0.13 at student = teacher"),
        (entry({"fixed_point": {"is_fixed": False, "gradient_norm": None}}),
         "gradient NaN at student = teacher"),
        (entry({"fixed_point": 0.3, "batch": {"normalised_by": "x"}}, kind="batch"),
         "divided by: x"),
        (entry({"fixed_point": 0.3, "batch": None}, kind="sequence"), ""),
    ],
)  # fmt: skip
def test_remarks(made, said):
    assert index.remarks(made) == said


def test_names_versions_and_addresses():
    assert [index.own_name(name) for name in ("a.b.f", "a.B.f", "a.b.C")] == ["f", "B.f", "C"]
    source = {"repository": "o/r", "path": "a/b.py", "commit": "0123"}
    assert index.version_of({"version": "1.2", "source": None}) == "1.2"
    assert index.version_of({"version": "0123", "source": source}) == "at 0123"
    assert index.where_read({"source": None}) == ""
    assert index.where_read({"source": source}) == "https://github.com/o/r/blob/0123/a/b.py"
    assert index.in_a_table("|a|") == "\\|a\\|" and index.anchor_of({"id": "x"}) == "audit-x"
    known = [{"library": name, "version": str(n)} for n, name in enumerate(index.PACKAGES)]
    other = [{"library": "other", "version": "9"}]
    assert index.versions(known + other) == {name: str(n) for n, name in enumerate(index.PACKAGES)}
    mixed = [{"library": name} for name in reversed(index.NAMES)]
    assert [each["library"] for each in index.sorted_by_library(mixed)] == list(index.NAMES)
    joined = {each["id"]: each for each in index.joined(RESULTS["audits"])}
    assert joined["verl-k1"]["objective"] == "zero: nothing on average"
    assert not joined["verl-full"]["holds_everywhere"] and not joined["verl-k3"]["holds_everywhere"]
    assert joined["verl-k2"]["holds_everywhere"] and joined["verl-k2"]["name"] == "verl"


def test_code_in_the_words_of_a_setting():
    for words, marked in (
        ("avoid f(x=1, y): a", "avoid `f(x=1, y)`: a"),
        ('k="a b", and c=...', '`k="a b"`, and `c=...`'),
        ("beta=0.5, x=-1.", "`beta=0.5`, `x=-1`."),
        ("a.b_c of GKDTrainer and DPOConfig", "`a.b_c` of `GKDTrainer` and `DPOConfig`"),
        ("nothing here, T = 2", "nothing here, T = 2"),
    ):
        assert as_code(words) == marked


# --- two records ---------------------------------------------------------------------------


def pair_of(before, after):
    """The differences of two entries whose reports have these fields."""
    plain = {
        "holds_everywhere": True, "edges": [], "variance": 1.0, "expected_gradient": [1.0, 0.0],
        "optimises": "y",
    }  # fmt: skip
    both = [
        [{"id": "x", "library": "l", "version": "1", "optimises": "y", "option": "o",
          "report": None if each is None else plain | each}]
        for each in (before, after)
    ]  # fmt: skip
    return differences(*both)


@pytest.mark.parametrize(
    "before, after, said",
    [
        ({}, {}, []),
        ({}, None, []),
        (None, {}, []),
        ({"holds_everywhere": False}, {}, ["x: holds everywhere now"]),
        ({}, {"holds_everywhere": False}, ["x: no longer holds everywhere"]),
        ({"batch": {"normalised_by": "a"}}, {"batch": None}, ["x: was divided by a, is by None"]),
        ({"batch": {"normalised_by": "a"}}, {"batch": {"normalised_by": "a"}}, []),
        ({"edges": [edge("e", "broken", "f")]}, {"edges": [edge("e", "note", "f")]},
         ["x: mended: e"]),
        ({"edges": [edge("e", "broken", "f")]}, {"edges": [edge("e", "broken", "g")]}, []),
        ({}, {"edges": [edge("e", "broken", "f")]}, ["x: broken: e, f"]),
        ({}, {"variance": 1.0009}, []),
        ({}, {"variance": 1.0011}, ["x: the variance was 1, is 1"]),
        ({"variance": 0.0}, {"variance": 0.9e-9}, []),
        ({"variance": 0.0}, {"variance": 1.1e-9}, ["x: the variance was 0, is 1.1e-09"]),
        ({}, {"expected_gradient": [1.0009, 0.9e-6]}, []),
        ({}, {"expected_gradient": [1.0, 1.1e-6]}, ["x: another mean gradient at the same pair"]),
        ({}, {"expected_gradient": [1.0]}, ["x: another mean gradient at the same pair"]),
        ({"optimises": "a"}, {"optimises": "b", "variance": 2.0}, []),
    ],
)  # fmt: skip
def test_what_differs_is_said_and_rounding_is_not(before, after, said):
    assert pair_of(before, after) == said


def test_versions_differ_where_both_have_the_library():
    old = [{"id": "x", "library": "l", "version": "1", "optimises": "y", "option": "o",
            "report": None}]  # fmt: skip
    new = copy.deepcopy(old)
    new[0] |= {"version": "2", "option": "p", "optimises": "z"}
    assert differences(old, new) == [
        "l: from 1 to 2",
        "x: followed y, follows z",
        "x: the option was o, is p",
    ]
    other = [old[0] | {"id": "w", "library": "m"}]
    assert differences(old, other) == ["x: no longer there", "w: new, y"]


# --- the command ---------------------------------------------------------------------------


def test_the_record_is_written_with_what_it_was_made_of(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "results_of", lambda losses: [loss.id for loss in losses])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    command.make_record(tmp_path / "made.json")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    made = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    kept = json.loads(RECORD.read_text(encoding="utf-8"))["provenance"]
    assert made["results"] == list(LIBRARY_LOSSES)
    for name in ("command", "seed", "modules", "files"):
        assert made["provenance"][name] == kept[name]


def test_the_record_and_the_index_as_json(capsys):
    for option, wanted in (("--json", RESULTS), ("--index", index.joined(RESULTS["audits"]))):
        command.main([option])
        printed = capsys.readouterr().out
        assert json.loads(printed) == wanted
        assert "β" in printed and re.match(r"[\[{]\n  \S", printed)


def test_the_table_says_how_long_audits_take(capsys):
    command.main([])
    printed = capsys.readouterr().out
    for kinds, words in ((("token",), "a token"), (("sequence", "batch"), "a text")):
        seconds = [each["seconds"] for each in AUDITS.values() if each["kind"] in kinds]
        wanted = f"an audit of {words}: {statistics.median(seconds):.2f} s at the median\n"
        assert wanted in printed
    assert list(command._times([each for each in AUDITS.values() if each["kind"] == "x"])) == []
    assert "* not everywhere: see the edges in its report" in printed
    assert command._verdict(AUDITS["verl-full"]) == "cannot be audited"


def test_help_and_what_is_missing(tmp_path, monkeypatch, capsys):
    usage = " ".join(command.parser().format_usage().split())
    called = "usage: python -m opd_toy.audit.exhibits.libraries"
    assert usage == f"{called} [-h] [--record] [--json] [--index] [--against OLD.json]"
    check_text(
        "exhibits.txt", "the record's command", " ".join(command.parser().format_help().split())
    )
    monkeypatch.setattr(command, "RECORD", tmp_path / "none.json")
    with pytest.raises(SystemExit):
        command.main([])
    assert "none.json is not there; `make audit-peers` makes it" in capsys.readouterr().err


# --- a library's file without its package --------------------------------------------------


def test_a_stand_in_can_be_used_for_anything():
    def plain(x):
        return x

    assert Anything(plain) is plain and Anything(plain, 1) is Anything
    assert Anything(3) is Anything and Anything(key=plain) is Anything
    assert Anything.name.other is Anything and Anything[int] is Anything

    class Derived(Anything):
        def __init__(self, x, y=0):
            self.sum = x + y

    assert Derived(2, y=3).sum == 5 and Derived[int] is Derived
    module = Absent("missing")
    assert module.whatever is Anything and module.__path__ == ()
    for owner in (Anything, module):
        with pytest.raises(AttributeError, match="__missing__"):
            owner.__missing__  # noqa: B018


def test_a_file_is_loaded_once_and_what_is_outside_its_package_stays(tmp_path, monkeypatch):
    folder = tmp_path / "light_trainer" / "deep"
    folder.mkdir(parents=True)
    (folder / "loss.py").write_text("import outside_of_it\nfrom . import helper\nx = [1]\n")
    (folder / "helper.py").write_text("")
    (tmp_path / "outside_of_it.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    first = load("light_trainer.deep.loss")
    assert first.x == [1] and load("light_trainer.deep.loss") is first
    assert "outside_of_it" in sys.modules and not [
        x for x in sys.modules if x.startswith("light_trainer")
    ]
    del sys.modules["outside_of_it"]
    with pytest.raises(ModuleNotFoundError) as error:
        load("no_such_trainer.loss")
    assert error.value.name == "no_such_trainer"


# --- the museum ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", museum.EXHIBITS)
def test_what_an_exhibit_says_of_its_mistake(name):
    """Read again whenever it changes: tests/test_museum.py has the losses do what is said here."""
    shown = museum.EXHIBITS[name]
    check_text("exhibits.txt", name, "\n".join([shown.title, shown.mistake, shown.consequence]))


def test_what_was_imported_before_is_there_again(tmp_path, monkeypatch):
    """The package itself, a module of it, and one for which another stood in."""
    folder = tmp_path / "heavy_trainer"
    folder.mkdir()
    (folder / "__init__.py").write_text("from . import helper\n")
    (folder / "helper.py").write_text("")
    (folder / "loss.py").write_text("import rare\nx = rare.whatever\n")
    (tmp_path / "rare.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("heavy_trainer", "heavy_trainer.helper", "rare")
    before = [importlib.import_module(name) for name in names]
    assert load("heavy_trainer.loss", ("rare",)).x is Anything
    assert [sys.modules[name] for name in names] == before
    assert "heavy_trainer.loss" not in sys.modules
    for name in names:
        del sys.modules[name]
