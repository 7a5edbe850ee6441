"""The everyday command that tells who is connected over STOMP: ``restmq stomp``."""

from collections.abc import Iterator
from typing import Any

import click

from restmq.cli.common import Printer, cell, everyday_command, print_rows, say
from restmq.errors import RestMQError
from restmq.http_client import HttpClient, queue_path

PAGE_CONNECTIONS = 500

_CONNECTIONS = (
    ("connection", "Connection"),
    ("login", "Login"),
    ("address", "Address"),
    ("via", "Via"),
    ("version", "Version"),
    ("seconds", "Seconds"),
    ("subscription_count", "Subscriptions"),
    ("held", "Holds"),
)
_SUBSCRIPTIONS = (
    ("id", "Subscription"),
    ("destination", "Destination"),
    ("ack", "Ack"),
    ("prefetch", "Prefetch"),
    ("held", "Holds"),
    ("messages", "Messages"),
)
_OWNER = _CONNECTIONS[:3]


@everyday_command("stomp", "stomp jobs", "stomp --topics", "stomp --json | jq .address")
@click.argument("queue", required=False)
@click.option("--topics", is_flag=True, help="Show topics and how many subscribe to each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each.")
def stomp(client: HttpClient, queue: str | None, topics: bool, as_json: bool) -> None:
    """Show who is connected over STOMP, to all nodes; or who subscribes to QUEUE.

    For QUEUE that is each subscription, and which messages it holds unacknowledged (the keys of
    the first 20).

    Prints a table on a terminal. In a pipe it prints lines separated by tabs: of connections,
    name, login, address, tcp, tls or websocket, protocol version, seconds since it was opened,
    number of subscriptions, and of messages held; of subscriptions, name, login and address of
    the connection, id, destination, ack mode, prefetch, number and keys of messages held; of
    topics, name and number of subscriptions.
    """
    if topics and queue is not None:
        raise click.UsageError("--topics goes without a queue")
    if topics:
        _print_topics(next(_pages(client, None)), as_json)
        return
    for page in _pages(client, queue):
        clients = page["clients"]
        if as_json:
            for each in clients:
                Printer().json(each)
        elif queue is None:
            rows = [_cells(each, _CONNECTIONS) for each in clients]
            print_rows(tuple(title for _, title in _CONNECTIONS), rows)
        else:
            rows = [
                _cells(each, _OWNER) + _cells(subscription, _SUBSCRIPTIONS)
                for each in clients
                for subscription in each["subscriptions"]
            ]
            print_rows(tuple(title for _, title in _OWNER + _SUBSCRIPTIONS), rows)


def _print_topics(page: dict[str, Any], as_json: bool) -> None:
    if page["has_more_topics"]:
        say(f"there are more topics than these {len(page['topics'])}")
    if as_json:
        for name, count in page["topics"].items():
            Printer().json({"topic": name, "subscriptions": count})
        return
    rows = [[cell(name), cell(count)] for name, count in page["topics"].items()]
    print_rows(("Topic", "Subscriptions"), rows)


def _pages(client: HttpClient, queue: str | None) -> Iterator[dict[str, Any]]:
    """What all nodes tell, a page of connections at a time."""
    path = "/stats/" if queue is None else queue_path("/stats/", queue)
    after: str | None = ""
    while after is not None:
        query: dict[str, object] = {"stomp": PAGE_CONNECTIONS}
        if after:
            query["after"] = after
        page = client.request("GET", path, query).json_object().get("stomp")
        if not isinstance(page, dict):
            raise RestMQError("this server does not tell who is connected over STOMP")
        if page["silent_nodes"] and not after:
            say(f"{page['silent_nodes']} nodes did not answer in time, so theirs are missing")
        yield page
        after = page["next"]


def _cells(record: dict[str, Any], columns: tuple[tuple[str, str], ...]) -> list[str]:
    return [_cell(record[name]) for name, _ in columns]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return cell(" ".join(map(str, value)) if isinstance(value, list) else value)
