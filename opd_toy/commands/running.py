"""What the long commands share: stopping, progress, devices, records, tables."""

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from opd_toy.records import provenance


@contextlib.contextmanager
def stoppable(parser, *, speaks=True):
    """Around a long command's work: it ends with a sentence where it cannot go on.

    An interrupt is heard between two steps (status 130), a ValueError is a wrong argument,
    told by the parser (status 2), an OSError a disk that is full.
    ``speaks``: False in those of several processes that leave the telling to the first.
    """
    # Both are read when PyTorch is first imported.  Threads wait asleep: on a busy machine
    # those that spin take each other's time.  Without the second, matrix products on a GPU
    # do not repeat bit for bit.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    from opd_toy.records.checkpoints import Stop

    try:
        with Stop():
            yield
    except ValueError as error:
        if speaks:
            parser.error(str(error))
        sys.exit(2)
    except BrokenPipeError:  # of what is printed, not of a file
        raise
    except OSError as error:
        sys.exit(
            f"could not read or write ({error}). Nothing finished is lost: make room and give "
            "the same command again."
        )
    except KeyboardInterrupt:
        sys.exit(130)


@contextlib.contextmanager
def threads(number):
    """While PyTorch may use ``number`` threads."""
    import torch

    from opd_toy import _validate

    _validate.whole("threads", number)
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def find_device(name):
    """The torch device called ``name``; ValueError where there is none."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device is {name!r}, which cannot be used here ({reason}); give 'cpu', or 'cuda' "
            "where PyTorch finds a GPU"
        ) from None
    return torch.device(name)


# --- records -------------------------------------------------------------------------------


@contextlib.contextmanager
def unchanged(path, modules, files=()):
    """While results for the record at ``path`` are computed by ``modules``.

    Ends the program if their code has changed when the results are there, since the record
    would name code that did not make it.
    """
    before = provenance.source_hash(*modules, files=files)
    yield before
    try:
        after = provenance.source_hash(*modules, files=files)
    except ValueError:  # a file is gone
        after = None
    if after != before:
        sys.exit(
            f"{', '.join(modules)} or what they import changed while this ran, so that {path} "
            "would name code that did not make it; nothing is recorded. Give the command again."
        )


def write_record(path, results, **of):
    """``provenance.record`` in a folder that is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance.record(path, results, **of)


def make_record(path, compute, *, modules, files=(), **of):
    """The results of ``compute()``, which took minutes, in a record at ``path``.

    Ends the program where they cannot be written, after printing them as JSON: none is lost.
    """
    with unchanged(path, modules, files):
        found = compute()
    try:
        write_record(path, found, modules=modules, files=files, **of)
    except OSError as error:
        print(json.dumps(found))
        sys.exit(
            f"could not write {path} ({error}); what was measured is printed above. Make room and "
            "give the same command again"
        )
    print(f"recorded in {path}", file=sys.stderr)
    return found


def read_record(path):
    """The results in the record at ``path``; ValueError where there is none, or no whole one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["results"]
    except FileNotFoundError:
        raise ValueError(
            f"directory is {str(path.parent)!r}, which holds no {path.name}; make it by the "
            "same command without --show, or run this in a checkout of the book, whose "
            "records are in figures/"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"directory is {str(path.parent)!r}, whose {path.name} is no whole record "
            f"({error!r}); make it again by the same command without --show"
        ) from None


def add_small_study(commands, name, record, make, table, **words):
    """The parser of a command that makes one record on one thread in minutes, or shows it.

    ``make(path, folder)`` gives the results and records them at ``path``; what it has not
    finished waits in ``folder``.  ``table(results)`` is what is printed.
    """
    parser = commands.add_parser(name, **words)
    option = parser.add_argument
    option(
        "--folder",
        type=Path,
        default=Path("_build/lm"),
        help="where models and unfinished work are kept (default: _build/lm)",
    )
    option(
        "--directory", type=Path, default=Path("figures"), help="of the record (default: figures)"
    )
    option("--show", action="store_true", help="print the recorded figures; train nothing")
    option(
        "--json", action="store_true", help="print the figures as JSON in the place of the table"
    )

    def run(arguments):
        path = arguments.directory / record
        with stoppable(parser):
            if arguments.show:
                results = read_record(path)
            else:
                with threads(1):
                    results = make(path, arguments.folder)
            print(json.dumps(results) if arguments.json else table(results))

    parser.set_defaults(run=run)
    return parser


# --- what is printed -----------------------------------------------------------------------


class Progress:
    """``Progress(name)(done, total)``: a bar on a terminal, a line each quarter elsewhere."""

    def __init__(self, name, stream=None):
        self.name, self.stream = name, stream or sys.stderr
        self.bar = self.quarter = None

    def __call__(self, done, total):
        terminal = self.stream.isatty()
        if self.bar is None:  # a run that is taken up does not begin at 0
            place = {"desc": self.name, "total": total, "initial": done - 1}
            self.bar = _Bar(**place, file=self.stream if terminal else io.StringIO())
        self.bar.update(done - self.bar.n)
        quarter = 4 * done // total
        if not terminal and quarter != self.quarter:
            print(self.bar, file=self.stream)
        self.quarter = quarter
        if done == total:
            self.bar.close()


class _Bar(tqdm):
    monitor_interval = 0  # no thread of its own: the study starts processes


def aligned(rows, left=0):
    """Rows of strings, the first the header, as a table; the first ``left`` columns to the left."""
    sides = ["left" if column < left else "right" for column in range(len(rows[0]))]
    return tabulate(rows[1:], rows[0], "simple", colalign=sides, disable_numparse=True)
