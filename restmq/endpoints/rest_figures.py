"""What the REST routes tell of queues, and of which: the entries of ``/stats`` and ``/control``."""

from typing import Final

from restmq.broker.broker import PAGE, Broker, QueueStats
from restmq.endpoints.key_needs import VIEW, hides
from restmq.endpoints.web import Request
from restmq.errors import InvalidInput

MAX_LOOKED_AT: Final = 100 * PAGE
"""Names that are looked at for one page of those that a key covers."""


async def list_visible(broker: Broker, request: Request, after: str, limit: int) -> list[str]:
    """Return the next queues that the client may see, which are all unless a key limits it.

    Raises InvalidInput if the key covers so few of them that too many would have to be looked at.
    """
    key = request.key
    if key is None:
        return await broker.list_queues(after, limit)
    names: list[str] = []
    if VIEW not in key.permissions:
        return names
    looked_at = 0
    for beginning in key.queue_beginnings():
        page_size = PAGE
        while page_size == PAGE and len(names) < limit:
            if looked_at > MAX_LOOKED_AT:
                raise InvalidInput(
                    f"of {MAX_LOOKED_AT} queues the API key covers too few to list them; its "
                    "patterns should begin with more than a wildcard"
                )
            page = await broker.list_queues(after, PAGE, beginning=beginning)
            names += [name for name in page if not hides(request, name)]
            page_size = len(page)
            looked_at += page_size
            after = page[-1] if page else after
    return names[:limit]


def classic_entry(stats: QueueStats) -> dict[str, object]:
    """Return an entry of the list of all queues, as it always was."""
    return {"name": stats.name, **_classic_figures(stats)}


def full_entry(stats: QueueStats) -> dict[str, object]:
    """Return an entry of a page of queues."""
    return {"name": stats.name, **figures(stats)}


def _classic_figures(stats: QueueStats) -> dict[str, object]:
    return {
        "len": stats.length,
        "status": int(stats.started),
        "policy": stats.policy or "",
    }


def figures(stats: QueueStats) -> dict[str, object]:
    """Return the classic fields, and then those of the specification of delivery, section 4."""
    return {
        **_classic_figures(stats),
        "ready": stats.length,
        "delayed": stats.delayed,
        "leased": stats.leased,
        "dead": stats.dead,
        "consumers": stats.consumers,
        "oldest_age": stats.oldest_age_seconds,
        "rate_in": stats.rate_in,
        "rate_out": stats.rate_out,
    }


def control_entry(stats: QueueStats) -> dict[str, object]:
    """Return whether a queue delivers to streams."""
    return {"queue": stats.name, "status": int(stats.started)}
