"""As much of a memcached as there must be for something to look keys up in it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

_GET = re.compile(rb"get ([!-~]{1,250})\r\n")


class MemcachedServer:
    """Answers ``get`` as the text protocol has it; anything else is an ERROR, and noted."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.asked: list[bytes] = []
        self.errors: list[bytes] = []
        self.answer: bytes | None = None
        """What it says to everything instead."""
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"memcached://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["MemcachedServer"]:
        """Listen, on the port of the last time if there was one."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.hang_up()
            await server.wait_closed()

    def hang_up(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                writer.write(self._reply(line))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _reply(self, line: bytes) -> bytes:
        if self.answer is not None:
            return self.answer
        command = _GET.fullmatch(line)
        if command is None:
            self.errors.append(line)
            return b"ERROR\r\n"
        key = command[1]
        self.asked.append(key)
        value = self.values.get(key)
        if value is None:
            return b"END\r\n"
        return b"VALUE %b 0 %d\r\n%b\r\nEND\r\n" % (key, len(value), value)
