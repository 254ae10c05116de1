"""What the reports of tokens and of sequences share: JSON, numbers in prose, findings."""

import dataclasses
import json
import math

import numpy as np

MARK = {"broken": "!!", "note": " !", "fine": "  "}
OTHER = {"student": "teacher", "teacher": "student"}
TEACHER_LEARNS = "detach them or run the teacher under torch.no_grad()"


class Report:
    """Mixed into the reports' dataclasses."""

    def to_dict(self):
        """The fields as dicts, lists, numbers and strings."""
        return plain(self)

    def to_json(self):
        """The fields as JSON; NaN and infinities are null."""
        return json.dumps(plain(self), indent=2, ensure_ascii=False, allow_nan=False)


def plain(value):
    """Dataclasses, arrays and tuples as dicts, lists, floats; NaN and infinities as None."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def finding(edge, severity, text=""):
    """One entry of a report's ``edges``; severity "broken", "note" or "fine"."""
    return {"edge": edge, "severity": severity, "finding": text}


def finding_lines(findings):
    """The findings that matter, then one line that names the edges where all is well."""
    lines = [
        f"  {MARK[entry['severity']]} {entry['edge']}: {entry['finding']}"
        for entry in findings
        if entry["severity"] != "fine"
    ]
    fine = [entry["edge"] for entry in findings if entry["severity"] == "fine"]
    return lines + ([f"     fine: {'; '.join(fine)}"] if fine else [])


def text(report, lines):
    """The verdict, the lines on what it rests on, and the findings."""
    indented = (f"  {line}" for line in lines)
    called = (f"  {note}" for note in (report.call or {}).get("notes", ()))
    findings = finding_lines(report.edges)
    return "\n".join([f"optimises: {report.optimises}", *called, *indented, "edges:", *findings])


def number(value, digits=4):
    """A number in prose: four figures, a true minus sign, a dash for none."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    text = f"{float(value):.{digits}g}".replace("inf", "infinity")
    return "−" + text[1:] if text.startswith("-") and float(text) else text.removeprefix("-")


def vector(values, digits=4):
    entries = (0.0 if abs(value) < 1e-12 else float(value) for value in values)
    return f"({', '.join(number(entry, digits) for entry in entries)})"
