"""The real program as a child process: start it, ask where it listens, kill it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp

from tests.support import START_TIMEOUT_SECONDS, eventually, free_port

ROOT = Path(__file__).parent.parent


class ServerProcess:
    """One ``python -m restmq serve``; ``url`` is where it listens."""

    def __init__(self, data_dir: Path, flags: Sequence[str], port: int) -> None:
        self.data_dir = data_dir
        self.flags = flags
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The child; AssertionError before ``start``."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """The process number of the program itself."""
        return self.process.pid

    @property
    def log_path(self) -> Path:
        """Where its standard error goes."""
        return self.data_dir.parent / f"{self.data_dir.name}.log"

    async def start(self) -> None:
        """Start the program and wait until it is ready."""
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "restmq", "serve", "--port", str(self.port)),
                *("--data-dir", str(self.data_dir), *self.flags),
                stdout=log,
                stderr=log,
                cwd=self.data_dir.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        await eventually(self.is_ready, START_TIMEOUT_SECONDS)

    async def is_ready(self) -> bool:
        """Whether ``/readyz`` says so; AssertionError with the log if the program has ended."""
        assert self.process.returncode is None, self.log_path.read_text()
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(self.url + "/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

    async def kill(self) -> None:
        """SIGKILL the program itself; its children are left to themselves."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """SIGTERM, as an init system does; returns the exit status."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                return await self.process.wait()
        except TimeoutError:
            await self.kill()
            raise

    def child_pids(self, words: str) -> list[int]:
        """Process numbers of the direct children whose command line holds ``words``."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if parent == self.pid and words in command:
                    found.append(int(entry.name))
        return found


@contextlib.asynccontextmanager
async def running_server(
    tmp_path: Path, *flags: str, data_dir: str = "data", port: int = 0
) -> AsyncIterator[ServerProcess]:
    """Run the real program with an embedded Redis in ``tmp_path``, and stop it afterwards."""
    server = ServerProcess(tmp_path / data_dir, flags, port or free_port())
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
