"""Group commit: many operations become few calls, and nobody suffers for another."""

import asyncio
import contextlib
from collections.abc import Awaitable

import pytest

from restmq.broker import commit
from restmq.broker.broker import Broker
from restmq.broker.log_entry import NewEntry, Query, make_log
from restmq.broker.log_ids import IdKind
from restmq.broker.measures import Measures
from restmq.broker.message import Message, pack
from restmq.broker.scripts import Operation
from restmq.errors import Overloaded, StoreUnavailable
from tests.broker.conftest import MakeBroker, MakeFaultyBroker
from tests.broker.fakes import (
    all_at_once,
)
from tests.broker.steps import (
    add_all,
    drain,
    values_of,
)

MEBIBYTE = 1024 * 1024


class TestGrouping:
    async def test_adds_that_wait_together_leave_in_one_call_in_the_order_they_came(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"first")
        backend.round_trips.clear()
        values = [b"%d" % index for index in range(2000)]
        assert await add_all(broker, fresh_name, *values) == list(range(2, 2002))
        assert backend.calls_named("add") <= 3
        assert values_of(await drain(broker, fresh_name)) == [b"first", *values]

    async def test_takes_that_wait_together_leave_in_one_call_and_share_in_the_order_they_came(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await add_all(broker, fresh_name, *[b"%d" % index for index in range(300)])
        backend.round_trips.clear()
        shares = await asyncio.gather(*(broker.take(fresh_name) for _ in range(310)))
        assert backend.calls_named("take") <= 3
        assert [[m.value for m in share] for share in shares[:300]] == [
            [b"%d" % index] for index in range(300)
        ]
        assert shares[300:] == [[]] * 10

    async def test_operations_on_many_queues_share_one_round_trip(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        names = [f"{fresh_name}-{index}" for index in range(50)]
        operations = [broker.add(name, b"value") for name in names]
        backend.round_trips.clear()
        assert await asyncio.gather(*operations) == [1] * 50
        assert len(backend.round_trips) <= 3

    async def test_what_arrives_during_a_round_trip_leaves_with_the_next(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"0")
        backend.round_trips.clear()
        first = await all_at_once(backend, [broker.add(fresh_name, b"1")])
        rest = await all_at_once(
            backend, [broker.add(fresh_name, b"%d" % index) for index in range(2, 500)]
        )
        backend.gate.set()
        assert await first == [2]
        assert await rest == list(range(3, 501))
        assert len(backend.round_trips) == 2

    async def test_one_operation_after_another_on_one_queue_sees_what_the_one_before_did(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, _ = await make_faulty_broker()
        for round_number in range(20):
            value = b"%d" % round_number
            added = asyncio.ensure_future(broker.add(fresh_name, value))
            await asyncio.sleep(0)
            taken = asyncio.ensure_future(broker.take(fresh_name))
            await added
            assert [message.value for message in await taken] == [value]


class TestBigBodies:
    async def test_bodies_beyond_one_batch_go_in_several_and_keep_their_order(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"small")
        backend.round_trips.clear()
        values = [bytes([65 + index]) * (4 * MEBIBYTE - 3) for index in range(5)]
        assert await add_all(broker, fresh_name, *values) == [2, 3, 4, 5, 6]
        assert backend.calls_named("add") == 3
        taken = await asyncio.gather(*(broker.take(fresh_name) for _ in range(6)))
        assert [share[0].value for share in taken] == [b"small", *values]

    async def test_one_take_gives_no_more_than_a_batch_of_bytes_and_loses_none(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, _ = await make_faulty_broker()
        # By the first ones nobody could tell how big the others are.
        values = [b"small", b"small", *(b"%d" % n * (3 * MEBIBYTE) for n in range(7))]
        await add_all(broker, fresh_name, *values)
        taken: list[bytes] = []
        while len(taken) < len(values):
            share = await broker.take(fresh_name, 100)
            assert share
            assert sum(len(message.record) for message in share[:-1]) < commit.MAX_BATCH_BYTES
            taken += [message.value for message in share]
        assert taken == values
        assert await broker.take(fresh_name) == []

    async def test_takers_who_wait_together_for_big_bodies_are_all_served(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, _ = await make_faulty_broker()
        values = [bytes([65 + index]) * (3 * MEBIBYTE) for index in range(9)]
        await add_all(broker, fresh_name, *values)
        shares = await asyncio.gather(*(broker.pop(fresh_name) for _ in range(10)))
        assert [m.value for share in shares for m in share] == values
        assert [len(share) for share in shares] == [1] * 9 + [0]

    async def test_a_body_beyond_a_whole_batch_is_carried_alone(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(commit, "MAX_BATCH_BYTES", 1000)
        broker, _ = await make_faulty_broker()
        values = [b"a" * 10, b"b" * 5000, b"c" * 10, b"d" * 5000, b"e" * 990]
        await add_all(broker, fresh_name, *values)
        assert values_of(await drain(broker, fresh_name)) == values

    async def test_a_list_of_big_bodies_is_cut_short(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, _ = await make_faulty_broker()
        values = [bytes([65 + index]) * (3 * MEBIBYTE) for index in range(5)]
        await add_all(broker, fresh_name, *values)
        assert [m.value for m in await broker.peek(fresh_name, 9)] == values[:3]
        newest = await broker.peek(fresh_name, 9, newest=True)
        assert [m.value for m in newest] == values[:1:-1]


class TestLimits:
    async def test_an_operation_too_many_is_refused_and_the_rest_are_done(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"first")
        await broker.ping()  # what a first message brings with it is done by then
        monkeypatch.setattr(commit, "MAX_PENDING_OPERATIONS", 10)
        adds: list[Awaitable[object]] = [broker.add(fresh_name, b"%d" % n) for n in range(30)]
        started = await all_at_once(backend, adds)
        for refused in (broker.take(fresh_name), broker.stats(fresh_name), broker.ping()):
            with pytest.raises(Overloaded):
                await refused
        backend.gate.set()
        outcomes = await started
        assert outcomes[:10] == list(range(2, 12))
        assert all(isinstance(outcome, Overloaded) for outcome in outcomes[10:])
        assert await broker.add(fresh_name, b"last") == 12
        values = [b"first", *[b"%d" % n for n in range(10)], b"last"]
        assert values_of(await drain(broker, fresh_name)) == values

    async def test_a_body_too_many_is_refused_and_what_carries_none_still_passes(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"first")
        monkeypatch.setattr(commit, "MAX_PENDING_BYTES", 10_000)
        adds: list[Awaitable[object]] = [broker.add(fresh_name, b"a" * 997) for _ in range(12)]
        started = await all_at_once(backend, adds)
        statistics = asyncio.ensure_future(broker.stats(fresh_name))
        backend.gate.set()
        outcomes = await started
        assert outcomes[:10] == list(range(2, 12))
        assert [type(outcome) for outcome in outcomes[10:]] == [Overloaded] * 2
        assert (await statistics).length == 11
        assert await broker.add(fresh_name, b"a" * 9_997) == 12

    async def test_a_refused_first_message_does_not_make_its_queue_known(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker, backend = await make_faulty_broker()
        monkeypatch.setattr(commit, "MAX_PENDING_OPERATIONS", 1)
        started = await all_at_once(backend, [broker.add(fresh_name, b"value")])
        backend.gate.set()
        (outcome,) = await started
        monkeypatch.undo()
        if isinstance(outcome, Overloaded):
            assert fresh_name not in await broker.list_queues(fresh_name[:-1])
            assert (await broker.stats(fresh_name)).length == 0
        else:
            assert outcome == 1
            assert fresh_name in await broker.list_queues(fresh_name[:-1])

    async def test_operations_after_a_failure_have_the_same_room_as_before(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"first")
        await broker.ping()  # what a first message brings with it is done by then
        monkeypatch.setattr(commit, "MAX_PENDING_OPERATIONS", 10)
        monkeypatch.setattr(commit, "MAX_PENDING_BYTES", 10_000)
        backend.loses = lambda names: "add" in names
        for _ in range(3):
            adds: list[Awaitable[object]] = [broker.add(fresh_name, b"a" * 900) for _ in range(10)]
            started = await all_at_once(backend, adds)
            backend.gate.set()
            assert [type(outcome) for outcome in await started] == [StoreUnavailable] * 10
        backend.loses = lambda names: False
        assert len(await add_all(broker, fresh_name, *[b"a" * 900] * 10)) == 10


class TestCancelling:
    async def test_the_share_of_a_taker_who_left_falls_to_the_next_in_line(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await add_all(broker, fresh_name, b"a", b"b")
        backend.gate.clear()
        takers = [asyncio.ensure_future(broker.take(fresh_name)) for _ in range(4)]
        for _ in range(20):
            await asyncio.sleep(0)
        takers[0].cancel()
        takers[2].cancel()
        backend.gate.set()
        outcomes = await asyncio.gather(*takers, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert isinstance(outcomes[2], asyncio.CancelledError)
        served = [outcome for outcome in outcomes if isinstance(outcome, list)]
        assert [[m.value for m in share] for share in served] == [[b"a"], [b"b"]]

    @pytest.mark.parametrize("way", ["pop", "take"])
    async def test_without_a_next_in_line_it_goes_back_to_the_head(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str, way: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await add_all(broker, fresh_name, b"a", b"b", b"c")
        call = broker.pop if way == "pop" else broker.take
        backend.gate.clear()
        takers = [asyncio.ensure_future(call(fresh_name)) for _ in range(3)]
        for _ in range(20):
            await asyncio.sleep(0)
        for taker in takers[:2]:
            taker.cancel()
        backend.gate.set()
        outcomes = await asyncio.gather(*takers, return_exceptions=True)
        assert isinstance(outcomes[2], list)
        assert [m.value for m in outcomes[2]] == [b"a"]
        assert values_of(await drain(broker, fresh_name)) == [b"b", b"c"]

    async def test_wherever_a_taker_is_cancelled_its_messages_are_still_there(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, _ = await make_faulty_broker()
        await add_all(broker, fresh_name, *[b"%d" % index for index in range(10)])
        for turns in range(60):
            taker = asyncio.ensure_future(broker.take(fresh_name, 3))
            for _ in range(turns):
                await asyncio.sleep(0)
            if taker.cancel():
                with contextlib.suppress(asyncio.CancelledError):
                    await taker
            else:
                broker.give_back(fresh_name, taker.result())
        assert values_of(await drain(broker, fresh_name)) == [b"%d" % index for index in range(10)]

    async def test_a_publisher_who_left_has_its_message_stored_or_not_but_harms_no_other(
        self, make_faulty_broker: MakeFaultyBroker, fresh_name: str
    ) -> None:
        broker, backend = await make_faulty_broker()
        await broker.add(fresh_name, b"0")
        backend.gate.clear()
        adds = [asyncio.ensure_future(broker.add(fresh_name, b"%d" % n)) for n in (1, 2, 3)]
        for _ in range(20):
            await asyncio.sleep(0)
        adds[1].cancel()
        backend.gate.set()
        numbers = await asyncio.gather(*adds, return_exceptions=True)
        stored = {m.number: m.value for m in await broker.peek(fresh_name, 9)}
        for index in (0, 2):
            number = numbers[index]
            assert isinstance(number, int)
            assert stored[number] == b"%d" % (index + 1)


class TestCounting:
    async def test_what_cannot_be_counted_is_done_all_the_same(
        self,
        instance_broker: Broker,
        fresh_name: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def fail(*_: object) -> None:
            raise ValueError("no number")

        for name in ("note_published", "note_taken"):
            monkeypatch.setattr(Measures, name, fail)
        # Nobody made the queue, so this add is settled, but not done before that has been.
        queues = instance_broker._disk.queues
        added = await queues.add(fresh_name, Operation([pack(b"1")]), 1)
        assert added.number == 1
        assert values_of(await instance_broker.take(fresh_name)) == [b"1"]
        assert "no number" in caplog.text

    async def test_queues_but_no_logs_are_told_as_active_and_only_for_a_while(
        self, instance_broker: Broker, fresh_name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        broker, committer = instance_broker, instance_broker._disk.committer
        log = make_log(fresh_name, "log", IdKind.NUMBER)
        await broker.logs.append(log, NewEntry(b"value"))
        await broker.logs.read_once(log, Query(limit=1))
        await broker.add(fresh_name, b"1")
        await broker.take(f"{fresh_name}-2")
        assert committer.take_active() == [fresh_name, f"{fresh_name}-2"]
        monkeypatch.setattr(commit, "MAX_ACTIVE", 1)
        await broker.add(fresh_name, b"1")
        await broker.add(f"{fresh_name}-2", b"1")
        committer._active_since -= commit.ACTIVE_SECONDS  # as if that time had passed
        await broker.add(f"{fresh_name}-3", b"1")
        assert committer.take_active() == [f"{fresh_name}-3"]


class TestClosing:
    async def test_what_waits_is_done_before_a_broker_is_closed(
        self, redis_url: str, fresh_name: str
    ) -> None:
        broker = Broker(redis_url)
        await broker.open()
        await broker.add(fresh_name, b"the first")
        adds = [asyncio.ensure_future(broker.add(fresh_name, b"%d" % n)) for n in range(100)]
        await asyncio.sleep(0)
        await broker.close()
        assert sorted(await asyncio.gather(*adds)) == list(range(2, 102))

    async def test_what_was_given_back_at_the_last_moment_is_back(
        self, make_instance_broker: MakeBroker, redis_url: str, fresh_name: str
    ) -> None:
        broker, other = Broker(redis_url), await make_instance_broker()
        await broker.open()
        await add_all(broker, fresh_name, b"a", b"b")
        messages: list[Message] = await broker.take(fresh_name, 2)
        broker.give_back(fresh_name, messages)
        await broker.close()
        assert values_of(await drain(other, fresh_name)) == [b"a", b"b"]

    async def test_a_closed_broker_refuses_what_comes_later(
        self, redis_url: str, fresh_name: str
    ) -> None:
        async with Broker(redis_url) as broker:
            await broker.add(fresh_name, b"a")
        with pytest.raises(StoreUnavailable):
            await broker.add(fresh_name, b"b")
        with pytest.raises(StoreUnavailable):
            await broker.take(fresh_name)
