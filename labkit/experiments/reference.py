"""sporco, the field's reference for convolutional sparse coding, on our problems: what ours is measured against."""

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def code(x: Tensor, d: Tensor, lam: float, *, iterations: int = 200, stop: float = 5e-3) -> tuple[float, Tensor]:
    """Seconds taken and codes (B, K, H, W) by sporco's `ConvBPDN`, image by image, as it is meant to be used.

    `iterations` and `stop` are its own stopping rule, here as in the paper's released code.
    """
    from sporco.admm.cbpdn import ConvBPDN

    options = ConvBPDN.Options({"MaxMainIter": iterations, "RelStopTol": stop, "Verbose": False})
    dictionary = d.numpy().transpose(2, 3, 1, 0)
    codes, seconds = [], 0.0
    for image in x.numpy():
        pixels = image.transpose(1, 2, 0)
        grey = pixels.shape[2] == 1
        given = (dictionary[:, :, 0], pixels[..., 0]) if grey else (dictionary, pixels)
        took, z = _timed(lambda: ConvBPDN(*given, lam, options, dimK=0).solve())  # noqa: B023
        seconds += took
        codes.append(torch.from_numpy(np.ascontiguousarray(z.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))))
    return seconds, torch.stack(codes)


def learn(x: Tensor, d: Tensor, lam: float, *, iterations: int = 200, consensus: bool = True) -> tuple[float, Tensor]:
    """Seconds taken and filters by sporco's `ConvBPDNDictLearn` from images x (B, C, H, W), started from d.

    With `consensus`, filters are updated by consensus ADMM with the penalties of sporco's own colour example;
    without, by the default proximal gradient steps.
    """
    from sporco.dictlrn.cbpdndl import ConvBPDNDictLearn

    method = "cns" if consensus else "pgm"
    settings = {"Verbose": False, "MaxMainIter": iterations}
    if consensus:
        settings |= {"CBPDN": {"rho": 50.0 * lam + 0.5}, "CCMOD": {"rho": 10.0}}
    filters, pixels = d.numpy().transpose(2, 3, 1, 0), x.numpy().transpose(2, 3, 1, 0)
    if x.shape[1] == 1:
        filters, pixels = filters[:, :, 0], pixels[:, :, 0]

    def run():
        options = ConvBPDNDictLearn.Options(settings, dmethod=method)
        return ConvBPDNDictLearn(filters, pixels, lam, options, dmethod=method, dimK=1).solve()

    seconds, found = _timed(run)
    S, (K, C) = d.shape[-1], d.shape[:2]
    return seconds, torch.from_numpy(np.ascontiguousarray(found.reshape(S, S, C, K).transpose(3, 2, 0, 1)))


def _timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds taken and the answer; sporco's warnings are not shown."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = call()
    return time.perf_counter() - started, found
