"""Dead letters: messages that were delivered too often, given up, or had no room."""

from typing import NamedTuple

from restmq.broker.commit import MAX_BATCH_BYTES
from restmq.broker.message import Message
from restmq.broker.stores import Stores

REDRIVEN_PER_CALL = 500


class DeadLetter(NamedTuple):
    """A dead message and its story."""

    message: Message
    attempts: int
    reason: str
    died: float
    """When, in seconds since the epoch on Redis's clock."""


class DeadLetters:
    """The dead letters of all queues."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    async def list(
        self, queue: str, count: int, offset: int = 0, *, max_bytes: int = MAX_BATCH_BYTES
    ) -> list[DeadLetter]:
        """Return up to ``count`` dead letters, those that died first, first.

        The list ends with the one that passes ``max_bytes``.
        """
        store = await self._stores.find(queue)
        call = store.scripts.dead(queue, "list", count, offset=offset, max_bytes=max_bytes)
        reply = await store.committer.submit(call)
        found = []
        for at in range(0, len(reply), 5):
            number, record, attempts, reason, died = reply[at : at + 5]
            message = Message(number, record)
            found.append(DeadLetter(message, int(attempts), reason.decode(), float(died)))
        return found

    async def redrive(self, queue: str, count: int | None = None, number: int | None = None) -> int:
        """Put dead letters back into the queue, attempts from zero; returns how many.

        All that are dead by now, or the first ``count``, or the one of this ``number``.
        """
        return await self._move(queue, "redrive", count, number)

    async def drop(self, queue: str) -> int:
        """Throw away all dead letters; returns how many there were."""
        return await self._move(queue, "drop", None, None)

    async def _move(self, queue: str, what: str, count: int | None, number: int | None) -> int:
        store = await self._stores.find(queue)
        moved, until = 0, ""
        while count is None or moved < count:
            step = REDRIVEN_PER_CALL
            if count is not None:
                step = min(step, count - moved)
            call = store.scripts.dead(queue, what, step, number, until)
            amount, now = await store.committer.submit(call)
            # What dies again while this goes on is not moved once more.
            until = until or now.decode()
            moved += amount
            if not amount or number is not None:  # fewer than asked for: they are big
                break
        return moved
