"""The tables of the notes' sections 3 and 4, computed by the engine.

Each is a dict: id (the ledger's), section, title, columns, rows (lists, one entry
a column: text or full-precision floats) and note.
"""

import numpy as np
from tabulate import tabulate

from opd_toy.distributions import log_ratio
from opd_toy.estimators import gkd, policy_gradient
from opd_toy.example import STUDENT, TEACHER
from opd_toy.objectives import (
    forward_kl,
    forward_kl_logit_gradient,
    reverse_kl,
    reverse_kl_logit_gradient,
)

TOKENS = ("t1", "t2", "t3")  # in ASCII: these tables are printed in terminals of every kind
PROBABILITIES = ("p", "q", "p student", "q teacher", "probability")  # columns without a sign


def tables():
    """All five tables, in the notes' order."""
    p, q = STUDENT, TEACHER
    return [
        _log_ratios(p, q),
        _directions(p, q),
        _side_by_side(p, q),
        _token_drawn(p, q, 0),
        _expected(p, q),
    ]


def direction(gradient):
    """What one descent step does to each token's logit: "up", "down" or "still"."""
    return ["up" if g < 0 else "down" if g > 0 else "still" for g in gradient]


def strength(gradient):
    """The notes' words: below a quarter of the largest is weak, below a half medium."""
    share = np.abs(gradient) / (np.abs(gradient).max() or 1.0)
    return ["weak" if s < 0.25 else "medium" if s < 0.5 else "strong" for s in share]


def as_text(table, digits=2):
    """The table as aligned text, numbers signed and rounded to ``digits``."""
    names = table["columns"]
    rows = [
        [_cell(entry, name, digits) for entry, name in zip(row, names)] for row in table["rows"]
    ]
    alignment = ["left"] + ["right"] * (len(names) - 1)
    grid = tabulate(rows, names, disable_numparse=True, colalign=alignment)
    title = f"{table['section']}  {table['title']}  [{table['id']}]"
    return "\n".join(filter(None, [title + "\n", grid, table["note"]]))


def _log_ratios(p, q):
    ratio, kl = log_ratio(p, q), reverse_kl(p, q)
    gradient = reverse_kl_logit_gradient(p, q)
    return {
        "id": "three-token-rkl",
        "section": "3",
        "title": "Reverse KL: log-ratio against its mean, KL(p||q)",
        "columns": ["token", "p", "q", "r = log(p/q)", "KL(p||q)", "r - KL", "gradient p (r - KL)"],
        "rows": _rows(p, q, ratio, [kl] * len(p), ratio - kl, gradient),
        "note": "t2 goes up although p2 > q2: its log-ratio is below the mean.",
    }


def _directions(p, q):
    reverse, forward = reverse_kl_logit_gradient(p, q), forward_kl_logit_gradient(p, q)
    return {
        "id": "three-token-fkl",
        "section": "3",
        "title": "What one descent step does: reverse KL against forward KL",
        "columns": ["token", "p", "q", *_effect_columns("rKL"), *_effect_columns("fKL")],
        "rows": _rows(p, q, *_effect(reverse), *_effect(forward)),
        "note": f"KL(p||q) = {reverse_kl(p, q):.4f}, KL(q||p) = {forward_kl(p, q):.4f}; "
        "the two disagree on t2.",
    }


def _side_by_side(p, q):
    exact, sampled = gkd(p, q)[2], policy_gradient(p, q)[2]
    return {
        "id": "three-token-gkd-versus-pg",
        "section": "4",
        "title": "GKD against the policy gradient, t3 drawn",
        "columns": [
            *("token", "p student", "q teacher"),
            *_effect_columns("GKD"),
            *_effect_columns("PG"),
        ],
        "rows": _rows(p, q, *_effect(exact), *_effect(sampled), drawn=2),
        "note": "The notes print +.81 for PG at t3: 1.61 x .5 from the rounded 1.61. "
        f"The value is {sampled[2]:.4f}.",
    }


def _token_drawn(p, q, k):
    gradient = policy_gradient(p, q)[k]
    return {
        "id": "three-token-pg",
        "section": "4",
        "title": f"The policy gradient, {TOKENS[k]} drawn",
        "columns": ["token", "p", "q", *_effect_columns("PG")],
        "rows": _rows(p, q, *_effect(gradient), drawn=k),
        "note": f"C = log p - log q = {log_ratio(p, q)[k]:+.2f}. "
        "Now t2 goes down; with t3 drawn it goes up.",
    }


def _expected(p, q):
    table, exact = policy_gradient(p, q), gkd(p, q)[0]
    drawn = [[f"{TOKENS[k]} drawn", p[k], *table[k]] for k in range(3)]
    return {
        "id": "pg-sign-flip",
        "section": "4",
        "title": "Every draw, their mean, and GKD (not in the notes)",
        "columns": ["gradient if", "probability", *TOKENS],
        "rows": _plain([*drawn, ["mean of PG", 1.0, *(p @ table)], ["GKD, any draw", 1.0, *exact]]),
        "note": "The single draws disagree; their mean is GKD's gradient.",
    }


def _effect(gradient):
    """Columns: a gradient, and what one step along it does to each token."""
    return gradient, direction(gradient), strength(gradient)


def _effect_columns(name):
    return [f"{name} gradient", f"{name} direction", f"{name} strength"]


def _rows(*columns, drawn=None):
    names = [token + " (drawn)" if k == drawn else token for k, token in enumerate(TOKENS)]
    return _plain(zip(names, *columns))


def _plain(rows):
    return [[entry if isinstance(entry, str) else float(entry) for entry in row] for row in rows]


def _cell(entry, column, digits):
    if isinstance(entry, str):
        return entry
    return f"{entry:.1f}" if column in PROBABILITIES else f"{entry:+.{digits}f}"
