"""What the two sliders of token trees ought to show, by the engine."""

import math

import numpy as np

from opd_toy import distributions, explorables, sequences
from opd_toy.example import TOKENS
from tests.explorables.reading import rounded, same, word

SIGNALS = ("sampled", "full_vocabulary")


def per_cent(x):
    return f"{rounded(100 * x, 1 if x < 0.0995 else 0)} %"


def discount(x):
    return str(int(x)) if x in (0, 1) else rounded(x, 2)


def bias_against_variance(seen, widget):
    traits = {
        "tree": seen.choices["tree"],
        "length": int(seen.choices["length"]),
        "seed": int(seen.number("seed")),
    }
    if traits["tree"] == "random":
        traits |= {
            "vocabulary": int(seen.choices["vocabulary"]),
            "distance": seen.slider("distance"),
        }
    trees = explorables.BiasAgainstVariance(**traits).trees()
    n, gamma = int(seen.slider("samples")), seen.slider("gamma")
    exact = sequences.sequence_kl_gradient(*trees)
    length = np.linalg.norm(exact)
    shown = seen.table(0)
    if traits["tree"] == "random" and traits["distance"] == 0:
        assert length == 0 and (shown[[0, 1, 2, 5]] == 0).all()
        assert seen.sentence.startswith("Student and teacher agree")
        return
    best, least, here = [], [], []
    for column, signal in enumerate(SIGNALS):
        now = sequences.reward_to_go(*trees, gamma, signal)
        bias, variance = (now.bias(exact) ** 2).sum(), now.total_variance() / n
        error = now.mean_squared_error(exact, n)
        same("bias, variance, error", shown[:3, column], [bias, variance, error], length**2)
        same("relative error", shown[3, column], math.sqrt(error) / length)
        best.append(sequences.best_gamma(*trees, n, signal))
        least.append(sequences.reward_to_go(*trees, best[-1], signal).mean_squared_error(exact, n))
        assert abs(shown[4, column] - best[-1]) < 1e-6, (
            f"best γ is shown as {shown[4, column]}, engine {best[-1]}"
        )
        same("least error", shown[5, column], least[-1])
        same("least relative error", shown[6, column], math.sqrt(least[-1]) / length)
        assert (
            least[-1]
            <= np.array(
                [
                    sequences.reward_to_go(*trees, x, signal).mean_squared_error(exact, n)
                    for x in (0, 0.3, 0.6, 0.9, 1)
                ]
            )
            * (1 + 1e-9)
        ).all()
        here.append(error)
    best, (least, here) = shown[4], (np.sqrt(x) / length for x in (least, here))
    assert (
        f"errs least at γ = {discount(best[0])}, by {per_cent(least[0])} of the exact gradient's "
        f"length; the exact signal at γ = {discount(best[1])}, by {per_cent(least[1])}."
        in seen.sentence
    )
    assert (
        f"At γ = {discount(gamma)} they err by {per_cent(here[0])} and {per_cent(here[1])}"
        in seen.sentence
    )
    assert seen.sentence.startswith(
        "A single sequence:" if n == 1 else f"Averaged over {n} sequences,"
    )
    nowhere = (sequences.reward_to_go(*trees, 0).bias(exact) ** 2).sum() < 1e-20 * length**2
    assert ("the bias is 0 at every γ" in seen.sentence) == nowhere
    if not nowhere:
        assert (
            "none of it is bias"
            if gamma == 1
            else f"the bias alone is {per_cent(math.sqrt(shown[0, 0]) / length)}"
        ) in seen.sentence
        assert ("An error above 100 %" in seen.sentence) == (least[0] > 1)


def plus(x, digits=2):
    """A number with its sign, but 0 without one."""
    text = rounded(x, digits)
    return f"+{text}" if x > 0 and float(text) else text


def credit(seen, widget):
    kind, scheme, at = (seen.choices[name] for name in ("tree", "scheme", "position"))
    seed, t = int(seen.number("seed")), int(at) - 1
    path = [int(seen.choices[f"at-{u + 1}"]) for u in range(5)]
    row = int(np.polyval(path, 3))
    gamma, lam, step = (
        seen.slider(name) if name in seen.outputs else getattr(widget, name)
        for name in ("gamma", "lam", "step")
    )
    here = explorables.Credit(tree=kind, seed=seed, step=step)
    (student, teacher), moved, reward = here.trees(), here.moved(), here.reward()
    # the trees, along the path
    for u in range(5):
        prefix = int(np.polyval(path[:u], 3)) if u else 0
        for who, tree in (("p", student), ("q", teacher)):
            same(
                f"{who} at {u + 1}",
                [seen.number(f"{who}-{u + 1}-{v + 1}") for v in range(3)],
                tree.probabilities[u][prefix],
            )
    # FIPO's student: one step of ascent on E[R | prefix] in the logits of that prefix
    right = float(path.count(0) >= 2)
    assert reward[row] == right
    ahead = sequences.state_values(student, np.eye(5)[4] * reward[:, None], 1.0)
    after = [*ahead[1:], reward]
    for u in range(5):
        p = student.probabilities[u]
        logits = np.log(p) + step * p * (after[u].reshape(p.shape) - ahead[u][:, None])
        np.testing.assert_allclose(
            moved.probabilities[u], distributions.softmax(logits), rtol=1e-12
        )
    weights = {
        "immediate": sequences.reward_to_go(student, teacher, 0.0),
        "discounted": sequences.reward_to_go(student, teacher, gamma),
        "reward_to_go": sequences.reward_to_go(student, teacher, 1.0),
        "full_return": sequences.full_return(student, teacher),
        "gae": sequences.generalized_advantage(student, teacher, gamma, lam),
        "outcome": sequences.outcome(student, reward),
        "broadcast": sequences.broadcast_outcome(student, reward),
        "fipo": sequences.fipo(moved, student, reward, gamma, 0.2, 0.2),
    }
    weights = {key: table.weights[row] for key, table in weights.items()}
    rows = [np.array(cells, float) for cells in seen.tables[0] if cells]
    assert len(rows) == len(widget.schemes) + 1
    costs = sequences.token_costs(student, teacher)
    for key, shown in zip(widget.schemes, rows):
        same(key, shown, weights[key], np.abs(costs[row]).max() + (key == "gae"))
    # of what the chosen weight is made
    future = sequences.future_kl(moved, student, gamma)[row]
    f = sequences.fipo_weight(moved, student, gamma, 0.2, 0.2)[row]
    total = future[t] if scheme == "fipo" else weights[scheme][t]
    same("sum of the parts", rows[-1].sum(), total, np.abs(costs[row]).sum())
    distance = np.arange(5) - t
    same(
        "parts",
        rows[-1],
        {
            "immediate": np.where(distance == 0, costs[row], 0),
            "discounted": np.where(distance >= 0, costs[row] * gamma ** np.maximum(distance, 0), 0),
            "reward_to_go": np.where(distance >= 0, costs[row], 0),
            "full_return": costs[row],
            "gae": np.where(
                distance >= 0,
                sequences.generalized_advantage(student, teacher, gamma, 0.0).weights[row]
                * (gamma * lam) ** np.maximum(distance, 0),
                0,
            ),
            "outcome": np.where(distance == 4 - t, -right, 0),
            "broadcast": np.where(distance >= 0, -right, 0),
            "fipo": np.where(
                distance >= 0,
                np.log(moved_over(student, moved, path)) * gamma ** np.maximum(distance, 0),
                0,
            ),
        }[scheme],
        np.abs(costs[row]).max(),
    )
    check_credit_sentence(
        seen,
        scheme,
        t,
        path,
        weights[scheme][t],
        rows[-1][t],
        costs[row],
        right,
        step,
        gamma,
        lam,
        future[t],
        f[t],
        reward[row] - student.sequence_probabilities() @ reward,
    )


def moved_over(student, moved, path):
    """Ratio of the two policies at each token of a path."""
    prefixes = [int(np.polyval(path[:u], 3)) if u else 0 for u in range(5)]
    return np.array(
        [
            moved.probabilities[u][s, path[u]] / student.probabilities[u][s, path[u]]
            for u, s in enumerate(prefixes)
        ]
    )


def check_credit_sentence(
    seen, scheme, t, path, weight, own, costs, right, step, gamma, lam, future, f, advantage
):
    token = f"token {t + 1} ({TOKENS[path[t]]})"
    after = [
        "the four tokens after it",
        "the three tokens after it",
        "the two tokens after it",
        "the token after it",
        "",
    ][t]
    split = (
        f"its own {plus(own)} and {plus(weight - own)} from {after}."
        if after
        else "its own cost, for no token comes after it."
    )
    if scheme in ("outcome", "broadcast") and not right:
        assert seen.sentence.startswith("R = 0: the outcome gives every token the weight 0.")
        return
    expected = {
        "immediate": f"{token} answers for its own cost alone, {plus(weight)}."
        + (f" The {plus(costs[t + 1 :].sum())} of {after} is not charged to it." if after else ""),
        "discounted": f"With γ = {rounded(gamma, 2)} {token} answers for {plus(weight)}: {split}",
        "reward_to_go": f"Undiscounted, {token} answers for {plus(weight)}: {split}",
        "full_return": f"the whole {plus(weight)}. For {token} that "
        + (
            f"includes {plus(costs[:t].sum())} from before it"
            if t
            else "is its reward-to-go: nothing came before"
        ),
        "gae": f"With γ = {rounded(gamma, 2)} and λ = {rounded(lam, 2)} the advantage of {token} "
        f"is {plus(weight)}: its own surprise {plus(own)}"
        + (f" and {plus(weight - own)} from {after}." if after else "."),
        "outcome": "R = 1: every token has weight −1, ",
        "broadcast": f"{token} has weight −{5 - t} and the last token −1",
        "fipo": f"the outcome's advantage alone, −(R − E[R]) = {plus(weight)}."
        if step == 0
        else f"FutureKL of {token} is {plus(future, 3)}, so that f = {rounded(f, 3)}"
        + (", where it is clipped." if f in (0.8, 1.2) else "."),
    }[scheme]
    assert expected in seen.sentence, f"{expected!r} is not in {seen.sentence!r}"
    if scheme == "fipo" and step:
        assert f"R − E[R] = {plus(advantage)} its weight is {plus(weight)}." in seen.sentence
    assert seen.sentence.endswith(
        f"Descent {word(weight)} token {t + 1}{' where it is' if word(weight) == 'leaves' else ''}."
    )
