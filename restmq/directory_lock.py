"""The lock that keeps a data directory for one server and the private Redis of that server."""

import asyncio
import fcntl
import logging
import os
from pathlib import Path

from restmq.errors import StartupError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.05


class DirectoryLock:
    """A data directory held with flock, by this process and by the children given ``descriptor``.

    The lock ends when the last process that has the descriptor closes it or dies. So a Redis that
    outlives its killed server still keeps others out.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "server.lock"
        self.descriptor: int | None = None

    async def acquire(self, wait_seconds: float) -> None:
        """Take the lock, or raise StartupError that names the holder after ``wait_seconds``."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await self._acquire(descriptor, wait_seconds)
        except BaseException:
            os.close(descriptor)
            raise
        self.descriptor = descriptor
        self.tell_holders(None)

    async def _acquire(self, descriptor: int, wait_seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_seconds
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = self._holder()
                if loop.time() >= deadline:
                    raise StartupError(
                        f"the data directory {self._directory} is in use by {holder}; stop that "
                        "one, or choose another directory with --data-dir"
                    ) from None
                if not told:
                    logger.info("waiting for %s to leave %s", holder, self._directory)
                    told = True
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    def _holder(self) -> str:
        """Say who holds the lock: the server if it lives, else its Redis."""
        for line in self._path.read_text(encoding="ascii", errors="replace").splitlines():
            name, _, number = line.partition(" ")
            if number.isdecimal() and _is_alive(int(number)):
                return f"another {name} (process {number})"
        return "another process"

    def tell_holders(self, redis_pid: int | None) -> None:
        """Write down for others which processes hold the lock."""
        if self.descriptor is None:
            return
        text = f"server {os.getpid()}\n"
        if redis_pid is not None:
            text += f"redis-server {redis_pid}\n"
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode("ascii"), 0)

    def release(self) -> None:
        """Let go of the lock; children that were given the descriptor still hold it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and belongs to someone else
    return True
