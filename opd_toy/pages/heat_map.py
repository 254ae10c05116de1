"""Credit matrices as heat-maps: small tables whose cells are coloured by their weight."""

import html

import numpy as np

from opd_toy.explorables.palette import ROLES
from opd_toy.pages.numbers import plain
from opd_toy.pages.page import Html


def credit_maps(matrices, caption=""):
    """A heat-map a matrix: ``matrices`` is {title: (T, T)}, row t what the token at t pays.

    The larger the weight, the stronger the colour.  Below the diagonal stand the costs of the
    past, which a single draw may carry and the mean loses: dashed, and without colour.
    Raises ValueError for a matrix that is not square.
    """
    for title, weights in matrices.items():
        if np.ndim(weights) != 2 or np.shape(weights)[0] != np.shape(weights)[1]:
            raise ValueError(f"matrices[{title!r}] must be (T, T), not {np.shape(weights)}")
    maps = "".join(_map(title, np.asarray(weights)) for title, weights in matrices.items())
    legend = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return Html(f'{_STYLE}<figure class="opd-figure opd-credit"><div>{maps}</div>{legend}</figure>')


def _map(title, weights):
    largest = np.abs(weights).max() or 1.0
    positions = [str(u + 1) for u in range(len(weights))]
    head = "".join(f'<th scope="col">{u}</th>' for u in positions)
    rows = "".join(
        f'<tr><th scope="row">{t}</th>{"".join(_cells(row, place, largest))}</tr>'
        for place, (t, row) in enumerate(zip(positions, weights))
    )
    return f"<table><caption>{html.escape(title)}</caption><tr><td></td>{head}</tr>{rows}</table>"


def _cells(row, t, largest):
    for u, weight in enumerate(row):
        text = plain(weight, 1).removesuffix(".0")
        if u < t:
            yield f'<td class="past">{text}</td>' if abs(weight) > 1e-9 else "<td></td>"
        else:
            share = f"{max(0.0, 100 * weight / largest):.0f}%"
            yield f'<td class="paid" style="--share:{share}">{text}</td>'


_LIGHT, _DARK = ROLES["policy_gradient"]
_STYLE = (
    f"<style>.opd-credit{{--paid:{_LIGHT}}}"
    "html[data-theme=dark] .opd-credit,body[data-jp-theme-light=false] .opd-credit"
    f"{{--paid:{_DARK}}}"
    ".opd-credit>div{display:flex;flex-wrap:wrap;align-items:end;gap:1rem .7rem;"
    "max-width:30rem;margin:auto}"
    ".opd-credit table{width:auto;margin:0;border-collapse:separate;border-spacing:3px;"
    "table-layout:fixed;color:inherit;font-size:.9rem}"
    ".opd-credit caption{caption-side:top;width:8.4rem;padding:0;color:inherit;"
    "text-align:left;font-size:.9rem;line-height:1.3}"
    ".opd-credit tr,.opd-credit tr:hover{background:none!important}"
    ".opd-credit :is(td,th){width:2.1rem;height:2rem;padding:0!important;border:0;"
    "text-align:center!important;font-weight:400}"
    ".opd-credit th{opacity:.75}"
    ".opd-credit td{font-size:.8rem}"
    ".opd-credit tr>:first-child{width:1.3rem}.opd-credit tr:first-child>*{height:1.4rem}"
    ".opd-credit .past{outline:1px dashed;outline-offset:-1px}"
    ".opd-credit .paid{print-color-adjust:exact;background:"
    "color-mix(in srgb,var(--paid) calc(.4*var(--share)),transparent)!important}"
    "</style>"
)
