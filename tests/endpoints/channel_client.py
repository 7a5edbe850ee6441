"""A client of ``/channels`` and ``/cursors`` for tests, and a reader of their live streams."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

from restmq.codecs.sse import Event, EventParser

DEADLINE_SECONDS = 20


class Channels:
    """The routes, as methods; every answer but those expected is an AssertionError."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def call(
        self, method: str, path: str, expected: int, **options: Any
    ) -> tuple[bytes, dict[str, str]]:
        """Send one request, its path taken literally; returns the body and the headers."""
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, **options) as answer:
            body = await answer.read()
            assert answer.status == expected, (method, path, answer.status, body)
            return body, dict(answer.headers)

    async def json(self, method: str, path: str, expected: int = 200, **options: Any) -> Any:
        """Send one request, and return the JSON of the answer."""
        return json.loads((await self.call(method, path, expected, **options))[0])

    async def write(self, channel: str, *values: object, source: str = "w") -> list[Any]:
        """Write messages, one after the other; returns their envelopes."""
        path = f"/channels/{segment(channel)}"
        return [
            await self.json("POST", path, 201, json={"data": value, "src": source})
            for value in values
        ]

    async def subscribe(self, client: str, channel: str, policy: str = "") -> int:
        """Subscribe; returns the cursor."""
        path = f"/cursors/{segment(client)}/{segment(channel)}"
        answer = await self.json("PUT", path + (f"?policy={policy}" if policy else ""))
        assert (answer["client"], answer["channel"]) == (client, channel)
        cursor: int = answer["cursor"]
        return cursor

    async def unsubscribe(self, client: str, channel: str) -> None:
        """Unsubscribe."""
        await self.call("DELETE", f"/cursors/{segment(client)}/{segment(channel)}", 204)

    async def read(self, client: str, query: str = "") -> dict[str, list[Any]]:
        """Read everything that is new, as data by channel."""
        answer = await self.json("POST", f"/cursors/{segment(client)}/read{query}")
        return {name: [each["data"] for each in messages] for name, messages in answer.items()}

    async def retained(self, channel: str) -> list[int]:
        """Return the ids of what is still there."""
        path = f"/channels/{segment(channel)}/messages?limit=10000"
        return [each["id"] for each in (await self.json("GET", path))["messages"]]

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, last_event_id: str | None = None
    ) -> AsyncIterator["EventReader"]:
        """Open a live stream."""
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        url = URL(self.url + path, encoded=True)
        async with self.session.get(url, headers=headers) as answer:
            assert answer.status == 200, (answer.status, await answer.read())
            assert answer.content_type == "text/event-stream"
            yield EventReader(answer)


class EventReader:
    """Reads one stream."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer
        self._events: list[Event] = []
        self.raw = b""
        """All that came so far."""
        self.parser = EventParser()

    async def event(self) -> Event:
        """Return the next event; AssertionError if the stream ends before."""
        event = await self.event_or_end()
        assert event is not None, "the stream ended"
        return event

    async def event_or_end(self) -> Event | None:
        """Return the next event, or None when the stream ends in good order."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not self._events:
                chunk = await self._answer.content.readany()
                if not chunk:
                    return None
                self.raw += chunk
                self._events += self.parser.receive_data(chunk)
        return self._events.pop(0)

    async def messages(self, count: int) -> list[Any]:
        """Return the data of the next events."""
        return [json.loads((await self.event()).data)["data"] for _ in range(count)]

    async def until(self, text: bytes) -> None:
        """Read until these bytes came."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while text not in self.raw:
                chunk = await self._answer.content.readany()
                assert chunk, "the stream ended"
                self.raw += chunk
                self._events += self.parser.receive_data(chunk)


def segment(name: str) -> str:
    """Encode a name for a path."""
    return quote(name, safe="")
