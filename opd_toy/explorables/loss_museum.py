"""The museum of losses: a wrong loss beside a right one, and where each leads (chapter 7)."""

import ast
import functools
from pathlib import Path

import traitlets

from opd_toy.example import STUDENT, TEACHER
from opd_toy.explorables.host import Distribution, Explorable

MUSEUM = Path(__file__).parents[1] / "audit" / "exhibits" / "museum.py"
LOSSES = {  # exhibit: the functions of the museum that are its wrong and its right loss
    "k1": ("k1_as_loss", "policy_gradient"),
    "k3": ("k3_as_loss", "k2_as_loss"),
    "advantage": ("kl_as_advantage", "reverse_kl"),
    "stop_gradient": ("without_stop_gradient", "policy_gradient"),
    "direction": ("swapped_direction", "kl_div_of_student"),
    "beta": ("jsd_near_its_end", "reverse_kl"),
    "tail": ("tail_dropped", "tail_as_one_bucket"),
    "value_clamp": ("k3_clamped", "forward_kl"),
    "ratio_clamp": ("clamped_policy_gradient", "policy_gradient"),
    "temperature": ("tempered_without_square", "tempered"),
}
# Of most losses the page shows what is returned; of these also the line that sets the name given.
SHOWN_TOO = {
    "jsd_near_its_end": "beta",
    "tail_dropped": "top",
    "tail_as_one_bucket": "(log_p, log_q)",
}


@functools.cache
def shown_code():
    """{exhibit: [wrong, right]}, the lines that matter of each loss as they stand in the museum.

    The file is read and not imported: it imports torch, which a page that only shows it needs not.
    """
    source = MUSEUM.read_text(encoding="utf-8")
    functions = {
        node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)
    }

    def lines(name):
        wanted = SHOWN_TOO.get(name)
        for statement in functions[name].body:
            if isinstance(statement, ast.Return):
                yield ast.get_source_segment(source, statement.value)
            elif isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == wanted:
                yield ast.get_source_segment(source, statement)

    return {
        exhibit: ["\n".join(" ".join(line.split()) for line in lines(name)) for name in pair]
        for exhibit, pair in LOSSES.items()
    }


class LossMuseum(Explorable):
    """The expected gradient of a wrong loss beside a right one's, and plain descent on each.

    Traits: ``exhibit`` (a token-level one of ``opd_toy.audit.exhibits.museum.EXHIBITS``);
    ``student``, ``teacher`` (3 probabilities each); ``steps`` of size 0.2 on the logits;
    ``update`` ("expected": each step follows the expected gradient; "drawn": that of one token,
    drawn from the student as it then is, with the random numbers of ``seed``, the same for both
    losses).
    """

    shown = (
        "k1, the log-ratio of the drawn token, as a loss, on the book's example. Its expected "
        "gradient is zero on every token, where the policy gradient raises tokens 1 and 2 and "
        "lowers token 3. After 100 steps of descent the student is where it was, at a reverse KL "
        "of .676; with the policy gradient it has reached the teacher."
    )
    exhibit = traitlets.Enum(list(LOSSES), "k1").tag(sync=True)
    student = Distribution(STUDENT.tolist()).tag(sync=True)
    teacher = Distribution(TEACHER.tolist()).tag(sync=True)
    steps = traitlets.Int(100, min=0, max=200).tag(sync=True)
    update = traitlets.Enum(("expected", "drawn"), "expected").tag(sync=True)
    seed = traitlets.Int(1, min=1, max=99).tag(sync=True)
    code = traitlets.Dict().tag(sync=True, data=True)

    def __init__(self, **traits):
        super().__init__(code=shown_code(), **traits)
