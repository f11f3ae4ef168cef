"""Ranks: which of torchrun's processes this one is, and how they share work, add up, tell and wait for each other.

    torchrun --nproc-per-node=2 -m labkit learn …

Without torchrun, and outside of `session`, there is one rank and every function returns what it was given.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import labkit
from labkit.core import children
from labkit.core.errors import InputError
from labkit.core.wording import reason, variable

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

# A rank may wait for hours while another builds. Who waits for a dead one need not wait: torchrun ends them all.
_PATIENCE = timedelta(days=7)

_alone = False


def rank() -> int:
    """This process's number among the ranks, from 0."""
    return dist.get_rank() if _together() else 0


def world() -> int:
    """How many ranks work together."""
    return dist.get_world_size() if _together() else 1


def device() -> str | None:
    """Where this rank computes: a GPU of its own where there are any; None (leave it to the caller) when alone."""
    if world() == 1 and not _alone:
        return None
    return f"cuda:{_local()}" if torch.cuda.is_available() else "cpu"


@contextmanager
def session() -> Iterator[None]:
    """Within it, the processes that torchrun started work together: gloo for tensors on CPUs, NCCL on GPUs.

    One thread a rank, unless OMP_NUM_THREADS says otherwise. Raises InputError when torchrun's environment is
    incomplete, or there are more ranks than GPUs.
    """
    ranks = variable("WORLD_SIZE", 1)
    if ranks == 1 or dist.is_initialized():
        yield
        return
    if variable("RANK", 0) >= ranks:
        raise InputError(f"$RANK is below $WORLD_SIZE, {ranks}, and set by torchrun; start the ranks with torchrun")
    if "TORCHELASTIC_RUN_ID" in os.environ:  # started by torchrun, which may be killed
        children.watch(os.getppid())
    backend = "gloo"
    if torch.cuda.is_available():
        if _local() >= torch.cuda.device_count():
            raise InputError(f"there are {torch.cuda.device_count()} GPUs; start as many ranks (--nproc-per-node)")
        torch.cuda.set_device(_local())
        backend = "cpu:gloo,cuda:nccl"
    with threads(labkit.THREADS.number):
        try:
            dist.init_process_group(backend, timeout=_PATIENCE, **_meeting_place())
        except ValueError as error:  # of a variable that is missing
            raise InputError(f"the ranks do not find each other ({reason(error)}); start them with torchrun") from None
        try:
            yield
        finally:
            dist.destroy_process_group()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Within it, torch computes with n threads; after it, also after an error, with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def apart() -> Iterator[None]:
    """Within it, this rank works on its own, as if there were no others."""
    global _alone
    before, _alone = _alone, _alone or world() > 1
    try:
        yield
    finally:
        _alone = before


def shard(items):
    """This rank's share of a tensor or sequence: consecutive items; all shares, in order of ranks, are the whole."""
    n, r, w = len(items), rank(), world()
    return items[r * n // w : (r + 1) * n // w]


def all_reduce(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The sum of each over all ranks, the same at every rank; one message, added up in float64."""
    if world() == 1:
        return tensors
    flat = torch.cat([t.double().flatten() for t in tensors])
    dist.all_reduce(flat)
    sums = flat.split([t.numel() for t in tensors])
    return tuple(s.reshape(t.shape).to(t.dtype) for s, t in zip(sums, tensors, strict=True))


def join(tensor: Tensor) -> Tensor:
    """What all ranks hold, (n, …) with an n of their own each, one after the other in order of ranks, at every rank."""
    return tensor if world() == 1 else torch.cat(_everyones(tensor))


def gather(value: Any) -> list[Any]:
    """The value that each rank gives, in order of ranks, at every rank. Values are what JSON can hold."""
    if world() == 1:
        return [value]
    # torch's own gathering of objects unpickles what it receives.
    return [json.loads(part.numpy().tobytes()) for part in _everyones(_bytes(json.dumps(value).encode()))]


def tell(value: Any = None) -> Any:
    """The value that rank 0 gives, at every rank; the others' is not looked at. Values are what JSON can hold."""
    return value if world() == 1 else json.loads(_sent(json.dumps(value).encode()))


def first(call: Callable[[], tuple[dict[str, Tensor], Any] | None]) -> tuple[dict[str, Tensor], Any] | None:
    """What `call()` returns at rank 0, at every rank: named tensors on the CPU and facts (JSON), or None."""
    if world() == 1:
        return call()
    found = call() if rank() == 0 else None
    there, facts = tell([found is not None, found and found[1]])
    if not there:
        return None
    return load(_sent(save({name: t.contiguous() for name, t in found[0].items()}) if found else b"")), facts


def barrier() -> None:
    """Waits until all ranks are here."""
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


def _together() -> bool:
    return not _alone and dist.is_available() and dist.is_initialized()


def _meeting_place() -> dict:
    """Where the ranks of a restarted run find each other's addresses, and not those of the ranks that were killed.

    torchrun's agent keeps both in one store (pytorch#135712). Restarts are counted alike by all ranks of one machine;
    for several machines, docs/SCALING.md names the variable that makes torchrun begin with a store of its own.
    """
    told = os.environ
    again, shared = int(told.get("TORCHELASTIC_RESTART_COUNT") or 0), told.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not again or not shared or told["LOCAL_WORLD_SIZE"] != told["WORLD_SIZE"]:
        return {}
    agent = dist.TCPStore(told["MASTER_ADDR"], int(told["MASTER_PORT"]), is_master=False, timeout=_PATIENCE)
    store = dist.PrefixStore(f"restart {again}", agent)
    return {"store": store, "rank": int(told["RANK"]), "world_size": int(told["WORLD_SIZE"])}


def _local() -> int:
    return variable("LOCAL_RANK", 0)


def _everyones(tensor: Tensor) -> list[Tensor]:
    """The tensors of all ranks, (n, …) with an n of their own each, at every rank."""
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world())]
    dist.all_gather(sizes, torch.tensor([len(tensor)]))
    padded = tensor.new_zeros(int(max(sizes)), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[: int(n)] for part, n in zip(parts, sizes, strict=True)]


def _sent(raw: bytes) -> bytes:
    """Rank 0's bytes, at every rank."""
    size = torch.tensor([len(raw)])
    dist.broadcast(size, 0)
    content = _bytes(raw) if rank() == 0 else torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return content.numpy().tobytes()


def _bytes(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)
