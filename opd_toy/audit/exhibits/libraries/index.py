"""What the index of real losses shows of the record: each verdict in words, and what gives it.

Everything here is arithmetic on the entries of figures/library-audits.json; no library is
needed.  Words are inline Markdown.
"""

import re

from opd_toy.audit.exhibits.libraries.record import NAMES, PACKAGES
from opd_toy.audit.exhibits.libraries.settings import GOALS
from opd_toy.pages.numbers import plain

# What the filter of the page calls the objectives, by the first pattern that is in the verdict.
OBJECTIVES = {
    "refused": ("not audited", r"^cannot be audited"),
    "unnamed": ("no name", r"^none of these"),
    "nothing": ("zero: nothing on average", r"^zero"),
    "sum": ("a sum of several", r"\S [+−] \S"),
    "between": ("between the two KLs", r"JSD|skew|Jeffreys"),
    "reverse": ("reverse KL", r"reverse KL"),
    "forward": ("forward KL", r"forward KL"),
    "other": ("another", r""),
}
MASKING = (
    ("both", "both mask"),
    ("teacher", "the teacher masks"),
    ("student", "the student masks"),
)
LOOKS_AT = {"whole": "whole vocabulary", "first": "first K", "drawn": "token drawn"}


def objective_of(entry):
    """A key of OBJECTIVES."""
    said = entry["optimises"]
    return next(key for key, (_, pattern) in OBJECTIVES.items() if re.search(pattern, said))


def estimator_of(entry):
    """A key of LOOKS_AT."""
    return next(key for key, words in LOOKS_AT.items() if words == entry["estimator"])


def own_name(function):
    """The function's, with its class where it has one."""
    *_, owner, own = function.split(".")
    return f"{owner}.{own}" if owner[0].isupper() else own


def version_of(entry):
    """The release, or the commit that was read."""
    return f"at {entry['version']}" if entry["source"] else entry["version"]


def versions(audits):
    """{package: version} of the libraries that were audited by their own code."""
    found = {entry["library"]: entry["version"] for entry in audits}
    return {package: found[package] for package in PACKAGES}


def sorted_by_library(audits):
    order = {library: place for place, library in enumerate(NAMES)}
    return sorted(audits, key=lambda entry: order[entry["library"]])


def follows(entry):
    """The verdict, with the log-ratio up to which it holds or what is nearest to it."""
    found, said = entry["report"], entry["optimises"]
    if found is None:
        return f"{said}: {entry['note']}"
    if said.startswith("none of these"):
        near = found["nearest"]
        return f"none of these; nearest: {near['name']}, cosine {plain(near['cosine'], 3)}"
    limited = " where " in said  # the verdict says itself up to where it holds
    if found["holds_everywhere"] or limited or not found.get("holds_up_to"):
        return said
    return f"{said} (up to a log-ratio of {plain(found['holds_up_to'], 1)})"


def in_a_table(words):
    """Of Markdown, where a bar would end the cell."""
    return words.replace("|", "\\|")


def noise(entry):
    """The variance over that of each drawn token's own cost, on the same pair or tree."""
    found, token = entry["report"], entry["kind"] == "token"
    name = "plain policy gradient" if token else "own sampled cost"
    unit = found and found["variance_compared"][name]
    if not unit:
        return "–"
    return "0" if found["variance"] == 0 else plain(found["variance"] / unit)


def remarks(entry):
    """What was found at the edges that could spoil a run, in few words."""
    found = entry["report"]
    if not found:
        return ""
    said = [_remark(edge) for edge in found["edges"]]
    if entry["kind"] == "token" and not found["fixed_point"]["is_fixed"]:
        length = found["fixed_point"]["gradient_norm"]
        said.append(f"gradient {plain(length) if length else 'NaN'} at student = teacher")
    if found.get("batch"):
        said.append("divided by: " + found["batch"]["normalised_by"])
    return "; ".join(filter(None, said))


def _remark(edge):
    text, broken = edge["finding"], edge["severity"] == "broken"
    if edge["edge"].startswith("a token masked") and broken and "NaN" in text:
        return f"NaN where {next(who for side, who in MASKING if side in edge['edge'])} a token"
    if edge["edge"] in ("clamp", "dead gradient"):
        return text if edge["edge"] == "clamp" else f"gradient {text}"
    if not broken:
        return ""
    return f"{edge['edge']}: {text}" if text.startswith("value") else text


def gives(entry):
    """{goal: what to set}, for the goals that this audit backs."""
    return {goal.name: goal.settings[entry["id"]] for goal in GOALS if entry["id"] in goal.settings}


def joined(audits):
    """The index as data: an entry an audit, without its report, with the goals that it gives."""
    return [
        {name: value for name, value in entry.items() if name != "report"}
        | {
            "name": NAMES[entry["library"]],
            "anchor": anchor_of(entry),
            "objective": OBJECTIVES[objective_of(entry)][0],
            "holds_everywhere": bool(entry["report"] and entry["report"]["holds_everywhere"]),
            "gives": gives(entry),
        }
        for entry in audits
    ]


def anchor_of(entry):
    """Where the page has this verdict; it stays, as threads elsewhere link to it."""
    return f"audit-{entry['id']}"


def where_read(entry):
    """The address of the code that was read, or nothing."""
    source = entry["source"]
    if not source:
        return ""
    return f"https://github.com/{source['repository']}/blob/{source['commit']}/{source['path']}"
