"""Which pages may use this server: by their origin, by who embeds what, and by the server's name.

A browser runs pages of any site, and lets them send requests to a server that only its own machine
can reach. What it says of such a request, it says in ``Origin``, ``Sec-Fetch-Site``, ``Referer``
and ``Host``.
"""

import ipaddress
from collections.abc import Iterable
from typing import Self
from urllib.parse import SplitResult, urlsplit

from aiohttp import hdrs
from multidict import istr

from restmq.endpoints.peers import readable
from restmq.endpoints.web import Request, query_parameters
from restmq.errors import ForeignOrigin

_SEC_FETCH_SITE = istr("Sec-Fetch-Site")  # an istr is found faster than a str
_FOREIGN_SITES = ("cross-site", "same-site")
_LOCALHOST = "localhost"


class HostRules:
    """By which names browsers may know a server that only programs of its machine can reach.

    A page whose own name was made to lead here (DNS rebinding) is of no other origin, but its
    requests carry that name. Addresses and ``localhost`` can be led nowhere else.
    """

    def __init__(self, allowed_hosts: Iterable[str]) -> None:
        self._allowed = frozenset(name.lower() for name in allowed_hosts)

    @classmethod
    def of(
        cls, listeners: Iterable[str], allowed_hosts: Iterable[str], trusted_proxies: Iterable[str]
    ) -> Self | None:
        """Return what holds for listeners on these hosts; None where others can reach them."""
        if tuple(trusted_proxies) or not all(map(_is_loopback, listeners)):
            return None
        return cls(allowed_hosts)

    def check(self, host: str) -> None:
        """Raise ForeignOrigin for a ``Host`` that may be some page's name for this server."""
        name = _name_in(host)
        if name in self._allowed or name == _LOCALHOST or name.endswith(f".{_LOCALHOST}"):
            return
        if not _is_address(name):
            raise ForeignOrigin(
                f"this server is not known as {readable(name[:200])}; the setting allowed_hosts "
                "can name it, or trusted_proxies the proxy in front"
            )


class OriginRules:
    """Which pages of other sites may use this server."""

    def __init__(
        self, allowed_origins: Iterable[str] = (), host_rules: HostRules | None = None
    ) -> None:
        self._allowed = frozenset(origin.lower() for origin in allowed_origins)
        self._host_rules = host_rules

    def allows(self, origin: str) -> bool:
        """Return whether the settings name this origin."""
        return "*" in self._allowed or origin.lower() in self._allowed

    def names(self, origin: str) -> bool:
        """Return whether the settings name it in full, not just as one of all."""
        return origin.lower() in self._allowed

    def check_origin(self, request: Request, origin: str, *, changes: bool) -> None:
        """Raise ForeignOrigin for what a page of an origin that is not allowed may not do.

        ``changes``: whether the request changes or consumes something.
        """
        if self._host_rules is not None:
            self._host_rules.check(request.host)
        if changes and not _is_same(_split(origin), request.host):
            raise _foreign(origin)

    def check_embedding(self, request: Request, *, changes: bool) -> None:
        """Raise ForeignOrigin for what a foreign page makes a browser load without an Origin.

        That is what changes something, and what hands its answer to a function of the page.
        """
        site = request.headers.get(_SEC_FETCH_SITE)
        if site is None and not _may_name_callback(request.raw_path):
            return
        if changes and site is not None and self._host_rules is not None:
            self._host_rules.check(request.host)
        if not changes and not query_parameters(request).names(b"callback"):
            return
        referrer = _split(request.headers.get(hdrs.REFERER, ""))
        if site is None:
            # Browsers tell the site to HTTPS and localhost only, but mostly there is a referrer.
            is_foreign = bool(referrer.netloc) and not _is_same(referrer, request.host)
        else:
            is_foreign = site in _FOREIGN_SITES
        origin = f"{referrer.scheme}://{referrer.netloc}"
        if is_foreign and not self.allows(origin):
            raise _foreign(origin)


def _may_name_callback(path: str) -> bool:
    return "?" in path and ("callback" in path or "%" in path)


def _is_same(origin: SplitResult, host: str) -> bool:
    """Return whether a page of ``origin`` talks to the server it came from."""
    return origin.netloc.lower() == host.lower()


def _split(url: str) -> SplitResult:
    """Take a URL apart; what is none has no parts."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _foreign(origin: str) -> ForeignOrigin:
    page = readable(origin[:200])
    return ForeignOrigin(
        f"pages of {page} may not do this; the setting allowed_origins can let them"
    )


def _name_in(host: str) -> str:
    """Return what stands before the port in the value of a ``Host`` header."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(listener: str) -> bool:
    if not _is_address(listener):
        return listener == _LOCALHOST
    return ipaddress.ip_address(listener).is_loopback
