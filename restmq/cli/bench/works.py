"""What ``restmq bench`` measures: one class for each kind of work."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import quote

from restmq.cli.bench.load import (
    ANSWER_SECONDS,
    Connection,
    Meter,
    Result,
    Target,
    check_status,
)
from restmq.errors import RestMQError, Unavailable
from restmq.http_client import queue_path

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"
BATCH = "Content-Type: application/x-ndjson\r\n"
EVENT_STREAM = "Accept: text/event-stream\r\n"
NO_CONTENT = 204

MARK = b"RESTMQBENCHMARK"
"""Stands in each message that is streamed, so that those can be counted which arrive."""

MIN_SIZE_BYTES = len(MARK)
MAX_STORED_BYTES = 256 * 1024 * 1024
MESSAGE_OVERHEAD_BYTES = 200
MAX_FILLED_MESSAGES = 200_000
FILL_BATCH_BYTES = 512 * 1024
FILLED_PER_SECOND = 40_000
IN_FLIGHT = 16
"""Messages that are on their way to streams at the same time: a buffer that overflows would end
the stream."""

Step = Callable[[Connection], Awaitable[int]]


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    target: Target
    queue: str
    seconds: float
    connections: int
    size_bytes: int
    batch_messages: int
    consumers: int

    @property
    def value(self) -> bytes:
        """A message: no bytes that a form or JSON would have to escape."""
        return (MARK + b"x" * self.size_bytes)[: max(self.size_bytes, MIN_SIZE_BYTES)]

    @property
    def stream_queue(self) -> str:
        """The queue of those who listen."""
        return f"{self.queue}.stream"

    @property
    def most_messages(self) -> int:
        """So many may be stored at the same time."""
        return max(1, MAX_STORED_BYTES // (len(self.value) + MESSAGE_OVERHEAD_BYTES))

    def batch(self, count: int, queue: str) -> bytes:
        """Spell a request that publishes so many messages."""
        line = json.dumps({"value": self.value.decode("ascii")}).encode() + b"\n"
        return self.target.request("POST", queue_path("/q/", queue), line * count, BATCH)

    def publish(self, queue: str) -> bytes:
        """Spell a request that publishes one message."""
        body = b"value=" + self.value
        return self.target.request("POST", queue_path("/q/", queue), body, FORM)


class Publish:
    """Single messages, as forms."""

    name, what = "publish", "messages"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def measure(self, meter: Meter) -> None:
        """Publish on all connections."""
        request = self._plan.publish(self._plan.queue)

        async def step(connection: Connection) -> int:
            check_status(*await connection.ask(request))
            return int(meter.result.count < self._plan.most_messages)

        await repeat(self._plan, meter, step)


class Batch:
    """Many messages in each request."""

    name, what = "batch", "messages"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def measure(self, meter: Meter) -> None:
        """Publish on all connections."""
        count = self._plan.batch_messages
        request = self._plan.batch(count, self._plan.queue)

        async def step(connection: Connection) -> int:
            check_status(*await connection.ask(request))
            return count if meter.result.count < self._plan.most_messages else 0

        await repeat(self._plan, meter, step)


class Take:
    """Single messages that are gone when they are taken."""

    name, what = "take", "messages"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def measure(self, meter: Meter) -> None:
        """Fill the queue, and take on all connections until it is empty."""
        await fill(self._plan)
        meter.restart()
        path = queue_path("/q/", self._plan.queue)
        request = self._plan.target.request("GET", path)

        async def step(connection: Connection) -> int:
            status, body = await connection.ask(request)
            check_status(status, body)
            return int(status != NO_CONTENT)

        await repeat(self._plan, meter, step)


class Lease:
    """Single messages that are leased, and then acknowledged."""

    name, what = "lease", "lease + ack"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def measure(self, meter: Meter) -> None:
        """Fill the queue, and work it off on all connections."""
        await fill(self._plan)
        meter.restart()
        target = self._plan.target
        request = target.request("GET", queue_path("/q/", self._plan.queue) + "?lease=600")

        async def step(connection: Connection) -> int:
            status, body = await connection.ask(request)
            check_status(status, body)
            if status == NO_CONTENT:
                return 0
            path = f"/lease/{quote(_receipt(body), safe='')}"
            check_status(*await connection.ask(target.request("DELETE", path)))
            return 1

        await repeat(self._plan, meter, step)


def _receipt(body: bytes) -> str:
    try:
        return str(json.loads(body)["receipt"])
    except (ValueError, KeyError, TypeError) as error:
        raise RestMQError("a lease came without a receipt") from error


async def repeat(plan: Plan, meter: Meter, step: Step) -> None:
    """Do the step on all connections, again and again, until it returns 0 or the time is up."""

    async def work(connection: Connection) -> None:
        while not meter.is_over:
            started_at = time.perf_counter()
            done = await step(connection)
            if not done:
                return
            meter.add(done, started_at)

    async with plan.target.connections(plan.connections) as connections:
        meter.restart()
        await _all(*(work(each) for each in connections))


async def _all(*works: Awaitable[None]) -> None:
    """Wait for all; the first error ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(each) for each in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def fill(plan: Plan) -> None:
    """Publish as many messages as the time may need, within limits."""
    wanted = min(FILLED_PER_SECOND * plan.seconds, MAX_FILLED_MESSAGES, plan.most_messages)
    size = max(1, min(1000, FILL_BATCH_BYTES // len(plan.value)))
    request = plan.batch(size, plan.queue)
    async with plan.target.connections(1) as (connection,):
        for _ in range(max(1, int(wanted) // size)):
            check_status(*await connection.ask(request))


class Listener(asyncio.Protocol):
    """One stream, which counts the messages that come."""

    def __init__(self, request: bytes, on_messages: Callable[["Listener", int], None]) -> None:
        self._request = request
        self._on_messages = on_messages
        self._rest = b""
        self._transport: asyncio.Transport | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_lost = False
        self.count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count the marks; one may come in two parts."""
        data = self._rest + data
        if not self.opened.done() and b"event: open" in data:
            self.opened.set_result(None)
        found = data.count(MARK)
        self._rest = data[-(len(MARK) - 1) :]  # too short to be counted again
        if found:
            self.count += found
            self._on_messages(self, found)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell those who wait for its beginning, and those for its messages."""
        if not self.opened.done():
            self.opened.set_exception(Unavailable("a stream was refused"))
        self.is_lost = True
        self._on_messages(self, 0)

    def close(self) -> None:
        """Close it, and hear of nothing any more."""
        self.opened.cancel()
        if self._transport is not None:
            self._transport.abort()


class Fanout:
    """Each message to all streams of a queue; the time is from publishing to arriving."""

    name, what = "fanout", "deliveries"

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sent_at: deque[float] = deque()
        self._first = 0  # the number of the oldest message in _sent_at
        self._arrived = asyncio.Event()
        self._listeners: list[Listener] = []
        self._meter: Meter | None = None

    async def measure(self, meter: Meter) -> None:
        """Open the streams, and publish until the time is up and all has arrived."""
        plan, self._meter = self._plan, meter
        path = queue_path("/c/", plan.stream_queue)
        request = plan.target.request("GET", path, None, EVENT_STREAM)
        try:
            for _ in range(plan.consumers):
                listener = await plan.target.connect(lambda: Listener(request, self._on_messages))
                assert isinstance(listener, Listener)
                self._listeners.append(listener)
            async with asyncio.timeout(ANSWER_SECONDS):
                for listener in self._listeners:
                    await listener.opened
            meter.restart()
            async with plan.target.connections(1) as (connection,):
                await self._publish(connection, meter)
        except TimeoutError as error:
            raise Unavailable("the streams do not get their messages") from error
        finally:
            for listener in self._listeners:
                listener.close()

    async def _publish(self, connection: Connection, meter: Meter) -> None:
        request = self._plan.publish(self._plan.stream_queue)
        published = 0
        while not meter.is_over:
            await self._until_all_have(published - IN_FLIGHT)
            self._sent_at.append(time.perf_counter())
            published += 1
            check_status(*await connection.ask(request))
        await self._until_all_have(published)

    async def _until_all_have(self, count: int) -> None:
        async with asyncio.timeout(ANSWER_SECONDS):
            while (least := min(each.count for each in self._listeners)) < count:
                if any(each.is_lost for each in self._listeners):
                    raise Unavailable("a stream was ended by the server")
                self._arrived.clear()
                await self._arrived.wait()
        while self._first < least and self._sent_at:
            self._sent_at.popleft()
            self._first += 1

    def _on_messages(self, listener: Listener, found: int) -> None:
        """Count what one stream got; its last message tells the time."""
        place = listener.count - 1 - self._first
        if found and self._meter is not None:
            self._meter.count(found)
            if 0 <= place < len(self._sent_at):
                self._meter.result.latencies.add(time.perf_counter() - self._sent_at[place])
        self._arrived.set()


WORKS = {each.name: each for each in (Publish, Batch, Take, Lease, Fanout)}


async def measure(plan: Plan, name: str, on_start: Callable[[Meter], None]) -> Result:
    """Do one kind of work; raises RestMQError when the server refuses or is lost."""
    work = WORKS[name](plan)
    meter = Meter(Result(work.name, work.what), plan.seconds)
    on_start(meter)
    try:
        async with asyncio.timeout(plan.seconds + 2 * ANSWER_SECONDS):
            await work.measure(meter)
    except TimeoutError as error:
        raise Unavailable(f"{name}: the server does not answer") from error
    return meter.result
