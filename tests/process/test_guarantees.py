"""The table of guarantees (delivery, section 5), one test a cell, on two nodes of the real program.

Rows: a consumer dies, Redis is killed, a node is killed, order. Columns: take or plain stream;
lease or leased stream; the same with an idempotency key. STOMP has tests of its own.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import pytest
import pytest_asyncio

from restmq.redis_process import RedisProcess
from tests.process.clients import bare_connection
from tests.process.test_survival import kill_redis, restart, shared_redis_and_nodes
from tests.server_process import ServerProcess
from tests.support import eventually

Item = dict[str, Any]

TAKES = ("take", "stream")
LEASES = ("lease", "leased-stream")
LONG_LEASE = "lease=600"

pytestmark = pytest.mark.asyncio(loop_scope="module")


class House(NamedTuple):
    """A Redis, two nodes over it, and a session to ask them with."""

    redis: RedisProcess
    first: ServerProcess
    second: ServerProcess
    session: aiohttp.ClientSession

    async def ask(
        self, method: str, path: str, node: ServerProcess | None = None, **options: Any
    ) -> tuple[int, Any, bool]:
        """Return status, JSON or None, and whether it was called a duplicate."""
        url = (node or self.second).url + path
        async with self.session.request(method, url, **options) as answer:
            is_duplicate = answer.headers.get("X-RestMQ-Duplicate") == "true"
            body = await answer.json() if answer.content_type == "application/json" else None
            return answer.status, body, is_duplicate

    async def add(self, queue: str, value: str, **parameters: str) -> tuple[str, bool]:
        """Publish at the first node; returns the key and whether it was a duplicate."""
        headers = {"Accept": "application/json"}
        status, body, is_duplicate = await self.ask(
            "POST", f"/q/{queue}", self.first, data={"value": value, **parameters}, headers=headers
        )
        assert status == 200
        return body["key"], is_duplicate

    async def take_all(self, queue: str) -> list[str]:
        """Take all that is ready, at the second node."""
        values = []
        while True:
            status, message, _ = await self.ask("GET", f"/q/{queue}")
            if status == 204:
                return values
            assert status == 200
            values.append(message["value"])

    async def lease(self, queue: str, wait_seconds: int = 20) -> Item:
        """Lease the next message at the second node, once there is one."""
        path = f"/q/{queue}?{LONG_LEASE}&wait={wait_seconds}"
        status, message, _ = await self.ask("GET", path)
        assert status == 200
        found: Item = message
        return found

    async def is_answering(self) -> bool:
        """Return whether both nodes reach Redis."""
        asked = [await self.ask("GET", "/readyz", node) for node in (self.first, self.second)]
        return [status for status, *_ in asked] == [200, 200]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """What the tests of this module share; they use fresh names and leave all of it running."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        shared_redis_and_nodes(tmp_path_factory.mktemp("g")) as (redis, (first, second)),
        aiohttp.ClientSession(timeout=timeout) as session,
    ):
        yield House(redis, first, second, session)


def path_of(queue: str, kind: str, seconds: int = 600) -> str:
    """Return where a consumer of this kind asks."""
    return {
        "take": f"/q/{queue}",
        "stream": f"/c/{queue}",
        "lease": f"/q/{queue}?lease={seconds}",
        "leased-stream": f"/c/{queue}?ack=1&lease={seconds}",
    }[kind]


async def receive_and_vanish(
    node: ServerProcess, queue: str, kind: str, value: str, seconds: int = 600
) -> None:
    """Get one message, and close the connection without a word."""
    async with bare_connection(node.port) as (reader, writer):
        path = path_of(queue, kind, seconds)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(20):
            await reader.readuntil(f'"value":"{value}"'.encode())
        writer.transport.abort()


class TestConsumerDies:
    @pytest.mark.parametrize("kind", TAKES)
    async def test_what_was_taken_is_lost(self, house: House, fresh_name: str, kind: str) -> None:
        await house.add(fresh_name, "a")
        await receive_and_vanish(house.first, fresh_name, kind, "a")

        async def is_alone() -> bool:
            _, stats, _ = await house.ask("GET", f"/stats/{fresh_name}")
            return bool(stats["consumers"] == 0)

        await eventually(is_alone, 20)
        await house.add(fresh_name, "b")
        assert await house.take_all(fresh_name) == ["b"]

    @pytest.mark.parametrize("kind", LEASES)
    async def test_what_was_leased_is_delivered_again(
        self, house: House, fresh_name: str, kind: str
    ) -> None:
        await house.add(fresh_name, "a")
        await receive_and_vanish(house.first, fresh_name, kind, "a", seconds=1)
        again = await house.lease(fresh_name)
        assert (again["value"], again["attempt"]) == ("a", 2)

    @pytest.mark.parametrize("kind", LEASES)
    async def test_with_a_key_it_is_delivered_again_and_stored_once(
        self, house: House, fresh_name: str, kind: str
    ) -> None:
        key, _ = await house.add(fresh_name, "a", id="order-1")
        await receive_and_vanish(house.first, fresh_name, kind, "a", seconds=1)
        assert await house.add(fresh_name, "a", id="order-1") == (key, True)
        again = await house.lease(fresh_name)
        assert (again["key"], again["attempt"]) == (key, 2)
        assert await house.take_all(fresh_name) == []


class TestRedisIsKilled:
    @pytest.fixture
    def kill(self, house: House) -> Any:
        """Kill Redis, and wait until both nodes have found the new one."""

        async def kill() -> None:
            await kill_redis(house.redis)
            await eventually(house.is_answering, 30)

        return kill

    async def test_nothing_acknowledged_is_lost(
        self, house: House, fresh_name: str, kill: Any
    ) -> None:
        values = [str(number) for number in range(10)]
        for value in values:
            await house.add(fresh_name, value)
        await kill()
        assert await house.take_all(fresh_name) == values

    async def test_nor_what_is_leased(self, house: House, fresh_name: str, kill: Any) -> None:
        for value in "ab":
            await house.add(fresh_name, value)
        held = await house.lease(fresh_name)
        await kill()
        assert (await house.lease(fresh_name))["value"] == "b"  # and not what is held
        status, *_ = await house.ask("POST", f"/lease/{held['receipt']}", data={"release": "0"})
        assert status == 200
        again = await house.lease(fresh_name)
        assert (again["value"], again["attempt"]) == ("a", 2)

    async def test_with_a_key_nothing_is_stored_twice(
        self, house: House, fresh_name: str, kill: Any
    ) -> None:
        key, _ = await house.add(fresh_name, "a", id="order-1")
        await kill()
        assert await house.add(fresh_name, "a", id="order-1") == (key, True)
        assert await house.take_all(fresh_name) == ["a"]


class TestNodeIsKilled:
    async def ask_and_do_not_read(
        self,
        house: House,
        stack: contextlib.AsyncExitStack,
        queue: str,
        kind: str,
        seconds: int = 600,
    ) -> None:
        """Have the first node hand a message to somebody who reads nothing."""
        _, writer = await stack.enter_async_context(bare_connection(house.first.port))
        path = path_of(queue, kind, seconds)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        async def is_handed_out() -> bool:
            _, stats, _ = await house.ask("GET", f"/stats/{queue}")
            return bool(stats["ready"] == 1)

        await eventually(is_handed_out, 20)

    async def test_only_unread_replies_are_lost(self, house: House, fresh_name: str) -> None:
        for value in "ab":
            await house.add(fresh_name, value)
        async with contextlib.AsyncExitStack() as stack:
            await self.ask_and_do_not_read(house, stack, fresh_name, "take")
            await restart(house.first)
        assert await house.take_all(fresh_name) == ["b"]

    @pytest.mark.parametrize("kind", LEASES)
    async def test_what_was_leased_is_delivered_again(
        self, house: House, fresh_name: str, kind: str
    ) -> None:
        await self.check_redelivery(house, fresh_name, kind)

    @pytest.mark.parametrize("kind", LEASES)
    async def test_with_a_key_it_is_delivered_again_and_stored_once(
        self, house: House, fresh_name: str, kind: str
    ) -> None:
        await self.check_redelivery(house, fresh_name, kind, id="order-1")
        _, is_duplicate = await house.add(fresh_name, "a", id="order-1")
        assert is_duplicate
        assert await house.take_all(fresh_name) == []

    async def check_redelivery(
        self, house: House, queue: str, kind: str, **parameters: str
    ) -> None:
        """Check that what a node handed out before it was killed comes again."""
        await house.add(queue, "a", **parameters)
        await house.add(queue, "b")
        async with contextlib.AsyncExitStack() as stack:
            # A stream's lease is long, so that only the node's death can end it.
            seconds = 600 if kind == "leased-stream" else 3
            await self.ask_and_do_not_read(house, stack, queue, kind, seconds)
            await restart(house.first)
        found = [await house.lease(queue, wait_seconds=40) for _ in range(2)]
        assert {item["value"]: item["attempt"] for item in found} == {"a": 2, "b": 1}


class TestOrder:
    async def test_first_in_first_out_in_each_priority(self, house: House, fresh_name: str) -> None:
        for value, priority in (("low", "0"), ("a", "4"), ("high", "9"), ("b", "4")):
            await house.add(fresh_name, value, priority=priority)
        assert await house.take_all(fresh_name) == ["high", "a", "b", "low"]

    async def test_what_comes_back_is_at_the_head(self, house: House, fresh_name: str) -> None:
        for value in "abc":
            await house.add(fresh_name, value)
        held = [await house.lease(fresh_name) for _ in range(2)]
        for item in reversed(held):
            await house.ask("POST", f"/lease/{item['receipt']}", data={"release": "0"})
        assert await house.take_all(fresh_name) == ["a", "b", "c"]

    async def test_the_same_with_keys(self, house: House, fresh_name: str) -> None:
        for value in "abca":
            await house.add(fresh_name, value, id=value)
        held = await house.lease(fresh_name)
        await house.ask("POST", f"/lease/{held['receipt']}", data={"release": "0"})
        assert await house.take_all(fresh_name) == ["a", "b", "c"]
