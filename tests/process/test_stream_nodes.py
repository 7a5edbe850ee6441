"""Streams over two nodes: resuming on the other one, and what the death of one gives back."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.process.clients import Api, open_api
from tests.process.test_nodes import Nodes, two_nodes
from tests.support import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORMATS = ("comet", "sse", "ws", "poll")
TOTAL = 1500
PUBLISHERS = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nodes]:
    """Two nodes that the tests of this module share; use fresh names."""
    async with two_nodes(tmp_path_factory.mktemp("n")) as pair:
        yield pair


async def lines_of(
    session: aiohttp.ClientSession, url: str, kind: str, query: str
) -> AsyncIterator[dict[str, Any]]:
    """Yield the objects of one stream, or of one long-poll, until it ends."""
    if kind == "ws":
        async with session.ws_connect(f"{url}?{query}") as socket:
            async for frame in socket:
                yield json.loads(frame.data)
        return
    mode = "wait=20" if kind == "poll" else f"format={kind}"
    async with session.get(f"{url}?{mode}&{query}") as answer:
        assert answer.status in (200, 204), await answer.text()
        async for line in answer.content:
            data = line.removeprefix(b"data: ")
            if data.startswith(b"{"):
                yield json.loads(data)


async def publish_all(apis: tuple[Api, Api], queue: str) -> None:
    """Publish at both nodes, several at a time."""

    async def publish(start: int) -> None:
        for number in range(start, TOTAL, PUBLISHERS):
            await apis[number % 2].add(queue, str(number))

    await asyncio.gather(*(publish(start) for start in range(PUBLISHERS)))


@pytest.mark.parametrize("kind", FORMATS)
async def test_one_that_moves_to_and_fro_misses_and_repeats_nothing(
    nodes: Nodes, fresh_name: str, kind: str
) -> None:
    """While publishing goes on, and often as the only consumer there is."""
    keys: list[str] = []
    position = 0
    async with (
        open_api(nodes[0].url) as first,
        open_api(nodes[1].url) as second,
        aiohttp.ClientSession() as session,
        asyncio.timeout(60),
    ):
        publishing = asyncio.create_task(publish_all((first, second), fresh_name))
        turn = 0
        while len(keys) < TOTAL:
            turn += 1
            url = f"{nodes[turn % 2].url}/{'ws' if kind == 'ws' else 'c'}/{fresh_name}"
            leave_at = len(keys) + 20 + turn % 50
            items = lines_of(session, url, kind, f"after={position}")
            async for item in items:
                if "key" in item:
                    keys.append(item["key"])
                    position = int(item["key"].rpartition(":")[2])
                else:
                    assert item.get("event") != "gap", item
                if len(keys) >= TOTAL or (kind != "poll" and len(keys) >= leave_at):
                    break
            await items.aclose()
        await publishing
    assert keys == [f"{fresh_name}:{number}" for number in range(1, TOTAL + 1)]


async def test_what_another_node_settles_makes_room(nodes: Nodes, fresh_name: str) -> None:
    """Settled over a socket of the other node; the wake-up comes over Redis."""
    async with (
        open_api(nodes[0].url) as api,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{nodes[0].url}/ws/{fresh_name}?ack=1&lease=600") as here,
        session.ws_connect(f"{nodes[1].url}/ws/{fresh_name}?ack=1&lease=600") as there,
        asyncio.timeout(30),
    ):
        for socket in (here, there):
            assert (await socket.receive_json())["event"] == "open"
        for value in "abc":
            await api.add(fresh_name, value)
        held_here, held_there = await here.receive_json(), await there.receive_json()
        await there.send_json({"ack": held_here["receipt"]})
        assert (await there.receive_json())["acked"] is True
        assert (await here.receive_json())["value"] == "c"
        assert held_there["attempt"] == 1


async def test_what_a_killed_node_held_comes_back_to_the_others(
    tmp_path_factory: pytest.TempPathFactory, fresh_name: str
) -> None:
    """Within 15 seconds and the time to notice, long before the leases end; as an attempt."""
    async with (
        two_nodes(tmp_path_factory.mktemp("n")) as nodes,
        open_api(nodes[0].url) as api,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{nodes[1].url}/ws/{fresh_name}?ack=1&lease=600&prefetch=3") as dying,
    ):
        assert (await dying.receive_json())["event"] == "open"
        for value in "abc":
            await api.add(fresh_name, value)
        assert [(await dying.receive_json())["value"] for _ in range(3)] == ["a", "b", "c"]
        await nodes[1].kill()
        async with (
            asyncio.timeout(25),
            session.ws_connect(f"{nodes[0].url}/ws/{fresh_name}?ack=1&prefetch=3") as living,
        ):
            assert (await living.receive_json())["event"] == "open"
            items = [await living.receive_json() for _ in range(3)]
        assert [(item["value"], item["attempt"]) for item in items] == [
            ("a", 2),
            ("b", 2),
            ("c", 2),
        ]
        await eventually(lambda: nodes[1].process.returncode is not None)
