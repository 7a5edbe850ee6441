"""The live part of the dashboard: one task a node samples what all open pages show.

It runs while pages are open, and asks about each queue once however many pages show it. What pages
with equal views get is encoded once. A page that reads slowly gets the newest sample, not all.
"""

import asyncio
import contextlib
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence, Set

from restmq.broker.broker import Broker
from restmq.broker.census import Overview
from restmq.broker.stats import QueueStats
from restmq.codecs.sse import encode_event
from restmq.endpoints.ui_listing import (
    ONE,
    SEARCH,
    View,
    figures_of,
    figures_of_all,
    find_names,
    row_key,
    version_of,
)
from restmq.endpoints.web import encode_json
from restmq.errors import Overloaded, Unavailable

logger = logging.getLogger(__name__)

SAMPLE_SECONDS = 2.0
"""How often open pages get new figures."""

MAX_STREAMS = 100
"""Pages that may be open live on one node."""

KEPT_SAMPLES = 60
"""Points of a chart: two minutes."""

SAMPLED_QUEUES = 250
"""Queues that one sample asks about. If open pages show more, they take turns."""

FRESH_QUEUES = 1000
"""With more queues than this, the census is too old to tell a single queue's figures."""

SEARCH_SECONDS = 20.0
"""How often a search is repeated for pages that show what it found, if there are not too many."""

_MAX_HISTORIES = 2000
_MAX_GAP_SECONDS = 5 * SAMPLE_SECONDS

Rates = tuple[float, float]
"""Messages in and out, a second."""


class _History:
    """The latest points of one chart."""

    __slots__ = ("points", "sampled_at")

    def __init__(self) -> None:
        self.points: deque[Rates] = deque(maxlen=KEPT_SAMPLES)
        self.sampled_at = 0.0

    def add(self, rates: Rates, now: float) -> None:
        if now - self.sampled_at > _MAX_GAP_SECONDS:  # what lies before is no part of this chart
            self.points.clear()
        self.points.append((round(rates[0], 2), round(rates[1], 2)))
        self.sampled_at = now


class Watcher:
    """One open page."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._event = b""
        self._changed = asyncio.Event()

    def tell(self, event: bytes) -> None:
        """Have the page told next; what it was not told yet is skipped."""
        self._event = event
        self._changed.set()

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield what to send, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            yield self._event


class Sampler:
    """Samples for all open pages of a node."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._watchers: set[Watcher] = set()
        self._task: asyncio.Task[None] | None = None
        self._histories: dict[str, _History] = {}
        """Charts by queue, the one sampled last at the end; the empty name is all together."""
        self._stats: dict[str, QueueStats] = {}
        """What is known of the queues that open pages show."""
        self._searches: dict[View, tuple[float, Sequence[str]]] = {}
        """What searches found, and when."""
        self._turn = 0

    @property
    def watcher_count(self) -> int:
        """Return how many pages are open."""
        return len(self._watchers)

    @contextlib.asynccontextmanager
    async def watch(self, view: View) -> AsyncIterator[Watcher]:
        """Count a page in; raises ``Overloaded`` when there are too many."""
        if len(self._watchers) >= MAX_STREAMS:
            raise Overloaded(f"at most {MAX_STREAMS} pages of a node can be live at a time")
        watcher = Watcher(view)
        self._watchers.add(watcher)
        if self._task is None:
            self._task = self._loop.create_task(self._run(), name="dashboard-sampler")
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)
            if not self._watchers:
                await self._stop()

    def history(self, queue: str = "") -> list[Rates]:
        """Return the latest rates of a queue, or of all together, as far as they were sampled."""
        found = self._histories.get(queue)
        if found is None or self._loop.time() - found.sampled_at > _MAX_GAP_SECONDS:
            return []
        return list(found.points)

    async def _stop(self) -> None:
        task, self._task = self._task, None
        self._stats.clear()
        self._searches.clear()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        """Sample, for ever."""
        while True:
            due = self._loop.time() + SAMPLE_SECONDS
            try:
                await self._sample()
            except Unavailable as error:
                self._tell_all(_problem(str(error)))
            except Exception:
                logger.exception("the dashboard could not be kept up to date")
                self._tell_all(_problem("something failed; the server's log says what"))
            await asyncio.sleep(max(due - self._loop.time(), SAMPLE_SECONDS / 2))

    def _tell_all(self, event: bytes) -> None:
        for watcher in self._watchers:
            watcher.tell(event)

    async def _sample(self) -> None:
        overview = await self._broker.census.overview()
        views = {watcher.view for watcher in self._watchers}
        self._forget_searches(views)
        shown = await self._names_of(overview, views)
        names = list(dict.fromkeys(name for found in shown.values() for name in found))
        await self._ask(overview, names, {view.text for view in views if view.kind == ONE})
        self._remember(overview, names)
        events = {view: self._event(overview, view, found) for view, found in shown.items()}
        for watcher in self._watchers:
            event = events.get(watcher.view)  # it may have come meanwhile
            if event is not None:
                watcher.tell(event)

    def _forget_searches(self, views: Set[View]) -> None:
        self._searches = {view: each for view, each in self._searches.items() if view in views}

    async def _names_of(
        self, overview: Overview, views: Iterable[View]
    ) -> dict[View, Sequence[str]]:
        """Return which queues views show. A search takes long, so one of them is made at a time."""
        shown: dict[View, Sequence[str]] = {}
        due: list[tuple[float, View]] = []
        for view in views:
            if view.kind != SEARCH:
                shown[view] = (await find_names(self._broker, overview, view))[0]
                continue
            found_at, names = self._searches.get(view, (-math.inf, None))
            if self._loop.time() - found_at > SEARCH_SECONDS:
                due.append((found_at, view))
            if names is not None:
                shown[view] = names
        if due:
            _, view = min(due)
            names, _ = await find_names(self._broker, overview, view)
            self._searches[view] = (self._loop.time(), names)
            shown[view] = names
        return shown

    async def _ask(self, overview: Overview, names: Sequence[str], exact: Set[str]) -> None:
        """Learn the figures of queues: those that the census does not tell, or some of them.

        Those of ``exact`` queues are compared with what their pages were made of, for which the
        census is not good enough: it counts what has expired until that is cleared away.
        """
        known: dict[str, QueueStats] = {}
        if overview.totals.queues <= FRESH_QUEUES:
            found = (*overview.largest, *overview.busiest)
            known = {stats.name: stats for stats in found if stats.name not in exact}
        unknown = [name for name in names if name not in known]
        if len(unknown) > SAMPLED_QUEUES:
            self._turn %= len(unknown)
            unknown = (unknown[self._turn :] + unknown[: self._turn])[:SAMPLED_QUEUES]
            self._turn += SAMPLED_QUEUES
        known.update({stats.name: stats for stats in await self._broker.stats_of(unknown)})
        before = self._stats
        self._stats = {
            name: stats for name in names if (stats := known.get(name) or before.get(name))
        }

    def _remember(self, overview: Overview, names: Sequence[str]) -> None:
        """Add a point to each chart. Others stay for a while: one may go to a page and back."""
        rates = {"": (overview.totals.rate_in, overview.totals.rate_out)}
        for name in names[: _MAX_HISTORIES // 2]:
            stats = self._stats.get(name)
            if stats is not None:
                rates[name] = (stats.rate_in, stats.rate_out)
        now = self._loop.time()
        for name, point in rates.items():
            history = self._histories.pop(name, None) or _History()
            history.add(point, now)
            self._histories[name] = history
        while len(self._histories) > _MAX_HISTORIES:
            del self._histories[next(iter(self._histories))]

    def _event(self, overview: Overview, view: View, names: Sequence[str]) -> bytes:
        if view.kind == ONE:
            return self._queue_event(view.text)
        totals = overview.totals
        rows = {}
        for name in names:
            stats = self._stats.get(name)
            if stats is not None:
                rows[row_key(name)] = {
                    "figures": figures_of(stats),
                    "rates": (stats.rate_in, stats.rate_out),
                    "paused": not stats.started,
                }
        return _event(
            {
                "figures": figures_of_all(totals, overview.is_complete),
                "rates": (totals.rate_in, totals.rate_out),
                "rows": rows,
                "version": version_of(names),
            }
        )

    def _queue_event(self, queue: str) -> bytes:
        stats = self._stats.get(queue) or QueueStats(queue, 0, True, None, 0)
        return _event(
            {
                "figures": figures_of(stats),
                "rates": (stats.rate_in, stats.rate_out),
                "paused": not stats.started,
                "version": queue_version(stats),
            }
        )


def queue_version(stats: QueueStats) -> str:
    """Return what tells whether what a queue's page lists has changed.

    While messages come and go the numbers may stay as they are; a page goes by the rates then.
    """
    held = (stats.length, stats.leased, stats.delayed, stats.dead, stats.consumers)
    return version_of(map(str, (*enumerate(held), stats.started, stats.policy)))


def _event(fields: dict[str, object]) -> bytes:
    return encode_event(encode_json(fields), event="sample")


def _problem(text: str) -> bytes:
    return encode_event(encode_json({"problem": text}), event="problem")
