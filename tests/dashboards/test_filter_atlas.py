import re

from labkit import dashboards

from shown import titles


def test_the_atlas_shows_where_a_filter_is_active(tiny_lab, tiny_bench):
    atlas = dashboards.FilterAtlas(tiny_lab, tiny_bench, ())
    assert atlas.settled()
    assert atlas.mosaic.count == 12 and len(atlas.most.pictures) == 6
    atlas.mosaic.chosen = 7
    assert atlas.settled()
    assert titles(atlas.board)[0] == "filter 8"
    sums = [float(re.search(r"[\d.]+$", picture["note"]).group()) for picture in atlas.most.pictures]
    assert sums == sorted(sums, reverse=True)
    atlas.cluster.value = 2
    assert atlas.settled() and "cluster 2" in atlas.status.value
