from labkit import dashboards
from labkit.dashboards import arena, parts
from labkit.evaluation import measurement

from shown import titles


def test_the_arena_shows_the_kept_rows_and_outlines_the_worst(tiny_lab, tiny_bench):
    plain = [measurement.Case(tiny_lab.classifier, None, attack) for attack in tiny_lab.attacks]
    rows = measurement.run(plain, tiny_bench)
    shown = dashboards.Arena(tiny_lab, tiny_bench)
    assert shown.settled()
    assert shown.defense.options[0] == "No Defense"
    assert shown.table.value.count("class='worst'") >= 1 and f"{rows.accuracy.min():.3f}" in shown.table.value
    shown.attack.value = ("FGSM-0.08", "classifier")
    shown.index.value = 1
    assert shown.settled()
    face = arena.face(measurement.Case(tiny_lab.classifier, None, tiny_lab.attack("FGSM-0.08")), 1, tiny_bench)
    assert shown.board.images[1] == parts.encoded(face["x_adv"]) and titles(shown.board)[1] == "FGSM-0.08"


def test_the_arena_offers_a_retrained_network_only_what_it_was_asked(tiny_lab, tiny_bench):
    T, clean, fgsm = tiny_lab.transform, tiny_lab.attack("Clean"), tiny_lab.attack("FGSM-0.08")
    vanilla = [measurement.Case(tiny_lab.classifier, T, attack) for attack in (clean, fgsm)]
    measurement.run([*vanilla, measurement.Case(tiny_lab.retrained(T), T, clean)], tiny_bench)
    shown = dashboards.Arena(tiny_lab, tiny_bench)
    assert shown.settled()
    shown.network.value, shown.defense.value = True, "STL"
    assert shown.settled()
    assert [key for _, key in shown.attack.options] == [("Clean", "–")]
