"""What a client does with queues as a whole, with single messages, and with dead letters."""

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec

from restmq.client.connection import Connection, Query
from restmq.client.messages import (
    DeadLetter,
    Message,
    StoredMessage,
    read_dead_letter,
    read_message,
    read_stored,
)
from restmq.client.stats import QueueStats, list_stats, read_stats
from restmq.client.values import JSON
from restmq.errors import InvalidInput
from restmq.http_client import Answer, decimal, queue_path
from restmq.http_leases import FORM, form_body
from restmq.queue_settings import QueueSettings


class Management:
    """The part of ``Client`` that looks after queues."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def peek(self, queue: str, count: int = 1) -> list[Message]:
        """Return the next ``count`` (1,000) messages without taking them."""
        answer = await self._get("/q/", queue, {"peek": count})
        return [] if answer.status == 204 else [read_message(m) for m in answer.json_array()]

    # Single messages

    async def message(self, key: str) -> StoredMessage:
        """Return a message with its state and its story. Raises NotFound if it is gone."""
        return read_stored((await self._get("/m/", key)).json_object())

    async def cancel(self, key: str) -> None:
        """Remove a message, in whatever state it is. Raises NotFound if it is gone."""
        await self._connection.remove(path_of("/m/", key))

    async def reschedule(
        self, key: str, *, delay: float | None = None, at: float | datetime | None = None
    ) -> None:
        """Say anew when a delayed message is ready: ``delay`` or ``at``, as in ``publish``.

        Raises NotFound, and Conflict if it is not delayed.
        """
        await self._change(key, when(delay, at))

    async def set_priority(self, key: str, priority: int) -> None:
        """Move a ready message to a priority, 0 to 9. Raises NotFound, Conflict."""
        await self._change(key, {"priority": str(priority)})

    async def _change(self, key: str, fields: dict[str, str]) -> None:
        await self._form(path_of("/m/", key), fields)

    # Dead letters

    async def dead_letters(self, queue: str, count: int = 20, offset: int = 0) -> list[DeadLetter]:
        """Return up to ``count`` (1,000) dead letters, the oldest first, after ``offset``."""
        answer = await self._get("/dead/", queue, {"count": count, "offset": offset})
        return [] if answer.status == 204 else [read_dead_letter(d) for d in answer.json_array()]

    async def redrive(self, queue: str, *, count: int | None = None, key: str | None = None) -> int:
        """Put dead letters back, with no attempts made: all, ``count`` of them, or that of ``key``.

        Returns how many. Raises NotFound if there is none of that key.
        """
        fields = {"count": None if count is None else str(count), "key": key}
        given = {name: text for name, text in fields.items() if text is not None}
        answer = await self._form(path_of("/dead/", queue), given, is_repeatable=not given)
        return _count(answer, "redriven")

    async def drop_dead_letters(self, queue: str) -> int:
        """Throw the dead letters of a queue away; returns how many these were."""
        return _count(await self._delete("/dead/", queue), "dropped")

    # Queues

    async def settings(self, queue: str) -> QueueSettings:
        """Return the settings that are in force for a queue."""
        return _settings(await self._get("/settings/", queue))

    async def change_settings(self, queue: str, /, **changes: object) -> QueueSettings:
        """Change some settings by name, all or none; None takes one back. Returns all of them.

        >>> await client.change_settings("jobs", max_attempts=3)       # doctest: +SKIP
        """
        body = msgspec.json.encode(changes)
        path = path_of("/settings/", queue)
        headers = {"Content-Type": JSON}
        return _settings(await self._connection.request("PATCH", path, None, body, headers))

    async def reset_settings(self, queue: str) -> QueueSettings:
        """Take back all that was set for this queue; returns what is in force then."""
        return _settings(await self._delete("/settings/", queue))

    async def stats(self, queue: str) -> QueueStats:
        """Return the figures of a queue."""
        return read_stats((await self._get("/stats/", queue)).json_object())

    def queues(self) -> AsyncIterator[QueueStats]:
        """Iterate over all queues by name, with their figures, read a page at a time."""
        return list_stats(self._connection)

    async def purge(self, queue: str) -> bool:
        """Empty a queue and end its streams; returns whether it held messages."""
        return bool(_count(await self._delete("/q/", queue), "status"))

    async def pause(self, queue: str) -> None:
        """Hand out nothing to streams and consumers until ``resume``; ``lease`` and ``take`` do."""
        await self._form(path_of("/control/", queue), {"status": "stop"})

    async def resume(self, queue: str) -> None:
        """Hand out messages again."""
        await self._form(path_of("/control/", queue), {"status": "start"})

    async def _get(self, route: str, name: str, query: Query | None = None) -> Answer:
        return await self._connection.request("GET", path_of(route, name), query)

    async def _delete(self, route: str, name: str) -> Answer:
        return await self._connection.request("DELETE", path_of(route, name))

    async def _form(
        self, path: str, fields: dict[str, str], *, is_repeatable: bool = True
    ) -> Answer:
        headers = {"Content-Type": FORM}
        return await self._connection.request(
            *("POST", path, None, form_body(fields), headers), is_repeatable=is_repeatable
        )


def when(delay: float | None, at: float | datetime | None) -> dict[str, str]:
    """Return the parameters that say when a message is ready."""
    query = {}
    if delay is not None:
        query["delay"] = decimal(delay)
    if isinstance(at, datetime):
        if at.tzinfo is None:
            raise InvalidInput("at must have a time zone, as datetime.now(UTC) has")
        at = at.timestamp()
    if at is not None:
        query["at"] = decimal(at)
    return query


def check_name(queue: str) -> str:
    """Return the name. Raises InvalidInput if there is none."""
    if not queue:
        raise InvalidInput("a queue's name cannot be empty")
    return queue


def path_of(route: str, name: str) -> str:
    """Return the path of a queue, or of a message. Raises InvalidInput if it has no name."""
    return queue_path(route, check_name(name))


def _settings(answer: Answer) -> QueueSettings:
    return msgspec.convert(answer.json_object(), QueueSettings, strict=False)


def _count(answer: Answer, name: str) -> int:
    return int(str(answer.json_object()[name]))
