"""What slider 9 embeds is what the study recorded."""

import base64
import json

import numpy as np
import pytest
import traitlets

from opd_toy.explorables import ControlStudy, control_study
from opd_toy.records import provenance


@pytest.fixture
def study():
    return provenance.recorded("control-study", "variance")


def test_variances_are_geometric_means_of_their_task_and_block(study):
    iterations, variance = np.array(study["iterations"]), np.array(study["variance"])
    means = control_study.block_means(study)
    assert means.shape == (5, 3, 2, 50)
    for g, s, t, block in [(0, 0, 0, 0), (4, 2, 1, 49), (2, 1, 0, 27), (3, 0, 1, 1)]:
        these = (
            (iterations > 40 * block)
            & (iterations <= 40 * block + 40)
            & (iterations % 2 == (1 if t == 0 else 0))
        )
        assert these.sum() >= 1
        assert means[g, s, t, block] == pytest.approx(
            np.prod(variance[g, s, these] ** (1 / these.sum())), rel=1e-12
        )


def test_what_the_page_gets_is_the_record(study):
    given = control_study.recording()
    codes = np.frombuffer(base64.b64decode(given["variance"]), "<u2").reshape(5, 3, 2, 50)
    decoded = np.exp(given["low"] + (codes - 1.0) / 65534 * (given["high"] - given["low"]))
    assert codes.min() >= 1
    np.testing.assert_allclose(decoded, control_study.block_means(study), rtol=2e-4)
    paths = np.array(study["trajectories"])[..., : given["paths"], :]
    places = (
        np.frombuffer(base64.b64decode(given["positions"]), "u1").reshape(paths.shape) / 255 * 18
        - 9
    )
    np.testing.assert_allclose(places, np.clip(paths, -9, 9), atol=0.036)
    for what, ends in zip(("mean", "sd"), given["ends"], strict=True):
        np.testing.assert_allclose(ends, study["final_position"][what], atol=5.1e-4)
    assert given["checkpoints"] == study["checkpoints"] and [given["starts"], given["targets"]] == [
        study["starts"],
        study["targets"],
    ]
    assert given["teacher"] == [
        study["teachers"]["final_position_mean"],
        study["teachers"]["final_position_sd"],
    ]


def test_a_run_that_broke_down_leaves_a_gap(study):
    broken = np.array(study["variance"])
    after = np.array(study["iterations"]) > 1000
    broken[1, 2, after] = np.nan
    means = control_study.block_means(study | {"variance": broken})
    assert np.isnan(means[1, 2, :, 25:]).all() and np.isfinite(means[1, 2, :, :25]).all()
    assert np.isfinite(np.delete(means, 1, axis=0)).all()


def test_it_is_light_and_no_state():
    widget = ControlStudy()
    assert len(json.dumps(widget.recording)) < 80_000
    assert set(widget.state()) == {"gamma", "seed", "task", "iteration"}
    assert '"recording"' in widget.to_html().split("mount(widget")[1].split('{"name"')[0]
    assert "recording" not in widget.to_html().split('{"name"')[1]


@pytest.mark.parametrize(("trait", "value"), [("gamma", 0.3), ("seed", 44), ("task", "up")])
def test_an_unknown_run_is_refused(trait, value):
    with pytest.raises(traitlets.TraitError, match=f"'{trait}'.*{value}"):
        ControlStudy(**{trait: value})


def test_a_missing_record_names_the_command_that_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    control_study.recording.cache_clear()
    with pytest.raises(
        FileNotFoundError,
        match=r"figures/control-study.json is not there: `python -m opd_toy variance` makes it",
    ):
        ControlStudy()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gammas": [0, 1]}, r"gammas in FILE must be \[0, 0.25, 0.5, 0.75, 1\], not \[0, 1\]"),
        ({"iterations": [1, 2, 30]}, "iterations in FILE must end at 2000, not 30"),
    ],
)
def test_a_record_of_another_study_is_refused(tmp_path, monkeypatch, study, change, message):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "control-study.json").write_text(
        json.dumps({"results": study | change})
    )
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    control_study.recording.cache_clear()
    with pytest.raises(ValueError, match=message.replace("FILE", "figures/control-study.json")):
        ControlStudy()
