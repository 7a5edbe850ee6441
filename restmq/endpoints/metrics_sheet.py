"""The figures of all workers of one server, side by side in memory that they share.

Each worker has a row, which it alone writes: about once a second, and when it is asked. A worker
that takes the place of one that died goes on from that one's row; so what is counted never goes
down, and what the last second of a killed worker held is all that can be lost. The memory has no
name, so nothing is left of it when the processes are gone.
"""

import math
import multiprocessing
import time
import zlib
from collections.abc import Callable, MutableSequence, Sequence
from typing import NamedTuple, cast

MAX_ROW_VALUES = 4096
LIVE_SECONDS = 10.0
"""A worker that has not written for so long counts as gone, and so does what it has now."""

_HEAD_VALUES = 2
"""When the row was written, on the clock that all processes share; and the names of its values."""

Cells = MutableSequence[float]


def new_cells(workers: int) -> Cells:
    """Make the shared memory; it can be passed to a process when that is started."""
    cells = multiprocessing.get_context("spawn").RawArray("d", workers * MAX_ROW_VALUES)
    return cast(Cells, cells)


class Row(NamedTuple):
    """The place of one worker."""

    cells: Cells
    place: int

    @classmethod
    def alone(cls) -> "Row":
        """Return the place of a process that has no others beside it."""
        return cls([0.0] * MAX_ROW_VALUES, 0)

    @classmethod
    def of_worker(cls, cells: Cells) -> "Row":
        """Return the place of this process, which is a worker; its name ends with its number."""
        return cls(cells, int(multiprocessing.current_process().name.rpartition("-")[2]))


class Figures(NamedTuple):
    """What a worker has to tell."""

    counters: list[float]
    """What only grows."""
    gauges: list[float]
    """What is the case now."""


class Sheet:
    """The rows of all workers, as one of them sees them.

    ``names``: spells what the values are; rows of a worker that counts other things are left out.
    """

    def __init__(self, row: Row, names: Sequence[str], read: Callable[[], Figures]) -> None:
        self._cells, self._index = row
        self._kind = float(zlib.crc32("\n".join(names).encode()))
        self._read = read
        now = read()
        self._counter_count, self._gauge_count = len(now.counters), len(now.gauges)
        if self._row_length > MAX_ROW_VALUES:
            raise ValueError(f"{self._row_length} figures are more than {MAX_ROW_VALUES}")
        _, kind, *values = self._row(self._index)
        self._before = [0.0] * self._counter_count
        """What was counted in this place before this worker."""
        if kind == self._kind:
            self._before = values[: self._counter_count]

    @property
    def _row_length(self) -> int:
        return _HEAD_VALUES + self._counter_count + self._gauge_count

    def _row(self, index: int) -> list[float]:
        first = index * MAX_ROW_VALUES
        return list(self._cells[first : first + self._row_length])

    def write(self, *, is_last: bool = False) -> None:
        """Write this worker's row; the last time, what is the case now is no more."""
        counters, gauges = self._read()
        counted = [before + now for before, now in zip(self._before, counters, strict=True)]
        written_at = -math.inf if is_last else time.monotonic()
        first = self._index * MAX_ROW_VALUES
        row = [written_at, self._kind, *counted, *gauges]
        self._cells[first : first + len(row)] = row

    def total(self) -> tuple[Figures, int]:
        """Return the sums over all workers, and how many of them live."""
        counters, gauges = [0.0] * self._counter_count, [0.0] * self._gauge_count
        live = 0
        now = time.monotonic()
        for index in range(len(self._cells) // MAX_ROW_VALUES):
            written_at, kind, *values = self._row(index)
            if kind != self._kind:
                continue
            counters = [a + b for a, b in zip(counters, values, strict=False)]
            if now - written_at < LIVE_SECONDS:
                live += 1
                own = values[self._counter_count :]
                gauges = [a + b for a, b in zip(gauges, own, strict=True)]
        return Figures(counters, gauges), live
