"""The command that reads streams: listen, which prints messages or works on them."""

from dataclasses import dataclass
from itertools import islice

import click

from restmq.cli.command import CommandWork, read_command
from restmq.cli.common import Printer, everyday_command, prints_messages, say
from restmq.cli.held import Delivery
from restmq.cli.leases import DELAY_SECONDS, MAX_LEASE_SECONDS
from restmq.cli.worker import Work, Worker
from restmq.errors import InvalidInput
from restmq.http_client import HttpClient
from restmq.http_leases import Settler
from restmq.http_stream import LeaseTerms, MessageStream

DEFAULT_RETRY_DELAY_SECONDS = 1.0
DEFAULT_GRACE_SECONDS = 8.0
_NEED_ACK = ("prefetch", "lease_seconds", "command")
_NEED_COMMAND = ("shell", "jobs_count", "retry_delay_seconds", "grace_seconds")
_FLAGS = {
    "prefetch": "--prefetch",
    "lease_seconds": "--lease",
    "command": "--exec",
    "shell": "--shell",
    "jobs_count": "--jobs",
    "retry_delay_seconds": "--retry-delay",
    "grace_seconds": "--grace",
}


@dataclass(frozen=True)
class PrintWork:
    """Prints each message; it is done when it has been written."""

    printer: Printer

    def do(self, settler: Settler, delivery: Delivery) -> bool:
        """Print one; raises like ``Printer.message``."""
        self.printer.message(delivery.message)
        return True

    def cut(self, force: bool) -> None:
        """Do nothing: printing takes no time."""


@everyday_command(
    "listen news",
    "listen news --json | jq .value",
    "listen news --follow >> news.txt",
    "listen jobs --ack --exec ./work.sh",
    "listen jobs --ack --exec './work.sh --fast' --jobs 4 --retry-delay 60",
    "listen jobs --ack --shell --exec 'grep -c . >> counts.txt'",
)
@click.argument("queue")
@click.option("-n", "--count", metavar="N", type=click.IntRange(min=1), help="Leave after so many.")
@click.option("--follow", is_flag=True, help="Wait for the server, and stay after a purge.")
@click.option(
    "--format",
    "stream_format",
    type=click.Choice(["sse", "comet"]),
    default="sse",
    help="How to ask for it: server-sent events, or lines of JSON.  [default: sse]",
)
@click.option("--ack", is_flag=True, help="Lease each message, and ack it when it is done.")
@click.option(
    "--prefetch",
    metavar="N",
    type=click.IntRange(1, 1000),
    help="Hold at most so many messages.  [default: as many as --jobs]",
)
@click.option(
    "--lease",
    "lease_seconds",
    metavar="SECONDS",
    type=click.IntRange(1, MAX_LEASE_SECONDS),
    help="How long each is leased at a time.  [default: the queue's lease_seconds, else 30]",
)
@click.option("--exec", "command", metavar="COMMAND", help="Run this for each message.")
@click.option("--shell", is_flag=True, default=None, help="Have /bin/sh read COMMAND.")
@click.option(
    "--jobs",
    "jobs_count",
    metavar="N",
    type=click.IntRange(1, 256),
    help="Run so many at once.  [default: 1]",
)
@click.option(
    "--retry-delay",
    "retry_delay_seconds",
    metavar="SECONDS",
    type=DELAY_SECONDS,
    help="Nobody gets a message that failed before so long.  [default: 1]",
)
@click.option(
    "--grace",
    "grace_seconds",
    metavar="SECONDS",
    type=click.FloatRange(0, 86_400),
    help="How long commands may take to finish when told to leave.  [default: 8]",
)
@prints_messages
def listen(
    client: HttpClient,
    queue: str,
    count: int | None,
    follow: bool,
    stream_format: str,
    ack: bool,
    printer: Printer,
    **options: object,
) -> None:
    """Print the messages of QUEUE as they come, until Ctrl-C; or run a command for each.

    The queue's policy says whether every listener gets each message or one of them. A lost
    connection is taken up again, which is told on standard error. Messages on their way when
    this command leaves are lost, so to get an exact number, use restmq take.

    With --ack nothing gets lost: each message is leased to one listener, and acknowledged when
    it is done. Without --exec, that is when it has been printed. With --exec, COMMAND is run for
    each message, with the value as its standard input, and RESTMQ_QUEUE, RESTMQ_KEY,
    RESTMQ_ATTEMPT (1 at first), RESTMQ_RECEIPT and RESTMQ_CONTENT_TYPE in its environment.
    Exit code 0 acknowledges the message. Anything else gives it back, to be tried again after
    --retry-delay; after too many attempts it is a dead letter (see restmq dead). While a message
    waits for its turn and while COMMAND runs, the lease is extended.

    COMMAND is split into words as a shell would, but no shell is run, so that $, *, | and > mean
    nothing; --shell has /bin/sh read it. On Ctrl-C or SIGTERM nothing more is begun, and what
    runs may finish within --grace seconds. What has not finished then is ended, and its
    messages go back. So do those of a listener that is killed.

    Prints each value on a line of its own, byte for byte, or what COMMAND prints. When the queue
    is purged, the command says so and ends, unless --follow or --ack was given.
    """
    _check(ack, options)
    if ack:
        _listen_and_ack(client, queue, count, follow, stream_format, printer, options)
        return
    stream = MessageStream(client, queue, stream_format, follow, say)
    try:
        for message in islice(stream.messages(), count):
            printer.message(message)
    except KeyboardInterrupt:
        return


def _check(ack: bool, options: dict[str, object]) -> None:
    for name, flag in _FLAGS.items():
        if options[name] is None:
            continue
        if not ack and name in _NEED_ACK:
            raise click.UsageError(f"{flag} goes together with --ack")
        if options["command"] is None and name in _NEED_COMMAND:
            raise click.UsageError(f"{flag} goes together with --exec")


def _listen_and_ack(
    client: HttpClient,
    queue: str,
    count: int | None,
    follow: bool,
    stream_format: str,
    printer: Printer,
    options: dict[str, object],
) -> None:
    lease_seconds = options["lease_seconds"]
    seconds = lease_seconds if isinstance(lease_seconds, int) else None
    jobs_count = int(_number(options["jobs_count"], 1))
    terms = LeaseTerms(seconds, int(_number(options["prefetch"], jobs_count)))
    work: Work = PrintWork(printer)
    if options["command"] is not None:
        if printer != Printer():
            raise click.UsageError("--exec prints nothing; leave out --json, --with-key and -0")
        try:
            words = read_command(str(options["command"]), bool(options["shell"]))
        except InvalidInput as error:
            raise click.BadParameter(str(error), param_hint="'--exec'") from error
        if "\0" in queue:
            raise click.UsageError("a queue's name with a NUL does not fit into an environment")
        work = CommandWork(words, queue)
    stream = MessageStream(client, queue, stream_format, follow, say, lease=terms)
    retry_delay_seconds = _number(options["retry_delay_seconds"], DEFAULT_RETRY_DELAY_SECONDS)
    grace_seconds = _number(options["grace_seconds"], DEFAULT_GRACE_SECONDS)
    Worker(stream, terms, work, jobs_count, count, retry_delay_seconds, grace_seconds).run()


def _number(value: object, default: float) -> float:
    return value if isinstance(value, int | float) else default
