"""Consuming: every message once at a time, never more than prefetch, whatever breaks."""

import asyncio
import gc
import logging
from collections import Counter

import pytest

from restmq.client import AccessDenied, Client, InvalidInput, LeasedMessage
from restmq.client import consumer as consumer_module
from tests.client.cutter import Cutter
from tests.endpoints.conftest import OpenNode
from tests.support import eventually


async def test_messages_come_in_order_and_are_acknowledged(client: Client, fresh_name: str) -> None:
    """Those that wait, and those that are published meanwhile."""
    await client.publish_many(fresh_name, "ab")
    got = []
    async for message in client.consume(fresh_name):
        async with message:
            got.append(message.text)
            if message.text == "b":
                await client.publish(fresh_name, "c")
            if message.text == "c":
                break
    assert got == ["a", "b", "c"]
    stats = await client.stats(fresh_name)
    assert (stats.ready, stats.leased) == (0, 0)


async def test_no_more_than_prefetch_is_held(client: Client, fresh_name: str) -> None:
    """Those in hand, and those that nobody has looked at yet, together."""
    await client.publish_many(fresh_name, [str(number) for number in range(10)])
    async with client.consume(fresh_name, prefetch=3) as messages:
        iterator = aiter(messages)
        held = [await anext(iterator) for _ in range(3)]
        fourth = asyncio.ensure_future(anext(iterator))
        await asyncio.wait([fourth], timeout=0.2)
        assert not fourth.done()
        assert (await client.stats(fresh_name)).leased == 3
        await held[1].ack()
        assert (await fourth).text == "3"
        assert (await client.stats(fresh_name)).leased == 3
        await iterator.aclose()
    assert (await client.stats(fresh_name)).leased == 3  # what is in hand stays so


async def test_a_message_that_is_given_back_comes_again(client: Client, fresh_name: str) -> None:
    """With its attempt counted, until it is a dead letter."""
    await client.change_settings(fresh_name, max_attempts=3)
    await client.publish(fresh_name, "v")
    attempts = []
    async with client.consume(fresh_name, prefetch=5) as messages:
        async for message in messages:
            attempts.append(message.attempt)
            with pytest.raises(ZeroDivisionError):
                async with message:
                    print(1 / 0)
            if len(attempts) == 3:
                break
    assert attempts == [1, 2, 3]
    [letter] = await client.dead_letters(fresh_name)
    assert letter.attempts == 3


async def test_leaving_the_loop_gives_back_what_was_not_seen(
    client: Client, fresh_name: str
) -> None:
    """Also from a loop without a block; it counts as no attempt, and the order stays."""
    keys = await client.publish_many(fresh_name, "abcdef")
    async for message in client.consume(fresh_name, prefetch=4):
        await message.ack()
        break
    gc.collect()
    await eventually(lambda: _leased(client, fresh_name, 0))
    assert [(await client.message(key)).attempts for key in keys[1:]] == [0] * 5
    assert [message.text for message in await client.peek(fresh_name, 9)] == list("bcdef")


async def _leased(client: Client, queue: str, count: int) -> bool:
    return (await client.stats(queue)).leased == count


async def test_a_cancelled_loop_gives_back_what_it_held(client: Client, fresh_name: str) -> None:
    """The one in its block with its attempt, the others without."""
    keys = await client.publish_many(fresh_name, "abc")
    entered = asyncio.Event()

    async def work() -> None:
        async with client.consume(fresh_name, prefetch=3) as messages:
            async for message in messages:
                async with message:
                    entered.set()
                    await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [(await client.message(key)).attempts for key in keys] == [1, 0, 0]
    assert (await client.stats(fresh_name)).ready == 3


async def test_a_loop_that_waits_can_be_stopped_or_cancelled(
    client: Client, fresh_name: str
) -> None:
    """At once, and what comes later stays in the queue."""
    stopped = client.consume(fresh_name)

    async def drain(messages: consumer_module.Consumer) -> list[LeasedMessage]:
        return [message async for message in messages]

    tasks = [
        asyncio.create_task(drain(stopped)),
        asyncio.create_task(drain(client.consume(fresh_name))),
    ]
    await asyncio.wait(tasks, timeout=0.1)
    stopped.stop()
    assert await tasks[0] == []
    tasks[1].cancel()
    await asyncio.wait(tasks)
    key = await client.publish(fresh_name, "v")
    await eventually(lambda: _leased(client, fresh_name, 0))
    assert (await client.message(key)).state == "ready"


async def test_a_stopped_loop_lets_those_in_hand_finish(client: Client, fresh_name: str) -> None:
    """Their leases are extended until they are settled; the rest goes back."""
    await client.publish_many(fresh_name, "ab")
    async with client.consume(fresh_name, prefetch=2, lease_seconds=1) as messages:
        message = await anext(aiter(messages))
        messages.stop()
    other = await client.lease(fresh_name, wait_seconds=0)
    assert other is not None
    assert other.text == "b"
    assert await client.lease(fresh_name, wait_seconds=1.6) is None
    await message.ack()


async def test_a_slow_handler_keeps_its_lease_and_those_that_wait(
    client: Client, fresh_name: str
) -> None:
    """One second of lease, two of work: nothing is delivered twice."""
    await client.publish_many(fresh_name, "abc")
    async with client.consume(fresh_name, prefetch=3, lease_seconds=1) as messages:
        iterator = aiter(messages)
        first = await anext(iterator)
        assert await client.lease(fresh_name, wait_seconds=2.2) is None
        attempts = [first.attempt]
        await first.ack()
        for _ in range(2):
            message = await anext(iterator)
            attempts.append(message.attempt)
            await message.ack()
        await iterator.aclose()
    assert attempts == [1, 1, 1]
    assert (await client.stats(fresh_name)).leased == 0


async def test_a_delivery_that_comes_again_while_in_hand_is_the_same_one(
    cut_client: Client, client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """The server was away for longer than the lease: the handler goes on and can ack."""
    await client.publish(fresh_name, "v")
    async with cut_client.consume(fresh_name, prefetch=2, lease_seconds=1) as messages:
        iterator = aiter(messages)
        message = await anext(iterator)
        cutter.is_refusing = True
        cutter.cut_all()
        await eventually(lambda: _leased(client, fresh_name, 0))
        cutter.is_refusing = False
        following = asyncio.ensure_future(anext(iterator))
        await eventually(lambda: message.attempt == 2)
        assert not following.done()
        assert not message.is_lost
        await message.ack()
        await client.publish(fresh_name, "next")
        assert (await following).text == "next"
        await iterator.aclose()


async def test_a_paused_queue_hands_out_nothing(client: Client, fresh_name: str) -> None:
    """Until it is resumed; then the loop that waits goes on."""
    await client.pause(fresh_name)
    await client.publish(fresh_name, "v")
    async with client.consume(fresh_name) as messages:
        first = asyncio.ensure_future(anext(aiter(messages)))
        await asyncio.wait([first], timeout=0.2)
        assert not first.done()
        assert (await client.stats(fresh_name)).is_paused
        await client.resume(fresh_name)
        await (await first).ack()


async def test_several_consumers_share_a_queue(client: Client, fresh_name: str) -> None:
    """Each message comes to one of them, whatever the policy, with many handlers each."""
    count = 300
    await client.publish_many(fresh_name, [str(number) for number in range(count)])
    handled: Counter[str] = Counter()
    at_once: Counter[str] = Counter()

    async def handle(message: LeasedMessage) -> None:
        async with message:
            at_once[message.text] += 1
            assert at_once[message.text] == 1
            await asyncio.sleep(0)
            at_once[message.text] -= 1
        handled[message.text] += 1

    consumers = [client.consume(fresh_name, prefetch=10) for _ in range(4)]

    async def work(messages: consumer_module.Consumer) -> None:
        async with asyncio.TaskGroup() as group:
            async for message in messages:
                group.create_task(handle(message))

    async with asyncio.TaskGroup() as group:
        for messages in consumers:
            group.create_task(work(messages))
        await eventually(lambda: handled.total() == count)
        for messages in consumers:
            messages.stop()
    assert set(handled.values()) == {1}


async def test_what_many_handlers_give_back_comes_again_at_once(
    client: Client, fresh_name: str
) -> None:
    """Though it is delivered again before they know that it went back."""
    count = 200
    await client.publish_many(fresh_name, [str(number) for number in range(count)])
    messages = client.consume(fresh_name, prefetch=20, lease_seconds=1000)
    attempts: Counter[int] = Counter()

    async def handle(message: LeasedMessage) -> None:
        await (message.nack() if message.attempt < 3 else message.ack())

    async with asyncio.TaskGroup() as group, messages:
        async for message in messages:
            attempts[message.attempt] += 1
            group.create_task(handle(message))
            if attempts.total() == 3 * count:
                break
    assert attempts == {1: count, 2: count, 3: count}
    stats = await client.stats(fresh_name)
    assert (stats.ready, stats.leased, stats.dead) == (0, 0, 0)


async def test_what_comes_again_before_its_return_is_confirmed_is_handed_out(
    cut_client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """The answer to the nack is lost, and the next delivery is there before the repeated one."""
    await cut_client.publish(fresh_name, "v")
    async with cut_client.consume(fresh_name, prefetch=2, lease_seconds=1000) as messages:
        iterator = aiter(messages)
        message = await anext(iterator)
        following = asyncio.ensure_future(anext(iterator))
        await asyncio.wait([following], timeout=0.2)  # so that it has asked
        cutter.answers_to_lose = 1
        await message.nack()
        assert cutter.lost_count == 1
        async with asyncio.timeout(20):
            again = await following
        assert (again.key, again.attempt, message.attempt) == (message.key, 2, 1)
        await again.ack()
        await iterator.aclose()


async def test_a_loop_that_settles_nothing_is_told(
    client: Client,
    fresh_name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits for ever, so the log says why."""
    monkeypatch.setattr(consumer_module, "FORGOTTEN_SECONDS", 0.05)
    await client.publish_many(fresh_name, "ab")

    async def forget() -> None:
        async for _ in client.consume(fresh_name):
            pass

    with caplog.at_level(logging.WARNING, "restmq.client"):
        task = asyncio.create_task(forget())
        await eventually(lambda: "were they forgotten" in caplog.text)
        task.cancel()
        await asyncio.wait([task])


async def test_what_cannot_be_consumed_is_told(open_node: OpenNode, fresh_name: str) -> None:
    """Refusals are no reason to try again."""
    async with (
        open_node("[comet:consumer]\nhosts_deny = all") as node,
        Client(node.url) as client,
    ):
        with pytest.raises(AccessDenied):
            await anext(aiter(client.consume(fresh_name)))
        for prefetch in (0, 1001):
            with pytest.raises(InvalidInput):
                client.consume(fresh_name, prefetch=prefetch)
        with pytest.raises(InvalidInput):
            client.consume("")


async def test_breaks_between_messages_go_unnoticed(
    cut_client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """Connections are cut while it waits, while messages come, and while they are settled."""
    got: list[str] = []

    async def work() -> None:
        async for message in cut_client.consume(fresh_name, prefetch=3, lease_seconds=1):
            async with message:
                got.append(message.text)

    async with Client(cut_client.url) as publisher:
        task = asyncio.create_task(work())
        for number in range(12):
            await publisher.publish(fresh_name, str(number))
            if number % 3 == 0:
                cutter.cut_all()
            elif number % 3 == 1:
                cutter.answers_to_lose = 1
        await eventually(lambda: set(got) == {str(number) for number in range(12)}, 30)
        task.cancel()
        await asyncio.wait([task])
