"""Tokens that several servers share, in a memcached or a Redis."""

import hashlib
from pathlib import Path

import pytest
from redis.asyncio import Redis

from restmq.errors import SettingsError, Unavailable
from restmq.settings import Settings, knobs
from restmq.settings_sources import load
from restmq.token_store import TokenStore, open_token_store
from tests.memcached_server import MemcachedServer
from tests.support import free_port


class NoCache:
    """A cache that is never asked."""

    async def has(self, key: bytes) -> bool:
        """Not here."""
        raise NotImplementedError

    async def close(self) -> None:
        """Do nothing."""


def test_a_short_token_is_looked_up_as_it_is() -> None:
    store = TokenStore(NoCache(), "tokens:", 250)
    assert store.key_of("abc") == b"tokens:abc"
    assert store.key_of("x" * 242) == b"tokens:" + b"x" * 242


@pytest.mark.parametrize("length", [243, 244, 5000])
def test_from_the_threshold_on_its_digest_is(length: int) -> None:
    """Upper-case pairs of digits with dashes, of prefix and token together."""
    key = TokenStore(NoCache(), "tokens:", 250).key_of("x" * length)
    digest = hashlib.sha512(b"tokens:" + b"x" * length).hexdigest().upper()
    pairs = [digest[at : at + 2] for at in range(0, 128, 2)]
    assert key == "-".join(pairs).encode()
    assert len(key) == 191


def test_the_threshold_is_a_setting() -> None:
    assert TokenStore(NoCache(), "", 5).key_of("abcd") == b"abcd"
    assert b"-" in TokenStore(NoCache(), "", 5).key_of("abcde")


async def test_without_a_url_there_is_none() -> None:
    assert open_token_store(Settings()) is None


async def opened(url: str, prefix: str = "") -> TokenStore:
    """Open the store of such settings."""
    store = open_token_store(Settings(rse_token_store=url, rse_token_prefix=prefix))
    assert store is not None
    return store


async def test_tokens_in_a_memcached() -> None:
    async with MemcachedServer().serving() as server:
        store = await opened(server.url, "p-")
        server.values[b"p-known"] = b""
        assert await store.has("known")
        assert not await store.has("unknown")
        assert not await store.has("p-known")
        assert not await store.has("two words")
        await store.close()


async def test_tokens_in_a_redis(redis_url: str, fresh_name: str) -> None:
    store = await opened(redis_url, f"{fresh_name}:")
    async with Redis.from_url(redis_url) as redis:
        await redis.set(f"{fresh_name}:known", "", ex=60)
        await redis.hset(f"{fresh_name}:hash", "any", "value")  # type: ignore[misc]
        assert await store.has("known")
        assert await store.has("hash")
        assert not await store.has("unknown")
        await redis.delete(f"{fresh_name}:known")
        assert not await store.has("known")
    await store.close()


async def test_what_the_server_keeps_in_a_redis_is_no_token(
    redis_url: str, fresh_name: str
) -> None:
    store = await opened(redis_url)
    async with Redis.from_url(redis_url) as redis:
        for key in (f"restmq:{fresh_name}", f"{{restmq:{fresh_name}}}", fresh_name):
            await redis.set(key, "1", ex=60)
    assert not await store.has(f"restmq:{fresh_name}")
    assert not await store.has(f"{{restmq:{fresh_name}}}")
    assert await store.has(fresh_name)
    await store.close()


@pytest.mark.parametrize("scheme", ["memcached", "redis"])
async def test_a_store_that_is_away_is_told(scheme: str) -> None:
    store = await opened(f"{scheme}://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable):
        await store.has("token")
    await store.close()


@pytest.mark.parametrize("url", ["memcached://cache", "memcached://[::1]:11212", "unix:///r.sock"])
def test_a_url_is_read(tmp_path: Path, url: str) -> None:
    settings = load({"rse_token_store": url}, {}, tmp_path)
    assert settings.rse_token_store == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rse_token_store", "memcached://"),
        ("rse_token_store", "memcached://host:0"),
        ("rse_token_store", "memcached://host:99999"),
        ("rse_token_store", "memcached://host/path"),
        ("rse_token_store", "http://host"),
        ("rse_token_store", "cache:11211"),
        ("rse_token_prefix", "two words"),
        ("rse_token_prefix", "é"),
        ("rse_token_prefix", "x" * 101),
        ("rse_token_hashing_threshold", "251"),
        ("rse_token_hashing_threshold", "0"),
        ("rse_first_event", "0"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load({name: value}, {}, tmp_path)


def test_a_password_in_the_url_is_not_shown() -> None:
    (knob,) = [each for each in knobs() if each.name == "rse_token_store"]
    assert "word" not in knob.format("redis://user:word@host/1")
