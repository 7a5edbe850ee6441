"""The access log: a line for each request when it is over, and for each STOMP connection.

It is part of the server's log, under the name ``restmq.requests``, with fields:

    connection     which connection it came over: the process and a number
    peer           the client's address, by X-Forwarded-For where a trusted proxy says it
    method, path   of the request; the path as it was sent, and never the query
    status         of the reply; 499 when the client left before there was one
    bytes          what was sent, head and body
    milliseconds   from the request's head to the reply's end; for a stream, how long it lasted
    key            the id of the API key, if one was shown
"""

import asyncio
import itertools
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any, Final

from restmq.log_lines import fields

CLIENT_LEFT: Final = 499
"""The status of a request whose client left before it had an answer."""

MAX_PATH_CHARACTERS: Final = 1024
MAX_PEER_CHARACTERS: Final = 64

_logger = logging.getLogger("restmq.requests")


class AccessLog:
    """Writes the lines of one process, if ``is_on``, and names its connections in any case."""

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        self._numbers: Iterator[int] = itertools.count(1)
        if is_on:
            _logger.setLevel(logging.INFO)  # it was asked for, whatever the level of all else

    def new_connection_id(self) -> str:
        """Return the name of a connection, unique on this machine."""
        return f"{os.getpid()}-{next(self._numbers)}"

    def note_request(
        self,
        connection: str,
        peer: str,
        method: str,
        path: str,
        status: int,
        sent_bytes: int,
        seconds: float,
        key: str | None = None,
    ) -> None:
        """Write the line of a request that is over."""
        path = path.partition("?")[0][:MAX_PATH_CHARACTERS]
        values: dict[str, object] = {
            "connection": connection,
            "peer": peer[:MAX_PEER_CHARACTERS],  # a proxy may say anything
            "method": method,
            "path": path,
            "status": status,
            "bytes": sent_bytes,
            "milliseconds": round(seconds * 1000, 3),
        }
        if key is not None:
            values["key"] = key
        _logger.info("request", extra=fields(**values))

    def note_stomp(self, event: str, connection: str, peer: str, key: str | None = None) -> None:
        """Write that a STOMP connection has come, or gone: ``connected``, ``disconnected``."""
        values = {"connection": connection, "peer": peer, "event": event}
        if key is not None:
            values["key"] = key
        _logger.info("STOMP %s", event, extra=fields(**values))


class CountingTransport:
    """A transport that counts what is sent, and notes the status of the HTTP reply it begins."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.sent_bytes = 0
        self.status = 0

    def __getattr__(self, name: str) -> Any:
        """Leave all else to the transport itself."""
        return getattr(self._transport, name)

    def begin_reply(self) -> None:
        """Count anew."""
        self.sent_bytes = self.status = 0

    def write(self, data: bytes) -> None:
        """Send octets."""
        self._count(data)
        self._transport.write(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Send octets that lie in several pieces."""
        pieces = list(parts)
        for piece in pieces:
            self._count(piece)
        self._transport.writelines(pieces)

    def _count(self, data: bytes) -> None:
        self.sent_bytes += len(data)
        # 100 Continue comes before the reply, which may be of any later status.
        if self.status in (0, 100) and bytes(data[:5]) == b"HTTP/":
            self.status = int(data[9:12])
