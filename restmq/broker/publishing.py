"""The part of the facade that adds messages."""

import asyncio
import re
from collections.abc import Sequence
from typing import NamedTuple, TypedDict, Unpack

from restmq.broker.copies import Copy
from restmq.broker.groups import Added
from restmq.broker.limits import (
    LATEST_SECONDS,
    MAX_DELAY_SECONDS,
    MAX_ID_CHARACTERS,
    MAX_TTL_SECONDS,
    check_number,
)
from restmq.broker.message import DEFAULT_PRIORITY, pack
from restmq.broker.scripts import Operation
from restmq.broker.stores import Stores
from restmq.errors import InvalidInput

LOOK_SOON_SECONDS = 1.0
"""After how long a queue is looked at whose next deadline only Redis can tell."""

_SURROGATE = re.compile("[\ud800-\udfff]")


class Prepared(NamedTuple):
    """Messages that are ready to be added, and what goes with them."""

    operation: Operation
    size_bytes: int
    due_seconds: float | None
    expiry_seconds: float | None


class PublishOptions(TypedDict, total=False):
    """What a publisher may say about messages beside their values."""

    content_type: str | None
    """Kept with each of them."""
    priority: int
    """0 to 9, of which the higher leave first; 4 if it is not said."""
    ttl_seconds: int | None
    """1 or more, after which they are gone."""
    delay_seconds: float | None
    """After how long they become ready."""
    at: float | None
    """When they become ready, on Redis's clock; not together with ``delay_seconds``."""
    idempotency_key: str | None
    """1 to 128 characters: a repetition within the queue's ``dedupe_seconds`` stores nothing and
    is answered as the first one was."""


def prepare(values: Sequence[bytes], said: PublishOptions) -> Prepared:
    """Pack messages; raises ``InvalidInput`` for what is out of range, or no message at all."""
    ttl_seconds, at = said.get("ttl_seconds"), said.get("at")
    delay_seconds, idempotency_key = said.get("delay_seconds"), said.get("idempotency_key")
    content_type, priority = said.get("content_type"), said.get("priority", DEFAULT_PRIORITY)
    options: dict[str, object] | None = None
    due_seconds = expiry_seconds = None
    if ttl_seconds is not None:
        check_number("ttl", ttl_seconds, 1, MAX_TTL_SECONDS)
        options = {"ttl": ttl_seconds}
        expiry_seconds = float(ttl_seconds)
    if delay_seconds is not None or at is not None:
        options = options or {}
        due_seconds = note_delay(options, delay_seconds, at)
    if idempotency_key is not None:
        if not 1 <= len(idempotency_key) <= MAX_ID_CHARACTERS:
            raise InvalidInput(f"id must have 1 to {MAX_ID_CHARACTERS} characters")
        if not idempotency_key.isascii() and _SURROGATE.search(idempotency_key):
            raise InvalidInput("id must be text that UTF-8 can hold")
        options = options or {}
        options["id"] = idempotency_key
    if not values:
        raise InvalidInput("there is no message in the batch")
    head = pack(b"", content_type, priority)
    size_bytes = len(values) * len(head) + sum(map(len, values))
    return Prepared(Operation(values, options, head), size_bytes, due_seconds, expiry_seconds)


class Publishing:
    """Adds messages to the queues of ``stores``."""

    _stores: Stores

    async def add(
        self,
        queue: str,
        value: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
    ) -> int:
        """Append one message to the queue, which is created if need be; returns its number.

        ``ttl_seconds``: 1 or more, after which the message is gone. ``content_type``: kept
        with it. Raises ``InvalidInput`` for what is out of range, and ``QueueFull``.
        """
        added = await self.publish(
            queue, [value], ttl_seconds=ttl_seconds, content_type=content_type
        )
        return added.number

    async def publish(
        self, queue: str, values: Sequence[bytes], **said: Unpack[PublishOptions]
    ) -> Added:
        """Append messages to the queue, which is created if need be: all of them or none.

        Raises ``InvalidInput`` for what is out of range, ``QueueFull`` as the settings say.
        """
        prepared = prepare(values, said)
        store = self._stores.found.get(queue) or await self._stores.create(queue)
        return await store.add(queue, *prepared)

    def begin_publish(
        self, queue: str, values: Sequence[bytes], **said: Unpack[PublishOptions]
    ) -> asyncio.Future[Added]:
        """Begin to ``publish``, for callers that count every microsecond.

        Only for queues that this node ``knows``.
        """
        return self._stores.found[queue].add(queue, *prepare(values, said))

    def knows(self, queue: str) -> bool:
        """Return whether this node knows the queue, so that operations can be begun."""
        return queue in self._stores.found

    async def _store_copy(self, queue: str, copy: Copy, idempotency_key: str) -> None:
        """Add a copy of another queue's message."""
        options: dict[str, object] = {"id": idempotency_key, "is_copy": True}
        due_seconds = expiry_seconds = None
        # Redis's clock alone can tell how far these times are away, so that it is asked soon.
        if copy.ready_at:
            options["at"], due_seconds = copy.ready_at, LOOK_SOON_SECONDS
        if copy.expires:
            options["expires"], expiry_seconds = copy.expires, LOOK_SOON_SECONDS
        store = self._stores.found.get(queue) or await self._stores.create(queue)
        operation = Operation([copy.packed], options)
        size_bytes = len(copy.packed)
        await store.queues.add(queue, operation, size_bytes, due_seconds, expiry_seconds)


def note_delay(options: dict[str, object], delay_seconds: float | None, at: float | None) -> float:
    """Put what was said about the time into ``options``; returns after how long to look."""
    if at is not None:
        if delay_seconds is not None:
            raise InvalidInput("say delay or at, not both")
        check_number("at", at, 0, LATEST_SECONDS)
        options["at"] = at
        return LOOK_SOON_SECONDS  # only Redis's clock can tell how far away it is
    assert delay_seconds is not None
    check_number("delay", delay_seconds, 0, MAX_DELAY_SECONDS)
    options["delay"] = delay_seconds
    return delay_seconds
