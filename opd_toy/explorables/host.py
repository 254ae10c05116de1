"""One host for every explorable: a widget in Jupyter, a living figure in the page.

A widget is ``NAME.py`` (its traits) and ``NAME.js`` (an ES module with the anywidget interface,
``export default { render({ model, el }) }``), which may import modules beside it, such as
``NAME_words.js`` and ``NAME_pictures.js``.  In Jupyter the module runs under anywidget and shares
its traits with Python.  In a built page the same module runs under ``host.js`` from the
``text/html`` of the output: no kernel, no network, one inline script.
"""

import base64
import html
import json
import re
from functools import cache
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from opd_toy.explorables.palette import css_variables

HERE = Path(__file__).parent
PICTURES = HERE.parent.parent / "figures"


class Distribution(traitlets.List):
    """A list of V probabilities, all above 0 (a finite logit each), that sums to 1."""

    def __init__(self, default_value, **metadata):
        super().__init__(traitlets.Float(), default_value=default_value, **metadata)

    def validate(self, obj, value):
        p = np.asarray(value, dtype=np.float64)
        if p.ndim != 1 or len(p) != len(self.default_args[0]):
            raise traitlets.TraitError(
                f"{self.name} must be a list of {len(self.default_args[0])} probabilities, "
                f"not an array of shape {p.shape}"
            )
        if not np.all(np.isfinite(p)) or np.any(p <= 0):
            raise traitlets.TraitError(
                f"{self.name} must have every probability above 0 (its logits are finite), "
                f"not {p.tolist()}"
            )
        if abs(p.sum() - 1) > 1e-6:
            raise traitlets.TraitError(f"{self.name} must sum to 1, not {p.sum():.6g}")
        return super().validate(obj, (p / p.sum()).tolist())


class Subset(traitlets.List):
    """Some of ``names``, none twice, kept in the order of ``names``."""

    def __init__(self, names, default_value, **metadata):
        super().__init__(traitlets.Unicode(), default_value=default_value, **metadata)
        self.names = list(names)

    def validate(self, obj, value):
        value = super().validate(obj, value)
        for name in value:
            if name not in self.names:
                raise traitlets.TraitError(
                    f"{self.name} must be names among {', '.join(self.names)}, not {name!r}"
                )
        if len(set(value)) < len(value):
            raise traitlets.TraitError(f"{self.name} must have no name twice, not {value!r}")
        return [name for name in self.names if name in value]


@cache
def _source(name):
    return (HERE / name).read_text(encoding="utf-8")


# In every page once; the other modules go with each widget that imports them.
SHARED = ("mathematics.js", "draws.js", "interface.js", "controls.js", "pictures.js")


def _inlined(name):
    """A module's text with its exports made plain, to stand in one script with others; what
    its comments say is for those who read the source."""
    text = re.sub(r"^import [^;]*;\n|^ *//.*\n", "", _source(name), flags=re.MULTILINE)
    return re.sub(r"^export (?!default)", "", text, flags=re.MULTILINE)


def _imports(file):
    """The imports of one file: [(names, module)], each from a module beside it."""
    found = re.findall(r'^import \{([^}]*)\} from "\./([^"]*)"', _source(file), flags=re.MULTILINE)
    return [
        ([each.strip() for each in names.split(",") if each.strip()], of) for names, of in found
    ]


def files(name):
    """NAME.js and all that it imports, each after what it imports itself."""
    found = []

    def visit(file):
        for _, imported in _imports(file):
            visit(imported)
        if file not in found:
            found.append(file)

    visit(f"{name}.js")
    return found


def _own_files(name):
    return [file for file in files(name) if file not in SHARED]


def _shared_names(name):
    """What the files of a widget take from the shared modules."""
    imports = [each for file in _own_files(name) for each in _imports(file)]
    return [each for names, of in imports if of in SHARED for each in names]


def module(name):
    """NAME.js linked with the modules it imports: one ES module that imports nothing."""
    return "".join(map(_inlined, files(name)))


# Chromium then reads a function once, and not again when it is first called: nearly all of a
# slider's functions are, as it appears.  Only at the very beginning of a script does it count.
EAGER = "//# allFunctionsCalledOnLoad\n"


@cache
def library():
    """The shared modules and the page's host as one script: the same for every widget, so
    that a page with several needs to keep it only once."""
    files = (*SHARED, "host.js")
    exports = re.findall(
        r"^export (?:const|function) (\w+)", "".join(map(_source, files)), flags=re.MULTILINE
    )
    body = "".join(_inlined(file) for file in files)
    return (
        f"<script>globalThis.opd ??= (() => {{{body}return {{{', '.join(exports)}}};}})();</script>"
    )


def style():
    """style.css with the palette: light, dark by the system, dark by the page's switch."""
    light, dark = css_variables()
    light, dark = f"{light}color-scheme:light", f"{dark}color-scheme:dark"
    return (
        f".opd{{{light}}}"
        f"@media (prefers-color-scheme:dark){{.opd{{{dark}}}}}"
        f"html[data-theme=light] .opd,body[data-jp-theme-light=true] .opd{{{light}}}"
        f"html[data-theme=dark] .opd,body[data-jp-theme-light=false] .opd{{{dark}}}"
        f"@media print{{html .opd,html[data-theme] .opd{{{light}}}}}" + _source("style.css")
    )


def _rule(trait):
    """What the page's host may accept for a trait from the URL."""
    if isinstance(trait, Distribution):
        return "distribution"
    if isinstance(trait, Subset):
        return {"among": trait.names}
    if isinstance(trait, traitlets.Enum):
        return list(trait.values)
    if isinstance(trait, traitlets.Unicode):
        return "text"
    if isinstance(trait, (traitlets.Float, traitlets.Int)):
        return [trait.min, trait.max, isinstance(trait, traitlets.Int)]
    return None


class Explorable(anywidget.AnyWidget):
    """Base of the explorables: traits tagged ``sync=True`` are the widget's state.

    One tagged ``data=True`` besides is a recording: the module gets it, but it is no state
    and stays out of the address.  ``shown`` says in words what the still picture shows, for a
    reader without scripts.
    """

    _css = style()
    name = ""
    shown = ""

    def state(self):
        """The traits that make up the widget's state, as a dict of plain values."""
        return {name: getattr(self, name) for name in self._own_traits()}

    def _own_traits(self, data=None):
        return [
            name
            for name in self.traits(sync=True, data=data)
            if not name.startswith("_") and name not in ("layout", "tabbable", "tooltip")
        ]

    def _still(self):
        picture = PICTURES / f"{self.name}.png"
        if not picture.exists():
            return f"<p>{html.escape(self.shown)}</p>"
        data = base64.b64encode(picture.read_bytes()).decode()
        return (
            f'<img class="opd-fallback dark-light" src="data:image/png;base64,{data}" '
            f'alt="{html.escape(self.shown)}">'
        )

    def to_html(self):
        """The widget for a page without a kernel: one element, one inline module."""
        place = f"opd-{self.name}-{self.model_id[:8]}"
        rules = {n: r for n in self._own_traits() if (r := _rule(self.traits()[n])) is not None}
        options = json.dumps({"name": self.name, "rules": rules})
        file = self.name.replace("-", "_")
        script = "".join(map(_inlined, _own_files(file))).replace(
            "export default", "const widget ="
        )
        initial = self.state() | {name: getattr(self, name) for name in self._own_traits(data=True)}
        names = ", ".join(dict.fromkeys([*_shared_names(file), "mount"]))
        return (
            f"<style>{style()}</style>{library()}"
            f'<div class="opd-host" id="{place}" data-explorable="{self.name}">'
            f"<noscript>{self._still()}</noscript></div>"
            f'<script type="module">{EAGER}const {{ {names} }} = globalThis.opd;\n{script}'
            f'mount(widget, document.getElementById("{place}"), '
            f"{json.dumps(initial)}, {options});</script>"
        )

    def _repr_mimebundle_(self, **options):
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, "text/html": self.to_html()}, metadata

    def __init_subclass__(cls, **options):
        if "_esm" not in vars(cls):  # traitlets makes subclasses of its own, with _esm a trait
            file = cls.__module__.rsplit(".", 1)[-1]
            cls.name = file.replace("_", "-")
            cls._esm = module(file)
        super().__init_subclass__(**options)
