"""Gives back the disk that messages took which are gone, for the Redis that this server runs.

Redis appends to its file whatever happens, and makes it smaller by itself only once it has grown
much. Here it is also done when nearly all that the file was written for is gone, as after a
backlog was worked off: a rewrite takes next to nothing then.
"""

import asyncio
import logging
from typing import Any, Self

from redis.asyncio import Redis

from restmq.broker.backend import CONNECTION_ERRORS

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 300.0
LEAST_BYTES = 4 * 1024 * 1024
"""A smaller file is left alone."""

LIVE_SHARE = 0.10
"""The file is rewritten when what Redis holds is less than this part of it."""

TIMEOUT_SECONDS = 5.0


class RedisUpkeep:
    """Looks after the file every ``INTERVAL_SECONDS``; use it with ``async with``."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(
            redis_url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
        )
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="redis-upkeep")
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._redis.aclose()

    async def look(self) -> bool:
        """Have the file rewritten if that is worth it; returns whether it is.

        Raises what the redis library does when Redis cannot be asked.
        """
        info = await self._redis.info()
        if not info.get("aof_enabled") or _is_busy(info):
            return False
        size, live = int(info["aof_current_size"]), int(info["used_memory_dataset"])
        if size < LEAST_BYTES or live >= size * LIVE_SHARE:
            return False
        logger.debug("Redis holds %d bytes, its file %d; it is rewritten", live, size)
        await self._redis.bgrewriteaof()
        return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await self.look()
            except CONNECTION_ERRORS as error:
                logger.debug("cannot look after the file of Redis: %s", error)
            except Exception:
                logger.exception("looking after the file of Redis failed")


def _is_busy(info: dict[str, Any]) -> bool:
    running = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
    return any(info.get(name) for name in running)
