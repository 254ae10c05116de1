"""What a loss's sum is divided by, and what masked positions do: names and findings.

``Named.findings`` is a list of (severity, sentence).
"""

from dataclasses import dataclass

from opd_toy.audit.sequence.masks import EQUAL, HOLE, LENGTH, MASKS, PADDED, PROMPT

UNKNOWN, VALID, SUM, PADDED_LENGTH = (
    "unknown",
    "the valid tokens",
    "nothing: a plain sum",
    "the padded length",
)
SHARED = "unknown: its sequences share something"
GRADIENT = "masked positions get a gradient ({masks}): the mask does not reach the sum"
LEAK = (
    "what masked positions hold changes the gradient of the valid ones ({masks}): "
    "mask the costs before they enter a return, a mean or a baseline"
)
BY_PADDED_LENGTH = (
    "the sum is divided by the padded length: "
    "the same tokens count less, the more padding stands beside them"
)
HOLES = (
    "valid positions beyond a hole are not treated as neighbours: "
    "masked positions take time in the discount or in the weights by position"
)
CHANGES = (
    "{mask} changes the gradient of the valid tokens by more than a factor, "
    "although what it holds does not matter"
)
NAN = (
    "NaN logits in masked positions make the result NaN (0 × NaN): "
    "use torch.where or masked_fill, not a product with the mask"
)
LABELS = "the label -100 in masked positions is not taken: {error}"
NOTHING_VALID = "a sequence with nothing valid gives a value or gradient that is not finite (0/0)"
SHARES = (
    "the sequences of a batch share something (a group's baseline, a standardization): enumerated "
    "in batches of B = 2; a factor may depend on B, such as (B − 1)/B where a mean counts the "
    "sequence itself"
)
SHORT_WEIGH_MORE = (
    "every sequence counts the same: a token of a short one weighs more than a token of a long one"
)
BY_PADDED_SIZE = (
    "the batch is divided by its padded size: "
    "the same tokens count less, the more padding stands beside them"
)
EQUALLY_LONG = (
    "without a mask all sequences are equally long, "
    "so that a mean over all tokens and a mean of means are one and the same"
)
OF_MEANS = "each sequence's own tokens"
PADDED_SIZE = "the padded size of the batch, B × T"


@dataclass(frozen=True)
class Named:
    """``fields``: what the report says; ``findings``: [(severity, sentence)]."""

    fields: dict
    findings: tuple

    @property
    def normalised_by(self):
        return self.fields["normalised_by"]


def name_mask(facts, per_token):
    """MaskFacts -> Named.

    ``per_token``: whether without a mask the sum is divided by T, None if unknown.
    """
    clean = not facts.gradient and not facts.leak
    normalised = _normaliser(facts.factor[PADDED], per_token) if clean else UNKNOWN
    findings = []
    if facts.gradient:
        findings.append(("broken", GRADIENT.format(masks=", ".join(facts.gradient))))
    if facts.leak:
        findings.append(("broken", LEAK.format(masks=", ".join(facts.leak))))
    if normalised == PADDED_LENGTH:
        findings.append(("note", BY_PADDED_LENGTH))
    if clean and facts.factor[PADDED] is not None and facts.factor[HOLE] is None:
        findings.append(("note", HOLES))
    for name in (PADDED, PROMPT):
        if clean and facts.factor[name] is None:
            findings.append(("note", CHANGES.format(mask=name)))
    if facts.nan:
        findings.append(("note", NAN))
    if facts.labels:
        findings.append(("note", LABELS.format(error=facts.labels)))
    if not facts.nothing:
        findings.append(("note", NOTHING_VALID))
    return Named({"respected": clean, "normalised_by": normalised}, tuple(findings))


def _normaliser(factor, per_token):
    """From the factor that padding brings with it."""
    if factor is None:
        return UNKNOWN
    if abs(factor - 1) <= EQUAL:
        return {True: VALID, False: SUM, None: f"{VALID}, or nothing"}[per_token]
    by_length = abs(factor - sum(MASKS[PADDED]) / LENGTH) <= EQUAL
    return PADDED_LENGTH if by_length else UNKNOWN


def name_batch(facts, mask, per_token):
    """BatchFacts -> Named; ``mask``: ``name_mask``'s, or None for a loss without one."""
    if facts.shared:
        return Named({"shared": True, "normalised_by": SHARED}, (("note", SHARES),))
    by = mask.normalised_by if mask else {True: VALID, False: SUM}.get(per_token)
    readings = _readings(facts, by, bool(mask))
    findings = []
    if readings and readings[0].startswith(OF_MEANS) and mask:
        findings.append(("note", SHORT_WEIGH_MORE))
    if readings and readings[0] == PADDED_SIZE:
        findings.append(("note", BY_PADDED_SIZE))
    if len(readings) > 1 and not mask:
        findings.append(("note", EQUALLY_LONG))
    normalised = readings[0] if readings else UNKNOWN
    return Named({"shared": False, "normalised_by": normalised}, tuple(findings))


def _readings(facts, by, masked):
    """What the batch is divided by, ``by`` being what a sequence alone is: all that fit."""
    lengths = facts.lengths
    single = {
        SUM: (1.0, 1.0),
        VALID: tuple(1 / n for n in lengths),
        PADDED_LENGTH: (1 / LENGTH,) * 2,
    }.get(by)
    if single is None:
        return []
    weights = [s * f for s, f in zip(single, facts.factors)]
    readings = {
        SUM: lambda n: 1.0,
        "the sequences (sums over tokens, mean over sequences)": lambda n: 1 / 2,
        f"{VALID if masked else 'all tokens'} of the batch": lambda n: 1 / sum(lengths),
        f"{OF_MEANS}, then the sequences (mean of means)": lambda n: 1 / (2 * n),
        f"{OF_MEANS} (sum of means)": lambda n: 1 / n,
        PADDED_SIZE: lambda n: 1 / (2 * LENGTH),
        f"{PADDED_LENGTH} (sum over sequences)": lambda n: 1 / LENGTH,
    }
    return [
        name
        for name, weight in readings.items()
        if all(abs(w - weight(n)) <= EQUAL * w for w, n in zip(weights, lengths))
    ]
