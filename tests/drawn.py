"""A drawing as a few lines of text: its shapes, grouped by colour and stroke, and its words."""

import math
import re
from xml.etree import ElementTree

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
HREF = "{http://www.w3.org/1999/xlink}href"


def drawn(svg):
    """The lines of an SVG that matplotlib made: its size, then a line a look."""
    root = ElementTree.fromstring(svg)
    markers = {each.get("id"): each for each in root.iter() if each.get("id")}
    looks, words = {}, {}
    for part, above in shown(root):
        look = re.sub(r"font-family: [^;]*; |stroke-dashoffset: 0; ", "", part.get("style", ""))
        kind = part.tag.rpartition("}")[2]
        if kind == "text":
            words.setdefault(look or formula_look(part), []).append(word(part, above))
        elif kind == "path":
            looks.setdefault(look, []).append(pairs(part.get("d")))
        elif kind == "use":
            shape = reach(pairs(markers[part.get(HREF)[1:]].get("d")))
            place = float(part.get("x")), float(part.get("y"))
            looks.setdefault(f"{look}; marks of {shape}", []).append([place])
    return [
        f"{root.get('width')} × {root.get('height')}",
        *(f"{look}: {extent(shapes)}" for look, shapes in looks.items()),
        *(f"{look}: {', '.join(said)}" for look, said in words.items()),
    ]


def shown(part):
    """(element, what it stands in) of all that is drawn, and not only defined to be drawn."""
    for each in part:
        if each.tag.rpartition("}")[2] not in ("defs", "clipPath"):
            yield each, part
            yield from shown(each)


def word(text, above):
    """A text and where it stands: a formula, whose letters have places of their own, as a whole."""
    turn = text.get("transform") or above.get("transform") or ""
    place = (text.get("x"), text.get("y")) if text.get("x") else NUMBER.findall(turn)[:2] or (0, 0)
    turned = " upright" if "rotate(-90" in turn else ""
    x, y = map(float, place)
    return f'"{"".join(text.itertext())}" ({x:.1f}, {y:.1f}){turned}'


def formula_look(text):
    """The looks of its letters."""
    parts = sorted({each.get("style", "") for each in text})
    return " | ".join(part.replace("font-family: 'DejaVu Sans'; ", "") for part in parts)


def pairs(path):
    numbers = [float(each) for each in NUMBER.findall(path)]
    return list(zip(numbers[::2], numbers[1::2]))


def reach(points):
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*points))
    return f"{left:.1f} to {right:.1f}, {top:.1f} to {bottom:.1f}"


def extent(shapes):
    """How many shapes and points, where they begin, end and reach, how long they are."""
    points = [point for shape in shapes for point in shape]
    length = sum(math.dist(*ends) for shape in shapes for ends in zip(shape, shape[1:]))
    whole = sum(math.dist(*ends) for ends in zip(points, points[1:]))  # from shape to shape too
    (x, y), (to_x, to_y) = points[0], points[-1]
    return (
        f"{len(shapes)} of {len(points)} points, ({x:.1f}, {y:.1f}) to ({to_x:.1f}, {to_y:.1f}), "
        f"in {reach(points)}; {length:.1f} and {whole:.1f} long"
    )
