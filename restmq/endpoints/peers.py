"""Who is behind a request: its address, whether it came encrypted, and the API key it shows."""

import ipaddress
from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs
from multidict import istr

from restmq.access import canonical_address
from restmq.endpoints.parameters import query_parameters
from restmq.endpoints.replies import Request

KEY_HEADER: Final = istr("X-API-Key")
KEY_PARAMETER: Final = b"api_key"

_FORWARDED_FOR: Final = istr("X-Forwarded-For")
_FORWARDED_PROTO: Final = istr("X-Forwarded-Proto")
_STREAM_SEGMENTS: Final = ("c", "ws", "stomp")
_EVENT_STREAM: Final = "text/event-stream"


class TrustedProxies:
    """The proxies whose word about their clients is believed."""

    def __init__(self, proxies: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(proxy, strict=False) for proxy in proxies]

    def peer_address(self, request: Request) -> str:
        """Return the address of the client: the TCP peer, or whom a trusted proxy names."""
        address = _tcp_address(request)
        if not self._networks or not self._names(address):
            return address
        # Each proxy appends the address it saw, so the last that is no proxy of ours is true.
        forwarded = readable(",".join(request.headers.getall(_FORWARDED_FOR, ())))
        for hop in reversed(forwarded.split(",")):
            hop = _without_port(hop.strip())
            if not hop:
                break
            address = hop
            if not self._names(hop):
                break
        return address

    def is_encrypted(self, request: Request) -> bool:
        """Return whether the client came over HTTPS: to this server, or to a trusted proxy.

        What the proxy next to this server says last in ``X-Forwarded-Proto`` is what counts.
        """
        if request.secure:
            return True
        if not self._networks or not self._names(_tcp_address(request)):
            return False
        said = ",".join(request.headers.getall(_FORWARDED_PROTO, ()))
        return said.rpartition(",")[2].strip().lower() == "https"

    def _names(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(canonical_address(address))
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _without_port(hop: str) -> str:
    """Return the address of a hop alone: some proxies write ``1.2.3.4:80`` and ``[::1]:80``."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _tcp_address(request: Request) -> str:
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return str(peer[0]) if isinstance(peer, tuple) else ""


def readable(text: str) -> str:
    """Return the text of a header as it can be told again: bytes that are not UTF-8 become ``?``.

    They arrive as surrogates, which nothing that is sent can hold.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def key_of(request: Request, segment: str) -> str | None:
    """Return the API key that stands beside the ``Authorization`` header, if there is one.

    That is ``X-API-Key``, or for streams, as browsers cannot send headers with those, the
    parameter ``api_key`` of the query. Nowhere else, since queries end up in the logs of proxies.
    """
    key = request.headers.get(KEY_HEADER)
    if key is not None or "?" not in request.raw_path or request.method != "GET":
        return key
    is_stream = segment in _STREAM_SEGMENTS or (
        _EVENT_STREAM in request.headers.get(hdrs.ACCEPT, "").lower()
    )
    if not is_stream:
        return None
    value = query_parameters(request).raw(KEY_PARAMETER)
    return None if value is None else value.decode("utf-8", "surrogateescape")
