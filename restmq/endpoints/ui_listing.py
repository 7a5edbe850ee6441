"""Which queues a page of the dashboard lists, and their figures as pages and streams show them."""

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from restmq.broker.broker import Broker
from restmq.broker.census import Overview, Totals
from restmq.broker.keys import MAX_QUEUE_NAME_BYTES, check_queue_name
from restmq.broker.stats import Policy, QueueStats
from restmq.endpoints.ui_text import NOTHING, Shown, show_duration, show_number, show_rate
from restmq.endpoints.web import Parameters
from restmq.errors import InvalidInput

PAGE_ROWS = 50
"""Queues on one page."""

BY_NAME, LARGEST, BUSIEST, SEARCH, ONE = "name", "largest", "busiest", "search", "one"

ORDERS = (BY_NAME, LARGEST, BUSIEST)

Figures = dict[str, Shown]


class View(NamedTuple):
    """What one page shows. Pages with equal views share what is sampled for them."""

    kind: str
    """``name``, ``largest``, ``busiest``, ``search``, or ``one`` for the page of a queue."""
    text: str = ""
    """What is searched for, or the queue's name."""
    after: str = ""
    """The page begins after this name."""


class Listed(NamedTuple):
    """The queues of a view, in its order."""

    queues: Sequence[QueueStats]
    next_after: str | None
    """Where the next page begins; None if this is the last one."""


def read_view(parameters: Parameters, default: str = BY_NAME) -> View:
    """Read which page of the list of queues is wanted; raises InvalidInput."""
    text, after = parameters.text(b"search") or "", parameters.text(b"after") or ""
    if after:
        check_queue_name(after)
    if text:
        if len(text.encode()) > MAX_QUEUE_NAME_BYTES:
            raise InvalidInput(f"search for at most {MAX_QUEUE_NAME_BYTES} bytes")
        return View(SEARCH, text, after)
    order = parameters.text(b"order") or (BY_NAME if after else default)
    if order not in ORDERS:
        raise InvalidInput(f"order must be one of {', '.join(ORDERS)}")
    return View(order, "", after if order == BY_NAME else "")


async def find_names(
    broker: Broker, overview: Overview, view: View
) -> tuple[list[str], str | None]:
    """Return the names of a view's queues, and where the next page begins."""
    if view.kind == ONE:
        return [view.text], None
    if view.kind == SEARCH:
        found = await broker.census.search_queues(view.text, view.after, PAGE_ROWS)
        return found.names, found.after
    if view.kind == BY_NAME:
        names = await broker.list_queues(view.after, PAGE_ROWS + 1)
        return names[:PAGE_ROWS], names[PAGE_ROWS - 1] if len(names) > PAGE_ROWS else None
    chosen = overview.largest if view.kind == LARGEST else overview.busiest
    return [stats.name for stats in chosen[:PAGE_ROWS]], None


async def list_queues(broker: Broker, overview: Overview, view: View) -> Listed:
    """Return the queues of a view as they are now."""
    names, next_after = await find_names(broker, overview, view)
    return Listed(await broker.stats_of(names), next_after)


def version_of(queues: Iterable[str]) -> str:
    """Return what tells whether a page lists other queues than before."""
    return f"{zlib.crc32(chr(0).join(sorted(queues)).encode()):08x}"


def row_key(queue: str) -> str:
    """Return what tells a queue's row on a page from all others, in plain ASCII."""
    return quote(queue, safe="")


def figures_of(stats: QueueStats) -> Figures:
    """Return what is shown of a queue."""
    return {
        "ready": show_number(stats.length),
        "leased": show_number(stats.leased),
        "delayed": show_number(stats.delayed),
        "dead": show_number(stats.dead),
        "consumers": show_number(stats.consumers),
        "oldest": show_duration(stats.oldest_age_seconds),
        "in": show_rate(stats.rate_in),
        "out": show_rate(stats.rate_out),
    }


def figures_of_all(totals: Totals, is_complete: bool) -> Figures:
    """Return what is shown of all queues together; an incomplete count says so in its titles."""
    figures = {
        "queues": show_number(totals.queues),
        "ready": show_number(totals.ready),
        "leased": show_number(totals.leased),
        "delayed": show_number(totals.delayed),
        "dead": show_number(totals.dead),
        "consumers": show_number(totals.consumers),
        "oldest": show_duration(totals.oldest_age_seconds),
        "in": show_rate(totals.rate_in),
        "out": show_rate(totals.rate_out),
    }
    if is_complete:
        return figures
    return {
        name: shown if name == "queues" else _at_least(shown) for name, shown in figures.items()
    }


def _at_least(shown: Shown) -> Shown:
    if shown.text in (NOTHING.text, "0"):
        return Shown("…", "still counting")
    return Shown(f"≥ {shown.text}", f"{shown.title} so far; still counting")


def policy_of(stats: QueueStats) -> str:
    """Return the word for a queue's policy."""
    return (stats.policy or Policy.BROADCAST).name.lower()
