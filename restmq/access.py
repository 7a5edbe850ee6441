"""Who may do what: ``acl.conf`` and API keys turned into decisions about plain values.

There is no HTTP in it. The rules are those of the RestMQ specification, section 7
(``access_rules.py``), and beside them stand the keys of ``keys.conf`` (``api_keys.py``). An
endpoint asks :meth:`Access.check` with the section that guards the route, the peer's address and
what the peer said about itself; the answer is silence, the key that lets the peer in (which may
allow only some things), or :class:`~restmq.errors.AccessDenied`.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from restmq.access_rules import HostList, Rules, Section, canonical_address, parse_rules
from restmq.api_keys import DEFAULT_FILE_NAME, ApiKey, ApiKeys, key_in, parse_keys
from restmq.errors import InvalidKey, KeyRequired
from restmq.followed_file import FollowedFile

__all__ = [
    "BASIC_CHALLENGE",
    "BEARER_CHALLENGE",
    "Access",
    "HostList",
    "Section",
    "canonical_address",
    "keys_path",
]

BASIC_CHALLENGE: Final = 'Basic realm="RestMQ Restricted Access"'
"""What an HTTP endpoint puts into ``WWW-Authenticate`` on :class:`CredentialsRequired`."""

BEARER_CHALLENGE: Final = 'Bearer realm="RestMQ Restricted Access"'
"""And this as well where API keys are used."""

KEYS_INTERVAL_SECONDS: Final = 5.0
"""So often a running server looks whether a key was added or removed, or has expired."""

_PACKAGED_DEFAULT: Final = Path(__file__).with_name("acl.conf")

_logger = logging.getLogger(__name__)


def keys_path(keys: str, acl: str) -> Path:
    """Return the file of API keys: the one named, or ``keys.conf`` beside ``acl``."""
    return Path(keys) if keys else Path(acl).parent / DEFAULT_FILE_NAME


class Access:
    """The rules and keys in force, and the files they follow.

    Made by :meth:`load` for a server, by :meth:`from_text` where there is no file. Not for use
    from several threads.
    """

    def __init__(
        self,
        content: bytes,
        name: str,
        file: FollowedFile | None = None,
        keys_file: FollowedFile | None = None,
        *,
        requires_key: bool = False,
    ) -> None:
        self._rules: Rules = {}
        self._keys: ApiKeys | None = ApiKeys() if requires_key else None
        self._requires_key = requires_key
        self._is_open: dict[Section, bool] = {}
        self._file = file
        self._keys_file = keys_file
        self._use_rules(parse_rules(content, name))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        keys: str = "",
        *,
        requires_key: bool = False,
    ) -> Self:
        """Read the rules and keys from files, and follow those from then on.

        A bare file name (no directory part) that is not in the current directory stands for the
        packaged default, which lets everyone in, until such a file appears there. ``keys`` is the
        file of API keys, which must be there; empty for ``keys.conf`` beside ``path``, which may
        appear later. ``requires_key`` refuses whoever shows no key.

        Raises SettingsError naming the file, and the line or section at fault.
        """
        name = os.fspath(path)
        fallback = None if os.path.dirname(name) else _PACKAGED_DEFAULT
        file = FollowedFile(name, "rules", fallback)
        keys_file = FollowedFile(keys_path(keys, name), "API keys")
        access = cls(file.load(), file.name, file, keys_file, requires_key=requires_key)
        if keys or keys_file.is_there:
            access.use_keys(parse_keys(keys_file.load(), keys_file.name))
        if not file.found and access._keys is None:
            _logger.warning("there is no %s here, so everyone may do everything", file.name)
        if requires_key and not access._keys:
            _logger.warning("require_key is set, and there is no key in %s", keys_file.name)
        return access

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str = "acl.conf",
        keys: str | None = None,
        *,
        requires_key: bool = False,
    ) -> Self:
        """Take the rules from text in the form of ``acl.conf``; an empty text lets everyone in.

        ``keys`` is text in the form of ``keys.conf``; None for no use of keys.
        """
        access = cls(text.encode(), name, requires_key=requires_key)
        if keys is not None:
            access.use_keys(parse_keys(keys.encode(), DEFAULT_FILE_NAME))
        return access

    def _use_rules(self, rules: Rules) -> None:
        self._rules = rules
        self._note_open()

    def use_keys(self, keys: ApiKeys) -> None:
        """Put keys into force, until those of the file change."""
        self._keys = keys
        self._note_open()

    def _note_open(self) -> None:
        # Worked out here, so that keys cost nothing on each request where there are none.
        self._is_open = {
            section: self._keys is None and rule is None for section, rule in self._rules.items()
        }

    @property
    def uses_keys(self) -> bool:
        """Whether API keys are heeded: there is a file of them, or one is required."""
        return self._keys is not None

    def is_open(self, section: Section) -> bool:
        """Whether there is nothing to check, so that :meth:`check` lets everyone in."""
        return self._is_open[section]

    def check(
        self,
        section: Section,
        address: str,
        authorization: str | None,
        cookie: str | None = None,
        api_key: str | None = None,
    ) -> ApiKey | None:
        """Return if the peer may do what the section guards, and raise if not.

        ``address`` is the peer's IP address as text, ``authorization`` and ``cookie`` are the
        whole values of its headers of that name, ``api_key`` is a key that it gave elsewhere.
        Only :attr:`Section.WEBSOCKET` looks at the cookie.

        A key stands in for user name and password, and whoever shows one is judged by it: then it
        is returned, and what it does not allow must not be done. None is no further limit.

        Raises AccessDenied for a refused address (an HTTP 401 without challenge);
        CredentialsRequired for bad or missing credentials (a 401 with ``BASIC_CHALLENGE``), which
        is InvalidKey for a key, and KeyRequired where there must be one.
        """
        rule = self._rules[section]
        if rule is not None:
            rule.check_address(address)
        if self._keys is not None:
            key = self.check_key(authorization, api_key)
            if key is not None:
                return key
            if self._requires_key:
                raise KeyRequired("this needs an API key; an administrator can make one")
        if rule is not None:
            rule.check_credentials(authorization, cookie)
        return None

    def check_known(self, section: Section, address: str, key: ApiKey) -> None:
        """Do what :meth:`check` does for a peer that it let in with ``key``, at less cost.

        Raises AccessDenied for a refused address, and InvalidKey if the key does not hold any more.
        """
        rule = self._rules[section]
        if rule is not None:
            rule.check_address(address)
        self.check_still_holds(key)

    def check_still_holds(self, key: ApiKey) -> None:
        """Raise InvalidKey unless :meth:`still_holds`."""
        if not self.still_holds(key):
            raise InvalidKey(f"the API key {key.id} was removed or changed, or has expired")

    def still_holds(self, key: ApiKey) -> bool:
        """Return whether a key that :meth:`check` returned would still be let in."""
        return self._keys is not None and self._keys.holds(key)

    def check_key(self, authorization: str | None, api_key: str | None) -> ApiKey | None:
        """Return the key that a peer shows, if it does; raises InvalidKey for one that is none."""
        key = api_key if api_key is not None else key_in(authorization)
        return None if key is None or self._keys is None else self._keys.find(key)

    async def reload_if_changed(self) -> bool:
        """Look at the files now, and return whether other rules or keys were put into force.

        What cannot be read or parsed is logged, once for each content, and changes nothing.
        """
        # Keys first: rules that go with new keys must not find them missing.
        has_new_keys = await self.reload_keys()
        return await self._reload_rules() or has_new_keys

    async def _reload_rules(self) -> bool:
        file = self._file
        if file is None:
            return False

        def apply(content: bytes) -> bool:
            self._use_rules(parse_rules(content, file.name))
            return True

        return await file.reload_if_changed(apply)

    async def reload_keys(self) -> bool:
        """Look at the file of keys alone."""
        file = self._keys_file
        if file is None or not (file.found or file.is_there):
            return False

        def apply(content: bytes) -> bool:
            self.use_keys(parse_keys(content, file.name))
            return True

        return await file.reload_if_changed(apply)

    async def watch(self, interval_seconds: float = 60) -> None:
        """Look at the files every so often, until cancelled."""
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self.reload_if_changed()
            except Exception:
                # Whatever it was, the next change of the file must still be seen.
                _logger.exception("the access rules could not be checked for changes")

    async def watch_keys(
        self, note_checked: Callable[[], None], interval_seconds: float = KEYS_INTERVAL_SECONDS
    ) -> None:
        """Look at the file of keys every so often, until cancelled.

        ``note_checked`` is called after each look, to end what removed or expired keys began.
        """
        while True:
            await asyncio.sleep(interval_seconds)
            try:
                await self.reload_keys()
                note_checked()
            except Exception:
                _logger.exception("the API keys could not be checked for changes")
