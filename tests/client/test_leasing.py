"""Leases: settled by their verbs and by blocks, extended while a block runs."""

import asyncio
from typing import Any

import pytest

from restmq.client import Client, ConnectionLost, InvalidInput, StaleReceipt, Unavailable
from tests.client.cutter import Cutter
from tests.support import eventually


async def state_of(client: Client, key: str) -> tuple[str, int]:
    """Return a message's state and its attempts."""
    found = await client.message(key)
    return found.state, found.attempts


async def test_a_block_acknowledges(client: Client, fresh_name: str) -> None:
    """What was handled is gone."""
    await client.publish(fresh_name, {"n": 1})
    async with client.lease(fresh_name) as message:
        assert (message.json(), message.attempt) == ({"n": 1}, 1)
        assert await state_of(client, message.key) == ("leased", 1)
        assert not message.is_settled
    assert message.is_settled
    stats = await client.stats(fresh_name)
    assert (stats.ready, stats.leased) == (0, 0)


async def test_a_block_that_raises_gives_back(client: Client, fresh_name: str) -> None:
    """Its error comes out, and the message comes again, at once or after a while."""
    key = await client.publish(fresh_name, "v")
    with pytest.raises(ZeroDivisionError):
        async with client.lease(fresh_name) as message:
            print(1 / len(message.value[1:]))
    assert await state_of(client, key) == ("ready", 1)
    with pytest.raises(KeyError):
        async with client.lease(fresh_name, retry_delay=1000) as message:
            raise KeyError(message.attempt)
    assert await state_of(client, key) == ("delayed", 2)


async def test_a_block_may_settle_by_itself(client: Client, fresh_name: str) -> None:
    """Then leaving it does nothing more."""
    keys = await client.publish_many(fresh_name, "abcd")
    async with client.lease(fresh_name) as message:
        await message.nack(delay=1000)
    async with client.lease(fresh_name) as message:
        await message.bury("no good")
    async with client.lease(fresh_name) as message:
        await message.ack()
        with pytest.raises(StaleReceipt, match="settled already"):
            await message.nack()

    async def settle_and_fail() -> None:
        async with client.lease(fresh_name) as message:
            await message.ack()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await settle_and_fail()
    assert await state_of(client, keys[0]) == ("delayed", 1)
    [letter] = await client.dead_letters(fresh_name)
    assert (letter.key, letter.reason) == (keys[1], "no good")
    assert (await client.stats(fresh_name)).leased == 0


async def test_cancelling_a_block_gives_back(client: Client, fresh_name: str) -> None:
    """Before the cancelled task has ended."""
    key = await client.publish(fresh_name, "v")
    entered = asyncio.Event()

    async def work() -> None:
        async with client.lease(fresh_name):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await state_of(client, key) == ("ready", 1)


async def test_a_lease_is_waited_for(client: Client, fresh_name: str) -> None:
    """For ever, or for a time after which there is none."""
    assert await client.lease(fresh_name, wait_seconds=0) is None
    async with client.lease(fresh_name, wait_seconds=0.05) as nothing:
        assert nothing is None
    assert await client.lease_many(fresh_name, 10) == []
    with pytest.raises(InvalidInput):
        await client.take(fresh_name, wait_seconds=-1)

    async def wait() -> str:
        async with client.lease(fresh_name) as message:
            return message.text

    waiting = asyncio.create_task(wait())
    taking = asyncio.create_task(client.take(fresh_name, wait_seconds=30))
    await client.publish_many(fresh_name, ["v", "v"])
    taken = await taking
    assert taken is not None
    assert (await waiting, taken.text) == ("v", "v")


async def test_cancelled_waiting_takes_nothing(client: Client, fresh_name: str) -> None:
    """What comes later is there for others."""
    waiting = [
        asyncio.ensure_future(client.take(fresh_name, wait_seconds=30)),
        asyncio.create_task(client.lease_many(fresh_name, 1, wait_seconds=30)),
    ]
    await asyncio.wait(waiting, timeout=0.1)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    key = await client.publish(fresh_name, "v")
    await eventually(lambda: _is_ready(client, key))


async def _is_ready(client: Client, key: str) -> bool:
    return (await client.message(key)).state == "ready"


async def test_a_long_block_keeps_its_lease(client: Client, fresh_name: str) -> None:
    """One of a second is held over two, whether it is named here or by the queue's settings."""
    named, of_settings = f"{fresh_name}-named", f"{fresh_name}-settings"
    await client.change_settings(of_settings, lease_seconds=1)
    for queue in (named, of_settings):
        await client.publish(queue, "v")

    async def hold(queue: str, lease_seconds: float | None) -> None:
        async with client.lease(queue, lease_seconds=lease_seconds) as message:
            first = message.expires
            assert await client.lease(queue, wait_seconds=2.5) is None
            held = await client.message(message.key)
            assert (held.state, held.attempts) == ("leased", 1)
            assert held.lease_expires is not None
            assert held.lease_expires > first + 1

    await asyncio.gather(hold(named, 1), hold(of_settings, None))
    for queue in (named, of_settings):
        assert (await client.stats(queue)).leased == 0


async def test_leases_are_kept_though_extending_fails_in_an_unforeseen_way(
    client: Client,
    fresh_name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The failure is logged, and the next round goes on."""
    settler, failures = client._settler, [ValueError("what is this"), ValueError("again")]
    extend = settler.extend

    async def fail(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await extend(*arguments)

    monkeypatch.setattr(settler, "extend", fail)
    key = await client.publish(fresh_name, "v")
    async with client.lease(fresh_name, lease_seconds=2) as message:
        await asyncio.sleep(3)
        assert await state_of(client, key) == ("leased", 1)
    assert message.is_settled
    assert "what is this" in caplog.text


async def test_closing_gives_back_whatever_became_of_the_keeper(
    client: Client, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task may be dead."""
    key = await client.publish(fresh_name, "v")
    async with Client(client.url) as other:
        keeper = other._keeper

        async def die() -> None:
            raise ValueError("dead")

        monkeypatch.setattr(keeper, "_run", die)
        iterator = aiter(other.consume(fresh_name))
        assert (await anext(iterator)).key == key
        await iterator.aclose()
    assert (await state_of(client, key))[0] == "ready"


async def test_an_awaited_lease_is_left_to_its_holder(client: Client, fresh_name: str) -> None:
    """Nobody extends it; after that it can be held on to, and when it ran out it is stale."""
    await client.publish(fresh_name, "v")
    first = await client.lease(fresh_name, lease_seconds=1)
    second = await client.lease(fresh_name, lease_seconds=60)
    assert (second.key, second.attempt) == (first.key, 2)
    with pytest.raises(StaleReceipt):
        await first.ack()
    assert first.is_lost
    assert not second.is_lost
    await second.extend(1000)
    held = await client.message(second.key)
    assert held.lease_expires is not None
    assert held.lease_expires > second.expires + 500
    with pytest.raises(InvalidInput):
        await second.extend(0)
    await second.ack()


async def test_a_block_whose_lease_is_lost_says_so(client: Client, fresh_name: str) -> None:
    """Here because somebody removed the message."""

    async def lose() -> None:
        async with client.lease(fresh_name, lease_seconds=1) as message:
            await client.cancel(message.key)
            await eventually(lambda: message.is_lost)

    await client.publish(fresh_name, "v")
    with pytest.raises(StaleReceipt):
        await lose()


@pytest.mark.parametrize("verb", ["ack", "nack", "bury"])
async def test_a_settlement_whose_answer_is_lost_is_no_error(
    cut_client: Client, cutter: Cutter, fresh_name: str, verb: str
) -> None:
    """The repeated one finds the receipt stale, because the first was carried out."""
    key = await cut_client.publish(fresh_name, "v")
    message = await cut_client.lease(fresh_name)
    cutter.answers_to_lose = 1
    if verb == "bury":
        await message.bury("why not")
    else:
        await (message.ack() if verb == "ack" else message.nack(1000))
    assert cutter.lost_count == 1
    assert message.is_settled
    if verb == "ack":
        assert (await cut_client.stats(fresh_name)).leased == 0
    else:
        expected = {"nack": "delayed", "bury": "dead"}[verb]
        assert (await state_of(cut_client, key))[0] == expected


async def test_many_acknowledgements_share_requests(client: Client, fresh_name: str) -> None:
    """Each has its own outcome."""
    await client.publish_many(fresh_name, [str(number) for number in range(200)])
    messages = await client.lease_many(fresh_name, 200)
    assert [message.text for message in messages] == [str(number) for number in range(200)]
    gone = messages[7]
    await client.cancel(gone.key)
    tasks = [asyncio.create_task(message.ack()) for message in messages]
    for cancelled in (3, 5, 130):
        tasks[cancelled].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes.pop(130), asyncio.CancelledError)
    assert isinstance(outcomes.pop(7), StaleReceipt)
    assert isinstance(outcomes.pop(5), asyncio.CancelledError)
    assert isinstance(outcomes.pop(3), asyncio.CancelledError)
    assert set(outcomes) == {None}
    left = {3, 5, 130}
    stats = await client.stats(fresh_name)
    assert stats.leased <= len(left)


async def test_acknowledgements_survive_a_cancelled_companion(
    cut_client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """The one that sends for all is cancelled while its request is under way."""
    await cut_client.publish_many(fresh_name, "abc")
    messages = await cut_client.lease_many(fresh_name, 3)
    cutter.answers_to_lose = 1
    tasks = [asyncio.create_task(message.ack()) for message in messages]
    await eventually(lambda: cutter.lost_count == 1)
    tasks[0].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert outcomes[1:] == [None, None]
    assert isinstance(outcomes[0], asyncio.CancelledError)


@pytest.mark.parametrize("how", ["cannot tell", "cancelled"])
async def test_no_acknowledgement_stays_open_when_it_is_unclear_whose_one_was(
    client: Client, fresh_name: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The others of the batch have their own outcome, whatever becomes of that one."""
    await client.publish_many(fresh_name, "abc")
    messages = await client.lease_many(fresh_name, 3)
    settler = client._settler
    send = settler._ack_all
    asked = asyncio.Event()

    async def lose_answer(batch: Any) -> Any:
        if len(batch) > 1:
            await send(batch)
            for ack in batch:
                ack.is_in_doubt = True
        return await send(batch)

    async def cannot_tell() -> bool:
        asked.set()
        if how == "cancelled":
            await asyncio.Event().wait()
        raise Unavailable("the server is away")

    async def is_held() -> bool:
        return True

    monkeypatch.setattr(settler, "_ack_all", lose_answer)
    # The first one sends for all: it may be cancelled, and gets no other one's error.
    index = 0 if how == "cancelled" else 1
    tellers = [is_held, is_held, is_held]
    tellers[index] = cannot_tell
    async with settler._turn:  # so that they are one batch
        tasks = [
            asyncio.create_task(settler.ack(message.receipt, teller))
            for message, teller in zip(messages, tellers, strict=True)
        ]
        await asyncio.sleep(0)
    await asked.wait()
    if how == "cancelled":
        tasks[0].cancel()
    async with asyncio.timeout(20):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    expected = asyncio.CancelledError if how == "cancelled" else Unavailable
    assert isinstance(outcomes.pop(index), expected)
    assert outcomes == [None, None]


async def test_a_server_that_stays_away_leaves_the_message_unsettled(
    cutter: Cutter, client: Client, fresh_name: str
) -> None:
    """The error says so, and it can be tried again."""
    await client.publish(fresh_name, "v")
    async with Client(cutter.url, timeout_seconds=0.3) as cut_client:
        message = await cut_client.lease(fresh_name)
        cutter.is_refusing = True
        cutter.cut_all()
        with pytest.raises(ConnectionLost):
            await message.ack()
        assert not message.is_settled
        cutter.is_refusing = False
        await message.ack()
    assert (await client.stats(fresh_name)).leased == 0


async def test_closing_the_client_gives_back(
    client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """What is in a block that still runs, and what a consumer holds."""
    keys = await client.publish_many(fresh_name, "abc")
    other = Client(cutter.url)
    lease = other.lease(fresh_name)
    await lease.__aenter__()
    messages = aiter(other.consume(fresh_name, prefetch=2))
    await anext(messages)
    assert (await client.stats(fresh_name)).leased == 3
    await other.close()
    assert (await client.stats(fresh_name)).ready == 3
    # The last was fetched and never seen, which is no attempt.
    assert [(await client.message(key)).attempts for key in keys] == [1, 1, 0]
    await messages.aclose()
