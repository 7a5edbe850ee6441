"""Who is connected over STOMP and what they hold, as ``/stats`` and the command line tell it."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.endpoints.stomp_client import (
    StompNode,
    send,
    stomp_node,
    subscribe,
    web_stomp_client,
)
from tests.server_process import ROOT
from tests.support import eventually


@pytest.fixture
async def nodes(open_node: OpenNode) -> AsyncIterator[tuple[StompNode, StompNode]]:
    """Two nodes that speak STOMP on one Redis."""
    async with stomp_node(open_node) as one, stomp_node(open_node) as other:
        yield one, other


async def read(node: NodeUnderTest, path: str) -> dict[str, Any]:
    """Return what ``/stats`` tells of STOMP."""
    status, body = await node.get(path)
    assert status == 200, body
    told: dict[str, Any] = json.loads(body)["stomp"]
    return told


async def test_connections_of_all_nodes_and_what_they_hold(
    nodes: tuple[StompNode, StompNode], open_node: OpenNode, fresh_name: str
) -> None:
    """Asked of any node, also of one that speaks no STOMP itself."""
    one, other = nodes
    queue = f"/queue/{fresh_name}"
    async with (
        open_node() as asked,
        one.client(login="ann", passcode="secret") as ann,
        web_stomp_client(other.http.url, "1.1", login="bob", passcode="x") as bob,
        other.client("1.0") as idle,
    ):
        await send(ann, queue, b"1", b"2", b"3")
        await subscribe(ann, queue, number="mine", prefetch_count="2")
        held = [await ann.message(), await ann.message()]
        assert [message.body for message in held] == [b"1", b"2"]
        await subscribe(bob, queue)
        assert (await bob.message()).body == b"3"
        await subscribe(bob, f"/topic/{fresh_name}", ack="auto", number="t")
        told = await read(asked, f"/stats/{fresh_name}?stomp=10")
        clients = {each["login"]: each for each in told["clients"]}
        assert set(clients) == {"ann", "bob"}
        assert (told["connections"], told["silent_nodes"], told["next"]) == (2, 0, None)
        mine = clients["ann"]
        assert (mine["via"], mine["version"], mine["address"]) == ("tcp", "1.2", "127.0.0.1")
        assert mine["subscriptions"] == [
            {
                "id": "mine",
                "destination": queue,
                "ack": "client-individual",
                "prefetch": 2,
                "held": 2,
                "messages": [f"{fresh_name}:1", f"{fresh_name}:2"],
            }
        ]
        his = clients["bob"]
        assert (his["via"], his["version"], his["held"]) == ("websocket", "1.1", 1)
        assert [each["id"] for each in his["subscriptions"]] == ["0"]
        assert his["subscription_count"] == 2
        everybody = await read(asked, "/stats?stomp=1000")
        assert {"ann", "bob", None} <= {each["login"] for each in everybody["clients"]}
        assert everybody["topics"][fresh_name] == 1
        assert not everybody["has_more_topics"]
        assert "secret" not in json.dumps(everybody)
        assert idle.session not in json.dumps(everybody)
        await ann.ack(held[0])
        again = await read(one.http, f"/stats/{fresh_name}?stomp=10")
        assert {each["login"]: each["held"] for each in again["clients"]} == {"ann": 1, "bob": 1}


async def test_pages_hold_every_connection_once(
    nodes: tuple[StompNode, StompNode], fresh_name: str
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        for number in range(7):
            client = await stack.enter_async_context(nodes[number % 2].client(login=f"u{number}"))
            await subscribe(client, f"/queue/{fresh_name}", number=str(number))
        found: list[str] = []
        after, pages = "", 0
        while after is not None:
            page = await read(nodes[0].http, f"/stats/{fresh_name}?stomp=3&after={after}")
            found += [each["login"] for each in page["clients"]]
            assert len(page["clients"]) <= 3
            after, pages = page["next"], pages + 1
        assert sorted(found) == [f"u{number}" for number in range(7)]
        assert pages == 3


async def test_lists_have_limits(
    nodes: tuple[StompNode, StompNode], fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out is told of; a page that gets too large ends early."""
    monkeypatch.setattr("restmq.endpoints.stomp_report.MAX_TOPICS", 2)
    monkeypatch.setattr("restmq.endpoints.stomp_report.MAX_SUBSCRIPTIONS", 2)
    monkeypatch.setattr("restmq.endpoints.stomp_report.MAX_MESSAGES", 2)
    monkeypatch.setattr("restmq.endpoints.stomp_report.MAX_ANSWER_BYTES", 10)
    one, _ = nodes
    queue = f"/queue/{fresh_name}"
    async with one.client() as client, one.client() as other:
        await send(client, queue, *(b"%d" % number for number in range(3)))
        await subscribe(client, queue, number="q", prefetch_count="3")
        for number in range(3):
            await client.message()
            await subscribe(client, f"/topic/{fresh_name}.{number}", "auto", number=f"t{number}")
        await subscribe(other, queue, number="q")
        page = await read(one.http, f"/stats/{fresh_name}?stomp=10")
        (first,) = page["clients"]
        (subscription,) = first["subscriptions"]
        assert (subscription["held"], len(subscription["messages"])) == (3, 2)
        assert page["next"] == first["connection"]
        rest = await read(one.http, f"/stats/{fresh_name}?stomp=10&after={page['next']}")
        assert len(rest["clients"]) == 1
        everybody = await read(one.http, "/stats?stomp=10")
        assert (len(everybody["topics"]), everybody["has_more_topics"]) == (2, True)
        mine = await read(one.http, f"/stats?stomp=1&after={first['connection'][:-1]}")
        (shown,) = mine["clients"]
        assert (shown["subscription_count"], len(shown["subscriptions"])) == (4, 2)


async def test_a_subscription_counts_as_a_consumer(
    nodes: tuple[StompNode, StompNode], fresh_name: str
) -> None:
    one, other = nodes
    async with one.client() as here, other.client() as there:
        await subscribe(here, f"/queue/{fresh_name}")
        await subscribe(there, f"/queue/{fresh_name}")
        assert (await one.stats(fresh_name))["consumers"] == 2
        assert one.http.node.broker.consumer_count == 1
    await eventually(lambda: one.http.node.broker.consumer_count == 0)


@pytest.mark.parametrize("query", ["stomp=", "stomp=0", "stomp=1001", "stomp=x"])
async def test_a_bad_limit_is_refused(node: NodeUnderTest, query: str) -> None:
    status, body = await node.get(f"/stats?{query}")
    assert (status, json.loads(body)["error"]) == (400, "invalid-input")


async def run_command(node: StompNode, *words: str) -> str:
    """Return what ``restmq stomp`` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "restmq", "stomp", *words, "--url", node.http.url),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def test_the_command_line(nodes: tuple[StompNode, StompNode], fresh_name: str) -> None:
    one, other = nodes
    queue, topic = f"/queue/{fresh_name}", f"/topic/{fresh_name}"
    async with one.client(login=f"{fresh_name}-ann") as ann, other.client() as bob:
        await send(ann, queue, b"1")
        await subscribe(ann, queue, number="mine")
        await ann.message()
        await subscribe(bob, topic, number="t")
        (mine,) = (await run_command(one, fresh_name)).splitlines()
        columns = mine.split("\t")
        assert columns[1:3] == [f"{fresh_name}-ann", "127.0.0.1"]
        assert columns[3:] == ["mine", queue, "client-individual", "1", "1", f"{fresh_name}:1"]
        everybody = (await run_command(one)).splitlines()
        assert [line.split("\t")[6:] for line in everybody if f"{fresh_name}-ann" in line] == [
            ["1", "1"]
        ]
        assert f"{fresh_name}\t1" in (await run_command(one, "--topics")).splitlines()
        told = [json.loads(line) for line in (await run_command(one, "--json")).splitlines()]
        assert f"{fresh_name}-ann" in {each["login"] for each in told}
