"""``python -m opd_toy audit``: import losses, print their reports, answer by exit status."""

import contextlib
import sys

from opd_toy.commands.audit_output import FORMATS, Outcome, written
from opd_toy.commands.loading import importable, load, source_of

EXIT = (
    "exit status: 0 if every loss optimises what was expected (without --expect: if anything "
    "could be named), 1 if one does not, 2 if one could not be audited, or for a name in "
    "--expect that no audit finds"
)
DESCRIPTION = (
    "Which objective does a loss follow in expectation, how biased and how noisy is it? "
    "Shown by enumeration: see opd_toy.audit."
)
LOSS = (
    "loss(student_logits (V,), teacher_logits (V,), token) -> scalar tensor, named as "
    "my_package.losses:reverse_kl or my/losses.py:reverse_kl; arguments are told by their names, "
    "else by their places; modules of the current directory are found"
)
ENDED = (
    "{loss} ended the program, with sys.exit({code!r}) or the like, where it is imported or "
    "called; put what runs it under if __name__ == '__main__'"
)
INPUTS = (
    "what the models' arguments are: logits (default), log_probs, probs, token_log_probs or "
    "top_k; with commas between them the student's, the teacher's and the behaviour's"
)
BEHAVIOUR = (
    "the loss's argument that belongs to a third model, whose tokens are trained on, or none; "
    "found by its name (old, rollout, behaviour, sampling, ...) where not given"
)
LABELS = (
    "with --sequence: the loss takes labels, -100 where nothing counts, each beside its own "
    "logits (aligned) or one place on (shift_inside); found out where not given"
)
EXPECT = (
    'what it is to optimise, in any spelling, such as "reverse KL" or "jsd beta .5"; once for '
    "all losses, or once for each in their order"
)


def add(commands):
    parser = commands.add_parser(
        "audit",
        help="what does a loss really optimise?",
        description=DESCRIPTION,
        epilog=EXIT,
    )
    add = parser.add_argument
    add("losses", metavar="LOSS", nargs="+", help=LOSS)
    add("--inputs", default="logits", help=INPUTS)
    add("--top-k", type=int, metavar="K", help="the teacher as ids and log-probabilities (K,)")
    add(
        "--sequence",
        action="store_true",
        help="the loss takes sequences: logits (T, V) and tokens (T,)",
    )
    add(
        "--batched",
        action="store_true",
        help="the loss takes batches: logits (B, V), or with --sequence (B, T, V) and (B, T)",
    )
    add("--labels", choices=("aligned", "shift_inside"), help=LABELS)
    add(
        "--reward",
        metavar="FUNCTION",
        help="with --sequence: reward(tokens (T,)) -> number, the outcome that the loss rewards",
    )
    add("--expect", metavar="OBJECTIVE", action="append", default=[], help=EXPECT)
    add(
        "--drawn-from",
        choices=("student", "teacher"),
        default="student",
        help="whose tokens the loss is trained on (default: student)",
    )
    add("--behaviour", metavar="ARGUMENT", help=BEHAVIOUR)
    add("--seed", type=int, default=0, help="seed of the random pairs (default: 0)")
    add("--format", choices=FORMATS, default="text", help="what is printed (default: text)")
    add("--json", dest="format", action="store_const", const="json", help="--format json")
    parser.set_defaults(run=lambda arguments: sys.exit(run(arguments)))


def run(arguments):
    """Print the reports; -> the exit status."""
    try:
        import opd_toy.audit  # noqa: F401
    except ModuleNotFoundError as error:
        return _refuse(f"the auditor needs {error.name}: pip install 'opd-toy[torch]'")
    if message := _contradiction(arguments):
        return _refuse(message)
    expected = arguments.expect or [None]
    if len(expected) == 1:
        expected = expected * len(arguments.losses)
    with importable():
        outcomes = [_outcome(arguments, *pair) for pair in zip(arguments.losses, expected)]
    if printed := written(outcomes, arguments.format):
        print(printed)
    for outcome in outcomes:
        message = outcome.message if len(outcomes) == 1 else f"{outcome.loss}: {outcome.message}"
        if outcome.status == 2:
            _refuse(message)
        elif outcome.expected and outcome.problem:
            print(message, file=sys.stderr)
    return max(outcome.status for outcome in outcomes)


def _contradiction(arguments):
    """Why these options cannot be, or None."""
    if arguments.seed < 0:
        return f"--seed is {arguments.seed}; give 0 or more"
    for option, given in (
        ("--reward", arguments.reward),
        ("--labels", arguments.labels),
    ):
        if given and not arguments.sequence:
            return f"{option} is for losses of sequences; give --sequence too"
    if len(arguments.expect) not in (0, 1, len(arguments.losses)):
        return (
            f"--expect is given {len(arguments.expect)} times for {len(arguments.losses)} losses; "
            "give it once, or once for each"
        )
    return None


def _outcome(arguments, name, expected):
    """-> Outcome of one loss.  What it prints itself goes to the errors' stream."""
    from opd_toy.audit.expectation import DIFFERS, is_as_expected

    loss, report, problem, message = None, None, None, ""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            loss = load(name)
            report = _report(arguments, loss)
        if expected is None:
            unnamed = report.optimises.split(" where ")[0] in ("zero", "none of these")
            problem, message = ("no-verdict", report.optimises) if unnamed else (None, "")
        elif not is_as_expected(report, expected):
            problem = "differs"
            message = DIFFERS.format(expected=expected, found=report.optimises)
    except ValueError as error:  # an AuditError, an option, or a name that no audit finds
        problem, message = "not-audited", str(error)
    except SystemExit as ended:
        problem, message = "not-audited", ENDED.format(loss=name, code=ended.code)
    return Outcome(name, report, expected, problem, message, *source_of(loss))


def _report(arguments, loss):
    from opd_toy.audit import audit, audit_sequence

    options = {name: getattr(arguments, name) for name in ("drawn_from", "seed", "batched")}
    options |= _inputs(arguments)
    options["behaviour"] = False if arguments.behaviour == "none" else arguments.behaviour
    if not arguments.sequence:
        return audit(loss, **options)
    reward = load(arguments.reward) if arguments.reward else None
    return audit_sequence(loss, reward=reward, labels=arguments.labels, **options)


def _inputs(arguments):
    """The options ``inputs`` and ``k``."""
    parts = tuple(part.strip().replace("-", "_") for part in arguments.inputs.split(","))
    inputs = parts[0] if len(parts) == 1 else parts
    if arguments.top_k is None:
        return {"inputs": inputs}
    inputs = (parts[0].replace("top_k", "logits"), "top_k", *parts[2:])
    return {"inputs": inputs, "k": arguments.top_k}


def _refuse(message):
    print(f"python -m opd_toy audit: {message}", file=sys.stderr)
    return 2
