"""The numeric tests and the pages as on other processors: ``python -m tests.processors``.

PyTorch, OpenBLAS and numpy choose their code by the processor and the number of threads, and
round differently with each choice.  A setting imitates a processor by the variables with which
these libraries let themselves be told; it is checked that they obeyed.  A setting that this
processor cannot imitate is reported as such: it has not passed.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.layout import PACKAGE, ROOT, imports

NUMERIC = {"numpy", "torch"}
BROWSER = {"browser", "built_book"}  # fixtures, by which tests in a browser are known
ALSO = {
    "tests/test_twin.py",  # in a browser, to hold the sliders' arithmetic to the engine's
    "tests/executed_pages.py",
}

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "NPY_DISABLE_CPU_FEATURES",
    "OPENBLAS_CORETYPE",
    *THREADS,
)


@dataclass(frozen=True)
class Setting:
    """A processor to imitate.  What is None is left to the libraries."""

    name: str
    torch: str | None = None  # PyTorch's vector unit
    openblas: str | None = None  # the processor whose kernels OpenBLAS takes
    numpy: tuple[str, ...] | None = None  # all that numpy may use beyond its baseline
    threads: int | None = None


SETTINGS = (
    Setting("as found"),
    Setting("no vector unit", "default", "Nehalem", numpy=(), threads=1),
    Setting("AVX2, Intel", "avx2", "Haswell", numpy=("X86_V3",), threads=2),
    Setting("AVX2, AMD", "avx2", "Zen", numpy=("X86_V3",), threads=1),
    Setting("AVX-512", "avx512", "SkylakeX", numpy=("X86_V3", "X86_V4"), threads=2),
)

# OpenBLAS may have been built with one set of kernels for two processors.
SAME_KERNELS = {"Zen": {"Zen", "Haswell"}}

# Prints what the libraries chose; run under a setting's variables.
PROBE = """
import ctypes, json, pathlib
import numpy, torch
libraries = pathlib.Path(numpy.__file__).parents[1] / "numpy.libs"
core = None
for path in libraries.glob("libscipy_openblas64_*"):
    name = ctypes.CDLL(str(path)).scipy_openblas_get_corename64_
    name.restype = ctypes.c_char_p
    core = name().decode()
units = numpy.show_config(mode="dicts")["SIMD Extensions"]
print(json.dumps({
    "torch": torch.backends.cpu.get_cpu_capability().lower(),
    "openblas": core,
    "numpy": units.get("found", []),
    "threads": torch.get_num_threads(),
}))
"""


def environment(setting, units=()):
    """The variables of a setting, all others of this kind unset; ``units``: numpy's, found here."""
    variables = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if setting.torch:
        variables["ATEN_CPU_CAPABILITY"] = setting.torch
    if setting.torch == "default":
        variables["MKL_CBWR"] = "COMPATIBLE"  # MKL, PyTorch's BLAS, without vector units too
    if setting.openblas:
        variables["OPENBLAS_CORETYPE"] = setting.openblas
    if setting.numpy is not None:  # numpy warns of a unit that the processor has not anyway
        variables["NPY_DISABLE_CPU_FEATURES"] = " ".join(set(units) - set(setting.numpy))
    if setting.threads:
        variables |= dict.fromkeys(THREADS, str(setting.threads))
    return variables


def chosen(variables):
    """What the libraries choose under these variables: see PROBE."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE], env=variables, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


def differences(setting, got):
    """Where the libraries did not follow a setting, in words."""
    asked = {
        "torch": setting.torch in (None, got["torch"]),
        "openblas": setting.openblas is None
        or got["openblas"] in SAME_KERNELS.get(setting.openblas, {setting.openblas}),
        "numpy": setting.numpy is None or set(got["numpy"]) == set(setting.numpy),
        "threads": setting.threads in (None, got["threads"]),
    }
    return [f"{name} takes {got[name]}" for name, followed in asked.items() if not followed]


def why_not(setting, here):
    """Why this processor cannot imitate a setting; empty when it can.  ``here``: see PROBE."""
    lacking = set(setting.numpy or ()) - set(here["numpy"])
    if lacking:  # asked first: without the unit, OpenBLAS's kernels would end the process
        return f"lacks {' '.join(sorted(lacking))}"
    return "; ".join(differences(setting, chosen(environment(setting, here["numpy"]))))


def numeric_tests():
    """The test files whose results a processor may round, as sorted POSIX paths."""
    paths = [*ROOT.glob("tests/test_*.py"), *ROOT.glob(f"{PACKAGE}/derivations/test_*.py")]
    names = {path.relative_to(ROOT).as_posix(): path for path in paths}
    return sorted(ALSO | {name for name, path in names.items() if is_numeric(path)})


def is_numeric(path):
    arguments = {
        argument.arg
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef)
        for argument in node.args.args
    }
    return bool(NUMERIC & everything_imported(path)) and not BROWSER & arguments


def everything_imported(path):
    """What a file imports, itself or through the package: dotted names."""
    found, waiting = set(), [path]
    while waiting:
        new = imports(waiting.pop()) - found
        found |= new
        waiting += [place for name in new if name.startswith(PACKAGE) for place in files(name)]
    return found


def files(name):
    """The file of a module of the package, if the dotted name is one."""
    place = ROOT.joinpath(*name.split("."))
    return [path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()]


def run(tests, variables):
    """Exit status of pytest over these files, and the lines that it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    workers = ["-n", "auto", "--dist", "loadfile"]
    done = subprocess.run(
        [*command, *workers, *tests], cwd=ROOT, env=variables, capture_output=True, text=True
    )
    return done.returncode, (done.stderr + done.stdout).strip().splitlines()


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m tests.processors", description=__doc__)
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--only", choices=names, help="one setting instead of all")
    parser.add_argument("tests", nargs="*", help="test files; without any, all numeric ones")
    options = parser.parse_args(arguments)
    settings = [setting for setting in SETTINGS if options.only in (None, setting.name)]
    tests = options.tests or numeric_tests()
    here = chosen(environment(Setting("as found")))
    print(f"{len(tests)} test files; this processor: {here}", flush=True)
    outcomes = [outcome(setting, tests, here) for setting in settings]
    if "passed" not in outcomes:
        print("no setting was passed")
    return int("failed" in outcomes or "passed" not in outcomes)


def outcome(setting, tests, here):
    """Run the tests under a setting and print its line: "passed", "failed" or "not here"."""
    if reason := why_not(setting, here):
        print(f"{setting.name:16} not on this processor: {reason}", flush=True)
        return "not here"
    began = time.monotonic()
    status, lines = run(tests, environment(setting, here["numpy"]))
    seconds = time.monotonic() - began
    word = "failed" if status else "passed"
    print(f"{setting.name:16} {word} in {seconds:.0f} s: {lines[-1]}", flush=True)
    if status:
        told = [line for line in lines if line.startswith(("FAILED", "ERROR", "E  "))]
        print("\n".join(told or lines[-30:]), flush=True)
    return word


if __name__ == "__main__":
    sys.exit(main())
