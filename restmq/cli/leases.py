"""The commands for messages that must not get lost: lease, ack, nack and extend."""

import http.client
import time
from collections.abc import Iterable, Iterator, Sequence

import click

from restmq.cli.client import waiting_get
from restmq.cli.common import (
    EXIT_CODES_EMPTY,
    EXIT_EMPTY,
    Printer,
    everyday_command,
    read_lines,
    say,
)
from restmq.errors import InvalidInput, RestMQError
from restmq.http_client import HttpClient, decimal, one_line
from restmq.http_leases import ACKED_PER_REQUEST, Settler

MAX_LEASE_SECONDS = 43_200

LEASE_SECONDS = click.FloatRange(1, MAX_LEASE_SECONDS)
DELAY_SECONDS = click.FloatRange(min=0, max=315_360_000)


@everyday_command(
    "lease jobs",
    "lease jobs --seconds 300 --wait 60 > job.json",
    "ack $(jq -r .receipt job.json)",
    exit_codes=EXIT_CODES_EMPTY,
)
@click.argument("queue")
@click.option(
    "-n",
    "--count",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=1,
    help="At most so many.  [default: 1]",
)
@click.option(
    "--seconds",
    metavar="SECONDS",
    type=LEASE_SECONDS,
    help="How long each is yours, 1 to 43200.  [default: the queue's lease_seconds, else 30]",
)
@click.option(
    "--wait",
    "wait_seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=0,
    help="While the queue is empty, wait up to so long.",
)
@click.option("--value", "value_only", is_flag=True, help="Print the value alone, no receipt.")
def lease(
    client: HttpClient,
    queue: str,
    count: int,
    seconds: float | None,
    wait_seconds: float,
    value_only: bool,
) -> None:
    """Get the next messages of QUEUE for a time, and keep others from getting them.

    Say restmq ack with a message's receipt when its work is done, and it is gone for good.
    restmq nack gives it back at once, restmq extend keeps it for longer. If you say nothing
    until the time is over, somebody else gets it: no message is lost because a worker died.

    Prints each message as a JSON object on one line, with its key, value, attempt (1 at first),
    receipt, and the time when the lease ends (expires, in Unix seconds).
    """
    query = {"lease": decimal(seconds) if seconds is not None else "", "count": count}
    answer = waiting_get(client, queue, query, time.monotonic() + wait_seconds)
    if answer.status == http.client.NO_CONTENT:
        raise click.exceptions.Exit(EXIT_EMPTY)
    printer = Printer(as_json=not value_only)
    for message in answer.json_array():
        printer.message(message)


@everyday_command("ack RECEIPT", "lease jobs -n 100 | tee jobs.json | jq -r .receipt | restmq ack")
@click.argument("receipts", nargs=-1, metavar="[RECEIPT]...")
def ack(client: HttpClient, receipts: tuple[str, ...]) -> None:
    """Say that the work on leased messages is done: they are deleted for good.

    Without arguments, each line of standard input is a RECEIPT.

    Prints the key of each message, and on standard error each receipt that is no good any more,
    because its lease ended or was settled before; then the exit code is 1, but the others count.
    """
    settler = Settler(client)
    failed = False
    for some in _chunks(_given(receipts)):
        for receipt, outcome in zip(some, settler.ack(some), strict=True):
            failed |= _tell(receipt, outcome)
    if failed:
        raise click.exceptions.Exit(1)


@everyday_command(
    "nack RECEIPT", "nack RECEIPT --delay 60", "nack RECEIPT --dead 'this is no address'"
)
@click.argument("receipts", nargs=-1, metavar="[RECEIPT]...")
@click.option("--delay", metavar="SECONDS", type=DELAY_SECONDS, help="Nobody gets it before.")
@click.option("--keep-attempt", is_flag=True, help="Do not count this attempt.")
@click.option("--dead", metavar="REASON", help="Put it with the dead letters of its queue.")
def nack(
    client: HttpClient,
    receipts: tuple[str, ...],
    delay: float | None,
    keep_attempt: bool,
    dead: str | None,
) -> None:
    """Give leased messages back, for somebody else to try.

    Each goes back to the head of its queue, or waits for --delay seconds first. After as many
    attempts as the queue's max_attempts says (5, if nobody changed it), a message is put with
    the dead letters: see restmq dead. Without arguments, each line of standard input is a
    RECEIPT.

    Prints the key of each message, and on standard error each receipt that is no good any more,
    because its lease ended or was settled before; then the exit code is 1, but the others count.
    """
    if dead is not None and (delay is not None or keep_attempt):
        raise click.UsageError("--dead goes together with neither --delay nor --keep-attempt")
    if dead == "":
        raise click.UsageError("--dead needs a reason")
    settler = Settler(client)
    failed = False
    for receipt in _given(receipts):
        outcome: str | RestMQError
        try:
            if dead is not None:
                outcome = settler.bury(receipt, dead)
            else:
                outcome = settler.release(receipt, delay or 0, keep_attempt)
        except RestMQError as error:
            settler.raise_unless_about_a_receipt(error)
            outcome = error
        failed |= _tell(receipt, outcome)
    if failed:
        raise click.exceptions.Exit(1)


@everyday_command("extend RECEIPT 300")
@click.argument("receipt")
@click.argument("seconds", type=LEASE_SECONDS)
def extend(client: HttpClient, receipt: str, seconds: float) -> None:
    """Keep a leased message for SECONDS, counted from now.

    Prints the time when the lease ends now, in Unix seconds.
    """
    click.echo(decimal(Settler(client).extend(receipt, seconds)))


def _given(receipts: tuple[str, ...]) -> Iterator[str]:
    if receipts:
        yield from receipts
        return
    for line in read_lines():
        try:
            yield line.strip().decode("ascii")
        except UnicodeDecodeError as error:
            raise InvalidInput("the input holds something that is no receipt") from error


def _chunks(receipts: Iterable[str]) -> Iterator[Sequence[str]]:
    chunk: list[str] = []
    for receipt in filter(None, receipts):
        chunk.append(receipt)
        if len(chunk) == ACKED_PER_REQUEST:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _tell(receipt: str, outcome: str | RestMQError) -> bool:
    """Print what became of a receipt; returns whether it failed."""
    if isinstance(outcome, str):
        Printer().line(outcome.encode("utf-8", "surrogatepass"))
        return False
    say(f"{one_line(receipt)[:100]}: {outcome}")
    return True
