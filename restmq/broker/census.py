"""The census: what all queues look like together, however many there are, for those who show it.

Nothing is counted while nobody asks. Up to ``FRESH_QUEUES`` queues are counted when somebody does.
Beyond that one node of all walks over them, again and again until nobody has asked for
``WANTED_SECONDS``, and takes no more than a share of Redis's time; what it finds lies in Redis, so
that all nodes tell the same. In between it looks again at those queues that stand out.
"""

import asyncio
import contextlib
import logging
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from restmq.broker.census_scripts import CensusScripts
from restmq.broker.keys import MEMORY_QUEUES, REGISTRY, check_queue_name
from restmq.broker.nodes import Nodes, NodeState
from restmq.broker.scripts import Call, Reply, command
from restmq.broker.stats import Policy, QueueStats
from restmq.broker.store import Store
from restmq.broker.stores import Stores
from restmq.broker.tally import KEPT_QUEUES, Overview, Tally, Totals, refresh
from restmq.errors import RestMQError, Unavailable

__all__ = ["KEPT_QUEUES", "Census", "FoundQueues", "NodeState", "Overview", "Totals"]

logger = logging.getLogger(__name__)

FRESH_QUEUES = 1000
"""Up to so many queues are all counted whenever somebody asks."""

FRESH_SECONDS = 1.0
"""How old an answer may be."""

WANTED_SECONDS = 90.0
"""The walk goes on for so long after somebody asked."""

CLAIM_SECONDS = 10.0
"""A walk that its node does not claim again within this time is anybody's."""

WALK_SHARE = 0.04
"""How much of Redis's time the walk takes."""

MOST_QUEUE_SECONDS = 50e-6
"""One queue takes no longer; if it seems to, the machine was at something else."""

SLICE_QUEUES = 40
"""Queues that one round trip of a walk counts: other operations wait for no more than these."""

FRESH_SLICE_QUEUES = 100
"""The same for few queues, for which somebody waits."""

NAMES_PER_CALL = 1000
SEARCHED_NAMES = 200_000
"""Names that one search looks at."""

_FIGURES = struct.Struct(">ddddddddddd")
_RETRY_SECONDS = 1.0

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Overview).decode


class FoundQueues(NamedTuple):
    """What a search found."""

    names: list[str]
    after: str | None
    """Where the next search goes on; None when there is no name beyond."""


class _State(NamedTuple):
    """What the nodes know together about the census."""

    now: float
    asked_at: float
    is_mine: bool
    is_others: bool
    result: Overview | None


class Census:
    """The census as one node sees it.

    ``take_active``: returns queues in which this node has done something since it was last asked.
    """

    def __init__(
        self,
        stores: Stores,
        scripts: CensusScripts,
        nodes: Nodes,
        take_active: Callable[[], Iterable[str]],
    ) -> None:
        self._stores = stores
        self._committer = stores.disk.committer
        self._scripts = scripts
        self._nodes = nodes
        self._take_active = take_active
        self._loop = asyncio.get_running_loop()
        self._latest: Overview | None = None
        self._fresh_until = 0.0
        self._looking: asyncio.Task[Overview] | None = None
        self._walking: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop walking; another node may go on at once."""
        tasks = [task for task in (self._looking, self._walking) if task is not None]
        was_walking = self._walking is not None and not self._walking.done()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if was_walking:
            with contextlib.suppress(RestMQError):
                left = self._committer.submit(self._scripts.leave(), is_admitted=True)
                left.add_done_callback(lambda left: left.cancelled() or left.exception())

    async def nodes(self) -> list[NodeState]:
        """Return the live nodes, by host and process id. Raises ``Unavailable``."""
        return await self._nodes.all()

    async def search_queues(self, text: str, after: str = "", limit: int = 100) -> FoundQueues:
        """Find up to ``limit`` known queues whose name contains ``text`` in any case, by name.

        It looks at about ``SEARCHED_NAMES`` names after ``after`` and no further; the result tells
        where the next search goes on. Raises ``Unavailable``.
        """
        wanted = text.lower()
        found: list[str] = []
        searched = 0
        while searched < SEARCHED_NAMES:
            names = await self._names(after)
            for name in names:
                after = name
                if wanted in name.lower():
                    found.append(name)
                    if len(found) == limit:
                        return FoundQueues(found, after)
            if len(names) < NAMES_PER_CALL:
                return FoundQueues(found, None)
            searched += len(names)
        return FoundQueues(found, after)

    async def look_at(self, names: Sequence[str]) -> list[QueueStats]:
        """Return what some queues look like, at less cost than ``Broker.stats`` of each.

        What is due counts as it lies: a lease that ran out a moment ago may count as a lease still.
        Queues in memory count as in ``Broker.list_stats``. Raises ``Unavailable``.
        """
        found: list[QueueStats] = []
        for part in _sliced(names, SLICE_QUEUES):
            found += (await self._measure(part))[0]
        return found

    async def overview(self) -> Overview:
        """Return what all queues look like, about a second old with up to ``FRESH_QUEUES``.

        With more it is the result of the latest walk, which begins when somebody asks; see
        ``Overview.is_complete``. It returns soon in any case. Raises ``Unavailable``.
        """
        if self._latest is not None and self._loop.time() < self._fresh_until:
            return self._latest
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(self._look(), name="census-look")
            self._looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._looking)

    async def _look(self) -> Overview:
        began = self._loop.time()
        queues = await self._count()
        if 0 < queues <= FRESH_QUEUES:
            tally = Tally()
            async for names in self._slices(FRESH_SLICE_QUEUES):
                stats, now, _ = await self._measure(names)
                for each in stats:
                    tally.add(each)
            found = tally.overview(now, tally.queues, True) if tally.queues else None
        else:
            state = await self._share(self._scripts.look())
            found = state.result if queues else Tally().overview(state.now, 0, True)
            if found is None:
                found = Tally().overview(state.now, queues, False)
            if queues and not state.is_others and (self._walking is None or self._walking.done()):
                self._walking = self._loop.create_task(self._walk_on(found), name="census-walk")
        if found is None:  # the queues went while they were counted
            return await self._look()
        self._latest, self._fresh_until = found, began + FRESH_SECONDS
        return found

    # The walk

    async def _walk_on(self, result: Overview) -> None:
        """Walk over all queues again and again while somebody wants it and no other node does."""
        walk = _Walk(result)
        while True:
            try:
                if not await self._go_round(walk):
                    await self._share(self._scripts.leave())
                    return
            except RestMQError as error:
                logger.debug("cannot count the queues now: %s", error)
            except Exception:
                logger.exception("counting the queues failed")
            await asyncio.sleep(_RETRY_SECONDS)

    async def _go_round(self, walk: "_Walk") -> bool:
        """Walk over all queues once; returns False if this node should not go on."""
        walk.tally = Tally()
        if not await self._go_on(walk):
            return False
        next_claim = self._loop.time() + FRESH_SECONDS
        async for names in self._slices(SLICE_QUEUES):
            stats, now, redis_seconds = await self._measure(names)
            for each in stats:
                walk.tally.add(each)
            await asyncio.sleep(redis_seconds / WALK_SHARE)
            if self._loop.time() >= next_claim:
                if not await self._go_on(walk):
                    return False
                next_claim = self._loop.time() + FRESH_SECONDS
        if walk.tally.queues:
            walk.result = walk.tally.overview(now, walk.tally.queues, True, walk.result)
            await self._share(self._scripts.store(_encode(walk.result)))
        return True

    async def _go_on(self, walk: "_Walk") -> bool:
        """Claim the walk once more; show how far it is, if somebody asked since that was shown."""
        state = await self._share(self._scripts.claim(CLAIM_SECONDS))
        queues = await self._count()
        wanted = state.now - state.asked_at < WANTED_SECONDS
        if not state.is_mine or not wanted or queues <= FRESH_QUEUES:
            return False
        if state.asked_at <= walk.shown_at:
            return True
        walk.shown_at = state.now
        names = {stats.name for stats in (*walk.result.largest, *walk.result.busiest)}
        names.update(await self._known(list(self._take_active())))
        fresh = await self.look_at(sorted(names))
        if not walk.result.is_complete:
            walk.result = walk.tally.overview(state.now, queues, False, walk.result)
        walk.result = refresh(walk.result, fresh, queues)
        await self._share(self._scripts.store(_encode(walk.result)))
        return True

    async def _share(self, call: Call) -> _State:
        now, asked_at, is_mine, is_others, packed = await self._committer.submit(call)
        result = None
        if packed:
            try:
                result = _decode(packed)
            except msgspec.MsgspecError:  # a node of another version wrote it
                logger.debug("the latest census cannot be read")
        return _State(float(now), float(asked_at), is_mine == 1, is_others == 1, result)

    # Counting

    async def _count(self) -> int:
        count: int = await self._committer.submit(command("ZCARD", REGISTRY))
        return count

    async def _known(self, names: list[str]) -> list[str]:
        """Return those of the names that are queues."""
        if not names:
            return []
        scores = await self._committer.submit(command("ZMSCORE", REGISTRY, *names))
        return [name for name, score in zip(names, scores, strict=True) if score is not None]

    async def _names(self, after: str) -> list[str]:
        start = f"({check_queue_name(after)}" if after else "-"
        call = command("ZRANGEBYLEX", REGISTRY, start, "+", "LIMIT", 0, NAMES_PER_CALL)
        return [name.decode() for name in await self._committer.submit(call)]

    async def _slices(self, size: int) -> AsyncIterator[Sequence[str]]:
        """Yield the names of all queues, some at a time."""
        after = ""
        while True:
            names = await self._names(after)
            for part in _sliced(names, size):
                yield part
            if len(names) < NAMES_PER_CALL:
                return
            after = names[-1]

    async def _measure(self, names: Sequence[str]) -> tuple[list[QueueStats], float, float]:
        """Count what is in each queue; also returns Redis's time, and how much of it that took."""
        disk = self._stores.disk
        places = [disk] * len(names)
        if len(self._stores.all()) > 1:
            places = await self._places(names)
        futures = [_ask(store, name) for store, name in zip(places, names, strict=True)]
        await asyncio.wait(futures)
        found, times = [], []
        for store, name, future in zip(places, names, futures, strict=True):
            if store is not disk and isinstance(future.exception(), Unavailable):
                # The disk, where settings are kept, stands for memory.
                future = _ask(disk, name)
            stats, now = _read(name, await future)
            found.append(stats)
            times.append(now)
        # Scripts of one round trip run one after the other, each with the time at its begin.
        spent = max(times[-1] - times[0], 0.0) * len(times) / max(len(times) - 1, 1)
        return found, max(times), min(spent, len(times) * MOST_QUEUE_SECONDS)

    async def _places(self, names: Sequence[str]) -> list[Store]:
        """Return where queues live; those in memory that cannot be reached count as on disk."""
        in_memory = await self._committer.submit(command("SMISMEMBER", MEMORY_QUEUES, *names))
        places = []
        for name, is_in_memory in zip(names, in_memory, strict=True):
            store = self._stores.disk
            if is_in_memory:
                with contextlib.suppress(Unavailable):
                    store = await self._stores.find_opened(name)
            places.append(store)
        return places


class _Walk:
    """How far a walk is."""

    def __init__(self, result: Overview) -> None:
        self.result = result
        """What was shown last."""
        self.tally = Tally()
        self.shown_at = 0.0
        """Redis's time when that was."""


def _ask(store: Store, name: str) -> asyncio.Future[Reply]:
    """Ask for the figures of one queue; if that fails, perhaps nobody looks at it any more."""
    asked = store.committer.submit(store.scripts.census(name))
    asked.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
    return asked


def _read(name: str, reply: Reply) -> tuple[QueueStats, float]:
    """Read the reply of census.lua: the figures, and Redis's time."""
    packed, status, policy = reply
    now, ready, consumers, delayed, leased, dead, oldest, *rest = _FIGURES.unpack(packed)
    rate_in, rate_out, expired_leases, died = rest
    stats = QueueStats(
        name=name,
        length=int(ready),
        started=status != b"0",
        policy=Policy(int(policy)) if policy else None,
        consumers=int(consumers),
        delayed=int(delayed),
        leased=int(leased),
        dead=int(dead),
        oldest_age_seconds=max(now - oldest, 0.0) if oldest else None,
        rate_in=round(rate_in, 3),
        rate_out=round(rate_out, 3),
        expired_leases=int(expired_leases),
        died=int(died),
    )
    return stats, now


def _sliced(names: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (names[first : first + size] for first in range(0, len(names), size))
