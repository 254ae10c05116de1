"""What every long command shares."""

import contextlib
import sys

from opd_toy.records import provenance


@contextlib.contextmanager
def unchanged(path, modules, files=()):
    """While results for the record at ``path`` are computed by ``modules``: ends the program if
    their code changes meanwhile, since the record would name code that did not make it."""
    before = provenance.source_hash(*modules, files=files)
    yield before
    if provenance.source_hash(*modules, files=files) != before:
        sys.exit(
            f"{', '.join(modules)} or what they import changed while this ran, so that {path} "
            "would name code that did not make it; nothing is recorded. Give the command again."
        )
