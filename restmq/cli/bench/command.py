"""The command that measures a server: bench."""

import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from restmq.cli.common import Printer, everyday_command, print_rows, say
from restmq.cli.listing import stats_pages
from restmq.errors import Conflict, RestMQError
from restmq.http_client import HttpClient, parse_address, queue_path

if TYPE_CHECKING:
    import asyncio

    from restmq.cli.bench.load import Result
    from restmq.cli.bench.works import Plan

WORKS = ("publish", "batch", "take", "lease", "fanout")
DEFAULT_QUEUE = "restmq-bench"
HELD = ("len", "leased", "delayed", "dead", "consumers")
RATES = ("rate_in", "rate_out")


def _works(_ctx: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    for name in names:
        if name not in WORKS:
            raise click.BadParameter(f"there is no {name!r}; there are {', '.join(WORKS)}")
    if not names:
        raise click.BadParameter(f"name some of {', '.join(WORKS)}")
    return tuple(dict.fromkeys(names))


@everyday_command(
    "bench --start",
    "bench --only publish,take --seconds 10 --connections 128",
    "bench --url http://queue.example:8888 --json > bench.json",
)
@click.option(
    "--only",
    "works",
    metavar="WORK,...",
    default=",".join(WORKS),
    callback=_works,
    help=f"Measure some of {', '.join(WORKS)}.  [default: all]",
)
@click.option(
    "--seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1, max=3600),
    default=5.0,
    show_default=True,
    help="How long each of them takes at most.",
)
@click.option(
    "--connections",
    metavar="N",
    type=click.IntRange(min=1, max=10_000),
    default=64,
    show_default=True,
    help="Connections that ask at the same time.",
)
@click.option(
    "--size",
    "size_bytes",
    metavar="BYTES",
    type=click.IntRange(min=15, max=1024 * 1024),
    default=100,
    show_default=True,
    help="Size of a message.",
)
@click.option(
    "--batch",
    "batch_messages",
    metavar="N",
    type=click.IntRange(min=1, max=1000),
    default=100,
    show_default=True,
    help="Messages in a request of batch.",
)
@click.option(
    "--consumers",
    metavar="N",
    type=click.IntRange(min=1, max=10_000),
    default=100,
    show_default=True,
    help="Streams of fanout.",
)
@click.option(
    "--queue",
    default=DEFAULT_QUEUE,
    show_default=True,
    help="Queue to use; it must be new, and so must QUEUE.stream.",
)
@click.option(
    "--force", is_flag=True, help="Use queues that are there already, if nothing happens in them."
)
@click.option("--start", is_flag=True, help="Start a server of its own, and measure that.")
@click.option(
    "--fsync",
    type=click.Choice(["always", "everysec", "no"]),
    default="always",
    show_default=True,
    help="As for serve, with --start.",
)
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=1, max=64),
    default=1,
    show_default=True,
    help="As for serve, with --start.",
)
@click.option(
    "--directory",
    metavar="PATH",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where a started server writes: a real disk.  [default: the working directory]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(
    client: HttpClient,
    works: tuple[str, ...],
    seconds: float,
    connections: int,
    size_bytes: int,
    batch_messages: int,
    consumers: int,
    queue: str,
    force: bool,
    start: bool,
    fsync: str,
    workers: int,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Measure how fast a server is, from here.

    publish posts single messages, batch many in each request; take takes single ones, lease
    leases and acknowledges them; fanout publishes to streams that all get every message. It works
    on queues of its own, refuses to touch any that is not new, and empties them afterwards. A
    server that has other work to do will feel it.

    The load comes from one process, which shares the machine with a server on it: the figures are
    of both together.

    Prints a table and plots on a terminal, and in a pipe lines with tabs between work, what was
    counted, so many a second, in all, seconds, and milliseconds within which 50, 90, 99 and 99.9
    percent were done, and the longest.
    """
    from restmq.cli.bench.load import Target
    from restmq.cli.bench.server import started_server
    from restmq.cli.bench.works import Plan

    server = started_server(fsync, workers, directory) if start else nullcontext(None)
    with server as url:
        with HttpClient(parse_address(url) if url else client.address) as asked:
            target = Target(asked.address)
            plan = Plan(target, queue, seconds, connections, size_bytes, batch_messages, consumers)
            results = _measure_all(asked, plan, works, force)
        if as_json:
            _print_json(asked.address.url, plan, results)
        else:
            _print(results)


def _measure_all(
    client: HttpClient, plan: "Plan", works: tuple[str, ...], force: bool
) -> "list[Result]":
    queues = (plan.queue, plan.stream_queue)
    is_own = plan.queue == DEFAULT_QUEUE  # there from an earlier time, and perhaps a moment ago
    for queue in queues:
        _refuse_if_used(client, queue, HELD if is_own else HELD + RATES)
        if not is_own and not force and _exists(client, queue):
            raise Conflict(
                f"there is a queue {queue} already, which would be emptied; name another one with "
                "--queue, or use it with --force"
            )
    _refuse_unless_broadcast(client, plan.stream_queue)
    results = []
    try:
        for name in works:
            results.append(_run(plan, name))
            _empty(client, queues)
    except BaseException:
        with suppress(RestMQError):  # the first error tells more
            _empty(client, queues)
        raise
    return results


def _exists(client: HttpClient, queue: str) -> bool:
    return any(queue in dict(page["queues"]) for page in stats_pages(client, queue))  # type: ignore[call-overload]


def _refuse_if_used(client: HttpClient, queue: str, figures: tuple[str, ...]) -> None:
    stats = client.request("GET", queue_path("/stats/", queue)).json_object()
    held = {name: stats[name] for name in figures if stats.get(name)}
    if held:
        told = ", ".join(f"{name} {count}" for name, count in held.items())
        raise Conflict(f"the queue {queue} is in use ({told}); name another one with --queue")


def _refuse_unless_broadcast(client: HttpClient, queue: str) -> None:
    policy = client.request("GET", queue_path("/p/", queue)).json_object().get("value")
    if policy != "broadcast":
        raise Conflict(f"the queue {queue} has the policy {policy}; name another with --queue")


def _empty(client: HttpClient, queues: tuple[str, ...]) -> None:
    for queue in queues:
        client.request("DELETE", queue_path("/q/", queue))
        client.request("DELETE", queue_path("/dead/", queue))


def _run(plan: "Plan", name: str) -> "Result":
    import asyncio

    from restmq.cli.bench.report import progress_of
    from restmq.cli.bench.works import measure

    async def run() -> "Result":
        async with progress_of(name) as on_start:
            return await measure(plan, name, on_start)

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(run())


def _loop_factory() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _print(results: "list[Result]") -> None:
    from restmq.cli.bench.report import HEADER, LATENCY_HEADER, print_plots, row_of

    print_rows(HEADER + LATENCY_HEADER, [row_of(each) for each in results])
    if sys.stdout.isatty():
        print_plots(results)
    for each in results:
        if not each.count:
            say(f"{each.name}: nothing was done in that time")


def _print_json(url: str, plan: "Plan", results: "list[Result]") -> None:
    from restmq.cli.bench.report import document_of

    Printer().json(
        {
            "url": url,
            "seconds": plan.seconds,
            "connections": plan.connections,
            "size_bytes": len(plan.value),
            "batch_messages": plan.batch_messages,
            "consumers": plan.consumers,
            "works": [document_of(each) for each in results],
        }
    )
