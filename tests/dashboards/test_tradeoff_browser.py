from labkit import dashboards
from labkit.experiments import ablations

from shown import drawn


def test_the_browser_shows_kept_points_and_computes_missing_ones(tiny_lab, tiny_bench):
    browser = dashboards.TradeoffBrowser(tiny_lab, tiny_bench)
    assert browser.settled()
    assert "None of these is measured yet" in browser.status.value and not browser.output.outputs
    browser.request(compute=True)
    assert browser.settled()
    assert [name for name, _ in browser.values.options] == ["0.1 ✓", "0.2 ✓", "0.4 ✓"]
    rows = ablations.sweep(tiny_lab, tiny_bench, "lam", tiny_lab.tradeoff.lam)
    assert drawn(browser.output.outputs[0], "y") == rows[rows.asked == "clean"].accuracy.tolist()
    assert "PSNR of T(x)" in browser.words.value
    browser.values.value = (0.1,)
    assert browser.settled()
    assert drawn(browser.output.outputs[0], "x") == [0.1]
