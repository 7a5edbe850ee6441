"""How ``restmq bench`` shows what it measured: progress, a table, plots, JSON."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from restmq.cli.bench.load import Meter, Result

DRAW_SECONDS = 0.1
PERCENTILES = (50.0, 90.0, 99.0, 99.9)
PLOT_WIDTH = 60
RATE_HEIGHT = 40
MILLISECOND = 1000.0

HEADER = ("Work", "Counted", "A second", "In all", "Seconds")
LATENCY_HEADER = (*(f"{percent:g} % ms" for percent in PERCENTILES), "Longest ms")


@asynccontextmanager
async def progress_of(title: str) -> AsyncIterator[Callable[[Meter], None]]:
    """Show a bar on standard error while the block runs, if that is a terminal.

    Yields what is to be told of the meter.
    """
    meters: list[Meter] = []
    if not sys.stderr.isatty():
        yield meters.append
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<9}"),
        BarColumn(40),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0, rate="")

        async def draw() -> None:
            while True:
                for meter in meters:
                    rate = f"{meter.result.rate:,.0f} {meter.result.what} a second"
                    bar.update(task, completed=meter.share, rate=rate if meter.share else "")
                await asyncio.sleep(DRAW_SECONDS)

        drawing = asyncio.get_running_loop().create_task(draw(), name="progress")
        try:
            yield meters.append
        finally:
            drawing.cancel()
            await asyncio.gather(drawing, return_exceptions=True)


def row_of(result: Result) -> list[str]:
    """Return the row of a table; the last columns are milliseconds."""
    latencies = result.latencies
    seconds = [*(latencies.percentile(each) for each in PERCENTILES), latencies.longest_seconds]
    return [
        result.name,
        result.what,
        f"{result.rate:.0f}",
        str(result.count),
        f"{result.elapsed_seconds:.2f}",
        *(f"{MILLISECOND * each:.2f}" for each in seconds),
    ]


def document_of(result: Result) -> dict[str, object]:
    """Return what JSON has of it; times are in seconds."""
    latencies = result.latencies
    return {
        "name": result.name,
        "what": result.what,
        "count": result.count,
        "seconds": round(result.elapsed_seconds, 6),
        "rate": round(result.rate, 3),
        "latency_seconds": {
            **{f"p{percent:g}": latencies.percentile(percent) for percent in PERCENTILES},
            "longest": latencies.longest_seconds,
        },
        "slices": result.slices,
    }


def print_plots(results: Sequence[Result]) -> None:
    """Draw rates beside each other, how they went over time, and how latencies are spread."""
    from rich.console import Console
    from rich.text import Text

    from restmq.cli.top.drawing import BARS, PLAIN_BARS, chart

    console = Console()
    bars = PLAIN_BARS if console.options.ascii_only else BARS
    shown = [each for each in results if each.count]
    highest = max((each.rate for each in shown), default=1.0)
    console.print("\nA second", style="bold")
    for each in shown:
        length = max(1, round(RATE_HEIGHT * each.rate / highest))
        line = Text.assemble(f"{each.name:<9}", (bars[-1] * length, "green"), f" {each.rate:,.0f}")
        console.print(line)
    console.print("\nOver time", style="bold")
    for each in shown:
        line = Text.assemble(
            f"{each.name:<9}", (chart(_while_it_ran(each), PLOT_WIDTH, bars), "green")
        )
        console.print(line)
    lowest = min((each.latencies.percentile(0.1) for each in shown), default=1e-4)
    longest = max((each.latencies.longest_seconds for each in shown), default=1.0)
    lowest = min(lowest, longest / 2)
    console.print("\nLatencies (the scale is logarithmic)", style="bold")
    for each in shown:
        spread = each.latencies.spread(PLOT_WIDTH, lowest, longest)
        console.print(Text.assemble(f"{each.name:<9}", (chart(spread, PLOT_WIDTH, bars), "cyan")))
    left, right = f"{MILLISECOND * lowest:.2f} ms", f"{MILLISECOND * longest:.2f} ms"
    console.print(Text(f"{'':<9}{left}{right:>{PLOT_WIDTH - len(left)}}", style="dim"))


def _while_it_ran(result: Result) -> list[int]:
    """Leave out the time after its end: a queue can be empty before the time is up."""
    slices = list(result.slices)
    while len(slices) > 1 and not slices[-1]:
        slices.pop()
    return slices
