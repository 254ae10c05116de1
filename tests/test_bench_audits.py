"""The audits' times: which losses are timed, what is counted, the command and its errors."""

import dataclasses
import io
import json
import warnings

import pytest
import torch

from opd_toy.__main__ import main
from opd_toy.audit import AuditError, audit
from opd_toy.audit.exhibits import timing
from opd_toy.audit.exhibits.libraries.record import LIBRARY_LOSSES
from opd_toy.audit.exhibits.museum import EXHIBITS, k1_as_loss
from opd_toy.audit.exhibits.notes_claims import CLAIMS
from opd_toy.commands import bench, bench_audits
from opd_toy.commands.running import read_record
from tests.conftest import ROOT


def entry(loss, report=audit, **facts):
    return timing.Entry(
        **{"id": "x", "of": "museum", "level": "token"} | facts, loss=loss, report=report
    )


def test_every_loss_that_is_audited_is_timed_once():
    found = timing.entries()
    assert len({(entry.of, entry.id) for entry in found}) == len(found)
    losses = [entry.loss for entry in found]
    for exhibit in EXHIBITS.values():
        assert losses.count(exhibit.wrong) == losses.count(exhibit.right) == 1
    for row in (row for claim in CLAIMS.values() for row in claim):
        assert losses.count(row.loss) == 1
    assert {entry.id for entry in found} >= set(LIBRARY_LOSSES)
    assert {entry.level for entry in found} == {"token", "sequence"}


def test_the_calls_are_the_loss_s_own():
    calls = []

    def loss(student_logits, teacher_logits, token):
        calls.append(token)
        return k1_as_loss(student_logits, teacher_logits, token)

    row = timing.timed(entry(loss), 1)
    assert row["calls"] == len(calls) > 100 and row["seconds"] > 0
    assert (row["id"], row["of"], row["level"], row["optimises"]) == (
        "x",
        "museum",
        "token",
        "zero",
    )
    again = timing.timed(entry(loss), 3)
    assert again["calls"] == row["calls"] and len(calls) == 4 * row["calls"]


def test_the_least_of_the_repeats_counts(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 11.23456, 20.0, 24.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    report = lambda loss: type("Report", (), {"optimises": "zero"})
    assert timing.timed(entry(k1_as_loss, report), 3)["seconds"] == 1.2346


def test_what_refuses_is_timed_and_what_is_not_there_is_named():
    def refuses(student, teacher, token):
        raise NotImplementedError

    def absent(student, teacher, token):
        import no_such_library  # noqa: F401

    steps = []
    chosen = [entry(refuses), entry(absent, of="a-library"), entry(absent, of="a-library")]
    found = timing.measure(chosen, 1, lambda *step: steps.append(step))
    (row,) = found["audits"]
    assert row["optimises"] == "cannot be audited" and row["calls"] > 0
    assert found["missing"] == ["a-library"] and steps == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(AuditError):
        audit(refuses)


def test_all_is_timed_on_one_thread():
    before, threads = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        timing.measure(
            [
                entry(
                    k1_as_loss, lambda loss: threads.append(torch.get_num_threads()) or audit(loss)
                )
            ],
            1,
            lambda *step: None,
        )
    finally:
        torch.set_num_threads(before)
    assert threads == [1]


def test_what_a_library_warns_of_is_not_shown():
    def warns(*inputs):
        warnings.warn("of a library", stacklevel=1)
        return k1_as_loss(*inputs)

    with warnings.catch_warnings(action="error"):
        (row,) = timing.measure([entry(warns)], 1, lambda *step: None)["audits"]
    assert row["optimises"] == "zero"


def test_a_job_is_read_and_its_progress_written(monkeypatch, capsys):
    def measure(chosen, repeats, report):
        report(1, len(chosen))
        return {"of": sorted({entry.of for entry in chosen}), "repeats": repeats}

    monkeypatch.setattr(timing, "measure", measure)
    many = {
        of: sum(of in (None, entry.of) for entry in timing.entries()) for of in ("museum", None)
    }
    for of in many:
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"of": of, "repeats": 2})))
        flushed = []
        monkeypatch.setattr("sys.stdout.flush", lambda: flushed.append(True))  # noqa: B023
        timing.main()
        assert flushed  # a step is told when it is done
        progress, found = map(json.loads, capsys.readouterr().out.splitlines())
        assert progress == [1, many[of]] and found["repeats"] == 2
        assert (found["of"] == ["museum"]) == (of == "museum")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "measure", interrupted)
    monkeypatch.setattr("sys.stdin", io.StringIO('{"of": "museum", "repeats": 2}'))
    with pytest.raises(SystemExit) as end:
        timing.main()
    assert end.value.code == 130


def test_a_library_s_loss_is_audited_as_its_record_says(monkeypatch):
    """With the counted loss in the adapter's place, and all else as it is."""
    seen = []
    monkeypatch.setattr(timing, "report_of", lambda loss: seen.append(loss) or "a report")
    for id, level in (("verl-k1", "token"), ("slime-opd-gspo", "sequence")):
        (one,) = (entry for entry in timing.entries() if entry.id == id)
        assert one.level == level and one.loss is LIBRARY_LOSSES[id].adapter
        assert one.of == LIBRARY_LOSSES[id].library and one.report(k1_as_loss) == "a report"
        assert seen.pop() == dataclasses.replace(LIBRARY_LOSSES[id], adapter=k1_as_loss)


def test_the_record_has_every_loss_and_the_verdicts_of_the_index():
    """``missing`` is empty: it was made where the libraries are."""
    found = read_record(ROOT / "figures" / bench_audits.RECORD)
    assert found["missing"] == [] and found["threads"] == 1
    rows = {(row["of"], row["id"]): row for row in found["audits"]}
    assert set(rows) == {(entry.of, entry.id) for entry in timing.entries()}
    index = read_record(ROOT / "figures" / "library-audits.json")["audits"]
    for audited in index:
        assert rows[audited["library"], audited["id"]]["optimises"] == audited["optimises"]


# --- tables, the command -----------------------------------------------------------------------


def row(n, level="token"):
    return {
        "id": f"loss-{n}",
        "of": "museum",
        "level": level,
        "seconds": n / 10,
        "calls": 100 * n,
        "optimises": "zero",
    }


def results():
    rows = [row(n) for n in range(1, 21)] + [row(n, "sequence") for n in (50, 40)]
    return {"audits": rows, "missing": ["verl"]}


def test_the_distribution():
    head, token, text = bench_audits.table(results())
    assert len(head) == len(token) == len(text)
    assert token == ("of a token", "20", "1.05 s", "1.90 s", "2.00 s", "1050", "2000")
    assert text == ("of a text", "2", "4.50 s", "5.00 s", "5.00 s", "4500", "5000")
    assert [row["id"] for row in bench_audits.slowest(results())] == [
        f"loss-{n}" for n in (50, 40, 20, 19, 18)
    ]


def test_the_command_records_and_shows(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(bench, "measure", lambda *job: asked.append(job) or results())
    main(["bench", "--audits", "--quick", "--directory", str(tmp_path)])
    shown = capsys.readouterr().out
    kept = read_record(tmp_path / bench_audits.RECORD)
    assert (kept["threads"], kept["repeats"], len(kept["audits"])) == (1, 2, 22)
    assert "30 s in all" in shown and "5.00 s, 5000 calls: loss-50 (museum): zero" in shown
    assert "Not here: verl; `make peers` fetches them." in shown
    job, module, _ = asked[0]
    assert job == {"of": "museum", "repeats": 2, "threads": 1}
    assert module == "opd_toy.audit.exhibits.timing"
    main(["bench", "--audits", "--show", "--directory", str(tmp_path)])
    assert capsys.readouterr().out == shown
    main(["bench", "--audits", "--show", "--json", "--directory", str(tmp_path)])
    assert json.loads(capsys.readouterr().out)["missing"] == ["verl"]
    main(["bench", "--audits", "--repeats", "3", "--directory", str(tmp_path)])
    assert asked[-1][0] == {"of": None, "repeats": 3, "threads": 1}
    sources = json.loads((tmp_path / bench_audits.RECORD).read_text())["provenance"]["sources"]
    assert {"opd_toy/audit/token/measure.py", "requirements-peers.txt"} <= set(sources)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--repeats", "0"], "repeats is 0; give a whole number"),
        (["--threads", str(bench.THREADS + 1)], "threads is of no use here"),
        (["--show", "--directory", "nowhere"], "which holds no audit-times.json"),
    ],
)
def test_errors(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--audits", *arguments])
    assert message in capsys.readouterr().err
