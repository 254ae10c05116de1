"""Names of credit, of factors, of groups and of shifts, from matrices and maps made by hand."""

import itertools

import numpy as np
import pytest

from opd_toy.audit.sequence import alignment, groups, names, normalisers
from opd_toy.audit.sequence.bases import _solve, combine, fit
from opd_toy.audit.sequence.dependence import NOWHERE, Dependence
from opd_toy.audit.sequence.names import LAWS, WEIGHTS, lags, ones

LENGTHS = (2, 3, 4)
MINUS = "−"


def credit(weights, kind="reverse KL", tolerance=1e-9, off=1e-7):
    """The text of the weights (T, T), a function of T."""
    matrices = {T: np.asarray(weights(T), float) for T in LENGTHS}
    with np.errstate(divide="raise", invalid="raise"):
        pieces = names.credit_pieces(kind, matrices, tolerance)
    for T, matrix in matrices.items():
        np.testing.assert_allclose(sum(p.weights(T) for p in pieces), matrix, atol=off)
    return names.sum_text(pieces)


def last(T):
    return np.arange(T) == T - 1


FULL, PARTIAL = "sequence reverse KL", "sum of local reverse KLs"
READINGS = {
    FULL: ones,
    PARTIAL: np.eye,
    "reverse KL with a discounted return, γ = 0.75": lambda T: lags(T, 0.75),
    f"reverse KL with a discounted return, γ = {MINUS}0.5": lambda T: lags(T, -0.5),
    f"{PARTIAL}, the last position's alone": lambda T: np.diag(last(T)),
    f"{FULL}, the last position's cost alone": lambda T: ones(T) * last(T),
    f"{FULL}, the first token's return alone": lambda T: ones(T) * last(T)[::-1, None],
    f"{PARTIAL}, all positions but the last": lambda T: np.diag(~last(T)),
    f"{PARTIAL}, all positions but the first": lambda T: np.diag(~last(T)[::-1]),
    "reverse KL with a return of the later costs alone": lambda T: np.triu(np.ones((T, T)), 1),
    "reverse KL with a discounted return of the later costs alone, γ = 0.75": lambda T: np.triu(
        lags(T, 0.75), 1
    ),
    "reverse KL with the mean of the later costs as its return": lambda T: [
        [(u > t) / (T - 1 - t or 1) for u in range(T)] for t in range(T)
    ],
    "reverse KL with its own cost and the mean of the later ones as its return": lambda T: [
        [(t == u) + (u > t) / (T - 1 - t or 1) for u in range(T)] for t in range(T)
    ],
    "reverse KL with the mean of the costs from the token on as its return": lambda T: [
        [(u >= t) / (T - t) for u in range(T)] for t in range(T)
    ],
    "reverse KL with a return over 2 tokens": lambda T: ones(T) - np.triu(np.ones((T, T)), 2),
    "reverse KL with a return over 3 tokens": lambda T: ones(T) - np.triu(np.ones((T, T)), 3),
    f"{PARTIAL}, position t × 0.5^(t {MINUS} 1)": lambda T: np.diag(0.5 ** np.arange(T)),
    f"{PARTIAL}, position t × {MINUS}1^(t {MINUS} 1)": lambda T: np.diag((-1.0) ** np.arange(T)),
    f"{PARTIAL}, position t × 0.5^(T {MINUS} t)": lambda T: np.diag(0.5 ** np.arange(T)[::-1]),
    f"{FULL}, the cost at t × 0.5^(t {MINUS} 1)": lambda T: ones(T) * 0.5 ** np.arange(T),
    f"{FULL}, the cost at t × 0.5^(T {MINUS} t)": lambda T: ones(T) * 0.5 ** np.arange(T)[::-1],
    f"{FULL}, the return at t × 0.5^(t {MINUS} 1)": lambda T: (ones(T).T * 0.5 ** np.arange(T)).T,
    f"{FULL}, the return at t × 0.5^(T {MINUS} t)": lambda T: (
        (ones(T).T * 0.5 ** np.arange(T)[::-1]).T
    ),
    f"{PARTIAL}, weighted by position": lambda T: np.diag([1.0, 0.3, 0.7, 0.1][:T]),
    f"{PARTIAL} + 3 × {FULL}": lambda T: np.eye(T) + 3 * ones(T),
    f"2 × {PARTIAL} + reverse KL with a discounted return, γ = 0.75": lambda T: (
        2 * np.eye(T) + lags(T, 0.75)
    ),
}
for text, weight in WEIGHTS.items():
    READINGS[f"{PARTIAL}, position t × {text}"] = lambda T, w=weight: np.diag(w(T))
    READINGS[f"{FULL}, the cost at t × {text}"] = lambda T, w=weight: ones(T) * w(T)
    if text != f"1/(T {MINUS} t + 1)":  # that is the mean of the costs
        READINGS[f"{FULL}, the return at t × {text}"] = lambda T, w=weight: ones(T) * w(T)[:, None]


@pytest.mark.parametrize("text", READINGS)
def test_each_reading_has_its_name(text):
    assert credit(READINGS[text]) == text
    if "weighted by" in text or " + " in text and " × s" in text:
        return
    assert credit(lambda T: -1.0 / T * np.asarray(READINGS[text](T))) == f"{MINUS}1/T × {text}"
    assert credit(lambda T: 0.5 / T * np.asarray(READINGS[text](T))) == f"0.5/T × {text}"


def test_the_first_position_alone_is_no_power_of_0():
    assert credit(lambda T: np.diag(np.arange(T) == 0)) == f"{PARTIAL}, weighted by position"


def test_other_costs_have_names_of_their_own():
    assert [credit(ones, kind) for kind in ("forward KL", "negative entropy", "JSD(β = 0.3)")] == [
        "expected sum of local forward KLs",
        "sequence negative entropy",
        "expected sum of local JSD(β = 0.3)",
    ]
    assert [credit(np.eye, kind) for kind in ("forward KL", "negative entropy", "x")] == [
        "sum of local forward KLs",
        "sum of local negative entropies",
        "sum of local x",
    ]


@pytest.mark.parametrize("text", [*WEIGHTS, f"0.5^(t {MINUS} 1)", f"0.5^(T {MINUS} t)"])
def test_weights_of_positions_have_names(text):
    powers = {
        f"0.5^(t {MINUS} 1)": lambda T: 0.5 ** np.arange(T),
        f"0.5^(T {MINUS} t)": lambda T: 0.5 ** np.arange(T)[::-1],
    }
    of = {**WEIGHTS, **powers}[text]
    for number, sign in ((1, ""), (-2, f"{MINUS}2 × ")):
        vectors = {T: number * of(T) for T in LENGTHS}
        pieces = names.position_pieces("reward", "x", vectors, 1e-9)
        assert names.sum_text(pieces) == f"{sign}x, token t × {text}"
    plain = names.position_pieces("reward", "x", {T: np.ones(T) / T for T in LENGTHS}, 1e-9)
    assert names.sum_text(plain) == "1/T × x" and plain[0].kind == "reward"
    other = {T: np.array([1.0, 0.3, 0.7, 0.1][:T]) for T in LENGTHS}
    (piece,) = names.position_pieces("reward", "x", other, 1e-9)
    assert piece.name == "x, weighted by position" and piece.law is None
    assert np.array_equal(piece.weights(3), other[3])


def test_a_coefficient_counts_up_to_the_tolerance():
    """The multiple is the mean's, a tenth of what one of ten entries is off by."""
    bent = lambda off: lambda T: ones(T) + off * (np.indices((T, T))[0] == 0) * last(T) * (T == 4)
    for off, named in ((1.10e-6, True), (1.12e-6, False)):
        assert (credit(bent(off), tolerance=1e-6, off=1e-5) == FULL) == named


NUMBERS = {  # number: (alone, in front of 1/T, in front of T)
    1: ("", "1/T", "T"),
    -1: ("−1", "−1/T", "−T"),
    2: ("2", "2/T", "2 × T"),
    -0.5: ("−0.5", "−0.5/T", "−0.5 × T"),
    1 / 3: ("1/3", "1/3 × 1/T", "1/3 × T"),
    1 / 16: ("0.0625", "0.0625/T", "0.0625 × T"),
    1 / 32: ("1/32", "1/32 × 1/T", "1/32 × T"),
    1 / 512: ("1/512", "1/512 × 1/T", "1/512 × T"),
    1 / 512 / (1 + 0.9e-7): ("1/512", "1/512 × 1/T", "1/512 × T"),
    1 / 512 / (1 + 1.1e-7): ("0.00195312", "0.00195312/T", "0.00195312 × T"),
    1 / 1024: ("1/1024", "1/1024 × 1/T", "1/1024 × T"),
    1.00000005: ("1.00000005", "1.00000005/T", "1.00000005 × T"),
    1.0000002: ("1.0000002", "1.0000002/T", "1.0000002 × T"),
    12345.678: ("12345.7", "12345.7/T", "12345.7 × T"),
}


@pytest.mark.parametrize("number", NUMBERS)
def test_factors_in_words(number):
    for law, text in zip(("", "1/T", "T"), NUMBERS[number]):
        numbers = {T: number * LAWS[law](T) for T in LENGTHS}
        found, of = names.factor_text(numbers, 1e-9)
        assert found == text
        assert [of(T) for T in (2, 7)] == pytest.approx([number * LAWS[law](T) for T in (2, 7)])


@pytest.mark.parametrize("law", LAWS)
def test_each_law_is_told_from_the_others(law):
    numbers = {T: LAWS[law](T) for T in LENGTHS}
    assert names.factor_text(numbers, 1e-9)[0] == law
    assert names.factor_text({T: c * (1 + 3e-9 * (T == 3)) for T, c in numbers.items()}, 1e-9) == (
        None,
        None,
    )
    nearly = {T: c * (1 + 1.9e-9 * (T == 3)) for T, c in numbers.items()}
    assert names.factor_text(nearly, 1e-9)[0] == law
    assert np.isfinite(LAWS[law](1)) == ("(T − 1)" not in law.partition("/")[2])


def test_a_number_is_the_shortest_within_the_tolerance():
    for off, short in ((0.9e-3, 0.5), (1.1e-3, 0.501)):
        assert names.tidy(0.5 * (1 + off), 1e-3) == short
    assert names.tidy(0.12345, 1e-9) == 0.12345 and names.tidy(0.123456, 1e-9) == 0.123456
    assert names.tidy(-2.0000001, 1e-6) == -2
    assert [names._number(x, 4) for x in (1 / 3, -0.9, 1.00004, 1234.5678, 1e-5)] == [
        "0.3333", "−0.9", "1.00004", "1235", "1e−05",
    ]  # fmt: skip
    assert [
        names._number(x)
        for x in (1.23400004, 1.2300004, 0.00123000004, 0.5 * (1 + 0.9e-9), 0.5 * (1 + 1.2e-9))
    ] == ["1.234", "1.2300004", "0.00123000004", "0.5", "0.5000000006"]
    for off, text in ((1.98e-9, "0.3"), (2.02e-9, "0.3000000006")):
        assert names.factor_text(dict.fromkeys(LENGTHS, 0.3 * (1 + off)), 1e-9)[0] == text


def test_who_pays_in_words():
    matrix = [[1 + 0.9e-6, 1 + 1.1e-6, 0.9e-9], [0, 1.1e-9, -0.5], [0, 0, 0]]
    assert names.in_words(matrix) == [
        "the token at position 1 pays for position 1, 2 (× 1.0000011)",
        "the token at position 2 pays for position 2 (× 1.1e−09), 3 (× −0.5)",
        "the token at position 3 pays for nothing",
    ]


def test_terms_of_a_sum_a_positive_one_first():
    def piece(factor, name):
        return names.Piece("k", name, factor, {3: 1.0}, np.eye)

    assert names.sum_text([piece("−2", "a"), piece("", "b"), piece("0.5/T", "c")]) == (
        "b + 0.5/T × c − 2 × a"
    )
    assert names.sum_text([piece("−1", "a"), piece("−1", "b")]) == "−1 × a − b"
    assert names.sum_text([piece(None, "a"), piece("1", "b")]) == "c(T) × a + b"


# --- least squares ---------------------------------------------------------------------------


def test_least_squares_and_their_errors():
    """Against the textbook's normal equations, with two kinds, two positions and noise."""
    random = np.random.default_rng(5)
    bases = [
        {kind: {(t, t): random.normal(size=(2**t, 3)) for t in (0, 1)} for kind in "ab"}
        for _ in range(9)
    ]
    sizes = random.uniform(0.5, 2, size=9)
    blocks = [
        [2 * b["a"][t, t] - b["b"][t, t] + 0.1 * random.normal(size=(2**t, 3)) for t in (0, 1)]
        for b in bases
    ]
    found, errors, condition = fit(list(zip(blocks, sizes)), bases)
    worst = 0.0
    for t in (0, 1):
        design = np.concatenate(
            [
                np.stack([b[kind][t, t].ravel() for kind in "ab"], axis=1) / size
                for b, size in zip(bases, sizes)
            ]
        )
        target = np.concatenate([block[t].ravel() / size for block, size in zip(blocks, sizes)])
        inverse = np.linalg.inv(design.T @ design)
        wanted = inverse @ design.T @ target
        left = ((target - design @ wanted) ** 2).sum()
        free = 9 * 2**t * 2 - 2
        deviations = np.sqrt(np.diag(inverse) * left / free)
        for n, kind in enumerate("ab"):
            assert found[kind][t, t] == pytest.approx(wanted[n], rel=1e-9)
            assert errors[kind][t, t] == pytest.approx(deviations[n], rel=1e-9)
        scaled = design / np.linalg.norm(design, axis=0)
        worst = max(worst, np.linalg.cond(scaled))
    assert condition == pytest.approx(worst, rel=1e-9)
    only_second = [{"a": {(1, 1): b["a"][1, 1]}} for b in bases]
    alone = fit(list(zip(blocks, sizes)), only_second)
    assert list(alone[0]["a"]) == [(1, 1)] and alone[2] == pytest.approx(1)
    (first, second) = combine({"a": {(1, 1): 2.0}, "b": {(1, 1): 1.0}}, bases[0], 2)
    assert first == 0.0
    np.testing.assert_allclose(second, 2 * bases[0]["a"][1, 1] + bases[0]["b"][1, 1])


def test_columns_that_are_one_and_the_same_leave_their_difference_open():
    """(1, 1) in one equation, 0 in the other: what no column reaches is taken 1e12-fold at most."""
    with np.errstate(all="raise"):
        solution, deviations, condition = _solve(np.array([[1.0, 1], [0, 0]]), np.ones(2), 0)
    np.testing.assert_allclose(np.abs(solution - 0.5), 0.5e12, rtol=1e-9)
    np.testing.assert_allclose(deviations, 0.5e12, rtol=1e-9)  # of one equation left over, 1
    assert condition > 1e15


# --- what a draw of a group is ---------------------------------------------------------------

TEXTS = ((4, 2, 3), (2, 1, 4), (3, 4, 4), (1, 2, 2))


def drawn(seed):
    for n, lengths in enumerate(TEXTS):
        random = np.random.default_rng((seed, n))
        valid = np.arange(4) < np.array(lengths)[:, None]
        yield random.normal(size=(3, 4)), valid, random.normal(size=(3, 1))


def cost_of(name, ratios, valid, rewards):
    """By hand, token by token."""
    costs = np.zeros(ratios.shape)
    for b, t in np.ndindex(ratios.shape):
        own = [ratios[b, u] for u in range(4) if valid[b, u]]
        costs[b, t] = {
            "sum": sum(own),
            "mean": sum(own) / len(own),
            "own": ratios[b, t] * valid[b, t],
            "on": sum(own[t:]),
            "reward": rewards[b, 0],
        }[name]
    return costs


def places(over, valid, b, t):
    """[(place, share)] over which a token's mean is taken."""
    tokens = [tuple(at) for at in np.argwhere(valid)]
    if over in ("texts", "others"):
        return [(at, 1 / valid[at[0]].sum() / len(valid)) for at in tokens]
    chosen = [
        at for at in tokens if {"tokens": True, "position": at[1] == t, "text": at[0] == b}[over]
    ]
    return [(at, 1 / len(chosen)) for at in chosen]


def standardized(costs, valid, over, correction):
    found = np.zeros(costs.shape)
    for b, t in map(tuple, np.argwhere(valid)):
        shares = places(over, valid, b, t)
        count = len(valid) if over in ("texts", "others") else len(shares)
        mean = sum(share * costs[at] for at, share in shares)
        variance = sum(share * (costs[at] - mean) ** 2 for at, share in shares)
        off = costs[b, t] - mean
        if over == "others":
            off *= count / (count - 1)
        if correction is not None:
            scale = variance * count / (count - correction) if count > correction else np.inf
            off = off / np.sqrt(scale) if scale else 0.0
        found[b, t] = off
    return found


COSTS = {
    "sum": "its text's sum of log p − log q",
    "mean": "its text's mean of log p − log q",
    "own": "its own log p − log q",
    "on": "the sum of log p − log q from it on",
    "reward": "its text's reward",
}
MEANS = {
    "others": ("the others' mean", "the batch's standard deviation"),
    "texts": ("the batch's mean", "the batch's standard deviation"),
    "tokens": ("the mean over the batch's tokens", "their standard deviation"),
    "position": ("the batch's mean at its position", "their standard deviation"),
    "text": ("the mean over its text's tokens", "their standard deviation"),
}
OBJECTIVES = {"own": "sum of local reverse KLs", "reward": "expected reward"}
BATCH = {"others": "over the batch", "texts": "over the batch", "tokens": "over the batch's tokens",
         "position": "over the batch at each position"}  # fmt: skip
GROUPS = [
    each
    for each in itertools.product(COSTS, MEANS, (None, 0, 1))
    # Of a text's own tokens all costs must not be one number.
    if (each[1] != "text" or each[0] in ("own", "on")) and (each[2] != 0 or each[0] == "own")
]


@pytest.mark.parametrize("cost, over, correction", GROUPS)
def test_what_a_draw_is_is_told_from_all_else(cost, over, correction):
    draws = []
    for ratios, valid, rewards in drawn(7):
        weights = standardized(cost_of(cost, ratios, valid, rewards), valid, over, correction)
        draws.append(groups.Draw(weights / valid.sum(), ratios, valid, rewards))
    found = groups.describe(groups.GroupFacts(tuple(draws), masked=True))
    mean, deviation = MEANS[over]
    divided = "" if correction is None else f", divided by {deviation}"
    assert found.words == (
        f"a draw is each token's score times {COSTS[cost]}, less {mean}{divided}"
    )
    assert found.reading == "the valid tokens of the batch"
    assert (found.correction, found.number) == (correction, pytest.approx(1))
    assert found.size == pytest.approx({T: 1 / T for T in LENGTHS}) and found.per_token is True
    named = correction is not None and over in BATCH
    objective = OBJECTIVES.get(cost, "sequence reverse KL")
    assert found.name == (f"1/T × {objective}, standardized {BATCH[over]}" if named else None)


def test_a_draw_that_is_a_little_else_is_none():
    for off, described in ((1.5e-3, True), (2.5e-3, False)):
        draws = []
        for ratios, valid, rewards in drawn(3):
            weights = standardized(cost_of("sum", ratios, valid, rewards), valid, "texts", 1)
            off_by = np.random.default_rng(0).choice([-1.0, 1.0], size=(3, 4))
            draws.append(groups.Draw(weights * (1 + off * off_by), ratios, valid))
        found = groups.describe(groups.GroupFacts(tuple(draws), masked=True))
        assert (found is not None) == described


def test_what_batches_are_divided_by():
    assert normalisers.readings((4, 2), 4, True) == {
        "nothing: a plain sum": [1, 1],
        "the sequences (sums over tokens, mean over sequences)": [1 / 2, 1 / 2],
        "the valid tokens of the batch": [1 / 6, 1 / 6],
        "each sequence's own tokens, then the sequences (mean of means)": [1 / 8, 1 / 4],
        "each sequence's own tokens (sum of means)": [1 / 4, 1 / 2],
        "the padded size of the batch, B × T": [1 / 8, 1 / 8],
        "the padded length (sum over sequences)": [1 / 4, 1 / 4],
    }
    assert "all tokens of the batch" in normalisers.readings((4, 2), 4, False)


# --- shifts ----------------------------------------------------------------------------------


def seen_as(scored=(0, 1, 2, 3), read=(0, 1, 2, 3), teacher=None, student=None, **more):
    moves = {
        "student": np.eye(4) if student is None else np.asarray(student, float),
        "teacher": np.eye(4) if teacher is None else np.asarray(teacher, float),
    }
    fields = {"temperature": 1.0, "constants": False, "seen": 1e-4, **more}
    return Dependence(moves, np.array(scored), read_at=np.array(read), **fields)


UNREAD = (NOWHERE,) * 4


def test_shifts_of_labels_and_teachers_as_numbers():
    for scored, read, wanted in (
        ((0, 1, 2, 3), (0, 1, 2, 3), (0, 0)),
        ((1, 2, 3, NOWHERE), (1, 2, 3, NOWHERE), (1, 0)),
        ((1, 2, 3, 0), (1, 2, 3, 0), (1, 0)),  # rolled
        ((NOWHERE, 0, 1, 2), (NOWHERE, 0, 1, 2), (-1, 0)),
        ((2, 3, NOWHERE, NOWHERE), (NOWHERE,) * 2 + (3, NOWHERE), (2, 0)),
        ((0, 1, 2, 3), (3, 0, 1, 2), (0, 1)),
        ((0, 2, 3, 1), (0, 1, 2, 3), (0, 0)),  # by several
        ((NOWHERE, NOWHERE, 3, NOWHERE), UNREAD, (0, 0)),  # one alone says nothing
    ):
        assert alignment.shifts(seen_as(scored, read)) == wanted


def test_a_shift_of_rows_is_read_off_the_map_where_no_token_tells():
    for d in (1, -1, 2, -2):
        rows = np.eye(4, k=d)
        assert alignment.shifts(seen_as(UNREAD, UNREAD, teacher=rows)) == (0, d)
    some = np.diag([1, 1, 0], 1)
    assert alignment.shifts(seen_as(UNREAD, UNREAD, teacher=some)) == (0, 1)
    for teacher, student in (
        (np.zeros((4, 4)), np.eye(4)),
        (np.eye(4) + np.eye(4, k=1), np.eye(4)),  # its own among them
        (np.diag([0, 1, 1, 1]) + np.eye(4, k=1), np.eye(4) + np.eye(4, k=-1)),
        (np.eye(4, k=1), np.eye(4) + np.eye(4, k=1)),  # with which the student's move too
        (np.eye(4, k=3), np.eye(4)),
        (np.eye(4, k=1) + np.eye(4, k=2), np.eye(4)),
    ):
        assert alignment.shifts(seen_as(UNREAD, UNREAD, teacher=teacher, student=student)) == (0, 0)


ROW = "the gradient at position t moves with the teacher's row t"
FOLLOWS = "the gradient at position t follows the token at position t"
HOLDS = "where row t holds the logits of the token at position t"
INSIDE = '. Where the loss itself holds row t against label t + 1, write labels="shift_inside"'


@pytest.mark.parametrize(
    "dependence, said",
    [
        (
            seen_as((1, 2, 3, -1), UNREAD, teacher=np.eye(4)),
            [f"{FOLLOWS} + 1: the labels are shifted by one, {HOLDS}{INSIDE}"],
        ),
        (
            seen_as((-1, -1, 0, 1), UNREAD, teacher=np.eye(4)),
            [f"{FOLLOWS} − 2: the labels are shifted by two, {HOLDS}"],
        ),
        (
            seen_as((3, 0, 1, 2), UNREAD, teacher=np.eye(4)),
            [f"{FOLLOWS} − 1: the labels are shifted by one, {HOLDS}"],
        ),
        (
            seen_as((3, -1, -1, 0), UNREAD, teacher=np.eye(4)),
            [],
        ),
        (
            seen_as(read=(-1, -1, 0, 1), teacher=np.eye(4, k=2)),
            [f"{ROW} + 2, not with its row t: the teacher is shifted by two"],
        ),
        (
            seen_as((1, 2, 3, -1), (-1, -1, 0, 1), teacher=np.eye(4, k=3)),
            [
                f"{FOLLOWS} + 1: the labels are shifted by one, {HOLDS}{INSIDE}",
                f"{ROW} + 3, not with its row t: the teacher is shifted by three",
            ],
        ),
        (
            seen_as(read=(-1, 0, 1, 2), teacher=np.eye(4, k=1) + np.diag([1, 0, 0, 0])),
            [f"{ROW} + 1: the teacher is shifted by one"],
        ),
        (
            seen_as(read=(-1, 0, 1, -1), teacher=np.diag([1, 1, 0], 1)),
            [f"{ROW} + 1, not with its row t: the teacher is shifted by one"],
        ),
        (
            seen_as(read=(1, 2, 3, -1), teacher=np.diag([1, 1, 1, 0]) + np.diag([1, 0, 0], -1)),
            [
                "the teacher's row t is read at the token of position t + 1: its labels are "
                "shifted by one"
            ],
        ),
    ],
)
def test_a_shift_in_words(dependence, said):
    assert alignment.alignment_findings(dependence) == [("broken", words) for words in said]


def of_two(teacher=None, order=0.0, **others):
    maps = {"student": np.zeros((2, 4, 4)), "teacher": np.zeros((2, 4, 4)), **others}
    return seen_as(teacher=teacher, others=maps, order=order)


ORDER = (
    "the order of the texts in the batch matters{}: texts laid end to end, or one of them that "
    "serves all, reach into each other"
)


def test_texts_that_reach_into_each_other_in_words():
    both = np.ones((2, 4, 4))
    one_sided = np.zeros((2, 4, 4))
    one_sided[1, 2, 0] = 1.0  # of the second text's row 3, with the first one's row 1
    apart = "the gradient of a text moves with the teacher's rows of another text, not with its own"
    place = ", and the gradient of text 2 at position 3 moves with position 1 of text 1"
    for dependence, said in (
        (of_two(), []),
        (of_two(teacher=both), []),
        (of_two(teacher=np.zeros((4, 4))), []),
        (of_two(order=1.0, student=1e-4 * one_sided), [ORDER.format("")]),
        (of_two(order=0.9e-4), []),
        (of_two(order=1.1e-4), [ORDER.format("")]),
        (of_two(order=1.0, student=one_sided), [ORDER.format(place)]),
        (of_two(order=1.0, student=both), [ORDER.format("")]),
    ):
        found = alignment.alignment_findings(dependence)
        assert [words for _, words in found] == said
    hardly = of_two(teacher=np.full((4, 4), 1e-4))
    for moved, said in ((both, [apart]), (1e-4 * both, [])):
        hardly.others["teacher"] = moved
        assert [words for _, words in alignment.alignment_findings(hardly)] == said


PAYS = "acts on the drawn tokens alone; position t pays for the costs of {}; rests where student = "


@pytest.mark.parametrize(
    "changes, rests, said",
    [
        ({}, True, PAYS.format("its own position alone")),
        ({"teacher": np.tri(4).T}, True, PAYS.format("its own and of later positions")),
        ({"teacher": np.tri(4, k=-1).T, "student": np.tri(4)}, True,
         PAYS.format("later positions alone")),
        ({"teacher": np.tri(4)}, True, PAYS.format("its own and of earlier positions")),
        ({"teacher": np.ones((4, 4))}, True, PAYS.format("all positions")),
        ({"teacher": np.eye(4)[::-1]}, True,
         "acts on the drawn tokens alone; which position pays for which follows no common "
         "pattern; rests where student = "),
        ({"teacher": 0.9e-4 * np.eye(4)}, True,
         "acts on the drawn tokens alone; the teacher hardly moves it; rests where student = "),
        ({"teacher": np.zeros((4, 4))}, False,
         "acts on the drawn tokens alone; does not look at the teacher; does not rest where "
         "student = "),
        ({"scored": UNREAD, "temperature": 2.0}, True,
         PAYS.format("its own position alone").replace("drawn tokens alone", "whole vocabulary")),
        ({"temperature": 2.0}, True, PAYS.format("its own position alone").replace(
            "alone; position", "alone; scores them at temperature 2, not as they were drawn; "
            "position", 1)),
        ({"temperature": 1 + 0.9e-3}, True, PAYS.format("its own position alone")),
        ({"temperature": 1 + 1.1e-3}, True, PAYS.format("its own position alone").replace(
            "alone; position", "alone; scores them at temperature 1, not as they were drawn; "
            "position", 1)),
        ({"scored": (0, 1, NOWHERE, 3)}, True,
         PAYS.format("its own position alone").replace("drawn tokens alone", "whole vocabulary")),
        ({"scored": (1, 2, 3, -1), "read": (1, 2, 3, -1), "student": np.eye(4, k=1)}, True,
         "acts on the drawn tokens alone; position 4 of 4 gets no gradient; rests where student ="
         " "),
        ({"others": {"teacher": np.zeros((2, 4, 4))}, "order": 0.0}, True,
         "acts on the drawn tokens alone; a text's gradient moves with the other texts of its "
         "batch; rests where student = "),
    ],
)  # fmt: skip
def test_what_has_no_name_in_a_sentence(changes, rests, said):
    assert alignment.in_a_sentence(seen_as(**changes), rests) == f"{said}teacher"


def test_what_moves_just_as_far_as_rounding_does_not_move():
    hardly = seen_as(teacher=1e-4 * np.eye(4))
    assert "the teacher hardly moves it" in alignment.in_a_sentence(hardly, True)
    assert alignment.in_a_sentence(seen_as(student=1e-4 * np.eye(4)), True) is None
    assert alignment.shifts(seen_as(UNREAD, UNREAD, teacher=1e-4 * np.eye(4, k=1))) == (0, 0)
    assert not alignment.alignment_findings(of_two(order=1e-4))


def test_a_loss_that_moves_with_nothing_is_not_described():
    assert alignment.in_a_sentence(seen_as(student=np.zeros((4, 4))), True) is None
