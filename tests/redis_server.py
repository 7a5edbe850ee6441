"""A real Redis with settings of the test's choice, wrong ones too; and a proxy in front of it."""

import contextlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import redis

from restmq.redis_process import find_program
from tests.support import START_TIMEOUT_SECONDS, free_port

SAFE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory-policy": "noeviction",
    "bind": "127.0.0.1",
}
"""Settings that leave nothing to be found."""


class RedisServer:
    """One running Redis; ``url`` is where it listens."""

    def __init__(self, port: int, directory: Path) -> None:
        self.port = port
        self.directory = directory
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis(port=port, decode_responses=True)


@contextlib.contextmanager
def redis_server(
    directory: Path,
    changes: dict[str, str] | None = None,
    program_arguments: Sequence[str] | None = None,
) -> Iterator[RedisServer]:
    """Run a Redis in ``directory`` with safe settings and these changes to them.

    With ``program_arguments`` it gets these alone, and a port.
    """
    directory.mkdir(exist_ok=True)
    server = RedisServer(free_port(), directory)
    settings = {**SAFE, "port": str(server.port), "dir": str(directory), **(changes or {})}
    if program_arguments is not None:
        settings = {"port": str(server.port)}
    arguments = [*(program_arguments or ())]
    arguments += [part for name, value in settings.items() for part in (f"--{name}", value)]
    with (
        (directory / "redis.log").open("wb") as log,
        subprocess.Popen(
            [find_program(), *arguments],
            stdout=log,
            stderr=log,
            restore_signals=False,  # so that a write beyond a limit on file sizes does not kill it
        ) as process,
        contextlib.closing(server.client),
    ):
        try:
            until(lambda: process.poll() is not None or _answers(server))
            assert process.poll() is None, (directory / "redis.log").read_text()
            yield server
        finally:
            process.kill()


def _answers(server: RedisServer) -> bool:
    try:
        return bool(server.client.ping())
    except redis.AuthenticationError:
        return True
    except redis.RedisError:
        return False


def until(predicate: Callable[[], object]) -> None:
    """Ask until it is so; AssertionError when that takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not predicate():
        assert time.monotonic() < deadline, predicate
        time.sleep(0.01)


@contextlib.contextmanager
def rewriting_proxy(port: int, pattern: bytes, replacement: bytes) -> Iterator[str]:
    """Stand between a client and a Redis, and change what it answers; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads = [threading.Thread(target=_accept, args=(listener, port, pattern, replacement))]
        threads[0].start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            threads[0].join()


def _accept(listener: socket.socket, port: int, pattern: bytes, replacement: bytes) -> None:
    with contextlib.ExitStack() as stack:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # the test is over
                return
            stack.enter_context(client)
            server = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for source, target, is_answer in ((client, server, False), (server, client, True)):
                thread = threading.Thread(
                    target=_copy,
                    args=(source, target, pattern if is_answer else None, replacement),
                )
                thread.start()
                stack.callback(thread.join)
            stack.callback(lambda each=client: _shut(each))


def _copy(
    source: socket.socket, target: socket.socket, pattern: bytes | None, replacement: bytes
) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 20):
            target.sendall(re.sub(pattern, replacement, data) if pattern else data)
    _shut(target)


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
