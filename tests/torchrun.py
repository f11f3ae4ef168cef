"""Starts two ranks on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import labkit


def torchrun(*arguments: str, cwd: Path, restarts: int = 0) -> subprocess.CompletedProcess:
    """Two ranks of a script, or of `-m labkit`; a rank that dies is started again up to `restarts` times."""
    ours = {"PYTHONPATH": str(Path(labkit.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*line, f"--max-restarts={restarts}", "--monitor-interval=0.1", *arguments],
        cwd=cwd, env={**os.environ, **ours}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
