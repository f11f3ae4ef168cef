"""Hostile input: mutants of good files, and a trial that no reader may crash, hang or swell in."""

import faulthandler
import os
import random
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from labkit.core.errors import InputError

SECONDS = 20  # one case; a healthy one takes milliseconds, but machines that test are shared
MEMORY = 2 * 2**30  # bytes of address space that a reader may ask for, beside what the process has

_LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 50_000, 0x7FFFFFFF, 0xFFFFFFFF, 2**62, 2**64 - 1)


def cases(usual: int) -> int:
    """How many cases a reader is given: $LABKIT_FUZZ, or what is usual for it."""
    return int(os.environ.get("LABKIT_FUZZ") or usual)


def mutants(seeds: Sequence[bytes], count: int, *, seed: int = 0) -> Iterator[bytes]:
    """`count` damaged copies of good files: always the same ones for one seed, and a few of no file at all."""
    draw = random.Random(seed)
    for _ in range(count):
        if draw.random() < 0.02:
            yield draw.randbytes(draw.choice((0, 1, 7, 64, 500)))
            continue
        raw = bytearray(draw.choice(seeds))
        for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
            draw.choice(_DAMAGES)(raw, draw, seeds)
        yield bytes(raw)


def _flip(raw: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    if raw:
        raw[_place(raw, draw)] ^= 1 << draw.randrange(8)


def _truncate(raw: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    del raw[draw.randrange(len(raw) + 1) :]


def _splice(raw: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    """A piece of another file, over or between what is there."""
    other = draw.choice(seeds)
    start = draw.randrange(len(other) + 1)
    piece = other[start : start + draw.choice((1, 4, 16, 200))]
    at = draw.randrange(len(raw) + 1)
    raw[at : at + draw.choice((0, len(piece)))] = piece


def _length(raw: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    """Another number where, perhaps, a length, a size or an offset stands."""
    size = draw.choice("BHIQ")
    number = struct.pack(draw.choice("<>") + size, draw.choice(_LENGTHS) % 256 ** struct.calcsize(size))
    at = _place(raw, draw) if raw else 0
    raw[at : at + len(number)] = number


def _cut(raw: bytearray, draw: random.Random, seeds: Sequence[bytes]) -> None:
    at = draw.randrange(len(raw) + 1)
    del raw[at : at + draw.choice((1, 4, 40))]


def _place(raw: bytearray, draw: random.Random) -> int:
    """A position, half of the time near the beginning, where headers are."""
    return draw.randrange(min(len(raw), draw.choice((64, len(raw)))))


_DAMAGES = (_flip, _flip, _truncate, _splice, _length, _length, _cut)


_ODD = (None, True, -1, 1e308, 10**30, "", "recipe", "é\x1b[2J", [], [[]], {}, {"recipe": []}, {"recipe": "Images"})


def bent(value, draw: random.Random):
    """JSON with parts left out, added, or replaced by values of every other kind."""
    if draw.random() < 0.08:
        return draw.choice(_ODD)
    if isinstance(value, dict):
        told = {name: bent(inner, draw) for name, inner in value.items() if draw.random() > 0.03}
        more = draw.random() < 0.1
        return told | ({draw.choice(("recipe", "digest", "name", "x")): draw.choice(_ODD)} if more else {})
    return [bent(inner, draw) for inner in value] if isinstance(value, list) else value


def tree(root: Path) -> dict[str, int]:
    """Every file below a folder, with its size."""
    return {str(p.relative_to(root)): p.lstat().st_size for p in root.rglob("*") if not p.is_dir()}


def survive(
    read: Callable[[bytes], object], inputs: Iterable[bytes], allowed: tuple = (InputError,), *, greedy: bool = False
) -> tuple[int, int]:
    """How many inputs were read, and how many refused with an error of `allowed`; any other outcome fails.

    A refusal is one line, and none for want of memory, unless the reader may be `greedy` and ask for more than there
    is; a case that ends in no Python at all (a decoder that hangs or crashes) ends the run with a traceback, its input
    still lying where `read` has put it.
    """
    never = Late if greedy else (Late, MemoryError)
    taken = refused = 0
    with bounded(), ExitStack() as stack:
        stack.callback(faulthandler.cancel_dump_traceback_later)
        for number, raw in enumerate(inputs):
            try:
                if number % 100 == 0:
                    faulthandler.dump_traceback_later(30 * SECONDS, exit=True, file=sys.__stderr__)
                with limited(SECONDS):
                    read(raw)
                taken += 1
            except allowed as error:
                assert "\n" not in str(error), f"case {number}: {error!r}"
                assert not any(isinstance(e, never) for e in _chain(error)), f"case {number}: {error!r}"
                refused += 1
            except BaseException as error:
                raise AssertionError(f"case {number}: {type(error).__name__} on {raw!r:.400}") from error
    return taken, refused


def put(file: Path, raw: bytes) -> None:
    """Writes a file anew; into the old one, it would be ten times as slow on some file systems."""
    file.unlink(missing_ok=True)
    file.write_bytes(raw)


class Late(BaseException):
    """A case took longer than its time."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises Late when the time is up and the case has come back to Python."""

    def late(*_):
        raise Late(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def bounded(more: int = MEMORY) -> Iterator[None]:
    """Lets the process have `more` bytes besides what it has (on Linux), and warnings pass unsaid, as in use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if sys.platform != "linux":
            yield
            return
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
