"""Channels and cursors, which are read by position."""

import asyncio
from contextlib import aclosing

import pytest

from restmq.client import Client, ConnectionLost, InvalidInput, NotFound
from tests.client.cutter import Cutter


async def test_a_channel_is_written_and_read_by_position(client: Client, fresh_name: str) -> None:
    """As often as one likes, from anywhere."""
    channel = client.channel(f"{fresh_name}/a b")
    with pytest.raises(NotFound):
        await channel.state()
    written = await channel.write({"text": "ä"}, source="ann")
    assert (written.id, written.src, written.data) == (1, "ann", {"text": "ä"})
    for number in range(2, 5):
        await channel.write(number)
    assert (await channel.read())[0] == written
    assert [entry.data for entry in await channel.read(after=2, limit=1)] == [3]
    assert await channel.read(after=4) == []
    state = await channel.state()
    assert (state.count, state.first, state.last, state.subscriber_count) == (4, 1, 4, 0)
    assert await channel.prune(before=3) == 2
    assert (await channel.state()).first == 3
    assert channel.name in [name async for name in client.channels()]
    await channel.delete()
    with pytest.raises(NotFound):
        await channel.delete()
    with pytest.raises(InvalidInput):
        await channel.write(object())
    with pytest.raises(InvalidInput):
        client.channel("")


async def test_reading_waits_for_what_comes(client: Client, fresh_name: str) -> None:
    """Up to a time."""
    channel = client.channel(fresh_name)
    await channel.write("old")
    waiting = asyncio.create_task(channel.read(after=1, wait_seconds=30))
    await channel.write("new")
    assert [entry.data for entry in await waiting] == ["new"]


async def test_a_channel_is_followed_over_breaks(
    cut_client: Client, client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """From the beginning, and what is gone is told."""
    channel = client.channel(fresh_name)
    for number in range(1, 6):
        await channel.write(number)
    await channel.prune(before=3)
    gaps: list[tuple[int, int]] = []
    followed = cut_client.channel(fresh_name).follow(
        after=0, on_gap=lambda first, last: gaps.append((first, last))
    )
    async with aclosing(followed) as entries:
        assert [(await anext(entries)).data for _ in range(3)] == [3, 4, 5]
        assert gaps == [(1, 2)]
        cutter.cut_all()
        await channel.write(6)
        assert (await anext(entries)).data == 6


async def test_a_cursor_goes_on_where_it_was(client: Client, fresh_name: str) -> None:
    """The server keeps it; readers under one id share what comes."""
    news, sport = client.channel(f"{fresh_name}-news"), client.channel(f"{fresh_name}-sport")
    await news.write(1)
    reader = client.cursor(f"{fresh_name}/reader")
    assert await reader.positions() == {}
    await reader.subscribe(news.name, start="earliest")
    await reader.subscribe(sport.name)
    waiting = asyncio.create_task(client.cursor(f"{fresh_name}/other").read(wait_seconds=0))
    assert await waiting == {}
    await sport.write("goal")
    read = await reader.read()
    assert {name: [entry.data for entry in entries] for name, entries in read.items()} == {
        news.name: [1],
        sport.name: ["goal"],
    }
    assert await reader.read(limit=1, keep_count=10) == {}
    await reader.seek(news.name, 0)
    assert await reader.positions() == {news.name: 0, sport.name: 1}
    await reader.unsubscribe(sport.name)
    assert list(await reader.read(wait_seconds=10)) == [news.name]
    await reader.delete()
    assert await reader.positions() == {}


async def test_what_could_be_done_twice_is_not_repeated(
    cut_client: Client, client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """Writing to a channel has no id, so a lost answer is told."""
    await cut_client.channel(fresh_name).write(1)
    cutter.answers_to_lose = 1
    with pytest.raises(ConnectionLost):
        await cut_client.channel(fresh_name).write(2)
    assert [entry.data for entry in await client.channel(fresh_name).read()] == [1, 2]
