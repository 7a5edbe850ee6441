"""What nodes tell each other in passing: channels of Redis over which nothing is ever kept.

One connection a node, opened when the first channel is wanted. What is said while it is broken is
lost, so whoever needs more than a hint looks again when ``on_connected`` is called.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable

from redis.asyncio.client import PubSub

from restmq.broker.backend import CONNECTION_ERRORS, Backend

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS = 0.2
_SUBSCRIBE_TIMEOUT_SECONDS = 5.0
_CHANNELS_AT_ONCE = 500

Heard = Callable[[str, bytes], None]
"""What is called with the channel and what was said on it."""


class Channel:
    """One channel, or all that a pattern matches, and who on this node listens to it."""

    __slots__ = ("heard", "is_pattern", "listening", "name")

    def __init__(self, name: str, is_pattern: bool, heard: Heard) -> None:
        self.name = name
        self.is_pattern = is_pattern
        self.heard = heard
        self.listening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when Redis knows that this node listens."""


class Channels:
    """The channels that this node listens to."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._channels: dict[str, Channel] = {}
        self._patterns: dict[str, Channel] = {}
        self._stale: set[tuple[bool, str]] = set()
        """What Redis may not know yet, or have to forget."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.on_connected: Callable[[], None] | None = None
        """Called when a connection stands again: what was said meanwhile is lost."""

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def listen(self, name: str, heard: Heard, *, is_pattern: bool = False) -> Channel:
        """Listen to a channel, or to all that a pattern of Redis matches; to each only once."""
        table = self._patterns if is_pattern else self._channels
        channel = table[name] = Channel(name, is_pattern, heard)
        self._mark(channel)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="channels")
        return channel

    def forget(self, channel: Channel) -> None:
        """Listen to it no more."""
        table = self._patterns if channel.is_pattern else self._channels
        if table.get(channel.name) is channel:
            del table[channel.name]
            self._mark(channel)
        if not channel.listening.done():
            channel.listening.set_result(None)  # whoever waited for it is gone

    def _mark(self, channel: Channel) -> None:
        self._stale.add((channel.is_pattern, channel.name))
        self._changed.set()

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (*CONNECTION_ERRORS, TimeoutError) as error:
                logger.warning("cannot hear other nodes: %s", error)
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        """Listen over one connection until it ends, which raises."""
        async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_SECONDS):
            pubsub = await self._backend.subscriber()
        try:
            await self._changed.wait()
            self._stale = {(False, name) for name in self._channels}
            self._stale |= {(True, name) for name in self._patterns}
            if not self._stale:
                self._changed.clear()
                return
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_SECONDS):
                known = await self._tell(pubsub, set())
            if self.on_connected is not None:
                self.on_connected()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(pubsub))
                tasks.create_task(self._keep_telling(pubsub, known))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            self._changed.set()
            # An own task ends a connection in whatever state it is.
            with contextlib.suppress(*CONNECTION_ERRORS):
                await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def _receive(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=math.inf)
            if message is None:
                continue
            try:
                kind, name = message["type"], message["channel"].decode()
                if kind == "message":
                    channel = self._channels.get(name)
                elif kind == "pmessage":
                    channel = self._patterns.get(message["pattern"].decode())
                else:
                    self._note_listening(kind, name)
                    continue
                if channel is not None:
                    channel.heard(name, message["data"])
            except Exception:
                # All channels share this task, so no single message may end it.
                logger.exception("what came over %r could not be heard", message["channel"])

    def _note_listening(self, kind: str, name: str) -> None:
        channel = {"subscribe": self._channels, "psubscribe": self._patterns}.get(kind, {}).get(
            name
        )
        if channel is not None and not channel.listening.done():
            channel.listening.set_result(None)

    async def _keep_telling(self, pubsub: PubSub, known: set[tuple[bool, str]]) -> None:
        while True:
            await self._changed.wait()
            known = await self._tell(pubsub, known)

    async def _tell(self, pubsub: PubSub, known: set[tuple[bool, str]]) -> set[tuple[bool, str]]:
        """Tell Redis what has changed; returns what it knows then."""
        stale, self._stale = self._stale, set()
        self._changed.clear()
        for is_pattern, table in ((False, self._channels), (True, self._patterns)):
            names = [name for kind, name in stale if kind == is_pattern]
            # One that was forgotten and is wanted again is told again, so as to be confirmed.
            wanted = [name for name in names if name in table]
            unwanted = [name for name in names if name not in table and (is_pattern, name) in known]
            known.update((is_pattern, name) for name in wanted)
            known.difference_update((is_pattern, name) for name in unwanted)
            subscribe = pubsub.psubscribe if is_pattern else pubsub.subscribe
            unsubscribe = pubsub.punsubscribe if is_pattern else pubsub.unsubscribe
            for at in range(0, len(wanted), _CHANNELS_AT_ONCE):
                await subscribe(*wanted[at : at + _CHANNELS_AT_ONCE])
            for at in range(0, len(unwanted), _CHANNELS_AT_ONCE):
                await unsubscribe(*unwanted[at : at + _CHANNELS_AT_ONCE])
        return known
