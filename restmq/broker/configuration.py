"""The settings of queues: what was set for each, over what patterns say, over the defaults.

Those of a queue in memory are kept on disk as well, because its Redis forgets. A change is one
call to each store, disk first: a store has all of it or nothing. If only the disk got it, the
caller is told ``Unavailable``, and this node copies it to memory before it uses the queue again.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from restmq.broker.scripts import Call, Reply, Scripts
from restmq.broker.store import Store
from restmq.broker.stores import MEMORY, Stores
from restmq.errors import InvalidInput
from restmq.queue_settings import QueueSettings, check_changes, resolve

_CLASSIC = {
    "policy": {"broadcast": "1", "roundrobin": "2"},
    "status": {"start": "1", "stop": "0"},
}
"""How the record of a queue spells policy and status."""

_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode


class Configuration:
    """Reads and changes the settings of queues."""

    def __init__(self, stores: Stores, defaults: QueueSettings | None = None) -> None:
        self._stores = stores
        self.defaults = defaults or QueueSettings()

    async def get(self, queue: str) -> QueueSettings:
        """Return the settings that are in force for a queue."""
        store = await self._stores.find(queue)
        reply = await store.committer.submit(store.scripts.show_settings(queue))
        return self._resolve(queue, store, reply)

    async def change(self, queue: str, changes: object) -> QueueSettings:
        """Change some settings, by name; None takes one back. Returns what is in force then.

        Raises ``InvalidInput``, naming the setting, for unknown names and bad values, and for
        another ``storage`` than that of a queue that exists; then nothing is changed.
        """
        checked = check_changes(changes, queue)
        store = await self._place(queue, checked.pop("storage", None))
        removed = [name for name, value in checked.items() if value is None]
        kept = {name: value for name, value in checked.items() if value is not None}
        for name, spellings in _CLASSIC.items():
            if name in kept:
                kept[name] = spellings[str(kept[name])]
        outcome = await self._write(
            queue, store, lambda scripts: scripts.set_settings(queue, kept, removed)
        )
        return self._resolve(queue, store, outcome)

    async def set_field(self, queue: str, name: str, value: int) -> None:
        """Set ``policy`` or ``status`` as the classic protocol spells it."""
        store = await self._stores.find(queue)
        fields = {name: str(value)}
        await self._write(queue, store, lambda scripts: scripts.set_fields(queue, fields))

    async def reset(self, queue: str) -> QueueSettings:
        """Take back all that was set for a queue, but where it lives."""
        store = await self._stores.find(queue)
        outcome = await self._write(queue, store, lambda scripts: scripts.reset_settings(queue))
        return self._resolve(queue, store, outcome)

    async def _write(self, queue: str, store: Store, make: Callable[[Scripts], Call]) -> Reply:
        """Change what the queue's store keeps, and before that what the disk keeps for it."""
        disk = self._stores.disk
        try:
            outcome = await disk.committer.submit(make(disk.scripts))
            if store is not disk:
                outcome = await store.committer.submit(make(store.scripts))
        except BaseException:  # also when the caller is cancelled in between
            self._stores.copy_again(queue)
            raise
        return outcome

    async def _place(self, queue: str, storage: object) -> Store:
        if storage is None:
            return await self._stores.find(queue)
        store = await self._stores.create(queue, str(storage))
        if (store is not self._stores.disk) != (storage == MEMORY):
            raise InvalidInput("storage is fixed when a queue is made, and this one exists")
        if storage == MEMORY:
            # Streams that were opened before it was made wait at the wrong place.
            disk = self._stores.disk
            await disk.committer.submit(disk.scripts.purge(queue))
        return store

    def _resolve(self, queue: str, store: Store, reply: Any) -> QueueSettings:
        policy, status, packed = reply
        own: dict[str, Any] = _decode(packed) if packed else {}
        for name, value in (("policy", policy), ("status", status)):
            for word, spelling in _CLASSIC[name].items():
                if value.decode() == spelling:
                    own[name] = word
        own["storage"] = "disk" if store is self._stores.disk else MEMORY
        if "copies_to" in own:
            own["copies_to"] = tuple(own["copies_to"])
        patterns: Mapping[str, Any] = self._stores.overrides_of(queue)
        return resolve(patterns, own, self.defaults)
