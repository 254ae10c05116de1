"""Does a loss optimise what it should?  For tests and for the command line."""

from opd_toy.audit import spelling
from opd_toy.audit.sequence.audit import audit_sequence
from opd_toy.audit.token import names, weights
from opd_toy.audit.token.audit import audit

UNKNOWN = "expected is {expected!r}, a name that no audit finds; {instead}"
DIFFERS = "expected {expected!r}, found {found!r}"


class UnknownName(ValueError):
    """No verdict has this name; the message has the nearest ones."""


def is_as_expected(report, expected):
    """Whether a report's verdict is ``expected``, in any spelling; UnknownName for no name.

    Numbers count to six figures, the factor in front and the words on where it holds, such
    as "while the two are close", belong to the verdict.
    """
    wanted = spelling.read(expected)
    if any(spelling.same(spelling.read(name), wanted) for name in _names_of(report)):
        return True
    check_name(expected)
    return False


def _names_of(report):
    """The verdict, and its other name where that holds as far: "Jeffreys", "χ²(p‖q)"."""
    yield report.optimises
    other = getattr(report, "also", None)
    if other and (report.holds_everywhere or weights.ANY in other):
        yield names.without_formula(other)


def check_name(expected):
    """UnknownName where ``expected`` is no spelling of a verdict."""
    if not spelling.is_known(expected):
        near = spelling.nearest(expected) or spelling.KNOWN[:3]
        instead = "nearest: " + ", ".join(repr(name) for name in near)
        raise UnknownName(UNKNOWN.format(expected=expected, instead=instead))


def assert_optimises(loss, expected, *, sequence=False, **options):
    """AssertionError, with the whole report, where the loss does not optimise ``expected``.

    ``sequence``: for losses of texts; ``options`` are those of ``audit`` or ``audit_sequence``.
    -> the report.  UnknownName for a name that no audit finds, AuditError for a loss that
    cannot be audited.
    """
    report = (audit_sequence if sequence else audit)(loss, **options)
    if not is_as_expected(report, expected):
        message = DIFFERS.format(expected=expected, found=report.optimises)
        raise AssertionError(f"{message}\n\n{report}")
    return report
