"""The front door: finds the route of a request, asks whether it is allowed, translates errors.

A route is a row of a table: method, first segment of the path, the sections of acl.conf that it
needs, and the handler. A row cannot be without its sections, so no endpoint can forget to ask.
What follows the first segment is given to the handler, percent-decoded.
"""

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from aiohttp import hdrs, web
from multidict import istr

from restmq.access import BASIC_CHALLENGE, Access, Section, canonical_address
from restmq.broker.keys import check_queue_name
from restmq.endpoints.web import Reply, Request, error_reply
from restmq.errors import (
    CredentialsRequired,
    ForeignOrigin,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    RestMQError,
)

logger = logging.getLogger(__name__)

Handler = Callable[[Request, str], Awaitable[web.StreamResponse]]

PREFLIGHT_SECONDS = 600
_SEC_FETCH_SITE = istr("Sec-Fetch-Site")  # an istr is found faster than a str
_FOREIGN_SITES = ("cross-site", "same-site")
_ALLOWED_METHODS = "GET, POST, PUT, PATCH, DELETE"
_EXPOSED_HEADERS = (
    "Retry-After, X-RestMQ-Attempt, X-RestMQ-Duplicate, X-RestMQ-Expires, X-RestMQ-Key, "
    "X-RestMQ-Position, X-RestMQ-Receipt"
)
_DEFAULT_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"


class Pending:
    """One quick operation that a request comes down to.

    ``finish`` makes the reply of what ``future`` gives; ``give_back`` undoes it when the client
    is gone.
    """

    __slots__ = ("finish", "future", "give_back")

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        finish: Callable[[Any], Reply],
        give_back: Callable[[Any], None] | None = None,
    ) -> None:
        self.future = future
        self.finish = finish
        self.give_back = give_back

    @classmethod
    def failed(cls, error: RestMQError) -> "Pending":
        """Return one that has come to nothing."""

        def finish(outcome: RestMQError) -> Reply:
            raise outcome

        # A result and no exception: nobody need look at it if the client is gone.
        future = asyncio.get_running_loop().create_future()
        future.set_result(error)
        return cls(future, finish)

    def abandon(self) -> None:
        """Undo what was done for a client that is gone."""
        future = self.future
        if future.cancelled() or future.exception() is not None:
            return
        if self.give_back is not None:
            self.give_back(future.result())


Begin = Callable[[Request, str], Pending | None]
Refuse = Callable[[Request, RestMQError], Reply]


class Route(NamedTuple):
    """One row of the table."""

    method: str
    segment: str
    """The first segment of the path; empty for the root."""
    sections: tuple[Section, ...]
    """All of these must allow the peer; an empty tuple is open to everyone."""
    handler: Handler
    changes: bool
    """Whether it changes or consumes something, which pages of foreign origins may not."""
    named: bool = False
    """Whether the rest of the path must be a queue's name."""
    begin: Begin | None = None
    """Begins a request that is one quick operation, without a task; None if this one is not."""
    refuse: Refuse | None = None
    """Tells errors in a shape of its own: all of the first segment, also before there is a row."""


class OriginRules:
    """Which pages of other sites may use this server."""

    def __init__(self, allowed_origins: Iterable[str]) -> None:
        self._allowed = frozenset(origin.lower() for origin in allowed_origins)

    def allows(self, origin: str) -> bool:
        """Return whether the settings name this origin."""
        return "*" in self._allowed or origin.lower() in self._allowed

    def names(self, origin: str) -> bool:
        """Return whether the settings name it in full, not just as one of all."""
        return origin.lower() in self._allowed

    @staticmethod
    def is_same(origin: str, host: str) -> bool:
        """Return whether a page of ``origin`` talks to the server it came from."""
        return _split(origin).netloc.lower() == host.lower()


class Router:
    """Serves every HTTP request of a node."""

    def __init__(
        self,
        routes: Iterable[Route],
        access: Access,
        allowed_origins: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
    ) -> None:
        self._table: dict[str, dict[str, Route]] = {}
        for route in routes:
            methods = self._table.setdefault(route.segment, {})
            assert route.method not in methods, f"{route.method} /{route.segment} is there twice"
            methods[route.method] = route
        self._quick = {
            (route.method, route.segment): route for route in self.routes if route.begin is not None
        }
        self._refusals = {
            route.segment: route.refuse for route in self.routes if route.refuse is not None
        }
        self._access = access
        self._origins = OriginRules(allowed_origins)
        self._proxies = [ipaddress.ip_network(proxy, strict=False) for proxy in trusted_proxies]

    @property
    def routes(self) -> list[Route]:
        """Return every row, for documentation and for the test that tries each of them."""
        return [route for methods in self._table.values() for route in methods.values()]

    async def handle(self, request: Request) -> web.StreamResponse:
        """Answer one request; every error becomes a reply here."""
        try:
            route, name = self._admit(request)
            return await route.handler(request, name)
        except RestMQError as error:
            return self._refuse(request, error)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            return error_reply(_log_unexpected(request))

    def begin(self, request: Request) -> Pending | None:
        """Begin a request if it is one quick operation; ``handle`` serves all others.

        The body of a request that is begun, or refused, has been read.
        """
        segment = request.raw_path[1:].partition("/")[0]
        route = self._quick.get((request.method, segment))
        if route is None or route.begin is None:
            return None
        try:
            route, name = self._admit(request)
            return None if route.begin is None else route.begin(request, name)
        except RestMQError as error:
            return Pending.failed(error)
        except Exception:
            # The body may have been read, so that ``handle`` could only guess at it.
            return Pending.failed(_log_unexpected(request))

    def finish(self, request: Request, pending: Pending) -> Reply:
        """Make the reply to what was begun, once its future is done."""
        try:
            return pending.finish(pending.future.result())
        except RestMQError as error:
            return self._refuse(request, error)
        except Exception:
            return error_reply(_log_unexpected(request))

    def _admit(self, request: Request) -> tuple[Route, str]:
        """Find the route and what follows its segment; raises if the peer may not use it."""
        segment, _, rest = _path_of(request)[1:].partition("/")
        methods = self._table.get(segment)
        if methods is None:
            raise NotFound("there is nothing at this path; see /static/help.html")
        route = methods.get(request.method) or self._other_route(request, methods)
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None:
            self._check_origin(request, route, origin)
        elif request.headers.get(_SEC_FETCH_SITE) in _FOREIGN_SITES:
            self._check_embedding(request, route)
        for section in route.sections:
            if not self._access.is_open(section):
                self.check_access(request, section)
        name = rest if rest.isascii() and "%" not in rest else _decode_path(rest)
        if route.named:
            check_queue_name(name)
        return route, name

    def check_access(self, request: Request, section: Section) -> None:
        """Raise AccessDenied or CredentialsRequired unless the peer may use ``section``."""
        self._access.check(
            section,
            self.peer_address(request),
            request.headers.get("Authorization"),
            request.headers.get("Cookie"),
        )

    def peer_address(self, request: Request) -> str:
        """Return the address of the client: the TCP peer, or whom a trusted proxy names."""
        peer = request.transport.get_extra_info("peername") if request.transport else None
        address = peer[0] if isinstance(peer, tuple) else ""
        if not self._proxies or not self._is_proxy(address):
            return address
        # Each proxy appends the address it saw, so the last that is no proxy of ours is true.
        forwarded = _readable(",".join(request.headers.getall("X-Forwarded-For", ())))
        for hop in reversed(forwarded.split(",")):
            hop = hop.strip()
            if not hop:
                break
            address = hop
            if not self._is_proxy(hop):
                break
        return address

    def _is_proxy(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(canonical_address(address))
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

    def _check_embedding(self, request: Request, route: Route) -> None:
        """Refuse what a foreign page makes a browser load without an Origin, as scripts are."""
        if not route.changes or not (route.segment or "?" in request.raw_path):
            return
        referrer = _split(request.headers.get("Referer", ""))
        origin = f"{referrer.scheme}://{referrer.netloc}"
        if not self._origins.allows(origin):
            raise _foreign(origin)

    def _check_origin(self, request: Request, route: Route, origin: str) -> None:
        if self._origins.allows(origin):
            request.cors = _cors(origin, self._origins.names(origin))
        elif route.changes and not self._origins.is_same(origin, request.host):
            raise _foreign(origin)

    def _other_route(self, request: Request, methods: dict[str, Route]) -> Route:
        """Find what serves a method that the table does not name for this path."""
        read = methods.get("GET")
        if request.method == "HEAD" and read is not None and not read.changes:
            return read
        allowed = ", ".join(sorted({*methods, "OPTIONS"}))
        if request.method != "OPTIONS":
            raise MethodNotAllowed(allowed)

        async def preflight(request: Request, rest: str) -> web.StreamResponse:
            return _preflight_reply(request, allowed)

        return Route("OPTIONS", "", (), preflight, changes=False)

    def _refuse(self, request: Request, error: RestMQError) -> Reply:
        refuse = self._refusals.get(_path_of(request)[1:].partition("/")[0])
        if refuse is not None:
            return refuse(request, error)
        headers: Sequence[tuple[str, str]] = ()
        if isinstance(error, CredentialsRequired):
            headers = [("WWW-Authenticate", BASIC_CHALLENGE)]
        elif isinstance(error, MethodNotAllowed):
            headers = [("Allow", error.allowed)]
        return error_reply(error, headers)


def _split(url: str) -> SplitResult:
    """Take a URL apart; what is none has no parts."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _path_of(request: Request) -> str:
    path = request.raw_path
    if "?" in path:
        path = path[: path.index("?")]
    # Proxies use the absolute form.
    return path if path[:1] == "/" else request.rel_url.raw_path


def _readable(text: str) -> str:
    """Return the text of a header as it can be told again: bytes that are not UTF-8 become ``?``.

    They arrive as surrogates, which nothing that is sent can hold.
    """
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _log_unexpected(request: Request) -> RestMQError:
    """Log the exception under way whole, and return what the client is told of it."""
    logger.exception("%s %s failed", request.method, request.rel_url.raw_path)
    return RestMQError("something failed here; the server's log says what")


def _preflight_reply(request: Request, allowed: str) -> Reply:
    headers = [("Allow", allowed)]
    if request.cors:
        wanted = request.headers.get("Access-Control-Request-Headers", "")
        headers += [
            ("Access-Control-Allow-Methods", _ALLOWED_METHODS),
            ("Access-Control-Allow-Headers", wanted or _DEFAULT_ALLOWED_HEADERS),
            ("Access-Control-Max-Age", str(PREFLIGHT_SECONDS)),
        ]
    return Reply(status=204, headers=headers)


def _foreign(origin: str) -> ForeignOrigin:
    page = _readable(origin[:200])
    return ForeignOrigin(
        f"pages of {page} may not do this; the setting allowed_origins can let them"
    )


def _cors(origin: str, named: bool) -> list[tuple[str, str]]:
    """Return the header lines for a page of this origin; only a named one may send passwords."""
    lines = [("Access-Control-Expose-Headers", _EXPOSED_HEADERS), ("Vary", "Origin")]
    if named:
        lines.append(("Access-Control-Allow-Credentials", "true"))
    return [("Access-Control-Allow-Origin", origin if named else "*"), *lines]


def _decode_path(path: str) -> str:
    """Percent-decode; raises InvalidInput unless the result is UTF-8."""
    try:
        return unquote_to_bytes(path.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError:
        raise InvalidInput("the queue's name must be valid UTF-8, percent-encoded") from None
