"""The real program as a child process: start it, ask where it listens, kill it."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import aiohttp

from tests.support import START_TIMEOUT_SECONDS, eventually, free_port

ROOT = Path(__file__).parent.parent


class ServerSocket(NamedTuple):
    """What the kernel tells of a socket at the server's port."""

    is_listening: bool
    client_port: int
    unread_bytes: int


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
        await self.spawn()
        await eventually(self.is_ready, START_TIMEOUT_SECONDS)

    async def spawn(self) -> None:
        """Start the program, which may refuse to serve."""
        with self.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "restmq", "serve", "--port", str(self.port)),
                *("--data-dir", str(self.data_dir), *self.flags),
                stdout=log,
                stderr=log,
                cwd=self.data_dir.parent,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )

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
        return [pid for pid in _children(self.pid) if words in command_line(pid)]

    def sockets(self) -> dict[int, "ServerSocket"]:
        """The sockets at this server's port, by inode, whichever process has them."""
        found = {}
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == self.port:
                found[int(fields[9])] = ServerSocket(
                    is_listening=fields[3] == "0A",
                    client_port=int(fields[2].rpartition(":")[2], 16),
                    unread_bytes=int(fields[4].rpartition(":")[2], 16),
                )
        return found

    def has_read_all_from(self, client_port: int) -> bool:
        """Whether the connection from this port stands and nothing that was sent is unread."""
        unread = [s.unread_bytes for s in self.sockets().values() if s.client_port == client_port]
        return unread == [0]

    def has_let_go_of(self, client_port: int) -> bool:
        """Whether there is no connection from this port."""
        return all(each.client_port != client_port for each in self.sockets().values())

    def descendant_pids(self) -> list[int]:
        """Process numbers of the children, of their children, and so on."""
        found = []
        parents = [self.pid]
        while parents:
            children = _children(parents.pop())
            found += children
            parents += children
        return found


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if it has ended, even if nobody noticed yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                after_name = (entry / "stat").read_text().rpartition(")")[2]
                if int(after_name.split()[1]) == parent:
                    found.append(int(entry.name))
    return found


@contextlib.asynccontextmanager
async def running_server(
    tmp_path: Path, *flags: str, data_dir: str = "data", port: int = 0
) -> AsyncIterator[ServerProcess]:
    """Run the real program with an embedded Redis in ``tmp_path``, and stop it afterwards."""
    server = ServerProcess(tmp_path / data_dir, flags, port or free_port())
    try:
        await server.start()
        yield server
    finally:
        await server.stop()
