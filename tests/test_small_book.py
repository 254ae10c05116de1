"""What book/_extensions make of a small book that has one of everything they do."""

import difflib

from tests import small_book


def test_a_small_book_is_built_as_it_was(tmp_path):
    kept = small_book.KEPT.read_text(encoding="utf-8").split("\n")
    found = small_book.made(tmp_path).split("\n")
    changed = "\n".join(difflib.unified_diff(kept, found, lineterm="", n=1))
    assert not changed, f"{changed}\nIf that was meant: python -m tests.small_book"
