"""How what has expired leaves Redis: the schedule visits a log soon after an entry's time is over.

What expires is invisible from that moment; a visit only clears it away. So visits may come a little
late, and entries that expire at about the same time share one.
"""

import asyncio
import math

from restmq.broker.commit import Committer
from restmq.broker.log_entry import Log, make_log
from restmq.broker.log_ids import IdKind
from restmq.broker.log_scripts import LogScripts
from restmq.broker.schedule import LOG, Schedule

MAX_CLEARED = 2000
"""Expired entries that one call clears away."""

MAX_NOTED = 100_000
"""Logs and times to live that a node remembers to have noted; beyond that it notes them again."""

_NOTED_SHARE = 0.25
_LONGEST_NOTED_SECONDS = 1.0
_GRAINS = 16
_LONGEST_GRAIN_SECONDS = 3600.0


class LogExpiry:
    """Has logs visited when their entries expire."""

    def __init__(self, committer: Committer, scripts: LogScripts, schedule: Schedule) -> None:
        self._committer = committer
        self._scripts = scripts
        self._schedule = schedule
        self._loop = asyncio.get_running_loop()
        self._noted: dict[tuple[str, float], float] = {}
        """Until when an entry with that time to live needs no note of its own."""
        schedule.on_due(LOG, self._visit)

    def note(self, log: Log, ttl_seconds: float | None) -> None:
        """Have the log visited when an entry that is stored now expires."""
        if ttl_seconds is None:
            return
        # A visit finds out what is due next, so what follows an entry soon is covered by its note.
        key, now = (log.key, ttl_seconds), self._loop.time()
        if self._noted.get(key, 0.0) > now:
            return
        if len(self._noted) >= MAX_NOTED:
            self._noted.clear()
        self._noted[key] = now + min(ttl_seconds * _NOTED_SHARE, _LONGEST_NOTED_SECONDS)
        self._schedule.note(LOG, log.key, ttl_seconds, _grain_seconds(ttl_seconds))

    async def _visit(self, name: str) -> float | None:
        kind, collection, own_name = name.split("/", 2)
        log = make_log(collection, own_name, IdKind[kind])
        now, deadline = await self._committer.submit(
            self._scripts.visit(log, MAX_CLEARED), is_admitted=True
        )
        if not deadline:
            return None
        ahead_seconds = float(deadline) - float(now)
        if ahead_seconds <= 0:
            return float(now) + 0.01  # an entry of its own in the schedule
        grain_seconds = _grain_seconds(ahead_seconds)
        return math.ceil(float(deadline) / grain_seconds) * grain_seconds


def _grain_seconds(ahead_seconds: float) -> float:
    """Return how exactly a deadline is kept: the longer ahead, the fewer visits for many of them.

    The result is a power of two, so that deadlines of about the same distance share their visits.
    """
    grain = 2.0 ** math.floor(math.log2(max(ahead_seconds / _GRAINS, 0.25)))
    return min(grain, _LONGEST_GRAIN_SECONDS)
