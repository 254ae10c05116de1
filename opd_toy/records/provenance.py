"""Where a recorded result came from: the command, the code, the versions, the day.

``record`` writes results with their provenance, ``is_current`` tells whether the code
that made them has changed since; a test asks it for every record in ``figures/``.
"""

import datetime
import hashlib
import json
import os
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def source_hash(patterns):
    """SHA-256 over the names and bytes of the files that match the patterns, below the root.

    Raises ValueError for a pattern that matches nothing: a record that depends on no code
    would never be out of date.
    """
    digest = hashlib.sha256()
    for pattern in patterns:
        files = sorted(path for path in ROOT.glob(pattern) if path.is_file())
        if not files:
            raise ValueError(f"patterns must each match a file below {ROOT.name}/; {pattern!r} matches none")
        for path in files:
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def record(path, results, *, sources, packages, seed=None, device="cpu", command=None):
    """Write ``results`` (a JSON-able dict) to ``path`` with its provenance, all or nothing.

    ``command``: what made them, where that is not the command of opd_toy being run.
    """
    provenance = {
        "command": command or "python -m opd_toy " + " ".join(sys.argv[1:]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "seed": seed,
        "sources": list(sources),
        "source_hash": source_hash(sources),
    }
    text = _compact(json.dumps({"provenance": provenance, "results": results}, indent=2)) + "\n"
    partial = Path(f"{path}.partial")  # a full disk or an interrupt leaves the old record whole
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def recorded(name, command):
    """The results kept in ``figures/NAME.json``, which ``python -m opd_toy COMMAND`` makes.

    Raises FileNotFoundError, naming that command, where there is no such record.
    """
    path = ROOT / "figures" / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"figures/{name}.json is not there: `python -m opd_toy {command}` makes it, in a checkout of the book")
    return json.loads(path.read_text(encoding="utf-8"))["results"]


def _compact(text):
    """Indented JSON with rows of numbers, and short records of them, on one line each."""
    one_line = lambda found: re.sub(r"\n\s*", " ", found[0])
    text = re.sub(r"\[\n(?:[-+.\deE,\s]|null|true|false)*\]", one_line, text)  # strings hold no line ends
    for _ in range(2):
        text = re.sub(r"\{\n[^{}\n]*(?:\n[^{}\n]*)*\}", lambda found: one_line(found) if len(found[0]) < 400 else found[0], text)
    return text


def is_current(path):
    """Whether the code named in the record at ``path`` is still the code that made it."""
    provenance = json.loads(Path(path).read_text(encoding="utf-8"))["provenance"]
    return source_hash(provenance["sources"]) == provenance["source_hash"]
