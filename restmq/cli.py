"""The command line: ``restmq serve``, and the everyday commands against a running server.

The commands that move messages are in ``restmq.cli_add``, ``cli_client``, ``cli_listen`` and
``cli_leases``, those that look after queues in ``cli_queues``, ``cli_dead`` and ``cli_settings``.
This is the one place where errors become a line on standard error and an exit code.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from restmq import __version__
from restmq.cli_add import add
from restmq.cli_client import peek, take
from restmq.cli_common import leave_closed_output, say
from restmq.cli_dead import dead, redrive
from restmq.cli_leases import ack, extend, lease, nack
from restmq.cli_listen import listen
from restmq.cli_logs import apps, channels
from restmq.cli_queues import len_command, policy, purge, queues, start, stats, stop
from restmq.cli_settings import settings as settings_command
from restmq.errors import RestMQError, StartupError
from restmq.http_client import one_line

if TYPE_CHECKING:
    from restmq.knobs import Knob

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
        "Work that must not get lost": ("lease", "ack", "nack", "extend", "dead", "redrive"),
        "Queues": ("len", "stats", "queues", "settings", "policy", "stop", "start", "purge"),
        "Logs": ("channels", "apps"),
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
    from restmq.settings_sources import load

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


_ABBREVIATIONS = {"rse": "RSE", "stomp": "STOMP"}


def _heading(knob: "Knob") -> str:
    if knob.section != "server":
        return _ABBREVIATIONS.get(knob.section, knob.section.capitalize())
    if "redis_" in knob.name or knob.name in ("data_dir", "fsync"):
        return "Storage"
    if knob.name.endswith(("_seconds", "_bytes", "_count")):
        return "Limits"
    return "Server"


_MESSAGES = (add, take, peek, listen, lease, ack, nack, extend, dead, redrive)
_QUEUES = (len_command, stats, queues, settings_command, policy, start, stop, purge)
_LOGS = (channels, apps)
for _command in _MESSAGES + _QUEUES + _LOGS:
    cli.add_command(_command)
