"""The command that shows what moves in all queues: top."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from restmq.cli.common import Printer, cell, everyday_command, print_rows, say
from restmq.http_client import HttpClient

if TYPE_CHECKING:
    from restmq.cli.top.figures import QueueFigures, Snapshot

ORDERS = ("rate", "depth", "age", "dead", "consumers", "name")
DEFAULT_MAX_QUEUES = 10_000
HEADER = (
    "Queue",
    "Ready",
    "Leased",
    "Delayed",
    "Dead",
    "Consumers",
    "Oldest",
    "In/s",
    "Out/s",
    "Status",
)


@everyday_command(
    "top",
    "top 'jobs.*' --sort depth",
    "top --once --limit 10",
    "top --json --interval 10 | jq -c .totals",
)
@click.argument("pattern", default="*", metavar="[PATTERN]")
@click.option(
    "--sort",
    "order",
    type=click.Choice(ORDERS),
    default="rate",
    show_default=True,
    help="What comes first.",
)
@click.option(
    "--interval",
    "interval_seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=3600),
    default=2.0,
    show_default=True,
    help="Look again after so long.",
)
@click.option("--once", is_flag=True, help="Print a table and end.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object on a line for each look."
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    help="Print so many queues with --once and --json.  [default: all]",
)
@click.option(
    "--max-queues",
    metavar="N",
    type=click.IntRange(min=1),
    default=DEFAULT_MAX_QUEUES,
    show_default=True,
    help="Look at so many queues at most, the first by name.",
)
def top(
    client: HttpClient,
    pattern: str,
    order: str,
    interval_seconds: float,
    once: bool,
    as_json: bool,
    limit: int | None,
    max_queues: int,
) -> None:
    """Watch queues live: how much they hold, how fast it comes and goes, who consumes it.

    PATTERN chooses queues by name: * stands for any characters, ? for one. On the screen, keys
    sort (r rate, d depth, a age of the oldest message, x dead letters, c consumers, n name),
    arrows and page keys scroll, space pauses, and q quits. When the server cannot be reached it
    says so and goes on asking.

    Prints a screen on a terminal. With --once, or in a pipe, it prints the table once: in a pipe
    lines with tabs between name, ready, leased, delayed, dead, consumers, age of the oldest
    message in seconds, messages in and out a second, and status.
    """
    from restmq.cli.top.figures import ORDERS as KEYS
    from restmq.cli.top.figures import pause_after, take_snapshot

    if as_json:
        with suppress(KeyboardInterrupt):
            while True:
                start = time.monotonic()
                snapshot = take_snapshot(client, pattern, max_queues)
                took_seconds = time.monotonic() - start
                _print_json(snapshot, sorted(snapshot.queues, key=KEYS[order])[:limit])
                if once:
                    return
                time.sleep(pause_after(interval_seconds, took_seconds))
        return
    snapshot = take_snapshot(client, pattern, max_queues)
    if _has_screen() and not once:
        _watch(client, snapshot, pattern, order, interval_seconds, max_queues)
    else:
        _print_table(sorted(snapshot.queues, key=KEYS[order])[:limit])
        if not snapshot.is_complete:
            say(f"these are the first {max_queues:,} queues by name; see --max-queues")


def _has_screen() -> bool:
    """Whether somebody sits at a terminal on which lines can be drawn over."""
    is_capable = os.environ.get("TERM", "dumb") != "dumb"
    return is_capable and sys.stdin.isatty() and sys.stdout.isatty()


def _watch(
    client: HttpClient,
    snapshot: "Snapshot",
    pattern: str,
    order: str,
    interval_seconds: float,
    max_queues: int,
) -> None:
    from restmq.cli.top.drawing import View
    from restmq.cli.top.screen import Feed, Screen

    view = View(client.address.url, order, interval_seconds, pattern)
    with (
        suppress(KeyboardInterrupt),
        Feed(client, pattern, max_queues, interval_seconds) as feed,
    ):
        Screen(view, snapshot).run(feed)


def _print_table(queues: "Sequence[QueueFigures]") -> None:
    rows = [
        [
            cell(each.name),
            *map(str, (each.ready, each.leased, each.delayed, each.dead, each.consumers)),
            "" if each.oldest_age_seconds is None else f"{each.oldest_age_seconds:.1f}",
            f"{each.rate_in:.1f}",
            f"{each.rate_out:.1f}",
            "stopped" if each.is_stopped else "started",
        ]
        for each in queues
    ]
    print_rows(HEADER, rows)


def _print_json(snapshot: "Snapshot", queues: "Sequence[QueueFigures]") -> None:
    document = {
        "time": snapshot.taken_at,
        "redis": snapshot.redis,
        "complete": snapshot.is_complete,
        "totals": asdict(snapshot.totals),
        "queues": [asdict(each) for each in queues],
    }
    Printer().json(document)
