"""Single messages, dead letters, settings, figures: each method, against a node."""

from typing import Any

import pytest

from restmq.client import Client, Conflict, InvalidInput, NotFound, QueueSettings
from tests.client.cutter import Cutter


async def test_a_message_is_found_rescheduled_and_cancelled(
    client: Client, fresh_name: str
) -> None:
    """By its key; what cannot be done in its state is a conflict."""
    key = await client.publish(fresh_name, "v", delay=1000)
    found = await client.message(key)
    assert (found.state, found.text, found.attempts, found.last_error) == ("delayed", "v", 0, None)
    assert found.ready_at is not None
    await client.reschedule(key, delay=5000)
    later = await client.message(key)
    assert later.ready_at is not None
    assert later.ready_at > found.ready_at + 3000
    await client.reschedule(key, at=1)
    assert (await client.message(key)).state == "ready"
    await client.set_priority(key, 9)
    assert (await client.message(key)).priority == 9
    with pytest.raises(Conflict):
        await client.reschedule(key, delay=5)
    with pytest.raises(InvalidInput):
        await client.reschedule(key)
    await client.cancel(key)
    for gone in (client.message(key), client.cancel(key), client.set_priority(key, 1)):
        with pytest.raises(NotFound):
            await gone
    with pytest.raises(InvalidInput):
        await client.message("no-key")


async def test_a_removal_whose_answer_is_lost_is_no_error(
    cut_client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """The repeated one finds nothing, because the first was carried out."""
    key = await cut_client.publish(fresh_name, "v")
    cutter.answers_to_lose = 1
    await cut_client.cancel(key)
    assert cutter.lost_count == 1
    with pytest.raises(NotFound):
        await cut_client.cancel(key)


async def test_dead_letters_are_listed_put_back_and_dropped(
    client: Client, fresh_name: str
) -> None:
    """All of them, some, or one."""
    keys = await client.publish_many(fresh_name, "abcde")
    for message in await client.lease_many(fresh_name, 5):
        await message.bury(f"reason {message.text}")
    letters = await client.dead_letters(fresh_name, count=2, offset=1)
    assert [(each.key, each.text, each.reason, each.attempts) for each in letters] == [
        (keys[1], "b", "reason b", 1),
        (keys[2], "c", "reason c", 1),
    ]
    assert letters[0].died >= (letters[0].published or 0)
    assert await client.redrive(fresh_name, key=keys[3]) == 1
    assert await client.redrive(fresh_name, count=1) == 1
    assert (await client.stats(fresh_name)).dead == 3
    with pytest.raises(NotFound):
        await client.redrive(fresh_name, key=keys[3])
    assert await client.redrive(fresh_name) == 3
    assert await client.dead_letters(fresh_name) == []
    for message in await client.lease_many(fresh_name, 5):
        assert message.attempt == 1
        await message.bury("again")
    assert await client.drop_dead_letters(fresh_name) == 5
    assert await client.drop_dead_letters(fresh_name) == 0


async def test_settings_are_read_changed_and_reset(client: Client, fresh_name: str) -> None:
    """As values of their types; a wrong one changes nothing."""
    assert await client.settings(fresh_name) == QueueSettings()
    changes: dict[str, Any] = {"max_attempts": 3, "copies_to": ["other"], "ttl": 60}
    changed = await client.change_settings(fresh_name, **changes)
    assert changed == QueueSettings(max_attempts=3, copies_to=("other",), ttl=60)
    with pytest.raises(InvalidInput, match="max_atempts"):
        await client.change_settings(fresh_name, max_atempts=3, ttl=70)
    assert await client.settings(fresh_name) == changed
    assert (await client.change_settings(fresh_name, ttl=None)).ttl is None
    assert await client.reset_settings(fresh_name) == QueueSettings()


async def test_figures_of_a_queue(client: Client, fresh_name: str) -> None:
    """What is where, and what is set."""
    await client.publish_many(fresh_name, "abc")
    await client.publish(fresh_name, "d", delay=1000)
    message = await client.lease(fresh_name)
    await client.change_settings(fresh_name, policy="roundrobin")
    await client.pause(fresh_name)
    stats = await client.stats(fresh_name)
    assert (stats.name, stats.ready, stats.leased, stats.delayed) == (fresh_name, 2, 1, 1)
    assert (stats.is_paused, stats.policy, stats.dead) == (True, "roundrobin", 0)
    assert stats.oldest_age is not None
    assert stats.rate_in > 0
    await client.resume(fresh_name)
    assert not (await client.stats(fresh_name)).is_paused
    await message.ack()
    assert await client.purge(fresh_name)
    assert not await client.purge(fresh_name)


async def test_all_queues_are_listed(
    client: Client, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page after page, by name."""
    monkeypatch.setattr("restmq.client.stats.PAGE_QUEUES", 3)
    names = [f"{fresh_name}-{number}" for number in range(7)]
    for name in names:
        await client.publish(name, "v")
    found = [queue async for queue in client.queues() if queue.name in names]
    assert [queue.name for queue in found] == names
    assert {queue.ready for queue in found} == {1}
