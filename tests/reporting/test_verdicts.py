"""The verdict table: what differs significantly, and the summary that is made from its lines."""

from labkit.core.metrics import accuracy, packed
from labkit.reporting import verdicts
from labkit.reporting.verdicts import HIGHER, LOWER, SAME, beside, claim

import pandas as pd
import pytest
import torch


def numbers(*lines, half=0.04):
    """Rows of name, case and accuracy, each with an interval of ± `half`, on 100 images."""
    rows = pd.DataFrame(lines, columns=["name", "case", "accuracy"])
    return rows.assign(low=rows.accuracy - half, high=rows.accuracy + half, n=100, where="worst case")


OURS = numbers(("STL", "FGSM", 0.6), ("STL", "BIM", 0.2), ("STL", "CW", 0.51))
OTHER = numbers(("JPEG", "FGSM", 0.5), ("JPEG", "BIM", 0.4), ("JPEG", "CW", 0.5))


def test_a_line_has_both_numbers_their_difference_and_a_verdict():
    found = beside("Does STL beat JPEG?", OURS, OTHER, "case").set_index("case")
    assert found.verdict.to_dict() == {"FGSM": HIGHER, "BIM": LOWER, "CW": SAME}
    assert found.difference.tolist() == pytest.approx([0.1, -0.2, 0.01])
    assert found.loc["FGSM", ["difference_low", "difference_high"]].tolist() == pytest.approx(
        [0.0434, 0.1566], abs=1e-4
    )
    assert (found.n == 100).all() and (found.ours == "STL").all() and (found.other == "JPEG").all()
    assert (beside("", OURS, OTHER, "case", "lower").verdict == "lower").all()
    assert len(beside("", OURS, OTHER)) == 9 and beside("", OURS, OTHER[:0], "case").empty


def test_verdict_and_interval_agree_where_the_two_intervals_meet():
    """Intervals of ± 0.04 meet at a distance of 0.07; that of the difference is ± 0.057."""
    (line,) = beside("", numbers(("a", "", 0.57)), numbers(("b", "", 0.5)), "case").itertuples()
    assert line.difference_low > 0 and line.verdict == HIGHER


def test_a_summary_has_a_line_for_each_question_and_place():
    (one,) = verdicts.summary(beside("Does STL beat JPEG?", OURS[:1], OTHER, "case")).to_dict("records")
    assert one == {
        "question": "Does STL beat JPEG?", "where": "worst case, FGSM", "ours": "STL 0.60", "other": "JPEG 0.50",
        "n": "100", "verdict": HIGHER,
    }  # fmt: skip
    (several,) = verdicts.summary(beside("Does STL beat JPEG?", OURS, OTHER, "case")).itertuples()
    assert (several.where, several.ours, several.other) == ("worst case", "STL 0.20 to 0.60", "JPEG 0.40 to 0.50")
    assert several.verdict == f"{HIGHER}: FGSM; {LOWER}: BIM; {SAME}: CW"
    others = pd.concat([OTHER[:1], numbers(("TVM", "FGSM", 0.7))])
    (beaten,) = verdicts.summary(beside("How?", OURS[:1], others, "case")).itertuples()
    assert beaten.other == "JPEG, TVM" and beaten.verdict == f"{HIGHER}: JPEG; {LOWER}: TVM"


def test_a_claim_is_a_line_without_numbers():
    found = verdicts.table([beside("Q?", OURS[:1], OTHER, "case"), claim("Q?", "the paper's statement", "holds")])
    assert list(found.columns) == verdicts.COLUMNS and found.verdict.tolist() == [HIGHER, "holds"]
    assert verdicts.summary(found).iloc[-1][["where", "ours", "verdict"]].tolist() == [
        "the paper's statement", "–", "holds",
    ]  # fmt: skip
    assert verdicts.table([]).empty
    for parts, whole in (
        (["holds", "holds"], "holds"),
        (["holds", "not decided"], "holds in part"),
        (["holds", "does not hold"], "holds in part"),
        (["does not hold", SAME], "does not hold"),
        ([SAME, "not decided"], "not decided"),
    ):
        assert verdicts.holds(parts) == whole


def test_the_table_has_intervals_and_printed_numbers_have_none():
    printed = OTHER.assign(low=OTHER.accuracy, high=OTHER.accuracy, name="λ = 2")
    shown = verdicts.view(beside("Q?", OURS.assign(unit=" dB"), printed, "case")[:1]).iloc[0]
    assert shown["ours"] == "STL 0.6 [0.6, 0.6] dB" and shown["other"] == "λ = 2: 0.5 dB"
    shown = verdicts.view(beside("Q?", OURS, OTHER, "case"))
    assert shown["difference"][0] == "+0.100 [+0.043, +0.157]" and shown["n"][0] == "100"
    page = verdicts.markdown(beside("Q?", OURS, OTHER, "case"))
    assert page.count("<details>") == 1 and "Brackets are 95 % intervals" in page


def decided(name, *rights, images="a" * 64):
    """A row for each case: of 100 images the first are right but for some, (how many, of which these are not)."""
    rows = []
    for case, (count, but) in enumerate(rights):
        right = torch.arange(100) < count
        right[:but] = False
        rows.append((name, f"attack {case}", *accuracy(right)[:3], packed(right, images)))
    return pd.DataFrame(rows, columns=["name", "case", "accuracy", "low", "high", "right"]).assign(n=100, where="")


def test_on_the_same_images_two_are_compared_in_pairs():
    ours, other = decided("STL", (60, 0)), decided("JPEG", (52, 0))
    (line,) = beside("Q?", ours, other, "case").itertuples()
    assert line.verdict == HIGHER and line.p == pytest.approx(2 * 0.5**8) and line.difference == pytest.approx(0.08)
    shown = verdicts.view(beside("Q?", ours, other, "case")).iloc[0]
    assert shown.difference.startswith("+0.080 [") and shown.p == "0.008"
    assert verdicts.view(beside("Q?", decided("a", (90, 0)), decided("b", (9, 0)), "case")).p[0] == "< 0.001"
    assert "p" not in verdicts.view(beside("Q?", OURS, OTHER, "case"))
    for elsewhere in (decided("JPEG", (52, 0), images="b" * 64), other.drop(columns="right"), other.assign(right=None)):
        (line,) = beside("Q?", ours, elsewhere, "case").itertuples()
        assert line.verdict == SAME and pd.isna(line.p)  # as if they were independent


def test_many_questions_are_corrected_for_their_number():
    """Eight discordant images on one side are significant (p 0.008) once, and not among eight questions."""
    ours, other = decided("STL", *[(60, 0)] * 8), decided("JPEG", (20, 0), *[(52, 0)] * 7)
    one, seven = (beside("Q?", ours[:n], other[1:], "case") for n in (2, 8))
    assert verdicts.corrected(one).verdict.tolist() == [HIGHER]
    found = verdicts.table([beside("Q?", ours[:1], other[:1], "case"), seven, claim("Q?", "all in all", "holds")])
    assert verdicts.corrected(found).verdict.tolist() == [HIGHER, *[SAME] * 7, "holds"]
    assert found.verdict.tolist() == [*[HIGHER] * 8, "holds"]  # what was found is left as it is
    assert verdicts.summary(found).verdict[0].startswith(f"{HIGHER}: attack 0; {SAME}: attack 1, ")


def test_of_many_questions_the_decided_come_first_and_the_rest_unfolds():
    def of(question, ours):
        return beside(question, OURS.assign(accuracy=ours, low=ours - 0.01, high=ours + 0.01), OTHER, "case")

    found = verdicts.table([of("A?", OTHER.accuracy), of("B?", OTHER.accuracy + 0.5)])
    shown, _, folded = verdicts.markdown(found, 1).partition("<details><summary>1 more, and the numbers</summary>")
    assert "B?" in shown and "A?" not in shown and "A?" in folded
    assert "more, and" not in verdicts.markdown(found, 2) and "more, and" not in verdicts.markdown(found)
