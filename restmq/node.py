"""One worker process: a broker over one Redis, and the listeners in front of it.

The composition root: here every part of the house is made and put together.
"""

import asyncio
import logging
import math
from collections.abc import Iterator, Sequence
from typing import Protocol, Self, cast

from aiohttp import web

from restmq.access import Access, Section
from restmq.access_log import AccessLog
from restmq.broker.broker import Broker
from restmq.broker.consumers import End
from restmq.broker.scripts import HistoryLimits
from restmq.broker.streams import StreamLimits
from restmq.endpoints.channels import ChannelEndpoint
from restmq.endpoints.collectd import CollectdEndpoint
from restmq.endpoints.commands import CommandEndpoint
from restmq.endpoints.docs import DocsEndpoint
from restmq.endpoints.http_server import HttpServer
from restmq.endpoints.leases import LeaseEndpoint
from restmq.endpoints.log_stream import LogStreams
from restmq.endpoints.messages import MessageEndpoint
from restmq.endpoints.metrics import MetricsEndpoint
from restmq.endpoints.metrics_requests import CountingRouter
from restmq.endpoints.metrics_sheet import Row
from restmq.endpoints.openapi import OpenApiEndpoint
from restmq.endpoints.origins import HostRules
from restmq.endpoints.pages import PageEndpoint
from restmq.endpoints.queue_settings import QueueSettingsEndpoint
from restmq.endpoints.queuey import QueueyEndpoint
from restmq.endpoints.rest import RestEndpoint
from restmq.endpoints.router import Route, Router
from restmq.endpoints.rse import RseEndpoint
from restmq.endpoints.rse_mount import RootMount
from restmq.endpoints.stomp import StompEndpoint
from restmq.endpoints.stream import StreamEndpoint
from restmq.endpoints.syslog import SyslogListener
from restmq.endpoints.ui import UiEndpoint
from restmq.endpoints.web import Request
from restmq.errors import StartupError
from restmq.memory_redis import (
    MemoryRedisUrl,
    NamedMemoryRedis,
)
from restmq.openapi import describe
from restmq.queue_patterns import QueuePatterns
from restmq.rate_limits import RateLimits
from restmq.runtime import (
    Follower,
)
from restmq.settings import Settings
from restmq.socket_activation import HTTP, RSE, STOMP, PassedSockets, address_of
from restmq.tls import load_tls
from restmq.token_store import open_token_store

logger = logging.getLogger(__name__)

LISTEN_BACKLOG = 4096


class Node:
    """One worker process: a broker over one Redis, and the listeners in front of it."""

    def __init__(
        self,
        settings: Settings,
        redis_url: str,
        access: Access,
        queue_patterns: QueuePatterns | None = None,
        memory_redis_url: MemoryRedisUrl | None = None,
        sockets: PassedSockets | None = None,
        metrics_row: Row | None = None,
    ) -> None:
        self._settings = settings
        self._sockets = sockets or {}
        self.queue_patterns = queue_patterns or QueuePatterns.of(settings)
        self.memory_redis_url = memory_redis_url or NamedMemoryRedis(settings.memory_redis_url).url
        limits = StreamLimits(
            outbox_bytes=settings.outbox_bytes,
            ping_seconds=settings.ping_seconds,
            history=HistoryLimits(
                max_count=settings.history_count, max_seconds=math.ceil(settings.history_seconds)
            ),
        )
        self.broker = Broker(
            redis_url, limits, self.queue_patterns.overrides, self.memory_redis_url
        )
        self.access = access
        self._pages = PageEndpoint(self.broker)
        self._log_streams = LogStreams(settings.ping_seconds)
        self._rate_limits = RateLimits.of(settings)
        self._access_log = AccessLog(settings.access_log)
        self._tls = load_tls(
            settings.tls_certificate, settings.tls_key, prefix="tls", protocols=["http/1.1"]
        )
        self._stomp = StompEndpoint(
            self.broker,
            access,
            settings,
            lambda queue: bool(self.queue_patterns.overrides(queue)),
            lambda request: self.router.peer_address(request),
            self._rate_limits,
            self._access_log,
        )
        self.followers: list[Follower] = [
            access,
            self.queue_patterns,
            *(tls for tls in (self._tls, self._stomp.tls) if tls is not None),
        ]
        """What follows files, and looks at them when SIGHUP comes."""
        self._metrics = MetricsEndpoint(self.broker, metrics_row)
        self._token_store = open_token_store(settings)
        self.router = self._wire()
        self._syslog = SyslogListener(self.broker, access)
        self._runners: list[web.ServerRunner] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0
        """The HTTP port, once the node is open."""

    def _wire(self) -> Router:
        broker, settings = self.broker, self._settings

        def check_access(request: Request, section: Section) -> None:
            self.router.check_access(request, section)

        def is_encrypted(request: Request) -> bool:
            return self.router.is_encrypted(request)

        commands = CommandEndpoint(broker, check_access)
        endpoints: Sequence[Endpoint] = (
            RestEndpoint(broker, self._stomp.reports.tell),
            commands,
            LeaseEndpoint(broker),
            MessageEndpoint(broker),
            QueueSettingsEndpoint(broker),
            StreamEndpoint(broker, settings.ping_seconds),
            CollectdEndpoint(broker),
            DocsEndpoint(),
            RseEndpoint(
                broker, self._log_streams, settings, check_access, is_encrypted, self._token_store
            ),
            ChannelEndpoint(broker, self._log_streams, check_access),
            QueueyEndpoint(
                broker, self._log_streams, settings.queuey_application_keys, check_access
            ),
            self._stomp,
            UiEndpoint(broker, self._log_streams, settings, check_access),
            self._pages,
            OpenApiEndpoint(describe),
            self._metrics,
        )
        routes = [route for endpoint in endpoints for route in endpoint.routes()]
        router = CountingRouter(
            routes,
            self.access,
            settings.allowed_origins,
            settings.trusted_proxies,
            self._rate_limits,
            HostRules.of(self._hosts(), settings.allowed_hosts, settings.trusted_proxies),
        )
        router.count_with(self._metrics.count_requests_of(routes))
        return router

    def _hosts(self) -> Iterator[str]:
        """Yield the addresses where HTTP is spoken."""
        for name in (HTTP, RSE):
            for passed in self._sockets.get(name, ()):
                yield address_of(passed)[0]
        if HTTP not in self._sockets:
            yield self._settings.listen

    async def open(self) -> None:
        """Connect and listen; raises StartupError if a port is taken."""
        settings = self._settings
        await self.broker.open()
        shared = settings.workers > 1
        host, self.port = await self._serve_http(self.router, HTTP, settings.port, shared)
        if settings.rse_port or RSE in self._sockets:
            mount = cast(Router, RootMount(self.router))
            rse_address = await self._serve_http(mount, RSE, settings.rse_port, shared)
            logger.info("RSE has %s://%s:%d to itself", self._scheme, *rse_address)
        await self._open_syslog(shared)
        await self._open_stomp(shared)
        loop = asyncio.get_running_loop()
        self._tasks += [
            loop.create_task(self._metrics.write_rows(), name="metrics-rows"),
            loop.create_task(self.access.watch(), name="acl-watch"),
            loop.create_task(self.access.watch_keys(self._end_keyless), name="keys-watch"),
            loop.create_task(self.queue_patterns.watch(), name="queue-patterns-watch"),
        ]
        logger.info("RestMQ serves on %s://%s:%d", self._scheme, host, self.port)

    @property
    def _scheme(self) -> str:
        return "http" if self._tls is None else "https"

    def _end_keyless(self) -> None:
        """End what was begun with an API key that is there no more."""
        self.router.end_keyless()
        self._stomp.end_keyless()

    async def _serve_http(
        self, router: Router, name: str, port: int, shared: bool
    ) -> tuple[str, int]:
        """Listen on one more port, or on the sockets that were passed under ``name``.

        Returns the first address and its port. Raises StartupError if the port is taken.
        """
        settings = self._settings
        server = HttpServer(router, settings, self._access_log)
        context = None if self._tls is None else self._tls.context
        runner = web.ServerRunner(server, shutdown_timeout=settings.drain_seconds)
        self._runners.append(runner)
        await runner.setup()
        sites: list[web.BaseSite] = [
            web.SockSite(runner, each, backlog=LISTEN_BACKLOG, ssl_context=context)
            for each in self._sockets.get(name, ())
        ]
        sites = sites or [
            web.TCPSite(
                runner,
                settings.listen,
                port,
                backlog=LISTEN_BACKLOG,
                ssl_context=context,
                reuse_port=shared or None,
            )
        ]
        try:
            for site in sites:
                await site.start()
        except OSError as error:
            raise cannot_listen(settings.listen, port, error) from error
        loop = asyncio.get_running_loop()
        watching = server.close_silent_connections()
        self._tasks.append(loop.create_task(watching, name="silent-connections"))
        taken_host, taken_port, *_ = runner.addresses[0]
        return _for_url(taken_host), taken_port

    async def _open_syslog(self, shared: bool) -> None:
        host, port = self._settings.listen, self._settings.syslog_port
        if port:
            try:
                await self._syslog.open(host, port, reuse_port=shared)
            except OSError as error:
                raise cannot_listen(host, port, error) from error

    async def _open_stomp(self, shared: bool) -> None:
        for passed in self._sockets.get(STOMP, ()):
            await self._stomp.open_passed(passed)
            logger.info("STOMP listens on %s:%d", *address_of(passed))
        host, port = self._settings.listen, self._settings.stomp_port
        if port and STOMP not in self._sockets:
            try:
                await self._stomp.open(host, port, reuse_port=shared)
            except OSError as error:
                raise cannot_listen(host, port, error) from error

    async def close(self) -> None:
        """Drain: accept no more, end the streams, let requests finish, and leave Redis."""
        self._pages.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for site in [site for runner in self._runners for site in runner.sites]:
            await site.stop()
        if self._runners:
            self.broker.end_streams(End.DRAIN)
            self._log_streams.end_all()
        await self._stomp.close()
        if self._runners:
            await asyncio.gather(*(runner.cleanup() for runner in self._runners))
        await self._syslog.close()
        if self._token_store is not None:
            await self._token_store.close()
        await self.broker.close()
        self._metrics.close()

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class Endpoint(Protocol):
    """What the node wants of an endpoint."""

    def routes(self) -> list[Route]:
        """Return its rows of the route table."""


def cannot_listen(host: str, port: int, error: OSError) -> StartupError:
    """Return what to raise when an address cannot be listened on."""
    reason = error.strerror or str(error)
    return StartupError(f"cannot listen on {_for_url(host)}:{port}: {reason}")


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
