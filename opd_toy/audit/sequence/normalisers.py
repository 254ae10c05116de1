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
    "mask the costs before they enter a return, a mean or a baseline{example}"
)
MOVED = ". With {mask}, the gradient at {moved} moves with the {row} {by}, which is masked"
ROWS = {
    "student": "student's row at",
    "teacher": "teacher's row at",
    "tokens": "token at",
}
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
        masks = "; ".join(f"{name}: {_listed(at)}" for name, at in facts.gradient.items())
        findings.append(("broken", GRADIENT.format(masks=masks)))
    if facts.leak:
        words = LEAK.format(masks=", ".join(facts.leak), example=_example(facts.leak))
        findings.append(("broken", words))
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


def _listed(places):
    """ "positions 3, 4" of one text; "position 3, text 2's position 1" of several."""
    own = [str(t + 1) for text, t in places if not text]
    words = [f"position{'s' if len(own) > 1 else ''} {', '.join(own)}"] if own else []
    return ", ".join(words + [f"text {text + 1}'s position {t + 1}" for text, t in places if text])


def _example(leaks):
    """Which row moves which, for the first mask where a single one does; "" where none does."""
    for mask, leak in leaks.items():
        if leak:
            apart = leak.by[0] != leak.moved[0]
            moved, by = (
                (f"text {text + 1}'s " if apart else "") + f"position {t + 1}"
                for text, t in (leak.moved, leak.by)
            )
            return MOVED.format(mask=mask, moved=moved, row=ROWS[leak.what], by=by)
    return ""


def _normaliser(factor, per_token):
    """From the factor that padding brings with it."""
    if factor is None:
        return UNKNOWN
    if abs(factor - 1) <= EQUAL:
        return {True: VALID, False: SUM, None: f"{VALID}, or nothing"}[per_token]
    by_length = abs(factor - sum(MASKS[PADDED]) / LENGTH) <= EQUAL
    return PADDED_LENGTH if by_length else UNKNOWN


def name_batch(facts, mask, per_token, group=None):
    """BatchFacts -> Named; ``mask``: ``name_mask``'s, or None for a loss without one.

    ``group``: what a draw of texts that share something was found to be, or None.
    """
    if facts.shared:
        by = group.reading if group else SHARED
        findings = [("note", SHARES)]
    else:
        by, findings = _by(facts, mask, per_token), []
        if len(by) > 1:
            findings.append(("note", EQUALLY_LONG))
        by = by[0] if by else UNKNOWN
    if by.startswith(OF_MEANS) and mask:
        findings.append(("note", SHORT_WEIGH_MORE))
    if by == PADDED_SIZE:
        findings.append(("note", BY_PADDED_SIZE))
    return Named({"shared": facts.shared, "normalised_by": by}, tuple(findings))


def _by(facts, mask, per_token):
    """What the batch is divided by, from what a sequence alone is: all readings that fit."""
    by = mask.normalised_by if mask else {True: VALID, False: SUM}.get(per_token)
    lengths = facts.lengths
    single = {
        SUM: (1.0, 1.0),
        VALID: tuple(1 / n for n in lengths),
        PADDED_LENGTH: (1 / LENGTH,) * 2,
    }.get(by)
    if single is None:
        return []
    weights = [s * f for s, f in zip(single, facts.factors)]
    return [
        name
        for name, divided in readings(lengths, LENGTH, bool(mask)).items()
        if all(abs(w - d) <= EQUAL * w for w, d in zip(weights, divided))
    ]


def readings(lengths, padded, masked):
    """{what a batch of texts of these lengths is divided by: the weight of each text's tokens}."""
    each, texts = [1 / n for n in lengths], len(lengths)
    tokens = VALID if masked else "all tokens"
    return {
        SUM: [1.0] * texts,
        "the sequences (sums over tokens, mean over sequences)": [1 / texts] * texts,
        f"{tokens} of the batch": [1 / sum(lengths)] * texts,
        f"{OF_MEANS}, then the sequences (mean of means)": [share / texts for share in each],
        f"{OF_MEANS} (sum of means)": each,
        PADDED_SIZE: [1 / (texts * padded)] * texts,
        f"{PADDED_LENGTH} (sum over sequences)": [1 / padded] * texts,
    }
