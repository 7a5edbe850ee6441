"""The commands that move messages, add, take, peek and listen, and what all commands share.

Each is a small conversation over ``restmq.http_client``. What they print is fit for pipes:
values byte for byte on standard output, everything said to people on standard error.
"""

import functools
import http.client
import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from queue import Queue

import click

from restmq.errors import InvalidInput, RestMQError
from restmq.http_client import HttpClient, MessageStream, parse_address, queue_path, value_bytes

DEFAULT_URL = "http://127.0.0.1:8888"
EXIT_EMPTY = 3
PROGRESS_AFTER_SECONDS = 0.5

EXIT_CODES = (
    "Exit codes: 0 it is done, 1 the server refused or cannot be reached, "
    "2 the command line is wrong"
)
EXIT_CODES_EMPTY = f"{EXIT_CODES}, 3 the queue is empty and nothing was printed"


def say(text: str) -> None:
    """Tell people something, on one line of standard error."""
    click.echo(f"restmq: {text}", err=True)


def leave_closed_output() -> None:
    """Point standard output at nothing, so that leaving does not fail on what nobody reads."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def everyday_command(
    *examples: str, exit_codes: str = EXIT_CODES
) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command that talks to a server: its first argument is the client.

    Its help is the docstring, the examples, the options (``--url`` and ``--user`` are added),
    and what the exit codes mean.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(url: str, user: str | None, **arguments: object) -> None:
            if arguments.get("queue") == "":
                raise click.UsageError("a queue's name cannot be empty")
            try:
                address = parse_address(url, user)
            except InvalidInput as error:
                raise click.BadParameter(str(error), param_hint="'--url' or '--user'") from error
            with HttpClient(address) as client:
                function(client, **arguments)

        shown = "\n".join(("\b", "Examples:", *(f"  restmq {example}" for example in examples)))
        text = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{shown}"
        name = function.__name__.removesuffix("_command")
        command = click.command(name, help=text, epilog=exit_codes)(run)
        command.params += _server_options()
        return command

    return decorate


def _server_options() -> tuple[click.Option, ...]:
    url = click.Option(
        ["--url"],
        envvar="RESTMQ_URL",
        show_envvar=True,
        default=DEFAULT_URL,
        show_default=True,
        help="The server to talk to.",
    )
    user = click.Option(
        ["--user"],
        metavar="USER:PASSWORD",
        envvar="RESTMQ_USER",
        show_envvar=True,
        help="Basic credentials, when the server's acl.conf asks for them.",
    )
    return url, user


@dataclass
class Printer:
    """Writes messages to standard output, each at once, in the form that was asked for."""

    as_json: bool = False
    with_key: bool = False
    null: bool = False

    def message(self, message: dict[str, object]) -> None:
        """Print one message; raises like ``line``, and RestMQError when it holds no value."""
        if self.as_json:
            self.json(message)
        elif self.with_key:
            self.line(_utf8(str(message.get("key"))) + b"\t" + value_bytes(message))
        else:
            self.line(value_bytes(message))

    def json(self, document: object) -> None:
        """Print a JSON document on one line."""
        self.line(_utf8(json.dumps(document, ensure_ascii=False, separators=(",", ":"))))

    def line(self, line: bytes) -> None:
        """Print bytes and the end that was asked for.

        Raises BrokenPipeError when nobody reads any more, RestMQError when it cannot be written.
        """
        try:
            sys.stdout.buffer.write(line + (b"\0" if self.null else b"\n"))
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise RestMQError(f"cannot write the output: {error.strerror}") from error


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _prints_messages(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``Printer``, and the printer as ``printer``."""

    @click.option("--json", "as_json", is_flag=True, help="Print each message as a JSON object.")
    @click.option("--with-key", is_flag=True, help="Print KEY, a tab, and the value.")
    @click.option("-0", "--null", is_flag=True, help="End each value with NUL, not a line end.")
    @functools.wraps(function)
    def run(
        client: HttpClient, as_json: bool, with_key: bool, null: bool, **arguments: object
    ) -> None:
        function(client, printer=Printer(as_json, with_key, null), **arguments)

    return run


@everyday_command(
    "add jobs first second",
    "add jobs < lines.txt",
    "add photos --whole < cat.jpg",
    "add numbers -- -5",
)
@click.argument("queue")
@click.argument("values", nargs=-1, metavar="[VALUE]...")
@click.option("--whole", is_flag=True, help="Store the whole input as one message.")
@click.option("--ttl", metavar="SECONDS", type=click.IntRange(min=1), help="Expire after so long.")
@click.option("--keys", is_flag=True, help="Print the key of each message.")
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
    ttl: int | None,
    keys: bool,
    unordered: bool,
    connections: int,
) -> None:
    """Add messages to QUEUE, which need not exist.

    Each VALUE is one message. Without values, each line of standard input is one, byte for
    byte without its line end; empty lines are skipped. Messages are stored in the order given.

    Prints the keys (jobs:1) of values from the command line, or with --keys; else nothing. A
    failure ends it, and says how many messages were stored before.
    """
    if values and whole:
        raise click.UsageError("--whole reads standard input; leave out the values")
    if "" in values:
        raise click.UsageError("a message cannot be empty")
    messages = (os.fsencode(value) for value in values) if values else _read_input(whole)
    with _progress(not values) as advance:
        adder = _Adder(queue, ttl, Printer() if keys or values else None, advance)
        try:
            if unordered:
                adder.add_unordered(client, messages, connections)
            else:
                for message in messages:
                    adder.add(client, message)
        except RestMQError as error:
            raise type(error)(f"{error}; messages stored before: {adder.stored_count}") from error


def _read_input(whole: bool) -> Iterator[bytes]:
    """The messages on standard input, as they arrive."""
    source = sys.stdin.buffer
    if source.isatty():
        say("reading messages from the terminal; Ctrl-D ends the input")
    try:
        if not whole:
            yield from filter(None, (line.removesuffix(b"\n") for line in source))
        elif content := source.read():
            yield content
        else:
            raise InvalidInput("the input is empty, and a message cannot be")
    except OSError as error:
        raise RestMQError(f"cannot read the input: {error.strerror}") from error


@dataclass
class _Adder:
    """Sends messages to one queue and counts what was stored."""

    queue: str
    ttl_seconds: int | None
    printer: Printer | None
    advance: Callable[[], None]
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
        query = {"ttl": self.ttl_seconds} if self.ttl_seconds is not None else None
        path = queue_path("/q/", self.queue)
        answer = client.request("POST", path, query, message, "application/octet-stream")
        with self._lock:
            self.stored_count += 1
            self.advance()
            if self.printer is not None:
                self.printer.line(answer.body.rstrip(b"\r\n"))


@contextmanager
def _progress(reads_input: bool) -> Iterator[Callable[[], None]]:
    """Count messages for people who watch a terminal while a pipe or file is read."""
    if not reads_input or sys.stdin.isatty() or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.completed} messages"), BarColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("add", total=None)
    shown_at = time.monotonic() + PROGRESS_AFTER_SECONDS

    def advance() -> None:
        progress.advance(task)
        if not progress.live.is_started and time.monotonic() >= shown_at:
            progress.start()

    try:
        yield advance
    finally:
        progress.stop()


@everyday_command(
    "take jobs",
    "take jobs --all > jobs.txt",
    "take files --all -0 | xargs -0 rm",
    exit_codes=EXIT_CODES_EMPTY,
)
@click.argument("queue")
@click.option(
    "-n", "--count", metavar="N", type=click.IntRange(min=1), help="At most so many.  [default: 1]"
)
@click.option("--all", "everything", is_flag=True, help="Until the queue is empty.")
@_prints_messages
def take(
    client: HttpClient, queue: str, count: int | None, everything: bool, printer: Printer
) -> None:
    """Take the oldest messages off QUEUE for good, and print them.

    Prints each value on a line of its own, byte for byte.
    """
    if everything and count is not None:
        raise click.UsageError("--all and --count do not go together")
    taken_count = 0
    while everything or taken_count < (count or 1):
        answer = client.request("GET", queue_path("/q/", queue))
        if answer.status == http.client.NO_CONTENT:
            break
        message = answer.json_object()
        try:
            printer.message(message)
        except (BrokenPipeError, RestMQError) as error:
            if isinstance(error, BrokenPipeError):
                leave_closed_output()
            text = f"{error}; {message.get('key')} was taken and not printed"
            raise RestMQError(text) from error
        taken_count += 1
    if not taken_count:
        raise click.exceptions.Exit(EXIT_EMPTY)


@everyday_command("peek jobs", "peek jobs -n 10 --with-key", exit_codes=EXIT_CODES_EMPTY)
@click.argument("queue")
@click.option(
    "-n",
    "--count",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="At most so many.  [default: 1]",
)
@_prints_messages
def peek(client: HttpClient, queue: str, count: int, printer: Printer) -> None:
    """Print the oldest messages of QUEUE and leave them there.

    Prints each value on a line of its own, byte for byte, the next to be taken first.
    """
    answer = client.request("GET", queue_path("/q/", queue), {"peek": count})
    if answer.status == http.client.NO_CONTENT:
        raise click.exceptions.Exit(EXIT_EMPTY)
    for message in answer.json_array():
        printer.message(message)


@everyday_command(
    "listen news", "listen news --json | jq .value", "listen news --follow >> news.txt"
)
@click.argument("queue")
@click.option("-n", "--count", metavar="N", type=click.IntRange(min=1), help="Leave after so many.")
@click.option("--follow", is_flag=True, help="Wait for the server, and stay after a purge.")
@click.option(
    "--format",
    "stream_format",
    type=click.Choice(["sse", "comet"]),
    default="sse",
    help="How to ask for it: server-sent events, or lines of JSON.  [default: sse]",
)
@_prints_messages
def listen(
    client: HttpClient,
    queue: str,
    count: int | None,
    follow: bool,
    stream_format: str,
    printer: Printer,
) -> None:
    """Print the messages of QUEUE as they come, until Ctrl-C.

    The queue's policy says whether every listener gets each message or one of them. A lost
    connection is taken up again, which is told on standard error. Messages on their way when
    this command leaves are lost, so to get an exact number, use restmq take.

    Prints each value on a line of its own, byte for byte. When the queue is purged, the
    command says so and ends, unless --follow was given.
    """
    stream = MessageStream(client, queue, stream_format, follow, say)
    try:
        for message in islice(stream.messages(), count):
            printer.message(message)
    except KeyboardInterrupt:
        return
