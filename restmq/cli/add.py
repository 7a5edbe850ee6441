"""The command that publishes: add, one message a request or many."""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, BinaryIO

import click

from restmq.cli.common import Printer, everyday_command, read_lines, say
from restmq.errors import InvalidInput, RestMQError
from restmq.http_client import Answer, HttpClient, decimal, one_line, queue_path

PROGRESS_AFTER_SECONDS = 0.5
BATCH_MESSAGES = 1000
BATCH_BYTES = 4 * 1024 * 1024
NDJSON = "application/x-ndjson"
RAW = "application/octet-stream"
_OTHER_FORMS = (NDJSON, "application/x-www-form-urlencoded", "multipart/form-data")


class _Number(click.FloatRange):
    """A number, which infinity is not."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a finite number within the range."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return number


@everyday_command(
    "add jobs first second",
    "add jobs < lines.txt",
    "add jobs --batch < a-million-lines.txt",
    "add photos --whole --content-type image/jpeg < cat.jpg",
    "add mails --delay 3600 --priority 9 --id order-17 'Remind them'",
    "add numbers -- -5",
)
@click.argument("queue")
@click.argument("values", nargs=-1, metavar="[VALUE]...")
@click.option("--whole", is_flag=True, help="Store the whole input as one message.")
@click.option("--ttl", metavar="SECONDS", type=click.IntRange(min=1), help="Expire after so long.")
@click.option(
    "--delay", metavar="SECONDS", type=_Number(min=0), help="Nobody gets it before so long."
)
@click.option(
    "--at", metavar="TIME", type=_Number(min=0), help="Nobody gets it before, in Unix seconds."
)
@click.option(
    "--priority",
    metavar="0-9",
    type=click.IntRange(0, 9),
    help="Higher ones come first.  [default: 4]",
)
@click.option(
    "--id",
    "idempotency_key",
    metavar="ID",
    help="Store it once, however often it is sent with this id.",
)
@click.option("--content-type", metavar="TYPE", help="Keep this media type with it.")
@click.option("--keys", is_flag=True, help="Print the key of each message.")
@click.option("--batch", is_flag=True, help="Send many lines at once, up to 1000 a request.")
@click.option("--unordered", is_flag=True, help="Send over several connections, in any order.")
@click.option(
    "--connections",
    metavar="N",
    type=click.IntRange(1, 256),
    default=16,
    help="How many connections --unordered uses.  [default: 16]",
)
def add(
    client: HttpClient,
    queue: str,
    values: tuple[str, ...],
    whole: bool,
    keys: bool,
    batch: bool,
    unordered: bool,
    connections: int,
    **attributes: Any,
) -> None:
    """Add messages to QUEUE, which need not exist.

    Each VALUE is one message. Without values, each line of standard input is one, byte for
    byte without its line end; empty lines are skipped. Messages are stored in the order given.

    With --batch, what has arrived on standard input goes out together: fast for files, and
    without delay for a program that writes a line now and then. Each request stores all of its
    lines or, when it fails, none of them.

    Prints the keys (jobs:1) of values from the command line, or with --keys; else nothing. A
    failure ends it, and says how many messages were stored before. With --id it is safe to try
    again: a message that was stored before is not stored twice, and its first key is printed.
    """
    _check_source(values, whole, batch, unordered)
    publish = _Publish(**attributes)
    publish.check(is_batch=batch, is_single=whole or len(values) == 1)
    with _progress(not values) as advance:
        printer = Printer() if keys or values else None
        adder = _Adder(queue, publish.query(), publish.content_type or RAW, printer, advance)
        try:
            if batch:
                for lines in _batches():
                    adder.add_batch(client, lines)
            elif unordered:
                adder.add_unordered(client, _messages(values, whole), connections)
            else:
                for message in _messages(values, whole):
                    adder.add(client, message)
        except RestMQError as error:
            raise type(error)(f"{error}; messages stored before: {adder.stored_count}") from error


def _check_source(values: tuple[str, ...], whole: bool, batch: bool, unordered: bool) -> None:
    if values and (whole or batch):
        flag = "--whole" if whole else "--batch"
        raise click.UsageError(f"{flag} reads standard input; leave out the values")
    if batch and (whole or unordered):
        raise click.UsageError("--batch goes together with neither --whole nor --unordered")
    if "" in values:
        raise click.UsageError("a message cannot be empty")


@dataclass(frozen=True)
class _Publish:
    """What is said about a message beside its value; None is not said."""

    ttl: int | None
    delay: float | None
    at: float | None
    priority: int | None
    idempotency_key: str | None
    content_type: str | None

    def check(self, is_batch: bool, is_single: bool) -> None:
        """Raise UsageError for what does not go together."""
        if self.delay is not None and self.at is not None:
            raise click.UsageError("--delay and --at do not go together")
        if self.idempotency_key is not None and not is_single:
            raise click.UsageError("--id names one message: give one VALUE, or --whole")
        if self.content_type is None:
            return
        if is_batch:
            raise click.UsageError("--batch is for lines of text; leave out --content-type")
        kind = self.content_type.partition(";")[0].strip().lower()
        if kind in _OTHER_FORMS:
            raise click.UsageError(f"the server takes {kind} apart; use another --content-type")
        if "/" not in kind or not (self.content_type.isascii() and self.content_type.isprintable()):
            raise click.UsageError("--content-type is a media type, such as image/jpeg")

    def query(self) -> dict[str, object]:
        """The parameters of a publish, by the specification of delivery, section 1."""
        seconds = {"delay": self.delay, "at": self.at}
        said = {"ttl": self.ttl, "priority": self.priority, "id": self.idempotency_key}
        query: dict[str, object] = {
            name: decimal(value) for name, value in seconds.items() if value is not None
        }
        return {**query, **{name: value for name, value in said.items() if value is not None}}


def _messages(values: tuple[str, ...], whole: bool) -> Iterator[bytes]:
    if values:
        yield from map(os.fsencode, values)
    elif not whole:
        yield from read_lines()
    elif content := _read(sys.stdin.buffer.read):
        yield content
    else:
        raise InvalidInput("the input is empty, and a message cannot be")


def _batches() -> Iterator[list[bytes]]:
    """Lines of standard input, those that have arrived together, within the limits of a batch."""
    batch: list[bytes] = []
    size = 0
    for lines in _arrivals(sys.stdin.buffer):
        for line in filter(bytes.strip, lines):  # the server skips blank ones
            if batch and (len(batch) == BATCH_MESSAGES or size + len(line) > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(line)
            size += len(line) + 1
        if batch:
            yield batch
            batch, size = [], 0


def _arrivals(source: BinaryIO) -> Iterator[list[bytes]]:
    """What each read of the input completes, as lines without their ends."""
    unfinished: list[bytes] = []
    while part := _read(lambda: source.read1(BATCH_BYTES)):  # type: ignore[attr-defined]
        *lines, rest = part.split(b"\n")
        if lines:
            lines[0] = b"".join([*unfinished, lines[0]])
            unfinished = []
            yield lines
        unfinished.append(rest)
    yield [b"".join(unfinished)]


def _read(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except OSError as error:
        raise RestMQError(f"cannot read the input: {error.strerror}") from error


@dataclass
class _Adder:
    """Sends messages to one queue and counts what was stored."""

    queue: str
    query: Mapping[str, object]
    content_type: str
    printer: Printer | None
    advance: Callable[[int], None]
    stored_count: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_unordered(self, client: HttpClient, messages: Iterator[bytes], count: int) -> None:
        """Send over ``count`` connections at once; the first failure ends it and is raised."""
        waiting: Queue[bytes | None] = Queue(maxsize=2 * count)
        failures: list[Exception] = []

        def send_waiting() -> None:
            with HttpClient(client.address) as own_client:
                while (message := waiting.get()) is not None:
                    # After a failure, emptying ``waiting`` keeps who fills it from blocking.
                    try:
                        if not failures:
                            self.add(own_client, message)
                    except Exception as error:
                        failures.append(error)

        with ThreadPoolExecutor(count) as senders:
            for _ in range(count):
                senders.submit(send_waiting)
            try:
                for message in messages:
                    if failures:
                        break
                    waiting.put(message)
            finally:
                for _ in range(count):
                    waiting.put(None)
        if failures:
            raise failures[0]

    def add(self, client: HttpClient, message: bytes) -> None:
        """Send one message, and print its key if asked to, after the answer."""
        answer = self._post(client, message, self.content_type)
        key = answer.body.rstrip(b"\r\n")
        if answer.headers.get("x-restmq-duplicate") == "true":
            say(f"stored before: {one_line(key.decode('utf-8', 'replace'))}")
        self._count(1, [key])

    def add_batch(self, client: HttpClient, lines: Sequence[bytes]) -> None:
        """Send lines as one request, which stores all of them or none."""
        answer = self._post(client, b"\n".join(lines) + b"\n", NDJSON).json_object()
        keys, count = answer.get("keys"), answer.get("count")
        if not isinstance(keys, list) or not isinstance(count, int):
            raise RestMQError(f"{client.address.url} does not say what became of a batch")
        self._count(count, [str(key).encode("utf-8", "surrogatepass") for key in keys])

    def _post(self, client: HttpClient, body: bytes, content_type: str) -> Answer:
        path = queue_path("/q/", self.queue)
        return client.request("POST", path, self.query, body, content_type)

    def _count(self, count: int, keys: Sequence[bytes]) -> None:
        with self._lock:
            self.stored_count += count
            self.advance(count)
            if self.printer is not None:
                for key in keys:
                    self.printer.line(key)


@contextmanager
def _progress(reads_input: bool) -> Iterator[Callable[[int], None]]:
    """Count messages for people who watch a terminal while a pipe or file is read."""
    if not reads_input or sys.stdin.isatty() or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed} messages"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("add", total=None)
    shown_at = time.monotonic() + PROGRESS_AFTER_SECONDS

    def advance(count: int) -> None:
        progress.advance(task, count)
        if not progress.live.is_started and time.monotonic() >= shown_at:
            progress.start()

    try:
        yield advance
    finally:
        progress.stop()
