"""The front door: finds the route of a request, asks whether it is allowed, translates errors.

A route is a row of a table: method, first segment of the path, the sections of acl.conf that it
needs, and the handler. A row cannot be without its sections, so no endpoint can forget to ask.
What follows the first segment is given to the handler, percent-decoded.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

from aiohttp import hdrs, web

from restmq.access import (
    BASIC_CHALLENGE,
    BEARER_CHALLENGE,
    Access,
    Section,
)
from restmq.api_keys import ApiKey
from restmq.broker.keys import check_queue_name
from restmq.endpoints.key_needs import needs_of
from restmq.endpoints.origins import HostRules, OriginRules
from restmq.endpoints.peers import TrustedProxies, key_of
from restmq.endpoints.web import Reply, Request, error_reply, log_fields
from restmq.errors import (
    CredentialsRequired,
    InvalidInput,
    KeyRequired,
    MethodNotAllowed,
    NotFound,
    RestMQError,
)
from restmq.rate_limits import RateLimits

logger = logging.getLogger(__name__)

Handler = Callable[[Request, str], Awaitable[web.StreamResponse]]

PREFLIGHT_SECONDS = 600
_ALLOWED_METHODS = "GET, POST, PUT, PATCH, DELETE"
_EXPOSED_HEADERS = (
    "Retry-After, X-RestMQ-Attempt, X-RestMQ-Duplicate, X-RestMQ-Expires, X-RestMQ-Key, "
    "X-RestMQ-Position, X-RestMQ-Receipt"
)
_DEFAULT_ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key"
_PROBES = ("healthz", "readyz")
_GUARDED_PROBE = "/rse/health"
"""A probe below a guarded segment: open to all and not counted, but for the report it can give."""
_KEY_COMES_LATER = ("stomp",)
"""A STOMP client over WebSocket may show its key in the CONNECT frame."""


class Pending:
    """One quick operation that a request comes down to.

    ``finish`` makes the reply of what ``future`` gives; ``give_back`` undoes it when the client
    is gone.
    """

    __slots__ = ("counts", "finish", "future", "give_back")

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        finish: Callable[[Any], Reply],
        give_back: Callable[[Any], None] | None = None,
    ) -> None:
        self.future = future
        self.finish = finish
        self.give_back = give_back
        self.counts: dict[int, float] | None = None
        """Where to count the reply, by its status."""

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
    counts: dict[int, float] | None = None
    """Where replies to what was begun are counted, by status; it has a zero for new ones."""


class Router:
    """Serves every HTTP request of a node."""

    def __init__(
        self,
        routes: Iterable[Route],
        access: Access,
        allowed_origins: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        rate_limits: RateLimits | None = None,
        host_rules: HostRules | None = None,
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
        self._origins = OriginRules(allowed_origins, host_rules)
        proxies = TrustedProxies(trusted_proxies)
        self.peer_address = proxies.peer_address
        self.is_encrypted = proxies.is_encrypted
        self._rate_limits = rate_limits
        self._keyed: dict[int, tuple[Request, ApiKey]] = {}
        """Requests under way that a key let in, by their ids; others are not held here."""

    @property
    def routes(self) -> list[Route]:
        """Return every row, for documentation and for the test that tries each of them."""
        return [route for methods in self._table.values() for route in methods.values()]

    async def handle(self, request: Request) -> web.StreamResponse:
        """Answer one request; every error becomes a reply here."""
        try:
            route, name = self._admit(request)
            if request.key is None:
                return await route.handler(request, name)
            return await self._handle_keyed(request, request.key, route, name)
        except RestMQError as error:
            return self._refuse(request, error)
        except (web.HTTPException, ConnectionError):
            raise
        except Exception:
            return self._refuse(request, _log_unexpected(request))

    async def _handle_keyed(
        self, request: Request, key: ApiKey, route: Route, name: str
    ) -> web.StreamResponse:
        """Serve a request that ends with its key."""
        self._keyed[id(request)] = (request, key)
        try:
            return await route.handler(request, name)
        finally:
            del self._keyed[id(request)]

    def begin(self, request: Request) -> Pending | None:
        """Begin a request if it is one quick operation; ``handle`` serves all others.

        The body of a request that is begun, or refused, has been read.
        """
        segment = request.raw_path[1:].partition("/")[0]
        quick = self._quick.get((request.method, segment))
        if quick is None:
            return None
        try:
            route, name = self._admit(request)
            pending = None if route.begin is None else route.begin(request, name)
        except RestMQError as error:
            pending = Pending.failed(error)
        except Exception:
            # The body may have been read, so that ``handle`` could only guess at it.
            pending = Pending.failed(_log_unexpected(request))
        if pending is not None:
            pending.counts = quick.counts
        return pending

    def finish(self, request: Request, pending: Pending) -> Reply:
        """Make the reply to what was begun, once its future is done."""
        try:
            reply = pending.finish(pending.future.result())
        except RestMQError as error:
            reply = self._refuse(request, error)
        except Exception:
            reply = self._refuse(request, _log_unexpected(request))
        if pending.counts is not None:
            pending.counts[reply.status] += 1
        return reply

    def _admit(self, request: Request) -> tuple[Route, str]:
        """Find the route and what follows its segment; raises if the peer may not use it."""
        segment, _, rest = _path_of(request)[1:].partition("/")
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and self._origins.allows(origin):
            request.cors = _cors(origin, self._origins.names(origin))  # refusals are to be read too
        if self._rate_limits is not None:
            self._count(request, segment, self._rate_limits)
        methods = self._table.get(segment)
        if methods is None:
            raise NotFound("there is nothing at this path; see /static/help.html")
        route = methods.get(request.method) or self._other_route(request, methods)
        if origin is None:
            changes = route.changes and bool(segment or "?" in request.raw_path)
            self._origins.check_embedding(request, changes=changes)
        elif not request.cors:
            self._origins.check_origin(request, origin, changes=route.changes)
        for section in route.sections:
            if not self._access.is_open(section) and request.raw_path != _GUARDED_PROBE:
                self.check_access(request, section)
        name = rest if rest.isascii() and "%" not in rest else _decode_path(rest)
        if request.key is not None:
            self._check_key(request, route, name)
        if route.named:
            check_queue_name(name)
        return route, name

    def _count(self, request: Request, segment: str, limits: RateLimits) -> None:
        """Raise RateLimited if this request is one too many of its client."""
        # ``begin`` may leave to ``handle`` what it has counted; probes must always be answered.
        is_probe = segment in _PROBES or request.raw_path == _GUARDED_PROBE
        if not request.is_counted and not is_probe:
            request.is_counted = True
            limits.take(self.peer_address(request))

    def check_access(self, request: Request, section: Section) -> None:
        """Raise AccessDenied or CredentialsRequired unless the peer may use ``section``.

        What an API key of the peer allows is asked by the table of routes (``key_needs.py``).
        """
        segment = _path_of(request)[1:].partition("/")[0]
        try:
            request.key = self._access.check(
                section,
                self.peer_address(request),
                request.headers.get(hdrs.AUTHORIZATION),
                request.headers.get(hdrs.COOKIE),
                key_of(request, segment),
            )
        except KeyRequired:
            if segment not in _KEY_COMES_LATER:
                raise

    def _check_key(self, request: Request, route: Route, name: str) -> None:
        """Raise Forbidden unless the key that the request shows allows it."""
        key = request.key
        assert key is not None
        needs = needs_of(request, route.method, route.segment, route.sections, name)
        for permission, resource in needs:
            key.check(permission, resource)

    def end_keyless(self) -> None:
        """Close the connections of requests under way whose key was removed, or has expired."""
        for request, key in list(self._keyed.values()):
            if not self._access.still_holds(key) and request.transport is not None:
                request.transport.close()

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
            if self._access.uses_keys:
                headers = [*headers, ("WWW-Authenticate", BEARER_CHALLENGE)]
        elif isinstance(error, MethodNotAllowed):
            headers = [("Allow", error.allowed)]
        return error_reply(error, headers)


def _path_of(request: Request) -> str:
    path = request.raw_path
    if "?" in path:
        path = path[: path.index("?")]
    # Proxies use the absolute form.
    return path if path[:1] == "/" else request.rel_url.raw_path


def _log_unexpected(request: Request) -> RestMQError:
    """Log the exception under way whole, and return what the client is told of it."""
    path = request.rel_url.raw_path
    logger.exception("%s %s failed", request.method, path, extra=log_fields(request))
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
