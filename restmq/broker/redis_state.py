"""What the Redis servers behind a node say about themselves, by ``INFO``."""

import asyncio
from collections.abc import Mapping
from typing import Any, NamedTuple

from restmq.broker.scripts import command
from restmq.broker.store import Store
from restmq.broker.stores import Stores
from restmq.errors import RestMQError


class RedisState(NamedTuple):
    """One Redis, or in a cluster one node of it."""

    description: str
    """Its address, without a password."""
    is_memory_only: bool
    """Whether it is the one for queues in memory."""
    fields: Mapping[str, str]
    """What ``INFO`` tells, by name; empty if it does not answer."""
    problem: str | None = None
    """Why it does not answer."""


class RedisStates:
    """Asks the Redis servers that a node uses."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def read(self) -> list[RedisState]:
        """Return the state of each, that on disk first; one out of reach says so in its state."""
        disk = self._stores.disk
        states = (_read(store, store is not disk) for store in self._stores.all())
        return list(await asyncio.gather(*states))


async def _read(store: Store, is_memory_only: bool) -> RedisState:
    description = store.backend.description
    try:
        reply = await store.committer.submit(command("INFO"))
    except RestMQError as error:
        return RedisState(description, is_memory_only, {}, str(error))
    return RedisState(description, is_memory_only, _fields(reply))


def _fields(reply: Any) -> dict[str, str]:
    """Read the text of INFO, or what the client library of a cluster made of it."""
    if isinstance(reply, Mapping):
        return {str(name): str(value) for name, value in reply.items()}
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    found = {}
    for line in text.splitlines():
        name, separator, value = line.partition(":")
        if separator and not line.startswith("#"):
            found[name] = value
    return found
