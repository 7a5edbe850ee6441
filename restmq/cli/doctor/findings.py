"""What ``restmq doctor`` finds: levels, findings, and the thresholds it judges by."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

MEBIBYTE = 1024 * 1024


class Level(StrEnum):
    """How bad a finding is, in rising order."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


EXIT_STATUS = {Level.OK: 0, Level.WARNING: 1, Level.PROBLEM: 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    check: str
    """What was looked at, in a word that stays the same."""
    what: str
    """What was found, on one line."""
    remedy: str = ""
    """What to do, on one line; empty where there is nothing to do."""


Findings = Iterator[Finding]


def ok(check: str, what: str) -> Finding:
    """Tell that something is as it should be."""
    return Finding(Level.OK, check, what)


def warning(check: str, what: str, remedy: str) -> Finding:
    """Tell of something that may do harm."""
    return Finding(Level.WARNING, check, what, remedy)


def problem(check: str, what: str, remedy: str) -> Finding:
    """Tell of something that does harm, or keeps the server from starting."""
    return Finding(Level.PROBLEM, check, what, remedy)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a figure is worth a finding."""

    spare_descriptors: int = 64
    """File descriptors that a node needs beside those of its connections."""
    scarce_disk_bytes: int = 1024 * MEBIBYTE
    full_disk_bytes: int = 100 * MEBIBYTE
    slow_fsync_seconds: float = 0.02
    slow_redis_seconds: float = 0.005
    clock_warning_seconds: float = 1.0
    clock_problem_seconds: float = 10.0
    full_memory_share: float = 0.9
    """Of Redis's maxmemory."""
    shortest_secret: int = 8
    """In characters."""
    short_certificate_days: float = 14


DEFAULTS = Thresholds()


def bytes_text(size_bytes: float) -> str:
    """A size as people say it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"
