"""RSE's tokens that several servers share (RSE specification, section 7), on both mounts."""

import json
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from restmq.endpoints import rse_tokens
from tests.endpoints.conftest import OpenNode
from tests.endpoints.test_rse import Agent, Rse, channel, mount, opened
from tests.memcached_server import MemcachedServer
from tests.support import eventually

__all__ = ["channel", "mount"]  # fixtures


@pytest.fixture
async def memcached() -> AsyncIterator[MemcachedServer]:
    """A memcached with one token in it."""
    server = MemcachedServer()
    server.values[b"t:shared"] = b"whoever"
    async with server.serving():
        yield server


@pytest.fixture
async def live(open_node: OpenNode, mount: str, memcached: MemcachedServer) -> AsyncIterator[Rse]:
    """A node in live mode, with one token of its own and those of the memcached."""
    async with opened(
        open_node,
        mount,
        rse_tokens=("listed",),
        rse_token_store=memcached.url,
        rse_token_prefix="t:",
    ) as one:
        yield one


async def statuses(agent: Agent, channel: str) -> list[int]:
    """Do everything for which a token is needed; returns what came of it."""
    return [
        (await agent.get(f"{channel}?echo=true")).status,
        (await agent.post(channel)).status,
        (await agent.get(f"{channel}?method=POST&post-data={{}}")).status,
        (await agent.get(f"{channel}?wait=0")).status,
        (await agent.get("/health?verbose=1")).status,
    ]


DONE = [204, 201, 201, 204, 200]


async def test_a_token_of_the_store_lets_in(
    live: Rse, channel: str, memcached: MemcachedServer
) -> None:
    assert await statuses(live.agent(X_Auth_Token="shared"), f"{channel}/a") == DONE
    assert await statuses(live.agent(X_Auth_Token="listed"), f"{channel}/b") == DONE
    for token in ("t:shared", "SHARED", "two words", "x\tget t:shared"):
        agent = live.agent(X_Auth_Token=token)
        assert await statuses(agent, channel) == [401] * 5, token
        assert (await agent.post(channel)).body == b'{ "message": "" }'
    assert await statuses(live.agent(), channel) == [401] * 5
    assert not memcached.errors
    assert b"t:listed" not in memcached.asked


async def test_a_long_token_is_looked_up_by_its_digest(
    live: Rse, channel: str, memcached: MemcachedServer
) -> None:
    agent = live.agent(X_Auth_Token="x" * 3000)
    assert (await agent.get(channel)).status == 401
    (key,) = memcached.asked
    memcached.values[key] = b""
    assert (await agent.get(channel)).status == 204


async def test_a_token_that_is_taken_away_lets_in_no_more(
    live: Rse, channel: str, memcached: MemcachedServer
) -> None:
    agent = live.agent(X_Auth_Token="shared")
    assert (await agent.get(channel)).status == 204
    del memcached.values[b"t:shared"]

    async def is_refused() -> bool:
        return (await agent.get(channel)).status == 401

    await eventually(is_refused)
    memcached.values[b"t:shared"] = b""
    assert (await agent.get(channel)).status == 204


async def test_clients_that_poll_often_do_not_have_the_store_asked_each_time(
    live: Rse, channel: str, memcached: MemcachedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rse_tokens, "REMEMBERED_SECONDS", 60.0)
    agent = live.agent(X_Auth_Token="shared")
    for _ in range(5):
        assert (await agent.get(channel)).status == 204
        assert (await agent.post(channel)).status == 201
    assert memcached.asked == [b"t:shared"]


async def test_tokens_that_are_remembered_are_limited(
    live: Rse, channel: str, memcached: MemcachedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rse_tokens, "REMEMBERED_SECONDS", 60.0)
    monkeypatch.setattr(rse_tokens, "MAX_REMEMBERED", 2)
    for name in ("a", "b", "c", "a"):
        memcached.values[f"t:{name}".encode()] = b""
        assert (await live.agent(X_Auth_Token=name).get(channel)).status == 204
    assert memcached.asked == [b"t:a", b"t:b", b"t:c", b"t:a"]


async def test_a_store_that_is_away_is_503_but_for_listed_tokens(
    open_node: OpenNode, mount: str, channel: str
) -> None:
    server = MemcachedServer()
    async with server.serving():
        pass
    async with opened(open_node, mount, rse_tokens=("listed",), rse_token_store=server.url) as rse:
        for answer in (
            await rse.agent(X_Auth_Token="shared").get(channel),
            await rse.agent(X_Auth_Token="shared").post(channel),
        ):
            assert (answer.status, answer.body) == (503, b'{ "message": "" }')
            assert dict(answer.headers)["Retry-After"]  # type: ignore[arg-type]
        assert (await rse.agent(X_Auth_Token="listed").get(channel)).status == 204
        assert (await rse.agent().get(channel)).status == 401


async def test_test_mode_forgives_a_missing_token_and_no_unknown_one(
    open_node: OpenNode, mount: str, channel: str, memcached: MemcachedServer
) -> None:
    async with opened(
        open_node, mount, rse_test_mode=True, rse_token_store=memcached.url, rse_token_prefix="t:"
    ) as rse:
        assert (await rse.agent().get(channel)).status == 204
        assert (await rse.agent(X_Auth_Token="shared").get("/all")).status == 200
        assert (await rse.agent(X_Auth_Token="nope").get("/all")).status == 401


async def test_a_store_alone_is_no_reason_to_warn(
    open_node: OpenNode, mount: str, memcached: MemcachedServer
) -> None:
    async with opened(
        open_node, mount, rse_token_store=memcached.url, rse_token_prefix="t:"
    ) as rse:
        answer = await rse.agent(X_Auth_Token="shared").get("/health?verbose=1")
        assert json.loads(answer.body)["warnings"] == []


async def test_a_redis_can_be_the_store(
    open_node: OpenNode, mount: str, channel: str, redis_url: str, fresh_name: str
) -> None:
    async with (
        Redis.from_url(redis_url) as redis,
        opened(
            open_node, mount, rse_token_store=redis_url, rse_token_prefix=f"{fresh_name}:"
        ) as rse,
    ):
        agent = rse.agent(X_Auth_Token="shared")
        assert (await agent.get(channel)).status == 401
        await redis.set(f"{fresh_name}:shared", "", ex=60)
        assert (await agent.get(channel)).status == 204
        assert (await agent.post(channel)).status == 201
