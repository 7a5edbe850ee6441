"""Tokens that several servers share: a cache says which of them are valid (RSE, section 7).

Whoever hands out a token puts a value, any value, into the cache, under a prefix and the token; as
long as it is there, the token is valid. The cache is a memcached, as RSE has it, or a Redis.
"""

import asyncio
import hashlib
import logging
from typing import Protocol
from urllib.parse import urlsplit

from restmq.broker.backend import open_backend
from restmq.broker.commit import Committer
from restmq.broker.scripts import command
from restmq.memcached import DEFAULT_PORT, Memcached
from restmq.settings import MEMCACHED_SCHEME, Settings

CLOSE_SECONDS = 2.0
"""How long closing waits for a Redis that does not answer."""

OWN_KEYS = (b"restmq:", b"{restmq:")
"""How the keys begin that this server itself keeps in a Redis: none of them is a token's."""

logger = logging.getLogger(__name__)


class Cache(Protocol):
    """What holds a value for each valid token."""

    async def has(self, key: bytes) -> bool:
        """Return whether there is a value under the key; raises ``Unavailable``."""

    async def close(self) -> None:
        """Leave it."""


class TokenStore:
    """The tokens in a cache.

    A token is looked up under ``prefix`` and itself. What has ``hashing_threshold`` bytes or more
    is looked up by its SHA-512 instead, in upper-case pairs of digits with dashes in between.
    """

    def __init__(self, cache: Cache, prefix: str = "", hashing_threshold: int = 250) -> None:
        self._cache = cache
        self._prefix = prefix.encode()
        self._hashing_threshold = hashing_threshold

    async def has(self, token: str) -> bool:
        """Return whether the token is valid now; raises ``Unavailable`` if that cannot be told."""
        return await self._cache.has(self.key_of(token))

    def key_of(self, token: str) -> bytes:
        """Return what the token is looked up under."""
        key = self._prefix + token.encode("utf-8", "surrogateescape")
        if len(key) < self._hashing_threshold:
            return key
        return hashlib.sha512(key).digest().hex("-").upper().encode()

    async def close(self) -> None:
        """Leave the cache."""
        await self._cache.close()


class RedisCache:
    """A Redis as a cache; it connects when it is first asked."""

    def __init__(self, url: str) -> None:
        self._backend = open_backend(url, ())
        self._committer = Committer(self._backend)
        self._is_started = False

    async def has(self, key: bytes) -> bool:
        """Return whether there is a value under the key; raises ``Unavailable``."""
        if key.startswith(OWN_KEYS):
            return False
        if not self._is_started:
            self._is_started = True
            self._committer.start()
        return bool(await self._committer.submit(command("EXISTS", key)))

    async def close(self) -> None:
        """Leave Redis, which may not answer."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._committer.close()
        except TimeoutError:
            logger.warning("the Redis with the tokens does not answer; leaving without it")
            await self._committer.abort()
        await self._backend.close()


def open_token_store(settings: Settings) -> TokenStore | None:
    """Make the store that the settings name, if any; it connects when it is first asked."""
    url = settings.rse_token_store
    if not url:
        return None
    parts = urlsplit(url)
    cache: Cache
    if parts.scheme == MEMCACHED_SCHEME:
        cache = Memcached(parts.hostname or "", parts.port or DEFAULT_PORT)
    else:
        cache = RedisCache(url)
    return TokenStore(cache, settings.rse_token_prefix, settings.rse_token_hashing_threshold)
