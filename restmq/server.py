"""What the command line calls: starts the private Redis if no other is named, and serves.

With one node in this process, or with several in processes of their own.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from restmq.access import Access
from restmq.endpoints.metrics_sheet import Cells, Row, new_cells
from restmq.memory_redis import (
    SOCKET_NAME,
    AskedMemoryRedis,
    MemoryRedisServer,
    MemoryRedisUrl,
    NamedMemoryRedis,
    PrivateMemoryRedis,
)
from restmq.node import Node, cannot_listen
from restmq.queue_patterns import QueuePatterns
from restmq.redis_process import RedisProcess
from restmq.redis_upkeep import RedisUpkeep
from restmq.runtime import (
    raise_file_limit,
    reload_on_hangup,
    run_loop,
    set_up_logging,
    stop_signal,
    tune_garbage_collection,
)
from restmq.settings import Settings
from restmq.socket_activation import HTTP, PassedSockets, take_sockets
from restmq.systemd_notify import READY, STOPPING, notify, watched
from restmq.tls import load_tls
from restmq.workers import WorkerPool

logger = logging.getLogger(__name__)


def load_access(settings: Settings) -> Access:
    """Read the rules and the API keys; raises SettingsError if either file is wrong."""
    return Access.load(settings.acl, settings.keys, requires_key=settings.require_key)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Raises StartupError, with a text for people, if the server cannot start.
    """
    set_up_logging(settings)
    raise_file_limit()
    access = load_access(settings)  # refuses to start with a broken file
    load_tls(settings.tls_certificate, settings.tls_key, prefix="tls")  # likewise, before workers
    load_tls(settings.stomp_certificate, settings.stomp_key, prefix="stomp")
    return run_loop(_serve(settings, access, take_sockets(os.environ)))


async def _serve(settings: Settings, access: Access, sockets: PassedSockets) -> int:
    stop = stop_signal()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(watched(os.environ))
        redis_url = settings.external_redis_url
        memory_url = NamedMemoryRedis(settings.memory_redis_url).url
        memory_socket = None
        if redis_url is None:
            process = await stack.enter_async_context(
                RedisProcess(settings.data_dir, settings.fsync)
            )
            redis_url = process.url
            await stack.enter_async_context(RedisUpkeep(redis_url))
            if not settings.memory_redis_url:
                memory = RedisProcess(settings.data_dir / "memory", persistent=False)
                memory_url = (await stack.enter_async_context(PrivateMemoryRedis(memory))).url
                memory_socket = process.socket_path.with_name(SOCKET_NAME)
        if settings.workers == 1:
            await stack.enter_async_context(_node(settings, redis_url, access, memory_url, sockets))
            tune_garbage_collection()
            notify(os.environ, READY)
            await stop.wait()
        else:
            if memory_socket is not None:
                await stack.enter_async_context(MemoryRedisServer(memory_url, memory_socket))
            if HTTP not in sockets:
                settings = stack.enter_context(reserved_port(settings))
            cells = new_cells(settings.workers)
            serve = functools.partial(
                run_worker, settings, redis_url, memory_socket, sockets, cells
            )
            pool = WorkerPool(settings, serve)
            await stack.enter_async_context(pool)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, pool.hang_up)
            await pool.run_until(stop)
        logger.info("stopping")
        notify(os.environ, STOPPING)
    return 0


@contextlib.asynccontextmanager
async def _node(
    settings: Settings,
    redis_url: str,
    access: Access,
    memory_redis_url: MemoryRedisUrl,
    sockets: PassedSockets,
    metrics_row: Row | None = None,
) -> AsyncIterator[Node]:
    """Open a node whose files are read again on SIGHUP."""
    patterns = QueuePatterns.of(settings)
    node = Node(settings, redis_url, access, patterns, memory_redis_url, sockets, metrics_row)
    async with reload_on_hangup(*node.followers), node:
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
            raise cannot_listen(settings.listen, settings.port, error) from error
        # It never listens, so the kernel gives it no connections.
        yield dataclasses.replace(settings, port=holder.getsockname()[1])


def run_worker(
    settings: Settings,
    redis_url: str,
    memory_socket: Path | None,
    sockets: PassedSockets,
    metrics_cells: Cells,
) -> None:
    """Serve as one of several worker processes, until told to stop.

    ``memory_socket`` is where to ask for the private memory Redis, if there can be one;
    ``sockets`` are those that were passed to the server, which all its workers share, as they
    share ``metrics_cells``.
    """
    set_up_logging(settings)
    raise_file_limit()
    row = Row.of_worker(metrics_cells)
    run_loop(_serve_worker(settings, redis_url, memory_socket, sockets, row))


async def _serve_worker(
    settings: Settings,
    redis_url: str,
    memory_socket: Path | None,
    sockets: PassedSockets,
    metrics_row: Row,
) -> None:
    stop = stop_signal()
    access = load_access(settings)
    async with contextlib.AsyncExitStack() as stack:
        memory_url = NamedMemoryRedis(settings.memory_redis_url).url
        if memory_socket is not None:
            memory = await stack.enter_async_context(AskedMemoryRedis(memory_socket))
            memory_url = memory.url
        await stack.enter_async_context(
            _node(settings, redis_url, access, memory_url, sockets, metrics_row)
        )
        tune_garbage_collection()
        notify(os.environ, READY)  # the first that is ready speaks for all
        await stop.wait()
