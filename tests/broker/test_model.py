"""A queue against a model of it: whatever is done in whatever order, both answer the same."""

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from restmq.broker.broker import Broker
from restmq.broker.message import Message
from restmq.broker.receipts import Receipt
from restmq.errors import Conflict, NotFound, QueueFull, StaleReceipt
from tests.broker.invariants import check_keys
from tests.broker.queue_model import ModelMessage, QueueModel
from tests.broker.steps import publish

Answer = TypeVar("Answer")

EXAMPLES = 150
STEPS = 40
NOON = 1_700_000_000.0
LEASE_SECONDS = 30

values = st.binary(max_size=20)
counts = st.integers(1, 5)
numbers = st.integers(1, 30)
priorities = st.sampled_from([4, 4, 4, 0, 3, 5, 9])
delays = st.sampled_from([0, 0.5, 2, 3])


def pairs(messages: list[Message]) -> list[tuple[int, bytes]]:
    """Return what a consumer sees of real messages."""
    return [(message.number, message.value) for message in messages]


class QueueMachine(RuleBasedStateMachine):
    """Does the same to a queue of a real broker and to a model of one."""

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self._redis_url = redis_url
        self._runner = asyncio.Runner()
        self._queue = f"model-{uuid.uuid4().hex}"
        self._taken: list[tuple[list[Message], list[ModelMessage]]] = []
        """What was taken and may still be given back."""
        self._receipts: list[tuple[Receipt, int]] = []
        """All receipts that there ever were, and what the model calls these leases."""

    @initialize(
        max_attempts=st.sampled_from([0, 1, 2, 3]),
        limit=st.none() | st.tuples(st.integers(1, 6), st.sampled_from(["reject", "drop-oldest"])),
        dead_letter=st.booleans(),
        ttl=st.none() | st.integers(1, 4),
        delay=st.sampled_from([0, 0, 1.5]),
        dedupe_seconds=st.sampled_from([0, 2, 300]),
    )
    def open(
        self,
        max_attempts: int,
        limit: tuple[int, str] | None,
        dead_letter: bool,
        ttl: int | None,
        delay: float,
        dedupe_seconds: float,
    ) -> None:
        """Open a broker on this machine's own event loop, and set the queue up."""
        max_length, overflow = limit or (None, "reject")
        if overflow == "drop-oldest" and dead_letter:
            overflow = "dead-letter"
        changes = {
            "max_attempts": max_attempts,
            "max_length": max_length,
            "overflow": overflow,
            "ttl": ttl,
            "delay": delay,
            "dedupe_seconds": dedupe_seconds,
        }
        self._model = QueueModel(NOON, **changes)  # type: ignore[arg-type]

        async def opened() -> Broker:
            broker = Broker(self._redis_url)
            broker.scripts.clock_seconds = NOON
            await broker.open()
            await broker.configuration.change(self._queue, changes)
            return broker

        self._broker = self._run(opened())

    def teardown(self) -> None:
        """Close what ``open`` opened."""
        if hasattr(self, "_broker"):
            self._run(self._broker.close())
        self._runner.close()

    def _run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(coroutine)

    @rule(
        batch=st.lists(values, min_size=1, max_size=4),
        priority=priorities,
        ttl=st.none() | st.integers(1, 4),
        when=st.none() | st.tuples(st.sampled_from(["delay_seconds", "at"]), delays),
        key=st.none() | st.sampled_from(["one", "two"]),
    )
    def add_batch(
        self,
        batch: list[bytes],
        priority: int,
        ttl: int | None,
        when: tuple[str, float] | None,
        key: str | None,
    ) -> None:
        """Add a batch."""
        way, seconds = when or ("", 0)
        at = self._model.now + seconds if way == "at" else None
        delay = seconds if way == "delay_seconds" else None
        expected = self._model.add(batch, priority, ttl, delay, at, key)
        publishing = publish(
            self._broker,
            self._queue,
            batch,
            priority=priority,
            ttl_seconds=ttl,
            delay_seconds=delay,
            at=at,
            idempotency_key=key,
        )
        try:
            added = self._run(publishing)
        except QueueFull:
            assert expected is None
        else:
            assert (added.number, added.total, added.is_duplicate) == expected

    @rule(batch=st.lists(values, min_size=2, max_size=6))
    def add_at_once(self, batch: list[bytes]) -> None:
        """Add several by as many publishers in one round trip."""

        async def added() -> list[int | BaseException]:
            adds = (self._broker.add(self._queue, value) for value in batch)
            return list(await asyncio.gather(*adds, return_exceptions=True))

        expected = [self._model.add([value]) for value in batch]
        for answer, outcome in zip(self._run(added()), expected, strict=True):
            assert outcome[0] == answer if outcome else isinstance(answer, QueueFull)

    @rule(count=counts, remembered=st.booleans())
    def take(self, count: int, remembered: bool) -> None:
        """Take some, so that a later delete knows them or not."""
        expected = self._model.take(count, remembered)
        call = self._broker.pop if remembered else self._broker.take
        taken = self._run(call(self._queue, count))
        assert pairs(taken) == [message.pair for message in expected]
        if taken:
            self._taken.append((taken, expected))

    @precondition(lambda self: self._taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """Give back what was taken in one go."""
        taken, expected = self._taken.pop(data.draw(st.integers(0, len(self._taken) - 1)))
        self._broker.give_back(self._queue, taken)
        self._model.give_back(expected)

    @rule(count=counts, seconds=st.none() | st.sampled_from([1, 2, 5]))
    def lease(self, count: int, seconds: int | None) -> None:
        """Lease some."""
        expected = self._model.lease(count, seconds or LEASE_SECONDS)
        leased = self._run(self._broker.lease(self._queue, count, seconds))
        assert pairs(list(leased)) == [message.pair for message in expected]
        for message, model in zip(leased, expected, strict=True):
            assert (message.attempt, message.lease_expires) == (model.attempts, model.until)
            receipt = Receipt(self._queue, message.number, message.token)
            self._receipts.append((receipt, model.lease))

    @precondition(lambda self: self._receipts)
    @rule(
        data=st.data(),
        verb=st.sampled_from(["ack", "ack", "extend", "keep", "release", "release", "bury"]),
        seconds=st.sampled_from([1, 3]),
        delay=delays,
    )
    def settle(self, data: st.DataObject, verb: str, seconds: int, delay: float) -> None:
        """Settle any delivery that there ever was."""
        # The last ones are mostly those that are still held.
        place = data.draw(st.integers(0, min(len(self._receipts), 8) - 1))
        receipt, lease = self._receipts[-1 - place]
        broker = self._broker
        ways: dict[str, tuple[Coroutine[Any, Any, object], float | str]] = {
            "ack": (broker.ack(receipt), 0),
            "extend": (broker.extend(receipt, seconds), seconds),
            "keep": (broker.release(receipt, keep_attempt=True), 0),
            "release": (broker.release(receipt, delay), delay),
            "bury": (broker.bury(receipt, "no good"), "no good"),
        }
        chosen, argument = ways.pop(verb)
        for unused, _ in ways.values():
            unused.close()
        expected = self._model.settle(receipt.number, lease, verb, argument)
        try:
            self._run(chosen)
        except StaleReceipt:
            assert not expected
        else:
            assert expected

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]), visited=st.booleans())
    def wait(self, seconds: float, visited: bool) -> None:
        """Let time pass, and have some node look at what is due, or not."""
        self._model.pass_time(seconds)
        self._broker.scripts.clock_seconds = self._model.now
        if visited:
            self._run(self._broker._stores.disk._visit(self._queue))

    @rule()
    def get(self) -> None:
        """Look at the next."""
        looked = self._run(self._broker.get(self._queue))
        ready = self._model.in_state("ready")
        if not ready:
            assert looked is None
            return
        ready[0].looks += 1
        assert looked is not None
        assert (looked[0].number, looked[0].value, looked[1]) == (*ready[0].pair, ready[0].looks)

    @rule(count=counts, newest=st.booleans())
    def peek(self, count: int, newest: bool) -> None:
        """List one end."""
        ready = self._model.in_state("ready")
        expected = ready[::-1][:count] if newest else ready[:count]
        listed = self._run(self._broker.peek(self._queue, count, newest=newest))
        assert pairs(listed) == [message.pair for message in expected]

    @rule(number=numbers)
    def inspect(self, number: int) -> None:
        """Look at one message wherever it is."""
        expected = self._model.find(number)
        try:
            found = self._run(self._broker.inspect(self._queue, number))
        except NotFound:
            assert expected is None
            return
        assert expected is not None
        assert (found.state, found.attempts) == (expected.state, expected.attempts)
        assert (found.message.value, found.message.priority) == (expected.value, expected.priority)
        assert found.last_error == expected.reason
        if expected.state in ("leased", "delayed"):
            assert found.since_or_until == expected.until

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        """Delete by number, be it anywhere, popped, gone, or never given."""
        expected = self._model.delete(number)
        assert self._run(self._broker.delete(self._queue, number)) is expected

    @rule(number=numbers, priority=priorities)
    def set_priority(self, number: int, priority: int) -> None:
        """Change how urgent a message is."""
        message = self._model.find(number)
        expected: type[Exception] | None = None
        if message is None:
            expected = NotFound
        elif message.state in ("leased", "dead"):
            expected = Conflict
        else:
            message.priority = priority
        self._changes(self._broker.set_priority(self._queue, number, priority), expected)

    @rule(number=numbers, seconds=delays, absolute=st.booleans())
    def reschedule(self, number: int, seconds: float, absolute: bool) -> None:
        """Change when a message becomes ready."""
        message = self._model.find(number)
        expected: type[Exception] | None = None
        until = self._model.now + seconds
        if message is None:
            expected = NotFound
        elif message.state != "delayed":
            expected = Conflict
        else:
            message.until, message.state = until, "delayed" if seconds else "ready"
        at, delay = (until, None) if absolute else (None, seconds)
        change = self._broker.reschedule(self._queue, number, delay_seconds=delay, at=at)
        self._changes(change, expected)

    def _changes(self, change: Coroutine[Any, Any, None], expected: type[Exception] | None) -> None:
        raised: type[Exception] | None = None
        try:
            self._run(change)
        except (NotFound, Conflict) as error:
            raised = type(error)
        assert raised is expected

    @rule(number=st.none() | numbers)
    def redrive(self, number: int | None) -> None:
        """Put one or all dead letters back."""
        dead = [m for m in self._model.in_state("dead") if number in (None, m.number)]
        self._model.redrive(dead)
        redriven = self._run(self._broker.dead_letters.redrive(self._queue, number=number))
        assert redriven == len(dead)

    @rule()
    def drop(self) -> None:
        """Throw the dead letters away."""
        expected = len(self._model.in_state("dead"))
        self._model.drop()
        assert self._run(self._broker.dead_letters.drop(self._queue)) == expected

    @rule()
    def list_dead(self) -> None:
        """List the dead letters."""
        listed = self._run(self._broker.dead_letters.list(self._queue, 100))
        seen = sorted((d.message.number, d.message.value, d.attempts, d.reason) for d in listed)
        dead = self._model.in_state("dead")
        assert seen == sorted((*m.pair, m.attempts, m.reason or "") for m in dead)
        assert [d.died for d in listed] == sorted(d.died for d in listed)

    @rule()
    def purge(self) -> None:
        """Empty the queue."""
        expected = self._model.purge()
        assert self._run(self._broker.purge(self._queue)) is expected

    @invariant()
    def agrees(self) -> None:
        """Count what there is in every state, and look at the keys themselves."""
        if not hasattr(self, "_broker"):
            return
        stats = self._run(self._broker.stats(self._queue))
        counted = {
            "ready": stats.length,
            "delayed": stats.delayed,
            "leased": stats.leased,
            "dead": stats.dead,
        }
        assert counted == {state: len(self._model.in_state(state)) for state in counted}
        self._run(check_keys(self._broker, self._queue))


def test_whatever_is_done_to_a_queue_it_answers_as_its_model_does(redis_url: str) -> None:
    class Machine(QueueMachine):
        def __init__(self) -> None:
            super().__init__(redis_url)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
