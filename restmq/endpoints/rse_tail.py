"""The newest events of the log, kept in memory by each node, so that most polls are answered there.

Nothing is answered from memory alone: every poll has the log read beyond the newest event that is
kept, after it arrived, so it misses nothing that was acknowledged before, on whichever node. All
polls of one round trip share that read, as they ask for the same.

That read begins with the newest event itself, the anchor. If it comes back as it was, the log is
the one that the events were read from, and what lies before it has not changed but for what has
expired: events only ever go by that. Otherwise, as after Redis lost its data and the ids began
again, everything here is forgotten.

``floor`` is the position from which on nothing is missing here: what is older is asked of the log.
"""

import asyncio
import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from restmq.broker.log import Logs
from restmq.broker.log_entry import MAX_PAGE_BYTES, Entry, Log, Page, Query, Scope, line_of
from restmq.broker.log_ids import id_of_number, number_of_id
from restmq.endpoints.rse_events import EVENTS, Reading, split

MAX_EVENTS = 20_000
MAX_BYTES = 64 * 1024 * 1024
"""What is kept at the most: so many events, and so many bytes of what was stored."""

READ_EVENTS = 1000
READ_BYTES = 1024 * 1024
"""What one read of the log brings in at the most; one event may pass it."""

MAX_PASSED_OVER = 500
"""Events that one poll looks at in vain; the log can pass over many at once."""

_EVENT_BYTES = 500
"""What an event takes beside its bytes, about."""


class Event(NamedTuple):
    """An event, ready to be sent but for its age."""

    number: int
    path: bytes
    source: bytes
    published: float
    expires: float
    size_bytes: int
    head: bytes
    rest: bytes

    def is_live(self, now: float) -> bool:
        """Return whether its time is not over, by Redis's clock."""
        return not self.expires or self.expires > now


class Tail:
    """The newest events of a log of events, as one node knows them."""

    def __init__(
        self,
        logs: Logs,
        log: Log = EVENTS,
        max_events: int = MAX_EVENTS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._logs = logs
        self._log = log
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._is_growing = False
        self._resets = 0
        self._clear()

    def _clear(self) -> None:
        self._resets += 1
        self._all = _Run()
        self._paths: dict[bytes, _Run] = {}
        self._size_bytes = 0
        self._floor: int | None = None
        self._is_full = False
        self._query = self._query_after(0)
        self._page: Page | None = None

    @property
    def floor(self) -> int | None:
        """After this number everything is here; None: nothing has been read yet."""
        return self._floor

    def covers(self, reading: Reading) -> bool:
        """Return whether it is worth asking here: what was read before reaches back so far."""
        return self._floor is not None and (
            self._floor <= reading.last_known_id or reading.newest_first
        )

    def refresh(self) -> "tuple[Query, asyncio.Future[Page]]":
        """Have the log read for what is new; give both to ``find`` when the future is done.

        Raises, or the future does, what ``Logs.read_once`` raises.
        """
        query = self._query
        return query, self._logs.read_once(self._log, query)

    def find(self, reading: Reading, query: Query, page: Page) -> list[Event] | None:
        """Return what the poll finds, in the order it wants; None: the log must be asked.

        ``query`` and ``page`` are what a ``refresh`` came to that was begun with the poll.
        """
        if page is not self._page and not self._take(query, page):
            return None
        floor, last_known_id = self._floor, reading.last_known_id
        if floor is None:
            return None
        reaches_back = floor <= last_known_id
        if not (page.is_complete if reading.newest_first else reaches_back):
            return None
        found, is_end = _select(self._candidates(reading), reading, page.now)
        if is_end and not (page.is_complete and reaches_back):
            return None
        return found

    async def grow(self, reading: Reading) -> None:
        """Read one page more of older events, if this poll lacks them and there is room.

        Only one does so at a time. Raises what ``Logs.read_once`` raises.
        """
        floor, resets = self._floor, self._resets
        if self._is_growing or self._is_full:
            return
        if floor is not None and floor <= reading.last_known_id:
            return
        self._is_growing = True
        start = None if floor is None else id_of_number(floor)
        query = Query(READ_EVENTS, start, True, newest_first=True, max_bytes=READ_BYTES)
        try:
            page = await self._logs.read_once(self._log, query)
        finally:
            self._is_growing = False
        if (floor, resets) == (self._floor, self._resets):  # else it does not fit any more
            self._take_older(page)

    def _query_after(self, number: int) -> Query:
        """The read that brings in what is new, and the anchor if there is one."""
        return Query(READ_EVENTS, id_of_number(number), True, max_bytes=READ_BYTES)

    def _take(self, query: Query, page: Page) -> bool:
        """Take in what the log was read for; returns False if nothing here is certain any more."""
        if self._floor is None:
            return False
        assert query.start is not None
        anchor = number_of_id(query.start)
        # Without an anchor the read began with the beginning, and nothing may be missing here.
        is_known = bool(anchor) or self._floor == 0
        kept = self._all.events[self._all.after(anchor - 1) :]
        new = _beyond(kept, page, bool(anchor)) if is_known else None
        if new is None:
            self._clear()
            return False
        self._page = page
        for entry in new:
            self._add(_event_of(entry))
        self._discard(page.now)
        return True

    def _take_older(self, page: Page) -> None:
        events = [_event_of(entry) for entry in reversed(page.entries)]
        by_path: dict[bytes, list[Event]] = {}
        for event in events:
            by_path.setdefault(event.path, []).append(event)
            self._size_bytes += event.size_bytes
        for path, older in by_path.items():
            self._paths.setdefault(path, _Run()).prepend(older)
        self._all.prepend(events)
        if page.is_complete or page.position is None:
            self._floor = 0
        else:
            self._floor = number_of_id(page.position) - 1
        self._discard(page.now)
        self._anchor()

    def _add(self, event: Event) -> None:
        self._all.append(event)
        path = self._paths.get(event.path)
        if path is None:
            path = self._paths[event.path] = _Run()
        path.append(event)
        self._size_bytes += event.size_bytes

    def _discard(self, now: float) -> None:
        """Forget the oldest events: those that have expired, and those beyond the limits."""
        while self._all:
            oldest = self._all.events[self._all.first]
            if oldest.is_live(now):
                if len(self._all) <= self._max_events and self._size_bytes <= self._max_bytes:
                    break
                self._floor = oldest.number
                self._is_full = True
            self._all.drop_first()
            self._size_bytes -= oldest.size_bytes
            path = self._paths[oldest.path]
            path.drop_first()
            if not path:
                del self._paths[oldest.path]
        self._anchor()

    def _anchor(self) -> None:
        """Have the next reads begin with the newest event."""
        if not self._all and self._floor:
            self._clear()  # nothing is left to tell this log from another by
            return
        number = self._all.numbers[-1] if self._all else 0
        start = id_of_number(number)
        if self._query.start != start:
            self._query = self._query_after(number)

    def _candidates(self, reading: Reading) -> Iterator[Event]:
        """Go through all that the poll may find, in the order it wants."""
        query, position = reading.query, reading.last_known_id
        is_descending = reading.newest_first
        if query.scope is Scope.EXACT:
            run = self._paths.get(query.path)
            return iter(()) if run is None else run.go(position, is_descending)
        if query.scope is Scope.PARENTS:
            runs = [self._paths[path] for path in line_of(query.path) if path in self._paths]
            ways = [run.go(position, is_descending) for run in runs]
            return heapq.merge(*ways, reverse=is_descending)  # numbers differ, so they decide
        return self._all.go(position, is_descending)


class _Run:
    """Events in the order of their numbers, some of the first of which are gone."""

    __slots__ = ("events", "first", "numbers")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.events: list[Event] = []
        self.first = 0

    def __len__(self) -> int:
        return len(self.events) - self.first

    def append(self, event: Event) -> None:
        self.numbers.append(event.number)
        self.events.append(event)

    def prepend(self, events: list[Event]) -> None:
        self.numbers[: self.first] = [event.number for event in events]
        self.events[: self.first] = events
        self.first = 0

    def drop_first(self) -> None:
        self.first += 1
        if self.first * 2 > len(self.events):
            del self.numbers[: self.first], self.events[: self.first]
            self.first = 0

    def after(self, number: int) -> int:
        """Return where the events after this number begin."""
        return bisect_right(self.numbers, number, self.first)

    def go(self, position: int, is_descending: bool) -> Iterator[Event]:
        """Go through the events after a position, from the oldest or from the newest on."""
        events, start = self.events, self.after(position)
        way = range(start, len(events))
        return map(events.__getitem__, reversed(way) if is_descending else way)


def _select(
    candidates: Iterable[Event], reading: Reading, now: float
) -> tuple[list[Event] | None, bool]:
    """Return what a poll finds among these, and whether there were no more.

    It is None where too much would have to be looked at, or sent, at once.
    """
    limit, _, _, _, scope, path, *_ = reading.query
    source = reading.without_source or None
    below = path + b"/" if scope is Scope.SUBTREE else None
    found: list[Event] = []
    size_bytes, attempts = 0, limit + MAX_PASSED_OVER
    for event in candidates:
        attempts -= 1
        if attempts < 0:
            return None, False
        _, own_path, own_source, _, expires, own_bytes, _, _ = event
        if own_source == source or (expires and expires <= now):
            continue
        if below is not None and own_path != path and not own_path.startswith(below):
            continue
        size_bytes += own_bytes
        if size_bytes > MAX_PAGE_BYTES:
            return None, False
        found.append(event)
        if len(found) == limit:
            return found, False
    return found, True


def _beyond(kept: Sequence[Event], page: Page, has_anchor: bool) -> list[Entry] | None:
    """Return the entries of a page after those that are kept; None if they contradict each other.

    ``kept`` is what is kept of the range that was read; with an anchor, both must begin with it.
    """
    entries = page.entries
    if has_anchor and not (kept and entries and kept[0].number == entries[0].number):
        return None
    live = [event for event in kept if event.is_live(page.now)]
    if not all(map(_is_same, live, entries)) or (page.is_complete and len(live) > len(entries)):
        return None
    return entries[len(live) :]


def _is_same(event: Event, entry: Entry) -> bool:
    """Return whether it is that very event, and no other that was given its number."""
    return (
        event.number == entry.number
        and event.published == entry.published
        and event.expires == entry.expires
    )


def _event_of(entry: Entry) -> Event:
    head, published, rest = split(entry.id, entry.record)
    return Event(
        entry.number,
        entry.path,
        entry.source,
        published,
        entry.expires,
        len(entry.record) + _EVENT_BYTES,
        head,
        rest,
    )


def encode_events(events: Iterable[Event], now: float) -> bytes:
    """Return events as JSON, with commas in between; ``now`` is the time on Redis's clock."""
    return b",".join(
        [
            b"%b%d%b" % (head, max(now - published, 0), rest)
            for _, _, _, published, _, _, head, rest in events
        ]
    )
