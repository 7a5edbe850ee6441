"""The blocking face of the client, for programs without an event loop."""

import asyncio
import ssl
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from restmq.client.background import Face, LoopThread, blocking
from restmq.client.calls import Request
from restmq.client.channels import Channel, Cursor, Entry
from restmq.client.client import DEFAULT_URL, Client
from restmq.client.consumer import Consumer
from restmq.client.leasing import Lease
from restmq.client.listener import OnGap
from restmq.client.messages import LeasedMessage, Message
from restmq.client.stats import QueueStats
from restmq.errors import RestMQError

Kind = TypeVar("Kind")


class BlockingLeasedMessage(Face):
    """A ``LeasedMessage`` for threads; settle it, or use it as a block, ``with message:``."""

    _inner: LeasedMessage

    @property
    def key(self) -> str:
        """Its name, ``<queue>:<number>``."""
        return self._inner.key

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self._inner.queue

    @property
    def number(self) -> int:
        """Its number in its queue, from 1."""
        return self._inner.number

    @property
    def value(self) -> bytes:
        """What was published."""
        return self._inner.value

    @property
    def content_type(self) -> str | None:
        """Of what type it was published; None if its publisher did not say."""
        return self._inner.content_type

    @property
    def text(self) -> str:
        """The value as UTF-8. Raises UnicodeDecodeError if it is none."""
        return self._inner.text

    @property
    def attempt(self) -> int:
        """How often it was delivered, with this time."""
        return self._inner.attempt

    @property
    def receipt(self) -> str:
        """The name of this delivery."""
        return self._inner.receipt

    @property
    def expires(self) -> float:
        """When the lease ends by the server's clock, in seconds since the epoch."""
        return self._inner.expires

    @property
    def is_settled(self) -> bool:
        """Whether it was acked, given back or buried."""
        return self._inner.is_settled

    @property
    def is_lost(self) -> bool:
        """Whether the lease is known to have run out."""
        return self._inner.is_lost

    @overload
    def json(self) -> Any: ...
    @overload
    def json(self, kind: type[Kind]) -> Kind: ...
    def json(self, kind: Any = Any) -> Any:
        """Read the value as JSON; see ``Message.json``."""
        return self._inner.json(kind)

    ack = blocking(LeasedMessage.ack)
    nack = blocking(LeasedMessage.nack)
    bury = blocking(LeasedMessage.bury)
    extend = blocking(LeasedMessage.extend)

    def __enter__(self) -> Self:
        self._thread.run(self._inner.__aenter__())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._thread.run(self._inner.__aexit__(kind, error, traceback))

    def __repr__(self) -> str:
        return repr(self._inner)


class BlockingConsumer(Face):
    """The messages of a queue as they come; see ``Client.consume``. For one thread.

    ``close``, or leaving the block, gives back what was fetched and not handed out.
    """

    _inner: Consumer

    def __init__(self, thread: LoopThread, inner: Consumer) -> None:
        super().__init__(thread, inner)
        self._messages = thread.iterate(aiter(inner))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BlockingLeasedMessage:
        return BlockingLeasedMessage(self._thread, next(self._messages))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stop(self) -> None:
        """End the iteration, from any thread; what is in hand stays so."""
        self._thread.call_soon(self._inner.stop)

    def close(self) -> None:
        """Stop, and give back what nobody looked at."""
        with suppress(RestMQError):  # if the client is closed, all was given back
            self._thread.run(self._inner.close())
        self._messages.close()


class BlockingChannel(Face):
    """A ``Channel`` for threads."""

    _inner: Channel

    write = blocking(Channel.write)
    read = blocking(Channel.read)
    state = blocking(Channel.state)
    prune = blocking(Channel.prune)
    delete = blocking(Channel.delete)

    def follow(self, after: int | None = None, on_gap: OnGap | None = None) -> Iterator[Entry]:
        """Yield messages as they come; see ``Channel.follow``."""
        return self._thread.iterate(self._inner.follow(after, on_gap))


class BlockingCursor(Face):
    """A ``Cursor`` for threads."""

    subscribe = blocking(Cursor.subscribe)
    seek = blocking(Cursor.seek)
    unsubscribe = blocking(Cursor.unsubscribe)
    delete = blocking(Cursor.delete)
    positions = blocking(Cursor.positions)
    read = blocking(Cursor.read)


class BlockingClient(Face):
    """A ``Client`` whose methods block; any number of threads may use it.

    >>> with BlockingClient("http://127.0.0.1:8888") as client:          # doctest: +SKIP
    ...     client.publish("jobs", {"name": "Ann"})
    ...     for message in client.consume("jobs"):
    ...         with message:
    ...             print(message.json()["name"])

    It runs the asynchronous client on one thread of its own, which also extends leases while a
    handler blocks. Arguments and methods are the client's. Close it, or use it as a block.
    """

    _inner: Client

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
        client = Client(
            url,
            user=user,
            password=password,
            api_key=api_key,
            ssl_context=ssl_context,
            timeout_seconds=timeout_seconds,
            max_connections=max_connections,
        )
        super().__init__(LoopThread(client.close), client)
        self._finalizer = weakref.finalize(self, self._thread.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_finalizer") and not self._thread.is_closed:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2)

    @property
    def url(self) -> str:
        """Where the server is, without credentials."""
        return self._inner.url

    def close(self) -> None:
        """Give back what is leased, close the connections, and end the thread.

        What other threads wait for raises RestMQError then.
        """
        self._finalizer()

    publish = blocking(Client.publish)
    publish_many = blocking(Client.publish_many)
    take = blocking(Client.take)
    take_many = blocking(Client.take_many)
    peek = blocking(Client.peek)
    message = blocking(Client.message)
    cancel = blocking(Client.cancel)
    reschedule = blocking(Client.reschedule)
    set_priority = blocking(Client.set_priority)
    dead_letters = blocking(Client.dead_letters)
    redrive = blocking(Client.redrive)
    drop_dead_letters = blocking(Client.drop_dead_letters)
    settings = blocking(Client.settings)
    change_settings = blocking(Client.change_settings)
    reset_settings = blocking(Client.reset_settings)
    stats = blocking(Client.stats)
    purge = blocking(Client.purge)
    pause = blocking(Client.pause)
    resume = blocking(Client.resume)
    call = blocking(Client.call)

    @overload
    def lease(
        self,
        queue: str,
        *,
        lease_seconds: float | None = None,
        wait_seconds: None = None,
        retry_delay: float = 0,
    ) -> AbstractContextManager[BlockingLeasedMessage]: ...
    @overload
    def lease(
        self,
        queue: str,
        *,
        lease_seconds: float | None = None,
        wait_seconds: float,
        retry_delay: float = 0,
    ) -> AbstractContextManager[BlockingLeasedMessage | None]: ...
    def lease(
        self,
        queue: str,
        *,
        lease_seconds: float | None = None,
        wait_seconds: float | None = None,
        retry_delay: float = 0,
    ) -> AbstractContextManager[Any]:
        """Lease the next message for a block; see ``Client.lease``.

        >>> with client.lease("jobs", wait_seconds=5) as message:      # doctest: +SKIP
        ...     if message is not None:
        ...         handle(message.value)
        """
        options: dict[str, Any] = {"wait_seconds": wait_seconds, "retry_delay": retry_delay}
        return self._leased(self._inner.lease(queue, lease_seconds=lease_seconds, **options))

    @contextmanager
    def _leased(self, lease: Lease[LeasedMessage | None]) -> Iterator[BlockingLeasedMessage | None]:
        found = self._thread.run(_result_of(lease))
        if found is None:
            yield None
            return
        with BlockingLeasedMessage(self._thread, found) as message:
            yield message

    def lease_many(
        self,
        queue: str,
        count: int,
        *,
        lease_seconds: float | None = None,
        wait_seconds: float = 0,
        retry_delay: float = 0,
    ) -> list[BlockingLeasedMessage]:
        """Lease up to ``count`` messages; see ``Client.lease_many``."""
        leasing = self._inner.lease_many(
            *(queue, count),
            lease_seconds=lease_seconds,
            wait_seconds=wait_seconds,
            retry_delay=retry_delay,
        )
        return [BlockingLeasedMessage(self._thread, each) for each in self._thread.run(leasing)]

    def consume(
        self,
        queue: str,
        *,
        prefetch: int = 1,
        lease_seconds: float | None = None,
        retry_delay: float = 0,
    ) -> BlockingConsumer:
        """Iterate over messages as they come; see ``Client.consume``."""
        consumer = self._inner.consume(
            queue, prefetch=prefetch, lease_seconds=lease_seconds, retry_delay=retry_delay
        )
        return BlockingConsumer(self._thread, consumer)

    def listen(
        self, queue: str, *, after: int | None = None, on_gap: OnGap | None = None
    ) -> Iterator[Message]:
        """Iterate over what comes, without leases; see ``Client.listen``.

        ``on_gap`` is called on the client's own thread.
        """
        return self._thread.iterate(self._inner.listen(queue, after=after, on_gap=on_gap))

    def queues(self) -> Iterator[QueueStats]:
        """Iterate over all queues by name."""
        return self._thread.iterate(self._inner.queues())

    def channels(self) -> Iterator[str]:
        """Iterate over the names of all channels."""
        return self._thread.iterate(self._inner.channels())

    def channel(self, name: str) -> BlockingChannel:
        """Return a channel to write to, to read, and to follow."""
        return BlockingChannel(self._thread, self._inner.channel(name))

    def cursor(self, client_id: str) -> BlockingCursor:
        """Return the cursors that the server keeps for a reader of channels."""
        return BlockingCursor(self._thread, self._inner.cursor(client_id))

    def serve(
        self,
        queue: str,
        handler: Callable[[Request], object],
        *,
        concurrency: int = 1,
        timeout_seconds: float = 100.0,
    ) -> None:
        """Answer the requests of a queue with what ``handler`` returns; see ``Client.serve``.

        ``handler`` blocks, and runs on other threads, ``concurrency`` of them at most. One that
        takes longer than ``timeout_seconds`` cannot be cancelled: its request goes back all the
        same, and its thread is free again when it returns. This returns, by RestMQError, when
        another thread closes the client and the handlers are done.
        """
        with ThreadPoolExecutor(max(concurrency, 1), "restmq handler") as pool:

            async def handle(request: Request) -> object:
                return await asyncio.get_running_loop().run_in_executor(pool, handler, request)

            serving = self._inner.serve(
                queue, handle, concurrency=concurrency, timeout_seconds=timeout_seconds
            )
            self._thread.run(serving)


async def _result_of(lease: Lease[LeasedMessage | None]) -> LeasedMessage | None:
    return await lease
