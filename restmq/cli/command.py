"""The command that ``restmq listen --ack --exec`` runs for each message."""

import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from restmq.cli.common import say
from restmq.cli.held import Delivery
from restmq.errors import InvalidInput, RestMQError
from restmq.http_client import one_line, value_bytes
from restmq.http_leases import Settler

SHELL = "/bin/sh"


def read_command(text: str, shell: bool) -> Sequence[str]:
    """Split a command line into words, or hand it to a shell. Raises InvalidInput."""
    if shell:
        return SHELL, "-c", text
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} cannot be split into words: {error}") from error
    if not words:
        raise InvalidInput("name a command")
    if shutil.which(words[0]) is None:
        raise InvalidInput(f"there is no command {words[0]!r}")
    return words


@dataclass
class CommandWork:
    """Runs a command with the value as its standard input; exit code 0 says that it is done."""

    words: Sequence[str]
    queue: str
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _running: "set[subprocess.Popen[bytes]]" = field(default_factory=set, init=False)
    _signal: int | None = field(default=None, init=False)

    def do(self, settler: Settler, delivery: Delivery) -> bool:
        """Run the command for one message; returns whether it succeeded."""
        key = one_line(delivery.key)
        try:
            value = value_bytes(delivery.message)
            environment = self._environment(delivery)
            with self._started(environment) as process:
                process.communicate(value)
        except (OSError, ValueError, RestMQError) as error:
            say(f"{key}: cannot run {self.words[0]}: {one_line(str(error))}")
            return False
        exit_code = process.returncode
        if exit_code:
            how = f"exit code {exit_code}" if exit_code > 0 else f"signal {-exit_code}"
            say(f"{key}: attempt {delivery.message.get('attempt')} failed with {how}")
        return exit_code == 0

    def cut(self, force: bool) -> None:
        """Send SIGTERM, or SIGKILL, to what runs, and to what is yet to be started."""
        with self._lock:
            self._signal = signal.SIGKILL if force else signal.SIGTERM
            for process in self._running:
                _send(process, self._signal)

    @contextmanager
    def _started(
        self, environment: Mapping[str, str | bytes]
    ) -> "Iterator[subprocess.Popen[bytes]]":
        # In a process group of its own it outlives the Ctrl-C that tells us to finish.
        process = subprocess.Popen(  # noqa: S603 - running what was asked for is the purpose
            self.words,
            stdin=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        with process:
            with self._lock:
                self._running.add(process)
                if self._signal is not None:
                    _send(process, self._signal)
            try:
                yield process
            finally:
                with self._lock:
                    self._running.discard(process)

    def _environment(self, delivery: Delivery) -> dict[str, str | bytes]:
        message = delivery.message
        told = {
            "RESTMQ_QUEUE": self.queue,
            "RESTMQ_KEY": message.get("key"),
            "RESTMQ_ATTEMPT": message.get("attempt"),
            "RESTMQ_RECEIPT": message.get("receipt"),
            "RESTMQ_CONTENT_TYPE": message.get("content_type"),
        }
        return {**os.environ} | {
            name: str("" if value is None else value).encode("utf-8", "surrogateescape")
            for name, value in told.items()
        }


def _send(process: "subprocess.Popen[bytes]", number: int) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
