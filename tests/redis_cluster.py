"""A real Redis Cluster of three nodes on this machine."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from restmq.errors import StartupError
from restmq.redis_process import RedisProcess
from tests.support import START_TIMEOUT_SECONDS, eventually

SLOTS = 16384
BUS_PORT_OFFSET = 10_000
"""Redis before 7.0 always talks to its peers on its own port plus this."""
HIGHEST_PORT = 65_535 - BUS_PORT_OFFSET
NODES = 3
AGREED = ("cluster_state:ok", f"cluster_known_nodes:{NODES}", f"cluster_size:{NODES}")
ATTEMPTS = 5


def free_cluster_port() -> int:
    """Return a TCP port of 127.0.0.1 which was free a moment ago, and so was its bus port."""
    for _ in range(1000):
        with socket.socket() as probe, socket.socket() as bus_probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port > HIGHEST_PORT:
                continue
            try:
                bus_probe.bind(("127.0.0.1", port + BUS_PORT_OFFSET))
            except OSError:
                continue
            return port
    raise AssertionError("no free port has a free bus port beside it")


async def _ask(node: "Redis", *words: str | int) -> str:
    """Send one of the CLUSTER commands."""
    return str(await node.execute_command("CLUSTER", *words))  # type: ignore[no-untyped-call]


async def _join(nodes: Sequence[RedisProcess], ports: Sequence[int]) -> None:
    """Make one cluster of nodes that do not know each other; returns when all agree on it."""
    async with contextlib.AsyncExitStack() as stack:
        clients = [Redis.from_url(node.url, decode_responses=True) for node in nodes]
        for client in clients:
            stack.push_async_callback(client.aclose)
        for index, client in enumerate(clients):
            slots = range(SLOTS * index // NODES, SLOTS * (index + 1) // NODES)
            # An epoch each, so that no two nodes have to settle which of them is the newer.
            await _ask(client, "SET-CONFIG-EPOCH", index + 1)
            await _ask(client, "ADDSLOTS", *slots)
        for port in ports[1:]:
            await _ask(clients[0], "MEET", "127.0.0.1", port)

        async def agreed() -> bool:
            for client in clients:
                if not set(AGREED) <= set((await _ask(client, "INFO")).splitlines()):
                    return False
            return True

        condition: Callable[[], object] = agreed
        await eventually(condition, START_TIMEOUT_SECONDS)


@dataclass
class RedisCluster:
    """A cluster that runs."""

    nodes: list[RedisProcess]
    """A node that dies is started again by itself, on its data."""
    ports: list[int]

    @property
    def url(self) -> str:
        """How a broker is told of it."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)


@contextlib.asynccontextmanager
async def _running_nodes(directory: Path) -> AsyncIterator[RedisCluster]:
    ports = [free_cluster_port() for _ in range(NODES)]
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for port in ports:
            options = {
                "port": port,
                "cluster-enabled": "yes",
                "cluster-announce-ip": "127.0.0.1",
                # On a busy machine a node that is merely slow must not be taken for dead.
                "cluster-node-timeout": 30_000,
            }
            arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
            redis = RedisProcess(directory / str(port), "no", [str(word) for word in arguments])
            nodes.append(await stack.enter_async_context(redis))
        await _join(nodes, ports)
        yield RedisCluster(nodes, ports)


@contextlib.asynccontextmanager
async def running_cluster(directory: Path) -> AsyncIterator[RedisCluster]:
    """Run a cluster whose nodes keep their data in ``directory``."""
    async with contextlib.AsyncExitStack() as stack:
        yield await _open(directory, stack)


async def _open(directory: Path, stack: contextlib.AsyncExitStack) -> RedisCluster:
    for attempt in range(1, ATTEMPTS + 1):
        nodes = _running_nodes(directory / f"attempt-{attempt}")
        try:
            return await stack.enter_async_context(nodes)
        except StartupError:  # somebody else took one of the ports meanwhile
            if attempt == ATTEMPTS:
                raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def redis_cluster_on_a_thread(directory: Path) -> Iterator[str]:
    """Run a Redis Cluster and yield its URL.

    Its event loop lives on a thread of its own, so that it outlives the loops of single tests.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="Redis Cluster of the tests")
    thread.start()
    stack = contextlib.AsyncExitStack()
    try:
        opening = asyncio.run_coroutine_threadsafe(_open(directory, stack), loop)
        try:
            yield opening.result(ATTEMPTS * START_TIMEOUT_SECONDS).url
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(START_TIMEOUT_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
