from labkit.csc import atoms, codes, conv
from labkit.csc.codes import Codes

import numpy as np
import oracles
import pytest
import torch
from torch.testing import assert_close

B, C, H, W, K, S = 2, 3, 12, 10, 5, 3


def some(dtype=torch.float64, size=(H, W), density=0.05):
    g = torch.Generator().manual_seed(4)
    z = torch.randn(B, K, *size, generator=g, dtype=torch.float64)
    return (z * (torch.rand(z.shape, generator=g) < density)).to(dtype)


def filters(dtype=torch.float64, channels=C, size=S):
    return torch.randn(K, channels, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(
        dtype
    )


def test_codes_are_the_non_zeros_and_come_back():
    z = some()
    z[1] = 0
    found = Codes.of(z)
    assert torch.equal(found.dense(), z)
    assert_close(found.l1(), z.abs().flatten(1).sum(1))
    assert found.active().tolist() == [int((z[0] != 0).sum()), 0]
    assert (np.diff(found.codes[0].i) >= 0).all()
    mask = Codes.of(z != 0)
    assert all(np.array_equal(a, b) for a, b in zip(mask.codes[0][:3], found.codes[0][:3], strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels, size, S", [(3, (12, 10), 3), (1, (9, 16), 8), (3, (8, 8), 8), (2, (5, 7), 1)])
def test_one_atom_is_a_shifted_filter(channels, size, S, dtype):
    """Everywhere, in particular where it wraps around both borders at once."""
    d, x = filters(dtype, channels, S), torch.randn(1, channels, *size, dtype=torch.float64).to(dtype)
    frame, flat = atoms.frame(channels, *size, S), atoms.layout(d)
    image, out = np.empty(frame.H * frame.row, x.numpy().dtype), torch.empty_like(x)
    seen = conv.analyze(x, d)[0]
    for i in range(size[0]):
        for j in range(size[1]):
            atoms.put(x[0].numpy(), image, frame)
            atoms.wrap(image, frame)
            assert_close(
                float(atoms.correlate(flat, 2, i, j, image, frame)), float(seen[2, i, j]), rtol=1e-4, atol=1e-5
            )
            atoms.add(flat, 2, i, j, 0.5, image, frame)
            z = torch.zeros(1, K, *size, dtype=dtype)
            z[0, 2, i, j] = 0.5
            moved = x + conv.synthesize(z, d)
            atoms.take(image, out[0].numpy(), frame)
            assert_close(out, moved)
            # The repeated columns follow: every correlation sees the moved image.
            for at in ((i, size[1] - 1), (i, 0), (size[0] - 1, j)):
                expected = conv.analyze(moved, d)[0, 1, at[0], at[1]]
                assert_close(float(atoms.correlate(flat, 1, *at, image, frame)), float(expected), rtol=1e-4, atol=1e-5)


def test_many_atoms_are_the_synthesis():
    z, d = some()[:1], filters()
    frame = atoms.frame(C, H, W, S)
    image, out = np.zeros(frame.H * frame.row), np.empty((C, H, W))
    atoms.add_all(atoms.layout(d), *Codes.of(z).codes[0], image, frame)
    atoms.take(image, out, frame)
    assert_close(torch.tensor(out), torch.tensor(oracles.synthesize(z[0].numpy(), d.numpy())))


@pytest.mark.parametrize("size", [(12, 10), (4, 3)])
def test_correlations_are_the_dense_ones_in_any_number_of_threads(size, monkeypatch):
    z, x = some(size=size, density=0.3), torch.randn(B, C, *size, dtype=torch.float64)
    expected = conv._dense_correlations(z, x, S)
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for one, other in zip(codes.correlations(Codes.of(z), x, S), expected, strict=True):
            assert_close(one, other)
