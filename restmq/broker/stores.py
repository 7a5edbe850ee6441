"""Which queue lives where: on disk, or in the second Redis, which keeps nothing.

The registry of all queues is on disk; a queue's score in it says where it lives, which is fixed
when the queue is made. A queue that is not registered lives where its settings would put it.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from restmq.broker.keys import REGISTRY, check_queue_name
from restmq.broker.scripts import command
from restmq.broker.store import Overrides, Store
from restmq.errors import InvalidInput

MAX_FOUND_QUEUES = 100_000
"""Queues whose place a node remembers; beyond that it forgets all and asks again."""

DISK, MEMORY = "disk", "memory"
_SCORES = {DISK: 0, MEMORY: 1}


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
        self._memory: Store | None = None
        self.found: dict[str, Store] = {}
        """Where registered queues live, for those used lately."""

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
        return self.found.get(queue, self.disk)

    async def find(self, queue: str) -> Store:
        """Return where a queue lives, or would live.

        Raises ``InvalidInput`` for a bad name, ``Unavailable`` when Redis does not answer.
        """
        store = self.found.get(queue)
        if store is not None:
            return store
        check_queue_name(queue)
        score = await self.disk.committer.submit(command("ZSCORE", REGISTRY, queue))
        if score is not None:
            return self._remember(queue, await self._store_of(queue, float(score)))
        if self.wanted_storage(queue) == MEMORY:
            return await self._memory_store()
        return self.disk

    async def create(self, queue: str, storage: str | None = None) -> Store:
        """Register a queue if it is new, and return where it lives."""
        store = self.found.get(queue)
        if store is not None:
            return store
        check_queue_name(queue)
        score = _SCORES[storage or self.wanted_storage(queue)]
        if score:
            await self._memory_store()  # before anyone relies on it
        submit = self.disk.committer.submit
        registering = submit(command("ZADD", REGISTRY, "NX", score, queue))
        found = submit(command("ZSCORE", REGISTRY, queue), is_admitted=True)
        await registering
        return self._remember(queue, await self._store_of(queue, float(await found)))

    async def register(self, queue: str, store: Store) -> None:
        """Register a queue again that this node found before: Redis may have lost it."""
        score = 0 if store is self.disk else 1
        await self.disk.committer.submit(
            command("ZADD", REGISTRY, "NX", score, queue), is_admitted=True
        )

    def wanted_storage(self, queue: str) -> str:
        """Return where the patterns would put a queue."""
        return str(self.overrides_of(queue).get("storage", DISK))

    def overrides_of(self, queue: str) -> Mapping[str, Any]:
        """Return what patterns set for a queue."""
        return {} if self._overrides is None else self._overrides(queue)

    def _remember(self, queue: str, store: Store) -> Store:
        if len(self.found) >= MAX_FOUND_QUEUES:
            self.found.clear()
        self.found[queue] = store
        return store

    async def _store_of(self, queue: str, score: float) -> Store:
        if not score:
            return self.disk
        store = await self._memory_store()
        # Settings are kept on disk as well; those of the patterns every node has by itself.
        disk = self.disk
        policy, status, own = await disk.committer.submit(disk.scripts.show_settings(queue))
        if policy or status or own:
            call = store.scripts.copy_settings(queue, policy, status, own)
            await store.committer.submit(call)
        return store

    async def _memory_store(self) -> Store:
        if self._memory is not None:
            return self._memory
        if self._memory_redis_url is None:
            raise InvalidInput("storage cannot be memory here: there is no second Redis")
        url = await self._memory_redis_url()
        if self._memory is None:  # nobody else was faster
            store = self._make_store(url)
            self._memory = store
            await store.open()
        return self._memory
