"""Print each message of a queue as it comes, for as long as you like.

    python comet_consumer.py test
    curl -d value=foobar http://127.0.0.1:8888/q/test        (in another terminal)

Shows how little a consumer needs: one GET of /c/QUEUE that never ends and carries one
JSON object a line. A connection that is lost is opened again, after pauses that grow to
--pause-seconds; messages wait in the queue meanwhile. Delivery to a stream is at most
once: what the server had already sent when the connection broke does not come again.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote

import aiohttp

FIRST_PAUSE_SECONDS = 0.25

# The stream has no end, so only connecting may time out.
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)


async def lines(session: aiohttp.ClientSession, url: str) -> AsyncGenerator[bytes]:
    """Yield each line of one stream, of any length; ends when the server ends the stream."""
    async with session.get(url, timeout=STREAM_TIMEOUT, raise_for_status=True) as response:
        note(f"listening to {url}")
        unfinished = b""
        async for received in response.content.iter_any():
            *complete, unfinished = (unfinished + received).split(b"\n")
            for line in complete:
                if line.strip():
                    yield line


async def messages(url: str, pause_seconds: float) -> AsyncGenerator[dict[str, str]]:
    """Yield each message of a queue for ever, connecting again whenever the stream ends.

    Raises ``aiohttp.ClientResponseError`` when the server refuses the request for good.
    """
    pause = FIRST_PAUSE_SECONDS
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with aclosing(lines(session, url)) as stream:
                    async for line in stream:
                        pause = FIRST_PAUSE_SECONDS
                        yield json.loads(line)
                reason = "the server ended the stream"
            except aiohttp.ClientResponseError as error:
                if error.status != 503:
                    raise
                reason = "the server is not ready"
            except aiohttp.ClientError as error:
                reason = f"connection lost: {error}"
            pause = min(pause, pause_seconds)
            note(f"{reason}; trying again in {pause:g} s")
            await asyncio.sleep(pause)
            pause *= 2


async def consume(url: str, pause_seconds: float, count: int | None, values_only: bool) -> None:
    """Print messages, at most ``count`` of them when a count is given."""
    printed = 0
    async with aclosing(messages(url, pause_seconds)) as stream:
        async for message in stream:
            text = message["value"] if values_only else f"{message['key']}  {message['value']}"
            print(text, flush=True)
            printed += 1
            if printed == count:
                return


def note(text: str) -> None:
    """Tell the person at the terminal what happens, apart from the messages."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line and consume one queue."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queue")
    parser.add_argument(
        "--server",
        metavar="URL",
        default="http://127.0.0.1:8888",
        help="the RestMQ server; may hold user:password@ (default: %(default)s)",
    )
    parser.add_argument("--count", type=int, metavar="N", help="end after so many messages")
    parser.add_argument("--values", action="store_true", help="print values without their keys")
    parser.add_argument(
        "--pause-seconds",
        type=float,
        default=10,
        metavar="N",
        help="longest pause before connecting again (default: %(default)s)",
    )
    arguments = parser.parse_args()
    url = f"{arguments.server.rstrip('/')}/c/{quote(arguments.queue, safe='')}"
    try:
        asyncio.run(consume(url, arguments.pause_seconds, arguments.count, arguments.values))
    except aiohttp.ClientResponseError as error:
        raise SystemExit(f"refused: {error.status} {error.message}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
