"""The commands for dead letters, messages that were tried too often: dead and redrive."""

import http.client
import sys
import time
from collections.abc import Iterator

import click

from restmq.cli.common import Printer, cell, confirm, everyday_command, print_rows
from restmq.errors import RestMQError
from restmq.http_client import HttpClient, queue_path
from restmq.http_leases import FORM, form_body

DEFAULT_LISTED = 20
PAGE_LETTERS = 100
SHOWN_CHARACTERS = 60


@everyday_command("dead jobs", "dead jobs --all | jq -r .value", "dead jobs --drop")
@click.argument("queue")
@click.option(
    "-n",
    "--count",
    metavar="N",
    type=click.IntRange(min=1),
    help=f"At most so many.  [default: {DEFAULT_LISTED}]",
)
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--drop", is_flag=True, help="Delete all dead letters of QUEUE for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def dead(
    client: HttpClient, queue: str, count: int | None, everything: bool, drop: bool, yes: bool
) -> None:
    """List the dead letters of QUEUE, the oldest first.

    These are messages that failed as often as the queue's max_attempts allows, that were given
    up with restmq nack --dead, or that had no room. They stay until restmq redrive puts them
    back or --drop deletes them, which asks first when standard input is a terminal.

    Prints a table on a terminal, and a JSON object on a line for each in a pipe; with --drop,
    how many were deleted.
    """
    if everything + drop + (count is not None) > 1:
        raise click.UsageError("--count, --all and --drop do not go together")
    path = queue_path("/dead/", queue)
    if drop:
        confirm(f"Delete all dead letters of {queue}?", yes)
        click.echo(client.request("DELETE", path).json_object().get("dropped"))
        return
    limit = None if everything else count or DEFAULT_LISTED
    for page in _pages(client, path, limit):
        if sys.stdout.isatty():
            header = ("Key", "Died", "Attempts", "Reason", "Value")
            print_rows(header, [_row(each) for each in page])
        else:
            for each in page:
                Printer().json(each)


def _pages(client: HttpClient, path: str, limit: int | None) -> Iterator[list[dict[str, object]]]:
    seen = 0
    while limit is None or seen < limit:
        size = PAGE_LETTERS if limit is None else min(PAGE_LETTERS, limit - seen)
        answer = client.request("GET", path, {"count": size, "offset": seen})
        if answer.status == http.client.NO_CONTENT:
            return
        page = answer.json_array()
        yield page
        seen += len(page)
        if len(page) < size:
            return


def _row(letter: dict[str, object]) -> list[str]:
    died = letter.get("died")
    moment = ""
    if isinstance(died, int | float):
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(died))
    value = cell(letter.get("value"))
    if len(value) > SHOWN_CHARACTERS:
        value = value[: SHOWN_CHARACTERS - 1] + "…"
    told = [cell(letter.get(name)) for name in ("key", "attempts", "reason")]
    return [told[0], moment, *told[1:], value]


@everyday_command("redrive jobs", "redrive jobs --count 10", "redrive jobs --key jobs:7")
@click.argument("queue")
@click.option("-n", "--count", metavar="N", type=click.IntRange(min=1), help="At most so many.")
@click.option("--key", metavar="KEY", help="Only the message with this key.")
def redrive(client: HttpClient, queue: str, count: int | None, key: str | None) -> None:
    """Put dead letters back into QUEUE, the oldest first.

    Their attempts count from zero again.

    Prints how many were put back.
    """
    if count is not None and key is not None:
        raise click.UsageError("--count and --key do not go together")
    fields = {"count": count, "key": key}
    body = form_body({name: str(each) for name, each in fields.items() if each is not None})
    answer = client.request("POST", queue_path("/dead/", queue), body=body, content_type=FORM)
    redriven = answer.json_object().get("redriven")
    if not isinstance(redriven, int):
        raise RestMQError(f"{answer.url} does not say how many were put back")
    click.echo(redriven)
