"""The command line: ``restmq serve``, and the everyday commands against a running server.

The commands that move messages are in ``restmq.cli.add``, ``client``, ``listen`` and ``leases``,
those that look after queues in ``queues``, ``dead`` and ``settings``.
This is the one place where errors become a line on standard error and an exit code.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import click

from restmq import __version__
from restmq.cli.add import add
from restmq.cli.bench.command import bench
from restmq.cli.client import peek, take
from restmq.cli.common import leave_closed_output, say
from restmq.cli.completion import complete_queues, completion
from restmq.cli.config import config_command
from restmq.cli.dead import dead, redrive
from restmq.cli.doctor.command import doctor_command
from restmq.cli.keys import keys
from restmq.cli.leases import ack, extend, lease, nack
from restmq.cli.listen import listen
from restmq.cli.logs import apps, channels
from restmq.cli.options import SettingsCommand
from restmq.cli.queues import len_command, policy, purge, queues, start, stats, stop
from restmq.cli.settings import settings as settings_command
from restmq.cli.stomp import stomp
from restmq.cli.top.command import top
from restmq.errors import RestMQError, SettingsError
from restmq.http_client import one_line

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
SERVE_EXIT_CODES = (
    "Exit codes: 0 stopped as told, 1 it cannot start, which may pass (the port is taken, the "
    "directory is held), 2 a setting or the command line is wrong"
)


class Refused(click.ClickException):
    """An error that people see as one line, ``restmq: ...``."""

    exit_code = 1

    def show(self, file: object = None) -> None:
        """Print the line on standard error."""
        say(one_line(self.message))


class WrongSetting(Refused):
    """An error that stays until somebody changes a setting, so that starting again is no use."""

    exit_code = 2


class RestMQGroup(click.Group):
    """The ``restmq`` command: its commands in a sensible order, its errors as one line."""

    sections: Mapping[str, tuple[str, ...]] = {
        "The server": ("serve", "top", "bench", "config", "doctor"),
        "Messages": ("add", "take", "peek", "listen"),
        "Work that must not get lost": ("lease", "ack", "nack", "extend", "dead", "redrive"),
        "Queues": (
            "len",
            "stats",
            "queues",
            "settings",
            "policy",
            "stop",
            "start",
            "purge",
            "stomp",
        ),
        "Logs": ("channels", "apps"),
        "Access": ("keys",),
        "The shell": ("completion",),
    }

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command; those that need the settings are made when asked for."""
        made = {"serve": _serve_command, "config": config_command, "doctor": doctor_command}.get(
            cmd_name
        )
        return made() if made is not None else super().get_command(ctx, cmd_name)

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
        except SettingsError as error:
            raise WrongSetting(str(error)) from error
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


@functools.cache
def _serve_command() -> click.Command:
    return SettingsCommand(
        name="serve",
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


_MESSAGES = (add, take, peek, listen, lease, ack, nack, extend, dead, redrive)
_QUEUES = (len_command, stats, queues, settings_command, policy, start, stop, purge, stomp)
_LOGS = (channels, apps)
for _command in (*_MESSAGES, *_QUEUES, *_LOGS, keys, top, bench, completion):
    cli.add_command(_command)
complete_queues(cli.commands.values())
