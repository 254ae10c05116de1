"""The printed tables: the notes' digits, and the engine's at full precision."""

import json
import math
import os
import subprocess
import sys

import pytest

from opd_toy.__main__ import main
from opd_toy.pages.tables import as_text, direction, strength, tables

TABLES = {table["id"]: table for table in tables()}


def columns(name):
    return dict(zip(TABLES[name]["columns"], zip(*TABLES[name]["rows"])))


def digits(values):
    return [f"{x:+.2f}" for x in values]


def test_the_notes_log_ratios():
    table = columns("three-token-rkl")
    assert digits(table["r = log(p/q)"]) == ["-1.25", "+0.41", "+1.61"]
    assert digits(table["KL(p||q)"]) == ["+0.68"] * 3
    assert digits(table["r - KL"]) == ["-1.93", "-0.27", "+0.93"]
    assert digits(table["gradient p (r - KL)"]) == ["-0.39", "-0.08", "+0.47"]
    kl = 0.2 * math.log(2 / 7) + 0.3 * math.log(1.5) + 0.5 * math.log(5)
    assert math.isclose(table["gradient p (r - KL)"][2], 0.5 * (math.log(5) - kl), rel_tol=1e-13)


def test_the_notes_table_of_directions():
    table = columns("three-token-fkl")
    assert table["p"] == (0.2, 0.3, 0.5) and table["q"] == (0.7, 0.2, 0.1)
    assert table["rKL direction"] == ("up", "up", "down") and table["rKL strength"] == (
        "strong",
        "weak",
        "strong",
    )
    assert table["fKL direction"] == ("up", "down", "down") and table["fKL strength"] == (
        "strong",
        "weak",
        "strong",
    )
    assert digits(table["fKL gradient"]) == ["-0.50", "+0.10", "+0.40"]


def test_the_notes_gkd_against_pg():
    table = columns("three-token-gkd-versus-pg")
    assert table["token"] == ("t1", "t2", "t3 (drawn)")
    assert digits(table["GKD gradient"]) == ["-0.39", "-0.08", "+0.47"]
    assert digits(table["PG gradient"]) == ["-0.32", "-0.48", "+0.80"]
    assert table["GKD direction"] == table["PG direction"] == ("up", "up", "down")
    assert table["GKD strength"] == ("strong", "weak", "strong")
    assert (
        "notes print +.81" in TABLES["three-token-gkd-versus-pg"]["note"]
        and "0.8047" in TABLES["three-token-gkd-versus-pg"]["note"]
    )


def test_the_notes_t1_drawn():
    table = columns("three-token-pg")
    assert digits(table["PG gradient"]) == ["-1.00", "+0.38", "+0.63"]
    assert table["PG direction"] == ("up", "down", "down") and table["PG strength"] == (
        "strong",
        "medium",
        "strong",
    )


def test_every_draw_and_their_mean():
    rows = TABLES["pg-sign-flip"]["rows"]
    assert [row[0] for row in rows] == [
        "t1 drawn",
        "t2 drawn",
        "t3 drawn",
        "mean of PG",
        "GKD, any draw",
    ]
    assert rows[3][2:] == pytest.approx(rows[4][2:], rel=1e-12)
    assert [row[3] < 0 for row in rows] == [False, False, True, True, True]


def test_the_notes_below_the_tables_say_what_is_so():
    p, q = (0.2, 0.3, 0.5), (0.7, 0.2, 0.1)
    kl = lambda p, q: sum(a * math.log(a / b) for a, b in zip(p, q))
    notes = {name: table["note"] for name, table in TABLES.items()}
    said = f"KL(p||q) = {kl(p, q):.4f}, KL(q||p) = {kl(q, p):.4f}; the two disagree on t2."
    assert notes["three-token-fkl"] == said
    ratio = math.log(0.2 / 0.7)
    said = f"C = log p - log q = {ratio:+.2f}. Now t2 goes down; with t3 drawn it goes up."
    assert notes["three-token-pg"] == said
    assert math.log(p[1] / q[1]) < kl(p, q)
    said = "t2 goes up although p2 > q2: its log-ratio is below the mean."
    assert notes["three-token-rkl"] == said


def test_words_for_signs_and_sizes():
    assert direction([-1.0, 0.0, 2.0]) == ["up", "still", "down"]
    assert strength([0.0, 0.0]) == ["weak", "weak"]
    assert strength([1.0, -0.3, 0.2]) == ["strong", "medium", "weak"]
    assert strength([4.0, 2.0, -1.0]) == ["strong", "strong", "medium"]  # just a half, a quarter


def test_text_is_aligned_and_whole():
    for table in TABLES.values():
        title, _, header, rule, *rest = as_text(table).splitlines()
        rows = rest[: len(table["rows"])]
        assert table["id"] in title and all(name in header for name in table["columns"])
        ends = [i for i, (a, b) in enumerate(zip(rule, rule[1:] + " ")) if a == "-" and b == " "]
        assert len(ends) == len(table["columns"])
        for line in [header, *rows]:  # columns but the first end where their rule does
            assert all(line[end] != " " for end in ends[1:]) and len(line) == len(rule)


def test_command_line_prints_the_tables(capsys):
    main(["tables"])
    text = capsys.readouterr().out
    assert all(as_text(table) in text for table in TABLES.values())
    main(["tables", "--json"])
    text = capsys.readouterr().out
    printed = json.loads(text)
    assert text == json.dumps(printed, indent=2) + "\n"
    assert printed["student"] == [0.2, 0.3, 0.5] and printed["teacher"] == [0.7, 0.2, 0.1]
    assert printed["tables"] == tables()  # to the last bit


def test_command_line_helps_and_refuses():
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "opd_toy", *arguments], capture_output=True, text=True
        )

    for arguments in (["--help"], ["tables", "--help"]):
        done = run(*arguments)
        assert done.returncode == 0 and "tables" in done.stdout
    assert "--json" in run("tables", "--help").stdout
    for arguments in ([], ["nonsense"]):
        done = run(*arguments)
        assert done.returncode == 2 and "usage: python -m opd_toy" in done.stderr


def test_a_reader_who_stops_early_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)  # as head does, only sooner
    run = subprocess.run(
        [sys.executable, "-m", "opd_toy", "tables"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (run.returncode, run.stderr) == (0, "")
