"""One colour a role, the same in every figure, slider and table of the book.

Each role has a colour for light and one for dark paper, as ``(light, dark)`` hex
strings.  All have a contrast of at least 4.5 against their paper and stay apart under
the three dichromacies; ``tests/test_palette.py`` measures both.
"""

ROLES = {
    "student": ("#0068B5", "#5AB0F2"),
    "teacher": ("#3B3F46", "#D5D9DF"),
    "forward_kl": ("#008064", "#2FC298"),
    "reverse_kl": ("#C94A00", "#FF8A4C"),
    "policy_gradient": ("#B4488C", "#EE97CB"),
    "jsd": ("#6A3A00", "#F7D842"),
    "behaviour": ("#6424C4", "#A672FF"),
}

PAPER = {
    "paper": ("#ffffff", "#14181e"),
    "ink": ("#1c2128", "#e6e9ed"),
    "muted": ("#5b6470", "#a3adb8"),
    "line": ("#d5dae0", "#39424d"),
    "wash": ("#f4f6f8", "#1d232b"),
}


def css_variables():
    """The palette as the body of two CSS rules: ``(light, dark)`` strings."""
    names = {**ROLES, **PAPER}
    return tuple(
        "".join(f"--opd-{name.replace('_', '-')}:{pair[side]};" for name, pair in names.items())
        for side in (0, 1)
    )
