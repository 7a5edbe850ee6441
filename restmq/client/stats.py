"""The figures of queues."""

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, Literal

import msgspec

from restmq.client.connection import Connection
from restmq.errors import RestMQError

PAGE_QUEUES: Final = 1000
ROUNDROBIN: Final = 2
"""How the classic figures spell this policy; anything else is broadcast."""


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """One queue at a moment."""

    name: str
    ready: int
    delayed: int
    leased: int
    dead: int
    consumers: int
    """Streaming consumers on all nodes."""
    oldest_age: float | None
    """For how many seconds the oldest ready message has been there; None if there is none."""
    rate_in: float
    """Messages a second, lately."""
    rate_out: float
    is_paused: bool
    """Whether streams and consumers get nothing."""
    policy: Literal["broadcast", "roundrobin"]


def read_stats(fields: Mapping[str, Any]) -> QueueStats:
    """Make figures of what ``/stats`` says of one queue, alone or in a list."""
    named = {
        **fields,
        "name": fields.get("name", fields.get("queue")),
        "is_paused": not fields.get("status"),
        "policy": "roundrobin" if fields.get("policy") == ROUNDROBIN else "broadcast",
    }
    try:
        return msgspec.convert(named, QueueStats)
    except msgspec.ValidationError as error:
        raise RestMQError(f"the server answered with something unexpected: {error}") from error


async def list_stats(connection: Connection) -> AsyncIterator[QueueStats]:
    """Yield the figures of all queues, by name."""
    after = ""
    while True:
        query = {"limit": PAGE_QUEUES, "after": after}
        answer = await connection.request("GET", "/stats/", query)
        queues: Any = answer.json_object()["queues"]
        for name, fields in queues.items():
            yield read_stats(fields)
            after = name
        if len(queues) < PAGE_QUEUES:
            return
