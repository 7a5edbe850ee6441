"""Nodes and Redis are killed while channels and Queuey's queues are written, read and followed.

Writers go on with something new whatever they are told, so what is known to be stored is what was
acknowledged. At the end every such message is there once under its id, a live stream has brought
all of them in order over every interruption, and a cursor never went back.
"""

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from restmq.codecs.sse import EventParser
from restmq.redis_process import RedisProcess
from tests.process.test_survival import (
    LONGEST_OUTAGE_SECONDS,
    REQUEST_TIMEOUT,
    Nodes,
    kill_redis,
    restart,
)
from tests.server_process import running_server
from tests.support import POLL_SECONDS, eventually

WRITERS = 2
WRITES_BETWEEN_KILLS = 15
KEY = {"Authorization": "Application K"}
LOST = (aiohttp.ClientError, TimeoutError)


class Place:
    """Something that is written to and followed: how its requests and events look."""

    write_path = stream_path = ""

    def body(self, text: str) -> dict[str, Any]:
        """Return how a message is sent."""
        raise NotImplementedError

    def written_id(self, answer: Any) -> str:
        """Return the id that the answer to a write tells."""
        raise NotImplementedError

    def read(self, event: Any) -> tuple[str, str]:
        """Return id and text of a message that a reader gets."""
        raise NotImplementedError

    def order(self, message_id: str) -> Any:
        """Return what ids are ordered by."""
        raise NotImplementedError


class Channel(Place):
    """A channel of rivulet."""

    def __init__(self, name: str) -> None:
        self.write_path = self.stream_path = f"/channels/{name}"
        self.stream_path += "?after=0"

    def body(self, text: str) -> dict[str, Any]:
        return {"data": text}

    def written_id(self, answer: Any) -> str:
        return str(answer["id"])

    def read(self, event: Any) -> tuple[str, str]:
        return str(event["id"]), event["data"]

    def order(self, message_id: str) -> Any:
        return int(message_id)


class QueueyQueue(Place):
    """A queue of Queuey."""

    def __init__(self, name: str) -> None:
        self.write_path = self.stream_path = f"/v1/app/{name}"

    def body(self, text: str) -> dict[str, Any]:
        return {"messages": [{"body": text, "partition": 1}]}

    def written_id(self, answer: Any) -> str:
        [message] = answer["messages"]
        return str(message["key"])

    def read(self, event: Any) -> tuple[str, str]:
        return event["message_id"], event["body"]

    def order(self, message_id: str) -> Any:
        low, middle, high = message_id[:8], message_id[8:12], message_id[13:16]
        return high + middle + low + message_id[16:]


class World:
    """One node after the other is asked, as any may be dead."""

    def __init__(self, session: aiohttp.ClientSession, nodes: Nodes) -> None:
        self.session = session
        self._urls = itertools.cycle(node.url for node in nodes)
        self.stopped = False
        self.refusals = 0

    def url(self, path: str) -> str:
        """Return where to ask next."""
        return next(self._urls) + path

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        """Return the JSON of the answer; None if there was none, or a refusal."""
        try:
            async with self.session.request(
                method, self.url(path), json=body, headers=KEY
            ) as answer:
                if answer.status in (200, 201):
                    return await answer.json()
                assert answer.status == 503, await answer.text()
        except LOST:
            pass
        self.refusals += 1
        await asyncio.sleep(POLL_SECONDS)
        return None


class Follower:
    """Writes to one place and follows it, and keeps what it learns."""

    def __init__(self, world: World, place: Place) -> None:
        self._world = world
        self._place = place
        self.stored: list[tuple[str, str]] = []
        """Id and text of what was acknowledged."""
        self.streamed: list[tuple[str, str]] = []
        self.streams = 0

    async def write(self, name: str) -> None:
        """Write until told to stop."""
        for turn in itertools.count():
            if self._world.stopped:
                return
            text = f"{name} {turn}"
            answer = await self._world.ask("POST", self._place.write_path, self._place.body(text))
            if answer is not None:
                self.stored.append((self._place.written_id(answer), text))

    async def follow(self) -> None:
        """Follow, and come back whenever the stream ends, until cancelled."""
        last = ""
        while True:
            headers = {**KEY, "Accept": "text/event-stream"}
            if last:
                headers["Last-Event-ID"] = last
            url = self._world.url(self._place.stream_path)
            endless = aiohttp.ClientTimeout(total=None)
            with contextlib.suppress(*LOST):
                async with self._world.session.get(url, headers=headers, timeout=endless) as answer:
                    if answer.status == 200:
                        self.streams += 1
                        last = await self._receive(answer, last)
            await asyncio.sleep(POLL_SECONDS)

    async def _receive(self, answer: aiohttp.ClientResponse, last: str) -> str:
        parser = EventParser()
        with contextlib.suppress(*LOST):
            async for data in answer.content.iter_any():
                for event in parser.receive_data(data):
                    assert event.event == "message", event
                    self.streamed.append(self._place.read(json.loads(event.data)))
                    last = event.id
        return last

    def check(self) -> None:
        """See that nothing was lost, repeated, or out of order."""
        ids = [message_id for message_id, _ in self.stored]
        assert len(set(ids)) == len(ids)
        orders = [self._place.order(message_id) for message_id, _ in self.streamed]
        assert all(one < other for one, other in itertools.pairwise(orders))
        assert set(self.stored) <= set(self.streamed)
        assert self.streams > 1


class CursorReader:
    """Reads a channel as one client."""

    def __init__(self, world: World, channel: str) -> None:
        self._world = world
        self._path = f"/cursors/{channel}-client"
        self._channel = channel
        self.ids: list[int] = []
        self.cursors: list[int] = []

    async def subscribe(self) -> None:
        """Begin with the first message."""
        path = f"{self._path}/{self._channel}?policy=earliest"
        assert await self._world.ask("PUT", path) is not None

    async def run(self) -> None:
        """Read, and look where the cursor is, until told to stop."""
        while not self._world.stopped:
            found = await self._world.ask("POST", f"{self._path}/read?limit=20&bufsize=100000")
            self.ids += [each["id"] for each in (found or {}).get(self._channel, [])]
            shown = await self._world.ask("GET", self._path)
            if shown is not None:
                self.cursors.append(shown["subscriptions"][self._channel])
            await asyncio.sleep(POLL_SECONDS)

    def check(self) -> None:
        """See that it never went back."""
        assert all(one < other for one, other in itertools.pairwise(self.ids))
        assert all(one <= other for one, other in itertools.pairwise(self.cursors))
        assert self.ids
        assert self.cursors


@contextlib.asynccontextmanager
async def redis_and_nodes(directory: Path) -> AsyncIterator[tuple[RedisProcess, Nodes]]:
    """Run a Redis that writes to disk before it answers, and two nodes over it."""
    async with RedisProcess(directory / "r", fsync="always") as redis:
        flags = ("--redis-url", redis.url, "--queuey-application-keys", "app=K")
        async with (
            running_server(directory, *flags, data_dir="a") as first,
            running_server(directory, *flags, data_dir="b") as second,
        ):
            yield redis, (first, second)


async def more_stored(followers: list[Follower]) -> None:
    """Wait until so much more was acknowledged everywhere."""
    goals = [len(follower.stored) + WRITES_BETWEEN_KILLS for follower in followers]
    await eventually(
        lambda: all(len(f.stored) >= goal for f, goal in zip(followers, goals, strict=True)),
        LONGEST_OUTAGE_SECONDS,
    )


async def test_logs_lose_nothing_and_never_go_back_whatever_is_killed(
    tmp_path_factory: pytest.TempPathFactory, fresh_name: str
) -> None:
    # Not tmp_path, whose name may be too long for a socket in it.
    directory = tmp_path_factory.mktemp("s")
    async with (
        redis_and_nodes(directory) as (redis, nodes),
        aiohttp.ClientSession(timeout=REQUEST_TIMEOUT) as session,
    ):
        url = f"{nodes[0].url}/v1/app"
        async with session.post(url, data={"queue_name": "q"}, headers=KEY) as answer:
            assert answer.status == 201
        world = World(session, nodes)
        reader = CursorReader(world, fresh_name)
        await reader.subscribe()
        followers = [Follower(world, place) for place in (Channel(fresh_name), QueueyQueue("q"))]
        async with asyncio.TaskGroup() as following:
            streams = [following.create_task(each.follow()) for each in followers]
            async with asyncio.TaskGroup() as working:
                working.create_task(reader.run())
                for follower, number in itertools.product(followers, range(WRITERS)):
                    working.create_task(follower.write(f"writer-{number}"))
                await more_stored(followers)
                await restart(nodes[0])
                await more_stored(followers)
                await kill_redis(redis)
                await more_stored(followers)
                await asyncio.gather(kill_redis(redis), restart(nodes[1]))
                await more_stored(followers)
                world.stopped = True
            await eventually(
                lambda: all(set(each.stored) <= set(each.streamed) for each in followers),
                LONGEST_OUTAGE_SECONDS,
            )
            for stream in streams:
                stream.cancel()
        assert world.refusals > 0
        for follower in followers:
            follower.check()
        reader.check()
