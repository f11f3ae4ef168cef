from labkit import dashboards
from labkit.evaluation import measurement


def test_live_accuracy_agrees_with_the_experiments(tiny_lab, tiny_bench):
    live = dashboards.LiveAccuracy(tiny_lab, tiny_bench, ())
    assert live.settled()
    rows = measurement.run(
        [
            measurement.Case(tiny_lab.classifier, T, attack)
            for T in (None, tiny_lab.transform)
            for attack in (tiny_lab.attack("Clean"), tiny_lab.attack("FGSM-0.08"))
        ],
        tiny_bench,
    )
    assert [found.value for found in live.found.values()] == rows.accuracy.tolist()
    assert all(found.n == 12 for found in live.found.values())
    assert "12 of 12 test images" in live.status.value
    assert f"{rows.accuracy[3]:.3f}" in live.bars.value
