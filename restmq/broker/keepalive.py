"""Signs of life on connected streams, and the end of those that take nothing any more."""

import asyncio
from collections.abc import Callable

from restmq.broker.consumers import Consumer

_SLICE = 200
"""Consumers that are looked at before others run."""

CutOff = Callable[[], None]


class KeepAlive:
    """Pings every stream of this node at intervals, from one task.

    One that has taken nothing between two pings, though bytes wait, is cut off.
    """

    def __init__(self, ping_seconds: float) -> None:
        self._ping_seconds = ping_seconds
        self._consumers: dict[Consumer, CutOff] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start pinging."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="keep-alive")

    async def close(self) -> None:
        """Stop pinging."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def watch(self, consumer: Consumer, cut_off: CutOff) -> None:
        """Ping a consumer from now on, and call ``cut_off`` when it is stuck."""
        self._consumers[consumer] = cut_off

    def forget(self, consumer: Consumer) -> None:
        """Ping it no more."""
        self._consumers.pop(consumer, None)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._ping_seconds)
            for index, (consumer, cut_off) in enumerate(list(self._consumers.items()), start=1):
                _look_at(consumer, cut_off)
                if index % _SLICE == 0:
                    await asyncio.sleep(0)


def _look_at(consumer: Consumer, cut_off: CutOff) -> None:
    unsent = consumer.unsent_bytes
    taken = consumer.handed_bytes - unsent
    if unsent and consumer.progress is not None and taken <= consumer.progress:
        cut_off()
        return
    consumer.progress = taken if unsent else None
    if not unsent and not consumer.ended.done():
        consumer.ping()
