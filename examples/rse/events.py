"""What the agent and the controller share: an RSE client of one channel's events.

It does what the protocol asks of clients: it makes a UUID of its own, names it in the
User-Agent, and remembers the highest id it has seen in a channel. So it misses nothing, gets
nothing twice, and does not hear itself.
"""

import argparse
import asyncio
import os
import sys
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

Event = dict[str, Any]

PAUSE_SECONDS = 5.0
"""Before another attempt, where the server cannot be reached or does not know how to wait."""

WAIT_SECONDS = 30
"""How long the server may hold an empty answer back; servers that cannot answer at once."""


class EventClient:
    """Posts and polls; a context manager that closes its connections."""

    def __init__(self, server: str, name: str, token: str | None) -> None:
        self._base = server.rstrip("/")
        headers = {"User-Agent": f"{name}/1.0 uuid/{uuid.uuid4()}"}
        if token:
            headers["X-Auth-Token"] = token
        self._session = aiohttp.ClientSession(headers=headers)

    async def __aenter__(self) -> "EventClient":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def post(self, channel: str, event: Event) -> None:
        """Post an event; raises ``aiohttp.ClientError`` if it may not have been stored."""
        async with self._session.post(self._base + channel, json=event) as response:
            response.raise_for_status()

    async def poll(self, channel: str, last_known_id: int = 0, **options: str) -> list[Event]:
        """Return the events of a channel after the last known one, the oldest first."""
        query = {"last-known-id": str(last_known_id), **options}
        async with self._session.get(self._base + channel, params=query) as response:
            response.raise_for_status()
            if response.status == 204:
                return []
            events: list[Event] = (await response.json())["events"]
            return events

    async def all(self, channel: str, **options: str) -> list[Event]:
        """Return all events of a channel: a poll answers with 200 at the most, unless it asks."""
        found: list[Event] = []
        while events := await self.poll(channel, found[-1]["id"] if found else 0, **options):
            found += events
        return found

    async def follow(self, channel: str) -> AsyncGenerator[Event]:
        """Yield the events of a channel for ever: those that are there, then those that come."""
        last_known_id = 0
        while True:
            started = asyncio.get_running_loop().time()
            try:
                events = await self.poll(channel, last_known_id, wait=str(WAIT_SECONDS))
            except aiohttp.ClientResponseError as error:
                if error.status != 503:
                    raise
                events = []
            except aiohttp.ClientError as error:
                note(f"{error}; trying again")
                events = []
            for event in events:
                last_known_id = event["id"]
                yield event
            if not events and asyncio.get_running_loop().time() - started < PAUSE_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)


def note(text: str) -> None:
    """Tell the person at the terminal what happens, apart from the results."""
    print(text, file=sys.stderr, flush=True)


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser of the options that both programs have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="name of the agent: letters, digits, _ and -")
    parser.add_argument(
        "--server",
        metavar="URL",
        default="http://127.0.0.1:8888/rse",
        help="where RSE is: /rse of a RestMQ server, or a port of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--token",
        default=os.environ.get("RSE_TOKEN"),
        help="what the server knows this client by; default: the variable RSE_TOKEN",
    )
    return parser
