"""The second Redis, for queues with storage=memory: who knows its address, and when it is started.

Either someone named it with ``--memory-redis-url``, or the server starts a private one, without
persistence, at the first question for its address. With several workers it belongs to their
parent process, which they ask over a unix socket: it answers each connection with one line of
JSON, ``{"url": "..."}`` or ``{"error": "..."}``, and closes it.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, Self

import msgspec

from restmq.errors import InvalidInput, RestMQError, StartupError, Unavailable

logger = logging.getLogger(__name__)

ASK_TIMEOUT_SECONDS = 60.0
LONGEST_ANSWER_BYTES = 4096
SOCKET_NAME = "memory.sock"

MemoryRedisUrl = Callable[[], Awaitable[str]]
"""Finds the address, and starts the Redis if need be. Raises Unavailable if it cannot be started,
InvalidInput if the server was not given the settings it needs for queues in memory."""


class RedisStarter(Protocol):
    """What is wanted of the process of the private Redis."""

    @property
    def url(self) -> str:
        """The address, once it has been started."""

    async def start(self) -> None:
        """Start it; raises StartupError."""

    async def stop(self) -> None:
        """Stop it, be it started or not."""


class NamedMemoryRedis:
    """A Redis that someone else runs, or none at all."""

    def __init__(self, url: str) -> None:
        """Take the value of the setting ``memory_redis_url``, which may be empty."""
        self._url = url

    async def url(self) -> str:
        """Return the address; InvalidInput if there is none."""
        if not self._url:
            raise InvalidInput(
                "storage cannot be memory here: the server needs a second Redis for that, which "
                "must be named with --memory-redis-url where the first one was named"
            )
        return self._url


class _FoundOnce(ABC):
    """An address that is found at the first call and remembered; use it with ``async with``.

    Calls that come while it is being found share one attempt. After a failure the next call tries
    again.
    """

    def __init__(self) -> None:
        self._url: str | None = None
        self._attempt: asyncio.Task[None] | None = None

    async def url(self) -> str:
        """Return the address; raises Unavailable if it cannot be found now."""
        while self._url is None:
            if self._attempt is None or self._attempt.done():
                loop = asyncio.get_running_loop()
                self._attempt = loop.create_task(self._remember(), name="find the memory Redis")
            # A client that leaves must not end the attempt for the others.
            await asyncio.shield(self._attempt)
        return self._url

    async def _remember(self) -> None:
        self._url = await self._find()

    @abstractmethod
    async def _find(self) -> str:
        """Find the address."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)


class PrivateMemoryRedis(_FoundOnce):
    """Starts the private Redis when first asked, and stops it at the end."""

    def __init__(self, process: RedisStarter) -> None:
        super().__init__()
        self._process = process

    async def _find(self) -> str:
        try:
            await self._process.start()
        except StartupError as error:
            logger.error("%s", error)
            raise Unavailable(
                "the Redis for queues in memory cannot be started; the log of the server says why"
            ) from error
        return self._process.url

    async def __aexit__(self, *exception: object) -> None:
        try:
            await super().__aexit__(*exception)
        finally:
            await self._process.stop()


class _Answer(msgspec.Struct, omit_defaults=True):
    """What the parent process tells a worker: one of the two."""

    url: str = ""
    error: str = ""


class MemoryRedisServer:
    """In the parent process: tells workers the address. Use it with ``async with``.

    The directory of the socket must be one that only this user may enter.
    """

    def __init__(self, memory_redis_url: MemoryRedisUrl, socket_path: Path) -> None:
        self._memory_redis_url = memory_redis_url
        self._socket_path = socket_path
        self._server: asyncio.Server | None = None
        self._answers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._socket_path.unlink(missing_ok=True)  # that of a server that was killed
        self._server = await asyncio.start_unix_server(self._accept, self._socket_path)
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._server is not None:
            self._server.close()
            self._socket_path.unlink(missing_ok=True)
        for task in self._answers:
            task.cancel()
        await asyncio.gather(*self._answers, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The reader is only held: asyncio ends connections whose reader nobody has.
        try:
            answer = await self._find_answer()
            writer.write(msgspec.json.encode(answer) + b"\n")
            with contextlib.suppress(OSError):  # the worker has gone
                await writer.drain()
        finally:
            writer.close()

    async def _find_answer(self) -> _Answer:
        try:
            return _Answer(url=await self._memory_redis_url())
        except RestMQError as error:
            return _Answer(error=str(error))
        except Exception:
            logger.exception("the memory Redis could not be started")
            return _Answer(error="the Redis for queues in memory could not be started")


class AskedMemoryRedis(_FoundOnce):
    """In a worker: asks the parent process for the address, and remembers it."""

    def __init__(self, socket_path: Path) -> None:
        super().__init__()
        self._socket_path = socket_path

    async def _find(self) -> str:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_SECONDS):
                line = await self._ask()
            answer = msgspec.json.decode(line, type=_Answer)
        except (OSError, ValueError) as error:
            logger.error("the server does not tell the address of the memory Redis: %r", error)
            raise Unavailable("the server cannot say now where queues in memory are") from error
        if not answer.url:
            raise Unavailable(answer.error or "the server does not say where queues in memory are")
        return answer.url

    async def _ask(self) -> bytes:
        reader, writer = await asyncio.open_unix_connection(
            self._socket_path, limit=LONGEST_ANSWER_BYTES
        )
        try:
            return await reader.readline()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
