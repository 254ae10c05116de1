"""The stacked study against autograd, a plain loop, and itself, alone and resumed."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from opd_toy.commands.running import find_device
from opd_toy.control import frozen, sensitivity, study
from opd_toy.control.benchmark import benchmark
from opd_toy.control.gradients import (
    backward,
    discounted_return,
    distillation_signal,
    micro_batch_variance,
)
from opd_toy.control.policy import (
    both,
    gaussian_at,
    gaussian_kl,
    gaussian_kl_gradient,
    gaussian_log_density,
    initial_parameters,
    pack,
    roll_out,
    sigmoid_form,
    tanh_gradient,
    unpack,
)
from opd_toy.control.task import (
    BATCH,
    BOUNDS,
    EVALUATION,
    LENGTH,
    MICRO_BATCHES,
    OUTPUT_LAYER,
    PARAMETERS,
    TARGETS,
    TEACHER_SEED,
    TEACHING,
    TRAINING,
    join,
    make_runs,
    normal_noise,
)
from opd_toy.control.training import (
    distance_to_target,
    distillation,
    fresh_positions,
    initial_state,
    reinforcement,
    step,
    train,
    train_teachers,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
DOUBLE = {"dtype": torch.float64}


def says(message):
    return pytest.raises(ValueError, match="^" + re.escape(message) + "$")


def small(gammas=(0.0, 0.3, 1.0), seeds=(42, 7), batch=16, length=6, **options):
    """A little stack in float64 with untrained teachers, and one rollout of the left task."""
    runs = make_runs(gammas, seeds, **DOUBLE, **options)
    parameters = initial_parameters(runs.seed, runs.gamma)
    teachers = initial_parameters((1, 2), runs.gamma)
    noise = normal_noise(runs.seed, TRAINING, 1, length, batch, runs.gamma)
    return (
        runs,
        parameters,
        teachers,
        roll_out(parameters, runs.lower, runs.upper, both(0, runs), noise),
    )


def teacher_at(teachers, runs, rollout):
    return gaussian_at(
        teachers[0].expand(len(runs.seed), -1), runs.lower, runs.upper, rollout.inputs
    )


def reference_gradients(parameters, bounds, teacher, gamma, states, actions):
    """Every trajectory's gradient (B, P) by autograd, in the stacked code's order of parameters.

    ``states`` (T, B, 3), ``actions`` (T, B); returns by their definition,
    sum_{u >= t} gamma^(u - t) r_u.
    """
    leaf = parameters.clone().requires_grad_()

    def normal(flat):
        w1, b1, w2, b2, w3, b3 = (part[0] for part in unpack(flat[None]))
        out = torch.tanh(torch.tanh(states @ w1 + b1) @ w2 + b2) @ w3 + b3
        return torch.distributions.Normal(out[..., 0], out[..., 1].clamp(*bounds).exp())

    log_p = normal(leaf).log_prob(actions)
    costs = (log_p - normal(teacher).log_prob(actions)).detach()
    length = len(costs)
    returns = torch.stack(
        [sum(gamma ** (u - t) * costs[u] for u in range(t, length)) for t in range(length)]
    )
    losses = (returns * log_p).sum(0)
    return torch.stack([torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses])


def close(ours, theirs, tolerance=1e-10):
    scale = theirs.abs().max().clamp(min=1e-300)
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() <= tolerance * scale, (
        ours - theirs
    ).abs().max() / scale


def test_the_network_has_the_paper_s_size():
    assert PARAMETERS == 4022 and slice(3900, 4022) == OUTPUT_LAYER


@pytest.mark.parametrize("bounds", [(-3.0, 1.0), (-0.05, 0.05), (-math.inf, math.inf)], ids=str)
def test_gradient_and_micro_batches_equal_autograd_on_every_run(bounds):
    runs, parameters, teachers, rollout = small(bounds=bounds)
    if bounds == (
        -0.05,
        0.05,
    ):  # some of the raw log stds lie beyond, and nothing may flow through those
        assert 0.1 < rollout.inside.double().mean() < 0.9
    signal_ = distillation_signal(rollout, runs.gamma, *teacher_at(teachers, runs, rollout))
    whole, micro = backward(parameters, rollout, signal_)
    for r in range(len(runs.seed)):
        states, actions = rollout.inputs[:, r, :, :3], rollout.actions[:, r]
        rows = reference_gradients(
            parameters[r], bounds, teachers[0], float(runs.gamma[r]), states, actions
        )
        close(whole[r], rows.mean(0))
        close(micro[r], rows[:, OUTPUT_LAYER].unflatten(0, (MICRO_BATCHES, -1)).mean(1))


def test_trajectory_gradients_equal_autograd_for_every_estimator():
    runs, parameters, teachers, rollout = small(gammas=[0.4], seeds=[3], batch=8)
    teacher = teacher_at(teachers, runs, rollout)
    found = frozen.signals(rollout, *teacher, (0.0, 0.4, 1.0))
    states, actions = rollout.inputs[:, 0, :, :3], rollout.actions[:, 0]
    for gamma in (0.0, 0.4, 1.0):
        rows = reference_gradients(parameters[0], BOUNDS, teachers[0], gamma, states, actions)
        close(frozen.trajectory_gradients(parameters, rollout, found["sampled", gamma]), rows)
    # the other two: autograd of a surrogate written from their definitions
    leaf = parameters.clone().requires_grad_()
    mean, log_std = forward(leaf, rollout.inputs)
    p, q = (
        torch.distributions.Normal(mean, log_std.exp()),
        torch.distributions.Normal(teacher[0], teacher[1].exp()),
    )
    log_p, kl = p.log_prob(rollout.actions), torch.distributions.kl_divergence(p, q)
    costs = (log_p - q.log_prob(rollout.actions)).detach()
    for key, losses in {
        ("full_return", 1.0): costs.sum(0) * log_p.sum(0),
        ("full_vocabulary", 0.4): (kl + sum_ahead(kl.detach(), 0.4) * log_p).sum(0),
        ("full_vocabulary", 0.0): kl.sum(0),
    }.items():
        rows = torch.cat(
            [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses[0]]
        )
        close(frozen.trajectory_gradients(parameters, rollout, found[key]), rows)


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_std_just_at_its_bound_is_within(bound):
    runs, parameters, _, _ = small(gammas=[0.4], seeds=[3], batch=8)
    _, _, _, _, w3, b3 = unpack(parameters)
    w3[..., 1], b3[..., 1] = 0.0, bound
    noise = normal_noise(runs.seed, TRAINING, 1, 6, 8, runs.gamma)
    rollout = roll_out(parameters, runs.lower, runs.upper, both(0, runs), noise)
    assert (rollout.log_std == bound).all() and rollout.inside.all()


def test_nothing_flows_through_a_std_at_its_bound():
    runs, parameters, teachers, rollout = small(
        gammas=[0.4], seeds=[3], batch=8, bounds=(-0.05, 0.05)
    )
    assert 0.1 < rollout.inside.double().mean() < 0.9
    teacher = teacher_at(teachers, runs, rollout)
    found = frozen.signals(rollout, *teacher, (0.4,))
    leaf = parameters.clone().requires_grad_()
    mean, log_std = forward(leaf, rollout.inputs, (-0.05, 0.05))
    p, q = (
        torch.distributions.Normal(mean, log_std.exp()),
        torch.distributions.Normal(teacher[0], teacher[1].exp()),
    )
    kl = torch.distributions.kl_divergence(p, q)
    losses = (kl + sum_ahead(kl.detach(), 0.4) * p.log_prob(rollout.actions)).sum(0)
    rows = torch.cat([torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in losses[0]])
    close(frozen.trajectory_gradients(parameters, rollout, found["full_vocabulary", 0.4]), rows)


def test_recorded_windows_and_variances_are_those_of_the_runs():
    variance = np.exp(np.random.default_rng(0).normal(size=(1, 1, 400)))
    found = study.windows(variance)
    assert found["window_ends"] == [100, 200, 300, 400]
    for task in (0, 1):  # left in odd iterations, right in even ones
        own = variance[0, 0, 100 + task : 200 : 2]
        assert found["window_mean"][0][0][task][1] == pytest.approx(own.mean(), rel=1e-3)
        assert found["window_geometric_mean"][0][0][task][1] == pytest.approx(
            math.exp(np.log(own).mean()), rel=1e-3
        )
    recorded = study.study(12, gammas=(0.0, 1.0), seeds=(42, 7, 8), teacher_iterations=2)
    runs = make_runs((1.0,), (7,))
    teachers = train_teachers(iterations=2)[:, 0]
    alone = train(runs, distillation(runs, teachers), 12, (12,))
    assert recorded["variance"][1][1] == pytest.approx(alone["variance"][:, 0].tolist(), rel=2e-3)
    end = fresh_positions(alone["snapshots"][0], runs)
    for task in (0, 1):
        assert recorded["final_position"]["mean"][1][1][task][-1] == pytest.approx(
            end[task, -1].mean().item(), rel=1e-3
        )
        assert recorded["final_position"]["distance_to_target"][1][1][task][-1] == pytest.approx(
            (end[task, -1] - (-3, 3)[task]).abs().mean().item(), rel=1e-3
        )
        assert recorded["trajectories"][1][1][-1][task][2] == pytest.approx(
            end[task, :, 0, 2].tolist(), abs=0.02
        )
    assert recorded["iterations"] == list(range(1, 13)) and recorded["checkpoints"][-1] == 12


def test_after_a_hundred_iterations_the_last_pair_of_each_ten_is_recorded():
    assert study.recorded_iterations(125) == [*range(1, 101), 109, 110, 119, 120]


def test_teachers_are_judged_on_their_own_tasks():
    teachers = initial_parameters((1, 2), torch.zeros(1, **DOUBLE))
    found = study.teachers_evaluated(teachers)
    positions = fresh_positions(teachers, make_runs([1.0], (0, 1), **DOUBLE), 1024).numpy()
    for task, target in enumerate(TARGETS):
        own = positions[task, :, task]
        expected = {
            "final_position_mean": own[-1].mean(),
            "final_position_sd": own[-1].std(ddof=1),
            "final_distance": np.abs(own[-1] - target).mean(),
            "mean_distance": np.abs(own[1:] - target).mean(),  # the start is nobody's merit
        }
        for name, value in expected.items():
            assert found[name][task] == pytest.approx(value, abs=6e-5), name
        assert found["trajectory"][task] == [round(x, 2) for x in own.mean(axis=1).tolist()]


def forward(parameters, inputs, bounds=BOUNDS):
    w1, b1, w2, b2, w3, b3 = (part[0] for part in unpack(parameters))
    out = torch.tanh(torch.tanh(inputs[..., :3] @ w1 + b1) @ w2 + b2) @ w3 + b3
    return out[..., 0], out[..., 1].clamp(*bounds)


def sum_ahead(costs, gamma):
    """sum_{u > t} gamma^(u - t) costs_u, by its definition."""
    length = len(costs)
    return torch.stack(
        [
            sum(
                (gamma ** (u - t) * costs[u] for u in range(t + 1, length)),
                torch.zeros_like(costs[0]),
            )
            for t in range(length)
        ]
    )


def test_sigmoid_form_is_the_same_network_and_its_gradient_map_the_transpose():
    parameters = initial_parameters((5, 6), torch.zeros(1, dtype=torch.float64))
    inputs = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    inputs[..., 3] = 1
    infinite = torch.full((2,), math.inf, dtype=torch.float64)
    mean, log_std = gaussian_at(parameters, -infinite, infinite, inputs)
    for r in range(2):
        expected = forward(parameters[r : r + 1], inputs[:, r])
        close(mean[:, r], expected[0])
        close(log_std[:, r], expected[1])
    flat, image = pack(unpack(parameters)), pack(sigmoid_form(parameters))
    assert torch.equal(flat, parameters)
    other = torch.randn_like(image)
    back = pack(tanh_gradient(*unpack(other)))
    close((other * image).sum(), (back * parameters).sum())


def test_gaussians_against_torch_distributions():
    numbers = torch.randn(5, 50, dtype=torch.float64)
    x, mean, log_std, other_mean, other_log_std = numbers
    p, q = (
        torch.distributions.Normal(mean, log_std.exp()),
        torch.distributions.Normal(other_mean, other_log_std.exp()),
    )
    close(gaussian_log_density(x, mean, log_std), p.log_prob(x), 1e-12)
    close(
        gaussian_kl(mean, log_std, other_mean, other_log_std),
        torch.distributions.kl_divergence(p, q),
        1e-12,
    )
    leaves = [mean.clone().requires_grad_(), log_std.clone().requires_grad_()]
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(leaves[0], leaves[1].exp()), q
    )
    close(
        gaussian_kl_gradient(mean, log_std, other_mean, other_log_std),
        torch.stack(torch.autograd.grad(kl.sum(), leaves), dim=-1),
        1e-12,
    )


def test_rollout_follows_its_own_policy_and_log_density():
    runs, parameters, _, rollout = small()
    mean, log_std = gaussian_at(parameters, runs.lower, runs.upper, rollout.inputs)
    close(rollout.mean, mean, 1e-12)
    close(rollout.actions, mean + log_std.exp() * rollout.noise, 1e-12)
    close(
        rollout.log_density,
        torch.distributions.Normal(mean, log_std.exp()).log_prob(rollout.actions),
        1e-10,
    )
    assert (rollout.positions[0] == 2).all() and (rollout.inputs[:, :, :, 0] == -1).all()
    close(rollout.inputs[..., 1], rollout.positions[:-1])
    assert rollout.inputs[:, 0, 0, 2].tolist() == [t / 6 for t in range(6)]


def test_discounted_return():
    costs = torch.randn(7, 3, 4, dtype=torch.float64)
    gamma = torch.tensor([0.0, 0.6, 1.0], dtype=torch.float64)
    returns = discounted_return(costs, gamma)
    assert torch.equal(returns[:, 0], costs[:, 0])  # only r_t
    for r in range(3):
        for t in range(7):
            close(returns[t, r], sum(gamma[r] ** (u - t) * costs[u, r] for u in range(t, 7)), 1e-12)
    assert torch.equal(returns[-1], costs[-1])


def test_micro_batch_variance_against_its_formula():
    gradients = torch.randn(2, 8, 5, dtype=torch.float64)
    for r in range(2):
        rows = gradients[r].numpy()
        naive = sum(np.linalg.norm(row - rows.mean(0)) ** 2 for row in rows) / 8
        assert micro_batch_variance(gradients)[r].item() == pytest.approx(naive, rel=1e-12)


def test_adam_descent_and_clipping_against_torch_optim():
    sgd = {"adam": False, "rate": 0.1}
    options = ({}, {"clip": 1.0}, sgd, {**sgd, "clip": 0.5})
    runs = join([make_runs([0.0], [1], **each, **DOUBLE) for each in options])
    state = initial_state(runs, 5, ())
    leaves = [row.clone().requires_grad_() for row in state["parameters"]]
    optimisers = [
        torch.optim.Adam([leaves[0]], lr=1e-3),
        torch.optim.Adam([leaves[1]], lr=1e-3),
        torch.optim.SGD([leaves[2]], lr=0.1),
        torch.optim.SGD([leaves[3]], lr=0.1),
    ]
    for _ in range(5):
        gradient = torch.randn(4, PARAMETERS, dtype=torch.float64)
        step(state, runs, lambda *_, gradient=gradient: (gradient, torch.zeros(4)))
        for leaf, row, optimiser, clip in zip(leaves, gradient, optimisers, (None, 1.0, None, 0.5)):
            leaf.grad = row.clone()
            if clip:
                torch.nn.utils.clip_grad_norm_([leaf], clip)
            optimiser.step()
    close(state["parameters"], torch.stack(leaves).detach(), 1e-13)


def test_a_run_that_is_not_finite_stands_still_and_leaves_the_others_alone():
    runs = make_runs([0.0, 1.0], [1], **DOUBLE)
    state = initial_state(runs, 3, ())
    before = state["parameters"].clone()
    gradient = torch.ones(2, PARAMETERS, dtype=torch.float64)
    gradient[1, 0] = math.nan
    for _ in range(3):
        step(state, runs, lambda parameters, iteration: (gradient, torch.zeros(2)))
    assert state["diverged"].tolist() == [0, 1]
    assert all(state[name].isfinite().all() for name in ("parameters", "first", "second"))
    assert not state["first"][1].any()
    assert torch.equal(state["parameters"][1], before[1])
    assert torch.allclose(state["parameters"][0], before[0] - 3e-3, rtol=0, atol=1e-9)


def test_tasks_alternate_left_first_each_with_its_own_teacher():
    runs = make_runs([0.5], [4], **DOUBLE)
    teachers = initial_parameters((1, 2), runs.gamma)
    parameters = initial_parameters(runs.seed, runs.gamma)
    gradient = distillation(runs, teachers)
    for iteration, task in ((1, 0), (2, 1), (3, 0)):
        noise = normal_noise(runs.seed, TRAINING, iteration, LENGTH, BATCH, runs.gamma)
        rollout = roll_out(parameters, runs.lower, runs.upper, both(task, runs), noise)
        assert rollout.positions[0].unique().item() == (2, -2)[task]
        rows = reference_gradients(
            parameters[0],
            BOUNDS,
            teachers[task],
            0.5,
            rollout.inputs[:, 0, :, :3],
            rollout.actions[:, 0],
        )
        close(gradient(parameters, iteration)[0][0], rows.mean(0))


def test_teachers_may_have_bounds_of_their_own():
    runs = make_runs((0.5, 0.5), (4,), **DOUBLE)
    parameters, teachers = (
        initial_parameters(runs.seed, runs.gamma),
        initial_parameters((1, 2), runs.gamma),
    )
    held = teachers.clone()
    for teacher in held:  # a log std of -0.25 everywhere, within the bounds
        _, _, _, _, w3, b3 = unpack(teacher[None])
        w3[..., 1], b3[..., 1] = 0.0, -0.25
    lower, upper = runs.gamma.new_tensor([[-0.25, -3.0], [-0.25, 1.0]])
    bounded, _ = distillation(runs, teachers, teacher_bounds=(lower, upper))(parameters, 1)
    expected, _ = distillation(runs, held)(parameters, 1)
    own, _ = distillation(runs, teachers)(parameters, 1)
    close(bounded[0], expected[0])
    close(bounded[1], own[1])
    assert (bounded[0] - own[0]).norm() > 0.01 * own[0].norm()


def test_stacked_equals_alone_and_noise_is_the_seed_s():
    runs, teachers = (
        make_runs((0.0, 1.0), (42, 43), **DOUBLE),
        initial_parameters((1, 2), torch.zeros(1, dtype=torch.float64)),
    )
    together = train(runs, distillation(runs, teachers), 6)
    for r, (gamma, seed) in enumerate(((0.0, 42), (0.0, 43), (1.0, 42), (1.0, 43))):
        one = make_runs((gamma,), (seed,), **DOUBLE)
        alone = train(one, distillation(one, teachers), 6)
        close(together["parameters"][r], alone["parameters"][0], 1e-9)
        close(together["variance"][:, r], alone["variance"][:, 0], 1e-9)
    noise = normal_noise((42, 43, 42), TRAINING, 9, 4, 5, runs.gamma)
    assert torch.equal(noise[:, 0], noise[:, 2]) and not torch.equal(noise[:, 0], noise[:, 1])
    assert torch.equal(noise[:, 1:2], normal_noise((43,), TRAINING, 9, 4, 5, runs.gamma))
    assert not torch.equal(noise, normal_noise((42, 43, 42), TRAINING, 10, 4, 5, runs.gamma))
    assert not torch.equal(noise, normal_noise((42, 43, 42), TEACHING, 9, 4, 5, runs.gamma))


def test_plain_loop_gives_the_same_numbers():
    found = benchmark(iterations=3, repeats=2, dtype=torch.float64)
    assert found["largest_relative_difference_of_variance"] < 1e-9
    assert found["largest_difference_of_parameters"] < 1e-11
    assert found["ratio_of_medians"] > 1


def test_a_teacher_learns_its_task():
    teachers = train_teachers(iterations=200)
    assert teachers.shape == (2, 1, PARAMETERS)
    runs = make_runs([1.0], (0, 1))
    before = distance_to_target(
        fresh_positions(initial_parameters((TEACHER_SEED, TEACHER_SEED + 1), runs.gamma), runs)
    )
    after = distance_to_target(fresh_positions(teachers[:, 0], runs))
    for task in (0, 1):
        assert after[task, task] < 0.5 < 3 < before[task, task]


def test_students_are_judged_by_noise_that_they_were_not_trained_on():
    runs, parameters, _, _ = small()
    noise = normal_noise(runs.seed, EVALUATION, 0, LENGTH, 8, runs.gamma)
    found = fresh_positions(parameters, runs, 8)
    for task in (0, 1):
        rollout = roll_out(parameters, runs.lower, runs.upper, both(task, runs), noise)
        close(found[task], rollout.positions, 1e-12)


def test_the_sensitivity_s_rows_have_the_worse_task_and_the_last_quarter():
    runs, _ = sensitivity.stack((1,), **DOUBLE)
    parameters = initial_parameters(runs.seed, runs.gamma)
    parameters[:, -2] = torch.arange(len(parameters)) / 100  # drawn to the right, row by row more
    variance = torch.ones(8, len(parameters), dtype=torch.float64)
    variance[6], variance[7] = 4, 16
    diverged = torch.zeros(len(parameters), dtype=torch.long)
    state = {"snapshots": parameters[None], "variance": variance, "diverged": diverged}
    rows, _ = sensitivity.found(state, runs, (1,))
    distance = distance_to_target(fresh_positions(parameters, runs))
    worse, better = distance.amax(0), distance.amin(0)
    assert ((worse - better).abs() > 0.01).any()  # they differ, beyond the three decimals
    for row, expected in zip(rows, worse):  # the crossings come after the rows
        assert row["distance"][0][0] == pytest.approx(expected.item(), abs=6e-4)
        assert row["late_variance"] == [8.0]  # the geometric mean


def test_who_comes_back_was_lost_and_what_is_not_finite_drifts(monkeypatch):
    runs, _ = sensitivity.stack((1,), **DOUBLE)
    many, first_crossing = len(runs.seed), len(sensitivity.settings()) * 2
    distance = torch.full((2, 2, many), sensitivity.DRIFT)  # checkpoint, task, run: just near
    distance[0, 1, 0] = 3.0
    distance[1, 0, 1] = math.nan
    distance[1, 1, first_crossing] = 2.0
    monkeypatch.setattr(sensitivity, "fresh_positions", lambda parameters, runs: parameters)
    monkeypatch.setattr(sensitivity, "distance_to_target", lambda positions: positions)
    diverged = torch.zeros(many, dtype=torch.long)
    state = {"snapshots": distance, "variance": torch.ones(4, many), "diverged": diverged}
    rows, crossed = sensitivity.found(state, runs, (1,))
    found = [(row["drifts"], row["was_lost"]) for row in rows]
    assert found[:2] == [([False], [True]), ([True], [True])]
    assert found[2:] == [([False], [False])] * (len(rows) - 2)
    drifting = [(cell["teacher"], cell["student"]) for cell in crossed if cell["drifts"][0]]
    of_its_own = rows[1]["bounds"]  # the second row: gamma = 1
    assert set(drifting) == {sensitivity.crossings()[0], (of_its_own, of_its_own)}


def test_a_teacher_s_baseline_is_the_mean_of_its_own_step():
    runs, batch, length = make_runs([0.7], [4], **DOUBLE), 16, 6
    parameters = initial_parameters(runs.seed, runs.gamma)
    task = torch.tensor([1])
    whole, _ = reinforcement(runs, task, length, batch)(parameters, 3)
    noise = normal_noise(runs.seed, TEACHING, 3, length, batch, runs.gamma)
    rollout = roll_out(parameters, runs.lower, runs.upper, task, noise)
    costs = (rollout.positions[1:, 0] - TARGETS[1]).abs() / length
    cost_to_go = costs + sum_ahead(costs, 0.7)
    leaf = parameters.clone().requires_grad_()
    mean, log_std = forward(leaf, rollout.inputs[:, 0])
    log_p = torch.distributions.Normal(mean, log_std.exp()).log_prob(rollout.actions[:, 0])
    loss = ((cost_to_go - cost_to_go.mean(1, keepdim=True)) * log_p).sum(0).mean()
    close(whole, torch.autograd.grad(loss, leaf)[0])


def test_full_vocabulary_has_the_sampled_mean_and_less_variance():
    runs, parameters, teachers, _ = small(gammas=[0.5], seeds=[3])
    rollout, teacher = frozen.frozen_rollout(parameters, runs, teachers, 0, 5, 1024)
    found = frozen.signals(rollout, *teacher, (0.0, 0.5, 1.0))
    for gamma in (0.0, 0.5, 1.0):
        sampled, exact = (
            frozen.trajectory_gradients(parameters, rollout, found[name, gamma])
            for name in ("sampled", "full_vocabulary")
        )
        means = (sampled - exact).unflatten(0, (32, -1)).mean(1)
        square, error = frozen.squared_norm_of_mean(means)
        assert abs(square) < 4 * error, (gamma, square, error)
    one = frozen.trajectory_gradients(parameters, rollout, found["full_vocabulary", 0.0])
    assert frozen.total_variance(one) < frozen.total_variance(
        frozen.trajectory_gradients(parameters, rollout, found["sampled", 0.0])
    )
    assert frozen.squared_norm_of_mean(exact.unflatten(0, (32, -1)).mean(1))[0] > 0


def test_what_is_recorded_of_a_frozen_student():
    runs, parameters, teachers, _ = small(gammas=[0.5], seeds=[3])
    found = frozen.at_stage(parameters, runs, teachers, 1, (0.0, 1.0), 64)
    rollout, teacher = frozen.frozen_rollout(parameters, runs, teachers, 1, LENGTH, 64)
    end = rollout.positions[-1, 0]
    assert found["final_position"] == pytest.approx([end.mean().item(), end.std().item()], abs=6e-5)
    kl = gaussian_kl(rollout.mean, rollout.log_std, *teacher)[:, 0]  # (T, trajectories)
    assert found["kl_per_step"] == pytest.approx(kl.mean(1).tolist(), rel=6e-4)
    rows = {
        key: frozen.trajectory_gradients(parameters, rollout, signal)
        for key, signal in frozen.signals(rollout, *teacher, (0.0, 1.0)).items()
    }
    immediate = frozen.total_variance(rows["sampled", 0.0][:, OUTPUT_LAYER])
    for row in found["estimators"]:
        mine = rows[row["estimator"], row["gamma"]]
        variance = frozen.total_variance(mine[:, OUTPUT_LAYER])
        assert row["output_layer"]["variance"] == pytest.approx(variance, rel=6e-4)
        low, high = row["output_layer"]["interval"]
        assert 0 < low < high and low < 1.5 * variance and high > variance / 1.5
        low, high = row["output_layer"]["ratio_to_immediate_interval"]
        assert low < 1.5 * variance / immediate and high > variance / immediate / 1.5
        every = row["all_parameters"]
        assert every["variance"] == pytest.approx(frozen.total_variance(mine), rel=6e-4)
        assert ("squared_bias" in every) == (row["estimator"] == "full_vocabulary")
    first, last = (
        next(
            row["all_parameters"]
            for row in found["estimators"]
            if (row["estimator"], row["gamma"]) == ("full_vocabulary", gamma)
        )
        for gamma in (0.0, 1.0)
    )
    assert last["squared_bias"] == 0 < first["squared_norm"] == last["squared_norm"]


def test_bootstrap_and_unbiased_norm_on_known_laws():
    random = np.random.default_rng(0)
    rows = torch.from_numpy(random.normal(0, 1, (4096, 10))) * 2 + 1000
    low, high = frozen.interval(
        frozen.resampled_variances(rows, frozen.resample_weights(4096))["all_parameters"]
    )
    assert low < frozen.total_variance(rows) < high and low < 40 < high and high - low < 4
    for mean, slack in ((1.0, 0.1), (0.0, 0.6)):  # at mean 0 the jackknife errs on the safe side
        estimates = np.array(
            [
                frozen.squared_norm_of_mean(torch.from_numpy(random.normal(mean, 1, (32, 5))))
                for _ in range(1000)
            ]
        )
        assert abs(estimates[:, 0].mean() - 5 * mean**2) < 4 * estimates[:, 0].std() / math.sqrt(
            1000
        )
        assert 0.9 < estimates[:, 1].mean() / estimates[:, 0].std() < 1 + slack
    assert frozen.interval(np.arange(1001)) == pytest.approx([25, 975])  # 95 in 100 are within
    assert frozen.slope((5, 10, 20), np.array([25.0, 100.0, 400.0])) == pytest.approx(2)
    # a figure a length and task: the variance is the tasks' mean, 2 and 8
    fitted = frozen.fitted((5, 10), [1, 3, 6, 10], [[1.0], [3.0], [2.0], [6.0]])
    assert fitted["variance"] == [2, 8] and fitted["exponent"] == pytest.approx(2)
    assert fitted["interval"] == pytest.approx([1, 1])


WRONG = [
    (lambda: make_runs([1.5], [1]), "gamma is 1.5; give one number from 0 to 1"),
    (lambda: make_runs([0.5, -1e-9], [1]), "gamma is -1e-09; give one number from 0 to 1"),
    (lambda: make_runs([math.nan], [1]), "gamma is nan; give one number from 0 to 1"),
    (lambda: make_runs([True], [1]), "gamma is True; give one number from 0 to 1"),
    (lambda: make_runs([0.5], [-1]), "seed is -1; give a whole number (an int) of at least 0"),
    (lambda: make_runs([0.5], [1.0]), "seed is 1.0; give a whole number (an int) of at least 0"),
    (lambda: make_runs([], [1]), "gammas and seeds must each hold at least one number"),
    (
        lambda: make_runs([0.5], [1], bounds=(1.0, -3.0)),
        "bounds is (1.0, -3.0); give the least and the largest log std, -inf and inf for none",
    ),
    (lambda: make_runs([0.5], [1], rate=math.nan), "rate is nan; give a finite number above 0"),
    (
        lambda: make_runs([0.5], [1], clip=0.0),
        "clip is 0.0; give a number above 0, inf for none",
    ),
    (
        lambda: train(make_runs([0.5], [1]), None, -1),
        "iterations is -1; give a whole number (an int) of at least 0",
    ),
    (
        lambda: train(make_runs([0.5], [1]), None, 2.0),
        "iterations is 2.0; give a whole number (an int) of at least 0",
    ),
    (
        lambda: benchmark(iterations=0),
        "iterations is 0; give a whole number (an int) of at least 1",
    ),
]


@pytest.mark.parametrize("call, message", WRONG, ids=range(len(WRONG)))
def test_errors_name_the_argument(call, message):
    with says(message):
        call()


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_an_unknown_device_is_named(name):
    with pytest.raises(
        ValueError,
        match=f"^device is '{name}', which cannot be used here .*; "
        "give 'cpu', or 'cuda' where PyTorch finds a GPU$",
    ):
        find_device(name)
