"""How the book writes numbers."""

import pytest

from opd_toy.pages import numbers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (numbers.plain(-0.386), "−0.39"),
        (numbers.plain(-0.001), "0.00"),
        (numbers.plain(2.5, 0), "2"),
        (numbers.with_sign(0.466), "+0.47"),
        (numbers.with_sign(-0.001), "0.00"),
        (numbers.signed([-0.386, 0.0, 0.466]), "(−0.39, 0.00, +0.47)"),
        (numbers.row([0.2, 0.3], 1), "(0.2, 0.3)"),
        (numbers.listed([1, 2, 3], 0, " and "), "1, 2 and 3"),
        (numbers.whole(4096), "4096"),
        (numbers.whole(151936), "151,936"),
        (numbers.whole(-12345.6), "−12,346"),
        (numbers.listed([1], 0, " and "), "1"),
        (numbers.percent(0.123), "12 %"),
        (numbers.percent(-0.123, 1), "−12.3 %"),
        (numbers.figures(0.00068), "0.00068"),
        (numbers.figures(15000, 2), "1.5 · 10⁴"),
        (numbers.figures(-1.5e-9, 2), "−1.5 · 10⁻⁹"),
        (numbers.scientific(-5900), "−5.9 · 10³"),
        (numbers.length([3, 4]), "5.00"),
    ],
)
def test_a_number_in_prose(text, expected):
    assert text == expected
