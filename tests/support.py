"""What tests share: polling with a deadline, free ports, a Redis on a thread of its own."""

import asyncio
import contextlib
import inspect
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from restmq.redis_process import RedisProcess

Result = TypeVar("Result")

POLL_SECONDS = 0.01
START_TIMEOUT_SECONDS = 60


async def eventually(
    predicate: Callable[[], Result | Awaitable[Result]], timeout_seconds: float = 10
) -> Result:
    """Call ``predicate``, plain or async, until it returns something true, and return that.

    Raises AssertionError that tells the predicate and its last answer after ``timeout_seconds``.
    An exception of the predicate is not held back.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while True:
        answer = predicate()
        result = await answer if inspect.isawaitable(answer) else answer
        if result:
            return result
        if loop.time() >= deadline:
            name = getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(
                f"{name} was still not true after {timeout_seconds} s; it last returned {result!r}"
            )
        await asyncio.sleep(POLL_SECONDS)


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def redis_on_a_thread(data_dir: Path) -> Iterator[str]:
    """Run a private Redis and yield its URL.

    Its event loop lives on a thread of its own, so that it outlives the loops of single tests.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="private Redis of the tests")
    thread.start()
    try:
        redis = RedisProcess(data_dir, fsync="no")
        asyncio.run_coroutine_threadsafe(redis.start(), loop).result(START_TIMEOUT_SECONDS)
        try:
            yield redis.url
        finally:
            asyncio.run_coroutine_threadsafe(redis.stop(), loop).result(START_TIMEOUT_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
