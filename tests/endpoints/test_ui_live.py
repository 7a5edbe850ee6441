"""The live part of the dashboard: streams, and the sampling that they share."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from restmq.endpoints import ui_sampler
from restmq.endpoints.ui_listing import ONE, View
from restmq.endpoints.ui_sampler import KEPT_SAMPLES, MAX_STREAMS, Sampler
from restmq.errors import Overloaded
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually

PATIENCE_SECONDS = 30


@contextlib.asynccontextmanager
async def stream(node: NodeUnderTest, query: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Open a stream; yields its samples."""

    async def samples(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
        kind = ""
        async for line in answer.content:
            if line.startswith(b"event: "):
                kind = line[7:].strip().decode()
            elif line.startswith(b"data: "):
                yield {"event": kind, **msgspec.json.decode(line[6:])}

    async with node.session.get(f"{node.url}/ui/events?{query}") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        yield samples(answer)


async def wait_for(samples: AsyncIterator[dict[str, Any]], field: str, text: str) -> dict[str, Any]:
    """Read samples until a figure is as wanted; returns that sample."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for sample in samples:
            if sample["figures"][field][0] == text:
                return sample
    raise AssertionError("the stream has ended")


async def test_the_stream_of_a_queue_tells_what_changes(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Figures are ready to be shown, and the version tells that the list has changed."""
    await node.add(fresh_name, "a")
    async with stream(node, f"kind=one&name={fresh_name}") as samples:
        first = await wait_for(samples, "ready", "1")
        assert first["event"] == "sample"
        assert first["paused"] is False
        await node.add(fresh_name, "b")
        second = await wait_for(samples, "ready", "2")
        assert second["version"] != first["version"]
        await node.post(f"/control/{fresh_name}", data={"status": "stop"})
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for sample in samples:
                if sample["paused"]:
                    break


async def test_the_stream_of_the_list_tells_each_row(node: NodeUnderTest, fresh_name: str) -> None:
    """By its name in plain ASCII, in the order of the list; for a search, what it finds."""
    names = [f"{fresh_name}/ä", f"{fresh_name}<b>"]
    for name in names:
        await node.add(name.replace("/", "%2F").replace("ä", "%C3%A4"), "v")
    async with stream(node, f"kind=search&name={fresh_name}") as samples:
        async with asyncio.timeout(PATIENCE_SECONDS):
            sample = await anext(samples)
    keys = [f"{fresh_name}%2F%C3%A4", f"{fresh_name}%3Cb%3E"]
    assert list(sample["rows"]) == keys
    assert sample["rows"][keys[0]]["figures"]["ready"] == ["1", "1"]
    assert {"queues", "in", "out", "oldest"} <= sample["figures"].keys()


async def test_streams_end_in_good_order_when_the_node_stops(
    open_node: OpenNode, fresh_name: str
) -> None:
    async with contextlib.AsyncExitStack() as stack, aiohttp.ClientSession() as session:
        node = await stack.enter_async_context(open_node())
        url = f"{node.url}/ui/events?kind=one&name={fresh_name}"
        answer = await stack.enter_async_context(session.get(url))
        await answer.content.readline()
        closing = asyncio.create_task(node.node.close())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await answer.content.read()  # an end that was cut off would raise
            await closing


async def test_without_redis_the_stream_tells_it(
    node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And goes on when it is back."""
    monkeypatch.setattr(ui_sampler, "SAMPLE_SECONDS", 0.05)
    async with stream(node, f"kind=one&name={fresh_name}") as samples:
        await wait_for(samples, "ready", "0")
        census = node.node.broker.census

        async def fail() -> None:
            raise Overloaded("too much waits")

        with monkeypatch.context() as broken:
            broken.setattr(census, "overview", fail)
            async with asyncio.timeout(PATIENCE_SECONDS):
                async for sample in samples:
                    if sample["event"] == "problem":
                        assert sample["problem"] == "too much waits"
                        break
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for sample in samples:
                if sample["event"] == "sample":
                    break


async def test_one_task_samples_for_all_and_ends_with_the_last(
    node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages with equal views are told the very same bytes."""
    monkeypatch.setattr(ui_sampler, "SAMPLE_SECONDS", 0.05)
    sampler = Sampler(node.node.broker)
    view = View(ONE, fresh_name)

    def is_running() -> bool:
        return any(task.get_name() == "dashboard-sampler" for task in asyncio.all_tasks())

    assert not is_running()
    async with sampler.watch(view) as one, sampler.watch(View(ONE, fresh_name)) as other:
        first, second = one.events(), other.events()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await anext(first) is await anext(second)
        tasks = [each for each in asyncio.all_tasks() if each.get_name() == "dashboard-sampler"]
        assert len(tasks) == 1
        await first.aclose()
        await second.aclose()
    await eventually(lambda: not is_running())
    assert sampler.watcher_count == 0


async def test_there_is_a_limit_to_pages_that_are_live(node: NodeUnderTest) -> None:
    """One more is refused, until another is closed."""
    sampler = Sampler(node.node.broker)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(MAX_STREAMS - 1):
            await stack.enter_async_context(sampler.watch(View("name")))
        async with sampler.watch(View("name")):
            with pytest.raises(Overloaded):
                await stack.enter_async_context(sampler.watch(View("name")))
        await stack.enter_async_context(sampler.watch(View("name")))


async def test_charts_go_on_where_they_were(
    node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is loaded again has the points so far, of which only so many are kept."""
    monkeypatch.setattr(ui_sampler, "SAMPLE_SECONDS", 0.001)
    sampler = Sampler(node.node.broker)
    async with sampler.watch(View(ONE, fresh_name)):
        await eventually(lambda: len(sampler.history(fresh_name)) == KEPT_SAMPLES, 60)
        assert len(sampler.history()) == KEPT_SAMPLES
    assert sampler.history(fresh_name)
    assert sampler.history("never-sampled") == []


async def test_more_queues_than_one_sample_asks_for_take_turns(
    node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ui_sampler, "SAMPLE_SECONDS", 0.05)
    monkeypatch.setattr(ui_sampler, "SAMPLED_QUEUES", 3)
    monkeypatch.setattr(ui_sampler, "FRESH_QUEUES", 0)
    names = [f"{fresh_name}-{number}" for number in range(8)]
    for name in names:
        await node.add(name, "v")
    sampler = Sampler(node.node.broker)
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            await stack.enter_async_context(sampler.watch(View(ONE, name)))
        await eventually(lambda: all(sampler.history(name) for name in names), 30)


async def test_searches_are_made_one_at_a_time(
    node: NodeUnderTest, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page gets its turn, and is not told anything before."""
    monkeypatch.setattr(ui_sampler, "SAMPLE_SECONDS", 0.02)
    names = [f"{fresh_name}-{number}" for number in range(5)]
    for name in names:
        await node.add(name, "v")
    sampler = Sampler(node.node.broker)
    async with contextlib.AsyncExitStack() as stack:
        for name in names:
            watcher = await stack.enter_async_context(sampler.watch(View("search", name)))
            async with asyncio.timeout(PATIENCE_SECONDS):
                async with contextlib.aclosing(watcher.events()) as events:
                    event = await anext(events)
            assert f'"rows":{{"{name}":'.encode() in event
