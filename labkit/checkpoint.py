"""Checkpoints: where a long computation stands, in one file that is whole or absent."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from labkit import provenance
from labkit.errors import reason


def draws(seed: int, step: int) -> torch.Generator:
    """The generator of an epoch or pass: one for each, so that its state need not be part of a checkpoint."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def write(file: Path, run: dict, tensors: dict[str, Tensor], facts: dict) -> None:
    """Replace `file` by these tensors and plain facts; `run` says what computation they belong to."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    # Tensors and scalars in one file, so that one rename replaces both or neither.
    described = json.dumps({"run": run, "facts": facts, "digest": _digest(tensors)})
    with provenance.replacing(file) as partial:
        save_file(tensors, partial, metadata={"checkpoint": described})


def read(file: Path, run: dict) -> tuple[dict[str, Tensor], dict] | None:
    """Tensors and facts of a checkpoint of the same `run`; None, with a warning unless there is none, otherwise."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as stored:
            described = json.loads((stored.metadata() or {})["checkpoint"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        if described["digest"] != _digest(tensors):
            raise ValueError("its digest is wrong")
        theirs, facts = described["run"], described["facts"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        warnings.warn(f"starting anew: {file} is damaged ({reason(error)})", stacklevel=3)
        return None
    if theirs != run:
        warnings.warn(f"starting anew: {file} is of another recipe or other images", stacklevel=3)
        return None
    return tensors, facts


def kept(file: Path, make: Callable[[], Tensor]) -> Tensor:
    """One of the parts a long computation is made of: read from its `file` or, if that is absent or damaged, made."""
    found = read(file, {})
    if found:
        return found[0]["part"]
    part = make().detach().cpu().contiguous()
    write(file, {}, {"part": part}, {})
    return part


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()
