from labkit.csc.tikhonov import extend, split

import pytest
import torch
from torch.testing import assert_close


def images(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_parts_add_up():
    x = images(2, 3, 17, 12, dtype=torch.float32)
    low, high = split(x)
    assert_close(low + high, x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(1, 3, 20, 15), (1, 1, 32, 32), (1, 3, 9, 11)])
def test_it_is_sporcos_filter(shape):
    from sporco.signal import tikhonov_filter

    x = images(*shape)
    low, high = tikhonov_filter(x[0].numpy().transpose(1, 2, 0), 5.0, 16)
    assert_close(split(x)[0][0], torch.tensor(low).permute(2, 0, 1))
    assert_close(split(x)[1][0], torch.tensor(high).permute(2, 0, 1))


def test_the_low_part_solves_its_equation():
    x = images(1, 1, 16, 14)
    wide = extend(x, 4)
    low = split(wide, 3.0, 0)[0]  # pad 0 would mirror nothing: the periodic problem on the extended image
    laplacian = sum(2 * low - low.roll(1, axis) - low.roll(-1, axis) for axis in (-2, -1))
    assert_close(low + 3.0 * laplacian, wide)


def test_extremes():
    x = images(1, 3, 8, 9)
    assert_close(split(x, 0.0)[0], x)
    assert not split(x, float("inf"))[0].any()
    assert_close(split(torch.ones_like(x))[1], torch.zeros_like(x))


def test_extend_repeats_the_edge_like_numpy():
    import numpy as np

    x = images(1, 2, 5, 4)
    assert_close(extend(x, 7), torch.tensor(np.pad(x.numpy(), [(0, 0), (0, 0), (7, 7), (7, 7)], "symmetric")))
