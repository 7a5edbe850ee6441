"""The ways to Redis: one instance (or what Sentinel names as the primary), or a Redis Cluster.

A backend sends a list of calls in one round trip and returns a reply for each. It retries
nothing whose outcome is unknown: a lost connection raises, and the committer decides.
"""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import hiredis
import redis.asyncio
from redis import exceptions as redis_errors
from redis.asyncio.client import PubSub
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from restmq.broker.scripts import Call, Reply, Script
from restmq.errors import InvalidInput, RestMQError, StoreUnavailable

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 2.0
ROUND_TRIP_TIMEOUT_SECONDS = 15.0
"""A Redis that takes longer than this to answer counts as out of reach."""

_CANNOT_SERVE = ("OOM", "MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "LOADING")
"""Error replies by which Redis says that it cannot take writes now."""


CONNECTION_ERRORS = (redis_errors.RedisError, redis_errors.RedisClusterException, OSError)
"""What redis-py raises when Redis is out of reach; its two roots have nothing in common."""


def _client_options() -> dict[str, Any]:
    # redis-py gives up on a read after 5 s by default, which would cut the blocking reads of the
    # subscriber; round trips have a deadline of their own below. Retries are off because only the
    # committer knows whether a call may be sent twice.
    return {
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }


class NotSentError(StoreUnavailable):
    """Redis could not even be reached, so nothing was changed."""


class Backend(ABC):
    """Sends calls to Redis; ``description`` names it to people, without its password."""

    def __init__(self, description: str, scripts: Sequence[Script]) -> None:
        self.description = description
        self._scripts = scripts

    async def execute(self, calls: Sequence[Call]) -> list[Reply | RestMQError]:
        """Send all calls in one round trip and return their replies, in order.

        A call that Redis refused is answered by an error in its place. Scripts that Redis does
        not know (it was restarted) are loaded and their calls, which did nothing, sent again.
        Raises ``StoreUnavailable`` when the connection fails, or anything else does, so that no
        outcome is known; ``NotSentError`` if there was no connection to begin with.
        """
        await self._reach()
        try:
            async with asyncio.timeout(ROUND_TRIP_TIMEOUT_SECONDS):
                replies = await self._exchange(calls)
                unknown = [
                    index
                    for index, reply in enumerate(replies)
                    if isinstance(reply, redis_errors.NoScriptError)
                ]
                if unknown:
                    await self._load_scripts()
                    again = await self._exchange([calls[index] for index in unknown])
                    for index, reply in zip(unknown, again, strict=True):
                        replies[index] = reply
        except Exception as error:
            # Replies may still be on their way, so the connection is of no more use.
            await self._reset()
            raise StoreUnavailable(_why_not(error)) from error
        return [
            _translate(reply) if isinstance(reply, redis_errors.RedisError) else reply
            for reply in replies
        ]

    async def _reach(self) -> None:
        try:
            async with asyncio.timeout(ROUND_TRIP_TIMEOUT_SECONDS):
                await self._connect()
        except Exception as error:
            await self._reset()
            raise NotSentError(_why_not(error)) from error

    @abstractmethod
    async def _connect(self) -> None:
        """See to it that there is a connection."""

    @abstractmethod
    async def _exchange(self, calls: Sequence[Call]) -> list[Reply]:
        """Send and receive; error replies stand in the list, a lost connection raises."""

    @abstractmethod
    async def _load_scripts(self) -> None:
        """Make every script known to Redis."""

    @abstractmethod
    async def _reset(self) -> None:
        """Forget the connection, whose state is unknown."""

    @abstractmethod
    async def subscriber(self) -> PubSub:
        """Return a subscriber on a connection of its own, not connected yet.

        Raises what redis-py raises when Redis is out of reach.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close every connection."""


def _why_not(error: Exception) -> str:
    """Say why Redis could not be asked; what was not to be expected is logged whole."""
    if isinstance(error, (*CONNECTION_ERRORS, TimeoutError)):
        return f"Redis is out of reach: {str(error) or 'no answer'}"
    logger.error("a round trip to Redis failed", exc_info=error)
    return "Redis could not be asked"


def _translate(error: redis_errors.RedisError) -> RestMQError:
    text = str(error)
    cannot_serve = isinstance(
        error,
        redis_errors.OutOfMemoryError
        | redis_errors.ReadOnlyError
        | redis_errors.ClusterError
        | redis_errors.ConnectionError
        | redis_errors.TimeoutError,
    )
    if cannot_serve or text.startswith(_CANNOT_SERVE):
        logger.warning("Redis cannot take a call now: %s", text)
        return StoreUnavailable("Redis cannot take this now")
    logger.error("Redis refused a call: %s", text)
    return RestMQError("Redis refused a call; the server's log says why")


class InstanceBackend(Backend):
    """One Redis instance, over one connection that is kept for all round trips."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        description: str,
        scripts: Sequence[Script],
        sentinels: Sequence[redis.asyncio.Redis] = (),
    ) -> None:
        super().__init__(description, scripts)
        self._client = client
        self._sentinels = sentinels
        self._connection: AbstractConnection | None = None

    async def _connect(self) -> None:
        connection = await self._connected()
        if not connection.is_connected:
            await connection.connect()  # type: ignore[no-untyped-call]

    async def _connected(self) -> AbstractConnection:
        if self._connection is None:
            # Sentinel's pool asks for the primary at each new connection.
            pool = self._client.connection_pool
            self._connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        return self._connection

    async def _exchange(self, calls: Sequence[Call]) -> list[Reply]:
        connection = await self._connected()
        # hiredis packs in C; what redis-py has for asyncio costs a third of a batch's time here.
        packed = b"".join(
            [hiredis.pack_command(tuple(call.command())) for call in calls]  # type: ignore[arg-type]
        )
        await connection.send_packed_command(packed)
        replies = []
        for _ in calls:
            try:
                replies.append(await connection.read_response())
            except redis_errors.ReadOnlyError:
                raise  # a primary that became a replica: connect anew, perhaps elsewhere
            except redis_errors.ResponseError as error:
                replies.append(error)
        return replies

    async def _load_scripts(self) -> None:
        loads = [Call(None, ("SCRIPT", "LOAD", script.text)) for script in self._scripts]
        for reply in await self._exchange(loads):
            if isinstance(reply, Exception):
                raise reply

    async def _reset(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(redis_errors.RedisError, OSError):
                await connection.disconnect(nowait=True)
            await self._client.connection_pool.release(connection)

    async def subscriber(self) -> PubSub:
        """Return a subscriber on a connection of its own, not connected yet."""
        return self._client.pubsub()

    async def close(self) -> None:
        """Close every connection."""
        await self._reset()
        for client in (self._client, *self._sentinels):
            await client.aclose()


class ClusterBackend(Backend):
    """A Redis Cluster; calls go to the node that owns each queue's slot, all at once."""

    def __init__(self, cluster: RedisCluster, description: str, scripts: Sequence[Script]) -> None:
        super().__init__(description, scripts)
        self._cluster = cluster

    async def _connect(self) -> None:
        await self._cluster.initialize()

    async def _exchange(self, calls: Sequence[Call]) -> list[Reply]:
        pipeline = self._cluster.pipeline()
        for call in calls:
            pipeline.execute_command(*call.command())
        replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, redis_errors.ResponseError):
                raise reply
        return replies

    async def _load_scripts(self) -> None:
        for script in self._scripts:
            await self._cluster.script_load(script.text)

    async def _reset(self) -> None:
        # Closing makes the next round trip learn the cluster's layout anew.
        with contextlib.suppress(*CONNECTION_ERRORS):
            await self._cluster.aclose()

    async def subscriber(self) -> PubSub:
        """Return a subscriber at some node: a message published anywhere reaches all nodes."""
        await self._cluster.initialize()
        pubsub: PubSub = self._cluster.pubsub(node=self._cluster.get_random_node())
        return pubsub

    async def close(self) -> None:
        """Close every connection."""
        await self._reset()


def _without_password(url: str) -> str:
    url = url.partition("?")[0]  # the query may hold a password too
    parts = urlsplit(url)
    if parts.password is None:
        return url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{host}"))


def _hosts(netloc: str, default_port: int) -> list[tuple[str, int]]:
    hosts = []
    for part in netloc.rpartition("@")[2].split(","):
        pieces = urlsplit(f"//{part}")
        if not pieces.hostname:
            raise InvalidInput(f"no host name in {part!r}")
        hosts.append((pieces.hostname, pieces.port or default_port))
    return hosts


def open_backend(url: str, scripts: Sequence[Script]) -> Backend:
    """Make the backend that ``url`` names; it connects at its first round trip.

    Forms: ``redis://`` and ``rediss://`` (``user:password@host:port/db``), ``unix:///path``,
    ``redis+sentinel://[user:password@]host[:26379],host.../service[/db]``,
    ``redis+cluster://[user:password@]host[:port],host...`` (``?tls=1`` on either for TLS).
    Raises ``InvalidInput`` for anything else.
    """
    description = _without_password(url)
    parts = urlsplit(url)
    if parts.scheme == "redis+cluster":
        return _open_cluster(url, description, scripts)
    if parts.scheme == "redis+sentinel":
        return _open_sentinel(url, description, scripts)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise InvalidInput(f"cannot reach Redis by {description!r}: unknown scheme")
    client = redis.asyncio.Redis.from_url(url, **_client_options())
    return InstanceBackend(client, description, scripts)


def _credentials(url: str) -> dict[str, Any]:
    netloc = urlsplit(url).netloc
    options: dict[str, Any] = {}
    if "@" in netloc:
        login = urlsplit("//" + netloc.rpartition("@")[0] + "@host")
        options["username"] = unquote(login.username or "") or None
        options["password"] = unquote(login.password or "") or None
    if dict(parse_qsl(urlsplit(url).query)).get("tls") in ("1", "true"):
        options["ssl"] = True
    return options


def _open_cluster(url: str, description: str, scripts: Sequence[Script]) -> Backend:
    nodes = [ClusterNode(host, port) for host, port in _hosts(urlsplit(url).netloc, 6379)]
    cluster = RedisCluster(startup_nodes=nodes, **_client_options(), **_credentials(url))
    return ClusterBackend(cluster, description, scripts)


def _open_sentinel(url: str, description: str, scripts: Sequence[Script]) -> Backend:
    parts = urlsplit(url)
    service, _, database = parts.path.strip("/").partition("/")
    if not service:
        raise InvalidInput("redis+sentinel:// needs the service's name: redis+sentinel://host/name")
    hosts = _hosts(parts.netloc, 26379)
    sentinel = Sentinel(hosts, sentinel_kwargs=_client_options())  # type: ignore[no-untyped-call]
    client = sentinel.master_for(
        service, db=int(database or 0), **_client_options(), **_credentials(url)
    )
    return InstanceBackend(client, description, scripts, sentinel.sentinels)
