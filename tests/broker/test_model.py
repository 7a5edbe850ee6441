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

Answer = TypeVar("Answer")
Pair = tuple[int, bytes]

EXAMPLES = 200
STEPS = 40
NOON = 1_700_000_000.0

values = st.binary(max_size=20)
counts = st.integers(1, 5)
numbers = st.integers(1, 30)


class ModelMessage:
    """A message as the model sees it."""

    def __init__(self, number: int, value: bytes, expires: float) -> None:
        self.number = number
        self.value = value
        self.expires = expires
        self.looks = 0

    @property
    def pair(self) -> Pair:
        """Return what a consumer sees."""
        return self.number, self.value


def pairs(messages: list[Message]) -> list[Pair]:
    """Return what a consumer sees of real messages."""
    return [(message.number, message.value) for message in messages]


class QueueMachine(RuleBasedStateMachine):
    """Does the same to a queue of a real broker and to a list."""

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self._redis_url = redis_url
        self._runner = asyncio.Runner()
        self._queue = f"model-{uuid.uuid4().hex}"
        self._now = NOON
        self._last_number = 0
        self._waiting: list[ModelMessage] = []
        self._popped: set[int] = set()
        self._held: list[tuple[list[Message], list[ModelMessage]]] = []
        """What was taken and may still be given back."""

    @initialize()
    def open(self) -> None:
        """Open a broker on this machine's own event loop."""

        async def opened() -> Broker:
            broker = Broker(self._redis_url)
            await broker.open()
            return broker

        self._broker = self._run(opened())
        self._broker.scripts.clock_seconds = self._now

    def teardown(self) -> None:
        """Close what ``open`` opened."""
        if hasattr(self, "_broker"):
            self._run(self._broker.close())
        self._runner.close()

    def _run(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return self._runner.run(coroutine)

    def _live(self) -> list[ModelMessage]:
        return [message for message in self._waiting if message.expires > self._now]

    @rule(value=values, ttl_seconds=st.none() | st.integers(1, 4))
    def add(self, value: bytes, ttl_seconds: int | None) -> None:
        """Add one message."""
        self._last_number += 1
        expires = float("inf") if ttl_seconds is None else self._now + ttl_seconds
        self._waiting.append(ModelMessage(self._last_number, value, expires))
        added = self._broker.add(self._queue, value, ttl_seconds=ttl_seconds)
        assert self._run(added) == self._last_number

    @rule(batch=st.lists(values, min_size=2, max_size=5))
    def add_at_once(self, batch: list[bytes]) -> None:
        """Add several in one round trip."""

        async def added() -> list[int]:
            adds = (self._broker.add(self._queue, value) for value in batch)
            return list(await asyncio.gather(*adds))

        first = self._last_number + 1
        for value in batch:
            self._last_number += 1
            self._waiting.append(ModelMessage(self._last_number, value, float("inf")))
        assert self._run(added()) == list(range(first, self._last_number + 1))

    @rule(count=counts, remembered=st.booleans())
    def take(self, count: int, remembered: bool) -> None:
        """Take some, so that a later delete knows them or not."""
        expected = self._live()[:count]
        call = self._broker.pop if remembered else self._broker.take
        taken = self._run(call(self._queue, count))
        assert pairs(taken) == [message.pair for message in expected]
        for message in expected:
            self._waiting.remove(message)
            if remembered:
                self._popped.add(message.number)
        if taken:
            self._held.append((taken, expected))

    @precondition(lambda self: self._held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """Give back what was taken in one go."""
        index = data.draw(st.integers(0, len(self._held) - 1))
        taken, expected = self._held.pop(index)
        self._broker.give_back(self._queue, taken)
        back = [message for message in expected if message.expires > self._now]
        for message in back:
            message.looks = 0
            self._popped.discard(message.number)
        self._waiting[:0] = back

    @rule()
    def get(self) -> None:
        """Look at the oldest."""
        looked = self._run(self._broker.get(self._queue))
        live = self._live()
        if not live:
            assert looked is None
            return
        live[0].looks += 1
        assert looked is not None
        assert (looked[0].number, looked[0].value, looked[1]) == (*live[0].pair, live[0].looks)

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        """Delete by number, be it waiting, popped, gone, or never given."""
        live = {message.number: message for message in self._live()}
        expected = number in live or number in self._popped
        if number in live:
            self._waiting.remove(live[number])
        else:
            self._popped.discard(number)
        assert self._run(self._broker.delete(self._queue, number)) is expected

    @rule()
    def purge(self) -> None:
        """Empty the queue."""
        expected = bool(self._live())
        assert self._run(self._broker.purge(self._queue)) is expected
        self._waiting.clear()
        self._popped.clear()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
        self._broker.scripts.clock_seconds = self._now

    @rule(count=counts, newest=st.booleans())
    def peek(self, count: int, newest: bool) -> None:
        """List one end."""
        live = self._live()
        expected = live[::-1][:count] if newest else live[:count]
        listed = self._run(self._broker.peek(self._queue, count, newest=newest))
        assert pairs(listed) == [message.pair for message in expected]

    @invariant()
    def has_the_same_length(self) -> None:
        """Count what waits."""
        if hasattr(self, "_broker"):
            assert self._run(self._broker.stats(self._queue)).length == len(self._live())


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
