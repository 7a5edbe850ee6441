"""What the everyday commands share: their options, how they print, and how they say no.

Each command is a small conversation over ``restmq.http_client``. What they print is fit for
pipes: values byte for byte on standard output, everything said to people on standard error.
"""

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import click

from restmq.errors import InvalidInput, RestMQError
from restmq.http_client import HttpClient, parse_address, value_bytes

DEFAULT_URL = "http://127.0.0.1:8888"
EXIT_EMPTY = 3
MAX_WAIT_SECONDS = 60
"""The server holds a request back for so long at most."""

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
    and what the exit codes mean. An example begins after "restmq", or, when it is a whole line,
    with "$ ".
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

        shown = "\n".join(("\b", "Examples:", *(f"  {_spelled(each)}" for each in examples)))
        text = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{shown}"
        name = function.__name__.removesuffix("_command")
        command = click.command(name, help=text, epilog=exit_codes)(run)
        command.params += _server_options()
        return command

    return decorate


def _spelled(example: str) -> str:
    return example.removeprefix("$ ") if example.startswith("$ ") else f"restmq {example}"


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


def prints_messages(function: Callable[..., None]) -> Callable[..., None]:
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


def read_lines() -> Iterator[bytes]:
    """The lines of standard input that are not empty, as they arrive, without their ends.

    Raises RestMQError when it cannot be read.
    """
    source = sys.stdin.buffer
    if source.isatty():
        say("reading lines from the terminal; Ctrl-D ends the input")
    try:
        yield from filter(None, (line.removesuffix(b"\n") for line in source))
    except OSError as error:
        raise RestMQError(f"cannot read the input: {error.strerror}") from error


def cell(value: object) -> str:
    """A value as a table shows it: on one line, text as it is and all else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def print_rows(header: tuple[str, ...], rows: list[list[str]]) -> None:
    """Print a table on a terminal, and lines separated by tabs in a pipe."""
    if not sys.stdout.isatty():
        for row in rows:
            Printer().line(_utf8("\t".join(row)))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def confirm(question: str, yes: bool) -> None:
    """Ask people at a terminal; anything but yes leaves the program with exit code 1."""
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)
