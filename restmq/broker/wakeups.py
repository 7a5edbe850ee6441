"""How a node hears that something wants looking at.

One connection a node, for its own channels and the one that all share. What comes over it is
only a hint: after every (re)connection all is looked at, so a lost one costs time, not messages.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping

from restmq.broker.backend import CONNECTION_ERRORS, Backend

logger = logging.getLogger(__name__)

_RECONNECT_SECONDS = 0.2
_SUBSCRIBE_TIMEOUT_SECONDS = 5.0


class Wakeups:
    """Listens on one channel, for as long as it takes."""

    def __init__(
        self,
        backend: Backend,
        handlers: Mapping[str, Callable[[str], None]],
        on_connected: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._handlers = handlers
        self._on_connected = on_connected
        self._connected = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start listening."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="wakeups")

    async def wait_until_connected(self, timeout_seconds: float) -> bool:
        """Wait for the subscription; returns whether it came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._connected.wait()
        return self._connected.is_set()

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (*CONNECTION_ERRORS, TimeoutError) as error:
                if self._connected.is_set():
                    logger.warning("lost the wake-ups from Redis: %s", error)
                self._connected.clear()
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_SECONDS):
            pubsub = await self._backend.subscriber()
        try:
            async with asyncio.timeout(_SUBSCRIBE_TIMEOUT_SECONDS):
                await pubsub.subscribe(*self._handlers)
            waiting = len(self._handlers)
            while True:
                message = await pubsub.get_message(timeout=math.inf)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    waiting -= 1
                    if waiting == 0:
                        self._connected.set()
                        self._on_connected()
                elif message["type"] == "message":
                    self._handlers[message["channel"].decode()](message["data"].decode())
        finally:
            # An own task ends a connection in whatever state it is.
            with contextlib.suppress(*CONNECTION_ERRORS):
                await pubsub.aclose()  # type: ignore[no-untyped-call]
