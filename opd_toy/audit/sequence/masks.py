"""Masks and batches: what is in masked positions must not matter, and what a sum is divided by.

All of it shows in single calls, on rows of logits drawn position by position; nothing
needs to be enumerated.  ``call`` is the audit's: ``call.one`` takes one sequence,
``call.several`` a batch; both give the value and the gradient in the student's logits.
"""

import warnings

import numpy as np

from opd_toy.audit.calling import AuditError

LENGTH, VOCABULARY, DRAWS = 4, 3, 3
MASKS = {
    "padding at the end": (1, 1, 0, 0),
    "a prompt in front": (0, 1, 1, 1),
    "a hole inside": (1, 0, 1, 1),
}
EQUAL = (
    1e-4  # relative; wide enough for float32, far below what a wrong normaliser or a leak comes to
)


def observe_mask(call, seed):
    """What masked positions do: a dict of facts, by mask where they differ."""
    facts = {
        "gradient": [],
        "leak": [],
        "factor": {},
        "time": [],
        "nan": False,
        "labels": None,
        "nothing": None,
    }
    for number, (name, mask) in enumerate(MASKS.items()):
        valid = np.array(mask, bool)
        factors = []
        for student, teacher, tokens in _draws(seed + 100 * number):
            _, gradient = call.one(student, teacher, tokens, valid)
            size = np.linalg.norm(gradient)
            other = [
                np.where(valid[:, None], kept, 3 * changed)
                for kept, changed in zip((student, teacher), (teacher[::-1], student[::-1]))
            ]
            _, changed = call.one(*other, np.where(valid, tokens, (tokens + 1) % VOCABULARY), valid)
            if np.linalg.norm(gradient[~valid]) > EQUAL * size and name not in facts["gradient"]:
                facts["gradient"].append(name)
            if (
                not np.linalg.norm((changed - gradient)[valid]) <= EQUAL * size
                and name not in facts["leak"]
            ):
                facts["leak"].append(name)
            _, alone = call.one(student[valid], teacher[valid], tokens[valid])
            factors.append(_factor(gradient[valid], alone))
        same = None not in factors and max(factors) - min(factors) <= EQUAL * max(map(abs, factors))
        facts["factor"][name] = float(np.mean(factors)) if same else None
    student, teacher, tokens = next(_draws(seed))
    valid = np.array(MASKS["padding at the end"], bool)
    spoilt = [np.where(valid[:, None], rows, np.nan) for rows in (student, teacher)]
    facts["nan"] = not _finite(call, *spoilt, tokens, valid)
    facts["labels"] = _error(call, student, teacher, np.where(valid, tokens, -100), valid)
    facts["nothing"] = _finite(call, student, teacher, tokens, np.zeros(LENGTH, bool))
    return facts


def name_mask(facts, per_token):
    """Findings from these facts; ``per_token``: whether without a mask the sum is divided by T, None if unknown."""
    findings = []
    if facts["gradient"]:
        findings.append(
            (
                "broken",
                f"masked positions get a gradient ({', '.join(facts['gradient'])}): the mask does not reach the sum",
            )
        )
    if facts["leak"]:
        findings.append(
            (
                "broken",
                f"what masked positions hold changes the gradient of the valid ones ({', '.join(facts['leak'])}): mask the costs before they enter a return, a mean or a baseline",
            )
        )
    factors = facts["factor"]
    clean = not facts["gradient"] and not facts["leak"]
    padded = {name: sum(mask) / LENGTH for name, mask in MASKS.items()}
    end = factors["padding at the end"]
    normalised = "unknown"
    if clean and end is not None:
        if abs(end - 1) <= EQUAL:
            normalised = {
                True: "the valid tokens",
                False: "nothing: a plain sum",
                None: "the valid tokens, or nothing",
            }[per_token]
        elif abs(end - padded["padding at the end"]) <= EQUAL:
            normalised = "the padded length"
            findings.append(
                (
                    "note",
                    "the sum is divided by the padded length: the same tokens count less, the more padding stands beside them",
                )
            )
    if clean and end is not None and factors["a hole inside"] is None:
        findings.append(
            (
                "note",
                "valid positions beyond a hole are not treated as neighbours: masked positions take time in the discount or in the weights by position",
            )
        )
    for name in ("padding at the end", "a prompt in front"):
        if clean and factors[name] is None:
            findings.append(
                (
                    "note",
                    f"{name} changes the gradient of the valid tokens by more than a factor, although what it holds does not matter",
                )
            )
    if facts["nan"]:
        findings.append(
            (
                "note",
                "NaN logits in masked positions make the result NaN (0 × NaN): use torch.where or masked_fill, not a product with the mask",
            )
        )
    if facts["labels"]:
        findings.append(
            ("note", f"the label -100 in masked positions is not taken: {facts['labels']}")
        )
    if facts["nothing"] is False:
        findings.append(
            (
                "note",
                "a sequence with nothing valid gives a value or gradient that is not finite (0/0)",
            )
        )
    return {"respected": clean, "normalised_by": normalised, "findings": findings}


def observe_batch(call, seed):
    """Whether sequences of a batch share something, and the factor of each against itself alone."""
    lengths = (4, 2) if call.takes_mask else (4, 4)
    factors = []
    for (student, teacher, tokens), others in zip(_draws(seed + 500), _draws(seed + 600)):
        rows = [np.stack(pair) for pair in zip((student, teacher, tokens), others)]
        masks = np.arange(LENGTH) < np.array(lengths)[:, None]
        _, gradient = call.several(*rows, masks)
        with warnings.catch_warnings(action="ignore"):  # about the spread of a group of one
            alone = [call.one(*(x[b] for x in rows), masks[b])[1] for b in range(2)]
        factors.append([_factor(gradient[b], alone[b]) for b in range(2)])
    shared = (
        any(factor is None for pair in factors for factor in pair)
        or np.ptp(factors, axis=0).max() > EQUAL * np.abs(factors).max()
    )
    return {
        "shared": bool(shared),
        "lengths": lengths,
        "factors": None if shared else [float(f) for f in np.mean(factors, axis=0)],
    }


def name_batch(facts, mask, per_token):
    """Findings from these facts; ``mask`` is ``name_mask``'s dict or None."""
    if facts["shared"]:
        words = "the sequences of a batch share something (a group's baseline, a standardization): enumerated in batches of B = 2; a factor may depend on B, such as (B − 1)/B where a mean counts the sequence itself"
        return {
            "shared": True,
            "normalised_by": "unknown: its sequences share something",
            "findings": [("note", words)],
        }
    lengths = facts["lengths"]
    by = (
        mask["normalised_by"]
        if mask
        else {True: "the valid tokens", False: "nothing: a plain sum"}.get(per_token)
    )
    single = {
        "nothing: a plain sum": (1.0, 1.0),
        "the valid tokens": tuple(1 / n for n in lengths),
        "the padded length": (1 / LENGTH,) * 2,
    }.get(by)
    if single is None:
        return {"shared": False, "normalised_by": "unknown", "findings": []}
    weights = [s * f for s, f in zip(single, facts["factors"])]
    total, padded = sum(lengths), LENGTH
    readings = {
        "nothing: a plain sum": lambda n: 1.0,
        "the sequences (sums over tokens, mean over sequences)": lambda n: 1 / 2,
        "the valid tokens of the batch" if mask else "all tokens of the batch": lambda n: 1 / total,
        "each sequence's own tokens, then the sequences (mean of means)": lambda n: 1 / (2 * n),
        "each sequence's own tokens (sum of means)": lambda n: 1 / n,
        "the padded size of the batch, B × T": lambda n: 1 / (2 * padded),
        "the padded length (sum over sequences)": lambda n: 1 / padded,
    }
    fitting = [
        name
        for name, weight in readings.items()
        if all(abs(w - weight(n)) <= EQUAL * w for w, n in zip(weights, lengths))
    ]
    findings = []
    if fitting and fitting[0].startswith("each sequence's own tokens") and mask:
        findings.append(
            (
                "note",
                "every sequence counts the same: a token of a short one weighs more than a token of a long one",
            )
        )
    if fitting and fitting[0].startswith("the padded size"):
        findings.append(
            (
                "note",
                "the batch is divided by its padded size: the same tokens count less, the more padding stands beside them",
            )
        )
    if len(fitting) > 1 and not mask:
        findings.append(
            (
                "note",
                "without a mask all sequences are equally long, so that a mean over all tokens and a mean of means are one and the same",
            )
        )
    return {
        "shared": False,
        "normalised_by": fitting[0] if fitting else "unknown",
        "findings": findings,
    }


def _draws(seed):
    draw = np.random.default_rng(seed)
    for _ in range(DRAWS):
        student, teacher = draw.standard_normal((2, LENGTH, VOCABULARY))
        yield student, teacher, draw.integers(VOCABULARY, size=LENGTH)


def _factor(gradient, alone):
    """c with gradient = c alone, or None."""
    if not (np.isfinite(gradient).all() and np.isfinite(alone).all()) or not alone.any():
        return None
    c = float((gradient * alone).sum() / (alone * alone).sum())
    return (
        c
        if np.linalg.norm(gradient - c * alone) <= EQUAL * np.linalg.norm(gradient) and c
        else None
    )


def _finite(call, *arguments):
    """Whether value and gradient of the valid positions are finite."""
    try:
        value, gradient = call.one(*arguments)
    except AuditError:
        return False
    return (
        bool(np.isfinite(value) and np.isfinite(gradient[arguments[-1].astype(bool)]).all())
        if not np.isnan(value)
        else False
    )


def _error(call, *arguments):
    try:
        call.one(*arguments)
    except AuditError as error:
        return str(error.__cause__ or error).splitlines()[0]
    return None
