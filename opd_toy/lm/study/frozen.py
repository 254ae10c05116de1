"""Every estimator at one student that is held still: variance, bias, agreement, growth.

The gradient of a text is that of a *sum* over its tokens, in all P parameters.  What the
logits of a text get from an estimator comes from the very loss it is trained by
(``opd_toy.lm.methods``); a backward pass a text and estimator carries it to the parameters.
Texts are independent, each with a prompt of its own, so that for E estimators

    covariance[e, f]  = trace of the covariance of one text's gradients e and f,
    products[e, f]    = <E g_e, E g_f>, from *different* texts alone, hence without bias,

follow from sums over blocks of texts.  Standard errors are the jackknife's over the blocks.

Beside the methods there are estimators with their means and less noise, on which small
differences of means are measured:

    exact_costs          the Rao-Blackwellised return of chapter 6, with the mean of pg_1, the
                         gradient of the sequence KL: the exact gradient of the KL at each
                         position + score . exact KLs of the later ones;
    exact_costs_centred  the same with the later KLs less their mean at the position, which
                         other texts tell; and with these discounted
    centred_0.5, _0.9    the means of pg_0.5 and pg_0.9;
    pg_0_redrawn         pg_0 on tokens drawn 32 times at each prefix, averaged.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch

from opd_toy.lm.losses import discounted_return
from opd_toy.lm.measures import position_kls
from opd_toy.lm.methods import METHODS, Batch
from opd_toy.lm.model import response_logits, response_mask, sample, uniforms

ESTIMATORS = (
    "gkd",
    "top_k",
    "pg_0",
    "pg_baseline",
    "pg_0.5",
    "pg_0.9",
    "pg_1",
    "exact_costs",
    "exact_costs_centred",
    "pg_0_redrawn",
    "centred_0.5",
    "centred_0.9",
)
# gamma of the later KLs
FUTURE = {"exact_costs": 1.0, "exact_costs_centred": 1.0, "centred_0.5": 0.5, "centred_0.9": 0.9}
LOCAL = "gkd"  # its expectation is the gradient of the local KLs
WHOLE = "exact_costs_centred"  # its expectation is the gradient of the sequence KL
REDRAWS = 32
BLOCKS = 32
BASELINE_TEXTS = 256
# What is smaller is 0 but for the order of sums, which differs from processor to processor.
ROUNDING = 1e-12


# --- from texts to gradients -------------------------------------------------------------


def signals(student_logits, teacher_logits, tokens, mask, later, redrawn, estimators=ESTIMATORS):
    """Derivative of each estimator's sum by the student's logits: (E, B, T, V).

    Logits (B, T, V) constant, tokens (B, T), mask (B, T).  later: {gamma: (T,)}, the numbers
    that the centred ones take off.  redrawn (R, B, T): the tokens of "pg_0_redrawn".
    """
    z, found = student_logits.detach().requires_grad_(), []
    one = torch.ones((), dtype=torch.float64, device=z.device)

    def of_loss(method, drawn):
        batch = Batch(z, teacher_logits, drawn, mask, reward=None, group=1, normalizer=one)
        return torch.autograd.grad(METHODS[method].loss(batch), z)[0]

    for name in estimators:
        if name == "pg_0_redrawn":
            found.append(sum(of_loss("pg_0", drawn) for drawn in redrawn) / len(redrawn))
        elif name in FUTURE:
            future = later_kls(student_logits, teacher_logits, mask, FUTURE[name])
            if name != "exact_costs":
                future = future - later[FUTURE[name]]
            score_part = _score_times(future, student_logits, tokens, mask)
            found.append(of_loss(LOCAL, tokens) + score_part)
        else:
            found.append(of_loss(name, tokens))
    return torch.stack(found)


def later_kls(student_logits, teacher_logits, mask, gamma):
    """Discounted sum of the exact KLs of all later positions: (B, T)."""
    kl = torch.where(mask, position_kls(student_logits, teacher_logits), 0.0)
    return discounted_return(kl, gamma, mask) - kl


def _score_times(weight, student_logits, tokens, mask):
    score = -torch.softmax(student_logits, -1)
    score.scatter_add_(-1, tokens[..., None], torch.ones_like(score[..., :1]))
    return torch.where(mask[..., None], weight[..., None].to(score) * score, 0.0)


def text_gradients(model, task, texts, signals):
    """Gradients (E, P) of each text for its ``signals``, text by text.

    texts (B, P + T), signals (E, B, T, V).
    """
    parameters = list(model.parameters())
    for text, own in zip(texts, signals.unbind(1)):
        logits = response_logits(model, text[None], task)[0]
        if text.is_cpu:  # all at once
            parts = torch.autograd.grad(logits, parameters, own, is_grads_batched=True)
            yield torch.cat([part.flatten(1) for part in parts], 1)
            continue
        rows = [torch.autograd.grad(logits, parameters, each, retain_graph=True) for each in own]
        yield torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


# --- moments -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Moments:
    """What K blocks of texts leave behind of their gradients.

    count (K,) of texts; between (K, K, E, E): products of block sums; within (K, E, E): sums
    of products within a text; token_noise (K, E), see ``measured``.
    """

    count: np.ndarray
    between: np.ndarray
    within: np.ndarray
    token_noise: np.ndarray

    def __post_init__(self):
        for each in fields(self):
            value = np.asarray(getattr(self, each.name), dtype=np.float64)
            object.__setattr__(self, each.name, value)

    def to_json(self):
        return {each.name: getattr(self, each.name).tolist() for each in fields(self)}


def moments(blocks):
    """``Moments`` of an iterable of blocks.

    Each is an iterable of pairs (gradients (E, P), token noise (E,)), one a text.
    """
    sums, count, within, noise = [], [], [], []
    for block in blocks:
        texts = total = own = lost = 0
        for gradients, token_noise in block:
            gradients = gradients.double()
            total, own = total + gradients, own + gradients @ gradients.T
            texts, lost = texts + 1, lost + token_noise.double()
        sums.append(total), count.append(texts)
        within.append(own.cpu().numpy()), noise.append(lost.cpu().numpy())
    between = [[(a @ b.T).cpu().numpy() for b in sums] for a in sums]
    return Moments(count, between, within, noise)


def replicates(found):
    """(products (1 + K, E, E), covariance (1 + K, E, E), token noise (1 + K, E)).

    First of all blocks, then of all but one.
    """
    blocks = len(found.count)
    keep = np.concatenate([np.ones((1, blocks)), 1 - np.eye(blocks)])
    between = np.einsum("rk,rl,klef->ref", keep, keep, found.between)
    within = np.einsum("rk,kef->ref", keep, found.within)
    n = (keep @ found.count)[:, None, None]
    products, covariance = (between - within) / (n * (n - 1)), (within - between / n) / (n - 1)
    return products, covariance, keep @ found.token_noise / n[..., 0]


def jackknife(values):
    """(value, standard error), each (...), of (1 + K, ...).

    The values are a statistic of all blocks, then of all but one.
    """
    values = np.asarray(values, dtype=np.float64)
    left_out, blocks = values[1:], len(values) - 1
    spread = ((left_out - left_out.mean(0)) ** 2).sum(0)
    return values[0], np.sqrt((blocks - 1) / blocks * spread)


def cosines(products, reference):
    """Cosine of each expected gradient with that of index ``reference``: (1 + K, E).

    NaN where a squared length comes out below 0.
    """
    squares = np.einsum("ree->re", products)
    with np.errstate(invalid="ignore", divide="ignore"):
        return products[:, :, reference] / (np.sqrt(squares) * np.sqrt(squares[:, [reference]]))


def relative_bias(products, reference):
    """|E g_e - E g_reference|**2 / |E g_reference|**2: (1 + K, E)."""
    squares = np.einsum("ree->re", products)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = squares[:, [reference]]
        return (squares + own - 2 * products[:, :, reference]) / own


# --- one student -------------------------------------------------------------------------


def measured(
    student, teacher, task, *key, count, length=None, redraw=True, blocks=BLOCKS, report=None
):
    """``Moments`` of ``count`` texts of the student, which depend on ``key``.

    Texts are cut at ``length`` tokens.  token_noise is the part of a text's variance that
    comes from drawing tokens at fixed prefixes: the tokens are drawn twice more at the
    prefixes of the text, independently, and it is half the mean squared distance of the two
    gradients; its sums are left out (0) with redraw=False.
    """
    end = task.prompt_length + (task.length if length is None else length)
    texts = _drawn(student, task, count, *key, "texts")[:, :end]
    others = _drawn(student, task, BASELINE_TEXTS, *key, "others")[:, :end]
    later = _mean_later_kls(student, teacher, task, others)
    estimators = len(ESTIMATORS)

    def block(rows):
        part = texts[rows]
        own = _signals_of(student, teacher, task, part, later, redraw, *key, "redrawn", rows.start)
        for done, gradients in enumerate(text_gradients(student, task, part, own), 1):
            if report is not None:
                report(rows.start + done, count)
            noise = torch.zeros(estimators)
            if redraw:
                noise = gradients[estimators:].double().square().sum(1) / 2
            yield gradients[:estimators], noise

    edges = np.linspace(0, count, min(blocks, count) + 1).round().astype(int).tolist()
    return moments(block(slice(start, stop)) for start, stop in zip(edges, edges[1:]))


def _drawn(student, task, count, *key):
    """Texts (count, P + T) that the student answers test prompts with."""
    device = student.head.weight.device
    prompts = task.prompts(count, *key, split="test").to(device)
    numbers = uniforms(0, *key, shape=(count, task.length)).to(device)
    return sample(student, prompts, numbers, task.end, task.pad)


@torch.no_grad()
def _mean_later_kls(student, teacher, task, texts):
    """{gamma: (T,)}: the later KLs of texts that reach a position, on average."""
    mask = response_mask(texts, task.prompt_length, task.end)
    logits = [response_logits(model, texts, task) for model in (student, teacher)]
    reached = mask.sum(0).clamp_min(1)
    return {
        gamma: later_kls(*logits, mask, gamma).sum(0) / reached for gamma in set(FUTURE.values())
    }


def _signals_of(student, teacher, task, texts, later, redraw, *key):
    """``signals`` of the texts; with ``redraw`` then the differences of two redrawn ones."""
    mask = response_mask(texts, task.prompt_length, task.end)
    with torch.no_grad():
        z, y = (response_logits(model, texts, task) for model in (student, teacher))
        cumulated = torch.softmax(z.double(), -1).cumsum(-1)
        numbers = uniforms(0, *key, shape=(*mask.shape, 3 * REDRAWS)).to(z.device)
        drawn = torch.searchsorted(cumulated, numbers * cumulated[..., -1:], right=True)
        redrawn = drawn.movedim(-1, 0).unflatten(0, (3, REDRAWS))
    own = signals(z, y, texts[:, task.prompt_length :], mask, later, redrawn[0])
    if not redraw:
        return own
    first, second = (signals(z, y, redrawn[i][0], mask, later, redrawn[i]) for i in (1, 2))
    return torch.cat([own, first - second])


def summary(found):
    """{estimator: {column: [value, standard error]}}.

    variance; ratio_to_gkd and ratio_to_pg_0, of variances; token_noise; squared_length of
    the expected gradient; its cosine_with_gkd and cosine_with_sequence_kl; bias, its squared
    distance from the sequence KL's gradient, over that one's squared length; and
    bias_to_gkd, that less GKD's.
    """
    products, covariance, noise = replicates(found)
    variance = np.einsum("ree->re", covariance)
    local, whole, sampled = (ESTIMATORS.index(name) for name in (LOCAL, WHOLE, "pg_0"))
    bias = relative_bias(products, whole)
    columns = {
        "variance": variance,
        "ratio_to_gkd": variance / variance[:, [local]],
        "ratio_to_pg_0": variance / variance[:, [sampled]],
        "token_noise": noise,
        "squared_length": np.einsum("ree->re", products),
        "cosine_with_gkd": cosines(products, local),
        "cosine_with_sequence_kl": cosines(products, whole),
        "bias": bias,
        "bias_to_gkd": bias - bias[:, [local]],
    }
    table = {name: jackknife(values) for name, values in columns.items()}
    return {
        name: {
            column: [number(value[index]), number(error[index])]
            for column, (value, error) in table.items()
        }
        for index, name in enumerate(ESTIMATORS)
    }


def growth(by_length):
    """Variances against the length, from {length: Moments}.

    {estimator: {"variance", "over_pg_0", "exponents"}}, lists of [value, error].  over_pg_0:
    the variance over that of pg_0 on the same texts.  exponents: slopes of log variance in
    log length between neighbouring lengths, which hold texts of their own.
    """
    lengths, sampled = sorted(by_length), ESTIMATORS.index("pg_0")
    variances = [np.einsum("ree->re", replicates(by_length[length])[1]) for length in lengths]
    table = [jackknife(each) for each in variances]
    ratios = [jackknife(each / each[:, [sampled]]) for each in variances]
    steps = np.diff(np.log(lengths))
    found = {}
    for index, name in enumerate(ESTIMATORS):
        value, error = (np.array([row[part][index] for row in table]) for part in (0, 1))
        value_or_none = np.where(value > ROUNDING, value, np.nan)
        relative = error / value_or_none
        exponents = np.diff(np.log(value_or_none)) / steps
        errors = np.hypot(relative[1:], relative[:-1]) / steps
        found[name] = {
            "variance": [[number(v), number(e)] for v, e in zip(value, error)],
            "over_pg_0": [[number(v[index]), number(e[index])] for v, e in ratios],
            "exponents": [[number(v), number(e)] for v, e in zip(exponents, errors)],
        }
    return {"lengths": lengths, **found}


def number(value, digits=4):
    """``value`` to ``digits`` significant digits, 0 up to ``ROUNDING``; None if not finite."""
    if not np.isfinite(value):
        return None
    return float(f"{value:.{digits}g}") if abs(value) > ROUNDING else 0.0
