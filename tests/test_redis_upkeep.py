"""The disk that worked-off messages took is given back."""

from pathlib import Path

import pytest

from restmq import redis_upkeep
from restmq.broker.broker import Broker
from restmq.broker.receipts import Receipt
from restmq.redis_process import RedisProcess
from restmq.redis_upkeep import RedisUpkeep
from tests.support import eventually

MESSAGES = 10_000


def file_bytes(data_dir: Path) -> int:
    """Return what the file of the data takes on disk, or its parts."""
    return sum(
        path.stat().st_size
        for path in data_dir.rglob("*")
        if path.is_file() and "aof" in path.name and "temp" not in path.name
    )


async def test_it_goes_on_whatever_happens(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = 0

    async def fail(self: RedisUpkeep) -> bool:
        nonlocal looks
        looks += 1
        raise ValueError("a reply that nobody expected")

    monkeypatch.setattr(redis_upkeep, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setattr(RedisUpkeep, "look", fail)
    async with RedisUpkeep(redis_url):
        await eventually(lambda: looks >= 2)
    assert "a reply that nobody expected" in caplog.text


async def test_a_worked_off_queue_takes_a_tenth_of_the_file_that_it_took(tmp_path: Path) -> None:
    """10,000 messages of a kibibyte, all but a few of which are consumed."""
    async with (
        RedisProcess(tmp_path, "no") as redis,
        Broker(redis.url) as broker,
        RedisUpkeep(redis.url) as upkeep,
    ):
        for _ in range(MESSAGES // 1000):
            await broker.publish("jobs", [b"x" * 1024] * 1000)
        full_bytes = file_bytes(tmp_path)
        assert full_bytes > MESSAGES * 1024
        assert not await upkeep.look()
        for _ in range(MESSAGES // 1000 - 1):
            for message in await broker.lease("jobs", 1000):
                await broker.ack(Receipt("jobs", message.number, message.token))
        left = await broker.pop("jobs", 950)
        assert len(left) == 950
        assert await upkeep.look()
        await eventually(lambda: file_bytes(tmp_path) < full_bytes * 0.11)
        assert not await upkeep.look()
        assert len(await broker.pop("jobs", 1000)) == 50
