"""Figures over many queues: what they add up to, and which of them are the largest and busiest."""

import functools
import heapq
from collections.abc import Callable, Iterable
from typing import NamedTuple

from restmq.broker.stats import QueueStats

KEPT_QUEUES = 100
"""So many of the largest queues are told one by one, and so many of the busiest."""


class Totals(NamedTuple):
    """Sums over all known queues."""

    queues: int
    ready: int
    leased: int
    delayed: int
    dead: int
    consumers: int
    """Streaming consumers; one that reads two queues counts twice."""
    oldest_age_seconds: float | None
    """How long ago the oldest ready message of all was published; None if none is ready."""
    rate_in: float
    rate_out: float
    """Messages a second, lately."""
    expired_leases: int = 0
    died: int = 0
    """Leases that ran out and messages that became dead letters, since the queues were made."""


class Overview(NamedTuple):
    """What all queues look like together."""

    taken_at: float
    """Redis's time, in seconds since the epoch, when the walk over all queues ended."""
    is_complete: bool
    """False until a first walk has seen every queue: then the totals are those of a part."""
    totals: Totals
    largest: tuple[QueueStats, ...]
    """Those with most messages (ready, leased and delayed) first, at most ``KEPT_QUEUES``."""
    busiest: tuple[QueueStats, ...]
    """Those with the highest rates, in and out together, first; only those with a rate."""


def depth(stats: QueueStats) -> int:
    """Return how many messages are in a queue, dead ones not counted."""
    return stats.length + stats.leased + stats.delayed


def rate(stats: QueueStats) -> float:
    """Return how many messages a second come and go."""
    return stats.rate_in + stats.rate_out


class Tally:
    """Counts queues one after the other, and keeps only those that stand out."""

    def __init__(self) -> None:
        self.queues = 0
        self._ready = self._leased = self._delayed = self._dead = self._consumers = 0
        self._oldest: float | None = None
        self._rate_in = self._rate_out = 0.0
        self._expired_leases = self._died = 0
        self._largest = _Top(depth, -1)
        self._busiest = _Top(rate)

    def add(self, stats: QueueStats) -> None:
        """Count one queue more."""
        self.queues += 1
        self._ready += stats.length
        self._leased += stats.leased
        self._delayed += stats.delayed
        self._dead += stats.dead
        self._consumers += stats.consumers
        self._oldest = _older(self._oldest, stats.oldest_age_seconds)
        self._rate_in += stats.rate_in
        self._rate_out += stats.rate_out
        self._expired_leases += stats.expired_leases
        self._died += stats.died
        self._largest.add(stats)
        self._busiest.add(stats)

    def overview(
        self, taken_at: float, queues: int, is_complete: bool, previous: Overview | None = None
    ) -> Overview:
        """Return what was counted; ``queues``: how many there are.

        What can only grow is no less than in the ``previous`` overview.
        """
        least = previous.totals if previous is not None else None
        totals = Totals(
            queues,
            self._ready,
            self._leased,
            self._delayed,
            self._dead,
            self._consumers,
            self._oldest,
            self._rate_in,
            self._rate_out,
            max(self._expired_leases, least.expired_leases if least else 0),
            max(self._died, least.died if least else 0),
        )
        return Overview(
            taken_at, is_complete, totals, self._largest.sorted(), self._busiest.sorted()
        )


class _Top:
    """The queues that weigh most, of all that were added and weigh more than ``least``."""

    def __init__(self, weigh: Callable[[QueueStats], float], least: float = 0) -> None:
        self._weigh = weigh
        self._least = least
        self._heap: list[tuple[float, str, QueueStats]] = []

    def add(self, stats: QueueStats) -> None:
        """Keep a queue, each of which is added once, if it weighs more than one that is kept."""
        weight = self._weigh(stats)
        if weight <= self._least:
            return
        if len(self._heap) < KEPT_QUEUES:
            heapq.heappush(self._heap, (weight, stats.name, stats))
        elif weight > self._heap[0][0]:
            heapq.heapreplace(self._heap, (weight, stats.name, stats))

    def sorted(self) -> tuple[QueueStats, ...]:
        """Return those that are kept: heavier ones first, equal ones by name."""
        ordered = sorted(self._heap, key=lambda entry: (-entry[0], entry[1]))
        return tuple(stats for _, _, stats in ordered)


def refresh(overview: Overview, fresh: Iterable[QueueStats], queues: int) -> Overview:
    """Return an overview with newer figures of some queues in it.

    The totals follow those queues that are kept one by one; what the others add to them is as old
    as the walk that counted them. If the oldest message of all was in one that is kept, and is
    gone, the oldest of those that are kept stands for it until the next walk.
    """
    kept = {stats.name: stats for stats in (*overview.largest, *overview.busiest)}
    oldest_before = _oldest(kept.values())
    totals = overview.totals
    ready, leased, delayed, dead = totals.ready, totals.leased, totals.delayed, totals.dead
    consumers, rate_in, rate_out = totals.consumers, totals.rate_in, totals.rate_out
    expired_leases, died = totals.expired_leases, totals.died
    for new in fresh:
        old = kept.get(new.name)
        kept[new.name] = new
        if old is not None:
            ready += new.length - old.length
            leased += new.leased - old.leased
            delayed += new.delayed - old.delayed
            dead += new.dead - old.dead
            consumers += new.consumers - old.consumers
            rate_in += new.rate_in - old.rate_in
            rate_out += new.rate_out - old.rate_out
            expired_leases += max(new.expired_leases - old.expired_leases, 0)
            died += max(new.died - old.died, 0)
    oldest = _oldest(kept.values())
    if oldest_before != totals.oldest_age_seconds:  # it is in one of the others
        oldest = _older(oldest, totals.oldest_age_seconds)
    largest, busiest = _Top(depth, -1), _Top(rate)
    for stats in kept.values():
        largest.add(stats)
        busiest.add(stats)
    return Overview(
        overview.taken_at,
        overview.is_complete,
        Totals(
            queues,
            max(ready, 0),
            max(leased, 0),
            max(delayed, 0),
            max(dead, 0),
            max(consumers, 0),
            oldest,
            max(rate_in, 0.0),
            max(rate_out, 0.0),
            expired_leases,
            died,
        ),
        largest.sorted(),
        busiest.sorted(),
    )


def _oldest(queues: Iterable[QueueStats]) -> float | None:
    return functools.reduce(_older, (stats.oldest_age_seconds for stats in queues), None)


def _older(age: float | None, other: float | None) -> float | None:
    if age is None or other is None:
        return other if age is None else age
    return max(age, other)
