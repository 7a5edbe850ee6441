"""What one process of the server needs of its surroundings: loop, signals, logging, limits."""

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol, TypeVar

from restmq import log_lines
from restmq.settings import Settings

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Follower(Protocol):
    """What follows a file: acl.conf, or the settings of queues."""

    async def reload_if_changed(self) -> bool:
        """Look at the file now; returns whether anything has changed."""


def run_loop(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the fastest event loop there is."""
    if sys.platform == "win32":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


@contextlib.asynccontextmanager
async def reload_on_hangup(*followers: Follower) -> AsyncIterator[None]:
    """Have those that follow a file look at it at once when SIGHUP comes."""
    hangup = asyncio.Event()

    async def reload() -> None:
        while True:
            await hangup.wait()
            hangup.clear()
            for follower in followers:
                try:
                    await follower.reload_if_changed()
                except Exception:  # the next SIGHUP must still be heard
                    logger.exception("a file could not be read again")

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    task = loop.create_task(reload(), name="reload-on-hangup")
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def stop_signal() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def set_up_logging(settings: Settings) -> None:
    """Log one line an event to standard error, in the form that the settings ask for."""
    log_lines.set_up(settings.log_level, settings.log_format)


def tune_garbage_collection() -> None:
    """Look for garbage less often, and never among what was there at the start.

    Nearly everything here is freed by its reference count; with thousands of open streams a
    collection walks millions of objects to find nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def raise_file_limit() -> None:
    """Allow as many connections as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
