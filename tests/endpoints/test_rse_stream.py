"""RSE beyond polling: live streams and long polls."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from restmq.codecs.sse import Event, EventParser
from tests.endpoints.conftest import OpenNode
from tests.endpoints.test_rse import Agent, Rse, channel, mount, opened, rse
from tests.support import eventually

__all__ = ["channel", "mount", "rse"]  # fixtures

DEADLINE_SECONDS = 20


class Stream:
    """One live stream, read event by event."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self.parser = EventParser()
        self._events: list[Event] = []

    async def next(self) -> Event:
        """Return the next event."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not self._events:
                data = await self.answer.content.readany()
                assert data, "the stream has ended"
                self._events += self.parser.receive_data(data)
        return self._events.pop(0)

    async def data(self) -> Any:
        """Return what the next event carries."""
        return json.loads((await self.next()).data)["data"]


@asynccontextmanager
async def listening(agent: Agent, path: str, **headers: str) -> AsyncIterator[Stream]:
    """Open a stream."""
    merged = {"Accept": "text/event-stream", **agent.headers, **headers}
    async with agent.session.get(agent.base + path, headers=merged) as answer:
        assert answer.status == 200, await answer.text()
        assert answer.content_type == "text/event-stream"
        yield Stream(answer)


async def test_a_stream_has_what_is_there_and_then_what_comes(rse: Rse, channel: str) -> None:
    sender, reader = rse.agent(), rse.agent()
    await sender.posted(channel, {"n": 1}, {"n": 2})
    async with listening(reader, channel) as stream:
        first = await stream.next()
        event = json.loads(first.data)
        assert list(event) == ["id", "user_agent", "created_at", "age", "data"]
        assert first.id == str(event["id"])
        assert await stream.data() == {"n": 2}
        await rse.agent().posted(f"{channel}-other", {})
        await sender.posted(channel, {"n": 3})
        assert await stream.data() == {"n": 3}


async def test_a_stream_goes_on_from_the_id_that_is_named(rse: Rse, channel: str) -> None:
    """By the header of a reader that comes back, which counts more than the parameter."""
    await rse.agent().posted(channel, [1], [2], [3])
    reader = rse.agent()
    ids = [event["id"] for event in (await reader.get(channel)).events]
    async with listening(reader, f"{channel}?last-known-id={ids[0]}") as stream:
        assert await stream.data() == [2]
    query = f"{channel}?last-known-id=0"
    async with listening(reader, query, **{"Last-Event-ID": str(ids[1])}) as stream:
        assert await stream.data() == [3]


async def test_a_stream_selects_as_a_poll_does(rse: Rse, channel: str) -> None:
    agent = rse.agent()
    async with (
        listening(rse.agent(), f"{channel}/u?events=parent") as parents,
        listening(rse.agent(), f"{channel}?events=all") as everything,
        listening(agent, f"{channel}?events=all") as own,
        listening(agent, f"{channel}?events=all&echo=true") as echo,
    ):
        for name in ("", "/u", "/u/v", "x"):
            await agent.posted(channel + name, [name])
        await rse.agent().posted(f"{channel}/u", ["end"])
        assert [await parents.data() for _ in range(3)] == [[""], ["/u"], ["end"]]
        assert [await everything.data() for _ in range(4)] == [[""], ["/u"], ["/u/v"], ["end"]]
        assert await own.data() == ["end"]
        assert [await echo.data() for _ in range(4)] == [[""], ["/u"], ["/u/v"], ["end"]]


async def test_own_events_are_left_out_among_those_of_others(rse: Rse, channel: str) -> None:
    """What streams share does not mix them up."""
    one, other = rse.agent(), rse.agent()
    for index in range(4):
        await one.posted(channel, ["one", index])
        await other.posted(channel, ["other", index])
    for agent, name in ((one, "other"), (other, "one"), (one, "other")):
        async with listening(agent, channel) as stream:
            assert [await stream.data() for _ in range(4)] == [[name, i] for i in range(4)]


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?last-known-id=x", {}),
        ("?sort=-1", {}),
        ("?max-events=0", {}),
        ("", {"Last-Event-ID": "x"}),
        ("", {"Last-Event-ID": "1.5"}),
        ("?wait=61", {}),
        ("?wait=x", {}),
    ],
)
async def test_what_cannot_be_asked_is_refused(
    rse: Rse, channel: str, query: str, headers: dict[str, str]
) -> None:
    headers = {"Accept": "text/event-stream", **headers}
    answer = await rse.agent().call("GET", channel + query, headers)
    assert (answer.status, bool(answer.message)) == (400, True)


async def test_a_callback_is_answered_at_once_whatever_is_accepted(rse: Rse, channel: str) -> None:
    answer = await rse.agent(Accept="text/event-stream").get(f"{channel}?callback=cb")
    assert answer.body.endswith(b'"events":[]});')


async def test_a_quiet_stream_carries_comments(
    open_node: OpenNode, mount: str, channel: str
) -> None:
    async with (
        opened(open_node, mount, rse_test_mode=True, ping_seconds=0.1) as rse,
        listening(rse.agent(), channel) as stream,
    ):
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await stream.answer.content.readline() != b": ping\n":
                pass


async def test_streams_and_long_polls_end_when_the_node_stops(
    open_node: OpenNode, mount: str, channel: str
) -> None:
    """In order, and at once: the node does not wait for the drain to be over."""
    async with opened(open_node, mount, rse_test_mode=True, drain_seconds=30.0) as rse:
        agent = rse.agent()
        waiting = asyncio.create_task(agent.get(f"{channel}?wait=60"))
        async with listening(agent, channel) as stream:
            watcher = rse.node.node.broker.log_watcher
            await eventually(lambda: any(watcher._watches.values()))
            before = time.monotonic()
            await rse.node.node.close()
            assert time.monotonic() - before < DEADLINE_SECONDS
            assert (await stream.answer.content.read()).startswith(b"retry: ")
        assert (await waiting).status == 204


async def test_a_long_poll_waits_for_an_event(rse: Rse, channel: str) -> None:
    """Of others: its own does not answer it."""
    agent = rse.agent()
    waiting = asyncio.create_task(agent.get(f"{channel}?wait=30&events=all"))
    watcher = rse.node.node.broker.log_watcher
    await eventually(lambda: any(watcher._watches.values()))
    await agent.posted(channel, ["own"])
    await rse.agent().posted(f"{channel}/u", ["other"])
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await waiting).data == [["other"]]
    await eventually(lambda: not any(watcher._watches.values()))


async def test_a_long_poll_that_finds_something_or_need_not_wait_answers_at_once(
    rse: Rse, channel: str
) -> None:
    agent = rse.agent()
    assert (await agent.get(f"{channel}?wait=0")).status == 204
    await rse.agent().posted(channel, [1], [2])
    async with asyncio.timeout(DEADLINE_SECONDS):
        assert (await agent.get(f"{channel}?wait=60&sort=-1")).data == [[2], [1]]
        answer = await agent.get(f"{channel}?wait=60&callback=cb")
        assert answer.body.startswith(b"cb(")


async def test_a_long_poll_gives_up_in_time(rse: Rse, channel: str) -> None:
    before = time.monotonic()
    assert (await rse.agent().get(f"{channel}?wait=1")).status == 204
    assert time.monotonic() - before >= 0.9


async def test_a_client_that_leaves_is_forgotten(rse: Rse, channel: str) -> None:
    watcher = rse.node.node.broker.log_watcher
    agent = rse.agent()
    async with listening(agent, channel):
        await eventually(lambda: any(watcher._watches.values()))
    await eventually(lambda: not any(watcher._watches.values()))
    waiting = asyncio.create_task(agent.get(f"{channel}?wait=60"))
    await eventually(lambda: any(watcher._watches.values()))
    waiting.cancel()
    await eventually(lambda: not any(watcher._watches.values()))
