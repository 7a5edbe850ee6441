"""The real program for tests that block: its event loop runs on a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.server_process import ServerProcess
from tests.support import START_TIMEOUT_SECONDS, free_port

Result = TypeVar("Result")


class BlockingServer:
    """One server, whose methods block."""

    def __init__(self, server: ServerProcess, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop
        self.url = server.url

    def start(self) -> None:
        """Start the program, again if it was stopped, and wait until it is ready."""
        self._run(self._server.start())

    def stop(self) -> None:
        """Stop the program as an init system does."""
        self._run(self._server.stop())

    def kill(self) -> None:
        """Kill the program itself, without a warning."""
        self._run(self._server.kill())

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(2 * START_TIMEOUT_SECONDS)


@contextlib.contextmanager
def server_on_a_thread(tmp_path: Path, *flags: str) -> Iterator[BlockingServer]:
    """Run the real program with an embedded Redis in ``tmp_path``, and stop it afterwards."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="server of the tests")
    thread.start()
    try:
        server = BlockingServer(ServerProcess(tmp_path / "data", flags, free_port()), loop)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
