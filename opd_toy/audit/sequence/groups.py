"""What a draw weighs its tokens' scores by: costs, less a mean, over a standard deviation.

Standardized costs have no exact expectation of their own: with two texts all that is left of
them is a sign.  But what each draw *is* can be read off a few batches of texts of different
lengths.  In all arrays (B, T) a row is a text.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opd_toy.audit.calling import AuditError
from opd_toy.audit.sequence.names import factor_text
from opd_toy.audit.sequence.normalisers import SUM, readings
from opd_toy.audit.sequence.samples import reward_of
from opd_toy.distributions import log_softmax

VOCABULARY, LENGTH = 4, 4
LENGTHS = ((4, 2, 3), (2, 1, 4), (3, 4, 4), (1, 2, 2))  # of the texts of each draw
EQUAL = 2e-3  # relative: small constants beside a deviation, such as 1e-4, are within it
THEIRS = "their standard deviation"


@dataclass(frozen=True)
class Cost:
    """``of(draw)`` -> (B, T), and the objective whose draws it weighs.

    ``of_text``: whether it is one number a text.
    """

    words: str
    objective: str
    of: Callable
    of_text: bool = False


@dataclass(frozen=True)
class Draw:
    """``weights`` of the scores, ``log_ratios`` of the tokens, ``valid`` positions, all (B, T).

    ``rewards`` (B, 1): None where the loss has none.
    """

    weights: np.ndarray
    log_ratios: np.ndarray
    valid: np.ndarray
    rewards: np.ndarray | None = None

    @property
    def costs(self):
        return self.log_ratios * self.valid

    @property
    def lengths(self):
        return self.valid.sum(axis=1, keepdims=True)


def _sum_of_text(draw):
    return draw.costs.sum(axis=1, keepdims=True) + 0 * draw.costs


COSTS = (
    Cost("its text's sum of log p − log q", "sequence reverse KL", _sum_of_text, of_text=True),
    Cost(
        "its text's mean of log p − log q",
        "sequence reverse KL",
        lambda draw: _sum_of_text(draw) / draw.lengths,
        of_text=True,
    ),
    Cost("its own log p − log q", "sum of local reverse KLs", lambda draw: draw.costs),
    Cost(
        "the sum of log p − log q from it on",
        "sequence reverse KL",
        lambda draw: np.cumsum(draw.costs[:, ::-1], axis=1)[:, ::-1],
    ),
)
OF_REWARD = Cost(
    "its text's reward", "expected reward", lambda draw: draw.rewards + 0 * draw.costs, of_text=True
)
# {over which tokens: (mean in words, deviation in words, of an objective, axes)}
OVER = {
    "others": ("the others' mean", "the batch's standard deviation", "over the batch", (0, 1)),
    "texts": ("the batch's mean", "the batch's standard deviation", "over the batch", (0, 1)),
    "tokens": ("the mean over the batch's tokens", THEIRS, "over the batch's tokens", (0, 1)),
    "position": ("the batch's mean at its position", THEIRS, "over the batch at each position", 0),
    "text": ("the mean over its text's tokens", THEIRS, None, 1),
}


@dataclass(frozen=True)
class GroupFacts:
    draws: tuple
    masked: bool


@dataclass(frozen=True)
class Group:
    """weight = ``number`` × (``cost`` − mean) / deviation, divided by ``reading``.

    ``over``: a key of ``OVER``; ``correction``: the deviation's, None where none divides;
    ``size``: {T: what two texts' readings sum to, times the number}.
    """

    cost: Cost
    over: str
    correction: int | None
    reading: str
    number: float
    size: dict

    @property
    def words(self):
        mean, deviation, *_ = OVER[self.over]
        scaled = "" if self.correction is None else f", divided by {deviation}"
        return f"a draw is each token's score times {self.cost.words}, less {mean}{scaled}"

    @property
    def per_token(self):
        """Whether everything is divided by T; None where it is by something else."""
        return {1: False, 2: True}.get(round(self.size[2] / self.size[4], 6))

    @property
    def name(self):
        """Of what is standardized over the batch, where many texts make it exact; else None."""
        over = OVER[self.over][2]
        if self.correction is None or over is None:
            return None
        factor = factor_text(self.size, EQUAL)[0]
        name = f"{self.cost.objective}, standardized {over}"
        return name if factor in ("", "1", None) else f"{factor} × {name}"


def observe_group(call, seed, reward=None):
    """-> GroupFacts; None where rows do not follow the drawn tokens' scores, or it refuses."""
    draws = []
    for number, lengths in enumerate(LENGTHS):
        lengths = lengths if call.batched else lengths[:1]
        lengths = lengths if call.takes_mask else (LENGTH,) * len(lengths)
        draw = np.random.default_rng(seed + 800 + number)
        student, teacher = draw.standard_normal((2, len(lengths), LENGTH, VOCABULARY))
        tokens = draw.integers(VOCABULARY, size=(len(lengths), LENGTH))
        valid = np.arange(LENGTH) < np.array(lengths)[:, None]
        try:
            gradient = call.texts(student, teacher, tokens, valid)
        except AuditError:
            return None
        logs = [log_softmax(z) for z in (student, teacher)]
        scores = np.eye(VOCABULARY)[tokens] - np.exp(logs[0])
        weights = (gradient * scores).sum(axis=-1) / (scores**2).sum(axis=-1)
        off = np.linalg.norm(gradient - weights[..., None] * scores)
        if not off <= EQUAL * np.linalg.norm(gradient):
            return None
        ratios = (np.take_along_axis(z, tokens[..., None], axis=-1)[..., 0] for z in logs)
        rewards = reward and np.array([[reward_of(reward, text)] for text in tokens])
        draws.append(Draw(weights, np.subtract(*ratios), valid, rewards))
    return GroupFacts(tuple(draws), call.takes_mask)


def describe(facts):
    """GroupFacts -> Group, the one whose number is nearest to 1; None where none holds."""
    weights = np.concatenate([draw.weights[draw.valid] for draw in facts.draws])
    copies, length = facts.draws[0].valid.shape
    names = list(readings((length,) * copies, length, facts.masked)) if copies > 1 else [SUM]
    of_batch = [over for over in OVER if over != "text"] if copies > 1 else []
    costs = COSTS if facts.draws[0].rewards is None else (*COSTS, OF_REWARD)
    found = []
    for cost in costs:
        for over in of_batch + ([] if cost.of_text else ["text"]):
            for correction in (None, 0, 1):
                values = [_standardized(cost, draw, over, correction) for draw in facts.draws]
                for reading in names:
                    number = _multiple(weights, _divided(values, facts, reading))
                    if number:
                        found.append(((cost, over, correction, reading), number))
    if not found:
        return None
    how, number = min(found, key=lambda entry: round(abs(np.log(abs(entry[1]))), 3))
    size = {T: number * sum(readings((T, T), T, facts.masked)[how[-1]]) for T in (2, 3, 4)}
    return Group(*how, number, size)


def _multiple(weights, predicted):
    """c with weights = c predicted, or None."""
    if not predicted.any():
        return None
    c = float(weights @ predicted) / float(predicted @ predicted)
    off = np.linalg.norm(weights - c * predicted)
    return c if off <= EQUAL * np.linalg.norm(weights) else None


def _divided(values, facts, reading):
    """The values of all valid tokens of all draws, divided as a batch of texts is."""
    found = []
    for value, draw in zip(values, facts.draws):
        lengths = tuple(draw.lengths[:, 0])
        divided = readings(lengths, draw.valid.shape[1], facts.masked)[reading]
        found.append((value * np.reshape(divided, (-1, 1)))[draw.valid])
    return np.nan_to_num(np.concatenate(found))


def _standardized(cost, draw, over, correction):
    """The costs (B, T) less their mean, over their deviation unless ``correction`` is None."""
    values, axes = cost.of(draw), OVER[over][3]
    if over in ("others", "texts"):
        count = len(draw.valid)
        shares = draw.valid / draw.lengths / count
    else:
        count = draw.valid.sum(axis=axes, keepdims=True)
        shares = draw.valid / np.maximum(count, 1)
    centred = values - (shares * values).sum(axis=axes, keepdims=True)
    variance = (shares * centred**2).sum(axis=axes, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        if over == "others":
            centred = centred * count / np.subtract(count, 1.0)
        if correction is None:
            return centred
        return centred / np.sqrt(variance * count / np.subtract(count, float(correction)))
