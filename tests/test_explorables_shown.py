"""What the explorables show on a tour through their controls is what it was: no change unseen."""

import pytest

from tests.explorables import WIDGETS
from tests.explorables.opened import lent_pages
from tests.explorables.shown import differences, kept, toured

lent = pytest.fixture(lent_pages, scope="module")
AGAIN = "as wanted? then `python -m tests.explorables.shown` writes it down"


@pytest.mark.parametrize("name", WIDGETS)
def test_on_a_tour_it_shows_what_is_kept(name, lent, tmp_path):
    page = lent.lend({"reduced_motion": "reduce"})
    found = toured(page, name, tmp_path)
    assert page.faults == []
    assert differences(kept(name).read_text(encoding="utf-8"), found) == [], AGAIN
    lent.take_back()


def test_a_fifth_of_a_pixel_is_no_difference_and_a_word_is():
    before = "## at first\nIt is 0.4.\npage: 1x 3.0 | 360 240: 2b -1.0\n"
    for now, count in ((" 3.2 ", 0), (" 3.3 ", 1), (" 2.7 ", 1)):
        found = differences(before, before.replace(" 3.0 ", now))
        assert [title for title, *_ in found] == ["## at first"] * count
    for old, new in (("0.4", "0.5"), ("1x", "1y"), ("2b", "2c"), ("at first", "first")):
        assert len(differences(before, before.replace(old, new))) == 1
    with pytest.raises(ValueError, match="longer"):
        differences(before, before + "## more\n")
