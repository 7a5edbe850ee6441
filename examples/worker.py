"""A worker: leases messages of a queue, does something with each, and loses none of them.

    python worker.py jobs

It leases one message after the other, calls work() with its value, and acknowledges it. While
work() runs the lease is extended, so that it may take as long as it needs. What fails goes back
to the queue and is tried again later, each time after a longer pause; after five attempts (the
setting max_attempts) it is a dead letter, to be seen at /dead/QUEUE. A worker that is killed
loses nothing: its lease runs out, and another worker gets the message. SIGTERM or Ctrl-C let it
finish the message in hand first.

work() sleeps for as many seconds as the value says, and fails for what is no number; put yours in
its place. Messages may come twice, so it must not matter if the same one is done again.
"""

import argparse
import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import aiohttp

LEASE_SECONDS = 30
WAIT_SECONDS = 20
LONGEST_PAUSE_SECONDS = 600
AWAY_SECONDS = 2


async def work(value: str) -> None:
    """Do what the message asks for; whatever is raised means that it failed."""
    await asyncio.sleep(float(value))


class Worker:
    """Works off one queue of one server."""

    def __init__(self, session: aiohttp.ClientSession, server: str, queue: str) -> None:
        """Begin nothing yet."""
        self._session = session
        self._server = server.rstrip("/")
        self._queue = queue

    async def run(self, stop: asyncio.Event) -> None:
        """Handle message after message until told to stop."""
        stopping = asyncio.create_task(stop.wait())
        while not stop.is_set():
            asking = asyncio.create_task(self._lease())
            await asyncio.wait([asking, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                asking.cancel()
                with suppress(asyncio.CancelledError):
                    await asking
                return
            try:
                if message := asking.result():
                    await self._handle(message)
            except aiohttp.ClientConnectionError as error:
                print(f"the server is away: {error}", flush=True)
                await asyncio.wait([stopping], timeout=AWAY_SECONDS)
        await stopping

    async def _lease(self) -> dict[str, Any] | None:
        url = f"{self._server}/q/{quote(self._queue, safe='')}"
        query = {"lease": LEASE_SECONDS, "wait": WAIT_SECONDS}
        async with self._session.get(url, params=query, raise_for_status=True) as response:
            return None if response.status == 204 else await response.json()

    async def _handle(self, message: dict[str, Any]) -> None:
        try:
            async with self._extended(message["receipt"]):
                await work(message["value"])
        except Exception as error:
            pause_seconds = min(2 ** message["attempt"], LONGEST_PAUSE_SECONDS)
            print(f"{message['key']} failed: {error}; again in {pause_seconds} s", flush=True)
            await self._settle("POST", message["receipt"], release=pause_seconds)
        else:
            await self._settle("DELETE", message["receipt"])
            print(f"{message['key']} done", flush=True)

    @asynccontextmanager
    async def _extended(self, receipt: str) -> Any:
        """Extend the lease at half of its time, for as long as the block runs."""

        async def extend() -> None:
            while True:
                await asyncio.sleep(LEASE_SECONDS / 2)
                await self._settle("POST", receipt, extend=LEASE_SECONDS)

        task = asyncio.create_task(extend())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _settle(self, method: str, receipt: str, **fields: int) -> None:
        url = f"{self._server}/lease/{receipt}"
        async with self._session.request(method, url, data=fields) as response:
            if response.status == 409:
                print("the lease had run out, so the message comes again", flush=True)
            else:
                response.raise_for_status()


async def run(server: str, queue: str) -> None:
    """Work until a signal."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with aiohttp.ClientSession() as session:
        await Worker(session, server, queue).run(stop)


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("queue")
    parser.add_argument("--server", metavar="URL", default="http://127.0.0.1:8888")
    arguments = parser.parse_args()
    try:
        asyncio.run(run(arguments.server, arguments.queue))
    except aiohttp.ClientError as error:
        raise SystemExit(f"the server cannot be used: {error}") from error


if __name__ == "__main__":
    main()
