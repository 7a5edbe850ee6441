"""Who a STOMP client is, and what that lets it do: acl.conf, asked with login and passcode."""

import base64
import hmac
from typing import NamedTuple

from restmq.access import Access, Section
from restmq.codecs.stomp_commands import Connect
from restmq.errors import AccessDenied
from restmq.settings import Settings


class Peer(NamedTuple):
    """A client as the wire knows it: its address, and what its handshake said, if there was one."""

    address: str
    authorization: str | None = None
    cookie: str | None = None


class StompAccess:
    """Decides for all STOMP connections.

    To connect takes what ``[stomp]`` asks for, in the settings and in acl.conf; to send takes what
    producers need over HTTP, and to subscribe what consumers need, with the same login.
    """

    def __init__(self, access: Access, settings: Settings) -> None:
        self._access = access
        self._credentials: tuple[str, str] | None = None
        if settings.stomp_login or settings.stomp_passcode:
            self._credentials = (settings.stomp_login, settings.stomp_passcode)

    def admit(self, peer: Peer, connect: Connect) -> Peer:
        """Return who the client is; raises AccessDenied if it may not connect."""
        login, passcode = connect.login, connect.passcode or ""
        if login is not None:
            pair = base64.b64encode(f"{login}:{passcode}".encode()).decode()
            peer = Peer(peer.address, f"Basic {pair}")
        if self._credentials is not None:
            given = (login or "", passcode)
            matches = [
                hmac.compare_digest(ours.encode(), theirs.encode())
                for ours, theirs in zip(self._credentials, given, strict=True)
            ]
            if not all(matches):
                raise AccessDenied("the login or passcode is wrong")
        self.check(peer, Section.STOMP)
        return peer

    def check(self, peer: Peer, section: Section) -> None:
        """Raise AccessDenied unless the client may do what the section guards."""
        if not self._access.is_open(section):
            self._access.check(section, peer.address, peer.authorization, peer.cookie)
