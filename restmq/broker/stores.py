"""Which queue lives where: on disk, or in the second Redis, which keeps nothing.

The registry of all queues is on disk; beside it are the names of those that live in memory, which
is fixed when a queue is made. A queue that is not registered lives where its settings would put it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from restmq.broker.keys import QUEUES_CHANNEL, check_queue_name
from restmq.broker.scripts import Reply, command
from restmq.broker.store import Overrides, Store
from restmq.errors import InvalidInput

MAX_FOUND_QUEUES = 100_000
"""Queues whose place a node remembers; beyond that it forgets those on disk, and asks again."""

DISK, MEMORY = "disk", "memory"


class Stores:
    """The stores of a node: always the one on disk, the other when some queue needs it."""

    def __init__(
        self,
        make_store: Callable[[str], Store],
        redis_url: str,
        overrides: Overrides | None,
        memory_redis_url: Callable[[], Awaitable[str]] | None,
    ) -> None:
        self._make_store = make_store
        self._overrides = overrides
        self._memory_redis_url = memory_redis_url
        self.disk = make_store(redis_url)
        self.disk.queues.on_first_number = lambda queue: self._register(queue, DISK)
        self._memory: Store | None = None
        self.found: dict[str, Store] = {}
        """Where registered queues live, for those used lately whose settings are there."""
        self._uncopied: dict[str, Store] = {}
        """Those in memory that must get their settings again before they are used."""
        self._losses = 0
        """How often the Redis in memory may have lost everything."""
        self._most_found = MAX_FOUND_QUEUES
        self._created: set[str] = set()
        """Queues that this node registered and has not seen a message of yet."""

    def all(self) -> list[Store]:
        """Return the stores that are open."""
        return [self.disk] if self._memory is None else [self.disk, self._memory]

    async def open(self) -> None:
        """Open the store on disk."""
        await self.disk.open()

    async def close(self, patience_seconds: float) -> None:
        """Close what is open."""
        for store in self.all():
            await store.close(patience_seconds)

    def located(self, queue: str) -> Store:
        """Return where a queue lives that was found before, or else the store on disk."""
        store = self.found.get(queue)
        return self._uncopied.get(queue, self.disk) if store is None else store

    async def find(self, queue: str) -> Store:
        """Return where a queue lives, or would live.

        Raises ``InvalidInput`` for a bad name, ``Unavailable`` when Redis does not answer.
        """
        store = self.found.get(queue)
        if store is not None:
            return store
        check_queue_name(queue)
        storage = await self._registered(queue, "")
        if storage:
            return self._remember(queue, await self._store_of(queue, storage.decode()))
        if self.wanted_storage(queue) == MEMORY:
            return await self._memory_store()
        return self.disk

    async def find_opened(self, queue: str) -> Store:
        """Return where a queue lives, but open nothing for it, and so start no second Redis.

        While the store in memory is not open, that on disk stands for it: of a queue in memory it
        has the settings and nothing else. Raises as ``find``.
        """
        return self.disk if self._memory is None else await self.find(queue)

    async def create(self, queue: str, storage: str | None = None) -> Store:
        """Register a queue if it is new, and return where it lives."""
        store = self.found.get(queue)
        if store is not None:
            return store
        check_queue_name(queue)
        wanted = storage or self.wanted_storage(queue)
        if wanted == MEMORY:
            await self._memory_store()  # before anyone relies on it
        if len(self._created) >= MAX_FOUND_QUEUES:
            self._created.clear()
        self._created.add(queue)
        registered = await self._registered(queue, wanted)
        return self._remember(queue, await self._store_of(queue, registered.decode()))

    def _registered(
        self, queue: str, storage: str, is_admitted: bool = False
    ) -> asyncio.Future[Reply]:
        call = self.disk.scripts.register(queue, storage)
        return self.disk.committer.submit(call, is_admitted=is_admitted)

    def _register(self, queue: str, storage: str) -> asyncio.Future[Reply] | None:
        """Register a queue that begins to count, unless this node just did.

        If it was known, Redis has lost it, or another Redis has taken its place.
        """
        self._announce(queue)
        if queue in self._created:
            self._created.discard(queue)
            return None
        return self._registered(queue, storage, is_admitted=True)

    def _announce(self, queue: str) -> None:
        """Tell all nodes that a queue has got its first message; a hint, so it may be lost."""
        call = command("PUBLISH", QUEUES_CHANNEL, queue)
        told = self.disk.committer.submit(call, is_admitted=True)
        told.add_done_callback(lambda told: told.cancelled() or told.exception())

    def wanted_storage(self, queue: str) -> str:
        """Return where the patterns would put a queue."""
        return str(self.overrides_of(queue).get("storage", DISK))

    def overrides_of(self, queue: str) -> Mapping[str, Any]:
        """Return what patterns set for a queue."""
        return {} if self._overrides is None else self._overrides(queue)

    def _remember(self, queue: str, store: Store) -> Store:
        if len(self.found) >= self._most_found:
            # Streams that are open on a queue in memory rely on ``located``.
            self.found = {q: place for q, place in self.found.items() if place is not self.disk}
            self._most_found = max(MAX_FOUND_QUEUES, 2 * len(self.found))
        self.found[queue] = store
        self._uncopied.pop(queue, None)
        return store

    async def _store_of(self, queue: str, storage: str) -> Store:
        if storage == DISK:
            return self.disk
        store = await self._memory_store()
        # Settings are kept on disk as well; those of the patterns every node has by itself.
        disk = self.disk
        copied = None if queue in self._uncopied else [b"", b"", b""]
        losses = self._losses
        # Once more after each copy: another node may have changed them in the meantime.
        while True:
            kept = await disk.committer.submit(disk.scripts.show_settings(queue))
            if losses != self._losses:
                copied, losses = None, self._losses
            if kept == copied:
                return store
            await store.committer.submit(store.scripts.copy_settings(queue, *kept))
            copied = kept

    def copy_again(self, queue: str) -> None:
        """Have the settings of a queue in memory copied from disk before it is used again."""
        store = self.found.get(queue)
        if store is not None and store is not self.disk:
            self._uncopied[queue] = self.found.pop(queue)

    def _copy_all_again(self) -> None:
        """Have the settings of all queues in memory copied again: their Redis may have lost them.

        Where they live stays known, because open streams and leases end there.
        """
        self._losses += 1
        for queue in list(self.found):
            self.copy_again(queue)
        if len(self._uncopied) > MAX_FOUND_QUEUES:
            self._uncopied = {
                queue: store
                for queue, store in self._uncopied.items()
                if store.dispatcher.has_consumers(queue) or store.listeners.has(queue)
            }

    async def _memory_store(self) -> Store:
        if self._memory is not None:
            return self._memory
        if self._memory_redis_url is None:
            raise InvalidInput("storage cannot be memory here: there is no second Redis")
        url = await self._memory_redis_url()
        if self._memory is None:  # nobody else was faster
            store = self._make_store(url)
            store.queues.on_first_number = lambda queue: self._register(queue, MEMORY)
            store.on_reconnect = self._copy_all_again
            self._memory = store
            await store.open()
        return self._memory
