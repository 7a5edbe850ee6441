"""The commands that read messages once: take and peek."""

import http.client
import time
from collections.abc import Mapping

import click

from restmq.cli.common import (
    EXIT_CODES_EMPTY,
    EXIT_EMPTY,
    MAX_WAIT_SECONDS,
    Printer,
    everyday_command,
    leave_closed_output,
    prints_messages,
)
from restmq.errors import RestMQError
from restmq.http_client import Answer, HttpClient, decimal, queue_path


def waiting_get(
    client: HttpClient, queue: str, query: Mapping[str, object], deadline: float
) -> Answer:
    """GET /q/QUEUE until there is something, or ``deadline`` (of ``time.monotonic``) passes."""
    while True:
        left_seconds = deadline - time.monotonic()
        wait_seconds = round(min(max(left_seconds, 0), MAX_WAIT_SECONDS), 3)
        asked = {**query, "wait": decimal(wait_seconds)} if wait_seconds else query
        answer = client.request("GET", queue_path("/q/", queue), asked, wait_seconds=wait_seconds)
        if answer.status != http.client.NO_CONTENT or left_seconds <= MAX_WAIT_SECONDS:
            return answer


@everyday_command(
    "take jobs",
    "take jobs --all > jobs.txt",
    "take files --all -0 | xargs -0 rm",
    "take jobs --wait 300 || echo nothing came",
    exit_codes=EXIT_CODES_EMPTY,
)
@click.argument("queue")
@click.option(
    "-n", "--count", metavar="N", type=click.IntRange(min=1), help="At most so many.  [default: 1]"
)
@click.option("--all", "everything", is_flag=True, help="Until the queue is empty.")
@click.option(
    "--wait",
    "wait_seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0,
    help="While the queue is empty, wait up to so long in all.",
)
@prints_messages
def take(
    client: HttpClient,
    queue: str,
    count: int | None,
    everything: bool,
    wait_seconds: float,
    printer: Printer,
) -> None:
    """Take the next messages off QUEUE for good, and print them.

    One is asked for after the other has been printed. A message that was taken is gone,
    whatever becomes of it: for work that must not get lost, see restmq lease and
    restmq listen --ack.

    Prints each value on a line of its own, byte for byte.
    """
    if everything and count is not None:
        raise click.UsageError("--all and --count do not go together")
    taken_count = 0
    deadline = time.monotonic() + wait_seconds
    while everything or taken_count < (count or 1):
        answer = waiting_get(client, queue, {}, deadline)
        if answer.status == http.client.NO_CONTENT:
            break
        message = answer.json_object()
        try:
            printer.message(message)
        except (BrokenPipeError, RestMQError) as error:
            if isinstance(error, BrokenPipeError):
                leave_closed_output()
            text = f"{error}; {message.get('key')} was taken and not printed"
            raise RestMQError(text) from error
        taken_count += 1
    if not taken_count:
        raise click.exceptions.Exit(EXIT_EMPTY)


@everyday_command("peek jobs", "peek jobs -n 10 --with-key", exit_codes=EXIT_CODES_EMPTY)
@click.argument("queue")
@click.option(
    "-n",
    "--count",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="At most so many.  [default: 1]",
)
@prints_messages
def peek(client: HttpClient, queue: str, count: int, printer: Printer) -> None:
    """Print the next messages of QUEUE and leave them there.

    Prints each value on a line of its own, byte for byte, the next to be taken first.
    """
    answer = client.request("GET", queue_path("/q/", queue), {"peek": count})
    if answer.status == http.client.NO_CONTENT:
        raise click.exceptions.Exit(EXIT_EMPTY)
    for message in answer.json_array():
        printer.message(message)
