"""What `python -m opd_toy audit` does: import somebody's loss, print the report, and answer by exit status."""

import contextlib
import importlib
import sys

EXIT = "exit status: 0 if the loss optimises what was expected (without --expect: if anything could be named), 1 if not, 2 if it could not be audited"


def add(commands):
    parser = commands.add_parser(
        "audit",
        help="what does a loss really optimise?",
        description="Which objective does a loss follow in expectation, how biased and how noisy is it? Shown by enumeration: see opd_toy.audit.",
        epilog=EXIT,
    )
    parser.add_argument(
        "loss",
        metavar="MODULE:FUNCTION",
        help="loss(student_logits (V,), teacher_logits (V,), token) -> scalar tensor, such as my_package.losses:reverse_kl; modules of the current directory are found",
    )
    parser.add_argument(
        "--sequence",
        action="store_true",
        help="the loss takes sequences: logits (T, V) and tokens (T,)",
    )
    parser.add_argument(
        "--batched",
        action="store_true",
        help="with --sequence: the loss takes batches, (B, T, V) and (B, T)",
    )
    parser.add_argument(
        "--reward",
        metavar="MODULE:FUNCTION",
        help="with --sequence: reward(tokens (T,)) -> number, the outcome that the loss rewards",
    )
    parser.add_argument(
        "--expect",
        metavar="OBJECTIVE",
        help='what it is to optimise, as the report says it, such as "reverse KL"',
    )
    parser.add_argument(
        "--drawn-from",
        choices=("student", "teacher"),
        default="student",
        help="whose tokens the loss is trained on (default: student)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the random pairs (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=lambda arguments: sys.exit(run(arguments)))


def run(arguments):
    """Print the report; -> the exit status."""
    try:
        if arguments.sequence:
            from opd_toy.audit.sequence.measure import audit_sequence as look
        else:
            from opd_toy.audit.token.measure import audit as look
        from opd_toy.audit.calling import AuditError
    except ModuleNotFoundError as error:
        return _refuse(f"the auditor needs {error.name}: pip install 'opd-toy[torch]'")
    if arguments.seed < 0:
        return _refuse(f"--seed is {arguments.seed}; give 0 or more")
    for option, given in (("--batched", arguments.batched), ("--reward", arguments.reward)):
        if given and not arguments.sequence:
            return _refuse(f"{option} is for losses of sequences; give --sequence too")
    try:
        with contextlib.redirect_stdout(
            sys.stderr
        ):  # what the loss prints is no part of the report
            options = (
                {
                    "batched": arguments.batched,
                    "reward": arguments.reward and load(arguments.reward),
                }
                if arguments.sequence
                else {}
            )
            report = look(
                load(arguments.loss),
                drawn_from=arguments.drawn_from,
                seed=arguments.seed,
                **options,
            )
    except AuditError as error:
        return _refuse(str(error))
    except SystemExit as ended:
        return _refuse(
            f"{arguments.loss} ended the program, with sys.exit({ended.code!r}) or the like, where it is imported or called; put what runs it under if __name__ == '__main__'"
        )
    print(report.to_json() if arguments.json else report)
    if arguments.expect is None:
        return int(report.optimises.split(" where ")[0] in ("zero", "none of these"))
    as_expected = report.optimises == arguments.expect
    if not as_expected:
        print(f"expected {arguments.expect!r}, found {report.optimises!r}", file=sys.stderr)
    return int(not as_expected)


def load(name):
    """The function that "package.module:function" names; AuditError where there is none."""
    from opd_toy.audit.calling import AuditError

    module_name, colon, path = name.partition(":")
    if not (module_name and colon and path):
        raise AuditError(
            f"loss is {name!r}; name it as MODULE:FUNCTION, such as my_package.losses:reverse_kl"
        )
    sys.path.insert(0, "")
    try:
        found = importlib.import_module(module_name)
    except Exception as error:
        hint = (
            f"; a module's name has no .py and no slashes, so perhaps {module_name.removesuffix('.py').strip('./').replace('/', '.')}:{path}"
            if module_name.endswith(".py") or "/" in module_name
            else ""
        )
        raise AuditError(
            f"{module_name} cannot be imported from {name!r}: {type(error).__name__}: {error}{hint}"
        ) from error
    finally:
        sys.path.remove("")
    for part in path.split("."):
        if not hasattr(found, part):
            known = (
                sorted(
                    entry
                    for entry, value in vars(found).items()
                    if callable(value) and not entry.startswith("_")
                )[:8]
                if hasattr(found, "__dict__")
                else []
            )
            raise AuditError(
                f"{module_name} has no {path!r}; it has {', '.join(known) or 'no functions'}"
            )
        found = getattr(found, part)
    return found


def _refuse(message):
    print(f"python -m opd_toy audit: {message}", file=sys.stderr)
    return 2
