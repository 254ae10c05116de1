"""The outcomes of an audit as text, JSON, JUnit, SARIF, or annotations of GitHub."""

import json
from dataclasses import dataclass
from urllib.parse import quote
from xml.etree import ElementTree

FORMATS = ("text", "json", "junit", "sarif", "github")
SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
RULES = {
    "differs": "The loss optimises something else than it should.",
    "no-verdict": "The objective of the loss has no name.",
    "not-audited": "The loss cannot be audited.",
}


@dataclass(frozen=True)
class Outcome:
    """What came of one loss: a report, or the words of a refusal.

    ``problem``: None, or a key of RULES; ``message``: its words; ``path``, ``line``: where
    the loss is written, None where that is not known.
    """

    loss: str
    report: object
    expected: str | None
    problem: str | None
    message: str
    path: str | None = None
    line: int | None = None

    @property
    def status(self):
        return {None: 0, "not-audited": 2}.get(self.problem, 1)


def written(outcomes, form):
    """What is printed."""
    return {"text": text, "json": as_json, "junit": junit, "sarif": sarif, "github": github}[form](
        outcomes
    )


def text(outcomes):
    if len(outcomes) == 1:
        return str(outcomes[0].report or "")
    parts = (f"{o.loss}\n{o.report or f'not audited: {o.message}'}" for o in outcomes)
    return "\n\n".join(parts)


def as_json(outcomes):
    """The report of a single loss; a list with the names of several."""
    if len(outcomes) == 1:
        return outcomes[0].report.to_json() if outcomes[0].report else ""
    entries = [
        {
            "loss": o.loss,
            "expected": o.expected,
            "as_expected": None if o.expected is None or not o.report else o.problem is None,
            "error": o.message if o.problem == "not-audited" else None,
            "report": o.report and json.loads(o.report.to_json()),
        }
        for o in outcomes
    ]
    return json.dumps(entries, indent=2, ensure_ascii=False)


def junit(outcomes):
    failed = [o for o in outcomes if o.status == 1]
    refused = [o for o in outcomes if o.status == 2]
    counts = {"tests": len(outcomes), "failures": len(failed), "errors": len(refused)}
    counts = {name: str(count) for name, count in counts.items()}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", name="opd_toy audit", **counts)
    for o in outcomes:
        module, _, function = o.loss.rpartition(":")
        case = ElementTree.SubElement(suite, "testcase", classname=module, name=function)
        if o.path:
            case.set("file", o.path)
            case.set("line", str(o.line))
        if o.problem:
            kind = "error" if o.status == 2 else "failure"
            entry = ElementTree.SubElement(case, kind, message=o.message, type=o.problem)
            entry.text = str(o.report or o.message)
        elif o.report:
            ElementTree.SubElement(case, "system-out").text = str(o.report)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, "unicode")


def sarif(outcomes):
    rules = [{"id": name, "shortDescription": {"text": words}} for name, words in RULES.items()]
    driver = {"name": "opd_toy audit", "rules": rules}
    results = [_result(o) for o in outcomes if o.problem]
    runs = [{"tool": {"driver": driver}, "results": results}]
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": runs}, indent=2)


def _result(outcome):
    result = {
        "ruleId": outcome.problem,
        "level": "error",
        "message": {"text": f"{outcome.loss}: {outcome.message}"},
    }
    if outcome.path:
        path = quote(outcome.path)
        address = f"file://{path}" if path.startswith("/") else path
        place = {"artifactLocation": {"uri": address}, "region": {"startLine": outcome.line}}
        result["locations"] = [{"physicalLocation": place}]
    return result


def github(outcomes):
    """Workflow commands: an annotation where something is wrong, the reports folded."""
    lines = []
    for o in outcomes:
        verdict = o.report.optimises if o.report else "not audited"
        lines += [f"::group::{o.loss}: {verdict}", str(o.report or o.message), "::endgroup::"]
        if o.problem:
            place = f"file={_property(o.path)},line={o.line}," if o.path else ""
            lines.append(f"::error {place}title={_property(o.loss)}::{_data(o.message)}")
    return "\n".join(lines)


def _data(text):
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text):
    return _data(text).replace(":", "%3A").replace(",", "%2C")
