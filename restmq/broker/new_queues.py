"""How a node hears of queues to come: for those who want all whose names match a wildcard."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from restmq.broker.keys import QUEUES_CHANNEL
from restmq.broker.pubsub import Channel, Channels
from restmq.broker.topics import Interests
from restmq.errors import RestMQError

logger = logging.getLogger(__name__)

Found = Callable[[str], None]
"""Called with the name of a queue, perhaps more than once; it must not raise."""

ListQueues = Callable[[str], Awaitable[list[str]]]
"""Returns a page of names after the one given, in byte order; empty at the end."""


class NewQueues:
    """Wildcards (``name.>``) that somebody on this node has an interest in."""

    def __init__(self, channels: Channels, list_queues: ListQueues) -> None:
        self._channels = channels
        self._list_queues = list_queues
        self._interests: Interests[Found] = Interests()
        self._channel: Channel | None = None
        self._task: asyncio.Task[None] | None = None
        channels.on_connected = self._look_again

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def watch(self, wildcard: str, found: Found) -> None:
        """Have ``found`` called for each queue that there is, and each that gets a first message.

        Returns when those that there are have been told. Raises ``Unavailable``.
        """
        self._interests.add(wildcard, found)
        if self._channel is None:
            self._channel = self._channels.listen(QUEUES_CHANNEL, self._hear)
        await asyncio.shield(self._channel.listening)
        await self._list(wildcard, found)

    def unwatch(self, wildcard: str, found: Found) -> None:
        """Call it no more."""
        self._interests.discard(wildcard, found)
        if self._channel is not None and not self._interests.names():
            self._channels.forget(self._channel)
            self._channel = None

    async def _list(self, wildcard: str, found: Found) -> None:
        prefix = wildcard[:-1]
        after = prefix
        while True:
            names = await self._list_queues(after)
            for name in names:
                if not name.startswith(prefix):
                    return
                found(name)
            if not names:
                return
            after = names[-1]

    def _hear(self, _: str, data: bytes) -> None:
        name = data.decode()
        for found in self._interests.matching(name):
            found(name)

    def _look_again(self) -> None:
        """Look for what was made while nobody here could hear of it."""
        if self._interests.names() and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._list_all(), name="new-queues")

    async def _list_all(self) -> None:
        for wildcard in self._interests.names():
            for found in self._interests.of(wildcard):
                try:
                    await self._list(wildcard, found)
                except RestMQError as error:
                    logger.warning("cannot look for queues %r: %s", wildcard, error)
