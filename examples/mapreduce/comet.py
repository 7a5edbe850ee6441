"""What the parts of the map/reduce example share: the queues' names, and reading and writing them.

A part needs only HTTP: a POST to ``/q/QUEUE`` publishes, a GET of ``/c/QUEUE`` that never ends
delivers one JSON object a line. The leased variant asks for one message at a time with a GET of
``/q/QUEUE?lease=SECONDS``, and says that it is done with a DELETE of ``/lease/RECEIPT``.

The queues of a job named N are ``N:lines`` (pieces of text, from the loader to the mappers) and
``N:counts`` (partial counts, from the mappers to the reducer).
"""

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any
from urllib.parse import quote

import aiohttp

RECONNECT_SECONDS = 1.0
WAIT_SECONDS = 20

# A stream has no end, so only connecting and a broken socket may time out.
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)


class JobFailed(Exception):
    """The job cannot come to a right result; the text says why."""


def lines_queue(name: str) -> str:
    """Name the queue that carries pieces of text to the mappers."""
    return f"{name}:lines"


def counts_queue(name: str) -> str:
    """Name the queue that carries partial counts to the reducer."""
    return f"{name}:counts"


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Start a command line with the two options that every part has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        default="http://127.0.0.1:8888",
        help="the RestMQ server (default: %(default)s)",
    )
    parser.add_argument(
        "--name",
        default="mapreduce",
        help="first part of the queues' names; jobs that run at the same time need "
        "names of their own (default: %(default)s)",
    )
    return parser


def run_part(part: Coroutine[Any, Any, None]) -> None:
    """Run one part to its end; a failure ends the program with one line of text."""
    try:
        asyncio.run(part)
    except JobFailed as error:
        raise SystemExit(str(error)) from error
    except aiohttp.ClientError as error:
        raise SystemExit(f"the server cannot be used: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def route(server: str, prefix: str, queue: str) -> str:
    """Spell the URL of a queue under one of the server's routes, such as ``q`` or ``c``."""
    return f"{server.rstrip('/')}/{prefix}/{quote(queue, safe='')}"


async def post(session: aiohttp.ClientSession, url: str, **fields: str) -> str:
    """Post a form and return the answer; raises ``aiohttp.ClientError`` unless it is a 2xx."""
    async with session.post(url, data=fields, raise_for_status=True) as response:
        return (await response.text()).strip()


async def publish(
    session: aiohttp.ClientSession, server: str, queue: str, message: object, **parameters: str
) -> str:
    """Add one message, written as JSON text, and return its key."""
    return await post(session, route(server, "q", queue), value=json.dumps(message), **parameters)


async def lease(
    session: aiohttp.ClientSession, server: str, queue: str, lease_seconds: float
) -> dict[str, Any] | None:
    """Wait for a message and lease it; None if none comes for some time."""
    query = {"lease": f"{lease_seconds:g}", "wait": str(WAIT_SECONDS)}
    async with session.get(
        route(server, "q", queue), params=query, raise_for_status=True
    ) as response:
        return None if response.status == 204 else await response.json()


async def never_give_up(session: aiohttp.ClientSession, server: str, queue: str) -> None:
    """Let a queue deliver a message again however often its consumers are killed."""
    url = route(server, "settings", queue)
    async with session.patch(url, json={"max_attempts": 0}, raise_for_status=True):
        pass


async def acknowledge(session: aiohttp.ClientSession, server: str, receipt: str) -> None:
    """Say that the work on a leased message is done.

    A lease that ran out meanwhile (409) is no failure: somebody else has the message now, or has
    finished it, and whoever finishes second adds nothing.
    """
    async with session.delete(route(server, "lease", receipt)) as response:
        if response.status != 409:
            response.raise_for_status()


async def delete(session: aiohttp.ClientSession, server: str, queue: str) -> None:
    """Empty a queue and end the streams of everyone who listens to it."""
    async with session.delete(route(server, "q", queue), raise_for_status=True):
        pass


async def consume(
    session: aiohttp.ClientSession, server: str, queue: str, on_open: Callable[[], None]
) -> AsyncGenerator[Any]:
    """Yield each message of a queue, read as JSON, until somebody deletes the queue.

    ``on_open`` is called when the server has accepted the stream. A stream that breaks is opened
    again; one that ends properly means that the queue was deleted, which ends the job.
    """
    while True:
        try:
            async with session.get(
                route(server, "c", queue), timeout=STREAM_TIMEOUT, raise_for_status=True
            ) as response:
                on_open()
                async for line in whole_lines(response.content):
                    yield json.loads(json.loads(line)["value"])
                return
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
            await asyncio.sleep(RECONNECT_SECONDS)


async def whole_lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Cut a stream of bytes into lines of any length; what no line end follows is dropped."""
    unfinished = bytearray()
    async for received in content.iter_any():
        *complete, rest = received.split(b"\n")
        for line in complete:
            unfinished += line
            if text := bytes(unfinished).strip():
                yield text
            unfinished.clear()
        unfinished += rest
