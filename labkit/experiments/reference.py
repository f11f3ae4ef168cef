"""sporco, the field's reference for convolutional sparse coding, on our problems: what ours is measured against."""

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def code(x: Tensor, d: Tensor, lam: float, *, iterations: int = 200, stop: float = 5e-3) -> tuple[float, Tensor]:
    """Seconds taken and codes (B, K, H, W) by sporco's `ConvBPDN`, image by image, stopped as in the paper's code."""
    from sporco.admm.cbpdn import ConvBPDN

    options = ConvBPDN.Options({"MaxMainIter": iterations, "RelStopTol": stop, "Verbose": False})
    codes, seconds = [], 0.0
    for image in x.split(1):
        filters, pixels = _arrays(d, image)
        took, z = _timed(lambda: ConvBPDN(filters, pixels[..., 0], lam, options, dimK=0).solve())  # noqa: B023
        seconds += took
        codes.append(torch.from_numpy(np.ascontiguousarray(z.reshape(*x.shape[2:], -1).transpose(2, 0, 1))))
    return seconds, torch.stack(codes)


def learn(x: Tensor, d: Tensor, lam: float, *, iterations: int = 200, consensus: bool = True) -> tuple[float, Tensor]:
    """Seconds taken and filters by sporco's `ConvBPDNDictLearn` from images x (B, C, H, W), started from d.

    With `consensus`, filters are updated by consensus ADMM with the penalties of sporco's own colour example;
    without, by the default proximal gradient steps.
    """
    from sporco.dictlrn.cbpdndl import ConvBPDNDictLearn

    penalties = {"CBPDN": {"rho": 50.0 * lam + 0.5}, "CCMOD": {"rho": 10.0}} if consensus else {}
    settings, how = {"Verbose": False, "MaxMainIter": iterations, **penalties}, "cns" if consensus else "pgm"

    def run():
        options = ConvBPDNDictLearn.Options(settings, dmethod=how)
        return ConvBPDNDictLearn(*_arrays(d, x), lam, options, dmethod=how, dimK=1).solve()

    seconds, found = _timed(run)
    S, (K, C) = d.shape[-1], d.shape[:2]
    return seconds, torch.from_numpy(np.ascontiguousarray(found.reshape(S, S, C, K).transpose(3, 2, 0, 1)))


def _arrays(*batches: Tensor) -> list[np.ndarray]:
    """Batches (B, C, H, W) as sporco takes them: (H, W, C, B), and (H, W, B) where they are grey."""
    arrays = [batch.numpy().transpose(2, 3, 1, 0) for batch in batches]
    return [array[:, :, 0] if array.shape[2] == 1 else array for array in arrays]


def _timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds taken and the answer; sporco's warnings are not shown."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = call()
    return time.perf_counter() - started, found
