"""The command that looks for what is wrong, or will be: doctor."""

import functools
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from restmq.cli.common import Printer, cell, print_rows
from restmq.cli.options import SettingsCommand
from restmq.errors import InvalidInput
from restmq.http_client import parse_address

if TYPE_CHECKING:
    from restmq.cli.doctor.findings import Finding, Level

STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}

DOCTOR_HELP = """Look for what is wrong with the settings, this machine, Redis and the server.

It reads the settings as restmq serve would here (run it in the same place, as the same user, with
the same options), looks at the machine and at the Redis they name, and with --url asks a running
server too. It changes nothing.

\b
Examples:
  restmq doctor
  restmq doctor --config /etc/restmq.toml --consumers 20000
  restmq doctor --url http://127.0.0.1:8888
  restmq doctor --json | jq -r '.findings[] | select(.level == "problem") | .remedy'

Prints a line for each finding: ok, warning or problem, what was looked at, what was found, and
what to do; a table on a terminal, and in a pipe lines with tabs between these."""
DOCTOR_EXIT_CODES = (
    "Exit codes: 0 all is well, 1 there are warnings, 2 there are problems (or the command line "
    "is wrong)"
)


@functools.cache
def doctor_command() -> click.Command:
    """Make the command; this is what needs the settings."""
    return SettingsCommand(
        others=(
            click.Option(
                ["--url"],
                envvar="RESTMQ_URL",
                show_envvar=True,
                help="A running server to ask too.",
            ),
            click.Option(
                ["--user"],
                metavar="USER:PASSWORD",
                envvar="RESTMQ_USER",
                show_envvar=True,
                help="Basic credentials for that server.",
            ),
            click.Option(
                ["--consumers"],
                metavar="N",
                type=click.IntRange(min=1),
                help="Connections that one node shall bear at the same time.",
            ),
            click.Option(["--quiet"], is_flag=True, help="Print warnings and problems only."),
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object."),
        ),
        name="doctor",
        callback=_doctor,
        help=DOCTOR_HELP,
        epilog=DOCTOR_EXIT_CODES,
    )


def _doctor(
    url: str | None,
    user: str | None,
    consumers: int | None,
    quiet: bool,
    as_json: bool,
    **flags: object,
) -> None:
    from restmq.cli.doctor.examination import examine
    from restmq.cli.doctor.findings import EXIT_STATUS, Level

    if url is not None:
        try:
            address = parse_address(url, user)
        except InvalidInput as error:
            raise click.BadParameter(str(error), param_hint="'--url' or '--user'") from error
    # What the server would log while it reads its files is told here as a finding.
    logging.getLogger("restmq").addHandler(logging.NullHandler())
    found = list(examine(flags, consumers, None if url is None else address))
    worst = max((each.level for each in found), key=list(Level).index, default=Level.OK)
    shown = [each for each in found if not (quiet and each.level is Level.OK)]
    if as_json:
        _print_json(shown, worst)
    elif sys.stdout.isatty():
        _print_table(shown)
    else:
        rows = [[each.level, each.check, each.what, each.remedy] for each in shown]
        print_rows((), [list(map(cell, row)) for row in rows])
    raise click.exceptions.Exit(EXIT_STATUS[worst])


def _print_json(shown: "Sequence[Finding]", worst: "Level") -> None:
    findings = [
        {"level": each.level, "check": each.check, "what": each.what, "remedy": each.remedy}
        for each in shown
    ]
    Printer().json({"level": worst, "findings": findings})


def _print_table(shown: "Sequence[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "Looked at", "Found", box=None, pad_edge=False)
    for each in shown:
        style = STYLES[each.level]
        found = Text(cell(each.what))
        if each.remedy:
            found.append(f"\n-> {cell(each.remedy)}", style="dim")
        table.add_row(Text(each.level, style=style), each.check, found)
    Console().print(table)
