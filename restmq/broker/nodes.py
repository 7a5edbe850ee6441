"""Which nodes live, and what each of them tells of itself.

Every node calls often enough to stay on the list; one that stops takes its name off, and one that
dies is off it after ``LIFETIME_SECONDS``.
"""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from restmq.broker.census_scripts import CensusScripts
from restmq.broker.commit import Committer
from restmq.errors import RestMQError

logger = logging.getLogger(__name__)

LIFETIME_SECONDS = 15.0
"""A node that has not called for so long is off the list."""


class NodeState(NamedTuple):
    """What a node tells of itself."""

    name: str
    """Unique among all nodes, and new whenever a node starts."""
    host: str
    process_id: int
    version: str
    started_at: float
    """Seconds since the epoch on the clock of its host."""
    consumers: int
    """Streaming consumers that are connected to it."""
    listeners: int
    """Requests that wait there for messages to come."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(NodeState).decode


class Nodes:
    """The list of nodes as one of them sees it, and this node's own place in it.

    ``count``: returns how many consumers and how many listeners are here now. ``note_clock``: is
    told what Redis's clock said to a question, and when that was asked on this host's.
    """

    def __init__(
        self,
        committer: Committer,
        scripts: CensusScripts,
        name: str,
        version: str,
        count: Callable[[], tuple[int, int]],
        note_clock: Callable[[float, float], None],
    ) -> None:
        self._committer = committer
        self._scripts = scripts
        self._count = count
        self._note_clock = note_clock
        self._fixed = (name, socket.gethostname(), os.getpid(), version, time.time())
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start telling that this node lives."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._stay_listed(), name="node-list")

    async def close(self) -> None:
        """Take this node off the list, with the last that goes to Redis."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None
        with contextlib.suppress(RestMQError):
            left = self._committer.submit(self._scripts.forget_node(), is_admitted=True)
            left.add_done_callback(lambda left: left.cancelled() or left.exception())

    async def all(self) -> list[NodeState]:
        """Return the live nodes by host, process id and name; raises ``Unavailable``."""
        await self._tell()  # what this one tells is then true at once
        told = await self._committer.submit(self._scripts.list_nodes())
        found = []
        for packed in told:
            try:
                found.append(_decode(packed))
            except msgspec.MsgspecError:  # a node of another version, which tells something else
                logger.debug("what a node tells of itself cannot be read")
        return sorted(found, key=lambda node: (node.host, node.process_id, node.name))

    async def _tell(self) -> None:
        told = _encode(NodeState(*self._fixed, *self._count()))
        asked_at = time.time()
        now = await self._committer.submit(
            self._scripts.tell_node(LIFETIME_SECONDS, told), is_admitted=True
        )
        self._note_clock(asked_at, float(now))

    async def _stay_listed(self) -> None:
        with contextlib.suppress(RestMQError):
            await self._committer.submit(self._scripts.list_nodes())  # which forgets the dead
        while True:
            try:
                await self._tell()
            except RestMQError as error:
                logger.debug("cannot tell Redis that this node lives: %s", error)
            except Exception:
                # Whatever it is, a node that is not told of counts as dead.
                logger.exception("telling Redis that this node lives failed")
            await asyncio.sleep(LIFETIME_SECONDS / 3)
