"""Dictionaries in files, as sporco stores them."""

from pathlib import Path

from labkit.core import InputError
from labkit.core.wording import reason
from labkit.csc import conv

import numpy as np
import torch
from torch import Tensor


def load_dictionary(path: str | Path) -> Tensor:
    """A dictionary stored as sporco stores them: `.npy`, float32, (S, S, C, K) or, for grey, (S, S, K).

    Returns (K, C, S, S). Never unpickles. Raises InputError when the file is not such an array.
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
        raise InputError(f"{path} is not a plain .npy array ({reason(error)}); store it with numpy.save") from error
    if raw.ndim not in (3, 4) or raw.shape[0] != raw.shape[1]:
        raise InputError(f"{path} must hold an array (S, S, C, K) or (S, S, K), found {raw.shape}; store one such")
    if not np.issubdtype(raw.dtype, np.floating):
        raise InputError(f"{path} must hold floating-point filters, found {raw.dtype}; convert them")
    raw = raw[:, :, None] if raw.ndim == 3 else raw
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which `check` refuses
        d = torch.from_numpy(np.array(raw.transpose(3, 2, 0, 1), dtype=np.float32, order="C"))
    conv.check(d)
    return d
