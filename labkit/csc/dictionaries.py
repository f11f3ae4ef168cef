"""Dictionaries in files, as sporco stores them."""

import zipfile
from pathlib import Path

from labkit.core import InputError
from labkit.core.wording import reason
from labkit.csc import conv

import numpy as np
import torch
from torch import Tensor


def load_dictionary(path: str | Path) -> Tensor:
    """A dictionary stored as sporco has them: `.npy`, floating, (S, S, C, K), or (S, S, K) and (S, S) for grey filters.

    Or as its `getdict` returns them, (S, S, C, 1, K). Returns (K, C, S, S). Never unpickles. Raises InputError when the
    file is no such array, with the call that makes one of it where there is one.
    """
    if not Path(path).is_file():
        raise InputError(f"no dictionary at {path}; give the path of a .npy file")
    try:
        with open(path, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("its header is of another version than 1.0")  # those may claim to be of any length
        # Mapped, an array is no larger than its file, whatever the header says; and nothing can be pickled.
        raw = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy raises a dozen types for damaged files
        how = "numpy.save" + ("; of an .npz, numpy.load(path)[name]" if zipfile.is_zipfile(path) else "")
        raise InputError(f"{path} is not a plain .npy array ({reason(error)}); store it with {how}") from error
    if not np.issubdtype(raw.dtype, np.floating):
        how = "numpy.save(path, d.real.astype('float32'))"
        raise InputError(f"{path} must hold floating-point filters, found {raw.dtype}; load it as d and {how}")
    if (call := _mended(shape := raw.shape)) != "d":
        how = f"load it as d and numpy.save(path, {call})" if call else "take sporco's getdict(crop=True)"
        raise InputError(f"{path} must hold an array (S, S, C, K), (S, S, K) or (S, S, C, 1, K), found {shape}; {how}")
    raw = raw.reshape(*shape[:2], shape[2] if raw.ndim > 3 else 1, shape[-1] if raw.ndim > 2 else 1)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which `check` refuses
        d = torch.from_numpy(np.array(raw.transpose(3, 2, 0, 1), dtype=np.float32, order="C"))
    conv.check(d)
    return d


def _mended(shape: tuple[int, ...]) -> str:
    """The call that makes an array d of this shape one of a dictionary's; "" where there is none."""
    if len(shape) == 5 and shape[0] == shape[1]:
        return "d" if shape[3] == 1 else "d[:, :, :, 0]"  # one for each of several signals
    call, left = ("d", shape) if len(shape) < 5 else ("d.squeeze()", tuple(n for n in shape if n != 1))
    at = next((axis for axis in range(len(left) - 1) if left[axis] == left[axis + 1]), None)
    if at is None or len(left) > 4 or 0 in left:
        return ""
    others = [axis for axis in range(len(left)) if axis not in (at, at + 1)]
    order = (at, at + 1, *(others[::-1] if at + 2 == len(left) else others))  # (K, C, S, S) is torch's
    return call if order == tuple(range(len(left))) else f"{call}.transpose{order}"
