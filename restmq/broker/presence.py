"""Who consumes a queue, node by node.

With each queue every node notes how many consumers of plain and of leased streams it has, and until
when that counts (``lua/nodes.lua`` and ``lua/leases.lua`` state the form of these notes).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from restmq.broker.census_scripts import CensusScripts
from restmq.broker.stores import Stores


class Presence(NamedTuple):
    """The streaming consumers that one node has for one queue."""

    node: str
    plain: int
    """Consumers to which delivery is at most once."""
    leased: int
    """Consumers that lease what they get."""


class Presences:
    """Tells who consumes what."""

    def __init__(self, stores: Stores, scripts: CensusScripts) -> None:
        self._stores = stores
        self._scripts = scripts

    async def of_queue(self, queue: str) -> list[Presence]:
        """Return the nodes that have consumers of a queue, by name; raises ``Unavailable``."""
        store = await self._stores.find_opened(queue)
        reply = await store.committer.submit(self._scripts.presence(queue))
        now, nodes, listeners = float(reply[0]), reply[1], reply[2]
        plain, leased = _consumers(nodes, now), _consumers(listeners, now)
        return [
            Presence(node, plain.get(node, 0), leased.get(node, 0))
            for node in sorted(plain.keys() | leased.keys())
        ]


def _consumers(row: Sequence[Any], now: float) -> dict[str, int]:
    """Read notes that begin with a number of consumers and a deadline; the dead have none."""
    found = {}
    for node, note in zip(row[::2], row[1::2], strict=True):
        count, deadline = note.split()[:2]
        if int(count) and float(deadline) > now:
            found[node.decode()] = int(count)
    return found
