"""No poller misses an event or gets one twice, however many post at once, on however many nodes."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from restmq.codecs.sse import EventParser
from tests.server_process import running_server

POSTERS = 16
EVENTS_EACH = 50
CHANNELS = ("/race", "/race/a", "/race/a/b", "/race-b", "/race/a/bc")
DEADLINE_SECONDS = 60

# Which of the channels a query of this kind sees.
QUERIES = {
    "/race/a?x=": {"/race/a"},
    "/race/a/b?events=parent": {"/race", "/race/a", "/race/a/b"},
    "/race/a?events=all": {"/race/a", "/race/a/b", "/race/a/bc"},
    "/race?events=all": {"/race", "/race/a", "/race/a/b", "/race/a/bc"},
}


@asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[tuple[str, str]]:
    """Run two nodes over one Redis; yields where RSE is on each."""
    flags = ("--rse-test-mode", "true", "--fsync", "no")
    async with running_server(directory, *flags, data_dir="a") as first:
        redis_url = f"unix://{first.data_dir}/run/redis.sock"
        flags = ("--rse-test-mode", "true", "--redis-url", redis_url)
        async with running_server(directory, *flags, data_dir="b") as second:
            yield f"{first.url}/rse", f"{second.url}/rse"


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """Open a client with a UUID of its own."""
    agent = {"User-Agent": f"race/1 uuid/{uuid.uuid4()}"}
    async with aiohttp.ClientSession(headers=agent) as session:
        yield session


async def post(base: str, poster: int) -> None:
    """Post events to one channel after the other."""
    async with client() as session:
        for number in range(EVENTS_EACH):
            channel = CHANNELS[(poster + number) % len(CHANNELS)]
            event = {"from": poster, "number": number, "channel": channel}
            async with session.post(base + channel, json=event) as answer:
                assert answer.status == 201


class Seen:
    """What one reader got."""

    def __init__(self, channels: set[str]) -> None:
        self.channels = channels
        self.wanted = {
            (poster, number)
            for poster in range(POSTERS)
            for number in range(EVENTS_EACH)
            if CHANNELS[(poster + number) % len(CHANNELS)] in channels
        }
        self.last_known_id = 0
        self.events: list[tuple[int, int]] = []

    def take(self, event: dict[str, object]) -> None:
        """Take the next event, whose id must be higher than any before."""
        number, data = event["id"], event["data"]
        assert isinstance(number, int)
        assert isinstance(data, dict)
        assert number > self.last_known_id
        assert data["channel"] in self.channels
        self.last_known_id = number
        self.events.append((data["from"], data["number"]))

    @property
    def is_complete(self) -> bool:
        """Whether everything has come that was posted."""
        return len(self.events) >= len(self.wanted)


async def poll(base: str, query: str, channels: set[str], limit: int) -> Seen:
    """Poll from the highest id seen on, until everything has come."""
    seen = Seen(channels)
    async with client() as session:
        while not seen.is_complete:
            url = f"{base}{query}&max-events={limit}&last-known-id={seen.last_known_id}"
            async with session.get(url) as answer:
                if answer.status == 204:
                    continue
                assert answer.status == 200
                for event in (await answer.json())["events"]:
                    seen.take(event)
    return seen


async def listen(base: str, query: str, channels: set[str]) -> Seen:
    """Read a live stream, leaving and resuming in between, until everything has come."""
    seen = Seen(channels)
    async with client() as session:
        while not seen.is_complete:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seen.last_known_id)}
            async with session.get(base + query, headers=headers) as answer:
                parser, enough = EventParser(), len(seen.events) + 100
                while not seen.is_complete and len(seen.events) < enough:
                    for event in parser.receive_data(await answer.content.readany()):
                        seen.take(json.loads(event.data))
                        assert event.id == str(seen.last_known_id)
    return seen


async def test_no_reader_misses_or_repeats_an_event(tmp_path: Path) -> None:
    """Pollers and streams on exact, parent and all, on both nodes, while 16 post."""
    async with two_nodes(tmp_path) as bases, asyncio.timeout(DEADLINE_SECONDS):
        async with asyncio.TaskGroup() as tasks:
            readers = [
                tasks.create_task(poll(bases[index % 2], query, channels, limit=3 + 40 * index))
                for index, (query, channels) in enumerate(QUERIES.items())
            ]
            readers += [
                tasks.create_task(listen(base, query, channels))
                for base, (query, channels) in zip(bases * 2, QUERIES.items(), strict=True)
            ]
            for poster in range(POSTERS):
                tasks.create_task(post(bases[poster % 2], poster))
        for reader in readers:
            seen = reader.result()
            assert len(seen.events) == len(seen.wanted)
            assert set(seen.events) == seen.wanted
