"""The page on what made the paper's numbers."""

from labkit.experiments import causes
from labkit.reporting import cause_page

import pytest
from readings import FAULT, frame

ROWS = frame(**{causes.RIGHT: 0.3, "faulty": 1.0, "other": 0.6})


def test_the_table_has_the_nearest_first_and_the_paper_last():
    shown = cause_page.table(ROWS)
    assert list(shown["attack as if"]) == ["faulty", "other", causes.RIGHT, "the paper"]
    assert list(shown["checks call out"]) == [FAULT, "", "", ""]
    assert shown["No Defense FGSM-0.08"].iloc[-1] == "0.63" and shown.distance.iloc[0] == "0.000"
    changed = cause_page.changes(ROWS).set_index("cause")
    assert changed.loc["faulty", "STL BIM-0.03"].startswith("+0.6")


def test_the_sentences_say_what_fits_and_that_this_is_no_proof():
    said = cause_page.found(ROWS)
    assert "Nearest to the paper: faulty (distance 0.00 over 10 cells; chance up to" in said
    assert "Within what chance allows: faulty." in said and "no proof" in said
    assert "Refuted: that the paper's attacks were made rightly" in said
    assert "The sanity checks call these attacks out by name: faulty." in said
    wrong = cause_page.found(frame(other=0.5))
    assert "none of them" in wrong and "call these" not in wrong
    assert "n = 1,000 test images" in cause_page.caption(ROWS, "Epochs of training: 8.")


@pytest.mark.parametrize("rows", [ROWS, ROWS[ROWS.attack == "Clean"], ROWS[ROWS.defense == "STL"]])
def test_it_is_drawn_however_much_is_measured(rows):
    fig = cause_page.figure(rows, "title")
    left, right = fig.axes
    attacked = set(rows.attack) != {"Clean"}
    assert len(left.get_yticklabels()) == 3 * attacked
    labels = right.get_legend_handles_labels()[1]
    assert labels[0] == "the paper, Table 8a" or labels[-1] == "the paper, Table 8a"
    assert cause_page.found(rows) and len(cause_page.table(rows)) == 1 + 3 * attacked
