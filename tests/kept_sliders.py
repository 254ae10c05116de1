"""Every slider's traits in words, and what it says that its still picture shows."""

import json

from opd_toy import explorables
from opd_toy.explorables.host import _rule


def sliders():
    blocks = []
    for name in explorables.__all__:
        widget = getattr(explorables, name)
        traits = widget.class_traits(sync=True)
        lines = [f"{name} ({widget.name}): {widget.shown}"]
        for trait in sorted(set(traits) - set(explorables.host.Explorable.class_traits())):
            rule = json.dumps(_rule(traits[trait]), ensure_ascii=False)
            kind, default = type(traits[trait]).__name__, traits[trait].default()
            recorded = ", a recording" if traits[trait].metadata.get("data") else ""
            lines.append(f"  {trait}: {kind}, {default!r}, {rule}{recorded}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


SLIDER_TEXTS = {"sliders": sliders}
