"""Who is let in by RSE: those with a token that the settings list, or that a shared store knows.

This is section 7 of the RSE specification. No token at all is forgiven in test mode, a wrong one
never.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Protocol

from multidict import istr

from restmq.endpoints.web import Request
from restmq.errors import AccessDenied

REMEMBERED_SECONDS = 1.0
"""A token that the store knew is let in for so long without asking again: clients poll often."""

MAX_REMEMBERED = 10_000

_HEADER = istr("X-Auth-Token")


class TokenStore(Protocol):
    """Where several servers look up which tokens are valid."""

    async def has(self, token: str) -> bool:
        """Return whether the token is valid; raises ``Unavailable`` if that cannot be told."""


class Tokens:
    """The tokens that let clients in."""

    def __init__(
        self, tokens: Iterable[str], store: TokenStore | None, *, is_test_mode: bool
    ) -> None:
        # Looking a digest up tells nothing by the time it takes.
        self._listed = frozenset(map(_digest, tokens))
        self._seen: set[str] = set()
        """Those of them that have come, as they came: not more than there are."""
        self._store = store
        self._remembered: dict[str, float] = {}
        """Until when those that the store knew need not be asked for again."""
        self._is_test_mode = is_test_mode
        self._loop = asyncio.get_running_loop()

    @property
    def can_let_in(self) -> bool:
        """Whether there may be any valid token."""
        return bool(self._listed) or self._store is not None

    def is_known(self, request: Request) -> bool:
        """Return whether the client may come in; False: only ``check`` can tell.

        Raises AccessDenied.
        """
        token = request.headers.get(_HEADER)
        if not token:
            if not self._is_test_mode:
                raise AccessDenied("a token is needed")
            return True
        if token in self._seen:
            return True
        if _digest(token) in self._listed:
            self._seen.add(token)
            return True
        if self._store is None:
            raise AccessDenied("the token is not known")
        return self._remembered.get(token, 0.0) > self._loop.time()

    async def check(self, request: Request) -> None:
        """Return if the client may come in; raises AccessDenied, and ``Unavailable`` likewise."""
        if self.is_known(request) or self._store is None:
            return
        token = request.headers[_HEADER]
        if not await self._store.has(token):
            self._remembered.pop(token, None)
            raise AccessDenied("the token is not known")
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[token] = self._loop.time() + REMEMBERED_SECONDS


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
