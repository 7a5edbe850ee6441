"""Getting leases, and keeping them while their messages are in hand."""

import asyncio
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from restmq.client.connection import Connection, Pauses, Query
from restmq.client.messages import Fields, LeasedMessage
from restmq.client.settling import Settler, batches_of
from restmq.errors import InvalidInput, RestMQError, Unavailable
from restmq.http_client import Answer, decimal, queue_path
from restmq.http_leases import lease_seconds_of

WAIT_SECONDS = 20.0
"""How long one request waits for a message, before another does: proxies cut off longer ones."""

SHORTEST_LEASE_SECONDS = 1.0
EXTEND_TIMEOUT_SECONDS = 10.0
GIVE_BACK_SECONDS = 5.0

logger = logging.getLogger("restmq.client")


class LeaseTerms:
    """How the messages of one queue are leased.

    ``asked_seconds``: for how long; None as the queue's settings say. ``retry_delay``: after how
    many seconds a message comes again that a block failed to handle.
    """

    def __init__(
        self, connection: Connection, queue: str, asked_seconds: float | None, retry_delay: float
    ) -> None:
        self._connection = connection
        self.queue = queue
        self.asked_seconds = asked_seconds
        self.retry_delay = retry_delay
        self._known_seconds = asked_seconds

    @property
    def first_extension_seconds(self) -> float:
        """Return after how long to extend a lease for the first time."""
        return (self._known_seconds or SHORTEST_LEASE_SECONDS) / 3

    @property
    def parameter(self) -> str:
        """Return the lease as a parameter says it: empty is as the queue's settings say."""
        return "" if self.asked_seconds is None else decimal(self.asked_seconds)

    async def seconds(self) -> float:
        """Return how long a lease lasts; the server is asked once at the most."""
        if self._known_seconds is None:
            self._known_seconds = await self._look_up()
        return self._known_seconds

    async def _look_up(self) -> float:
        path = queue_path("/settings/", self.queue)
        try:
            answer = await self._connection.request("GET", path, timeout_seconds=1.0)
            return lease_seconds_of(answer.json_object())
        except Unavailable:
            raise
        except RestMQError:  # who may lease may not read settings
            return lease_seconds_of({})


@dataclass(eq=False)
class _Kept:
    message: LeasedMessage
    terms: LeaseTerms
    due: float
    """When to extend it next, on the event loop's clock."""


class Keeper:
    """Extends the leases of the messages that a client has in hand: one task for all of them.

    A lease is extended when a third of it has passed, so that it survives a server that is away
    for the rest.
    """

    def __init__(self, connection: Connection, settler: Settler) -> None:
        self._connection = connection
        self._settler = settler
        self._kept: dict[LeasedMessage, _Kept] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def leased(self, fields: Fields, terms: LeaseTerms) -> LeasedMessage:
        """Make a message of what the server says of it; it is not extended yet."""
        return LeasedMessage(fields, self._settler, TermHolder(self, terms), terms.retry_delay)

    def keep(self, message: LeasedMessage, terms: LeaseTerms) -> None:
        """Extend the lease of a message until ``drop``."""
        if message not in self._kept:
            due = message.held_from + terms.first_extension_seconds
            self._kept[message] = _Kept(message, terms, due)
            self._changed.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="restmq leases")

    def drop(self, message: LeasedMessage) -> None:
        """Extend it no more."""
        self._kept.pop(message, None)

    def note_extended(self, message: LeasedMessage, seconds: float) -> None:
        """Take into account that somebody else has extended a lease, for so long from now."""
        kept = self._kept.get(message)
        if kept is not None:
            kept.due = asyncio.get_running_loop().time() + seconds / 3
            self._changed.set()

    async def close(self) -> None:
        """Give back what is still in hand."""
        try:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            await self.give_back(list(self._kept), unseen=False)

    async def give_back(self, messages: Sequence[LeasedMessage], *, unseen: bool) -> None:
        """Give messages back; what cannot be given back in a few seconds runs out by itself.

        ``unseen``: nobody looked at them, so that it counts as no attempt.
        """
        for message in messages:
            self.drop(message)
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                for batch in batches_of(messages, lambda message: message.receipt):
                    receipts = [message.receipt for message in batch]
                    outcomes = await self._settler.release_all(receipts, keeps_attempt=unseen)
                    for message, outcome in zip(batch, outcomes, strict=True):
                        if outcome is None:
                            message.note_settled()
        except (RestMQError, TimeoutError) as error:
            logger.warning("messages were not given back, their leases run out: %s", error)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            due = min((each.due for each in self._kept.values()), default=None)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
            now = loop.time()
            try:
                await self._extend_due(now)
            except Exception:  # it keeps the leases of all messages, so it goes on
                logger.exception("extending leases failed")
                for kept in self._kept.values():
                    kept.due = max(kept.due, now + SHORTEST_LEASE_SECONDS / 3)

    async def _extend_due(self, now: float) -> None:
        groups: dict[float, list[_Kept]] = {}
        for kept in list(self._kept.values()):
            if kept.due <= now:
                await self._sort(kept, groups)
        for seconds, group in groups.items():
            await self._extend(seconds, group)

    async def _sort(self, kept: _Kept, groups: dict[float, list[_Kept]]) -> None:
        """Put a message with those of the same lease; one whose lease is unknown comes later."""
        try:
            seconds = await kept.terms.seconds()
        except Unavailable:
            kept.due = asyncio.get_running_loop().time() + SHORTEST_LEASE_SECONDS / 3
        else:
            groups.setdefault(seconds, []).append(kept)

    async def _extend(self, seconds: float, group: list[_Kept]) -> None:
        loop = asyncio.get_running_loop()
        for batch in batches_of(group, lambda kept: kept.message.receipt):
            began = loop.time()
            receipts = [kept.message.receipt for kept in batch]
            outcomes: Sequence[RestMQError | None]
            try:
                async with asyncio.timeout(EXTEND_TIMEOUT_SECONDS):
                    outcomes = await self._settler.extend(receipts, seconds)
            except RestMQError as error:
                outcomes = [error] * len(batch)
            except TimeoutError:
                outcomes = [RestMQError("no answer in time")] * len(batch)
            for kept, receipt, outcome in zip(batch, receipts, outcomes, strict=True):
                if kept.message.is_settled or kept.message.receipt != receipt:
                    continue  # that was about a delivery that is over
                kept.message.note_extended(began, outcome)
                if outcome is None:
                    kept.due = began + seconds / 3
                elif kept.message.is_lost:
                    self.drop(kept.message)
                else:
                    logger.info("%s was not extended: %s", kept.message.key, outcome)
                    kept.due = loop.time() + min(seconds / 3, 1.0)


class TermHolder:
    """What a leased message knows of who extends it, and for how long."""

    def __init__(self, keeper: Keeper, terms: LeaseTerms) -> None:
        self._keeper = keeper
        self._terms = terms

    def keep(self, message: LeasedMessage) -> None:
        """Extend its lease until ``drop``."""
        self._keeper.keep(message, self._terms)

    def drop(self, message: LeasedMessage) -> None:
        """Extend it no more."""
        self._keeper.drop(message)

    def note_extended(self, message: LeasedMessage, seconds: float) -> None:
        """Take into account that its lease runs for so long from now."""
        self._keeper.note_extended(message, seconds)

    async def lease_seconds(self) -> float:
        """Return how long its lease lasts."""
        return await self._terms.seconds()


MaybeMessage = TypeVar("MaybeMessage", bound=LeasedMessage | None, covariant=True)


class Lease(Generic[MaybeMessage]):
    """A lease that is being asked for: await it for the message, or use it as a block.

    See ``Client.lease``.
    """

    def __init__(
        self, keeper: Keeper, connection: Connection, terms: LeaseTerms, wait_seconds: float | None
    ) -> None:
        self._keeper = keeper
        self._connection = connection
        self._terms = terms
        self._wait_seconds = wait_seconds
        self._message: LeasedMessage | None = None

    def __await__(self) -> Generator[Any, None, MaybeMessage]:
        return self._get().__await__()

    async def __aenter__(self) -> MaybeMessage:
        message = await self._get()
        self._message = message
        if self._message is not None:
            await self._message.__aenter__()
        return message

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._message is not None:
            await self._message.__aexit__(kind, error, traceback)

    async def _get(self) -> MaybeMessage:
        query = {"lease": self._terms.parameter}
        path = queue_path("/q/", self._terms.queue)
        answer = await waiting_get(self._connection, path, query, self._wait_seconds)
        message = None
        if answer is not None:
            message = self._keeper.leased(answer.json_object(), self._terms)
        return message  # type: ignore[return-value]  # None only where wait_seconds allows it


async def waiting_get(
    connection: Connection,
    path: str,
    query: Query,
    wait_seconds: float | None,
    *,
    headers: Mapping[str, str] | None = None,
    is_repeatable: bool = True,
) -> Answer | None:
    """GET until there is something; None if nothing came within ``wait_seconds``.

    With None of them it waits for ever, also for a server that is away for less than the client's
    ``timeout_seconds``. Raises as ``Connection.request``.
    """
    if wait_seconds is not None and not wait_seconds >= 0:
        raise InvalidInput("wait_seconds cannot be negative")
    loop, pauses = asyncio.get_running_loop(), Pauses()
    deadline = None if wait_seconds is None else loop.time() + wait_seconds
    while True:
        asked_at = loop.time()
        left = WAIT_SECONDS if deadline is None else min(deadline - loop.time(), WAIT_SECONDS)
        left = round(max(left, 0), 3)
        asked = {**query, "wait": decimal(left)} if left else dict(query)
        answer = await connection.request(
            *("GET", path, asked, None, headers),
            wait_seconds=left,
            is_repeatable=is_repeatable,
        )
        if answer.status != 204:
            return answer
        if deadline is not None and loop.time() >= deadline:
            return None
        if loop.time() < asked_at + left / 2:  # a server that stops lets nobody wait
            await pauses.sleep()
