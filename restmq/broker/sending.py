"""Publishing for those who must not wait: operations are begun, and keep their order.

``Publishing`` is for callers that publish values of one kind and await the outcome. Here messages
come packed, each with headers of its own; what is sent to one queue is stored in the order in
which it was sent, also while the queue is still being made.
"""

import asyncio
from collections.abc import Callable, Sequence

from restmq.broker.groups import Added
from restmq.broker.limits import MAX_ID_CHARACTERS
from restmq.broker.scripts import Operation
from restmq.broker.store import Store
from restmq.broker.stores import Stores
from restmq.errors import InvalidInput, NotFound, RestMQError, StoreUnavailable, Unavailable

RETRY_SECONDS = 0.25
CLOSE_SECONDS = 2.0


class _Waiting:
    """Operations on a queue that is being looked for."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self.task = task
        self.operations: list[tuple[Operation, int, asyncio.Future[Added]]] = []


class Sender:
    """Sends to queues; ``may_create`` says which of those that do not exist it may make."""

    def __init__(self, stores: Stores, may_create: Callable[[str], bool]) -> None:
        self._stores = stores
        self._may_create = may_create
        self._waiting: dict[str, _Waiting] = {}
        self._persisting: set[asyncio.Task[Added]] = set()
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Wait for what was begun, but not for a Redis that is away."""
        tasks = {*self._persisting, *(waiting.task for waiting in self._waiting.values())}
        if tasks:
            _, unfinished = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def send(
        self, queue: str, packed: Sequence[bytes], idempotency_key: str | None = None
    ) -> asyncio.Future[Added]:
        """Begin to store messages: all of them or none. The future says where they are.

        With an ``idempotency_key`` a repetition within the queue's ``dedupe_seconds`` stores
        nothing. It raises, or the future does, ``NotFound`` if the queue may not be made,
        ``InvalidInput`` for a bad name, ``QueueFull``, ``Unavailable``.
        """
        options = None
        if idempotency_key is not None:
            if not 1 <= len(idempotency_key) <= MAX_ID_CHARACTERS:
                raise InvalidInput(f"an id must have 1 to {MAX_ID_CHARACTERS} characters")
            options = {"id": idempotency_key}
        operation = Operation(packed, options)
        size_bytes = len(packed[0]) if len(packed) == 1 else sum(map(len, packed))
        store = self._stores.found.get(queue)
        if store is not None and queue not in self._waiting:
            return store.add(queue, operation, size_bytes)
        waiting = self._waiting.get(queue)
        if waiting is None:
            task = self._loop.create_task(self._open(queue), name="open-queue")
            waiting = self._waiting[queue] = _Waiting(task)
        future: asyncio.Future[Added] = self._loop.create_future()
        waiting.operations.append((operation, size_bytes, future))
        return future

    def send_surely(
        self, queue: str, packed: Sequence[bytes], idempotency_key: str, patience_seconds: float
    ) -> asyncio.Task[Added]:
        """Send, and if Redis is lost on the way send again until it is known to be stored.

        Nothing is stored twice. The first attempt is begun at once; the task raises as ``send``,
        and ``Unavailable`` only when the patience is over.
        """
        deadline = self._loop.time() + patience_seconds

        def begin() -> asyncio.Future[Added]:
            try:
                return self.send(queue, packed, idempotency_key)
            except RestMQError as error:
                failed: asyncio.Future[Added] = self._loop.create_future()
                failed.set_exception(error)
                return failed

        async def persist(attempt: asyncio.Future[Added]) -> Added:
            while True:
                try:
                    return await attempt
                except Unavailable:
                    if self._loop.time() >= deadline:
                        raise
                await asyncio.sleep(RETRY_SECONDS)
                attempt = begin()

        first = begin()
        task = self._loop.create_task(persist(first), name="send-surely")
        self._persisting.add(task)
        task.add_done_callback(self._persisting.discard)
        return task

    def is_known(self, queue: str) -> bool:
        """Return whether this node knows that the queue exists."""
        return queue in self._stores.found

    async def check(self, queue: str) -> None:
        """Raise NotFound unless the queue exists, or may be made."""
        await self._stores.find(queue)
        if queue not in self._stores.found and not self._may_create(queue):
            raise NotFound(f"there is no queue {queue!r}, and none may be made here")

    async def _open(self, queue: str) -> None:
        store: Store | None = None
        failure: BaseException | None = None
        try:
            await self.check(queue)
            store = await self._stores.create(queue)
        except RestMQError as error:
            failure = error
        except BaseException as error:
            failure = error
            raise
        finally:
            # No await from here on, so that nothing can overtake.
            for operation, size_bytes, future in self._waiting.pop(queue).operations:
                if store is None:
                    _fail(future, failure)
                    continue
                try:
                    store.add(queue, operation, size_bytes).add_done_callback(
                        lambda added, future=future: _copy_outcome(added, future)  # type: ignore[misc]
                    )
                except RestMQError as error:
                    _fail(future, error)


def _fail(future: asyncio.Future[Added], error: BaseException | None) -> None:
    if not future.done():
        wrapped = error if isinstance(error, RestMQError) else StoreUnavailable("it was given up")
        future.set_exception(wrapped)


def _copy_outcome(source: asyncio.Future[Added], target: asyncio.Future[Added]) -> None:
    if source.cancelled():
        _fail(target, None)
    elif (error := source.exception()) is not None:
        _fail(target, error)
    elif not target.done():
        target.set_result(source.result())
