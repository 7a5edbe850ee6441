"""What this node has done and how long it took, in plain numbers that cost next to nothing to keep.

A ``Measures`` holds those of one process since its start; they can be laid out in a row and read
back, so that the rows of several processes can be added up.
"""

import math
import secrets
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from struct import Struct

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Bounds of times in which somebody waits for the broker."""

LONG_SECONDS = (
    *(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30),
    *(60, 300, 900, 3600, 6 * 3600, 24 * 3600),
)
"""Bounds of times that depend on how busy consumers are."""

OPERATIONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)

MOST_CLOCK_SECONDS = 0.1
"""An answer of Redis's clock that took longer than this says too little."""

_PUBLISHED = Struct(">d")
_TICKS_PER_SECOND = 250
_TICKS = 2**24
"""A token tells its time in this many ticks, after which they begin anew: 18 hours."""

_NOT_LATER_TICKS = _TICKS - 3600 * _TICKS_PER_SECOND
"""Further back than this means that the clock that wrote the token is ahead of ours."""


class Histogram:
    """How often values were seen, by the smallest of ``bounds`` that is not below them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0.0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count one value, or as many that are all alike."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    def observe_between(self, first: float, last: float, count: int) -> None:
        """Count so many values that go from ``first`` to ``last`` in even steps, more or less.

        A single one is ``first``.
        """
        if count == 1:
            self.observe(first)
            return
        self.total += count * (first + last) / 2
        low, high = (first, last) if first <= last else (last, first)
        index, end = bisect_left(self.bounds, low), bisect_left(self.bounds, high)
        # The steps are even, so how many values a bound has below it follows from its place.
        counted = 0
        if index < end:
            steps_per_unit = (count - 1) / (high - low)
            for at in range(index, end):
                below = int((self.bounds[at] - low) * steps_per_unit) + 1
                self.counts[at] += below - counted
                counted = below
        self.counts[end] += count - counted


class Measures:
    """The numbers of one process; all of them only ever grow."""

    COUNTERS = (
        "published_messages",
        "taken_messages",
        "leased_messages",
        "streamed_messages",
        "acked_messages",
        "nacked_messages",
        "buried_messages",
        "extended_leases",
        "stale_settlements",
        "cut_off_consumers",
        "commit_bytes",
        "failed_commits",
    )
    HISTOGRAMS = (
        "publish_seconds",
        "delivery_seconds",
        "ack_seconds",
        "commit_seconds",
        "commit_operations",
    )
    __slots__ = (*COUNTERS, *HISTOGRAMS, "clock_ahead_seconds")

    def __init__(self) -> None:
        self.published_messages = 0.0
        """Messages that were stored."""
        self.taken_messages = 0.0
        self.leased_messages = 0.0
        self.streamed_messages = 0.0
        """Messages written to plain streams, once for each consumer."""
        self.acked_messages = 0.0
        self.nacked_messages = 0.0
        """Messages that a consumer gave back."""
        self.buried_messages = 0.0
        """Messages that a consumer made dead letters."""
        self.extended_leases = 0.0
        self.stale_settlements = 0.0
        """Settlements that came too late."""
        self.cut_off_consumers = 0.0
        """Streaming consumers that were cut off because they did not read."""
        self.commit_bytes = 0.0
        """Bodies that were sent to Redis, in bytes."""
        self.failed_commits = 0.0
        """Round trips whose outcome is unknown, or that found no Redis."""
        self.publish_seconds = Histogram(SECONDS)
        """From an add's arrival here to its being stored, for each add."""
        self.delivery_seconds = Histogram(LONG_SECONDS)
        """From the time a message was stored to the time it was handed out."""
        self.ack_seconds = Histogram(LONG_SECONDS)
        """From the time a message was leased to its ack."""
        self.commit_seconds = Histogram(SECONDS)
        """How long a round trip to Redis took."""
        self.commit_operations = Histogram(OPERATIONS)
        """How many operations shared a round trip."""
        self.clock_ahead_seconds = 0.0
        """By how much Redis's clock is ahead of this host's."""

    def note_clock(self, asked_at: float, redis_now: float) -> None:
        """Learn from an answer of Redis how far its clock is ahead of ours."""
        now = time.time()
        if 0 <= now - asked_at < MOST_CLOCK_SECONDS:
            self.clock_ahead_seconds = redis_now - (asked_at + now) / 2

    def note_published(self, messages: int, adds: int, first_at: float, last_at: float) -> None:
        """Count messages, and the adds that tried to bring them.

        ``first_at``, ``last_at``: when the first and the last of the adds came, on the monotonic
        clock.
        """
        self.published_messages += messages
        now = time.monotonic()
        self.publish_seconds.observe_between(now - first_at, now - last_at, adds)

    def note_taken(self, records: Sequence[bytes]) -> None:
        """Count messages that were taken, by their stored records."""
        self.taken_messages += len(records)
        self._note_delivery(records, self.redis_now())

    def note_leased(self, records: Sequence[bytes], redis_now: float) -> None:
        """Count messages that were leased at this time of Redis's clock."""
        self.leased_messages += len(records)
        self._note_delivery(records, redis_now)

    def note_streamed(self, records: Sequence[bytes], consumers: int) -> None:
        """Count messages that were written to so many plain streams."""
        self.streamed_messages += len(records) * consumers
        self._note_delivery(records, self.redis_now())

    def note_acks(self, tokens: Sequence[str]) -> None:
        """Count acks of the deliveries that tokens name; what was leased together shares one."""
        self.acked_messages += len(tokens)
        now = _ticks()
        last, count = "", 0
        for token in tokens:
            if token != last:
                if count:
                    self.ack_seconds.observe(_seconds_between(last, now), count)
                last, count = token, 0
            count += 1
        if count:
            self.ack_seconds.observe(_seconds_between(last, now), count)

    def redis_now(self) -> float:
        """Return about what Redis's clock says."""
        return time.time() + self.clock_ahead_seconds

    def _note_delivery(self, records: Sequence[bytes], redis_now: float) -> None:
        # The first and the last one stand for those between, which mostly lie between in time.
        if records:
            first = redis_now - _PUBLISHED.unpack_from(records[0])[0]
            last = redis_now - _PUBLISHED.unpack_from(records[-1])[0]
            self.delivery_seconds.observe_between(max(first, 0.0), max(last, 0.0), len(records))

    # Rows

    @classmethod
    def value_names(cls) -> list[str]:
        """Spell what ``values`` are."""
        names = list(cls.COUNTERS)
        empty = cls()
        for name, histogram in zip(cls.HISTOGRAMS, empty._histograms(), strict=True):
            names += [f"{name} {bound}" for bound in (*histogram.bounds, "more", "total")]
        return names

    def values(self) -> list[float]:
        """Lay all numbers out in a row."""
        row = [float(getattr(self, name)) for name in self.COUNTERS]
        for histogram in self._histograms():
            row += histogram.counts
            row.append(histogram.total)
        return row

    @classmethod
    def from_values(cls, row: Sequence[float]) -> "Measures":
        """Read a row, or the sum of several."""
        measures = cls()
        numbers = iter(row)
        for name in cls.COUNTERS:
            setattr(measures, name, next(numbers))
        for histogram in measures._histograms():
            histogram.counts = [next(numbers) for _ in histogram.counts]
            histogram.total = next(numbers)
        return measures

    def _histograms(self) -> Iterator[Histogram]:
        for name in self.HISTOGRAMS:
            yield getattr(self, name)


def new_token() -> str:
    """Return a name for deliveries: 16 hexadecimal digits that nobody can guess, and their time."""
    return f"{_ticks():06x}{secrets.token_hex(5)}"


def seconds_since(token: str) -> float:
    """Return how long ago a token was made, on this host's clock, up to 17 hours."""
    return _seconds_between(token, _ticks())


def _seconds_between(token: str, now: int) -> float:
    ticks = (now - int(token[:6], 16)) % _TICKS
    return 0.0 if ticks >= _NOT_LATER_TICKS else ticks / _TICKS_PER_SECOND


def _ticks() -> int:
    return math.floor(time.time() * _TICKS_PER_SECOND) % _TICKS
