"""Looking keys up in a memcached."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from restmq import memcached
from restmq.errors import Overloaded, Unavailable
from restmq.memcached import Memcached
from tests.memcached_server import MemcachedServer
from tests.support import eventually, free_port


@pytest.fixture
async def server() -> AsyncIterator[MemcachedServer]:
    """A memcached that is there."""
    async with MemcachedServer().serving() as one:
        yield one


@pytest.fixture
async def client(server: MemcachedServer) -> AsyncIterator[Memcached]:
    """Who asks it."""
    one = Memcached("127.0.0.1", server.port)
    yield one
    await one.close()


@pytest.mark.parametrize("value", [b"", b"x", b"END\r\n", b"\r\nVALUE x 0 1\r\n", b"y" * 3_000_000])
async def test_a_key_is_there_or_not_whatever_its_value(
    server: MemcachedServer, client: Memcached, value: bytes
) -> None:
    server.values[b"there"] = value
    assert [await client.has(key) for key in (b"there", b"not", b"there")] == [True, False, True]


async def test_many_ask_at_once_over_one_connection(
    server: MemcachedServer, client: Memcached
) -> None:
    keys = [b"key-%d" % number for number in range(500)]
    server.values = dict.fromkeys(keys[::3], b"v" * 1000)
    found = await asyncio.gather(*map(client.has, keys))
    assert [key for key, is_there in zip(keys, found, strict=True) if is_there] == keys[::3]
    assert len(server._writers) == 1


@pytest.mark.parametrize("key", [b"", b"a b", b"a\r\nflush_all", b"\xc3\xa9", b"a\0", b"x" * 251])
async def test_what_can_be_no_key_is_not_asked_for(
    server: MemcachedServer, client: Memcached, key: bytes
) -> None:
    assert await client.has(key) is False
    assert (server.asked, server.errors) == ([], [])


async def test_a_lost_connection_is_made_anew(server: MemcachedServer, client: Memcached) -> None:
    server.values[b"k"] = b""
    assert await client.has(b"k")
    server.hang_up()
    assert await client.has(b"k")


@pytest.mark.parametrize(
    "answer", [b"SERVER_ERROR out of memory\r\n", b"ERROR\r\n", b"VALUE k 0 1\r\nabEND\r\n"]
)
async def test_an_answer_that_is_none_is_an_error(
    server: MemcachedServer, client: Memcached, answer: bytes
) -> None:
    server.answer = answer
    with pytest.raises(Unavailable, match="memcached"):
        await client.has(b"k")
    server.answer = None
    assert await client.has(b"k") is False


async def test_nobody_waits_for_a_memcached_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one attempt failed, the next is made a moment later; meanwhile everyone is told."""
    attempts = 0
    whole = asyncio.open_connection

    async def counting(*arguments: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        nonlocal attempts
        attempts += 1
        return await whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "open_connection", counting)
    server = MemcachedServer()
    server.port = free_port()
    client = Memcached("127.0.0.1", server.port)
    outcomes = await asyncio.gather(*(client.has(b"k") for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unavailable}
    assert attempts == 1

    async def is_back() -> bool:
        try:
            return await client.has(b"k")
        except Unavailable:
            return False

    server.values[b"k"] = b"v"
    async with server.serving():
        await eventually(is_back)
        await client.close()


async def test_one_that_does_not_answer_is_out_of_reach(
    server: MemcachedServer, client: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached, "ANSWER_TIMEOUT_SECONDS", 0.05)
    server.answer = b""
    with pytest.raises(Unavailable, match="does not answer"):
        await client.has(b"k")
    server.answer = None
    monkeypatch.setattr(memcached, "ANSWER_TIMEOUT_SECONDS", 30)
    assert await client.has(b"k") is False


async def test_questions_that_wait_are_limited(
    server: MemcachedServer, client: Memcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached, "MAX_WAITING", 3)
    server.answer = b""
    waiting = [asyncio.ensure_future(client.has(b"k")) for _ in range(3)]
    await eventually(lambda: client._connection and len(client._connection._waiting) == 3)
    with pytest.raises(Overloaded):
        await client.has(b"k")
    await client.close()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
