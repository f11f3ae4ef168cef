"""What computes here: fast arithmetic, the memory of a process, and that what is freed goes back."""

import subprocess
import sys
from pathlib import Path

import labkit
from labkit.core import hardware
from labkit.core.hardware import has_bfloat16

import pytest
import torch


@pytest.mark.parametrize(
    ("capable", "expected"),
    [({"avx512_bf16": True}, False), ({"amx_bf16": True, "avx512_bf16": False}, True), ({"avx2": True}, False)],
)
def test_a_processor_has_it_when_it_has_tiles(capable, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    assert has_bfloat16(torch.device("cpu")) is expected
    monkeypatch.setenv("LABKIT_AMX", "0")
    assert not has_bfloat16(torch.device("cpu"))


def test_the_peak_of_memory_is_never_below_what_is_held():
    before = hardware.peak()
    held = b"x" * int((before + 0.1) * 2**30)  # more than was ever there
    assert hardware.peak() >= len(held) / 2**30 > before > 0.01


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs the memory that Linux tells")
def test_what_is_freed_goes_back():
    """80 MB below something small that stays, after a larger array was freed: what glibc otherwise keeps."""
    program = """if True:
        import re, sys
        import numpy as np
        from labkit.core import hardware
        if sys.argv[1] == "steady":
            hardware.steady()
        larger = np.ones(3 * 2**20)
        del larger
        held = [np.ones(2**20) for _ in range(10)]
        stays = [bytearray(900_000) for _ in range(10)]  # more than the holes of a fresh heap take
        del held
        print(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1])
    """
    there = Path(labkit.__file__).parent.parent
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", program, how], cwd=there, capture_output=True, check=True).stdout)
        for how in ("", "steady")
    )
    assert given_back < kept - 60_000
