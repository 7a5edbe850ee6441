"""Queuey's queues on the log engine: one log each, whose attributes are the queue's settings.

What rests on the settings, as the choice of a partition does, is stored on the condition that they
are still the same. So a node may remember them, whatever others do to the queue meanwhile.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from typing import Any, NamedTuple

import msgspec

from restmq.broker.log import Logs
from restmq.broker.log_entry import (
    AheadOfClock,
    Appended,
    EntryKey,
    Log,
    LogInfo,
    NewEntry,
    OtherAttributes,
    make_log,
)
from restmq.broker.log_ids import IdKind
from restmq.endpoints.queuey_fields import (
    MAX_AHEAD_SECONDS,
    MAX_NAME_CHARACTERS,
    BadField,
    Draft,
    PostedMessage,
    QueueSettings,
    apply_change,
    check_number,
    posted_message,
)
from restmq.errors import NotFound

PAGE_NAMES = 1000
"""Queues that are listed in one step."""

MAX_REMEMBERED = 20_000
"""Queues whose settings a node remembers between posts."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(QueueSettings).decode


class NoSuchQueue(NotFound):
    """The application has no queue of that name."""

    field = "InvalidQueueName"


class Queue(NamedTuple):
    """A queue as it was found."""

    log: Log
    settings: QueueSettings
    attributes: bytes
    """The same as they are stored."""
    created: float
    """Seconds since the epoch."""

    @staticmethod
    def of(log: Log, info: LogInfo) -> "Queue":
        """Read what the log was given."""
        return Queue(log, _decode(info.attributes), info.attributes, info.created)

    def choose(self, partition: int | None, field: str) -> int:
        """Return the partition that is asked for, else any; raises BadField under ``field``."""
        count = self.settings.partitions
        if partition is None:
            return 1 if count == 1 else random.randint(1, count)  # noqa: S311 - keeps no secret
        if not 1 <= partition <= count:
            check_number(field, partition, 1, count)
        return partition


class QueueyQueues:
    """The queues of all applications. Every method may raise ``Unavailable``."""

    def __init__(self, logs: Logs) -> None:
        self._logs = logs
        self._remembered: dict[tuple[str, str], Queue] = {}

    @staticmethod
    def log_of(application: str, name: str) -> Log:
        """Return the log of a queue; raises NoSuchQueue for a name that no queue can have."""
        if len(name) > MAX_NAME_CHARACTERS:
            raise NoSuchQueue(f"Queue name longer than {MAX_NAME_CHARACTERS} characters.")
        return make_log(collection_of(application), name, IdKind.TIME)

    async def find(self, log: Log) -> Queue:
        """Return the queue as it is now; raises NoSuchQueue."""
        info = await self._logs.info(log)
        if info is None:
            raise no_such_queue()
        return Queue.of(log, info)

    async def create(self, log: Log, change: dict[str, Any]) -> Queue:
        """Make the queue, or change it if there is one; raises InvalidUpdate."""
        while True:
            settings = QueueSettings(**change)
            info = await self._logs.set_attributes(log, _encode(settings), None)
            if info is not None:
                return self.remember(log, info)  # what is made is mostly used at once
            try:
                return await self.update(log, change)
            except NoSuchQueue:
                continue  # somebody deleted it in between

    async def update(self, log: Log, change: dict[str, Any]) -> Queue:
        """Change the settings that are given; raises NoSuchQueue and InvalidUpdate."""
        while True:
            queue = await self.find(log)
            settings = apply_change(queue.settings, change)
            if settings == queue.settings:
                return queue
            changed = await self._logs.set_attributes(log, _encode(settings), queue.attributes)
            if changed is not None:
                return Queue.of(log, changed)

    async def delete(self, log: Log) -> None:
        """Delete the queue with all its messages."""
        await self._logs.delete(log)
        self.forget(log)

    async def post(
        self, application: str, name: str, drafts: Sequence[Draft], *, is_batch: bool
    ) -> list[PostedMessage]:
        """Store messages, all or none.

        Raises NoSuchQueue, and BadField for a partition that the queue does not have. It is one
        step if this node remembers the queue as it is.
        """
        queue = self.recall(application, name)
        is_found = queue is None
        if queue is None:
            queue = await self._find_to_remember(self.log_of(application, name))
        while True:
            try:
                return await self._append_all(queue, drafts, is_batch)
            except OtherAttributes as error:
                queue, is_found = self.remember(queue.log, error.info), True
            except BadField:
                if is_found:
                    raise
                # The queue may have more partitions by now.
                queue, is_found = await self._find_to_remember(queue.log), True
            except NotFound:
                self.forget(queue.log)
                raise no_such_queue() from None

    def recall(self, application: str, name: str) -> Queue | None:
        """Return the queue as this node last knew it, if it has posted to it before."""
        return self._remembered.get((collection_of(application), name))

    def remember(self, log: Log, info: LogInfo) -> Queue:
        """Return the queue, and know it from now on."""
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        queue = self._remembered[log.collection, log.name] = Queue.of(log, info)
        return queue

    def forget(self, log: Log) -> None:
        """Forget a queue that is gone."""
        self._remembered.pop((log.collection, log.name), None)

    async def _find_to_remember(self, log: Log) -> Queue:
        info = await self._logs.info(log)
        if info is None:
            self.forget(log)
            raise no_such_queue()
        return self.remember(log, info)

    def append(self, queue: Queue, draft: Draft, partition: int) -> "asyncio.Future[Appended]":
        """Store one message; the future raises as ``Logs.append`` if the queue has changed."""
        entry = NewEntry(draft.body.encode(), draft.ttl, partition)
        return self._logs.append(queue.log, entry, expected=queue.attributes)

    async def _append_all(
        self, queue: Queue, drafts: Sequence[Draft], is_batch: bool
    ) -> list[PostedMessage]:
        entries, count = [], queue.settings.partitions
        for index, draft in enumerate(drafts):
            partition = draft.partition
            if partition is None and count == 1:  # nearly always
                partition = 1
            elif partition is None or not 1 <= partition <= count:
                field = f"{index}.partition" if is_batch else "partition"
                partition = queue.choose(partition, field)
            entries.append(NewEntry(draft.body.encode(), draft.ttl, partition))
        appended = await self._logs.append_all(queue.log, entries, expected=queue.attributes)
        return [
            posted_message(each.id, entry.partition)
            for each, entry in zip(appended, entries, strict=True)
        ]

    async def put(
        self, queue: Queue, keys: Sequence[EntryKey], body: str, ttl_seconds: int
    ) -> None:
        """Store a body under each id.

        Raises NoSuchQueue, and BadField for a wrong partition, or an id more than a minute ahead:
        followers that have read it would not see what is posted before that time.
        """
        while True:
            for key in keys:
                check_number("partition", key.partition, 1, queue.settings.partitions)
            try:
                await self._logs.put(
                    queue.log,
                    keys,
                    body.encode(),
                    ttl_seconds=ttl_seconds,
                    expected=queue.attributes,
                    max_ahead_seconds=MAX_AHEAD_SECONDS,
                )
            except AheadOfClock as error:
                raise BadField("InvalidMessageID", str(error)) from None
            except OtherAttributes as error:
                queue = Queue.of(queue.log, error.info)
            except NotFound:
                raise no_such_queue() from None
            else:
                return

    async def listed(
        self, application: str, start: str, limit: int | None, *, details: bool, counted: bool
    ) -> AsyncGenerator[list[dict[str, object]]]:
        """Yield the queues of an application by name, from ``start`` on, some at a time.

        ``details``: their settings as well; ``counted``: and how many messages they have.
        """
        collection, inclusive = collection_of(application), True
        while limit is None or limit > 0:
            size = PAGE_NAMES if limit is None else min(limit, PAGE_NAMES)
            names = await self._logs.names(collection, start, inclusive=inclusive, limit=size)
            if details:
                described = await asyncio.gather(
                    *(self._describe(application, name, counted) for name in names)
                )
                found = [each for each in described if each is not None]
            else:
                found = [{"queue_name": name} for name in names]
            yield found
            if len(names) < size:
                return
            start, inclusive = names[-1], False
            limit = None if limit is None else limit - len(found)

    async def _describe(
        self, application: str, name: str, counted: bool
    ) -> dict[str, object] | None:
        log = make_log(collection_of(application), name, IdKind.TIME)
        info = await self._logs.info(log)
        if info is None:  # it is being deleted
            return None
        settings = Queue.of(log, info).settings
        described: dict[str, object] = {
            "queue_name": name,
            "partitions": settings.partitions,
            "application": application,
            "created": info.created,
            "type": settings.type,
            "consistency": settings.consistency,
        }
        if settings.principles is not None:
            described["principles"] = settings.principles
        if counted:
            partitions = range(1, settings.partitions + 1)
            described["count"] = sum(await self._logs.count(log, partitions))
        return described


def collection_of(application: str) -> str:
    """Name the collection of an application's logs."""
    return f"queuey:{application}"


def no_such_queue() -> NoSuchQueue:
    """Make the error that says so."""
    return NoSuchQueue("Queue of that name was not found.")
