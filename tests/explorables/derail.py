"""What the slider of the answer that derails ought to show, by the record."""

import re

from opd_toy.records import provenance
from tests.explorables.reading import rounded, same


def named(token):
    return "the end" if token == "." else token


def readable(written):
    """The working as people write it: numbers turned round, a sum begun with dots."""
    text = re.sub(r"(?<==)(\d+)$", r"…\1", written.rstrip("."))
    text = re.sub(r"\d+", lambda found: found[0][::-1], text)
    text = re.sub(r"(= …?\d+) \+", r"\1, +", text.replace("+", " + ").replace("=", " = "))
    return text.strip()


def derail(seen, widget):
    record = provenance.recorded("derailing", "derail")
    answer = record["answers"][seen.choices["answer"]]
    tokens, at = answer["tokens"], int(seen.outputs["position"])
    right = answer["right"][at]
    rows = [dict(zip(record["tokens"], model[at])) for model in answer["probabilities"]]
    of_right = [min(sum(row[token] for token in right), 1) for row in rows]
    shown = seen.table(0)[:, 1:]
    same("written", shown[0], [row[tokens[at]] for row in rows])
    same("right", shown[1], of_right)
    same("the rest", shown[2], [1 - share for share in of_right], scale=1)
    assert [row[0] for row in seen.texts[0]] == [tokens[at], " ".join(right), "the rest"]
    for name in ("unseen", "slipped"):
        assert seen.number(name) == round(record["positions"][name][at], 4)
    assert f"{' + '.join(map(str, answer['terms']))} = ?" in seen.html
    slips = [t for t, token in enumerate(tokens) if token not in answer["right"][t]]
    assert seen.html.count("▼") == len(slips)
    earlier = sum(t < at for t in slips)
    written = f"Written so far: “{readable(tokens[:at])}”. " if at else "Nothing is written yet. "
    assert seen.sentence.startswith(written), (seen.sentence, written)
    history = (
        f"{'One slip' if earlier == 1 else f'{earlier} slips'}, and no training text begins so."
        if earlier
        else "No slip, though no training text begins so."
        if at >= answer["new_at"]
        else "Training texts begin so."
    )
    assert f" {history} " in seen.sentence
    wanted = f"one of {', '.join(right[:-1])} and {right[-1]}" if len(right) > 1 else named(right)
    student, teacher = (rounded(100 * share, 1) for share in of_right)
    end = ("" if at not in slips else ": another slip" if earlier else ": a slip") + "."
    assert seen.sentence.endswith(
        f"Right would be {wanted}: the student gives that {student} %, the teacher {teacher} %. "
        f"It writes {named(tokens[at])}{end}"
    ), seen.sentence
