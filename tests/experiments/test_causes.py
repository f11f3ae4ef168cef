"""What made the paper's numbers: hypotheses that differ from the right attack in one thing, and their distances."""

from dataclasses import replace

from labkit.core import profiles, recipes, store
from labkit.experiments import causes, published_numbers

import numpy as np
import pandas as pd
import pytest
from readings import frame

SMALL = replace(profiles.LAB, causes=replace(profiles.LAB.causes, n=50))


def test_each_hypothesis_asks_the_ten_cells_of_table_1():
    found = causes.hypotheses(SMALL)
    columns = [c for c in published_numbers.table("1_released") if c != "Clean"]
    for name, cases in found.items():
        bare = [case.attack for case in cases if case.defense is None and case.attack.size]
        behind = [case.attack for case in cases if case.defense is not None and case.attack.size]
        if name.startswith("relative"):
            assert {attack.norm for attack in bare} == {"dissimilarity"} and len(bare) == len(behind) == 5
            continue
        assert [attack.label.partition(" (")[0] for attack in behind] == columns
        assert len(bare) == 8 and {attack.norm for attack in bare} == {"levels"}
        assert len(set(case.attack.faults for case in cases if case.attack.size)) == 1
        assert all(case.knowledge == "transfer" for case in cases if case.defense is not None and case.attack.size)
    # Nobody else makes an attack wrong on purpose.
    assert all(not case.attack.faults for case in found[causes.RIGHT])
    wrong = {name for name, cases in found.items() if any(case.attack.faults for case in cases)}
    assert all(any(word in name for word in ("training", "dropout", "label", "JPEG")) for name in wrong)


def test_networks_are_shared_where_a_hypothesis_does_not_change_them():
    found = causes.hypotheses(SMALL)
    right = {store.key(case.classifier) for case in found[causes.RIGHT]}
    assert right == {store.key(case.classifier) for case in found["training mode, batches of up to 8"]}
    assert len({store.key(case.classifier) for cases in found.values() for case in cases}) == 2 * (1 + 6 + 1 + 1) + 1
    seeds = {case.classifier.seed for cases in found.values() for case in cases}
    assert seeds == {0, 1, 2} and len(found) == 13 + 2 * 6


def test_the_paper_itself_has_distance_0_and_chance_is_what_sampling_gives():
    near = causes.distances(frame(worse=0.5, jpeg=1.0)).set_index("hypothesis")
    assert list(near.index) == ["jpeg", "worse"] and near.distance["jpeg"] == pytest.approx(0, abs=1e-12)
    assert set(near.cells) == {10}
    kept = causes.relative(frame(jpeg=1.0)).loc["the paper"]
    assert near.distance["worse"] == pytest.approx(float(kept.mean() / 2))
    # A simulation of its own: shares of 1,000 and 10,000 images with the same truth.
    generator, drawn = np.random.default_rng(1), []
    for _ in range(500):
        ours, theirs = (generator.binomial(n, kept) / n for n in (1000, 10_000))
        drawn.append(np.abs(ours - theirs).mean())
    assert near.chance["jpeg"] == pytest.approx(np.mean(drawn), rel=0.05)
    assert near.most["jpeg"] == pytest.approx(np.quantile(drawn, 0.95), rel=0.1)


def test_a_cell_is_a_share_of_the_clean_accuracy_on_as_many_images():
    rows = frame(jpeg=1.0)
    few = rows[(rows.attack == "Clean") | rows.attack.str.startswith("CW")].assign(
        n=200, accuracy=lambda r: r.accuracy / 2
    )
    both = pd.concat([rows[~rows.attack.str.startswith("CW")], few])
    pd.testing.assert_frame_equal(causes.relative(both), causes.relative(rows))


def test_what_is_not_measured_is_missing_and_changes_are_differences():
    rows = pd.concat([frame(**{causes.RIGHT: 0.5, "jpeg": 0.75}), frame(half=1.0).query("defense == 'STL'")])
    near = causes.distances(rows).set_index("hypothesis")
    assert near.cells["half"] == 5
    changed, table = causes.changes(rows), causes.relative(rows)
    assert list(changed.index) == [causes.RIGHT, "jpeg", "half", "the paper"]
    assert changed.loc["the paper"].to_numpy() == pytest.approx(changed.loc[causes.RIGHT].to_numpy())
    assert changed.loc["jpeg"].to_numpy() == pytest.approx(table.loc["the paper", changed.columns].to_numpy() / 4)
    assert changed.loc["half"].isna().sum() == 2 and causes.changes(frame(jpeg=1.0)).empty


def test_rows_carry_what_the_sanity_checks_call_them(lab, bench):
    small = replace(lab, causes=profiles.Causes(n=20, widths=(lab.classifier.width,)))
    found = causes.hypotheses(small)
    wanted = [case for name in (causes.RIGHT, "training mode, batches of up to 8") for case in found[name]
              if case.defense is None and case.attack.name in ("clean", "fgsm")]  # fmt: skip
    rows = causes.rows(small, bench, wanted)
    told = rows.drop_duplicates("hypothesis").set_index("hypothesis").fault
    assert told[causes.RIGHT] == "" and told["training mode, batches of up to 8"] == "training mode (TrainingMode)"
    assert list(causes.curves(rows).value.unique()) == [8, 4, 2, 12, 20]
    assert len(causes.rows(small, bench, [])) == 0
    every, one = (causes.asked(small, trained=trained).blind for trained in (True, False))
    assert len(every) > 100 and set(one) < set(every)
    assert {recipes.rebase(case.classifier, small.data) for case in one} == {small.classifier}
