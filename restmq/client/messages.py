"""Messages as the client hands them out, and dead letters."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from restmq.client.settling import Settler
from restmq.client.values import Payload
from restmq.errors import RestMQError, StaleReceipt
from restmq.http_client import value_bytes

RELEASE_TIMEOUT_SECONDS = 5.0
"""How long leaving a block may take to give a message back; then its lease runs out instead."""

Fields = Mapping[str, Any]

logger = logging.getLogger("restmq.client")


@dataclass(eq=False, repr=False)
class Message(Payload):
    """A message: its value, and the key that names it, ``<queue>:<number>``."""

    key: str

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key}>"

    @property
    def queue(self) -> str:
        """The name of its queue."""
        return self.key.rpartition(":")[0]

    @property
    def number(self) -> int:
        """Its number in its queue, from 1."""
        return int(self.key.rpartition(":")[2])


@dataclass(eq=False, repr=False)
class StoredMessage(Message):
    """A message that was only looked at, and its story. Times are seconds since the epoch."""

    state: str
    """``ready``, ``delayed``, ``leased`` or ``dead``."""
    published: float | None
    expires: float | None
    """When its ttl ends; None if it has none."""
    priority: int
    attempts: int
    last_error: str | None
    lease_expires: float | None = None
    ready_at: float | None = None
    """When a delayed one will be ready."""
    died: float | None = None


@dataclass(eq=False, repr=False)
class DeadLetter(Message):
    """A message that was given up, and why. Times are seconds since the epoch."""

    reason: str | None
    died: float
    attempts: int
    published: float | None
    expires: float | None
    priority: int


class Holder(Protocol):
    """Who extends the lease of a message, and knows how long it is."""

    def keep(self, message: "LeasedMessage") -> None:
        """Extend the lease until ``drop``."""

    def drop(self, message: "LeasedMessage") -> None:
        """Extend it no more."""

    def note_extended(self, message: "LeasedMessage", seconds: float) -> None:
        """Take into account that its lease runs for so long from now."""

    async def lease_seconds(self) -> float:
        """Return how long its lease lasts."""


class LeasedMessage(Message):
    """A message that nobody else gets for a while: settle it with one of its four verbs.

    Or let a block do so, which also extends the lease for as long as it runs; then it is
    acknowledged, or given back if the block raises:

        async with message:
            await handle(message.json())

    ``attempt``: how often it was delivered, with this time. ``expires``: when the lease ends by
    the server's clock, in seconds since the epoch, if nobody extends it. ``retry_delay``: after
    how many seconds it comes again when the block fails.
    """

    def __init__(
        self, fields: Fields, settler: Settler, holder: Holder, retry_delay: float = 0
    ) -> None:
        super().__init__(value_bytes(fields), fields.get("content_type"), str(fields["key"]))
        self.retry_delay = retry_delay
        self.is_settled = False
        """Whether one of its verbs has succeeded."""
        self.is_lost = False
        """Whether the lease is known to have run out, so that another may handle the message."""
        self.is_being_returned = False
        """Whether it may be delivered anew, to whoever asks, since it was given back."""
        self.on_settled: Callable[[LeasedMessage], None] | None = None
        """Called when it is out of hand, settled or not."""
        self._is_settling = False
        self._settler = settler
        self._holder = holder
        self._read(fields)

    def _read(self, fields: Fields) -> None:
        self.attempt = int(fields["attempt"])
        self.receipt = str(fields["receipt"])
        self.expires = float(fields["expires"])
        self.is_lost = False
        self.held_from = asyncio.get_running_loop().time()
        """When the lease was made or extended last, on the event loop's clock."""

    def adopt(self, fields: Fields) -> None:
        """Take over a later delivery of the same message, since this one is still in hand."""
        self._read(fields)
        self._holder.keep(self)

    async def ack(self) -> None:
        """The message is done, and gone for good.

        Raises StaleReceipt if the lease had run out: the message comes again, or has. Raises
        Unavailable if the server cannot be reached for the client's ``timeout_seconds``.
        """
        await self._settle(lambda: self._settler.ack(self.receipt, self._held_check()))

    async def nack(self, delay: float = 0) -> None:
        """Give the message back, to be ready again in ``delay`` seconds; raises as ``ack``."""
        self.is_being_returned = True
        try:
            await self._settle(
                lambda: self._settler.release(self.receipt, delay, self._held_check())
            )
        finally:
            self.is_being_returned = False

    async def bury(self, reason: str) -> None:
        """Put the message with the dead letters, as a lost cause; raises as ``ack``."""
        await self._settle(lambda: self._settler.bury(self.receipt, reason, self._held_check()))

    async def extend(self, seconds: float) -> None:
        """Let the lease run for ``seconds`` (1 to 43,200) from now; raises as ``ack``.

        Inside of ``async with message`` and in ``consume`` this happens by itself.
        """
        self._check_open()
        began = asyncio.get_running_loop().time()
        [error] = await self._settler.extend([self.receipt], seconds)
        self.note_extended(began, error)
        if error is not None:
            raise error
        self._holder.note_extended(self, seconds)

    def note_extended(self, began: float, error: RestMQError | None) -> None:
        """Note what became of an attempt to extend it that began at ``began``."""
        if error is None:
            self.held_from = began
        elif isinstance(error, StaleReceipt) and not (self.is_settled or self._is_settling):
            self.is_lost = True
            logger.warning("the lease of %s has run out, so it comes again", self.key)

    async def __aenter__(self) -> Self:
        self._check_open()
        self._holder.keep(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.is_settled:
            return
        try:
            if kind is None:
                await self.ack()
            else:
                await self._give_back()
        finally:
            self._finish()

    async def _give_back(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_SECONDS):
                await self.nack(self.retry_delay)
        except (RestMQError, TimeoutError) as error:
            # What went wrong in the block is what its caller has to learn.
            logger.warning("%s was not given back, its lease runs out: %s", self.key, error)

    async def _settle(self, settle: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._check_open()
        self._is_settling = True
        try:
            while True:
                receipt = self.receipt
                try:
                    await settle()
                except StaleReceipt:
                    if self.receipt != receipt:  # it was delivered anew meanwhile, to this client
                        continue
                    self.is_lost = True
                    self._finish()
                    raise
                break
        finally:
            self._is_settling = False
        self.note_settled()

    def note_settled(self) -> None:
        """Note that one of its verbs has succeeded."""
        self.is_settled = True
        self._finish()

    def _finish(self) -> None:
        self._holder.drop(self)
        if self.on_settled is not None:
            self.on_settled(self)

    def _check_open(self) -> None:
        if self.is_settled:
            raise StaleReceipt(f"{self.key} was settled already")

    def _held_check(self) -> Callable[[], Coroutine[Any, Any, bool]]:
        async def is_held() -> bool:
            seconds = await self._holder.lease_seconds()
            return asyncio.get_running_loop().time() < self.held_from + seconds

        return is_held

    def __repr__(self) -> str:
        return f"<LeasedMessage {self.key} attempt {self.attempt}>"


def read_message(fields: Fields) -> Message:
    """Make a message of what an answer or a stream says of it."""
    return Message(value_bytes(fields), fields.get("content_type"), str(fields["key"]))


def read_stored(fields: Fields) -> StoredMessage:
    """Make a message with its story of an answer of ``/m/``."""
    return StoredMessage(
        *(value_bytes(fields), fields.get("content_type"), str(fields["key"])),
        state=fields["state"],
        published=fields["published"],
        expires=fields["expires"],
        priority=fields["priority"],
        attempts=fields["attempts"],
        last_error=fields["last_error"],
        lease_expires=fields.get("lease_expires"),
        ready_at=fields.get("ready_at"),
        died=fields.get("died"),
    )


def read_dead_letter(fields: Fields) -> DeadLetter:
    """Make a dead letter of an entry of ``/dead/``."""
    return DeadLetter(
        *(value_bytes(fields), fields.get("content_type"), str(fields["key"])),
        reason=fields["reason"],
        died=fields["died"],
        attempts=fields["attempts"],
        published=fields["published"],
        expires=fields["expires"],
        priority=fields["priority"],
    )
