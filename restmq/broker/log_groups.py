"""Operations on one log that arrive during a round trip, and become one call of one script."""

import asyncio
import struct
from collections.abc import Callable, Sequence

from restmq.broker.commit import Group
from restmq.broker.log_entry import Appended, Entry, Log, Page, Query, other_attributes
from restmq.broker.log_ids import IdKind, make_suffix
from restmq.broker.log_listing import Registration
from restmq.broker.log_scripts import LogScripts
from restmq.broker.scripts import Argument, Call, Reply
from restmq.errors import RestMQError

_DOUBLE = struct.Struct(">d")
_pack_number = struct.Struct(">Q").pack


class AppendGroup(Group):
    """Appends to one log. A publisher that went away meanwhile has its entries stored anyway."""

    def __init__(
        self,
        scripts: LogScripts,
        log: Log,
        expected: bytes | None,
        register: Callable[[Log], Registration],
    ) -> None:
        self._scripts = scripts
        self._log = log
        self._expected = expected
        self._register = register
        self.registration: Registration | None = None
        """What must have come to pass beside the call before anyone is told of success."""
        self._suffix = make_suffix() if log.ids is IdKind.TIME else b""
        self._words: list[Argument] = []
        self._singles: list[tuple[int, asyncio.Future[Appended]]] = []
        self._several: list[tuple[int, int, asyncio.Future[list[Appended]]]] = []
        """Of each operation, how many entries of the call come before it."""
        self._count = 0

    def append(self, words: Sequence[Argument], future: asyncio.Future[Appended]) -> None:
        """Add one more entry, whose outcome ``future`` gets."""
        self._words += words
        self._singles.append((self._count, future))
        self._count += 1

    def append_all(
        self, words: Sequence[Argument], count: int, future: asyncio.Future[list[Appended]]
    ) -> None:
        """Add one more operation of ``count`` entries, whose outcome ``future`` gets."""
        self._words += words
        self._several.append((self._count, count, future))
        self._count += count

    def call(self, batch: str) -> Call:
        """Make the call."""
        return self._scripts.append(self._log, self._words, self._suffix, self._expected)

    def settle(self, reply: Reply) -> None:
        """Give each operation its ids."""
        if len(reply) == 1:
            self.fail(other_attributes(self._log, reply[0]))
            return
        if reply[2] and self._expected is None:
            # Whenever it was registered, somebody may have deleted it since.
            self.registration = self._register(self._log)
        if self.registration is None:
            self._tell(reply)
        else:
            self.registration.add_done_callback(lambda done: self._settle_registered(done, reply))

    def _settle_registered(self, registration: Registration, reply: Reply) -> None:
        error = None if registration.cancelled() else registration.exception()
        if isinstance(error, RestMQError):
            self.fail(error)
        else:
            self._tell(reply)

    def _tell(self, reply: Reply) -> None:
        first, published_bytes, _ = reply
        base = int.from_bytes(first, "big")
        published: float = _DOUBLE.unpack(published_bytes)[0]
        suffix = self._suffix
        for before, single in self._singles:
            if not single.done():
                single.set_result(Appended(_pack_number(base + before) + suffix, published))
        for before, count, future in self._several:
            if not future.done():
                numbers = range(base + before, base + before + count)
                future.set_result(
                    [Appended(_pack_number(number) + suffix, published) for number in numbers]
                )

    def fail(self, error: RestMQError) -> None:
        """Tell each operation that it failed."""
        for _, single in self._singles:
            if not single.done():
                single.set_exception(error)
        for _, _, future in self._several:
            if not future.done():
                future.set_exception(error)


class ReadGroup(Group):
    """Reads of one log that ask for the same: they share one answer, which nobody may change."""

    def __init__(self, scripts: LogScripts, log: Log, query: Query) -> None:
        self._scripts = scripts
        self._log = log
        self._query = query
        self._futures: list[asyncio.Future[Page]] = []

    def append(self, future: asyncio.Future[Page]) -> None:
        """Add one more reader."""
        self._futures.append(future)

    def call(self, batch: str) -> Call:
        """Make the call."""
        return self._scripts.read(self._log, self._query)

    def settle(self, reply: Reply) -> None:
        """Give everyone the page."""
        page = page_of(self._query.partition, reply)
        for future in self._futures:
            if not future.done():
                future.set_result(page)

    def fail(self, error: RestMQError) -> None:
        """Tell each reader that it failed."""
        for future in self._futures:
            if not future.done():
                future.set_exception(error)


def page_of(partition: int, reply: Reply) -> Page:
    """Read the reply of a script that reads a range."""
    entries = [
        Entry(partition, field[1:], record)
        for field, record in zip(reply[3::2], reply[4::2], strict=True)
    ]
    return Page(entries, reply[0][1:] or None, reply[1] == 1, _DOUBLE.unpack(reply[2])[0])
