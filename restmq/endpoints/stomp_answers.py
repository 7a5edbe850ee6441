"""What a STOMP connection still has to answer, in the order in which it was asked."""

import asyncio
import functools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from restmq.errors import RestMQError

MAX_UNANSWERED: Final = 1000
MAX_UNANSWERED_BYTES: Final = 8 * 1024 * 1024
"""Operations of one connection, and what their frames carry, before no more is read from it."""


class Answer:
    """One operation under way."""

    __slots__ = ("error", "left", "receipt_id", "size_bytes", "then")

    def __init__(
        self, receipt_id: str | None, size_bytes: int, then: Callable[[], None] | None
    ) -> None:
        self.receipt_id = receipt_id
        self.size_bytes = size_bytes
        self.then = then
        self.left = 0
        """Steps that are still to be done."""
        self.error: RestMQError | None = None


class Answers:
    """Operations under way; tells of each that is done when all before it are done, too."""

    __slots__ = ("_answer", "_queue", "_size_bytes")

    def __init__(self, answer: Callable[[Answer], None]) -> None:
        self._answer = answer
        self._queue: deque[Answer] | None = None
        self._size_bytes = 0

    def add(
        self,
        steps: Iterable[asyncio.Future[Any]],
        receipt_id: str | None,
        size_bytes: int = 0,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Add an operation that is done when all of its steps are, or one has failed.

        ``then`` is called after the answer.
        """
        answer = Answer(receipt_id, size_bytes, then)
        if self._queue is None:
            self._queue = deque()
        self._queue.append(answer)
        self._size_bytes += size_bytes
        for step in steps:
            answer.left += 1
            step.add_done_callback(functools.partial(self._done, answer))
        if not answer.left:
            self._tell()

    def fail(self, error: RestMQError, receipt_id: str | None) -> None:
        """Add an operation that has failed."""
        answer = Answer(receipt_id, 0, None)
        answer.error = error
        if self._queue is None:
            self._queue = deque()
        self._queue.append(answer)
        self._tell()

    @property
    def is_full(self) -> bool:
        """Return whether no more should be begun."""
        waiting = 0 if self._queue is None else len(self._queue)
        return waiting >= MAX_UNANSWERED or self._size_bytes >= MAX_UNANSWERED_BYTES

    @property
    def has_room(self) -> bool:
        """Return whether enough is answered to begin more."""
        waiting = 0 if self._queue is None else len(self._queue)
        return waiting <= MAX_UNANSWERED // 2 and self._size_bytes <= MAX_UNANSWERED_BYTES // 2

    def clear(self) -> None:
        """Answer nothing more."""
        self._queue = None
        self._size_bytes = 0

    def _done(self, answer: Answer, step: asyncio.Future[Any]) -> None:
        answer.left -= 1
        error = asyncio.CancelledError() if step.cancelled() else step.exception()
        if error is not None and answer.error is None:
            if not isinstance(error, RestMQError):
                error = RestMQError("something failed here; the server's log says what")
            answer.error = error
        if not answer.left:
            self._tell()

    def _tell(self) -> None:
        while self._queue and not self._queue[0].left:
            answer = self._queue.popleft()
            self._size_bytes -= answer.size_bytes
            self._answer(answer)
