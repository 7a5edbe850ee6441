"""Listening without leases: each listener gets every message, also over breaks."""

import asyncio
from contextlib import aclosing

from restmq.client import Client
from tests.client.cutter import Cutter
from tests.support import eventually


async def has_listeners(client: Client, queue: str, count: int) -> bool:
    """Return whether so many are connected."""
    return (await client.stats(queue)).consumers == count


async def test_every_listener_gets_every_message(client: Client, fresh_name: str) -> None:
    """Text and bytes, from when it listens."""
    values = [b"\xff\x00", "zwölf\nlines".encode(), b"{}"]

    async def collect() -> list[bytes]:
        async with aclosing(client.listen(fresh_name)) as messages:
            return [(await anext(messages)).value for _ in values]

    tasks = [asyncio.create_task(collect()) for _ in range(2)]
    await eventually(lambda: has_listeners(client, fresh_name, 2))
    for value in values:
        await client.publish(fresh_name, value)
    assert await asyncio.gather(*tasks) == [values, values]
    await eventually(lambda: has_listeners(client, fresh_name, 0))


async def test_a_broken_listener_resumes(
    cut_client: Client, client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """It misses nothing that came while it was away, also if it never got a message before."""
    async with aclosing(cut_client.listen(fresh_name)) as messages:
        first = asyncio.ensure_future(anext(messages))
        await eventually(lambda: has_listeners(client, fresh_name, 1))
        async with aclosing(client.listen(fresh_name)) as kept:  # so that history is kept
            other = asyncio.ensure_future(anext(kept))
            await eventually(lambda: has_listeners(client, fresh_name, 2))
            cutter.is_refusing = True
            cutter.cut_all()
            await eventually(lambda: has_listeners(client, fresh_name, 1))
            for text in "abc":
                await client.publish(fresh_name, text)
            assert (await other).text == "a"
            cutter.is_refusing = False
            assert (await first).text == "a"
            assert [(await anext(messages)).text for _ in "bc"] == ["b", "c"]


async def test_a_gap_is_told(client: Client, fresh_name: str) -> None:
    """What history keeps no more is named by its first and last number."""
    await client.change_settings(fresh_name, history_count=2)
    async with aclosing(client.listen(fresh_name)) as messages:
        first = asyncio.ensure_future(anext(messages))
        await eventually(lambda: has_listeners(client, fresh_name, 1))
        for text in "abcde":
            await client.publish(fresh_name, text)
        assert (await first).text == "a"
        assert [(await anext(messages)).text for _ in range(4)] == list("bcde")
    gaps: list[tuple[int, int]] = []

    def note(first: int, last: int) -> None:
        gaps.append((first, last))

    async with aclosing(client.listen(fresh_name, after=1, on_gap=note)) as messages:
        assert [(await anext(messages)).text for _ in range(2)] == ["d", "e"]
    assert gaps == [(2, 3)]
