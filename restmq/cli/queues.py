"""The everyday commands that look after queues: len, stats, queues, policy, start, stop, purge."""

from collections.abc import Iterator, Mapping
from itertools import islice

import click

from restmq.cli.common import Printer, cell, confirm, everyday_command, print_rows
from restmq.http_client import HttpClient, queue_path
from restmq.http_leases import FORM, form_body

PAGE_QUEUES = 1000

_WORDS: Mapping[tuple[str, object], str] = {
    ("status", 1): "started",
    ("status", 0): "stopped",
    ("status", ""): "stopped",
    ("policy", 1): "broadcast",
    ("policy", 2): "roundrobin",
    ("policy", ""): "broadcast",
}


_COLUMNS: Mapping[str, str] = {
    "name": "Queue",
    "len": "Length",
    "status": "Status",
    "policy": "Policy",
    "delayed": "Delayed",
    "leased": "Leased",
    "dead": "Dead",
}


@everyday_command("len jobs", '$ test "$(restmq len jobs)" -gt 1000 && echo too many')
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

    For one QUEUE that is also how many messages are ready (which len counts), delayed until
    later, leased to somebody, and dead; how many listen; the age of the oldest ready message in
    seconds; and how many came and went a second, lately. For logs see restmq channels
    and restmq apps.

    Prints a table on a terminal. In a pipe it prints lines separated by tabs: name, length,
    status and policy of each queue, and how many messages are delayed, leased and dead; for one
    QUEUE, name and value of each property.
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
            rows = [[_cell(name, each.get(name, 0)) for name in _COLUMNS] for each in page]
            print_rows(tuple(_COLUMNS.values()), rows)
        else:
            rows = [[name, _cell(name, value)] for name, value in page[0].items()]
            print_rows(("Property", "Value"), rows)


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
    """A property in words: the numbers of status and policy mean little to people."""
    word = _WORDS.get((name, value)) if isinstance(value, int | str) else None
    return word or cell(value)


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
    confirm(f"Delete all messages of {queue}?", yes)
    answer = client.request("DELETE", queue_path("/q/", queue)).json_object()
    click.echo("purged" if answer.get("status") else "already empty")


def _post_form(client: HttpClient, path: str, **fields: str) -> None:
    client.request("POST", path, body=form_body(fields), content_type=FORM)
