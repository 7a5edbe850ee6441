"""What the server tells the service manager that started it: ready, stopping, still alive.

It follows the protocol of systemd, sd_notify(3): lines ``NAME=VALUE`` in one datagram to the unix
socket that ``NOTIFY_SOCKET`` names. Without that variable nothing is told to anybody.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Final

logger = logging.getLogger(__name__)

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
ALIVE: Final = "WATCHDOG=1"

_SHORTEST_PAUSE_SECONDS: Final = 0.05


def notify(environ: Mapping[str, str], *lines: str) -> bool:
    """Send lines such as ``READY=1``; returns whether somebody was there to take them.

    What goes wrong is logged and no more: the server serves whether its manager knows or not.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address[0] == "@":  # a name in the abstract namespace of Linux
        address = "\0" + address[1:]
    elif address[0] != "/":
        logger.warning("NOTIFY_SOCKET is no unix socket, so the service manager is told nothing")
        return False
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            sender.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        logger.warning("the service manager could not be told %s: %s", lines[0], error)
        return False
    return True


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """Return how often a sign of life is wanted of this process; None if it is not."""
    process, microseconds = environ.get("WATCHDOG_PID"), environ.get("WATCHDOG_USEC", "")
    if process not in (None, "", str(os.getpid())):
        return None
    if not (microseconds.isascii() and microseconds.isdigit() and len(microseconds) <= 18):
        return None
    return int(microseconds) / 1_000_000 or None


@contextlib.asynccontextmanager
async def watched(environ: Mapping[str, str]) -> AsyncIterator[None]:
    """Give signs of life from this event loop for as long as the context lasts.

    They come twice as often as they are wanted, and stop when the loop does.
    """
    seconds = watchdog_seconds(environ)
    if seconds is None or "NOTIFY_SOCKET" not in environ:
        yield
        return

    async def give_signs() -> None:
        pause_seconds = max(seconds / 2, _SHORTEST_PAUSE_SECONDS)
        while True:
            notify(environ, ALIVE)
            await asyncio.sleep(pause_seconds)

    task = asyncio.get_running_loop().create_task(give_signs(), name="watchdog")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
