"""Who may use which of Queuey's queues: application keys, and the principles of a queue.

This is section 2 of the Queuey specification: ``Authorization: Application KEY``, where several
credentials may stand with semicolons between them.
"""

import hashlib
import secrets
from collections.abc import Collection, Iterable

from restmq.endpoints.queuey_fields import QueueSettings
from restmq.errors import AccessDenied

_SCHEME = "application"
_DIGEST_BYTES = 32

MAX_ACCEPTED = 1000
"""Headers that are remembered."""

Applications = Collection[str]
"""The applications that a client has shown the keys of."""


class InvalidApplicationKey(AccessDenied):
    """No application has this key."""

    field = "InvalidApplicationKey"


class Forbidden(AccessDenied):
    """The client is known, or nobody, and may not do this."""

    code = "forbidden"
    field = "Forbidden"


class ApplicationKeys:
    """The applications there are and their keys, each given as ``APPLICATION=KEY``."""

    def __init__(self, pairs: Iterable[str]) -> None:
        # Keys are found by a keyed hash, so how long that takes tells nothing about any key.
        self._secret = secrets.token_bytes(_DIGEST_BYTES)
        self._owners: dict[bytes, str] = {}
        for pair in pairs:
            application, _, key = pair.partition("=")
            self._owners[self._digest(key)] = application
        self._applications = frozenset(self._owners.values())
        self._accepted: dict[str, Applications] = {}
        """Headers that were found right: each request of a client carries the same one."""

    def __contains__(self, application: str) -> bool:
        return application in self._applications

    def applications_of(self, authorization: str | None) -> Applications:
        """Return whose keys the header carries: nobody's, without one of this scheme.

        Raises InvalidApplicationKey if a key is nobody's.
        """
        if not authorization:
            return ()
        # A dictionary compares texts only once their hashes, which nobody can foretell, are equal.
        accepted = self._accepted.get(authorization)
        if accepted is not None:
            return accepted
        found = []
        for credential in authorization.split(";"):
            scheme, _, key = credential.strip().partition(" ")
            if scheme.lower() != _SCHEME:
                continue
            owner = self._owners.get(self._digest(key.strip()))
            if owner is None:
                raise InvalidApplicationKey("Invalid application key")
            found.append(owner)
        if len(self._accepted) >= MAX_ACCEPTED:
            self._accepted.clear()
        self._accepted[authorization] = found
        return found

    def _digest(self, key: str) -> bytes:
        data = key.encode("utf-8", "surrogateescape")
        return hashlib.blake2b(data, key=self._secret, digest_size=_DIGEST_BYTES).digest()


def check_owner(application: str, shown: Applications) -> None:
    """Raise Forbidden unless the client has the application's own key."""
    if application not in shown:
        raise Forbidden("Access was denied to this resource.")


def check_reader(settings: QueueSettings, application: str, shown: Applications) -> None:
    """Raise Forbidden unless the client may read the queue's messages."""
    if settings.type != "public":
        check_member(settings, application, shown)


def check_member(settings: QueueSettings, application: str, shown: Applications) -> None:
    """Raise Forbidden unless the client may delete messages.

    That is whoever the queue's principles name, or without any, the application itself.
    """
    principles = settings.principle_list
    if not principles:
        check_owner(application, shown)
    elif not any(f"app:{each}" in principles for each in shown):
        raise Forbidden("Access was denied to this resource.")
