"""How many threads: affinity, cgroups in a fake file tree, what the user has set, and torch loaded first."""

import os
import subprocess
import sys
from pathlib import Path

import labkit
from labkit.core import threads

import pytest

CORES = len(os.sched_getaffinity(0))
CGROUP2, CGROUP1 = "0::/docker/ab12", "4:memory:/docker/ab12\n3:cpu,cpuacct:/docker/ab12"


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def tree(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """A file system's root with /proc/self/cgroup and files below /sys/fs/cgroup."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "number"),
    [
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "150000 100000"}, 1),  # docker run --cpus=1.5
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "350000 100000"}, 3),
        ("0::/", {"cpu.max": "1600000 100000"}, 8),
        (CGROUP2, {"cpu.max": "200000 100000"}, 2),  # a container that sees its own folder as the root
        (CGROUP2, {"docker/cpu.max": "200000 100000", "docker/ab12/cpu.max": "max 100000"}, 2),
        (CGROUP2, {"docker/cpu.max": "400000 100000", "docker/ab12/cpu.max": "300000 100000"}, 3),
        (CGROUP2, {"docker/other/cpu.max": "100000 100000"}, 8),
        (CGROUP1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 8),
        (CGROUP1, {"cpu,cpuacct/cpu.cfs_quota_us": "150000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1),
        (CGROUP1, {"cpu/docker/ab12/cpu.cfs_quota_us": "100000", "cpu/docker/ab12/cpu.cfs_period_us": "50000"}, 2),
        (CGROUP1, {"memory/cpu.cfs_quota_us": "100000", "memory/cpu.cfs_period_us": "100000"}, 8),
        ("3:cpu:/\n0::/", {"unified/cpu.max": "300000 100000", "cpu/cpu.cfs_quota_us": "-1"}, 3),
        ("0::/", {"cpu.max": "nonsense"}, 8),
        ("nonsense", {}, 8),
    ],
)
def test_as_many_threads_as_the_quota_allows(tmp_path, eight_cores, cgroup, files, number):
    told = {}
    found = threads.decide(told, tree(tmp_path, cgroup, files))
    assert found.number == number and ("quota" in found.why) == (number < 8)
    assert told == {**threads.Decision.environment(number), "GOMP_SPINCOUNT": threads._SPIN}


def test_as_many_threads_as_cores_where_nothing_is_said_of_a_quota(tmp_path):
    assert threads.decide({}, tmp_path).number == CORES


def test_affinity_counts_and_not_the_cores_of_the_machine():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import labkit, torch; " + (
        "print(labkit.THREADS.number, torch.get_num_threads())"
    )
    assert python(code).stdout.split() == ["1", "1"]


@pytest.mark.parametrize("said", ["5", "5,2"])
def test_what_the_user_has_set_stays(tmp_path, said):
    mine = {"OMP_NUM_THREADS": said, "NUMBA_NUM_THREADS": "7", "OMP_WAIT_POLICY": "passive"}
    told = dict(mine)
    found = threads.decide(told, tmp_path)
    assert found.number == 5 and "OMP_NUM_THREADS" in found.why and "passive" in found.waiting
    assert told == {**threads.Decision.environment(5), **mine}


def test_a_number_that_is_none_is_left_to_torch(tmp_path):
    assert threads.decide({"OMP_NUM_THREADS": "many"}, tmp_path).number == CORES


def test_a_rank_has_one_thread(tmp_path):
    told = {"WORLD_SIZE": "2"}
    assert threads.decide(told, tmp_path).number == 1 and told["OMP_NUM_THREADS"] == "1"
    assert threads.decide({"WORLD_SIZE": "2", "OMP_NUM_THREADS": "3"}, tmp_path).number == 3


def test_torch_numba_and_blas_compute_with_what_was_decided():
    code = """
        import labkit, numba, numpy, threadpoolctl, torch
        numba.njit(parallel=True)(lambda: 0)()
        print(labkit.THREADS.number, torch.get_num_threads(), numba.get_num_threads())
        print(*{pool["num_threads"] for pool in threadpoolctl.threadpool_info()})
        """
    assert set(python(code).stdout.split()) == {str(CORES)}


def test_labkit_loads_no_torch_and_one_loaded_before_is_said_once():
    assert python("import labkit, sys; sys.exit('torch' in sys.modules)").stderr == ""
    late = python("import torch, labkit; from labkit.core import hardware; print(labkit.THREADS.waiting)")
    assert late.stderr.count("torch was loaded before labkit") == 1 and "spinning" in late.stdout
    told = python("import torch, labkit; print(labkit.THREADS.waiting)", GOMP_SPINCOUNT="20")
    assert told.stderr == "" and "GOMP_SPINCOUNT=20" in told.stdout


def python(code: str, **told: str) -> subprocess.CompletedProcess:
    """A new Python whose environment says nothing of threads but `told`."""
    silent = {name: value for name, value in os.environ.items() if "THREADS" not in name and name not in threads._WAITS}
    told = {**silent, "PYTHONPATH": str(Path(labkit.__file__).parents[1]), **told}
    lines = "\n".join(line.strip() for line in code.strip().split("\n"))
    return subprocess.run([sys.executable, "-c", lines], env=told, capture_output=True, text=True, check=True)


@pytest.mark.parametrize("value", ["many", "", "2.5", "-1"])
def test_a_number_of_threads_that_is_none_is_replaced(value):
    environ = {"NUMBA_NUM_THREADS": value, "OMP_NUM_THREADS": value, "WORLD_SIZE": value}
    number = threads.decide(environ, Path("/nowhere")).number
    assert environ["NUMBA_NUM_THREADS"] == environ["OMP_NUM_THREADS"] == str(number)
