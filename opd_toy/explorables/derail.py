"""One answer that derails, token by token, beside the teacher's advice (the first chapter)."""

import traitlets

from opd_toy.explorables.host import Explorable
from opd_toy.records import provenance

ANSWERS = ["number", "sum", "lost", "new", "right"]
LAST = 16  # the last position of the longest answer, which the tests hold to the record


class Derail(Explorable):
    """Recorded answers of a small student: its next token and the teacher's at each position.

    Traits: ``answer`` ("number", "sum", "lost", "new" or "right": what it shows) and
    ``position``, the tokens written so far (0…16; past the end of an answer its last is shown).
    Raises FileNotFoundError, naming the command that makes it, where the record is missing.
    """

    shown = (
        "An answer of the small student to a sum of four numbers, token by token, at its first "
        "slip. It uses a number a second time, and from this slip on no training text begins like "
        "it; two more slips follow. Bars show the next token: both models' are on the two numbers "
        "that are left, but the student draws another. A chart over all questions shows the share "
        "of answers that no training text begins like, and the share with a slip; both grow with "
        "the position."
    )
    answer = traitlets.Enum(ANSWERS, "number").tag(sync=True)
    position = traitlets.Int(7, min=0, max=LAST).tag(sync=True)
    recording = traitlets.Dict().tag(sync=True, data=True)

    def __init__(self, **traits):
        super().__init__(recording=recording(), **traits)


def recording():
    """What the module needs of the record."""
    record = provenance.recorded("derailing", "derail")
    return {
        "tokens": record["tokens"],
        "answers": {name: record["answers"][name] for name in ANSWERS},
        "questions": record["questions"],
        "positions": {
            name: [round(share, 4) for share in shares]
            for name, shares in record["positions"].items()
        },
    }
