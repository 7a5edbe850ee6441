"""The asynchronous client: what each method does stands at it."""

import ssl
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Self, overload
from urllib.parse import unquote
from weakref import WeakSet

from restmq.client.calls import Caller, Reply, Request, serve
from restmq.client.channels import Channel, Cursor, list_channels
from restmq.client.connection import Connection, Query
from restmq.client.consumer import Consumer
from restmq.client.leasing import Keeper, Lease, LeaseTerms, waiting_get
from restmq.client.listener import OnGap, listen, read_event, tell_gap
from restmq.client.management import Management, check_name, path_of, when
from restmq.client.messages import LeasedMessage, Message, read_message
from restmq.client.settling import Settler
from restmq.client.values import BYTES, JSON, NDJSON, encode_batch, encode_value
from restmq.errors import InvalidInput
from restmq.http_client import Answer, queue_path

DEFAULT_URL = "http://127.0.0.1:8888"
MAX_PREFETCH = 1000


class Client(Management):
    """One server, or several behind one address.

    >>> async with Client("http://127.0.0.1:8888") as client:          # doctest: +SKIP
    ...     key = await client.publish("jobs", {"name": "Ann"})
    ...     async for message in client.consume("jobs"):
    ...         async with message:
    ...             print(message.json()["name"])

    ``url`` may carry ``USER:PASSWORD@``; else give ``user`` and ``password``, or an ``api_key``.
    ``ssl_context``: for https with certificates of your own. ``timeout_seconds``: how long one
    call may take, with all repetitions and beside the waiting that it was asked for.
    ``max_connections``: requests at the same time.

    A request that a lost connection, or a server that is starting, left undone is repeated until
    then, if that can do no harm: all but ``take``, ``redrive`` of a number, writing to a channel
    and reading by a cursor. Every method may raise Unavailable when the server stays out of reach,
    AccessDenied, InvalidInput for what cannot be asked, and what stands at it.

    It belongs to the event loop that uses it first; ``BlockingClient`` is for programs without
    one. Leaving the block, or ``close``, gives back what is still leased.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        user: str | None = None,
        password: str | None = None,
        api_key: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        timeout_seconds: float = 30.0,
        max_connections: int = 100,
    ) -> None:
        connection = Connection(
            url,
            user=user,
            password=password,
            api_key=api_key,
            ssl_context=ssl_context,
            timeout_seconds=timeout_seconds,
            max_connections=max_connections,
        )
        super().__init__(connection)
        self._settler = Settler(self._connection)
        self._keeper = Keeper(self._connection, self._settler)
        self._caller = Caller(self._connection)
        self._consumers: WeakSet[Consumer] = WeakSet()

    @property
    def url(self) -> str:
        """Where the server is, without credentials."""
        return self._connection.address.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give back what is still leased, and close the connections."""
        try:
            await self._caller.close()
            for consumer in list(self._consumers):
                await consumer.close()
            await self._keeper.close()
        finally:
            await self._connection.close()

    # Publishing

    async def publish(
        self,
        queue: str,
        value: object,
        *,
        ttl: int | None = None,
        delay: float | None = None,
        at: float | datetime | None = None,
        priority: int | None = None,
        id: str | None = None,  # noqa: A002 - the name that the parameter has everywhere
        content_type: str | None = None,
    ) -> str:
        """Store a message and return its key; when it returns, the message is on disk.

        ``value``: bytes as they are, str as UTF-8, anything else as JSON; ``content_type`` is
        chosen accordingly unless given. ``ttl``: seconds until it expires; ``delay``: seconds, or
        ``at``: a time (Unix seconds, or with a time zone), before which nobody gets it;
        ``priority``: 0 to 9. ``id``: publishing again with the same one stores nothing and returns
        the first key. One is made if none is given, so that repeating is safe for as long as the
        queue remembers (``dedupe_seconds``, 300 by default).

        >>> await client.publish("jobs", {"n": 1}, delay=60, id="order-17")  # doctest: +SKIP
        'jobs:1'

        Raises QueueFull, TooLarge.
        """
        body, kind = encode_value(value, content_type)
        query = _publish_query(ttl, delay, at, priority, id)
        answer = await self._post(queue, query, body, kind)
        return str(answer.json_object()["key"])

    async def publish_many(
        self,
        queue: str,
        values: Iterable[object],
        *,
        ttl: int | None = None,
        delay: float | None = None,
        at: float | datetime | None = None,
        priority: int | None = None,
        id: str | None = None,  # noqa: A002
    ) -> list[str]:
        """Store up to 10,000 messages, all or none, in one request; returns their keys.

        Each is a line of the batch, so none may be blank or hold a line break (InvalidInput; JSON
        never does). The rest is as in ``publish``, and holds for each; ``id`` names the batch.
        """
        query = _publish_query(ttl, delay, at, priority, id)
        answer = await self._post(queue, query, encode_batch(list(values)), NDJSON)
        keys = answer.json_object()["keys"]
        return [str(key) for key in keys] if isinstance(keys, list) else []

    async def _post(self, queue: str, query: Query, body: bytes, content_type: str) -> Answer:
        headers = {"Content-Type": content_type, "Accept": JSON}
        return await self._connection.request("POST", path_of("/q/", queue), query, body, headers)

    # Taking and leasing

    async def take(self, queue: str, wait_seconds: float = 0) -> Message | None:
        """Take the next message for good; None if none comes within ``wait_seconds``.

        At most once: what is lost on the way, with a ConnectionLost, is gone. ``lease`` is for
        work that must be done. Without a type of its own a message comes as octet-stream.
        """
        answer = await waiting_get(
            self._connection,
            path_of("/q/", queue),
            {},
            wait_seconds,
            headers={"Accept": BYTES},
            is_repeatable=False,
        )
        if answer is None:
            return None
        key = unquote(answer.headers.get("x-restmq-key", ""))
        return Message(answer.body, answer.headers.get("content-type"), key)

    async def take_many(self, queue: str, count: int, wait_seconds: float = 0) -> list[Message]:
        """Take up to ``count`` (1,000) messages for good, as ``take``; without their types."""
        answer = await waiting_get(
            *(self._connection, path_of("/q/", queue), {"count": count}, wait_seconds),
            is_repeatable=False,
        )
        return [] if answer is None else [read_message(each) for each in answer.json_array()]

    @overload
    def lease(
        self,
        queue: str,
        *,
        lease_seconds: float | None = None,
        wait_seconds: None = None,
        retry_delay: float = 0,
    ) -> Lease[LeasedMessage]: ...
    @overload
    def lease(
        self,
        queue: str,
        *,
        lease_seconds: float | None = None,
        wait_seconds: float,
        retry_delay: float = 0,
    ) -> Lease[LeasedMessage | None]: ...
    def lease(
        self,
        queue: str,
        *,
        lease_seconds: float | None = None,
        wait_seconds: float | None = None,
        retry_delay: float = 0,
    ) -> Lease[Any]:
        """Lease the next message: nobody else gets it until it is settled or the lease ends.

        As a block it extends the lease for as long as it runs, acknowledges at its end, and gives
        the message back, to come again after ``retry_delay`` seconds, when it raises:

        >>> async with client.lease("jobs") as message:                # doctest: +SKIP
        ...     await handle(message.value)

        Awaited, ``message = await client.lease("jobs")``, it leaves all of this to you.

        It waits for a message for ever; with ``wait_seconds`` it gives None when none has come by
        then. ``lease_seconds``: 1 to 43,200, or None as the queue's settings say.
        """
        terms = LeaseTerms(self._connection, check_name(queue), lease_seconds, retry_delay)
        return Lease(self._keeper, self._connection, terms, wait_seconds)

    async def lease_many(
        self,
        queue: str,
        count: int,
        *,
        lease_seconds: float | None = None,
        wait_seconds: float = 0,
        retry_delay: float = 0,
    ) -> list[LeasedMessage]:
        """Lease up to ``count`` (1,000) messages, each to be settled or used in a block."""
        terms = LeaseTerms(self._connection, check_name(queue), lease_seconds, retry_delay)
        query = {"lease": terms.parameter, "count": count}
        path = queue_path("/q/", queue)
        answer = await waiting_get(self._connection, path, query, wait_seconds)
        found = [] if answer is None else answer.json_array()
        return [self._keeper.leased(each, terms) for each in found]

    def consume(
        self,
        queue: str,
        *,
        prefetch: int = 1,
        lease_seconds: float | None = None,
        retry_delay: float = 0,
    ) -> Consumer:
        """Iterate over messages as they come, each leased, and extended until it is settled.

        >>> async for message in client.consume("jobs", prefetch=10):  # doctest: +SKIP
        ...     async with message:                # acks, or nacks if the block raises
        ...         await handle(message.value)

        At most ``prefetch`` (1 to 1,000) messages are held unsettled, so a loop that settles none
        gets no more than that. The iteration goes on over breaks, and restarts of the server, for
        ever, or until ``stop``; a paused queue hands out nothing. Use it as a block, ``async with
        client.consume("jobs") as messages:``, to have what was fetched and not seen given back at
        once when you leave the loop. ``lease_seconds`` and ``retry_delay`` are as in ``lease``.
        """
        if not 1 <= prefetch <= MAX_PREFETCH:
            raise InvalidInput(f"prefetch must be from 1 to {MAX_PREFETCH}")
        terms = LeaseTerms(self._connection, check_name(queue), lease_seconds, retry_delay)
        consumer = Consumer(self._connection, self._keeper, terms, prefetch)
        self._consumers.add(consumer)
        return consumer

    async def listen(
        self, queue: str, *, after: int | None = None, on_gap: OnGap | None = None
    ) -> AsyncGenerator[Message]:
        """Iterate over what comes to the queue, without leases; with the policy broadcast, each
        listener gets every message.

        After a break it resumes where it was; ``after``: the number of a message to begin after, 0
        for the oldest that is kept. What is kept no more is told to ``on_gap`` by its first and
        last number, else logged.
        """
        path = path_of("/c/", queue)
        async with aclosing(listen(self._connection, path, {}, after)) as events:
            async for event in events:
                if event.event == "message":
                    yield read_message(read_event(event, dict[str, Any]))
                elif event.event == "gap":
                    tell_gap(path, on_gap, event)

    # Logs

    def channel(self, name: str) -> Channel:
        """Return a channel: a log to write to, to read by position, and to follow."""
        return Channel(self._connection, name)

    def cursor(self, client_id: str) -> Cursor:
        """Return the cursors that the server keeps for a reader of channels."""
        return Cursor(self._connection, client_id)

    def channels(self) -> AsyncIterator[str]:
        """Iterate over the names of all channels."""
        return list_channels(self._connection)

    # Request and reply

    async def call(
        self,
        queue: str,
        value: object,
        timeout_seconds: float = 30.0,
        *,
        content_type: str | None = None,
    ) -> Reply:
        """Send a request to a queue and wait for its reply, over STOMP at ``/stomp``.

        >>> (await client.call("sums", [1, 2, 3])).json()              # doctest: +SKIP
        6

        Whoever serves the queue may speak any STOMP client: the request says ``reply-to`` and
        ``correlation-id``. Raises CallFailed if the other side had an error, CallTimedOut if no
        reply came in time, and ConnectionLost if the way back for it broke. The request stays in
        the queue after a timeout; give the queue a ``ttl`` (a setting) if it should not.
        """
        return await self._caller.call(queue, value, timeout_seconds, content_type)

    async def serve(
        self,
        queue: str,
        handler: Callable[[Request], Awaitable[object]],
        *,
        concurrency: int = 1,
        timeout_seconds: float = 100.0,
    ) -> None:
        """Answer the requests of a queue with what ``handler`` returns, until cancelled.

        >>> async def add(request):                                    # doctest: +SKIP
        ...     return sum(request.json())
        >>> await client.serve("sums", add, concurrency=10)            # doctest: +SKIP

        What it raises goes back as the error of the call. A request is acknowledged when its reply
        was sent, so one that dies with its handler is answered by another; one may come twice.
        It goes on over breaks and restarts of the server.

        The lease of a request cannot be extended: it lasts for as long as the ``lease_seconds`` of
        the queue say, else the server's setting ``stomp_ack_timeout`` (120 seconds by default). So
        a handler that has taken ``timeout_seconds``, which must be less, is cancelled, and its
        request goes back to the queue. For work that takes longer, use ``consume``.
        """
        await serve(self._connection, queue, handler, concurrency, timeout_seconds)


def _publish_query(
    ttl: int | None,
    delay: float | None,
    at: float | datetime | None,
    priority: int | None,
    idempotency_key: str | None,
) -> dict[str, str]:
    query = when(delay, at)
    if ttl is not None:
        query["ttl"] = str(ttl)
    if priority is not None:
        query["priority"] = str(priority)
    query["id"] = uuid.uuid4().hex if idempotency_key is None else idempotency_key
    return query
