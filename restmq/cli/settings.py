"""The command for the settings of one queue: settings."""

import json
from collections.abc import Sequence

import click

from restmq.cli.common import Printer, cell, everyday_command, print_rows
from restmq.http_client import Answer, HttpClient, queue_path

JSON = "application/json"


@everyday_command(
    "settings jobs",
    "settings jobs max_attempts=3 lease_seconds=120",
    'settings jobs ttl=none copies_to=\'["audit", "search"]\'',
    "settings jobs max_attempts=null",
    "settings jobs --reset",
)
@click.argument("queue")
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--reset", is_flag=True, help="Take back all that was set for this queue.")
@click.option("--json", "as_json", is_flag=True, help="Print them as one JSON object.")
def settings(
    client: HttpClient,
    queue: str,
    changes: tuple[str, ...],
    reset: bool,
    as_json: bool,
) -> None:
    """Show or change the settings of QUEUE, which need not exist.

    A VALUE is a number, a word, or JSON; null takes back what was set. All changes are made, or
    none of them. Beneath what is set here stand the sections [queues."pattern"] of the server's
    TOML file, and the defaults.

    \b
      policy, status    broadcast or roundrobin, start or stop: who gets what is streamed
      lease_seconds     how long a lease lasts that names no time
      max_attempts      deliveries until a message is a dead letter; 0: never
      ttl, delay        seconds, for messages that name none
      dedupe_seconds    how long the id of a message is remembered
      history_count     messages kept for streams that come back
      history_seconds   and how long they are kept
      max_length        messages that the queue may hold, or none for any number
      overflow          when it is full: reject, drop-oldest or dead-letter
      copies_to         list of queues to which every message goes too
      storage           disk or memory (lost with Redis), for a queue that is new

    Prints the settings that hold now: a table on a terminal, and in a pipe lines of name, tab
    and value.
    """  # noqa: D301 - the backslash marks lines that are not to be wrapped
    if changes and reset:
        raise click.UsageError("--reset takes everything back; leave out the changes")
    document = _ask(client, queue, changes, reset).json_object()
    if as_json:
        Printer().json(document)
    else:
        rows = [[name, _words(value)] for name, value in document.items()]
        print_rows(("Setting", "Value"), rows)


def _ask(client: HttpClient, queue: str, changes: Sequence[str], reset: bool) -> Answer:
    path = queue_path("/settings/", queue)
    if reset:
        return client.request("DELETE", path)
    if changes:
        body = json.dumps(dict(map(_read_change, changes))).encode()
        return client.request("PATCH", path, body=body, content_type=JSON)
    return client.request("GET", path)


def _read_change(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.UsageError(f"{text!r} is no change; write NAME=VALUE")
    try:
        return name, json.loads(value, parse_constant=str)
    except (ValueError, RecursionError):
        return name, value  # a word


def _words(value: object) -> str:
    return "none" if value is None else cell(value)
