"""``python -m opd_toy derail``: the record of a small student's answers that derail."""

import sys

from opd_toy.commands.running import Progress, add_small_study, aligned, make_record


def add(commands):
    add_small_study(
        commands,
        "derail",
        "derailing.json",
        make,
        table,
        help="how the answers of a small student derail, token by token",
        description="Train a small teacher and student on sums, read the student's answers token "
        "by token, before a slip and after it, train it further, by SFT and by distillation, read "
        "its answers again, and record the figures with their provenance. "
        "Interrupted or killed, the same command goes on.",
    )


def make(path, folder):
    from opd_toy.lm import derailing_after
    from opd_toy.lm.derailing import MODULES, PRESET, MissingKinds, derailing

    def compute():
        results = derailing(folder, Progress)
        return results | {"further": derailing_after.further(folder, Progress)}

    modules = [*MODULES, *derailing_after.MODULES]
    seeds = [PRESET.teacher.seed, PRESET.student.seed, *derailing_after.SEEDS]
    try:
        return make_record(path, compute, modules=modules, seed=seeds)
    except MissingKinds as error:
        sys.exit(
            f"{error}. Another processor rounds otherwise and trains another student, and "
            "another --folder does not change that. Give the command on another machine, or "
            f"read the recorded figures with --show. Nothing is recorded; {path} stays as it was."
        )


def table(results):
    """How likely the next token is wrong, before a slip and after it, and after a planted one."""
    names = {
        "before": "until a slip",
        "alike": "in places like those after",
        "new": "there, in no training text",
        "after": "after a slip",
    }
    rows = [["", "tokens", "student", "teacher"]]
    for name, words in names.items():
        of = results["slipping"][name]
        rows.append([words, str(of["tokens"]), f"{of['student']:.4f}", f"{of['teacher']:.4f}"])
    planted = results["planted"]
    return (
        f"Probability that the next token is wrong\n\n{aligned(rows, 1)}\n\n"
        f"{results['outcomes']['slipped']} of {results['questions']} answers slip. Slips an "
        f"answer, after its first sum: {planted['as_written']:.3f}; where a slip was planted "
        f"there: {planted['planted']:.3f}.\n\n{_further(results['further'])}"
    )


def _further(found):
    """What a student trained further does: means over the seeds."""
    columns = ("slipped", "alike", "after", "planted")
    rows = [["", "slip", "wrong, no slip yet", "after a slip", "slips once planted"]]
    for name, runs in {"start": [found["start"]], **found["methods"]}.items():
        slipped, *rest = (sum(run[key] for run in runs) / len(runs) for key in columns)
        rows.append([name, f"{slipped:.0f}", *(f"{value:.4f}" for value in rest)])
    return f"After {found['steps']} steps of {found['batch']} texts\n\n{aligned(rows, 1)}"
