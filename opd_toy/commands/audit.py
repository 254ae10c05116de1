"""``python -m opd_toy audit``: import a loss, print the report, answer by exit status."""

import contextlib
import importlib
import sys

EXIT = (
    "exit status: 0 if the loss optimises what was expected (without --expect: if anything could "
    "be named), 1 if not, 2 if it could not be audited"
)
DESCRIPTION = (
    "Which objective does a loss follow in expectation, how biased and how noisy is it? "
    "Shown by enumeration: see opd_toy.audit."
)
LOSS = (
    "loss(student_logits (V,), teacher_logits (V,), token) -> scalar tensor, such as "
    "my_package.losses:reverse_kl; modules of the current directory are found"
)
ENDED = (
    "{loss} ended the program, with sys.exit({code!r}) or the like, where it is imported or "
    "called; put what runs it under if __name__ == '__main__'"
)
NO_NAME = "loss is {name!r}; name it as MODULE:FUNCTION, such as my_package.losses:reverse_kl"
NO_IMPORT = "{module} cannot be imported from {name!r}: {error}{hint}"
NO_SLASHES = "; a module's name has no .py and no slashes, so perhaps {module}:{path}"


def add(commands):
    parser = commands.add_parser(
        "audit",
        help="what does a loss really optimise?",
        description=DESCRIPTION,
        epilog=EXIT,
    )
    add = parser.add_argument
    add("loss", metavar="MODULE:FUNCTION", help=LOSS)
    add(
        "--sequence",
        action="store_true",
        help="the loss takes sequences: logits (T, V) and tokens (T,)",
    )
    add(
        "--batched",
        action="store_true",
        help="with --sequence: the loss takes batches, (B, T, V) and (B, T)",
    )
    add(
        "--reward",
        metavar="MODULE:FUNCTION",
        help="with --sequence: reward(tokens (T,)) -> number, the outcome that the loss rewards",
    )
    add(
        "--expect",
        metavar="OBJECTIVE",
        help='what it is to optimise, as the report says it, such as "reverse KL"',
    )
    add(
        "--drawn-from",
        choices=("student", "teacher"),
        default="student",
        help="whose tokens the loss is trained on (default: student)",
    )
    add("--seed", type=int, default=0, help="seed of the random pairs (default: 0)")
    add("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=lambda arguments: sys.exit(run(arguments)))


def run(arguments):
    """Print the report; -> the exit status."""
    try:
        from opd_toy.audit import AuditError
    except ModuleNotFoundError as error:
        return _refuse(f"the auditor needs {error.name}: pip install 'opd-toy[torch]'")
    if message := _contradiction(arguments):
        return _refuse(message)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what the loss prints is not the report's
            report = _report(arguments)
    except AuditError as error:
        return _refuse(str(error))
    except SystemExit as ended:
        return _refuse(ENDED.format(loss=arguments.loss, code=ended.code))
    print(report.to_json() if arguments.json else report)
    if arguments.expect is None:
        return int(report.optimises.split(" where ")[0] in ("zero", "none of these"))
    as_expected = report.optimises == arguments.expect
    if not as_expected:
        print(f"expected {arguments.expect!r}, found {report.optimises!r}", file=sys.stderr)
    return int(not as_expected)


def _contradiction(arguments):
    """Why these options cannot be, or None."""
    if arguments.seed < 0:
        return f"--seed is {arguments.seed}; give 0 or more"
    for option, given in (("--batched", arguments.batched), ("--reward", arguments.reward)):
        if given and not arguments.sequence:
            return f"{option} is for losses of sequences; give --sequence too"
    return None


def _report(arguments):
    from opd_toy.audit import audit, audit_sequence

    options = {"drawn_from": arguments.drawn_from, "seed": arguments.seed}
    if not arguments.sequence:
        return audit(load(arguments.loss), **options)
    reward = load(arguments.reward) if arguments.reward else None
    loss = load(arguments.loss)
    return audit_sequence(loss, batched=arguments.batched, reward=reward, **options)


def load(name):
    """The function that "package.module:function" names; AuditError where there is none."""
    from opd_toy.audit import AuditError

    module_name, _, path = name.partition(":")
    if not (module_name and path):
        raise AuditError(NO_NAME.format(name=name))
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module_name)
    except Exception as error:
        hint = ""
        if module_name.endswith(".py") or "/" in module_name:
            dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
            hint = NO_SLASHES.format(module=dotted, path=path)
        reason = f"{type(error).__name__}: {error}"
        message = NO_IMPORT.format(module=module_name, name=name, error=reason, hint=hint)
        raise AuditError(message) from error
    finally:
        sys.path.remove("")
    for part in path.split("."):
        if not hasattr(found, part):
            known = ", ".join(_functions_of(found)[:8]) or "no functions"
            raise AuditError(f"{module_name} has no {path!r}; it has {known}")
        found = getattr(found, part)
    return found


def _functions_of(module):
    entries = getattr(module, "__dict__", {})
    return sorted(name for name, value in entries.items() if callable(value) and name[0] != "_")


def _refuse(message):
    print(f"python -m opd_toy audit: {message}", file=sys.stderr)
    return 2
