"""What ``restmq top`` shows: the figures of queues at one moment, and how their rates went."""

import fnmatch
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from restmq.cli.listing import stats_pages
from restmq.http_client import HttpClient

LARGEST_SHARE = 0.2
"""Of the time between two looks, how much a look may take of the server's."""

HISTORY_SAMPLES = 20
"""How many rates a small chart shows."""


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue at one moment; rates are messages a second."""

    name: str
    ready: int
    leased: int
    delayed: int
    dead: int
    consumers: int
    oldest_age_seconds: float | None
    rate_in: float
    rate_out: float
    is_stopped: bool

    @property
    def depth(self) -> int:
        """All messages that are to be delivered some time."""
        return self.ready + self.leased + self.delayed

    @property
    def rate(self) -> float:
        """What comes and what goes."""
        return self.rate_in + self.rate_out


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all queues that were looked at; the age is that of the oldest message of all."""

    queues: int
    ready: int
    leased: int
    delayed: int
    dead: int
    consumers: int
    oldest_age_seconds: float | None
    rate_in: float
    rate_out: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All queues that were looked at."""

    taken_at: float
    """On the clock of this machine, seconds since the epoch."""
    redis: str
    queues: tuple[QueueFigures, ...]
    is_complete: bool
    """Whether these are all; False where there are more than were to be looked at."""
    totals: Totals


Order = Callable[[QueueFigures], Any]

ORDERS: Mapping[str, Order] = {
    "rate": lambda each: (-each.rate, -each.depth, each.name),
    "depth": lambda each: (-each.depth, -each.rate, each.name),
    "age": lambda each: (-(each.oldest_age_seconds or 0.0), -each.depth, each.name),
    "dead": lambda each: (-each.dead, -each.depth, each.name),
    "consumers": lambda each: (-each.consumers, -each.rate, each.name),
    "name": lambda each: each.name,
}
"""How queues can be sorted; the most comes first."""


def take_snapshot(client: HttpClient, pattern: str, max_queues: int) -> Snapshot:
    """Ask the server for the queues whose name matches ``pattern``, the first of them by name.

    In the pattern * stands for any characters and ? for one. Raises RestMQError.
    """
    matches = re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).match
    found: list[QueueFigures] = []
    redis = ""
    for page in stats_pages(client, re.split(r"[*?]", pattern, maxsplit=1)[0]):
        redis = str(page.get("redis", ""))
        queues = page["queues"]
        entries = queues.items() if isinstance(queues, dict) else ()
        found += [_read(name, entry) for name, entry in entries if matches(name)]
        if len(found) > max_queues:
            break
    queues = tuple(found[:max_queues])
    return Snapshot(time.time(), redis, queues, len(found) <= max_queues, sum_up(queues))


def pause_after(interval_seconds: float, took_seconds: float) -> float:
    """Return how long to wait after a look that took so long, to be no burden to the server."""
    return max(interval_seconds, took_seconds / LARGEST_SHARE)


def _read(name: str, entry: Mapping[str, Any]) -> QueueFigures:
    age = entry.get("oldest_age")
    return QueueFigures(
        name=name,
        ready=_count(entry.get("ready", entry.get("len"))),
        leased=_count(entry.get("leased")),
        delayed=_count(entry.get("delayed")),
        dead=_count(entry.get("dead")),
        consumers=_count(entry.get("consumers")),
        oldest_age_seconds=float(age) if isinstance(age, int | float) else None,
        rate_in=_rate(entry.get("rate_in")),
        rate_out=_rate(entry.get("rate_out")),
        is_stopped=entry.get("status") == 0,
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


def _rate(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def sum_up(queues: Iterable[QueueFigures]) -> Totals:
    """Add up the figures of queues."""
    listed = list(queues)
    ages = [each.oldest_age_seconds for each in listed if each.oldest_age_seconds is not None]
    return Totals(
        queues=len(listed),
        ready=sum(each.ready for each in listed),
        leased=sum(each.leased for each in listed),
        delayed=sum(each.delayed for each in listed),
        dead=sum(each.dead for each in listed),
        consumers=sum(each.consumers for each in listed),
        oldest_age_seconds=max(ages, default=None),
        rate_in=sum(each.rate_in for each in listed),
        rate_out=sum(each.rate_out for each in listed),
    )


@dataclass
class Rates:
    """The latest rates of one queue, or of all, the newest last."""

    incoming: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY_SAMPLES))
    outgoing: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY_SAMPLES))

    def add(self, rate_in: float, rate_out: float) -> None:
        """Remember one more sample; the oldest goes when there are too many."""
        self.incoming.append(rate_in)
        self.outgoing.append(rate_out)

    @property
    def is_flat(self) -> bool:
        """Whether nothing has moved for as long as is remembered."""
        return not any(self.incoming) and not any(self.outgoing)


class History:
    """How the rates went: of all queues together, and of each in which something moved."""

    def __init__(self) -> None:
        self.total = Rates()
        self._queues: dict[str, Rates] = {}

    def add(self, snapshot: Snapshot) -> None:
        """Remember the rates of one more snapshot, and forget queues that are gone or at rest."""
        self.total.add(snapshot.totals.rate_in, snapshot.totals.rate_out)
        kept = {}
        for each in snapshot.queues:
            rates = self._queues.get(each.name)
            if rates is None and not each.rate:
                continue
            rates = rates or Rates()
            rates.add(each.rate_in, each.rate_out)
            if not rates.is_flat:
                kept[each.name] = rates
        self._queues = kept

    def of(self, name: str) -> Rates:
        """Return the rates of one queue; none if nothing moved in it."""
        return self._queues.get(name) or Rates()
