"""A TCP relay that loses answers: the request arrives, and the connection is cut."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Cutter:
    """Relays to a port of 127.0.0.1; ``url`` is where it listens."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.answers_to_lose = 0
        """How many answers from now on are lost, each with its connection."""
        self.lost_count = 0
        self.is_refusing = False
        """Whether new connections are cut at once."""

    @property
    def url(self) -> str:
        """What to connect to."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_all(self) -> None:
        """Cut every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.is_refusing:
            writer.transport.abort()
            return
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._port)
        pair = {writer, upstream}
        self._writers |= pair
        try:
            pumps = [self._pump(reader, upstream), self._pump(upstream_reader, writer, True)]
            await asyncio.gather(*pumps)
        finally:
            self._writers -= pair
            for each in pair:
                each.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_answer: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if is_answer and self.answers_to_lose:
                    self.answers_to_lose -= 1
                    self.lost_count += 1
                    break
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
