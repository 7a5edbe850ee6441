"""Asks a memcached whether it holds a key, which is all that this server wants of one.

It speaks memcached's text protocol, of which it needs the one command ``get``. All questions go
over one connection, one behind the other; a value is read and dropped, however long it is.
"""

import asyncio
import contextlib
import re
from collections import deque

from restmq.errors import Overloaded, Unavailable

DEFAULT_PORT = 11211
MAX_KEY_BYTES = 250

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0
"""A memcached that takes longer than this to answer counts as out of reach."""

PAUSE_SECONDS = 1.0
"""After it could not be reached, nobody tries again, or waits for that, for so long."""

MAX_WAITING = 10_000
"""Questions that may wait for their answers."""

_PIECE_BYTES = 64 * 1024
_KEY = re.compile(rb"[!-~]{1,%d}" % MAX_KEY_BYTES)
_END = b"END\r\n"
_VALUE = re.compile(rb"VALUE [!-~]+ [0-9]+ ([0-9]{1,18})(?: [0-9]+)?\r\n")


class _Lost(Unavailable):
    """The connection ended before the answer came."""


class Memcached:
    """One memcached; connects when it is first asked."""

    def __init__(self, host: str, port: int = DEFAULT_PORT) -> None:
        self._host = host
        self._port = port
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._retry_time = 0.0

    async def has(self, key: bytes) -> bool:
        """Return whether there is a value under the key; a key that none can have has none.

        Raises ``Unavailable`` when memcached is out of reach, or too many questions wait.
        """
        if not _KEY.fullmatch(key):
            return False
        try:
            return await self._ask(key)
        except _Lost:  # it was idle, perhaps, or memcached was started anew
            return await self._ask(key)

    async def _ask(self, key: bytes) -> bool:
        connection = await self._connected()
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                return await connection.ask(key)
        except TimeoutError:
            connection.abort()  # who asks next need not wait as long
            raise _out_of_reach("it does not answer") from None

    async def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _connected(self) -> "_Connection":
        if self._connection is not None and not self._connection.is_closed:
            return self._connection
        async with self._connecting:
            if self._connection is not None:
                if not self._connection.is_closed:
                    return self._connection
                await self.close()
            loop = asyncio.get_running_loop()
            if loop.time() < self._retry_time:
                raise _out_of_reach("it was, a moment ago")
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    streams = await asyncio.open_connection(self._host, self._port)
            except (OSError, TimeoutError) as error:
                self._retry_time = loop.time() + PAUSE_SECONDS
                raise _out_of_reach(str(error) or "no answer") from error
            self._connection = _Connection(*streams)
            return self._connection


class _Connection:
    """One connection, and those who wait for an answer over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._receive(), name="memcached")

    @property
    def is_closed(self) -> bool:
        """Whether there will be no more answers."""
        return self._task.done()

    def ask(self, key: bytes) -> "asyncio.Future[bool]":
        """Ask for a key; the future raises ``Unavailable`` if the connection ends before."""
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded("too many requests wait for memcached; try again in a moment")
        future: asyncio.Future[bool] = self._loop.create_future()
        self._waiting.append(future)
        self._writer.write(b"get %b\r\n" % key)
        return future

    def abort(self) -> None:
        """End the connection at once."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """End the connection, whoever waits."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _receive(self) -> None:
        reason = "the connection was closed"
        try:
            while True:
                found = await self._read_answer()
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(found)
        except (OSError, EOFError, ValueError, IndexError) as error:
            reason = str(error) or reason
        finally:
            self._writer.transport.abort()
            for future in self._waiting:
                if not future.done():
                    future.set_exception(_Lost(f"memcached is out of reach: {reason}"))
            self._waiting.clear()

    async def _read_answer(self) -> bool:
        """Read one answer; raises ValueError for anything but yes or no."""
        line = await self._reader.readline()
        if line == _END:
            return False
        value = _VALUE.fullmatch(line)
        if value is None:
            if not line:
                raise EOFError
            raise ValueError(f"it says {line[:100]!r}")
        left = int(value[1]) + len(b"\r\n")
        while left:
            piece = await self._reader.read(min(left, _PIECE_BYTES))
            if not piece:
                raise EOFError
            left -= len(piece)
        if await self._reader.readline() != _END:
            raise ValueError("an answer has no end")
        return True


def _out_of_reach(reason: str) -> Unavailable:
    return Unavailable(f"memcached is out of reach: {reason}")
