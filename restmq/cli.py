"""The command line: ``restmq serve``, and the everyday commands against a running server.

The commands that move messages are in ``restmq.cli_client``; those that look after queues are
here. This is also the one place where errors become a line on standard error and an exit code.
"""

import functools
import json
import os
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlencode

import click

from restmq import __version__
from restmq.cli_client import (
    Printer,
    add,
    everyday_command,
    leave_closed_output,
    listen,
    peek,
    say,
    take,
)
from restmq.errors import RestMQError, StartupError
from restmq.http_client import HttpClient, one_line, queue_path

if TYPE_CHECKING:
    from restmq.knobs import Knob

PAGE_QUEUES = 1000
FORM = "application/x-www-form-urlencoded"

SERVE_HELP = """Run a server until it is told to stop (Ctrl-C or SIGTERM).

Without options it listens on 127.0.0.1:8888 and keeps its messages in ./restmq-data, with a
Redis of its own. Every option can also be set in a TOML file, or in the environment:
--redis-url is RESTMQ_REDIS_URL there. Options win over the environment, and that over the file.

\b
Examples:
  restmq serve
  restmq serve --listen 0.0.0.0 --port 80 --data-dir /var/lib/restmq
  restmq serve --redis-url redis://db.example:6379/0 --workers 4
  restmq serve --config /etc/restmq.toml

Prints a log on standard error."""
SERVE_EXIT_CODES = "Exit codes: 0 stopped as told, 2 a setting is wrong or it cannot start"

_METAVARS: Mapping[type[object], str] = {
    int: "N",
    float: "NUMBER",
    bool: "true|false",
    Path: "PATH",
    tuple: "A,B,...",
}
_WORDS: Mapping[tuple[str, object], str] = {
    ("status", 1): "started",
    ("status", 0): "stopped",
    ("status", ""): "stopped",
    ("policy", 1): "broadcast",
    ("policy", 2): "roundrobin",
    ("policy", ""): "broadcast",
}


class Refused(click.ClickException):
    """An error that people see as one line, ``restmq: ...``."""

    exit_code = 1

    def show(self, file: object = None) -> None:
        """Print the line on standard error."""
        say(one_line(self.message))


class CannotStart(Refused):
    """An error that keeps the server from starting."""

    exit_code = 2


class RestMQGroup(click.Group):
    """The ``restmq`` command: its commands in a sensible order, its errors as one line."""

    sections: Mapping[str, tuple[str, ...]] = {
        "The server": ("serve",),
        "Messages": ("add", "take", "peek", "listen"),
        "Queues": ("len", "stats", "queues", "policy", "stop", "start", "purge"),
    }

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command; ``serve`` is made when asked for, since only it needs the settings."""
        return _serve_command() if cmd_name == "serve" else super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the sections."""
        return [name for names in self.sections.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a table of commands for each section."""
        for title, names in self.sections.items():
            commands = ((name, self.get_command(ctx, name)) for name in names)
            with formatter.section(title):
                formatter.write_dl(
                    [(name, each.get_short_help_str(90)) for name, each in commands if each]
                )

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; what goes wrong becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except StartupError as error:
            raise CannotStart(str(error)) from error
        except RestMQError as error:
            raise Refused(str(error)) from error
        except BrokenPipeError:
            # The reader of a pipe has seen enough, as in "restmq queues | head".
            leave_closed_output()
            return None


@click.group(
    cls=RestMQGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""RestMQ, a message queue server for any HTTP client.

    Start a server in one terminal, and use it from another:

    \b
      restmq serve
      restmq add jobs "hello world"
      restmq take jobs

    Any other HTTP client sees the same queues: curl http://127.0.0.1:8888/q/jobs
    """,
    epilog="Every command has its own help, with examples: restmq COMMAND --help",
)
@click.version_option(__version__, prog_name="restmq")
def cli() -> None:
    """Hold the commands."""


def main() -> None:
    """Run the command line of this process; does not return."""
    cli(prog_name="restmq")


class ServeCommand(click.Command):
    """``serve``, whose many options are shown under headings."""

    def __init__(self, headings: Mapping[str, str], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._headings = headings

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a table of options for each heading, in the order in which they come."""
        tables: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = self._headings.get(parameter.name or "", "Other options")
                tables.setdefault(heading, []).append(record)
        for heading, records in tables.items():
            with formatter.section(heading):
                formatter.write_dl(records)


@functools.cache
def _serve_command() -> click.Command:
    from restmq.settings import knobs

    config = click.Option(
        ["--config"],
        metavar="PATH",
        help="TOML file with settings.  [default: restmq.toml, if any]",
    )
    return ServeCommand(
        headings={each.name: _heading(each) for each in knobs()},
        name="serve",
        params=[*(_option(each) for each in knobs()), config],
        callback=_serve,
        help=SERVE_HELP,
        epilog=SERVE_EXIT_CODES,
    )


def _serve(**flags: object) -> NoReturn:
    from restmq.settings import load

    settings = load(flags, os.environ, Path.cwd())
    # After the settings: a wrong one is told before a web framework has been imported.
    from restmq.server import run

    raise click.exceptions.Exit(run(settings))


def _option(knob: "Knob") -> click.Option:
    """The flag of a setting; its value stays text, for the settings to check and convert."""
    default = knob.format(knob.default)
    shown = f"{knob.help_text}  [default: {default}]" if default else knob.help_text
    metavar = (
        f"[{'|'.join(knob.choices)}]" if knob.choices else _METAVARS.get(knob.value_type, "TEXT")
    )
    return click.Option([knob.flag, knob.name], metavar=metavar, help=shown)


def _heading(knob: "Knob") -> str:
    if knob.section != "server":
        return knob.section.capitalize()
    if knob.name.startswith("redis_") or knob.name in ("data_dir", "fsync"):
        return "Storage"
    if knob.name.endswith(("_seconds", "_bytes", "_count")):
        return "Limits"
    return "Server"


@everyday_command("len jobs", 'test "$(restmq len jobs)" -gt 1000 && echo too many')
@click.argument("queue")
def len_command(client: HttpClient, queue: str) -> None:
    """Print how many messages QUEUE holds.

    Prints the number and nothing else; 0 for a queue that does not exist.
    """
    click.echo(_stats_of(client, queue).get("len"))


@everyday_command("stats", "stats jobs", "stats --json | jq .len")
@click.argument("queue", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each queue.")
def stats(client: HttpClient, queue: str | None, as_json: bool) -> None:
    """Show length, status and policy of all queues, or all that is known of one QUEUE.

    Prints a table on a terminal. In a pipe it prints lines separated by tabs: name, length,
    status and policy of each queue; for one QUEUE, name and value of each property.
    """
    if queue is None:
        pages = (list(page.values()) for page in _queue_pages(client))
    else:
        pages = (each for each in [[_stats_of(client, queue)]])
    for page in pages:
        if as_json:
            for each in page:
                Printer().json(each)
        elif queue is None:
            columns = ("name", "len", "status", "policy")
            rows = [[_cell(name, each.get(name)) for name in columns] for each in page]
            _print_rows(("Queue", "Length", "Status", "Policy"), rows)
        else:
            rows = [[name, _cell(name, value)] for name, value in page[0].items()]
            _print_rows(("Property", "Value"), rows)


def _stats_of(client: HttpClient, queue: str) -> dict[str, object]:
    return client.request("GET", queue_path("/stats/", queue)).json_object()


def _queue_pages(
    client: HttpClient, limit: int | None = None, after: str = ""
) -> Iterator[dict[str, dict[str, object]]]:
    """The queues and their numbers, by name, in pages; ``limit`` queues at most."""
    left = limit
    while left is None or left > 0:
        size = PAGE_QUEUES if left is None else min(PAGE_QUEUES, left)
        query = {"limit": size, "after": after} if after else {"limit": size}
        queues = client.request("GET", "/stats/", query).json_object().get("queues")
        # A server that does not know ``after`` answers with the same page again.
        if not isinstance(queues, dict) or not queues or list(queues)[-1] == after:
            return
        yield dict(islice(queues.items(), left))
        after = list(queues)[-1]
        left = None if left is None else left - len(queues)


def _cell(name: str, value: object) -> str:
    """A property in words, on one line: the numbers of status and policy mean little to people."""
    word = _WORDS.get((name, value)) if isinstance(value, int | str) else None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return word or "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _print_rows(header: tuple[str, ...], rows: list[list[str]]) -> None:
    if not sys.stdout.isatty():
        for row in rows:
            Printer().line("\t".join(row).encode())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header)
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


@everyday_command(
    "queues", "queues --limit 100 --after jobs", "queues -0 | xargs -0 -n 1 restmq len"
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most so many.")
@click.option("--after", metavar="NAME", default="", help="Only names that sort after this one.")
@click.option("-0", "--null", is_flag=True, help="End each name with NUL, not a line end.")
def queues(client: HttpClient, limit: int | None, after: str, null: bool) -> None:
    """List the names of the queues, also of empty ones.

    Prints one name on a line.
    """
    printer = Printer(null=null)
    for page in _queue_pages(client, limit, after):
        for name in page:
            printer.line(name.encode("utf-8", "surrogatepass"))


@everyday_command("policy news", "policy jobs roundrobin")
@click.argument("queue")
@click.argument("policy", required=False, type=click.Choice(["broadcast", "roundrobin"]))
def policy(client: HttpClient, queue: str, policy: str | None) -> None:
    """Show or set who gets the messages of QUEUE that are streamed.

    With broadcast every listener gets each message, with roundrobin they take turns.

    Prints the policy that holds now.
    """
    path = queue_path("/p/", queue)
    if policy is None:
        click.echo(client.request("GET", path).json_object().get("value"))
    else:
        _post_form(client, path, policy=policy)
        click.echo(policy)


@everyday_command("start jobs")
@click.argument("queue")
def start(client: HttpClient, queue: str) -> None:
    """Resume the delivery of QUEUE to its listeners; undoes stop.

    Prints: started
    """
    _post_form(client, queue_path("/control/", queue), status="start")
    click.echo("started")


@everyday_command("stop jobs")
@click.argument("queue")
def stop(client: HttpClient, queue: str) -> None:
    """Pause the delivery of QUEUE to its listeners; add and take go on.

    Prints: stopped
    """
    _post_form(client, queue_path("/control/", queue), status="stop")
    click.echo("stopped")


@everyday_command("purge jobs", "purge jobs --yes")
@click.argument("queue")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(client: HttpClient, queue: str, yes: bool) -> None:
    """Delete all messages of QUEUE and end the streams of its listeners.

    Asks first when standard input is a terminal.

    Prints: purged, or: already empty
    """
    if not yes and sys.stdin.isatty():
        click.confirm(f"Delete all messages of {queue}?", abort=True, err=True)
    answer = client.request("DELETE", queue_path("/q/", queue)).json_object()
    click.echo("purged" if answer.get("status") else "already empty")


def _post_form(client: HttpClient, path: str, **fields: str) -> None:
    client.request("POST", path, body=urlencode(fields).encode(), content_type=FORM)


for _command in (add, take, peek, listen, len_command, stats, queues, policy, start, stop, purge):
    cli.add_command(_command)
