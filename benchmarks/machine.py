"""The facts of the machine that a reader needs beside the numbers."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import CHECKOUT, process_tree, stat_fields

BUSY_LOAD = 0.5
KERNEL_THREADS_PARENT = 2
STOLEN_FIELD = 8  # of the first line of /proc/stat, which is the sum over all cores
FSYNC_SAMPLES = 200


def describe(directory: Path, versions: dict[str, str]) -> dict[str, Any]:
    """Processor, memory, load, versions, and the disk that the servers write to."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "file_system": _file_system(directory),
        "fdatasync_median_us": _fdatasync_median_us(directory),
        "versions": versions | {"wrk": _wrk_version(), "commit": _commit()},
    }


def warnings(facts: dict[str, Any]) -> list[str]:
    """What about the machine makes the numbers less than they seem."""
    found = []
    if facts["load_average"][0] > BUSY_LOAD:
        found.append(f"the machine was busy at the start: load {facts['load_average'][0]:.2f}")
    if facts["cores"] < 2:
        found.append("there is one core: servers and load generators share it")
    if facts["file_system"].startswith(("tmpfs", "ramfs")):
        found.append("the directory is in memory: fsync costs nothing there")
    return found


def other_cpu_seconds() -> float:
    """CPU time used so far by processes that are none of the benchmark's, or by other machines.

    The latter is what the host of a virtual machine gave to others while this one had work.
    Kernel threads do not count: they may well be writing for a server under test. What a process
    used that has ended is found with its parent, so only differences over a time mean anything.
    """
    own = set(process_tree(os.getpid()))
    ticks = int(Path("/proc/stat").read_text().split(maxsplit=9)[STOLEN_FIELD])
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in own:
            continue
        fields = stat_fields(int(entry.name))
        if fields and int(fields[1]) != KERNEL_THREADS_PARENT:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(directory: Path) -> str:
    """The type and mount point of the file system that holds the directory."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        if directory.resolve().is_relative_to(mount) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return f"{best[1]} on {best[0]}"


def _fdatasync_median_us(directory: Path) -> float:
    """How long a small append and its fdatasync take, since durable servers wait for that."""
    times = []
    path = directory / "fdatasync"
    with path.open("wb", buffering=0) as file:
        for _ in range(FSYNC_SAMPLES):
            start = time.perf_counter()
            file.write(b"x" * 150)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return round(statistics.median(times) * 1e6, 1)


def _output(*arguments: str) -> str:
    """What a command prints, or nothing when it is not there."""
    if shutil.which(arguments[0]) is None:
        return ""
    return subprocess.run(arguments, capture_output=True, text=True).stdout


def _wrk_version() -> str:
    words = _output("wrk", "-v").split()
    return words[1] if len(words) > 1 else "not installed"


def _commit() -> str:
    return _output("git", "-C", str(CHECKOUT), "describe", "--always", "--dirty").strip()
