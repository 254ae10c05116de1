"""The frozen student's estimates, each a second way; what the records' studies are asked for."""

import inspect
import itertools

import numpy as np
import pytest
import torch

from opd_toy.control import frozen, sensitivity, study, training
from opd_toy.control.policy import both, gaussian_at, gaussian_kl, initial_parameters, roll_out
from opd_toy.control.task import FROZEN, OUTPUT_LAYER, make_runs, normal_noise
from opd_toy.records.provenance import recorded

pytestmark = pytest.mark.usefixtures("one_thread")
DOUBLE = {"dtype": torch.float64}


def drawn(rows, columns, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(3, 1, (rows, columns)))


@pytest.fixture(scope="module")
def student():
    runs = make_runs([0.5], [3], **DOUBLE)
    return initial_parameters(runs.seed, runs.gamma), runs, initial_parameters((1, 2), runs.gamma)


@pytest.mark.parametrize("task", [0, 1])
def test_the_trajectories_of_a_frozen_student_have_noise_of_their_own(task, student):
    parameters, runs, teachers = student
    rollout, teacher = frozen.frozen_rollout(parameters, runs, teachers, task, 5, 7)
    noise = normal_noise((3,), FROZEN, 5, 5, 7, runs.gamma)
    assert torch.equal(rollout.noise, noise) and noise.shape == (5, 1, 7)
    again = roll_out(parameters, runs.lower, runs.upper, both(task, runs), noise)
    assert torch.equal(rollout.positions, again.positions)
    inputs = rollout.inputs
    expected = gaussian_at(teachers[task : task + 1], runs.lower, runs.upper, inputs)
    assert all(map(torch.equal, teacher, expected))


def test_a_resample_s_variance_is_that_of_its_rows(monkeypatch):
    monkeypatch.setattr(frozen, "RESAMPLES", 6)
    weights = frozen.resample_weights(9, seed=4)
    counts = np.random.default_rng(4).multinomial(9, np.full(9, 1 / 9), size=6)
    np.testing.assert_allclose(weights.numpy() * 9, counts, atol=1e-12)
    rows = drawn(9, 4022) + 1e6  # a mean whose square would leave no digits
    found = frozen.resampled_variances(rows, weights)
    assert found.keys() == {"output_layer", "all_parameters"}
    for where, part in (("output_layer", OUTPUT_LAYER), ("all_parameters", slice(None))):
        for resample, count in enumerate(counts):
            again = np.repeat(rows[:, part].numpy(), count, axis=0)
            assert found[where][resample].item() == pytest.approx(again.var(0, ddof=1).sum())
    assert frozen.total_variance(rows) == pytest.approx(rows.numpy().var(0, ddof=1).sum())


def squared_norm(rows):
    """Mean of g_i · g_j over pairs i ≠ j."""
    pairs = list(itertools.permutations(range(len(rows)), 2))
    return sum(rows[i] @ rows[j] for i, j in pairs) / len(pairs)


def test_the_squared_norm_of_a_mean_and_its_error_are_those_of_all_pairs():
    rows = drawn(6, 3).numpy()
    found, error = frozen.squared_norm_of_mean(torch.from_numpy(rows))
    left_out = [squared_norm(np.delete(rows, i, axis=0)) for i in range(6)]
    assert found == pytest.approx(squared_norm(rows))
    assert error == pytest.approx(np.sqrt(5 / 6 * ((left_out - np.mean(left_out)) ** 2).sum()))


def test_a_bias_is_that_of_the_means_of_batches(monkeypatch):
    monkeypatch.setattr(frozen, "BATCHES", 4)
    gradients, unbiased = drawn(12, 5), drawn(12, 5, seed=1)
    batches = lambda rows: rows.numpy().reshape(4, 3, 5).mean(1)
    found = frozen.bias(gradients, unbiased)
    for name, rows in (("bias", batches(gradients - unbiased)), ("norm", batches(unbiased))):
        norm, error = frozen.squared_norm_of_mean(torch.from_numpy(rows))
        assert found[f"squared_{name}"] == pytest.approx(norm)
        assert found[f"squared_{name}_standard_error"] == pytest.approx(error)


def test_growth_is_fitted_to_the_mean_of_both_tasks(student, monkeypatch):
    monkeypatch.setattr(frozen, "RESAMPLES", 5)
    lengths, gammas = (2, 3, 6), (0.0, 1.0)
    found = frozen.growth(*student, lengths, gammas, 8)
    keys = [(row["estimator"], row["gamma"], row["parameters"]) for row in found]
    names = [("full_return", 1.0)]
    names += [(name, gamma) for gamma in gammas for name in ("sampled", "full_vocabulary")]
    assert keys == [(*name, part) for name in names for part in frozen.PART]
    parameters, runs, teachers = student
    weights = frozen.resample_weights(8)
    for row in (found[1], found[4], found[7]):
        part = frozen.PART[row["parameters"]]
        variances, draws = [], []
        for length in lengths:
            both_tasks, again = [], []
            for task in (0, 1):
                rollout, teacher = frozen.frozen_rollout(
                    parameters, runs, teachers, task, length, 8
                )
                signal = frozen.signals(rollout, *teacher, gammas)[row["estimator"], row["gamma"]]
                gradients = frozen.trajectory_gradients(parameters, rollout, signal)
                both_tasks.append(frozen.total_variance(gradients[:, part]))
                again.append(frozen.resampled_variances(gradients, weights)[row["parameters"]])
            variances.append(np.mean(both_tasks))
            draws.append(sum(again).numpy() / 2)
        assert row["variance"] == pytest.approx(variances, rel=6e-4)
        slope = lambda values: np.polyfit(np.log(lengths), np.log(values), 1)[0]
        assert row["exponent"] == pytest.approx(slope(variances), rel=6e-4)
        each = [slope(values) for values in np.transpose(draws)]
        ends = np.quantile(each, (0.025, 0.975))
        assert row["interval"] == pytest.approx(ends.tolist(), rel=1e-3)
        local = np.diff(np.log(variances)) / np.diff(np.log(lengths))
        assert row["local_exponents"] == pytest.approx(local.tolist(), rel=1e-3)


def test_a_stage_s_intervals_are_those_of_its_resamples(student, monkeypatch):
    monkeypatch.setattr(frozen, "RESAMPLES", 7)
    monkeypatch.setattr(frozen, "LENGTH", 4)
    monkeypatch.setattr(frozen, "BATCHES", 4)
    parameters, runs, teachers = student
    gammas = (0.0, 1.0)
    found = frozen.at_stage(parameters, runs, teachers, 1, gammas, 16)
    rollout, teacher = frozen.frozen_rollout(parameters, runs, teachers, 1, 4, 16)
    weights = frozen.resample_weights(16)
    signals = frozen.signals(rollout, *teacher, gammas)
    rows = {
        key: frozen.trajectory_gradients(parameters, rollout, each) for key, each in signals.items()
    }
    again = {key: frozen.resampled_variances(each, weights) for key, each in rows.items()}
    close = lambda x, y: x == pytest.approx(y, rel=1e-3, abs=1e-12)
    assert [(row["estimator"], row["gamma"]) for row in found["estimators"]] == list(rows)
    for row in found["estimators"]:
        key = row["estimator"], row["gamma"]
        for where, part in frozen.PART.items():
            of = row[where]
            assert close(of["interval"], frozen.interval(again[key][where]))
            ratio = again[key][where] / again["sampled", 0.0][where]
            assert close(of["ratio_to_immediate_interval"], frozen.interval(ratio))
            if row["estimator"] == "full_vocabulary":
                unbiased = rows["full_vocabulary", 1.0][:, part]
                for name, value in frozen.bias(rows[key][:, part], unbiased).items():
                    assert close(of[name], float(value))
    kl = gaussian_kl(rollout.mean, rollout.log_std, *teacher).mean((1, 2))
    assert close(found["kl_per_step"], kl.tolist())


# --- what the studies ask for -----------------------------------------------------------------


def test_the_frozen_student_is_trained_alone_and_held_at_its_stages(monkeypatch):
    asked = []

    def train_teachers(**options):
        asked.append(("teachers", options))
        return torch.arange(2.0)[:, None, None].expand(2, 1, 3)

    def train(runs, gradient, iterations, kept, **options):
        asked.append(("train", runs.gamma.tolist(), runs.seed, gradient, iterations, kept, options))
        return {"snapshots": torch.tensor(kept, dtype=torch.float32)[:, None, None]}

    def at_stage(student, runs, teachers, task, gammas, trajectories):
        assert student.dtype == teachers.dtype == runs.gamma.dtype == torch.float64
        return student.item(), teachers[:, 0].tolist(), task, gammas, trajectories, runs.seed

    def growth(student, runs, teachers, lengths, gammas, trajectories):
        return student.item(), teachers[:, 0].tolist(), lengths, gammas, trajectories, runs.seed

    monkeypatch.setattr(frozen, "train_teachers", train_teachers)
    monkeypatch.setattr(frozen, "train", train)
    monkeypatch.setattr(frozen, "distillation", lambda runs, teachers: teachers.shape)
    monkeypatch.setattr(frozen, "at_stage", at_stage)
    monkeypatch.setattr(frozen, "growth", growth)
    told, watched = [], []
    watch = lambda name: watched.append(name) or {"report": lambda *step: told.append(step)}
    found = frozen.frozen(
        40, trajectories=5, growth_trajectories=6, lengths=(2, 3), gammas=(0.0, 1.0),
        teacher_iterations=7, watch=watch,
    )  # fmt: skip
    (_, options), (_, gammas, seed, shape, iterations, kept, more) = asked
    assert options.pop("report") and more.pop("report")
    assert options == {"iterations": 7, "dtype": torch.float32, "device": "cpu"} and more == {}
    assert (gammas, seed, shape, iterations, kept) == ([0.0], (42,), (2, 3), 40, (0, 2, 8, 40))
    assert told == [(n, 4) for n in range(1, 5)] and watched == ["teachers", "student", "estimates"]
    stages = {"initial": 0, "early": 2, "middle": 8, "late": 40}
    for name, at in stages.items():
        sides = {
            side: (float(at), [0.0, 1.0], task, (0.0, 1.0), 5, (42,))
            for task, side in enumerate(("left", "right"))
        }
        assert found["stages"][name] == {"iteration": at, "tasks": sides}
        assert found["growth"][name] == (float(at), [0.0, 1.0], (2, 3), (0.0, 1.0), 6, (42,))
    assert (found["gammas"], found["lengths"]) == ([0.0, 1.0], [2, 3])
    words = {"student": "gamma = 0, seed 42, trained alone for 40 iterations"}
    kept = recorded("control-frozen", "variance frozen")["settings"]
    assert found["settings"] == kept | words | {"trajectories": 5, "growth_trajectories": 6}
    assert list(found["stages"]) == list(found["growth"]) == list(stages)
    asked.clear()
    frozen.frozen(1, dtype=torch.float64)  # without anybody who watches
    assert asked[0][1] == {"iterations": 2000, "dtype": torch.float64, "device": "cpu"}
    assert asked[1][4:] == (1, (0, 1), {})


def test_each_run_of_the_sensitivity_learns_from_teachers_under_its_bounds(monkeypatch):
    asked = {}

    def train_teachers(bounds, iterations, **options):
        asked["teachers"] = bounds, iterations, options
        return torch.arange(8.0).reshape(2, 4, 1)  # task 0: 0 to 3, task 1: 4 to 7, by bounds

    def distillation(runs, teachers, **options):
        asked["gradient"] = runs, teachers, options
        return "the gradient"

    def train(runs, gradient, iterations, kept, **options):
        asked["train"] = gradient, iterations, kept, options
        return "the state"

    monkeypatch.setattr(sensitivity, "train_teachers", train_teachers)
    monkeypatch.setattr(sensitivity, "distillation", distillation)
    monkeypatch.setattr(sensitivity, "train", train)
    monkeypatch.setattr(sensitivity, "found", lambda *of: (of[::2], "crossed"))
    monkeypatch.setattr(
        sensitivity, "teachers_under", lambda pair, bounds: (pair[:, 0].tolist(), bounds)
    )
    found = sensitivity.sensitivity(
        20, seeds=(4, 9), teacher_iterations=7, dtype=torch.float64,
        watch=lambda name: {"report": name},
    )  # fmt: skip
    bounds = list(sensitivity.BOUNDS.values())
    where = {"dtype": torch.float64, "device": "cpu", "report": "teachers"}
    assert asked["teachers"] == (tuple(bounds), 7, where)
    assert asked["train"] == ("the gradient", 20, (2, 5, 10, 15, 20), {"report": "students"})
    runs, teachers, options = asked["gradient"]
    expected, taught_by = sensitivity.stack((4, 9), dtype=torch.float64)
    assert runs.seed == expected.seed and torch.equal(runs.gamma, expected.gamma)
    places = [list(sensitivity.BOUNDS).index(name) for name in taught_by]
    assert teachers[..., 0].tolist() == [places, [4 + place for place in places]]
    limits = [list(each.tolist()) for each in options["teacher_bounds"]]
    assert limits == [[bounds[place][side] for place in places] for side in (0, 1)]
    assert found["rows"] == ("the state", (4, 9)) and found["crossed"] == "crossed"
    assert found["teachers"] == {
        name: ([n, n + 4], limits) for n, (name, limits) in enumerate(sensitivity.BOUNDS.items())
    }
    assert (found["iterations"], found["checkpoints"]) == (20, [2, 5, 10, 15, 20])
    assert (found["seeds"], found["gammas"]) == ([4, 9], [0.0, 1.0])
    kept = recorded("control-sensitivity", "variance sensitivity")
    assert all(found[name] == kept[name] for name in ("definition", "notes"))
    sensitivity.sensitivity(0)
    assert asked["train"][1:] == (0, (0,), {}) and asked["teachers"][1] == 2000
    assert inspect.signature(sensitivity.sensitivity).parameters["iterations"].default == 2000


def test_teachers_are_trained_as_each_would_be_alone():
    bounds = ((-3.0, 1.0), (-1.0, 0.5))
    told = []
    found = training.train_teachers(bounds, 3, **DOUBLE, report=lambda *step: told.append(step))
    assert found.shape == (2, 2, 4022) and told == [(1, 3), (2, 3), (3, 3)]
    for task, n in itertools.product((0, 1), (0, 1)):
        runs = make_runs([1.0], [7 + task], bounds=bounds[n], **DOUBLE)
        state = training.train(runs, training.reinforcement(runs, torch.tensor([task])), 3)
        torch.testing.assert_close(found[task, n], state["parameters"][0], rtol=1e-9, atol=1e-12)
    default = training.train_teachers(iterations=1)
    assert default.shape == (2, 1, 4022) and default.dtype == torch.float32
    assert training.train_teachers(iterations=0, device="meta").device.type == "meta"


@pytest.fixture
def studied(monkeypatch):
    """A study trained by nobody: positions and variances are drawn; one run broke down."""
    random, asked = np.random.default_rng(0), {}
    everywhere = [random.normal(-3 + 6 * c / 7, 1, (2, 4, 6, 16)) for c in range(8)]
    everywhere[-1][1, -1, 4, 0] = np.nan
    everywhere[-1][0, -1, 1] = -2.0  # just at the limit, 1 from the target
    variance = random.random((140, 6)) + 0.5

    def train_teachers(**options):
        asked["teachers"] = options
        return torch.zeros(2, 1, 3)

    def train(runs, gradient, iterations, kept, **options):
        asked["train"] = gradient, runs.gamma.tolist(), runs.seed, iterations, kept, options
        diverged = torch.tensor([0, 0, 0, 0, 12, 0])
        state = {"snapshots": range(len(kept)), "diverged": diverged}
        return state | {"variance": torch.from_numpy(variance)}

    make = study.make_runs
    monkeypatch.setattr(
        study, "make_runs", lambda *of, **more: asked.update(runs=more) or make(*of, **more)
    )
    monkeypatch.setattr(study, "train_teachers", train_teachers)
    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "distillation", lambda runs, teachers: tuple(teachers.shape))
    monkeypatch.setattr(
        study, "fresh_positions", lambda c, runs, batch: torch.from_numpy(everywhere[c])
    )
    monkeypatch.setattr(study, "teachers_evaluated", lambda teachers: tuple(teachers.shape))
    options = {"gammas": (0.0, 0.25, 1.0), "seeds": (5, 8), "teacher_iterations": 7, **DOUBLE}
    found = study.study(140, **options, watch=lambda name: {"report": name})
    return found, asked, everywhere, variance


def test_the_study_asks_for_all_runs_in_one_stack(studied):
    found, asked, *_ = studied
    where = {"dtype": torch.float64, "device": "cpu"}
    assert asked["teachers"] == {"iterations": 7, "report": "teachers"} | where
    assert asked["runs"] == where
    kept = (0, 4, 7, 14, 28, 56, 98, 140)
    gammas, seeds = [0.0, 0.0, 0.25, 0.25, 1.0, 1.0], (5, 8, 5, 8, 5, 8)
    assert asked["train"] == ((2, 3), gammas, seeds, 140, kept, {"report": "students"})
    assert found["checkpoints"] == list(kept) and found["teachers"] == (2, 3)
    assert (found["gammas"], found["seeds"]) == ([0.0, 0.25, 1.0], [5, 8])
    assert found["settings"]["dtype"] == "float64" and found["settings"]["iterations run"] == 140


def test_the_study_s_positions_are_those_of_each_run_in_its_place(studied):
    found, _, everywhere, _ = studied
    final = found["final_position"]
    assert final["trajectories"] == study.EVALUATED
    for g, s, task, c in itertools.product(range(3), range(2), (0, 1), range(8)):
        end = everywhere[c][task, -1, 2 * g + s]
        if np.isnan(end).any():
            assert final["mean"][g][s][task][c] is final["sd"][g][s][task][c] is None
            assert final["distance_to_target"][g][s][task][c] is None
            continue
        assert final["mean"][g][s][task][c] == pytest.approx(end.mean(), abs=6e-5)
        assert final["sd"][g][s][task][c] == pytest.approx(end.std(ddof=1), abs=6e-5)
        miss = np.abs(end - (-3, 3)[task]).mean()
        assert final["distance_to_target"][g][s][task][c] == pytest.approx(miss, abs=6e-5)
        if c == 7:
            assert found["drifts"][g][s][task] == (miss > 1)
    assert found["drifts"][2][0][1] is True and not all(np.ravel(found["drifts"]))
    assert found["diverged"] == [[0, 0], [0, 0], [12, 0]]
    shown = found["trajectories"][1][1][3][1]
    assert shown == [[round(x, 2) for x in path] for path in everywhere[3][1, :, 3, :6].T.tolist()]
    assert found["visitation"]["gammas"] == [0.0, 1.0]
    assert np.sum(found["visitation"]["counts"][1][0][3]) == 2 * 16


def test_the_study_s_variances_are_those_of_each_run_in_its_place(studied):
    found, _, _, variance = studied
    recorded = [i for i in range(1, 141) if i <= 100 or i % 10 in (9, 0)]
    assert found["iterations"] == recorded
    for g, s in itertools.product(range(3), range(2)):
        own = variance[[i - 1 for i in recorded], 2 * g + s]
        assert found["variance"][g][s] == pytest.approx(own.tolist(), rel=6e-4)
        for task in (0, 1):
            mean = variance[task:100:2, 2 * g + s].mean()
            assert found["window_mean"][g][s][task] == pytest.approx([mean], rel=6e-4)


def test_a_study_without_an_iteration_has_no_variance():
    found = study.study(0, gammas=(0.5,), seeds=(1,), teacher_iterations=0)
    nothing = [found[name] for name in ("iterations", "window_ends", "window_mean")]
    assert found["variance"] == [[[]]] and nothing == [[], [], []]
    assert found["checkpoints"] == [0] and np.shape(found["final_position"]["mean"]) == (1, 1, 2, 1)


@pytest.mark.parametrize(
    "module, judged", [(study, study.teachers_evaluated), (sensitivity, sensitivity.teachers_under)]
)
def test_teachers_are_judged_where_they_are(module, judged, monkeypatch):
    make, asked = module.make_runs, []
    monkeypatch.setattr(
        module, "make_runs", lambda *of, **more: asked.append(more) or make(*of, **more)
    )
    pair = initial_parameters((1, 2), torch.zeros(1, **DOUBLE))
    judged(pair, *([(-3.0, 1.0)] if module is sensitivity else []))
    (options,) = asked
    assert (options["dtype"], options["device"]) == (pair.dtype, pair.device)


@pytest.mark.parametrize("iterations", [9, 8, 1])
def test_every_row_and_pair_of_the_sensitivity_is_that_of_its_runs(iterations, monkeypatch):
    """On distances, variances and ends that are drawn, at three checkpoints."""
    seeds, random = (4, 9), np.random.default_rng(1)
    runs, _ = sensitivity.stack(seeds, **DOUBLE)
    many = len(runs.seed)
    distance = random.uniform(0, 2, (3, 2, many))
    distance[2, 1, 3] = np.inf
    variance = random.uniform(1, 9, (iterations, many))
    diverged = random.integers(0, 3, many)
    monkeypatch.setattr(sensitivity, "fresh_positions", lambda parameters, runs: parameters)
    monkeypatch.setattr(sensitivity, "distance_to_target", lambda positions: positions)
    state = {"snapshots": torch.from_numpy(distance), "variance": torch.from_numpy(variance)}
    state |= {"diverged": torch.from_numpy(diverged)}
    rows, crossed = sensitivity.found(state, runs, seeds)
    worse = distance.max(1)  # (checkpoint, run)
    known = lambda values: [x if np.isfinite(x) else None for x in values]
    late = variance[[i for i in range(iterations) if i >= 0.75 * iterations]]  # of one: none
    at = iter(range(many))
    adam = {}
    expected = [(*each[:2], gamma) for each in sensitivity.settings() for gamma in (0.0, 1.0)]
    assert [(row["bounds"], row["optimiser"], row["gamma"]) for row in rows] == expected
    for row in rows:
        for n, run in enumerate(next(at) for _ in seeds):
            assert row["distance"][n] == known(worse[:, run].round(3))
            if len(late):
                geometric = np.prod(late[:, run]) ** (1 / len(late))
                assert row["late_variance"][n] == pytest.approx(geometric, rel=6e-4)
            else:
                assert row["late_variance"][n] is None
            assert row["not_finite_at"][n] == diverged[run]
            assert row["drifts"][n] == (worse[2, run] > 1)
            assert row["was_lost"][n] == (worse[:, run] > 1).any()
            if (row["optimiser"], row["gamma"]) == ("Adam 1e-3", 1.0):
                adam.setdefault(row["bounds"], []).append(run)
    others = {pair: [next(at) for _ in seeds] for pair in sensitivity.crossings()}
    pairs = list(itertools.product(sensitivity.CROSSED, repeat=2))
    assert [(cell["teacher"], cell["student"]) for cell in crossed] == pairs
    for cell, pair in zip(crossed, pairs):
        own = adam[pair[0]] if pair[0] == pair[1] else others[pair]
        assert cell["distance"] == known(worse[2, own].round(3))
        assert cell["drifts"] == (worse[2, own] > 1).tolist()
