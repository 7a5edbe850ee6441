"""How ``restmq top`` draws a snapshot: numbers, small charts, and a table that fits its place."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from restmq.cli.common import cell
from restmq.cli.top.figures import HISTORY_SAMPLES, History, QueueFigures, Rates, Snapshot

BARS = " ▁▂▃▄▅▆▇█"
PLAIN_BARS = " .:-=+*%#"
SHORTEST_NAME = 14
CHART_WIDTH = 10

KEYS = (
    "sort: [r]ate [d]epth [a]ge [x] dead [c]onsumers [n]ame   arrows scroll   space pauses   [q]uit"
)


def chart(values: Sequence[float], width: int, bars: str = BARS) -> str:
    """Draw the last values as bars of a text, each as high as its share of the highest."""
    shown = list(values)[-width:]
    highest = max(shown, default=0.0)
    steps = len(bars) - 1
    drawn = "".join(
        bars[max(1, round(steps * value / highest))] if value > 0 else bars[0] for value in shown
    )
    return drawn.rjust(width)


def count_text(number: int) -> str:
    """A number in few characters: 12,345 in full, more than that in thousands or millions."""
    if number < 100_000:
        return f"{number:,}"
    for limit, divisor, unit in ((10_000_000, 1000, "k"), (10**10, 10**6, "M")):
        if number < limit:
            return f"{number // divisor:,}{unit}"
    return f"{number // 10**9:,}G"


def rate_text(rate: float) -> str:
    """Messages a second in few characters."""
    if rate >= 10:
        return count_text(round(rate))
    return f"{rate:.1f}" if rate >= 0.05 else "0"


def age_text(seconds: float | None) -> str:
    """An age in its largest unit."""
    if seconds is None:
        return "-"
    for limit, divisor, unit in ((100, 1, "s"), (6000, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


@dataclass(frozen=True)
class Column:
    """One column of the table; those with the lowest rank go first when there is no room."""

    title: str
    width: int
    rank: int
    text: Callable[[QueueFigures, Rates, str], str]
    style: Callable[[QueueFigures], str] = lambda _: ""


COLUMNS = (
    Column("Ready", 8, 9, lambda each, _, __: count_text(each.ready)),
    Column("Leased", 8, 6, lambda each, _, __: count_text(each.leased)),
    Column("Delayed", 8, 3, lambda each, _, __: count_text(each.delayed)),
    Column(
        "Dead",
        7,
        5,
        lambda each, _, __: count_text(each.dead),
        lambda each: "red" if each.dead else "",
    ),
    Column("Cons.", 6, 4, lambda each, _, __: count_text(each.consumers)),
    Column("Oldest", 6, 2, lambda each, _, __: age_text(each.oldest_age_seconds)),
    Column("In/s", 7, 8, lambda each, _, __: rate_text(each.rate_in)),
    Column(
        "",
        CHART_WIDTH,
        1,
        lambda _, r, bars: chart(r.incoming, CHART_WIDTH, bars),
        lambda _: "green",
    ),
    Column("Out/s", 7, 7, lambda each, _, __: rate_text(each.rate_out)),
    Column(
        "",
        CHART_WIDTH,
        0,
        lambda _, r, bars: chart(r.outgoing, CHART_WIDTH, bars),
        lambda _: "cyan",
    ),
)


def columns_for(width: int) -> list[Column]:
    """Choose the columns for which a line has room beside the name."""
    shown = list(COLUMNS)
    while shown and SHORTEST_NAME + sum(each.width + 2 for each in shown) > width:
        shown.remove(min(shown, key=lambda each: each.rank))
    return shown


@dataclass
class View:
    """What the person at the keyboard has chosen, and what there is to tell."""

    url: str
    order: str
    interval_seconds: float
    pattern: str = "*"
    offset: int = 0
    is_paused: bool = False
    trouble: str = ""


def draw_screen(
    console: Console,
    snapshot: Snapshot,
    queues: Sequence[QueueFigures],
    history: History,
    view: View,
) -> RenderableType:
    """Draw everything, as many rows as fit beneath the sums."""
    width, height = console.size
    bars = PLAIN_BARS if console.options.ascii_only else BARS
    head = [*_draw_head(snapshot, history, view, bars)]
    for line in head:
        line.truncate(width, overflow="ellipsis")
    rows = visible_rows(height, len(head))
    table = _table(columns_for(width), width)
    for each in queues[view.offset : view.offset + rows]:
        table.add_row(*_cells(each, history.of(each.name), columns_for(width), bars))
    foot = Text(KEYS, style="dim")
    foot.truncate(width, overflow="ellipsis")
    return Group(*head, table, foot)


def visible_rows(height: int, head_lines: int = 4) -> int:
    """How many queues a terminal of this height shows: the heading and the keys take a line."""
    return max(1, height - head_lines - 2)


def _draw_head(snapshot: Snapshot, history: History, view: View, bars: str) -> list[Text]:
    totals = snapshot.totals
    clock = time.strftime("%H:%M:%S", time.localtime(snapshot.taken_at))
    first = Text.assemble(
        ("RestMQ ", "bold"),
        cell(view.url),
        f"  {clock}  by {view.order}  every {view.interval_seconds:g} s",
        ("  paused" if view.is_paused else "", "bold yellow"),
        ("  " + cell(snapshot.redis), "dim"),
    )
    many = f"{totals.queues:,} queues" + ("" if view.pattern == "*" else f" {cell(view.pattern)}")
    second = Text.assemble(
        (many, "bold"),
        f"  ready {count_text(totals.ready)}  leased {count_text(totals.leased)}"
        f"  delayed {count_text(totals.delayed)}  ",
        (f"dead {count_text(totals.dead)}", "red" if totals.dead else ""),
        f"  consumers {count_text(totals.consumers)}  oldest {age_text(totals.oldest_age_seconds)}",
    )
    third = Text.assemble(
        f"in {rate_text(totals.rate_in):>7}/s ",
        (chart(history.total.incoming, HISTORY_SAMPLES, bars), "green"),
        f"  out {rate_text(totals.rate_out):>7}/s ",
        (chart(history.total.outgoing, HISTORY_SAMPLES, bars), "cyan"),
    )
    fourth = Text()
    if view.trouble:
        fourth = Text(cell(view.trouble), style="bold red")
    elif not snapshot.is_complete:
        told = f"the first {totals.queues:,} by name; there are more (--max-queues, or a PATTERN)"
        fourth = Text(told, style="yellow")
    return [first, second, third, fourth]


def _table(columns: Sequence[Column], width: int) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="reverse", width=width
    )
    table.add_column("Queue", ratio=1, no_wrap=True, overflow="ellipsis")
    for each in columns:
        table.add_column(each.title, width=each.width, justify="right", no_wrap=True)
    return table


def _cells(queue: QueueFigures, rates: Rates, columns: Sequence[Column], bars: str) -> list[Text]:
    name = Text(cell(queue.name))
    if queue.is_stopped:
        name = Text.assemble(("stopped ", "yellow"), name)
    return [name, *(Text(e.text(queue, rates, bars), style=e.style(queue)) for e in columns)]
