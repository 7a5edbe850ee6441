"""How the answer to a poll is read from the log of all events."""

from restmq.broker.log import Logs
from restmq.broker.log_entry import Page, Query
from restmq.endpoints.log_stream import EncodeOnce
from restmq.endpoints.rse_events import EVENTS, Reading


class Reader:
    """Reads what polls ask for.

    A client's own events are left out here, not by the log: so clients that ask for the same,
    and differ in who they are, share one answer of the log, and what is made of it.
    """

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._sources = EncodeOnce(_sources_of)

    async def read(self, reading: Reading) -> Page:
        """Return the page in the order that is wanted."""
        query, source = reading.query, reading.without_source
        if not reading.newest_first:
            return await self._read_without(query, source)
        if reading.last_known_id:
            # Mostly little is new, and what is known already need not be read.
            page = await self._read_without(query, source)
            if page.is_complete:
                return page._replace(entries=page.entries[::-1])
        query = query._replace(start=None, newest_first=True)
        page = await self._read_without(query, source)
        unknown = [entry for entry in page.entries if entry.number > reading.last_known_id]
        return page._replace(entries=unknown)

    def without(self, page: Page, source: bytes) -> Page:
        """Return the page without the events of one source; empty is none."""
        if not source or source not in self._sources(page):
            return page
        return page._replace(entries=[entry for entry in page.entries if entry.source != source])

    async def _read_without(self, query: Query, source: bytes) -> Page:
        page = await self._logs.read(EVENTS, query)
        others = self.without(page, source)
        left_out = len(page.entries) - len(others.entries)
        if page.is_complete or not left_out:
            return others
        # Where own events fill pages, the log leaves them out: it can pass over many at once.
        rest = query._replace(
            start=page.position, limit=query.limit - len(others.entries), without_source=source
        )
        page = await self._logs.read(EVENTS, rest)
        return page._replace(entries=others.entries + page.entries)


def _sources_of(page: Page) -> bytes:
    return b"\0".join({entry.source for entry in page.entries})
