"""Logs, which stay and are read by position: channels, and the cursors of their readers.

A channel is read without a cursor by position, or through the cursor of a client, which the server
keeps. Both follow the rivulet specification; ``restmq.rivulet`` has the original's own interface.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import msgspec

from restmq.client.connection import Connection
from restmq.client.listener import OnGap, listen, read_event, tell_gap
from restmq.client.values import JSON
from restmq.errors import InvalidInput, RestMQError
from restmq.http_client import Answer

PAGE_NAMES = 1000

Start = Literal["earliest", "current", "latest"]
Kind = TypeVar("Kind")


class Entry(msgspec.Struct, frozen=True):
    """One message of a channel."""

    id: int
    """Its number in its channel, from 1."""
    ts: int
    """When it was stored, in microseconds since the epoch."""
    src: str
    """Who wrote it, as the writer said."""
    data: Any
    """What was written: any JSON value."""


@dataclass(frozen=True, slots=True)
class ChannelState:
    """What is known of a channel; ``first`` is None if it holds nothing."""

    name: str
    count: int
    first: int | None
    last: int
    subscriber_count: int


class Channel:
    """One channel, which need not exist before something is written to it."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self.name = name
        self._path = f"/channels/{_segment(name)}"

    async def write(self, data: object, source: str = "") -> Entry:
        """Write a message: any value that JSON can hold; ``source`` says who writes.

        It is not repeated when an answer is lost: ConnectionLost says so, and whoever then writes
        again may have stored it twice.
        """
        try:
            body = msgspec.json.encode({"data": data, "src": source})
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidInput(f"data must be something that JSON can hold: {error}") from error
        answer = await self._connection.request(
            "POST", self._path, body=body, headers={"Content-Type": JSON}, is_repeatable=False
        )
        return _decode(answer, Entry)

    async def read(self, after: int = 0, limit: int = 512, wait_seconds: int = 0) -> list[Entry]:
        """Return up to ``limit`` (10,000) messages after number ``after``.

        With ``wait_seconds``, up to 60, it waits for the first of them if there is none.
        """
        query = {"after": after, "limit": limit, "wait": wait_seconds}
        answer = await self._connection.request(
            "GET", f"{self._path}/messages", query, wait_seconds=wait_seconds
        )
        return _decode(answer, _Read).messages

    async def follow(
        self, after: int | None = None, on_gap: OnGap | None = None
    ) -> AsyncGenerator[Entry]:
        """Yield messages after number ``after`` for ever, or only what comes from now on if None.

        A lost connection is resumed where it broke; ``on_gap`` as in ``Client.listen``.
        """
        async with aclosing(listen(self._connection, self._path, {}, after)) as events:
            async for event in events:
                if event.event == "gap":
                    tell_gap(self._path, on_gap, event)
                elif event.event == "message":
                    yield read_event(event, Entry)

    async def state(self) -> ChannelState:
        """Return what is known of it. Raises NotFound if it was never used."""
        answer = await self._connection.request("GET", self._path, {"limit": 1})
        found = answer.json_object()
        return ChannelState(
            name=self.name,
            count=_number(found["count"]),
            first=None if found["first"] is None else _number(found["first"]),
            last=_number(found["last"]),
            subscriber_count=_number(found["subscriber_count"]),
        )

    async def prune(self, before: int) -> int:
        """Discard the messages before number ``before``; returns how many these were."""
        path = f"{self._path}/messages"
        answer = await self._connection.request("DELETE", path, {"before": before})
        return _number(answer.json_object()["discarded"])

    async def delete(self) -> None:
        """Delete it with its messages and cursors. Raises NotFound if it was never used."""
        await self._connection.remove(self._path)


class Cursor:
    """The positions of one reader, known to the server by its id, in any number of channels.

    Readers under one id share what is written: each message comes to one of them.
    """

    def __init__(self, connection: Connection, client_id: str) -> None:
        self._connection = connection
        self.client_id = client_id
        self._path = f"/cursors/{_segment(client_id)}"

    async def subscribe(self, *channels: str, start: Start = "current") -> None:
        """Begin to read channels, or move the cursors there are.

        ``start``: with the oldest message (``earliest``), after the last one (``latest``), or
        where the cursor is (``current``), which for a new one is as ``latest``.
        """
        for channel in channels:
            path = f"{self._path}/{_segment(channel)}"
            await self._connection.request("PUT", path, {"policy": start})

    async def seek(self, channel: str, number: int) -> None:
        """Say which message of a channel counts as the last one read, back or ahead."""
        path = f"{self._path}/{_segment(channel)}"
        await self._connection.request("PUT", path, {"cursor": number})

    async def unsubscribe(self, *channels: str) -> None:
        """Give up the cursors in these channels; what all others have read is discarded."""
        for channel in channels:
            await self._connection.request("DELETE", f"{self._path}/{_segment(channel)}")

    async def delete(self) -> None:
        """Give up all its cursors."""
        await self._connection.request("DELETE", self._path)

    async def positions(self) -> dict[str, int]:
        """Return the number of the last message read, by channel."""
        answer = await self._connection.request("GET", self._path)
        return _decode(answer, _Positions).subscriptions

    async def read(
        self, limit: int = 512, wait_seconds: int = 0, keep_count: int | None = None
    ) -> dict[str, list[Entry]]:
        """Read on in all channels: up to ``limit`` messages of each, by channel.

        ``{}`` if nothing is new: at once, or after ``wait_seconds``, up to 60. What is returned
        counts as read and does not come again; if the answer is lost, so is what it held, and
        ConnectionLost says so. ``keep_count``: how many messages that everyone has read are kept.
        """
        query: dict[str, object] = {"limit": limit}
        if wait_seconds:
            query["wait"] = wait_seconds
        if keep_count is not None:
            query["bufsize"] = keep_count
        answer = await self._connection.request(
            "POST", f"{self._path}/read", query, is_repeatable=False, wait_seconds=wait_seconds
        )
        return _decode(answer, dict[str, list[Entry]])


async def list_channels(connection: Connection) -> AsyncIterator[str]:
    """Yield the names of all channels, in order."""
    after = ""
    while True:
        query = {"limit": PAGE_NAMES, "after": after}
        answer = await connection.request("GET", "/channels", query)
        names = _decode(answer, _Names).channels
        for name in names:
            yield name
        if len(names) < PAGE_NAMES:
            return
        after = names[-1]


class _Read(msgspec.Struct):
    messages: list[Entry]


class _Positions(msgspec.Struct):
    subscriptions: dict[str, int]


class _Names(msgspec.Struct):
    channels: list[str]


def _decode(answer: Answer, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RestMQError(f"{answer.url} answered with something unexpected: {error}") from error


def _number(value: object) -> int:
    if isinstance(value, int):
        return value
    raise RestMQError("the server answered with something that is no number")


def _segment(name: str) -> str:
    if not name:
        raise InvalidInput("a name cannot be empty")
    return quote(name, safe="")
