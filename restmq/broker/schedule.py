"""When something is due: leases that run out, delays that are over, messages that expire.

One index for all queues and logs, in Redis: whoever is about to make a deadline notes it there
first, in the same round trip. Each node sleeps until the first entry is due, or until it hears
that an earlier one has come; then one of them claims it and visits what it names. So nothing is
looked at before it is due, a node that dies is replaced by any other, and Redis's clock is the
only one that counts.

An entry stays until its visit is over. A visit says when something will be due next, which is
noted as the entry goes; so a queue that has a deadline is never without an entry. What could not
be noted, because Redis went away, is noted when it is back.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from restmq.broker.commit import Committer
from restmq.broker.scripts import Scripts
from restmq.errors import RestMQError

logger = logging.getLogger(__name__)

QUEUE, LOG = "queue", "log"
"""Kinds of what can have a deadline."""

GRAIN_SECONDS = 0.25
"""Deadlines of one queue that lie so close share an entry."""

CLAIM_SECONDS = 1.0
"""What a node claimed and did not finish is due for others again after so long."""

MAX_CLAIMED = 100
_MAX_NOTED = 20_000
_NOTED_PER_CALL = 1000
_RETRY_SECONDS = 0.5

Visit = Callable[[str], Awaitable[float | None]]


class _Entry(NamedTuple):
    seconds: float
    is_relative: bool
    """Whether that is on this node's monotonic clock; else it is on Redis's."""
    grain_seconds: float
    what: str


class Schedule:
    """The index as one node sees it."""

    def __init__(self, committer: Committer, scripts: Scripts) -> None:
        self._committer = committer
        self._scripts = scripts
        self._loop = asyncio.get_running_loop()
        self._visits: dict[str, Visit] = {}
        self._noted: dict[str, float] = {}
        self._owed: dict[str, _Entry] = {}
        """What could not be noted yet."""
        self._signal = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def on_due(self, kind: str, visit: Visit) -> None:
        """Have ``visit`` called with a name of this kind when it is due.

        It clears what is due now, and returns when something is due next on Redis's clock.
        """
        self._visits[kind] = visit

    def start(self) -> None:
        """Start looking."""
        self._task = self._loop.create_task(self._run(), name="schedule")

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def note(
        self, kind: str, name: str, in_seconds: float, grain_seconds: float = GRAIN_SECONDS
    ) -> None:
        """Note that something will be due in so many seconds, rounded up to the grain.

        It goes out with, and before, the operation that is submitted next.
        """
        what = f"{kind}:{name}"
        # What is due in the same grain of time is noted once; the visit finds out the rest.
        key = f"{int((self._loop.time() + in_seconds) / grain_seconds)}:{grain_seconds}:{what}"
        now = self._loop.time()
        if self._noted.get(key, 0.0) > now:
            return
        if len(self._noted) >= _MAX_NOTED:
            self._noted.clear()
        self._noted[key] = now + in_seconds
        self._submit({key: _Entry(now + in_seconds, True, grain_seconds, what)})

    def note_at(self, kind: str, name: str, at_seconds: float) -> None:
        """Note that something is due at that time of Redis's clock."""
        what = f"{kind}:{name}"
        self._submit({f"at {at_seconds}:{what}": _Entry(at_seconds, False, GRAIN_SECONDS, what)})

    def _submit(self, entries: dict[str, _Entry], is_retry: bool = False) -> None:
        now = self._loop.time()
        items = [
            (max(seconds - now, 0.0) if is_relative else seconds, is_relative, grain, what)
            for seconds, is_relative, grain, what in entries.values()
        ]
        future = self._committer.submit(self._scripts.note_due(items), is_admitted=True)

        def look_at_outcome(future: asyncio.Future[object]) -> None:
            if future.cancelled() or future.exception() is None:
                return
            # The operations that need it may have been done all the same.
            for key in entries:
                self._noted.pop(key, None)
            if len(self._owed) + len(entries) <= _MAX_NOTED:
                self._owed.update(entries)
            if not is_retry:  # else the pause before the next one has begun
                self._signal.set()

        future.add_done_callback(look_at_outcome)

    def _pay_debts(self) -> None:
        owed, self._owed = self._owed, {}
        keys = list(owed)
        for first in range(0, len(keys), _NOTED_PER_CALL):
            part = {key: owed[key] for key in keys[first : first + _NOTED_PER_CALL]}
            self._submit(part, is_retry=True)

    def look(self) -> None:
        """Ask again what is due first: an earlier deadline has come, or Redis is back."""
        self._signal.set()

    def look_anew(self) -> None:
        """Ask again, and believe nothing that was noted: this Redis may not have it."""
        self._noted.clear()
        self._signal.set()

    async def _run(self) -> None:
        while True:
            self._signal.clear()
            pause_seconds: float | None = _RETRY_SECONDS
            try:
                self._pay_debts()
                pause_seconds = await self._claim()
                if self._owed:
                    pause_seconds = _RETRY_SECONDS
            except RestMQError as error:
                logger.debug("cannot ask what is due: %s", error)
            except Exception:
                # Every deadline waits for this task, so no single visit may end it.
                logger.exception("looking at what is due failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._signal.wait()

    async def _claim(self) -> float | None:
        """Visit what is due; returns for how long there is nothing more (None: for ever)."""
        while True:
            reply = await self._committer.submit(
                self._scripts.claim_due(MAX_CLAIMED, CLAIM_SECONDS), is_admitted=True
            )
            pause = float(reply[0]) if reply[0] else None
            if len(reply) == 1:
                return pause
            await asyncio.gather(*(self._visit(member) for member in reply[1:]))

    async def _visit(self, member: bytes) -> None:
        _, kind, name = member.decode().split(":", 2)
        visit, upcoming = self._visits.get(kind), None
        if visit is not None:
            try:
                upcoming = await visit(name)
            except RestMQError as error:
                logger.warning("cannot look at %s %r now: %s", kind, name, error)
                return  # it is due again when the claim is over
        finish = self._scripts.finish_due(member, upcoming, GRAIN_SECONDS)
        await self._committer.submit(finish, is_admitted=True)
