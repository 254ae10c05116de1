"""The control study's small parts: rounding, windows, bins, what is kept when, who comes first."""

import json
import math

import numpy as np
import pytest
import torch

from opd_toy.control import benchmark, frozen, policy, sensitivity, study, training
from opd_toy.control.policy import initial_parameters, network_inputs, unpack
from opd_toy.control.task import (
    EVALUATION,
    FROZEN,
    GAMMAS,
    INITIAL,
    ITERATIONS,
    SEEDS,
    SETTINGS,
    SHAPES,
    STARTS,
    TARGETS,
    TEACHING,
    TRAINING,
    join,
    make_runs,
    normal_noise,
)
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("one_thread")


def record(part):
    return json.loads((ROOT / "figures" / f"control-{part}.json").read_text())["results"]


def test_what_is_recorded_and_when_is_that_of_the_record():
    kept = record("study")
    assert kept["settings"] == SETTINGS | {"dtype": "float32", "iterations run": ITERATIONS}
    numbers = {"gammas": GAMMAS, "seeds": SEEDS, "starts": STARTS, "targets": TARGETS}
    assert all(kept[name] == list(values) for name, values in numbers.items())
    assert study.recorded_iterations(ITERATIONS) == kept["iterations"]
    assert list(study.checkpoints(ITERATIONS)) == kept["checkpoints"]
    assert study.checkpoints(20) == (0, 1, 2, 4, 8, 14, 20)
    stages = {name: at["iteration"] for name, at in record("frozen")["stages"].items()}
    assert stages == frozen.STAGES
    shares = [round(share * ITERATIONS) for share in sensitivity.SHARES]
    assert shares == record("sensitivity")["checkpoints"]


@pytest.mark.parametrize(
    "digits, x, kept",
    [
        (4, 12345.678, 12350),
        (4, 999.96, 1000),
        (4, 999.94, 999.9),
        (4, -99999.9, -100000),
        (4, 0.000123456, 0.0001235),
        (2, 99.4, 99),
        (2, 9.94, 9.9),
        (4, math.inf, None),
        (4, math.nan, None),
        (4, 0.0, 0.0),
    ],
)
def test_significant_digits(digits, x, kept):
    (found,) = study.significant(np.array([x]), digits)
    assert found == kept and type(found) is type(kept)
    if digits == 4:
        assert study.significant(torch.tensor([[x]], dtype=torch.float64)) == [[kept]]


def test_decimals():
    values = torch.tensor([[1.23456, -0.00006], [math.nan, -math.inf]], dtype=torch.float64)
    assert study.decimals(values) == [[1.2346, -0.0001], [None, None]]
    assert study.decimals(values[0], 1) == [1.2, -0.0]
    assert study.decimals(np.array(2.5), 0) == 2.0  # a single number
    assert frozen.rounded({"a": [1.23456, {"b": 98765.4}]}) == {"a": [1.235, {"b": 98770}]}


@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 7, 99, 100, 101, 250])
def test_windows_of_any_number_of_iterations(iterations):
    variance = 1 + np.random.default_rng(iterations).random((2, 1, iterations))
    found = study.windows(variance)
    width = min(100, iterations - iterations % 2)
    ends = [end for end in range(1, iterations + 1) if width and end % width == 0]
    assert found["window_ends"] == ends
    if not ends:
        assert found["window_mean"] == found["window_geometric_mean"] == []
        return
    for g in range(2):
        for task in (0, 1):
            for n, end in enumerate(ends):
                own = [x for i, x in enumerate(variance[g, 0], 1) if end - width < i <= end]
                own = own[task::2]
                for name, mean in (
                    ("window_mean", np.mean(own)),
                    ("window_geometric_mean", np.prod(own) ** (1 / len(own))),
                ):
                    assert found[name][g][0][task][n] == pytest.approx(mean, rel=6e-4)


def test_every_trajectory_stands_in_one_bin_at_each_time():
    """Positions (task, T + 1, R, B), some beyond the outermost bins; one gamma is not kept."""
    random = np.random.default_rng(1)
    positions = random.normal(0, 5, (2, 3, 6, 40))
    positions[0, 1, 0, :2] = -8, 8
    gammas, shape = (0.0, 0.25, 1.0), (3, 2)
    found = study.visitation(torch.from_numpy(positions), gammas, shape)
    assert found["gammas"] == [0.0, 1.0] and found["trajectories"] == 2 * study.EVALUATED
    edges = found["bins"]
    assert edges == [-8 + n / 4 for n in range(65)]
    for n, g in enumerate((0, 2)):
        for task in (0, 1):
            for t in range(3):
                counts = [0] * 64
                for x in positions[task, t, 2 * g : 2 * g + 2].ravel():
                    counts[min(max(math.floor((x + 8) * 4), 0), 63)] += 1
                assert found["counts"][n][task][t] == counts


def test_the_first_trajectories_are_shown_in_their_places():
    """[gamma][seed][checkpoint][task][trajectory][time] of positions (task, T + 1, R, B)."""
    positions = [torch.arange(2 * 3 * 4 * 9.0).reshape(2, 3, 4, 9) + 1000 * c for c in range(2)]
    found = np.array(study.trajectories(positions, (2, 2)))
    assert found.shape == (2, 2, 2, 2, study.SHOWN, 3)
    for g, s, c, task, b, t in np.ndindex(found.shape):
        assert found[g, s, c, task, b, t] == positions[c][task, t, 2 * g + s, b]


def test_initial_parameters_fill_their_range_by_seed_alone():
    like = torch.zeros(1, dtype=torch.float64)
    found = initial_parameters((5, 6, 5), like)
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])
    assert torch.equal(found[:2], initial_parameters((5, 6), like))
    for part, shape, fan_in in zip(unpack(found), SHAPES, (3, 3, 60, 60, 60, 60)):
        assert part.shape == (3, *shape)
        bound = 1 / math.sqrt(fan_in)
        assert part.abs().max() <= bound
        if part[0].numel() > 50:
            assert part[0].max() > 0.9 * bound and part[0].min() < -0.9 * bound
    assert initial_parameters((5,), torch.zeros(1)).dtype == torch.float32


def test_a_network_s_inputs():
    inputs = network_inputs(torch.tensor([1, 0]), 2, 4, torch.zeros(1, dtype=torch.float64))
    assert inputs.shape == (4, 2, 2, 4) and inputs.dtype == torch.float64
    for t, run, trajectory in np.ndindex(4, 2, 2):
        assert inputs[t, run, trajectory].tolist() == [(1.0, -1.0)[run], 0.0, t / 4, 1.0]


class Kept:
    """A checkpoint that notes what it is given and may hold a state."""

    def __init__(self, state=None):
        self.state, self.calls, self.device = state, [], None

    def load(self, device):
        self.device = device
        return self.state

    def after(self, state, last=False):
        self.calls.append((state["iteration"], last))


def climbing(parameters, iteration):
    return torch.full_like(parameters, float(iteration)), torch.full((len(parameters),), iteration)


WRONG_RUNS = [
    ({"gammas": [-0.1]}, "gamma is -0.1; give one number from 0 to 1"),
    ({"gammas": [0.5, 1.01]}, "gamma is 1.01; give one number from 0 to 1"),
    ({"gammas": [True]}, "gamma is True; give one number from 0 to 1"),
    ({"gammas": ["1"]}, "gamma is '1'; give one number from 0 to 1"),
    ({"seeds": [-1]}, "seed is -1; give a whole number (an int) of at least 0"),
    ({"seeds": []}, "gammas and seeds must each hold at least one number"),
    (
        {"bounds": (1.0, 1.0)},
        "bounds is (1.0, 1.0); give the least and the largest log std, -inf and inf for none",
    ),
    ({"rate": 0}, "rate is 0; give a finite number above 0"),
    ({"rate": math.inf}, "rate is inf; give a finite number above 0"),
    ({"clip": 0}, "clip is 0; give a number above 0, inf for none"),
    ({"clip": math.nan}, "clip is nan; give a number above 0, inf for none"),
]


@pytest.mark.parametrize("options, message", WRONG_RUNS, ids=[str(each[0]) for each in WRONG_RUNS])
def test_a_stack_that_cannot_be(options, message):
    with pytest.raises(ValueError) as error:
        make_runs(**{"gammas": [0.5], "seeds": [1]} | options)
    assert str(error.value) == message


def test_a_stack_has_each_gamma_with_each_seed_and_what_is_asked_for():
    runs = make_runs((0, 1.0), (3, 0))
    assert runs.gamma.tolist() == [0, 0, 1, 1] and runs.seed == (3, 0, 3, 0)
    assert runs.gamma.dtype == runs.rate.dtype == torch.float32
    whole = [each.tolist() for each in runs[2:]]
    rate = torch.tensor(1e-3).item()
    assert whole == [[x] * 4 for x in (-3.0, 1.0, True, rate, math.inf)]
    other = make_runs([0.5], [1], bounds=(-1, 0), adam=False, rate=2, clip=0.5, dtype=torch.float64)
    assert [each.item() for each in other[2:]] == [-1.0, 0.0, False, 2.0, 0.5]
    assert other.gamma.dtype == other.clip.dtype == torch.float64
    elsewhere = make_runs([0.5], [1], device="meta")
    assert {each.device.type for each in elsewhere if isinstance(each, torch.Tensor)} == {"meta"}
    assert policy.both(1, elsewhere).device.type == "meta"
    both = join([runs, other])
    assert both.seed == (3, 0, 3, 0, 1) and both.clip.tolist() == [math.inf] * 4 + [0.5]


def test_noise_is_that_of_its_seed_stream_and_iteration():
    like = torch.zeros(1, dtype=torch.float64)
    found = normal_noise((4, 2, 4), 3, 8, 5, 6, like)
    for run, seed in enumerate((4, 2, 4)):
        expected = np.random.default_rng([seed, 3, 8]).standard_normal((5, 6))
        assert np.array_equal(found[:, run].numpy(), expected)
    assert normal_noise((4,), 3, 8, 5, 6, torch.zeros(1)).dtype == torch.float32
    assert len({TRAINING, EVALUATION, INITIAL, TEACHING, FROZEN}) == 5


def test_training_keeps_reports_and_goes_on():
    runs = make_runs([0.0, 1.0], [1], adam=False, rate=0.5)
    start, checkpoint, told = initial_parameters(runs.seed, runs.gamma), Kept(), []
    state = training.train(
        runs, climbing, 3, (0, 2, 3), checkpoint=checkpoint, report=lambda *of: told.append(of)
    )
    for kept, moved in zip(state["snapshots"], (0, 0.5 * 3, 0.5 * 6)):
        torch.testing.assert_close(kept, start - moved)
    assert torch.equal(state["snapshots"][2], state["parameters"])
    assert state["variance"].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert state["diverged"].dtype == torch.long  # whole numbers in the record
    assert checkpoint.calls == [(1, False), (2, False), (3, True)]
    assert checkpoint.device == start.device and told == [(1, 3), (2, 3), (3, 3)]
    half = training.train(runs, climbing, 2)
    assert half["snapshots"].shape[0] == 0
    longer = training.initial_state(runs, 3, (0, 3)) | {
        name: half[name] for name in ("iteration", "parameters", "first", "second", "diverged")
    }
    taken_up = Kept(longer)
    again = training.train(runs, climbing, 3, (0, 3), checkpoint=taken_up)
    assert taken_up.calls == [(3, True)]
    assert not again["snapshots"][0].any()  # as it was in the checkpoint
    assert torch.equal(again["parameters"], state["parameters"])
    none = training.train(runs, climbing, 0, (0,))
    assert torch.equal(none["snapshots"][0], start) and none["variance"].shape == (0, 2)


def test_how_far_from_the_target():
    positions = torch.zeros(2, 3, 2, 2)  # task, T + 1, run, trajectory
    positions[:, -1] = torch.tensor([[[-3.0, -2.0], [1.0, 3.0]], [[3.0, 2.0], [-1.0, 1.0]]])
    found = training.distance_to_target(positions)
    assert found.tolist() == [[0.5, 5.0], [0.5, 3.0]] and TARGETS == (-3.0, 3.0)


def test_the_settings_are_what_their_names_say():
    for name, (tried, options) in sensitivity.OPTIMISERS.items():
        runs = make_runs([1.0], [1], dtype=torch.float64, **options)
        kind, rate = name.replace(",", "").split()[:2]
        assert runs.adam.item() == (kind == "Adam") and runs.rate.item() == float(rate), name
        assert runs.clip.item() == (1.0 if "clipped at 1" in name else math.inf), name
        assert set(tried) <= set(sensitivity.BOUNDS)
    for name, bounds in sensitivity.BOUNDS.items():
        told = (-math.inf, math.inf) if name == "none" else map(float, name.split(" to "))
        assert bounds == tuple(told)
    assert study.TASKS == ("left", "right") and len(sensitivity.crossings()) == 6


def test_a_stack_s_runs_and_their_teachers():
    runs, taught_by = sensitivity.stack((4, 9), dtype=torch.float64)
    expected = [
        (bounds, bounds, gamma, seed)
        for bounds, _, _ in sensitivity.settings()
        for gamma in (0.0, 1.0)
        for seed in (4, 9)
    ]
    expected += [
        (teacher, own, 1.0, seed)
        for teacher in sensitivity.CROSSED
        for own in sensitivity.CROSSED
        for seed in (4, 9)
        if own != teacher
    ]
    limits = list(zip(runs.lower.tolist(), runs.upper.tolist()))
    own = [sensitivity.BOUNDS[each[1]] for each in expected]
    assert taught_by == [each[0] for each in expected] and limits == own
    assert runs.gamma.tolist() == [each[2] for each in expected]
    assert runs.seed == tuple(each[3] for each in expected)


def test_teachers_are_told_by_where_they_end_under_their_bounds():
    pair = initial_parameters((1, 2), torch.zeros(1, dtype=torch.float64))
    for bounds in ((-3.0, 1.0), (-5.0, -4.0)):
        runs = make_runs([1.0], (0, 1), bounds=bounds, dtype=torch.float64)
        end = training.fresh_positions(pair, runs)[:, -1].numpy()
        own = [end[0, 0], end[1, 1]]
        found = sensitivity.teachers_under(pair, bounds)
        assert found["final_position_mean"] == pytest.approx([x.mean() for x in own], abs=6e-5)
        wanted = [x.std(ddof=1) for x in own]
        assert found["final_position_sd"] == pytest.approx(wanted, abs=6e-5)


# --- the plain loop beside it ------------------------------------------------------------------


def test_the_two_loops_take_turns_and_their_times_are_told_apart(monkeypatch):
    """With a clock of its own: 1 s a pass of the stack, 4, 5, 6 s of the plain loop."""
    order, plain = [], iter((4.0, 5.0, 6.0))

    def timed(work, span, device):
        order.append((work.__name__, list(span), device))
        if len(order) == 1:  # both loops have begun
            states[0]["parameters"][3, 5] -= 0.25
            states[0]["parameters"][4, 0] += 0.125
        return 1.0 if work.__name__ == "stacked" else next(plain)

    def noted(name):
        function = getattr(benchmark, name)
        monkeypatch.setattr(
            benchmark, name, lambda *of, **more: handed_on.append(more) or function(*of, **more)
        )

    def begun(runs, *of):
        state = training.initial_state(runs, *of)
        state["variance"][:], state["variance"][2, 1], state["variance"][3, 4] = 4.0, 3.0, 5.5
        return states.append(state) or state

    handed_on, states = [], []
    noted("make_runs"), noted("distillation")
    monkeypatch.setattr(benchmark, "timed", timed)
    monkeypatch.setattr(benchmark, "initial_state", begun)
    monkeypatch.setattr(benchmark.np, "empty", lambda shape, *_, **__: np.full(shape, 4.0))
    found = benchmark.benchmark(2, repeats=3, dtype=torch.float64)
    where, of_noise = handed_on
    assert where == {"dtype": torch.float64, "device": "cpu"}
    noise = normal_noise(SEEDS * len(GAMMAS), TRAINING, 6, 20, 64, torch.zeros(1).double())
    assert torch.equal(of_noise["noise"](6), noise)  # drawn beforehand
    names = ("stacked", "plain", "plain", "stacked", "stacked", "plain")
    spans = ([1, 2], [1, 2], [3, 4], [3, 4], [5, 6], [5, 6])
    assert order == [(name, span, "cpu") for name, span in zip(names, spans)]
    assert found["seconds"] == {
        "plain": {"median": 2.5, "least": 2.0, "all": [2.0, 2.5, 3.0]},
        "stacked": {"median": 0.5, "least": 0.5, "all": [0.5, 0.5, 0.5]},
    }
    assert (found["ratio_of_medians"], found["ratio_of_least"]) == (5.0, 4.0)
    assert found["runs"] == len(GAMMAS) * len(SEEDS) and found["dtype"] == "float64"
    assert (found["iterations"], found["repeats"]) == (2, 3)
    assert found["threads"] == torch.get_num_threads()
    assert found["largest_relative_difference_of_variance"] == 0.375  # 1.5 of 4
    assert found["largest_difference_of_parameters"] == pytest.approx(0.25, rel=1e-12)


def test_the_plain_loop_has_the_study_s_optimiser(monkeypatch):
    """By numbers that are not PyTorch's own, which the study's are."""
    for name, value in (("RATE", 0.5), ("BETAS", (0.25, 0.75)), ("EPSILON", 0.125)):
        monkeypatch.setattr(benchmark, name, value)
    (parameters,) = initial_parameters((1,), torch.zeros(1))
    run = benchmark.PlainRun(parameters, 0.5, [])
    found = run.optimiser.defaults
    assert (found["lr"], found["betas"], found["eps"]) == (0.5, (0.25, 0.75), 0.125)
    assert not run.policy.flat().requires_grad and torch.equal(run.policy.flat(), parameters)


def test_the_time_of_work_is_that_between_two_looks_at_the_clock(monkeypatch):
    clock = iter((10.0, 12.5))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))
    done = []
    assert benchmark.timed(done.append, "the span", "cpu") == 2.5 and done == ["the span"]
    clock = iter((1.0, 2.0))
    monkeypatch.setattr(benchmark.torch.cuda, "synchronize", lambda: done.append("waited"))
    assert benchmark.timed(done.append, "again", "cuda") == 1.0
    assert done[1:] == ["waited", "again", "waited"]
