"""``python -m opd_toy tables``: the tables of the notes' sections 3 and 4."""

import json


def add(commands):
    parser = commands.add_parser(
        "tables",
        help="print the tables of the notes' sections 3 and 4",
        description="Print every table of the notes' sections 3 and 4, computed by the engine.",
    )
    parser.add_argument("--json", action="store_true", help="print them as JSON, at full precision")
    parser.set_defaults(run=run)


def run(arguments):
    from opd_toy.example import STUDENT, TEACHER
    from opd_toy.pages.tables import as_text, tables

    student, teacher = STUDENT.tolist(), TEACHER.tolist()
    if arguments.json:
        found = {"student": student, "teacher": teacher, "tables": tables()}
        print(json.dumps(found, indent=2))
        return
    pair = f"student p = {tuple(student)}, teacher q = {tuple(teacher)}"
    print(f"{pair}; a negative gradient raises the logit\n")
    print("\n\n".join(map(as_text, tables())))
