"""COMMIT: what a STOMP transaction held takes effect.

All that goes to one queue is one operation, so it is stored whole or not at all. Several queues get
theirs in one round trip to Redis; if that is lost in the middle they are sent again, for a while,
under a key by which nothing is stored twice. So only if both Redis and this node are lost at that
moment can a part of the queues have got theirs. What the transaction acknowledges is settled once
all is stored; else it is delivered again.
"""

import asyncio
import functools
from collections.abc import Iterable, Sequence
from typing import Any, Final

from restmq.codecs.stomp_commands import Ack, Commit, Nack, Send
from restmq.endpoints.stomp_destinations import Kind
from restmq.endpoints.stomp_shared import Client, Prepared, Shared
from restmq.errors import RestMQError

COMMIT_PATIENCE_SECONDS: Final = 10.0
"""How long a COMMIT is tried again whose outcome was lost with the connection to Redis."""


class Commits:
    """The transactions of one connection."""

    __slots__ = ("_client", "_count", "_shared")

    def __init__(self, client: Client, shared: Shared) -> None:
        self._client = client
        self._shared = shared
        self._count = 0

    def perform(self, command: Commit) -> None:
        """Send all, one operation a queue, and settle what was acknowledged once that is stored."""
        sends = [self._client.prepare(each) for each in command.commands if isinstance(each, Send)]
        queues = {where.name for where, _ in sends if where.kind is Kind.QUEUE}
        sender = self._shared.messaging.sender
        if self._shared.settings.stomp_create or all(map(sender.is_known, queues)):
            self._commit_checked(command, sends)
        else:
            self._client.hold_back()
            self._shared.spawn(self._check_and_commit(command, sends, queues), self._client)

    async def _check_and_commit(
        self, command: Commit, sends: Sequence[Prepared], queues: Iterable[str]
    ) -> None:
        """Find out first whether all queues may be sent to, so that it is all or nothing."""
        try:
            for queue in queues:
                await self._shared.messaging.sender.check(queue)
            self._commit_checked(command, sends)
        except RestMQError as error:
            self._client.fail(error, command.receipt_id)
        finally:
            self._client.go_on()

    def _commit_checked(self, command: Commit, sends: Sequence[Prepared]) -> None:
        self._count += 1
        key = f"stomp {self._client.session.session_id} {self._count}"
        batches: dict[str, list[bytes]] = {}
        for destination, packed in sends:
            if destination.kind is Kind.QUEUE:
                batches.setdefault(destination.name, []).append(packed)
        sender = self._shared.messaging.sender
        steps: list[asyncio.Future[Any]] = [
            sender.send_surely(queue, packed, key, COMMIT_PATIENCE_SECONDS)
            for queue, packed in batches.items()
        ]
        steps += [
            self._client.put(*each, None)
            for each in sends
            if each.destination.kind is not Kind.QUEUE
        ]
        settlements = [each for each in command.commands if not isinstance(each, Send)]
        size_bytes = sum(len(packed) for _, packed in sends)
        if settlements:
            settled: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            stored = asyncio.gather(*steps, return_exceptions=True)
            stored.add_done_callback(functools.partial(self._settle_all, settlements, settled))
            steps.append(settled)
        self._client.answers.add(steps, command.receipt_id, size_bytes)

    def _settle_all(
        self,
        settlements: Sequence[Ack | Nack],
        settled: asyncio.Future[Any],
        stored: asyncio.Future[list[Any]],
    ) -> None:
        if stored.cancelled() or any(isinstance(each, BaseException) for each in stored.result()):
            settled.set_result(None)  # the failure is told by the step that failed
            return
        steps = [step for command in settlements for step in self._client.settle(command)]
        asyncio.gather(*steps).add_done_callback(functools.partial(_copy_outcome, target=settled))


def _copy_outcome(source: asyncio.Future[Any], target: asyncio.Future[Any]) -> None:
    error = None if source.cancelled() else source.exception()
    if error is None:
        target.set_result(None)
    else:
        target.set_exception(error)
