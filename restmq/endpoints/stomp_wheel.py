"""One timer for all STOMP connections: heart-beats, and what must happen within some time.

A wheel of slots of a tenth of a second. A connection lies in one slot and is moved when that comes,
not at every octet, so that heart-beats cost the same however busy a connection is.
"""

import asyncio
from typing import Protocol

TICK_SECONDS = 0.1


class Timed(Protocol):
    """What lies on the wheel."""

    def tick(self, now: float) -> float | None:
        """Do what is due; returns when to come again, None for never."""


class Wheel:
    """Calls ``tick`` of what lies on it, up to ``TICK_SECONDS`` late."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._slots: dict[int, dict[Timed, None]] = {}
        self._places: dict[Timed, int] = {}
        self._next_slot = 0
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Turn no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def put(self, timed: Timed, at: float) -> None:
        """Have ``tick`` called at that time of the loop's clock; instead of any other time."""
        self.remove(timed)
        slot = max(int(at / TICK_SECONDS) + 1, int(self._loop.time() / TICK_SECONDS) + 1)
        self._slots.setdefault(slot, {})[timed] = None
        self._places[timed] = slot
        if self._timer is None or slot < self._next_slot:
            self._wind()

    def remove(self, timed: Timed) -> None:
        """Take it off the wheel."""
        slot = self._places.pop(timed, None)
        if slot is not None:
            members = self._slots[slot]
            del members[timed]
            if not members:
                del self._slots[slot]

    def _turn(self) -> None:
        self._timer = None
        now = self._loop.time()
        last = int(now / TICK_SECONDS + 1e-6)
        # The slots are few: deadlines are some seconds ahead at most, or a minute.
        for slot in sorted(slot for slot in self._slots if slot <= last):
            for timed in self._slots.pop(slot, {}):
                if self._places.get(timed) != slot:
                    continue
                del self._places[timed]
                again = timed.tick(now)
                if again is not None:
                    self.put(timed, again)
        self._wind()

    def _wind(self) -> None:
        """Set the timer for the first slot."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._slots:
            self._next_slot = min(self._slots)
            self._timer = self._loop.call_at(self._next_slot * TICK_SECONDS, self._turn)
