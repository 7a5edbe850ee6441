"""The composition root: opens, wires, listens, drains, closes.

``Node`` is one worker process: a broker over one Redis, and the listeners in front of it.
``run`` is what the command line calls: it starts the embedded Redis if no other is named, and
serves with one node in this process, or with several in processes of their own.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import math
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Protocol, Self, cast

from aiohttp import web

from restmq.access import Access, Section
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
from restmq.endpoints.web import Request
from restmq.errors import StartupError
from restmq.memory_redis import (
    SOCKET_NAME,
    AskedMemoryRedis,
    MemoryRedisServer,
    MemoryRedisUrl,
    NamedMemoryRedis,
    PrivateMemoryRedis,
)
from restmq.queue_patterns import QueuePatterns
from restmq.redis_process import RedisProcess
from restmq.runtime import (
    raise_file_limit,
    reload_on_hangup,
    run_loop,
    set_up_logging,
    stop_signal,
    tune_garbage_collection,
)
from restmq.settings import Settings
from restmq.workers import WorkerPool

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
    ) -> None:
        self._settings = settings
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
        self._stomp = StompEndpoint(
            self.broker,
            access,
            settings,
            lambda queue: bool(self.queue_patterns.overrides(queue)),
            lambda request: self.router.peer_address(request),
        )
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

        commands = CommandEndpoint(broker, check_access)
        endpoints: Sequence[Endpoint] = (
            RestEndpoint(broker),
            commands,
            LeaseEndpoint(broker),
            MessageEndpoint(broker),
            QueueSettingsEndpoint(broker),
            StreamEndpoint(broker, settings.ping_seconds),
            CollectdEndpoint(broker),
            DocsEndpoint(),
            RseEndpoint(broker, self._log_streams, settings, check_access),
            ChannelEndpoint(broker, self._log_streams, check_access),
            QueueyEndpoint(
                broker, self._log_streams, settings.queuey_application_keys, check_access
            ),
            self._stomp,
            self._pages,
        )
        routes = [route for endpoint in endpoints for route in endpoint.routes()]
        return Router(routes, self.access, settings.allowed_origins, settings.trusted_proxies)

    async def open(self) -> None:
        """Connect and listen; raises StartupError if a port is taken."""
        settings = self._settings
        await self.broker.open()
        shared = settings.workers > 1
        self.port = await self._serve_http(self.router, settings.port, shared)
        if settings.rse_port:
            mount = cast(Router, RootMount(self.router))
            rse_port = await self._serve_http(mount, settings.rse_port, shared)
            logger.info("RSE has http://%s:%d to itself", _for_url(settings.listen), rse_port)
        await self._open_syslog(shared)
        await self._open_stomp(shared)
        loop = asyncio.get_running_loop()
        self._tasks += [
            loop.create_task(self.access.watch(), name="acl-watch"),
            loop.create_task(self.queue_patterns.watch(), name="queue-patterns-watch"),
        ]
        logger.info("RestMQ serves on http://%s:%d", _for_url(settings.listen), self.port)

    async def _serve_http(self, router: Router, port: int, shared: bool) -> int:
        """Listen on one more port; returns which one it is. Raises StartupError if it is taken."""
        settings = self._settings
        server = HttpServer(router, settings)
        runner = web.ServerRunner(server, shutdown_timeout=settings.drain_seconds)
        self._runners.append(runner)
        await runner.setup()
        site = web.TCPSite(
            runner,
            settings.listen,
            port,
            backlog=LISTEN_BACKLOG,
            reuse_port=shared or None,
        )
        try:
            await site.start()
        except OSError as error:
            raise _cannot_listen(settings.listen, port, error) from error
        loop = asyncio.get_running_loop()
        watching = server.close_silent_connections()
        self._tasks.append(loop.create_task(watching, name="silent-connections"))
        taken: int = runner.addresses[0][1]
        return taken

    async def _open_syslog(self, shared: bool) -> None:
        host, port = self._settings.listen, self._settings.syslog_port
        if port:
            try:
                await self._syslog.open(host, port, reuse_port=shared)
            except OSError as error:
                raise _cannot_listen(host, port, error) from error

    async def _open_stomp(self, shared: bool) -> None:
        host, port = self._settings.listen, self._settings.stomp_port
        if port:
            try:
                await self._stomp.open(host, port, reuse_port=shared)
            except OSError as error:
                raise _cannot_listen(host, port, error) from error

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
        await self.broker.close()

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


def _cannot_listen(host: str, port: int, error: OSError) -> StartupError:
    reason = error.strerror or str(error)
    return StartupError(f"cannot listen on {_for_url(host)}:{port}: {reason}")


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Raises StartupError, with a text for people, if the server cannot start.
    """
    set_up_logging(settings)
    raise_file_limit()
    access = Access.load(settings.acl)  # refuses to start with a broken file
    return run_loop(_serve(settings, access))


async def _serve(settings: Settings, access: Access) -> int:
    stop = stop_signal()
    async with contextlib.AsyncExitStack() as stack:
        redis_url = settings.external_redis_url
        memory_url = NamedMemoryRedis(settings.memory_redis_url).url
        memory_socket = None
        if redis_url is None:
            process = await stack.enter_async_context(
                RedisProcess(settings.data_dir, settings.fsync)
            )
            redis_url = process.url
            if not settings.memory_redis_url:
                memory = RedisProcess(settings.data_dir / "memory", persistent=False)
                memory_url = (await stack.enter_async_context(PrivateMemoryRedis(memory))).url
                memory_socket = process.socket_path.with_name(SOCKET_NAME)
        if settings.workers == 1:
            await stack.enter_async_context(_node(settings, redis_url, access, memory_url))
            tune_garbage_collection()
            await stop.wait()
        else:
            if memory_socket is not None:
                await stack.enter_async_context(MemoryRedisServer(memory_url, memory_socket))
            settings = stack.enter_context(reserved_port(settings))
            serve = functools.partial(run_worker, settings, redis_url, memory_socket)
            pool = WorkerPool(settings, serve)
            await stack.enter_async_context(pool)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, pool.hang_up)
            await pool.run_until(stop)
        logger.info("stopping")
    return 0


@contextlib.asynccontextmanager
async def _node(
    settings: Settings, redis_url: str, access: Access, memory_redis_url: MemoryRedisUrl
) -> AsyncIterator[Node]:
    """Open a node whose files are read again on SIGHUP."""
    patterns = QueuePatterns.of(settings)
    async with (
        reload_on_hangup(access, patterns),
        Node(settings, redis_url, access, patterns, memory_redis_url) as node,
    ):
        yield node


@contextlib.contextmanager
def reserved_port(settings: Settings) -> Iterator[Settings]:
    """Hold the HTTP port for the workers; yields settings that name it, also if it was 0.

    Raises StartupError if it cannot be had, which workers would only find out one by one.
    """
    family = socket.AF_INET6 if ":" in settings.listen else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((settings.listen, settings.port))
        except OSError as error:
            raise _cannot_listen(settings.listen, settings.port, error) from error
        # It never listens, so the kernel gives it no connections.
        yield dataclasses.replace(settings, port=holder.getsockname()[1])


def run_worker(settings: Settings, redis_url: str, memory_socket: Path | None) -> None:
    """Serve as one of several worker processes, until told to stop.

    ``memory_socket`` is where to ask for the private memory Redis, if there can be one.
    """
    set_up_logging(settings)
    raise_file_limit()
    run_loop(_serve_worker(settings, redis_url, memory_socket))


async def _serve_worker(settings: Settings, redis_url: str, memory_socket: Path | None) -> None:
    stop = stop_signal()
    access = Access.load(settings.acl)
    async with contextlib.AsyncExitStack() as stack:
        memory_url = NamedMemoryRedis(settings.memory_redis_url).url
        if memory_socket is not None:
            memory = await stack.enter_async_context(AskedMemoryRedis(memory_socket))
            memory_url = memory.url
        await stack.enter_async_context(_node(settings, redis_url, access, memory_url))
        tune_garbage_collection()
        await stop.wait()
