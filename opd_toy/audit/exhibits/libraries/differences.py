"""What changed between two records of the libraries: an older one and a newer one, in words."""

import math

LARGEST = 1e-3  # by so much, relatively, a number may differ from one processor to another


def differences(old, new):
    """A sentence a change, from ``results["audits"]`` of an old record and of a new one."""
    before, after = ({entry["id"]: entry for entry in audits} for audits in (old, new))
    said = _new_versions(old, new)
    said += [f"{id}: no longer there" for id in before if id not in after]
    said += [f"{id}: new, {after[id]['optimises']}" for id in after if id not in before]
    for id in before:
        if id in after:
            said += [f"{id}: {change}" for change in _changes(before[id], after[id])]
    return said


def _new_versions(old, new):
    before, after = (
        {entry["library"]: entry["version"] for entry in audits} for audits in (old, new)
    )
    return [
        f"{library}: from {before[library]} to {after[library]}"
        for library in after
        if library in before and before[library] != after[library]
    ]


def _changes(before, after):
    if before["optimises"] != after["optimises"]:
        yield f"followed {before['optimises']}, follows {after['optimises']}"
    if before["option"] != after["option"]:
        yield f"the option was {before['option']}, is {after['option']}"
    one, other = before["report"], after["report"]
    if one and other:
        yield from _limits(one, other)
        yield from _edges(one, other)
        yield from _numbers(one, other)


def _limits(one, other):
    if one["holds_everywhere"] != other["holds_everywhere"]:
        yield "holds everywhere now" if other["holds_everywhere"] else "no longer holds everywhere"
    divided = [(report.get("batch") or {}).get("normalised_by") for report in (one, other)]
    if divided[0] != divided[1]:
        yield f"was divided by {divided[0]}, is by {divided[1]}"


def _edges(one, other):
    before, after = (
        {edge["edge"]: edge for edge in report["edges"] if edge["severity"] == "broken"}
        for report in (one, other)
    )
    yield from (f"mended: {name}" for name in before if name not in after)
    yield from (
        f"broken: {name}, {edge['finding']}" for name, edge in after.items() if name not in before
    )


def _numbers(one, other):
    """Only where the names are the same: a new verdict has new numbers in any case."""
    if one["optimises"] != other["optimises"]:
        return
    variances = one["variance"], other["variance"]
    if not math.isclose(*variances, rel_tol=LARGEST, abs_tol=1e-9):
        yield "the variance was {:.3g}, is {:.3g}".format(*variances)
    gradients = one["expected_gradient"], other["expected_gradient"]
    same = len(gradients[0]) == len(gradients[1]) and all(
        math.isclose(a, b, rel_tol=LARGEST, abs_tol=1e-6) for a, b in zip(*gradients)
    )
    if not same:
        yield "another mean gradient at the same pair"
