"""What the broker knows of a connected stream reader.

An endpoint supplies a ``Consumer`` for each connection: where the bytes go. Consumers that read
the same format share one ``Encoding``, so that a message is encoded once for all of them. The
broker never learns which protocol it is.
"""

import asyncio
import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence

from restmq.broker.message import Message


class End(enum.Enum):
    """Why a stream ends."""

    PURGED = "the queue was deleted"
    SLOW = "the consumer did not read"
    DRAIN = "the server is stopping"


class Encoding(ABC):
    """How messages become the bytes that a consumer of this format receives.

    Equal encodings must compare equal and hash alike: they share their results.
    """

    @abstractmethod
    def encode(self, queue: str, messages: Sequence[Message]) -> bytes:
        """Return the bytes for these messages, joined into one write."""

    def opened(self, queue: str, position: int | None) -> bytes:
        """Return what says that the stream is open, so that it can be resumed after ``position``.

        None for a leased stream, which has no position. Empty if the format has no such thing.
        """
        return b""

    def gap(self, first: int, last: int) -> bytes:
        """Return what says that messages with these numbers are kept no more."""
        return b""

    @property
    def keep_alive(self) -> bytes:
        """Return bytes that say nothing but keep the connection open; empty for none."""
        return b""


class Consumer(ABC):
    """One connected stream reader.

    ``ended`` becomes done when the stream must end, with the reason as its result.
    """

    __slots__ = ("encoding", "ended", "epoch", "handed_bytes", "opened_at", "progress", "share")

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.epoch = 0
        """The queue's epoch when this consumer joined; a later one ends the stream."""
        self.opened_at = 0
        """The number of the last message that was sent before it joined."""
        self.handed_bytes = 0
        """Bytes that the broker has written to it so far."""
        self.progress: int | None = None
        """How many of these it had taken at the last keep-alive; None if all."""
        self.share: list[tuple[Message, int]] = []
        """Round-robin messages of the last write, each with its size in bytes, until sent."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send bytes, or keep them unsent; never waits."""

    @abstractmethod
    def offer(self, data: bytes, limit_bytes: int) -> bool:
        """Write, unless more than ``limit_bytes`` are unsent already: then return False.

        A stream that has ended takes nothing more and returns True.
        """

    @property
    @abstractmethod
    def unsent_bytes(self) -> int:
        """Return how many bytes the kernel has not taken yet."""

    def ping(self) -> None:
        """Send a sign of life, if the format has one."""
        self.tell(self.encoding.keep_alive)

    def tell(self, data: bytes) -> None:
        """Send something that is no message; nothing if ``data`` is empty."""
        if data:
            self.handed_bytes += len(data)
            self.write(data)

    @property
    @abstractmethod
    def is_connected(self) -> bool:
        """Return whether unsent bytes can still reach the reader."""

    @property
    def is_open(self) -> bool:
        """Return whether messages can be handed to it."""
        return self.is_connected and not self.ended.done()

    @abstractmethod
    async def wait_until_sent(self) -> None:
        """Wait until nothing is unsent, or the connection is gone."""

    @abstractmethod
    def cut_off(self) -> None:
        """Drop the connection and what is unsent, at once."""

    def end(self, reason: End) -> None:
        """End the stream; the endpoint says goodbye in its own way."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def has_ended(self, reason: End) -> bool:
        """Return whether the stream was ended for this reason; not if its reader just left."""
        ended = self.ended
        return ended.done() and not ended.cancelled() and ended.result() is reason

    def forget_sent(self) -> None:
        """Keep in ``share`` only what the kernel has not taken in full."""
        unsent = self.unsent_bytes
        kept = len(self.share)
        while kept and unsent > 0:
            kept -= 1
            unsent -= self.share[kept][1]
        del self.share[:kept]

    def reclaim(self) -> list[Message]:
        """Take away the messages that it was handed and that cannot have reached the reader."""
        lost, self.share = self.share, []
        return [] if self.is_connected else [message for message, _ in lost]
