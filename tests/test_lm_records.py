"""The lab's records hold the settings that the code has, and what follows from their numbers."""

import dataclasses
import json

import numpy as np
import pytest

from opd_toy.lm import derailing, derailing_after, presets, searching, stale
from opd_toy.lm.bench import cases, floors, growth
from opd_toy.lm.bench import training as steps
from opd_toy.lm.doors import DOORS, Rule
from opd_toy.lm.rows import CPU_BLOCK_BYTES
from opd_toy.lm.study import frozen, stages
from opd_toy.lm.study.record import PAIRS
from opd_toy.lm.study.rounding import rounded
from opd_toy.records.provenance import recorded

pytestmark = pytest.mark.usefixtures("one_thread")


def as_json(value):
    return json.loads(json.dumps(value))


def asked(settings):
    return as_json(dataclasses.asdict(settings))


# --- the study ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study():
    return recorded("lm-study-cpu", "study")


def test_the_study_had_the_settings_of_its_preset(study):
    settings = asked(presets.PRESETS["cpu"]) | {"effort": asked(stages.EFFORTS["cpu"])}
    assert study["preset"] == rounded(settings)
    assert study["final"]["prompts"] == settings["effort"]["prompts"]


def test_the_study_trained_and_measured_what_the_code_names(study):
    rate, factors = study["preset"]["distillation"]["rate"], (1, *stages.FACTORS)
    rates = {name: [row["rate"] for row in rows] for name, rows in study["sweep"].items()}
    assert rates == {
        name: pytest.approx(sorted(rate * factor for factor in factors), rel=1e-4)
        for name in stages.SWEPT
    }
    assert tuple(study["from_teacher"]["methods"]) == stages.FROM_TEACHER
    assert study["from_teacher"]["rate"] == pytest.approx(rate * stages.GENTLE)
    assert tuple(study["exposure"]) == stages.EXPOSED
    assert tuple(study["frozen"]) == stages.HELD_STILL
    for student in study["frozen"].values():
        assert tuple(student["estimators"]) == frozen.ESTIMATORS
        assert list(student["log_ratios"]) == ["/".join(pair) for pair in PAIRS]
        assert student["texts"] == study["preset"]["effort"]["texts"]


# --- the benchmarks ----------------------------------------------------------------------


def test_the_losses_were_timed_with_the_settings_of_the_code():
    record = recorded("loss-benchmark", "bench")
    asked_for = (*cases.SETTINGS, *cases.ONE_THREAD)
    for row, setting in zip(record["settings"], asked_for, strict=True):
        threads = setting.threads or record["threads"]
        wanted = asked(setting) | {"words": setting.words(), "threads": threads}
        assert {name: row[name] for name in wanted} == wanted
        assert [(each["case"], each["words"]) for each in row["rows"]] == [
            (case, cases.CASES[case]) for case in setting.cases
        ]
        assert len(row["rows"][0]["seconds"]) == np.ceil(setting.share * record["repeats"])
        words = [(each["kind"], each["words"]) for each in row["floors"]]
        assert words == [(kind, floors.WORDS[kind]) for kind in floors.kinds(setting)]


def test_growth_was_measured_at_the_sizes_of_the_code():
    record = recorded("loss-growth", "bench --growth")
    sizes = [
        {"over": sweep.over, "line": line, "value": value}
        | {name: asked(sweep.setting(line, value))[name] for name in ("tokens", "vocabulary")}
        | {"width": sweep.setting(line, value).width}
        for sweep in growth.SWEEPS
        for line in sweep.lines
        for value in sweep.values
    ]
    assert [{name: point[name] for name in sizes[0]} for point in record["points"]] == sizes
    again = growth.exponents(record["points"])
    assert len(again) == len(record["exponents"])
    for found, kept in zip(again, record["exponents"]):
        assert found.keys() == kept.keys()
        for name, value in kept.items():
            wanted = value if isinstance(value, str) else pytest.approx(value, rel=1e-12)
            assert found[name] == wanted
    assert (record["block_bytes"], record["lines"]) == (CPU_BLOCK_BYTES, growth.LINES)


def test_a_step_was_timed_on_the_preset_s_batch():
    record = recorded("training-benchmark", "bench --training")
    assert record["batch"] == presets.PRESETS[record["preset"]].distillation.batch
    for run in record["runs"]:
        assert {row["case"]: row["words"] for row in run["rows"]} == steps.CASES
        for row in run["rows"][:2]:
            assert tuple(row["least"]) == (*steps.PARTS, *list(steps.STAGES)[1:])
            assert row["trained"] == run["rows"][0]["written"]


# --- smaller studies ---------------------------------------------------------------------


def test_old_texts_were_read_with_the_settings_of_the_code():
    record, settings = recorded("stale-rollouts", "stale"), stale.PRESET.distillation
    last, every = settings.steps, settings.evaluate_every
    wanted = {"ages": stale.AGES, "seeds": stale.SEEDS, "batch": settings.batch}
    wanted |= {"rate": settings.rate, "parameters": stale.PRESET.student.shape.parameters}
    wanted |= {"steps": range(0, last + 1, every)}
    assert {name: record[name] for name in wanted} == as_json(
        {name: list(x) if isinstance(x, range) else x for name, x in wanted.items()}
    )
    assert record["words"] == {name: each.words for name, each in stale.VARIANTS.items()}
    assert {name: [int(age) for age in runs] for name, runs in record["runs"].items()} == {
        name: list(stale.ages_of(name)) for name in stale.VARIANTS
    }


def test_answers_derailed_with_the_settings_of_the_code():
    record, preset = recorded("derailing", "derail"), derailing.PRESET
    recipe, further = preset.student, record["further"]
    assert record["tokens"] == derailing.SHOWN
    assert record["training_texts"] == recipe.steps * recipe.batch
    assert record["parameters"] == {
        "student": recipe.shape.parameters,
        "teacher": preset.teacher.shape.parameters,
    }
    assert {name: further[name] for name in ("steps", "batch")} == {
        name: asked(derailing_after.DISTILLATION)[name] for name in ("steps", "batch")
    }
    assert {name: len(rows) for name, rows in further["methods"].items()} == dict.fromkeys(
        derailing_after.METHODS, len(derailing_after.SEEDS)
    )


def test_doors_were_opened_with_the_settings_of_the_code():
    record = recorded("doors", "doors")
    wanted = {"questions": searching.QUESTIONS, "doors": len(DOORS)}
    wanted |= {"parameters": searching.SHAPE.parameters}
    wanted |= {"first": asked(searching.FIRST), "further": asked(searching.FURTHER)}
    assert {name: record[name] for name in wanted} == wanted
    assert list(record["teachers"]) == [str(noise) for noise in searching.NOISES]


@pytest.mark.parametrize("noise", [0.1, searching.GUESS])
def test_the_rule_measured_again_is_the_record_s(noise):
    """It has learned nothing, so that rounding alone can tell two machines apart."""
    found, kept = searching.measured(Rule(noise)), recorded("doors", "doors")["teachers"]
    for name, value in kept[str(noise)].items():
        assert found[name] == pytest.approx(value, rel=1e-6, abs=2 / searching.QUESTIONS), name
