"""Texts that are kept whole in ``tests/kept``, one file a kind, and what makes them anew.

    python -m tests.kept_texts    writes all of them; read the difference before you keep it

The records behind them are small and made by hand, so that every number is the same on every
machine.  A text that changes on purpose is written anew; one that changes otherwise is a fault.
"""

import argparse
from pathlib import Path

from tests.kept_commands import COMMAND_TEXTS
from tests.kept_formulas import FORMULA_TEXTS
from tests.kept_lab import LAB_TEXTS
from tests.kept_numbers import NUMBER_TEXTS
from tests.kept_pages import PAGE_TEXTS
from tests.kept_records import RECORD_TEXTS
from tests.kept_sliders import SLIDER_TEXTS

FOLDER = Path(__file__).parent / "kept"
# name: what makes the text
TEXTS = COMMAND_TEXTS | FORMULA_TEXTS | LAB_TEXTS | NUMBER_TEXTS | PAGE_TEXTS
TEXTS |= RECORD_TEXTS | SLIDER_TEXTS


def file_of(name):
    return FOLDER / f"{name}.txt"


def made(name):
    return TEXTS[name]().rstrip("\n") + "\n"


def main():
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    FOLDER.mkdir(exist_ok=True)
    for name in TEXTS:
        file_of(name).write_bytes(made(name).encode())  # with the line ends as they are


if __name__ == "__main__":
    main()
