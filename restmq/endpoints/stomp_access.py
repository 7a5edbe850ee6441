"""Who a STOMP client is, and what that lets it do: acl.conf, asked with login and passcode.

With the login ``key`` the passcode is an API key. A client over WebSocket that gives no login is
known by what its handshake said, a key included.
"""

import base64
import hmac
from typing import NamedTuple

from restmq.access import Access, Section
from restmq.api_keys import ApiKey, Permission, Resource, key_in
from restmq.broker.topics import WILDCARD
from restmq.codecs.stomp_commands import Connect
from restmq.endpoints.stomp_destinations import Destination, Kind
from restmq.errors import AccessDenied
from restmq.rate_limits import RateLimits
from restmq.settings import Settings


class Peer(NamedTuple):
    """A client as the wire knows it: its address, and what its handshake said, if there was one."""

    address: str
    authorization: str | None = None
    cookie: str | None = None
    api_key: str | None = None
    key: ApiKey | None = None
    """The key that let it in, once it is connected."""


class StompAccess:
    """Decides for all STOMP connections.

    To connect takes what ``[stomp]`` asks for, in the settings and in acl.conf; to send takes what
    producers need over HTTP, and to subscribe what consumers need, with the same login. A key must
    still be there whenever something is asked for, also to acknowledge.
    """

    def __init__(
        self, access: Access, settings: Settings, rate_limits: RateLimits | None = None
    ) -> None:
        self._access = access
        self._rate_limits = rate_limits
        self._credentials: tuple[str, str] | None = None
        if settings.stomp_login or settings.stomp_passcode:
            self._credentials = (settings.stomp_login, settings.stomp_passcode)

    def admit(self, peer: Peer, connect: Connect) -> Peer:
        """Return who the client is.

        Raises AccessDenied if it may not connect, and for one guess too many, RateLimited.
        """
        if self._rate_limits is not None:
            self._rate_limits.take(peer.address)
        login, passcode = connect.login, connect.passcode or ""
        if login is not None:
            pair = base64.b64encode(f"{login}:{passcode}".encode()).decode()
            peer = Peer(peer.address, f"Basic {pair}")
        shows_key = self._access.uses_keys and (
            peer.api_key is not None or key_in(peer.authorization) is not None
        )
        if self._credentials is not None and not shows_key:
            given = (login or "", passcode)
            matches = [
                hmac.compare_digest(ours.encode(), theirs.encode())
                for ours, theirs in zip(self._credentials, given, strict=True)
            ]
            if not all(matches):
                raise AccessDenied("the login or passcode is wrong")
        return peer._replace(key=self.check(peer, Section.STOMP))

    def check_key(self, peer: Peer) -> None:
        """Raise InvalidKey if a key let the client in that is not what it was any more."""
        if peer.key is not None:
            self._access.check_still_holds(peer.key)
        elif self._access.uses_keys:
            self._access.check_key(peer.authorization, peer.api_key)

    def check(
        self, peer: Peer, section: Section, destination: Destination | None = None
    ) -> ApiKey | None:
        """Return the client's key, if it has one; raises unless it may do what the section guards.

        ``destination`` is where a producer sends to, or a consumer subscribes to. Raises
        AccessDenied, and for one more frame than the address may send, RateLimited.
        """
        if self._rate_limits is not None and destination is not None:
            self._rate_limits.take(peer.address)
        if self._access.is_open(section):
            return None
        key = peer.key
        if key is None:
            key = self._access.check(
                section, peer.address, peer.authorization, peer.cookie, peer.api_key
            )
        else:  # each frame comes here
            self._access.check_known(section, peer.address, key)
        if key is not None and destination is not None and destination.kind is not Kind.TEMPORARY:
            is_sending = section is Section.PRODUCER
            permission = Permission.PUBLISH if is_sending else Permission.CONSUME
            key.check(permission, _resource(destination))
        return key


def _resource(destination: Destination) -> Resource:
    """Return what a key must cover: of a wildcard, all that it can match."""
    name = destination.name
    if destination.is_wildcard:
        name = name.removesuffix(WILDCARD) + "."
    is_path = destination.kind is Kind.TOPIC
    return Resource(f"/topic/{name}" if is_path else name, is_path, destination.is_wildcard)
