"""Which logs there are: for each collection the names of its logs, in a sorted set of its own.

It lies elsewhere in a Redis Cluster than the logs, so listing a log is a step beside making it.
"""

import asyncio

from restmq.broker.commit import Committer
from restmq.broker.keys import log_registry
from restmq.broker.log_entry import Log
from restmq.broker.scripts import Reply, command

MAX_KNOWN_LOGS = 100_000
"""Logs that a node remembers to be listed; beyond that it forgets and lists them again."""

Registration = asyncio.Future[Reply]


class LogListing:
    """The names of all logs, and which of them this node knows to be listed."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._known: set[str] = set()

    def is_known(self, log: Log) -> bool:
        """Return whether this node has listed the log."""
        return log.key in self._known

    def register(self, log: Log) -> Registration:
        """See to it that the log is listed, and remember that it is; the future ends with that."""
        call = command("ZADD", log_registry(log.collection), 0, log.name)
        future = self._committer.submit(call, is_admitted=True)

        def remember(future: Registration) -> None:
            if not future.cancelled() and future.exception() is None:
                if len(self._known) >= MAX_KNOWN_LOGS:
                    self._known.clear()
                self._known.add(log.key)

        future.add_done_callback(remember)
        return future

    async def remove(self, log: Log) -> None:
        """Take the log off the list."""
        self._known.discard(log.key)
        await self._committer.submit(command("ZREM", log_registry(log.collection), log.name))

    async def names(self, collection: str, start: str, inclusive: bool, limit: int) -> list[str]:
        """Return names of a collection in byte order, from ``start`` on (empty: the first)."""
        lower = f"{'[' if inclusive else '('}{start}" if start else "-"
        registry = log_registry(collection)
        words = ("ZRANGEBYLEX", registry, lower, "+", "LIMIT", 0, limit)
        return [name.decode() for name in await self._committer.submit(command(*words))]
