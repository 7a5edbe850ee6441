"""The everyday commands that look after logs: channels, and the queues of Queuey's applications."""

from collections.abc import Iterator
from itertools import islice
from urllib.parse import quote

import click

from restmq.cli.common import EXIT_CODES, Printer, cell, confirm, everyday_command, print_rows
from restmq.errors import RestMQError, Unavailable
from restmq.http_client import HttpClient, read_json

PAGE_SIZE = 1000

CHANNELS_HELP = """Look after channels, which many clients read, each at its own pace.

Programs write and read them over /channels and /cursors, or with restmq.rivulet.

\b
Examples:
  restmq channels list
  restmq channels show news
  restmq channels prune news --before 1000
  restmq channels delete news

Prints what each of these commands says in its own help."""

channels = click.Group("channels", help=CHANNELS_HELP, epilog=EXIT_CODES)


@everyday_command("channels list", "channels list --limit 100 --after news")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most so many.")
@click.option("--after", metavar="NAME", default="", help="Only names that sort after this one.")
@click.option("-0", "--null", is_flag=True, help="End each name with NUL, not a line end.")
def list_command(client: HttpClient, limit: int | None, after: str, null: bool) -> None:
    """List the names of the channels, also of empty ones.

    Prints one name on a line.
    """
    printer = Printer(null=null)
    for name in islice(_names(client, after, limit or PAGE_SIZE), limit):
        printer.line(name.encode("utf-8", "surrogatepass"))


def _names(client: HttpClient, after: str, size: int) -> Iterator[str]:
    """The names of the channels, asked for in pages."""
    while True:
        query = {"limit": min(size, PAGE_SIZE), **({"after": after} if after else {})}
        names = client.request("GET", "/channels", query).json_object().get("channels")
        if not isinstance(names, list) or not names:
            return
        yield from map(str, names)
        after = str(names[-1])


@everyday_command("channels show news", "channels show news --json | jq .subscribers")
@click.argument("channel")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show_command(client: HttpClient, channel: str, as_json: bool) -> None:
    """Show what is known of CHANNEL: its messages, and how far each subscriber has read.

    Prints a table on a terminal; in a pipe, name and value of each property, separated by a tab.
    """
    shown = client.request("GET", _path(channel)).json_object()
    subscribers = dict(_subscribers(client, channel, shown))
    if as_json:
        Printer().json({**shown, "subscribers": subscribers})
        return
    rows = [[name, cell(value)] for name, value in shown.items() if name != "subscribers"]
    rows += [[f"cursor of {cell(name)}", cell(value)] for name, value in subscribers.items()]
    print_rows(("Property", "Value"), rows)


def _subscribers(
    client: HttpClient, channel: str, shown: dict[str, object]
) -> Iterator[tuple[str, object]]:
    """The cursors of all subscribers; ``shown`` holds the first page of them."""
    offset = 0
    while True:
        page = shown.get("subscribers")
        if not isinstance(page, dict):
            return
        yield from page.items()
        if len(page) < PAGE_SIZE:
            return
        offset += len(page)
        shown = client.request("GET", _path(channel), {"offset": offset}).json_object()


@everyday_command("channels prune news --before 1000")
@click.argument("channel")
@click.option(
    "--before",
    metavar="ID",
    type=click.IntRange(min=1),
    required=True,
    help="The oldest message that is kept.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune_command(client: HttpClient, channel: str, before: int, yes: bool) -> None:
    """Discard the messages of CHANNEL before an id, also those that somebody has yet to read.

    Asks first when standard input is a terminal.

    Prints how many there were.
    """
    confirm(f"Discard the messages of {channel} before {before}?", yes)
    query = {"before": before}
    answer = client.request("DELETE", f"{_path(channel)}/messages", query).json_object()
    click.echo(answer.get("discarded"))


@everyday_command("channels delete news", "channels delete news --yes")
@click.argument("channel")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete_command(client: HttpClient, channel: str, yes: bool) -> None:
    """Delete CHANNEL with its messages and all cursors in it.

    If it is written to again, ids go on where they were. Asks first when standard input is a
    terminal.

    Prints: deleted
    """
    confirm(f"Delete {channel}?", yes)
    client.request("DELETE", _path(channel))
    click.echo("deleted")


for _command in (list_command, show_command, prune_command, delete_command):
    channels.add_command(_command)


def _path(channel: str) -> str:
    if not channel:
        raise click.UsageError("a channel's name cannot be empty")
    return "/channels/" + quote(channel.encode("utf-8", "surrogateescape"), safe="")


@everyday_command("apps demo --key K", "$ RESTMQ_APPLICATION_KEY=K restmq apps demo --json")
@click.argument("application")
@click.option(
    "--key",
    envvar="RESTMQ_APPLICATION_KEY",
    show_envvar=True,
    required=True,
    help="A key of the application, as in [queuey.application_keys] of the settings.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each queue.")
def apps(client: HttpClient, application: str, key: str, as_json: bool) -> None:
    """List the queues of a Queuey APPLICATION with their partitions, type and messages.

    Prints a table on a terminal; in a pipe, lines separated by tabs: name, partitions, type and
    number of messages.
    """
    if not application:
        raise click.UsageError("an application's name cannot be empty")
    header = ("Queue", "Partitions", "Type", "Messages")
    rows = []
    for queue in _queues(client, application, key):
        if as_json:
            Printer().json(queue)
        else:
            names = ("queue_name", "partitions", "type", "count")
            rows.append([cell(queue.get(name)) for name in names])
    if rows:
        print_rows(header, rows)


def _queues(client: HttpClient, application: str, key: str) -> Iterator[dict[str, object]]:
    """The queues of an application in order, asked for in pages.

    Queuey pages by the name at which a page begins, so every page but the first begins with the
    last queue of the one before.
    """
    path = "/v1/" + quote(application.encode("utf-8", "surrogateescape"), safe="")
    last = ""
    while True:
        query: dict[str, object] = {"include_count": "true", "limit": PAGE_SIZE}
        if last:
            query["offset"] = last
        page = _ask(client, path, query, key, application)
        new = [queue for queue in page if not last or str(queue.get("queue_name")) > last]
        yield from new
        if not new or len(page) < PAGE_SIZE:
            return
        last = str(new[-1].get("queue_name"))


def _ask(
    client: HttpClient, path: str, query: dict[str, object], key: str, application: str
) -> list[dict[str, object]]:
    headers = {"Authorization": f"Application {key}"}
    try:
        with client.stream(path, headers, query) as body:
            content = b"".join(body)
    except Unavailable:
        raise
    except RestMQError as error:
        raise RestMQError(f"cannot list the queues of {application}: {error}") from error
    queues = read_json(content, client.address.url, dict).get("queues")
    if not isinstance(queues, list) or not all(isinstance(queue, dict) for queue in queues):
        raise RestMQError(f"{client.address.url} answered with JSON that is not what was asked for")
    return queues
