"""What a worker holds: leased messages that wait or are worked on, and how long that is sure.

A lease is extended when half of it is over, whether its message waits or is worked on. Nothing
is begun in the second half without asking the server, which alone knows whether it still holds.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from restmq.cli.common import say
from restmq.errors import RestMQError, StaleReceipt
from restmq.http_client import one_line
from restmq.http_leases import Settler


@dataclass(slots=True, eq=False)
class Delivery:
    """One leased message, and the connection whose end gives it back.

    ``sure_until`` and ``extend_at`` are monotonic times: that of half its lease, and that of the
    next attempt to extend it, which is later after one that failed.
    """

    message: dict[str, object]
    connection: int
    sure_until: float = math.inf
    extend_at: float = math.inf

    @property
    def key(self) -> str:
        """The key of the message."""
        return str(self.message.get("key"))

    @property
    def receipt(self) -> str:
        """What settles it."""
        return str(self.message.get("receipt"))


@dataclass
class HeldLeases:
    """The deliveries of a worker, for its threads; at most ``prefetch`` of them wait.

    ``connection`` tells the connection that is open: what came over others has gone back.
    """

    prefetch: int
    connection: Callable[[], int]
    _changed: threading.Condition = field(init=False)
    _due: threading.Condition = field(init=False)
    _waiting: deque[Delivery] = field(default_factory=deque, init=False)
    _begun: list[Delivery] = field(default_factory=list, init=False)
    _lease_seconds: float = field(default=1, init=False)
    _looks_at: float = field(default=0, init=False)
    _server_ahead_seconds: float = field(default=0, init=False)
    _begins_no_more: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Make the conditions, of one lock: for those who work, and for the one who extends."""
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        self._due = threading.Condition(lock)

    def put(self, delivery: Delivery, lease_seconds: float) -> None:
        """Add what came just now, leased for so long.

        Raises RestMQError when more are there than were asked for.
        """
        with self._changed:
            self._lease_seconds = lease_seconds
            now = time.monotonic()
            delivery.sure_until = delivery.extend_at = now + self._left_seconds(delivery) / 2
            self._forget_former()
            if len(self._waiting) >= self.prefetch:
                # An honest server sends more only when a lease has ended.
                oldest = min(self._waiting, key=lambda each: each.sure_until)
                if oldest.sure_until > now:
                    raise RestMQError("the server sends more messages than were asked for")
                self._waiting.remove(oldest)
            self._waiting.append(delivery)
            self._changed.notify()
            if delivery.extend_at < self._looks_at:
                self._due.notify()

    def begin(self, settler: Settler) -> Delivery | None:
        """Wait for a message whose lease holds; None when nothing more shall be begun."""
        while (delivery := self._take()) is not None:
            if time.monotonic() < delivery.sure_until or self._extend(settler, delivery):
                with self._changed:
                    self._begun.append(delivery)
                return delivery
            say(f"{one_line(delivery.key)}: skipped, since its lease may have ended")
        return None

    def end(self, delivery: Delivery) -> None:
        """Extend it no more: its work is done, or it is not to be done."""
        with self._changed:
            self._remove(delivery)

    def begin_no_more(self) -> None:
        """Have ``begin`` return None from now on.

        What waits is extended as before: were it let go, it would come again and again.
        """
        with self._changed:
            self._begins_no_more = True
            self._changed.notify_all()

    def close(self) -> None:
        """End ``keep``."""
        with self._changed:
            self._closed = True
            self._due.notify()

    def keep(self, settler: Settler) -> None:
        """Extend all that is held, each in time, until ``close``. For a thread of its own."""
        while (delivery := self._next_due()) is not None:
            self._extend(settler, delivery)

    def _take(self) -> Delivery | None:
        with self._changed:
            while not self._begins_no_more:
                self._forget_former()
                if self._waiting:
                    return self._waiting.popleft()
                self._changed.wait()
            return None

    def _next_due(self) -> Delivery | None:
        with self._due:
            while not self._closed:
                self._forget_former()
                held = (*self._begun, *self._waiting)
                if not held:
                    self._looks_at = math.inf
                    self._due.wait()
                    continue
                now = time.monotonic()
                first = min(held, key=lambda each: each.extend_at)
                if first.extend_at <= now:
                    return first
                # So soon that what comes later is seldom due before, and need not wake it.
                self._looks_at = min(first.extend_at, now + self._lease_seconds / 4)
                self._due.wait(self._looks_at - now)
            return None

    def _extend(self, settler: Settler, delivery: Delivery) -> bool:
        """Extend one lease, and return whether that succeeded; of what was begun, tell if not."""
        lease_seconds = self._lease_seconds
        asked_at = time.monotonic()
        try:
            expires = settler.extend(delivery.receipt, lease_seconds)
        except StaleReceipt:
            with self._changed:
                was_begun = self._remove(delivery)
            if was_begun:
                say(f"{one_line(delivery.key)}: its lease has ended before it was done")
            return False
        except RestMQError as error:
            with self._changed:
                delivery.extend_at = time.monotonic() + lease_seconds / 8
                is_begun = delivery in self._begun
            if is_begun:
                say(f"{one_line(delivery.key)}: its lease was not extended: {error}")
            return False
        with self._changed:
            self._server_ahead_seconds = expires - lease_seconds - time.time()
            delivery.sure_until = delivery.extend_at = asked_at + lease_seconds / 2
        return True

    def _left_seconds(self, delivery: Delivery) -> float:
        """How much of a lease is left that came just now; 0 if only the server can tell.

        The message may have been on its way for long, while this program was suspended. Until
        an extension has told how far the clocks are apart, they are taken to be equal: if they
        are not, the lease is extended too early, or the server is asked once.
        """
        expires = delivery.message.get("expires")
        if not isinstance(expires, int | float):
            return self._lease_seconds
        left_seconds = expires - self._server_ahead_seconds - time.time()
        return min(max(left_seconds, 0), self._lease_seconds)

    def _forget_former(self) -> None:
        connection = self.connection()
        while self._waiting and self._waiting[0].connection != connection:
            self._waiting.popleft()

    def _remove(self, delivery: Delivery) -> bool:
        """Hold it no more; returns whether it had been begun and not ended."""
        if delivery in self._begun:
            self._begun.remove(delivery)
            return True
        if delivery in self._waiting:
            self._waiting.remove(delivery)
        return False
