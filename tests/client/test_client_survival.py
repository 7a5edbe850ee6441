"""The client while the real server is stopped, killed, and replaced by another node."""

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from restmq.client import Client, Consumer, LeasedMessage, Request
from restmq.redis_process import RedisProcess
from tests.server_process import ServerProcess, running_server
from tests.support import eventually

MESSAGES = 60


class Handling:
    """Handlers that note what they do, and would notice a message in two hands."""

    def __init__(self) -> None:
        self.handled: Counter[str] = Counter()
        self._in_hand: set[str] = set()

    async def consume(self, messages: Consumer, seconds: float = 0.02) -> None:
        """Handle messages, several at a time, until the consumer is stopped."""
        async with asyncio.TaskGroup() as group:
            async for message in messages:
                group.create_task(self._handle(message, seconds))

    async def _handle(self, message: LeasedMessage, seconds: float) -> None:
        async with message:
            assert message.key not in self._in_hand
            self._in_hand.add(message.key)
            await asyncio.sleep(seconds)
            self._in_hand.remove(message.key)
            self.handled[message.text] += 1


@contextlib.asynccontextmanager
async def consuming(handling: Handling, *consumers: Consumer) -> AsyncIterator[None]:
    """Consume while the block runs; what fails in a handler fails here."""
    async with asyncio.TaskGroup() as group:
        for messages in consumers:
            group.create_task(handling.consume(messages))
        yield
        for messages in consumers:
            messages.stop()


async def restart(server: ServerProcess, how: str) -> None:
    """Stop or kill the server, and start it again."""
    await (server.stop() if how == "stop" else server.kill())
    await server.start()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_consuming_goes_on_over_restarts(tmp_path: Path, how: str) -> None:
    """Every message is handled, none by two at once, and none twice at all: leases outlive it."""
    values = [str(number) for number in range(MESSAGES)]
    async with (
        running_server(tmp_path) as server,
        Client(server.url) as first,
        Client(server.url) as second,
    ):
        await first.publish_many("jobs", values[: MESSAGES // 2])
        handling = Handling()
        consumers = [
            client.consume("jobs", prefetch=3, lease_seconds=15) for client in (first, second)
        ]
        async with consuming(handling, *consumers):
            await eventually(lambda: handling.handled.total() >= 5)
            publishing = asyncio.create_task(publish_each(second, values[MESSAGES // 2 :]))
            await restart(server, how)
            await publishing
            await eventually(lambda: len(handling.handled) == MESSAGES, 60)
            await eventually(lambda: is_settled(first), 30)
        assert handling.handled == Counter(values)


async def publish_each(client: Client, values: list[str]) -> None:
    """Publish one after the other."""
    for value in values:
        await client.publish("jobs", value)


async def is_settled(client: Client) -> bool:
    """Whether nothing of the jobs is left."""
    stats = await client.stats("jobs")
    return stats.ready + stats.leased + stats.dead == 0


async def test_publishers_go_on_over_a_kill(tmp_path: Path) -> None:
    """What they were told is stored, is stored once."""
    async with running_server(tmp_path) as server, Client(server.url) as client:
        await client.publish("jobs", "first")
        published = asyncio.gather(*(client.publish("jobs", str(n)) for n in range(300)))
        batch = asyncio.create_task(client.publish_many("jobs", ["batch"] * 300))
        await restart(server, "kill")
        keys = [*await published, *await batch]
        assert len(set(keys)) == 600
        found = [message.text for message in await client.take_many("jobs", 1000)]
    assert Counter(found) == Counter(
        ["first", *(str(number) for number in range(300)), *["batch"] * 300]
    )


async def test_a_listener_misses_nothing_over_a_restart(tmp_path: Path) -> None:
    """The history outlives the server."""
    async with (
        running_server(tmp_path) as server,
        Client(server.url) as client,
        aclosing(client.listen("news")) as messages,
    ):
        first = asyncio.ensure_future(anext(messages))
        await eventually(lambda: has_listener(client))
        await client.publish("news", "0")
        assert (await first).text == "0"
        await restart(server, "stop")
        for number in range(1, 5):
            await client.publish("news", str(number))
        assert [(await anext(messages)).text for _ in range(4)] == ["1", "2", "3", "4"]


async def has_listener(client: Client) -> bool:
    """Whether somebody listens."""
    return (await client.stats("news")).consumers == 1


async def test_an_answerer_goes_on_over_a_restart(tmp_path: Path) -> None:
    """Requests that are made meanwhile are answered."""

    async def echo(request: Request) -> object:
        return request.value

    async with running_server(tmp_path) as server, Client(server.url) as client:
        serving = asyncio.create_task(client.serve("echo", echo))
        assert (await client.call("echo", "before")).text == "before"
        await server.kill()
        calling = asyncio.create_task(client.call("echo", "after", timeout_seconds=60))
        await server.start()
        assert (await calling).text == "after"
        serving.cancel()
        await asyncio.wait([serving])


async def test_nothing_is_lost_when_a_node_of_two_is_killed(
    tmp_path: Path, redis_url: str, fresh_name: str
) -> None:
    """The consumer at the dead node waits for its return, the other goes on."""
    flags = ("--redis-url", redis_url)
    values = [str(number) for number in range(MESSAGES)]
    async with (
        running_server(tmp_path, *flags, data_dir="here") as here,
        running_server(tmp_path, *flags, data_dir="there") as there,
        Client(here.url) as one,
        Client(there.url) as other,
    ):
        await other.publish_many(fresh_name, values)
        handling = Handling()
        consumers = [client.consume(fresh_name, prefetch=2) for client in (one, other)]
        async with consuming(handling, *consumers):
            await eventually(lambda: handling.handled.total() >= 5)
            await restart(here, "kill")
            await eventually(lambda: len(handling.handled) == MESSAGES, 60)
        assert handling.handled == Counter(values)


async def test_a_redis_that_is_killed_costs_nothing(tmp_path: Path, fresh_name: str) -> None:
    """Consumers and publishers wait for it."""
    redis = RedisProcess(tmp_path / "redis")
    await redis.start()
    try:
        async with (
            running_server(tmp_path, "--redis-url", redis.url) as server,
            Client(server.url) as client,
        ):
            values = [str(number) for number in range(MESSAGES)]
            handling = Handling()
            async with consuming(handling, client.consume(fresh_name, prefetch=3)):
                await client.publish_many(fresh_name, values[:20])
                await eventually(lambda: handling.handled.total() >= 5)
                assert redis.pid is not None
                os.kill(redis.pid, signal.SIGKILL)
                await client.publish_many(fresh_name, values[20:])
                await eventually(lambda: len(handling.handled) == MESSAGES, 60)
    finally:
        await redis.stop()
