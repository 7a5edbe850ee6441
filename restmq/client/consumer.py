"""Consuming a queue: message after message, leased, across restarts of the server."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from restmq.client.connection import Connection, Pauses, retry_after_seconds
from restmq.client.leasing import WAIT_SECONDS, Keeper, LeaseTerms
from restmq.client.messages import Fields, LeasedMessage
from restmq.errors import RestMQError, Unavailable
from restmq.http_client import decimal, queue_path

ANSWER_SECONDS = 10.0
"""How long an answer may take beyond the waiting that was asked for."""

FORGOTTEN_SECONDS = 60.0

logger = logging.getLogger("restmq.client")


class Consumer:
    """The messages of a queue as they come, leased until they are settled; see ``Client.consume``.

    At most ``prefetch`` messages are held unsettled, those that nobody has looked at yet included.
    Leases do not hang on a connection: what is in hand stays so when the server restarts, and a
    message that comes again while its earlier delivery is still in hand, since the lease ran out
    meanwhile, is not handed out twice: the one in hand takes over the new lease.
    """

    def __init__(
        self, connection: Connection, keeper: Keeper, terms: LeaseTerms, prefetch: int
    ) -> None:
        self._connection = connection
        self._keeper = keeper
        self._terms = terms
        self._prefetch = prefetch
        self._held: dict[str, LeasedMessage] = {}
        """All that is not settled, by key."""
        self._ready: deque[LeasedMessage] = deque()
        """Those of them that were not handed out yet."""
        self._settled = asyncio.Event()
        self._stopped = asyncio.Event()
        self._closing = asyncio.Lock()

    def stop(self) -> None:
        """Take no more: the iteration ends, and what nobody looked at goes back.

        What is in hand stays leased until it is settled, or the client is closed.
        """
        self._stopped.set()

    async def close(self) -> None:
        """Stop, and give back what nobody looked at."""
        self.stop()
        async with self._closing:
            while self._ready:
                unseen = list(self._ready)
                self._ready.clear()
                await self._keeper.give_back(unseen, unseen=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncGenerator[LeasedMessage]:
        pauses = Pauses()
        try:
            while not self._stopped.is_set():
                while self._ready and not self._stopped.is_set():
                    message = self._ready.popleft()
                    if message.is_lost:  # it comes again, here or elsewhere
                        self._forget(message)
                    else:
                        yield message
                if await self._wait_for_room():
                    await self._fetch(pauses)
        finally:
            await self.close()

    def _forget(self, message: LeasedMessage) -> None:
        if self._held.get(message.key) is message:
            del self._held[message.key]
            self._settled.set()

    async def _wait_for_room(self) -> bool:
        """Wait until another message may be held; returns False if it was stopped instead."""
        while len(self._held) >= self._prefetch and not self._stopped.is_set():
            self._settled.clear()
            try:
                async with asyncio.timeout(FORGOTTEN_SECONDS):
                    await self._unless_stopped(self._settled.wait())
            except TimeoutError:
                logger.warning(
                    "no message of %s comes, since %d are in hand and prefetch is %d;"
                    " were they forgotten? settle each, or use it in a block",
                    *(self._terms.queue, len(self._held), self._prefetch),
                )
        return not self._stopped.is_set()

    async def _fetch(self, pauses: Pauses) -> None:
        """Ask for as many as there is room for, and wait for the first of them for a while."""
        query: dict[str, object] = {
            "ack": 1,
            "wait": decimal(WAIT_SECONDS),
            "prefetch": self._prefetch - len(self._held),
        }
        told_seconds = 0.0
        if self._terms.asked_seconds is not None:
            query["lease"] = self._terms.parameter
        asked_at = asyncio.get_running_loop().time()
        try:
            await self._unless_stopped(self._poll(query))
        except Unavailable as error:
            logger.info("consuming %s: %s", self._terms.queue, error)
            told_seconds = retry_after_seconds(error)
        else:
            waited_seconds = asyncio.get_running_loop().time() - asked_at
            if self._ready or waited_seconds > WAIT_SECONDS / 2:
                pauses.reset()
                return
        # Out of reach, or about to stop, when it lets nobody wait.
        await self._unless_stopped(pauses.sleep(told_seconds))

    async def _poll(self, query: dict[str, object]) -> None:
        answer = await self._connection.attempt(
            *("GET", queue_path("/c/", self._terms.queue), query, None),
            {"Accept": "text/plain"},
            WAIT_SECONDS + ANSWER_SECONDS,
            is_waiting=True,
        )
        # Taken in before anybody can cancel: what has come is held, and can be given back.
        for line in answer.body.splitlines():
            if line:
                self._receive(_read_fields(line))

    def _receive(self, fields: Fields) -> None:
        held = self._held.get(str(fields["key"]))
        if held is not None and not held.is_being_returned:
            held.adopt(fields)
            return
        message = self._keeper.leased(fields, self._terms)
        message.on_settled = self._forget
        self._held[message.key] = message
        self._keeper.keep(message, self._terms)
        self._ready.append(message)

    async def _unless_stopped(self, work: Coroutine[Any, Any, object]) -> None:
        """Await ``work``, but not beyond a call of ``stop``."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait((working, stopping), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)


def _read_fields(line: bytes) -> Fields:
    with suppress(ValueError):
        fields = msgspec.json.decode(line)
        if isinstance(fields, dict) and {"key", "value", "receipt"} <= fields.keys():
            return fields
    raise RestMQError("the server answered with something that is no message")
