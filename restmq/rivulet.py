"""rivulet's Python API over a RestMQ server: a durable channel broker with a cursor per client.

    from restmq import rivulet

    alice = rivulet.connect("http://127.0.0.1:8888", client_id="alice", channel_ids=["news"])
    alice.write("news", {"text": "hello"})
    for channel, messages in alice.read().items():
        for message in messages:
            print(channel, message["id"], message["src"], message["data"])

It follows the rivulet specification. What a program that used rivulet should know:

- The URL names a RestMQ server, where it named a Redis.
- LATEST, and CURRENT for a client that has no cursor, begin after the last message of the channel,
  whoever else reads it. To get what was written before, subscribe with EARLIEST.
- Reading is at most once: the cursor moves before ``read`` returns. Processes that read under one
  client id share its messages, each of which comes to one of them: that makes balanced consumers.
- ``ts`` counts microseconds.

A ``Client`` may be used from several threads at once.
"""

import enum
import json
import uuid
import weakref
from collections.abc import Iterable
from typing import Any, Self, TypedDict, cast
from urllib.parse import quote

from restmq.errors import InvalidInput
from restmq.rivulet_http import (
    BackendError,
    ConnectionError,  # noqa: A004 - rivulet's own name
    ConnectionPool,
    RivuletError,
    TimeoutError,  # noqa: A004 - rivulet's own name
)

__all__ = [
    "BackendError",
    "Client",
    "ConnectionError",
    "IndexPolicy",
    "Message",
    "RivuletError",
    "TimeoutError",
    "connect",
]

MAX_MESSAGE_LIMIT = 10_000
"""Messages of one channel that one read returns at the most."""

MAX_WAIT_SECONDS = 60

MAX_CLIENT_BYTES = 255
"""What the id of a client may take in UTF-8."""


class IndexPolicy(enum.IntEnum):
    """Where a subscription begins."""

    EARLIEST = 0
    """With the oldest message that is still kept."""
    CURRENT = 1
    """Where the client's cursor is; a client without one begins as with LATEST."""
    LATEST = 2
    """After the last message, so that only later ones are read."""


class Message(TypedDict):
    """What a reader gets of each message."""

    id: int
    """Its number in its channel, from 1."""
    ts: int
    """When it was stored, in microseconds since the epoch."""
    src: str
    """The id of the client that wrote it."""
    data: Any
    """What was written: any JSON value."""


def connect(
    url: str | None = None,
    client_id: str | None = None,
    channel_ids: Iterable[str] | None = None,
    **client_options: Any,
) -> "Client":
    """Make a client; see ``Client``."""
    return Client(url, client_id, channel_ids, **client_options)


class Client:
    """One client of the channels, known to the server by its id alone.

    ``url``: the server's, ``http://HOST:PORT``; ``redis_url``, as rivulet called it, will do too.
    ``client_id``: what the server keeps the cursors under, at most 255 bytes; a random one if it is
    not given. ``channel_ids``: subscribed to at once, with CURRENT. ``bufsize``: how many messages
    that everyone has read are kept behind the slowest reader when this client reads.
    ``backend_args``: ``timeout_seconds`` for what has no timeout of its own (60).

    Connections are opened when they are needed, so a server that is out of reach shows at the first
    call. Every call may raise BackendError; ValueError or TypeError for what cannot be meant.
    """

    def __init__(
        self,
        url: str | None = None,
        client_id: str | None = None,
        channel_ids: Iterable[str] | None = None,
        bufsize: int = 4096,
        *,
        redis_url: str | None = None,
        **backend_args: Any,
    ) -> None:
        if url is not None and redis_url is not None:
            raise TypeError("give url or redis_url, not both")
        url = redis_url if url is None else url
        if url is None:
            raise TypeError("the url of the server is missing")
        if bufsize < 0:
            raise ValueError("bufsize cannot be negative")
        self.client_id = uuid.uuid4().hex if client_id is None else client_id
        self.bufsize = bufsize
        self._own_path = _path("cursors", self.client_id)
        if len(self.client_id.encode()) > MAX_CLIENT_BYTES:
            raise ValueError(f"a client's id has at most {MAX_CLIENT_BYTES} bytes")
        try:
            self._pool = ConnectionPool(url, **backend_args)
        except InvalidInput as error:
            raise ValueError(str(error)) from error
        weakref.finalize(self, self._pool.close)
        if channel_ids is not None:
            self.subscribe(channel_ids)

    def close(self) -> None:
        """Close the connections; cursors stay, and another call opens new ones."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def subscriptions(self) -> list[str]:
        """The channels in which the client has a cursor, as the server knows them now."""
        answer = cast(dict[str, Any], self._pool.request("GET", self._own_path))
        cursors: dict[str, int] = answer["subscriptions"]
        return sorted(cursors, key=lambda channel: (cursors[channel], channel))

    def ping(self) -> bool:
        """Return True if the server, and the store behind it, answer; else ConnectionError."""
        try:
            self._pool.request("GET", "/channels", {"limit": 1})
        except BackendError as error:
            raise ConnectionError(str(error)) from error
        return True

    def subscribe(
        self,
        channel_ids: Iterable[str],
        index_policy: IndexPolicy = IndexPolicy.CURRENT,
        timeout_ms: float = 1000,
    ) -> None:
        """Subscribe to channels, which need not exist, or move the cursors in them.

        One after the other: if one fails, those before it are done. ``timeout_ms``: how long each
        may take. Raises TimeoutError.
        """
        query = {"policy": IndexPolicy(index_policy).name.lower()}
        for channel in _channels(channel_ids):
            path = f"{self._own_path}/{_segment(channel)}"
            self._pool.request("PUT", path, query, timeout_seconds=timeout_ms / 1000)

    def unsubscribe(self, channel_ids: Iterable[str]) -> None:
        """Give up the cursors in these channels, if there are any.

        What the remaining subscribers have read is discarded; without any, all messages are.
        """
        for channel in _channels(channel_ids):
            self._pool.request("DELETE", f"{self._own_path}/{_segment(channel)}")

    def write(self, channel_id: str, data: Any, timeout_ms: float = 10_000) -> None:
        """Write a message to a channel, which need not exist or be subscribed to.

        ``data``: any value that JSON can hold; TypeError for others. ``timeout_ms``: how long it
        may take. Raises TimeoutError; whether the message was stored is unknown then.
        """
        try:
            body = json.dumps({"data": data, "src": self.client_id}, allow_nan=False)
        except (ValueError, RecursionError) as error:  # not a number, or a circle
            raise TypeError(f"data must be something that JSON can hold: {error}") from error
        path = _path("channels", channel_id)
        self._pool.request("POST", path, body=body.encode(), timeout_seconds=timeout_ms / 1000)

    def read(self, message_limit: int = 512, wait_seconds: int = 0) -> dict[str, list[Message]]:
        """Read on in all channels: what is new by channel, at most ``message_limit`` of each.

        Returns ``{}`` when there is nothing new: at once, or after ``wait_seconds``, up to 60, of
        waiting for it in the channels that were subscribed to in the beginning. What is returned
        counts as read, and does not come again.
        """
        if message_limit < 1:
            raise ValueError("message_limit must be 1 or more")
        if not 0 <= wait_seconds <= MAX_WAIT_SECONDS:
            raise ValueError(f"wait_seconds must be from 0 to {MAX_WAIT_SECONDS}")
        query = {"limit": min(message_limit, MAX_MESSAGE_LIMIT), "bufsize": self.bufsize}
        if wait_seconds:
            query["wait"] = wait_seconds
        answer = self._pool.request(
            "POST", f"{self._own_path}/read", query, extra_seconds=wait_seconds
        )
        return cast(dict[str, list[Message]], answer)


def _channels(channel_ids: Iterable[str]) -> list[str]:
    if isinstance(channel_ids, str | bytes):
        raise TypeError("channel_ids must be a list of names, not a single one")
    return list(channel_ids)


def _path(collection: str, name: str) -> str:
    return f"/{collection}/{_segment(name)}"


def _segment(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a name must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("a name cannot be empty")
    return quote(name, safe="")
