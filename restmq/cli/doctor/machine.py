"""What ``restmq doctor`` looks at on this machine: limits, memory, cores, disks, libraries."""

import contextlib
import os
import re
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from restmq.cli.doctor.findings import (
    DEFAULTS,
    Finding,
    Findings,
    Thresholds,
    bytes_text,
    ok,
    problem,
    warning,
)

FSYNC_SAMPLES = 9
DEFAULT_CONSUMERS = 1000

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*)(;.*)?")
_BOUND = re.compile(r"(>=|<)\s*([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the kernel tells about itself."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")

    def cores(self) -> float:
        """Processor cores that this process may use; less than one in a small container."""
        allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0)
        allowed = allowed or float(os.cpu_count() or 1)
        quota, _, period = (_read(self.sys / "fs/cgroup/cpu.max") or "").partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            return min(allowed, int(quota) / int(period))
        return allowed

    def overcommit(self) -> str | None:
        """The policy for memory that was promised and not yet used: 0, 1 or 2."""
        return _read(self.proc / "sys/vm/overcommit_memory")

    def huge_pages(self) -> str | None:
        """When the kernel makes large pages by itself: always, madvise or never."""
        text = _read(self.sys / "kernel/mm/transparent_hugepage/enabled") or ""
        chosen = re.search(r"\[(\w+)\]", text)
        return chosen[1] if chosen else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):  # this kernel does not have it, or does not tell
        return None


def check_file_limit(consumers: int | None, thresholds: Thresholds = DEFAULTS) -> Findings:
    """Compare the limit on open files with the consumers that are to be expected.

    The hard limit counts, because a server raises its own to that. ``consumers``: how many one
    node shall have; None stands for ``DEFAULT_CONSUMERS``, which is only a guess.
    """
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (consumers or DEFAULT_CONSUMERS) + thresholds.spare_descriptors
    if limit == resource.RLIM_INFINITY or limit >= needed:
        shown = "any number of" if limit == resource.RLIM_INFINITY else f"{limit:,}"
        yield ok("file-limit", f"a process may have {shown} open files")
        return
    what = (
        f"a process may have {limit:,} open files, too few for "
        f"{consumers or DEFAULT_CONSUMERS:,} connections"
    )
    remedy = f"set LimitNOFILE={needed} in the systemd unit, or ulimit -n {needed} before it starts"
    yield (
        warning("file-limit", what, remedy)
        if consumers is None
        else problem("file-limit", what, remedy)
    )


def check_workers(machine: Machine, workers: int) -> Findings:
    """Compare the worker processes with the cores."""
    cores = machine.cores()
    if workers > max(cores, 1):
        yield warning(
            "workers",
            f"{workers} workers share {cores:g} processor cores",
            f"set workers to {max(1, int(cores))}: Redis needs a share of a core as well",
        )
    else:
        yield ok("workers", f"{workers} of {cores:g} processor cores for workers")


def check_overcommit(machine: Machine) -> Findings:
    """See whether a Redis on this machine can fork when memory is short."""
    policy = machine.overcommit()
    if policy in (None, "1"):
        if policy is not None:
            yield ok("overcommit", "the kernel lets Redis fork (vm.overcommit_memory = 1)")
        return
    yield warning(
        "overcommit",
        f"vm.overcommit_memory is {policy}, so that Redis may fail to rewrite its file when memory "
        "is short",
        "run sysctl vm.overcommit_memory=1, and write it into /etc/sysctl.d",
    )


def check_huge_pages(machine: Machine, redis_turns_them_off: bool) -> Findings:
    """See whether huge pages make a Redis on this machine slow to fork.

    From 6.2 on Redis turns them off for itself, unless ``disable-thp no`` tells it not to.
    """
    chosen = machine.huge_pages()
    if chosen is None:
        return
    if chosen == "always" and not redis_turns_them_off:
        yield warning(
            "huge-pages",
            "transparent huge pages are always on, and Redis does not turn them off for itself",
            "set disable-thp yes for Redis, or echo madvise > "
            "/sys/kernel/mm/transparent_hugepage/enabled",
        )
    else:
        yield ok("huge-pages", f"transparent huge pages do not touch Redis ({chosen})")


def check_disk_space(
    directory: Path, check: str = "disk-space", thresholds: Thresholds = DEFAULTS
) -> Findings:
    """See how much room is left where messages are kept."""
    existing = existing_parent(directory)
    try:
        usage = shutil.disk_usage(existing)
    except OSError as error:
        yield _cannot_look(check, existing, error)
        return
    left = f"{bytes_text(usage.free)} of {bytes_text(usage.total)} are free under {existing}"
    remedy = f"make room, or move {directory} to a larger disk: a full one stops all publishing"
    if usage.free < thresholds.full_disk_bytes:
        yield problem(check, f"only {left}", remedy)
    elif usage.free < thresholds.scarce_disk_bytes:
        yield warning(check, f"only {left}", remedy)
    else:
        yield ok(check, left)


def check_fsync(directory: Path, thresholds: Thresholds = DEFAULTS) -> Findings:
    """Measure how long the disk takes to make a small write safe, in a file without a name."""
    existing = existing_parent(directory)
    try:
        seconds = _fsync_seconds(existing)
    except OSError as error:
        yield _cannot_look("fsync-time", existing, error)
        return
    took = f"an fsync under {existing} takes {1000 * seconds:.2f} ms"
    if seconds > thresholds.slow_fsync_seconds:
        yield warning(
            "fsync-time",
            took,
            "put the data on a faster disk; each reply to a publisher waits for an fsync",
        )
    else:
        yield ok("fsync-time", took)


def _fsync_seconds(directory: Path) -> float:
    """The median of a few."""
    taken = []
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(FSYNC_SAMPLES):
            file.write(b"x" * 256)
            start = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def existing_parent(directory: Path) -> Path:
    """Return the directory, or the nearest above it that exists."""
    while not os.path.isdir(directory) and directory != directory.parent:
        directory = directory.parent
    return directory


def _cannot_look(check: str, directory: Path, error: OSError) -> Finding:
    reason = error.strerror or str(error)
    return warning(
        check,
        f"{directory} cannot be looked at: {reason}",
        "run restmq doctor as the server's user",
    )


def check_libraries(
    requirements: Sequence[str] | None = None, path: Sequence[str] | None = None
) -> Findings:
    """Compare the libraries that are installed with what this program asks for.

    ``requirements`` are in the form of package metadata, and those of this program by default;
    ``path`` says where to look for the libraries, by default where Python does.
    """
    if requirements is None:
        try:
            requirements = metadata.requires("restmq") or ()
        except metadata.PackageNotFoundError:  # run from a checkout that was never installed
            return
    seen = []
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement.strip())
        if match is None or "extra" in (match[3] or ""):
            continue
        installed = _installed_version(match[1], path)
        wanted = match[2].strip()
        if installed is None or not _fits(installed, wanted):
            state = "is not installed" if installed is None else f"is {installed}"
            yield problem(
                "libraries",
                f"the library {match[1]} {state}, and this program needs {wanted or 'any'}",
                f"pip install '{match[1]}{wanted}'",
            )
        else:
            seen.append(f"{match[1]} {installed}")
    if seen:
        yield ok("libraries", ", ".join(seen))


def _installed_version(name: str, path: Sequence[str] | None) -> str | None:
    if path is None:
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
        return None
    for each in metadata.distributions(name=name, path=list(path)):
        return each.version
    return None


def _fits(version: str, wanted: str) -> bool:
    found = _numbers(version)
    for operator, bound in _BOUND.findall(wanted):
        if (found >= _numbers(bound)) != (operator == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, without its closing zeros, which mean nothing."""
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
