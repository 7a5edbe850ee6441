"""What this node knows of a queue that has plain streaming consumers, and what they may use."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from restmq.broker.consumers import Consumer
from restmq.broker.scripts import HistoryLimits


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """What streaming consumers of this node may use."""

    outbox_bytes: int = 4 * 1024 * 1024
    ping_seconds: float = 15.0
    history: HistoryLimits = field(default_factory=HistoryLimits)


class Stream:
    """The consumers of one queue on this node."""

    __slots__ = (
        "consumers",
        "generation",
        "joined",
        "last_number",
        "position",
        "pump",
        "queue",
        "signal",
        "turn",
    )

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.consumers: list[Consumer] = []
        self.joined: set[Consumer] = set()
        """Consumers that count already but must not be written to yet."""
        self.position: int | None = None
        self.last_number = 0
        """The number of the last message up to there; not the highest, as priorities may differ."""
        self.generation = ""
        """Names the history that ``position`` counts in; another one begins if Redis loses it."""
        self.turn = 0
        self.signal = asyncio.Event()
        self.pump: asyncio.Task[None] | None = None

    @property
    def count(self) -> int:
        """Return how many consumers are here or about to be."""
        return len(self.consumers) + len(self.joined)

    def has_room(self) -> bool:
        """Return whether any consumer could take more at once."""
        return any(c.is_open and c.unsent_bytes == 0 for c in self.consumers)

    def rotation(self) -> Iterator[Consumer]:
        """Yield the consumers in turn for ever, preferring those with nothing unsent."""
        while True:
            able = [c for c in self.consumers if c.is_open and c.unsent_bytes == 0]
            able = able or [c for c in self.consumers if c.is_open]
            if not able:
                return
            for _ in range(len(able)):
                self.turn = (self.turn + 1) % len(able)
                yield able[self.turn - 1]
