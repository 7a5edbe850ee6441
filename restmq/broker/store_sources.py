"""The sources of one store: what it tells them, and what they owe to it."""

from collections.abc import Sequence

from restmq.broker.owed import Owed
from restmq.broker.sources import Source, Terms
from restmq.broker.store import Store


class StoreSources:
    """One source for each queue of the store that has a binding on this node."""

    def __init__(self, terms: Terms, store: Store) -> None:
        self._terms = terms
        self._store = store
        self._owed = Owed(store.queues)
        self.sources: dict[str, Source] = {}
        store.keepers.append(self)
        store.queues.on_added = self.expect

    def open(self, queue: str) -> Source:
        """Return the source of a queue, which is made if there is none."""
        source = self.sources.get(queue)
        if source is None:
            source = self.sources[queue] = Source(self._terms, self._store, queue, self._owed)
        return source

    def drop(self, source: Source) -> None:
        """Forget a source."""
        if self.sources.get(source.queue) is source:
            del self.sources[source.queue]
        source.close()
        self._store.listeners.forget(source.queue, source)

    def expect(self, queue: str) -> None:
        """Take note that messages were added to a queue, before their publishers hear of it.

        So who has several queues is given of this one first, if it was served longer ago.
        """
        source = self.sources.get(queue)
        if source is not None:
            source.expect()

    def note_over(self, queue: str, deliveries: Sequence[tuple[int, str]]) -> None:
        """Take note that deliveries are over, be they settled here or on another node."""
        source = self.sources.get(queue)
        if source is not None and source.held:
            for number, token in deliveries:
                source.withdraw(number, token)

    def look_anew(self) -> None:
        """Ask what is still held here, because word of settlements may have been missed."""
        for source in self.sources.values():
            source.doubt()
        self.catch_up()

    def catch_up(self) -> None:
        """Say and ask again what did not get through to Redis."""
        self._owed.catch_up()
        for source in self.sources.values():
            source.resolve_doubt()
