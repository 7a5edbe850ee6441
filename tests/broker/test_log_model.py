"""A log against a model of it: whatever is done in whatever order, both answer the same."""

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from restmq.broker.cursors import Start
from restmq.broker.log_entry import (
    Entry,
    EntryKey,
    NewEntry,
    Query,
    Scope,
    line_of,
    make_log,
)
from restmq.broker.log_ids import IdKind, id_of_number, number_of_id
from tests.broker.log_node import LogNode
from tests.broker.steps import NOON

Answer = TypeVar("Answer")

EXAMPLES = 150
STEPS = 40
PARTITIONS = (0, 1, 200)

values = st.binary(max_size=5)
ttls = st.sampled_from([None, None, 1.0, 2.0, 4.5])
partitions = st.sampled_from(PARTITIONS)
paths = st.sampled_from([b"", b"", b"/a", b"/a/b", b"/a/b/c", b"/ab", b"/a/", b"/a//b"])
sources = st.sampled_from([b"", b"me", b"you"])
new_entries = st.builds(NewEntry, values, ttls, partitions, sources, paths)
seconds = st.sampled_from([-3.0, 0.5, 1.0, 2.0])


class ModelEntry(NamedTuple):
    """An entry as the model sees it."""

    key: EntryKey
    value: bytes
    expires: float
    source: bytes
    path: bytes


def seen(entry: Entry) -> ModelEntry:
    """Return what a reader sees of a real entry."""
    key = EntryKey(entry.partition, entry.id)
    expires = entry.expires or float("inf")
    return ModelEntry(key, entry.value, expires, entry.source, entry.path)


def is_within(scope: Scope, path: bytes, wanted: bytes) -> bool:
    """Whether a read of that scope and path is about an entry of this path."""
    if scope is Scope.EXACT:
        return path == wanted
    if scope is Scope.SUBTREE:
        return path == wanted or path.startswith(wanted + b"/")
    return path != b"" and path in line_of(wanted)


class LogMachine(RuleBasedStateMachine):
    """Does the same to a log of a real node and to a dict."""

    def __init__(self, redis_url: str, kind: IdKind) -> None:
        super().__init__()
        self._redis_url = redis_url
        self._runner = asyncio.Runner()
        self._log = make_log("models", uuid.uuid4().hex, kind)
        self._now = NOON
        self._last = bytes(kind.value)
        self._entries: dict[EntryKey, ModelEntry] = {}
        self._cursors: dict[str, int] = {}
        self._known: list[bytes] = []

    @initialize()
    def open(self) -> None:
        """Open a node on this machine's own event loop."""

        async def opened() -> LogNode:
            return await LogNode(self._redis_url).open()

        self._node = self._run(opened())
        self._node.scripts.clock_seconds = self._now

    def teardown(self) -> None:
        """Close what ``open`` opened."""
        if hasattr(self, "_node"):
            self._run(self._node.close())
        self._runner.close()

    def _run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(coroutine)

    @property
    def _counts(self) -> bool:
        return self._log.ids is IdKind.NUMBER

    def _live(self, partition: int) -> list[ModelEntry]:
        live = [
            entry
            for entry in self._entries.values()
            if entry.key.partition == partition and entry.expires > self._now
        ]
        return sorted(live, key=lambda entry: entry.key.id)

    def _expiry(self, ttl_seconds: float | None) -> float:
        return float("inf") if ttl_seconds is None else self._now + ttl_seconds

    def _draw_id(self, data: st.DataObject) -> bytes:
        """Draw an id that was given, or one that may never have been."""
        is_known: bool = data.draw(st.booleans())
        if self._known and is_known:
            return data.draw(st.sampled_from(self._known))
        if self._counts:
            return id_of_number(data.draw(st.integers(1, 40)))
        return data.draw(st.sampled_from([bytes(7) + b"\5", b"\x0f" * 8])) + b"\x80" + bytes(7)

    def _keep(self, new: ModelEntry) -> None:
        self._entries[new.key] = new
        self._known.append(new.key.id)

    @rule(batch=st.lists(new_entries, min_size=1, max_size=6), is_one=st.booleans())
    def append(self, batch: list[NewEntry], is_one: bool) -> None:
        """Append some in one operation, or as many operations at once."""

        async def appended() -> list[bytes]:
            logs = self._node.logs
            if is_one:
                return [one.id for one in await logs.append_all(self._log, batch)]
            made = await asyncio.gather(*(logs.append(self._log, entry) for entry in batch))
            return [one.id for one in made]

        ids = self._run(appended())
        assert ids == sorted(set(ids))
        assert ids[0] > self._last
        if self._counts:
            first = number_of_id(self._last) + 1
            assert [number_of_id(one) for one in ids] == list(range(first, first + len(batch)))
        self._last = ids[-1]
        for entry_id, entry in zip(ids, batch, strict=True):
            key = EntryKey(entry.partition, entry_id)
            expires = self._expiry(entry.ttl_seconds)
            self._keep(ModelEntry(key, entry.value, expires, entry.source, entry.path))

    @rule(data=st.data(), value=values, ttl=ttls, path=paths, source=sources)
    def put(
        self, data: st.DataObject, value: bytes, ttl: float | None, path: bytes, source: bytes
    ) -> None:
        """Store under one or two ids."""
        count = data.draw(st.integers(1, 2))
        keys = [EntryKey(data.draw(partitions), self._draw_id(data)) for _ in range(count)]
        self._run(
            self._node.logs.put(self._log, keys, value, ttl_seconds=ttl, path=path, source=source)
        )
        for key in keys:
            self._keep(ModelEntry(key, value, self._expiry(ttl), source, path))
            if self._counts:
                self._last = max(self._last, key.id)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Remove up to three by their keys."""
        count = data.draw(st.integers(1, 3))
        keys = {EntryKey(data.draw(partitions), self._draw_id(data)) for _ in range(count)}
        live = [key for key in keys if key in self._entries]
        live = [key for key in live if self._entries[key].expires > self._now]
        assert self._run(self._node.logs.remove(self._log, list(keys))) == len(live)
        for key in keys:
            self._entries.pop(key, None)

    @rule(data=st.data(), partition=partitions, is_all=st.booleans())
    def discard(self, data: st.DataObject, partition: int, is_all: bool) -> None:
        """Discard the oldest of a partition."""
        through = None if is_all else self._draw_id(data)
        self._run(self._node.logs.discard(self._log, through, partition))
        for key in list(self._entries):
            if key.partition == partition and (through is None or key.id <= through):
                del self._entries[key]

    @rule(step=seconds)
    def wait(self, step: float) -> None:
        """Let time pass, or step back; what was gone by then may be back, so it goes for good."""
        if step < 0:
            self._run(self._node.logs.count(self._log))
            gone = [key for key, one in self._entries.items() if one.expires <= self._now]
            for key in gone:
                del self._entries[key]
        self._now += step
        self._node.scripts.clock_seconds = self._now

    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        """Read some by their keys."""
        count = data.draw(st.integers(1, 4))
        keys = [EntryKey(data.draw(partitions), self._draw_id(data)) for _ in range(count)]
        found = self._run(self._node.logs.get(self._log, keys))
        live = {key: self._entries.get(key) for key in keys}
        assert [entry and seen(entry) for entry in found] == [
            one if (one := live[key]) and one.expires > self._now else None for key in keys
        ]

    @rule(
        data=st.data(),
        limit=st.integers(1, 4),
        inclusive=st.booleans(),
        newest_first=st.booleans(),
        partition=partitions,
        scope=st.sampled_from(Scope),
        wanted=paths.filter(bool),
        source=sources,
    )
    def read(
        self,
        data: st.DataObject,
        limit: int,
        inclusive: bool,
        newest_first: bool,
        partition: int,
        scope: Scope,
        wanted: bytes,
        source: bytes,
    ) -> None:
        """Read a range, page by page."""
        start = data.draw(st.none() | st.builds(lambda: self._draw_id(data)))
        expected = [
            entry
            for entry in self._live(partition)
            if (scope is Scope.PARTITION or is_within(scope, entry.path, wanted))
            and (not source or entry.source != source)
        ]
        if newest_first:
            expected.reverse()
        if start is not None:
            expected = [
                entry
                for entry in expected
                if (entry.key.id < start if newest_first else entry.key.id > start)
                or (inclusive and entry.key.id == start)
            ]
        query = Query(limit, start, inclusive, newest_first, scope, wanted, partition, source)
        found: list[ModelEntry] = []
        while True:
            page = self._run(self._node.logs.read(self._log, query))
            found += [seen(entry) for entry in page.entries]
            if page.is_complete:
                break
            assert len(page.entries) == limit
            query = query._replace(start=page.position, inclusive=False)
        assert found == expected

    @rule(offset=st.integers(-4, 4), partition=partitions)
    def find(self, offset: int, partition: int) -> None:
        """Find an entry by its place."""
        live = self._live(partition)
        expected = live[offset].key.id if -len(live) <= offset < len(live) else None
        found = self._run(self._node.logs.id_at_offset(self._log, offset, partition))
        assert found == expected

    @rule(client=st.sampled_from(["a", "b"]), start=st.sampled_from(Start))
    def subscribe(self, client: str, start: Start) -> None:
        """Give a client a cursor."""
        if not self._counts:
            return
        last, live = number_of_id(self._last), self._live(0)
        cursor = last
        if start is Start.EARLIEST and live:
            cursor = number_of_id(live[0].key.id) - 1
        elif start is Start.CURRENT:
            cursor = self._cursors.get(client, last)
        self._cursors[client] = cursor
        assert self._run(self._node.cursors.set(self._log, client, start)) == cursor

    @rule(client=st.sampled_from(["a", "b"]), count=st.integers(1, 4), kept=st.integers(0, 3))
    def read_on(self, client: str, count: int, kept: int) -> None:
        """Read beyond a cursor."""
        if not self._counts:
            return
        page = self._run(self._node.cursors.read(self._log, client, count, kept_count=kept))
        if client not in self._cursors:
            assert page is None
            return
        cursor = self._cursors[client]
        expected = [one for one in self._live(0) if number_of_id(one.key.id) > cursor][:count]
        assert page is not None
        assert [seen(entry) for entry in page.entries] == expected
        assert self._run(self._node.cursors.of_log(self._log)) == self._moved(client, expected)
        if page.position is not None:
            through = min(self._cursors.values()) - kept
            for key in list(self._entries):
                if key.partition == 0 and number_of_id(key.id) <= through:
                    del self._entries[key]

    def _moved(self, client: str, read: list[ModelEntry]) -> list[tuple[str, int]]:
        if read:
            self._cursors[client] = number_of_id(read[-1].key.id)
        return sorted(self._cursors.items(), key=lambda pair: (pair[1], pair[0]))

    @rule(client=st.sampled_from(["a", "b"]))
    def unsubscribe(self, client: str) -> None:
        """Take a cursor away."""
        if not self._counts:
            return
        had_one = self._cursors.pop(client, None) is not None
        assert self._run(self._node.cursors.remove(self._log, client)) is had_one
        if not had_one:
            return
        lowest = min(self._cursors.values(), default=None)
        for key in list(self._entries):
            if lowest is None or (key.partition == 0 and number_of_id(key.id) <= lowest):
                del self._entries[key]

    @invariant()
    def has_the_same_counts(self) -> None:
        """Count what is there."""
        if hasattr(self, "_node"):
            expected = [len(self._live(partition)) for partition in PARTITIONS]
            assert self._run(self._node.logs.count(self._log, PARTITIONS)) == expected


def run(redis_url: str, kind: IdKind) -> None:
    """Run the machine on a log of that kind."""

    class Machine(LogMachine):
        def __init__(self) -> None:
            super().__init__(redis_url, kind)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_a_log_that_counts_answers_as_its_model_does(redis_url: str) -> None:
    run(redis_url, IdKind.NUMBER)


def test_a_log_of_times_answers_as_its_model_does(redis_url: str) -> None:
    run(redis_url, IdKind.TIME)
