"""What stands in for the world around the broker: readers in memory, and a way to Redis that fails.

A ``FakeConsumer`` reads everything at once unless told to pause; what it has not read counts as
unsent, as in the buffer of a connection.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from restmq.broker.backend import Backend
from restmq.broker.broker import Broker
from restmq.broker.consumers import Consumer, Encoding
from restmq.broker.message import Message
from restmq.broker.scripts import Call, Reply
from restmq.errors import RestMQError, StoreUnavailable


class LineEncoding(Encoding):
    """A line for each message: its number, a space, its value. Counts what it encoded."""

    def __init__(self) -> None:
        self.encoded_count = 0

    def encode(self, queue: str, messages: Sequence[Message]) -> bytes:
        """Return the lines."""
        self.encoded_count += len(messages)
        return b"".join([b"%d %b\n" % (message.number, message.value) for message in messages])

    @property
    def keep_alive(self) -> bytes:
        """Return an empty line."""
        return b"\n"


class FakeConsumer(Consumer):
    """A reader in memory."""

    def __init__(self, encoding: Encoding | None = None, *, reading: bool = True) -> None:
        super().__init__(encoding or LineEncoding())
        self.connected = True
        self._reading = reading
        self._read = bytearray()
        self._unsent = bytearray()
        self._drained = asyncio.Event()
        self._drained.set()

    def write(self, data: bytes) -> None:
        """Keep the bytes unsent; a reader reads them in the loop's next turn, as a socket would."""
        if not self.connected:
            return
        self._unsent += data
        self._drained.clear()
        if self._reading:
            asyncio.get_running_loop().call_soon(self.read, len(self._unsent))

    def offer(self, data: bytes, limit_bytes: int) -> bool:
        """Write, unless too much is unsent already."""
        if self.ended.done():
            return True
        if len(self._unsent) > limit_bytes:
            return False
        self.write(data)
        return True

    @property
    def unsent_bytes(self) -> int:
        """Return how many bytes wait to be read."""
        return len(self._unsent)

    @property
    def is_connected(self) -> bool:
        """Return whether the reader can still read."""
        return self.connected

    async def wait_until_sent(self) -> None:
        """Wait until all is read, or the reader is gone."""
        await self._drained.wait()

    def cut_off(self) -> None:
        """Go away without reading the rest."""
        self.connected = False
        self._unsent.clear()
        self._drained.set()

    def read(self, size_bytes: int) -> None:
        """Read some of what waits."""
        self._read += self._unsent[:size_bytes]
        del self._unsent[:size_bytes]
        if not self._unsent:
            self._drained.set()

    def pause(self) -> None:
        """Read nothing from now on."""
        self._reading = False

    def resume(self) -> None:
        """Read all that waits, and all that comes."""
        self._reading = True
        self.read(len(self._unsent))

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        """Return number and value of each message that was read to its end."""
        lines = self._read.split(b"\n")[:-1]
        pairs = (line.partition(b" ") for line in lines if line)
        return [(int(number), bytes(value)) for number, _, value in pairs]

    @property
    def values(self) -> list[bytes]:
        """Return the value of each message that was read to its end."""
        return [value for _, value in self.messages]

    @property
    def ping_count(self) -> int:
        """Return how many keep-alives were read."""
        return bytes(self._read).split(b"\n")[:-1].count(b"")

    @property
    def numbers(self) -> list[int]:
        """Return the number of each message that was read to its end."""
        return [number for number, _ in self.messages]


@asynccontextmanager
async def streaming(broker: Broker, queue: str, *consumers: FakeConsumer) -> AsyncIterator[None]:
    """Connect consumers in this order, and let them leave at the end."""
    for consumer in consumers:
        await connect(broker, queue, consumer)
    yield
    for consumer in consumers:
        await disconnect(broker, queue, consumer)


async def connect(broker: Broker, queue: str, consumer: FakeConsumer) -> None:
    """Connect one consumer."""
    await broker.join(queue, consumer)
    broker.begin(queue, consumer)


async def vanish(broker: Broker) -> None:
    """End a node as a killed process ends: it says goodbye to nobody."""
    store = broker._stores.disk
    await store.wakeups.close()
    await store.schedule.close()
    await store.keep_alive.close()
    await store.committer.abort()
    dispatcher, leased = store.dispatcher, store.leased
    streams = (*dispatcher._streams.values(), *leased._streams.values())
    pumps = [stream.pump for stream in streams if stream.pump is not None]
    dispatcher._streams.clear()
    leased._streams.clear()
    store.listeners._interests.clear()
    for pump in pumps:
        pump.cancel()
    await asyncio.gather(*pumps, return_exceptions=True)


async def disconnect(broker: Broker, queue: str, consumer: FakeConsumer) -> None:
    """Break one consumer's connection; what it had not read, it never will."""
    consumer.cut_off()
    await broker.leave(queue, consumer)


class FaultyBackend:
    """A way to Redis that counts what it carries and loses replies on demand."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.round_trips: list[list[str]] = []
        """Of each round trip, the names of its calls: a script's name or a command word."""
        self.loses: Callable[[list[str]], bool] = lambda names: False
        """Whether the reply to calls of these names is lost, after Redis has done them all."""
        self.lost_count = 0
        self.refuses: Callable[[str], RestMQError | None] = lambda name: None
        """Gives the error, if any, by which a call of this name is answered and not carried out."""
        self.gate = asyncio.Event()
        """Nothing goes out while this is clear."""
        self.gate.set()
        self.reply_gate = asyncio.Event()
        """No reply comes in while this is clear."""
        self.reply_gate.set()
        self.awaited: list[str] = []
        """The names of the calls whose replies wait at that gate."""

    async def execute(self, calls: Sequence[Call]) -> list[Reply | RestMQError]:
        """Carry the calls, unless their names say otherwise."""
        await self.gate.wait()
        names = [call.script.name if call.script else str(call.arguments[0]) for call in calls]
        self.round_trips.append(names)
        refusals = [self.refuses(name) for name in names]
        carried = [call for call, error in zip(calls, refusals, strict=True) if error is None]
        replies = iter(await self.inner.execute(carried))
        self.awaited = names
        await self.reply_gate.wait()
        self.awaited = []
        if self.loses(names):
            self.lost_count += 1
            raise StoreUnavailable("the reply was lost")
        return [next(replies) if error is None else error for error in refusals]

    def calls_named(self, name: str) -> int:
        """Return how many calls of this name were carried."""
        return sum(names.count(name) for names in self.round_trips)

    def lose_next(self, name: str) -> None:
        """Lose the next reply that answers a call of this name."""
        limit = self.lost_count
        self.loses = lambda names: name in names and self.lost_count == limit

    def __getattr__(self, name: str) -> Any:
        """Leave all else to the real one."""
        return getattr(self.inner, name)


async def all_at_once(
    backend: FaultyBackend, operations: list[Awaitable[object]]
) -> "asyncio.Future[list[object]]":
    """Start operations while nothing can leave, so that they meet in one round trip."""
    backend.gate.clear()
    started = asyncio.gather(*operations, return_exceptions=True)
    for _ in range(20):
        await asyncio.sleep(0)
    return started
