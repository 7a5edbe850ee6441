"""Brokers to test, on one Redis instance and on a Redis Cluster."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, cast

import pytest
from redis.asyncio import Redis

from restmq.broker import dispatch
from restmq.broker import store as store_module
from restmq.broker.backend import Backend, open_backend
from restmq.broker.broker import Broker
from restmq.broker.scripts import Script
from restmq.broker.streams import StreamLimits
from restmq.redis_process import RedisProcess
from tests.broker.fakes import FaultyBackend
from tests.redis_cluster import redis_cluster_on_a_thread

NODE_LIFETIME_SECONDS = 300.0
"""What ``rare_heartbeat`` sets."""


class MakeBroker(Protocol):
    """Opens a broker, a node of its own, which is closed when the test is over."""

    def __call__(
        self, *, limits: StreamLimits | None = None, url: str | None = None
    ) -> Awaitable[Broker]:
        """Open one more; without ``url`` on the Redis that the fixture names."""


MakeFaultyBroker = Callable[[], Awaitable[tuple[Broker, FaultyBackend]]]


@pytest.fixture(scope="session")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one real Redis Cluster that all tests of this worker share."""
    with redis_cluster_on_a_thread(tmp_path_factory.mktemp("cluster")) as url:
        yield url


@pytest.fixture(params=["instance", "cluster"])
def broker_redis_url(request: pytest.FixtureRequest) -> str:
    """The URL of a Redis instance, then of a Redis Cluster, which is started when first wanted."""
    name = "redis_url" if request.param == "instance" else "cluster_url"
    url: str = request.getfixturevalue(name)
    return url


@asynccontextmanager
async def _opening_brokers(default_url: str) -> AsyncIterator[MakeBroker]:
    brokers: list[Broker] = []

    async def make(*, limits: StreamLimits | None = None, url: str | None = None) -> Broker:
        broker = Broker(url or default_url, limits)
        brokers.append(broker)
        await broker.open()
        return broker

    yield make
    await asyncio.gather(*(broker.close() for broker in brokers))


@pytest.fixture
async def make_broker(broker_redis_url: str) -> AsyncIterator[MakeBroker]:
    """Opens brokers on an instance, and then on a cluster."""
    async with _opening_brokers(broker_redis_url) as make:
        yield make


@pytest.fixture
async def broker(make_broker: MakeBroker) -> Broker:
    """One broker on an instance, and then on a cluster."""
    return await make_broker()


@pytest.fixture
async def make_instance_broker(redis_url: str) -> AsyncIterator[MakeBroker]:
    """Opens brokers on an instance only, for what does not depend on where the keys lie."""
    async with _opening_brokers(redis_url) as make:
        yield make


@pytest.fixture
async def instance_broker(make_instance_broker: MakeBroker) -> Broker:
    """One broker on an instance only."""
    return await make_instance_broker()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator["Redis"]:
    """A plain client of the instance, to look at what brokers leave there."""
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def rare_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nodes call so rarely that nothing in the test can be the heartbeat's doing."""
    monkeypatch.setattr(dispatch, "NODE_LIFETIME_SECONDS", NODE_LIFETIME_SECONDS)


@pytest.fixture
def make_faulty_broker(
    make_instance_broker: MakeBroker, monkeypatch: pytest.MonkeyPatch
) -> MakeFaultyBroker:
    """Opens a broker on the instance, with the backend by which it can be made to fail."""

    async def make() -> tuple[Broker, FaultyBackend]:
        opened: list[FaultyBackend] = []

        def opening(url: str, scripts: Sequence[Script]) -> Backend:
            opened.append(FaultyBackend(open_backend(url, scripts)))
            return cast(Backend, opened[0])

        with monkeypatch.context() as patch:
            patch.setattr(store_module, "open_backend", opening)
            broker = await make_instance_broker()
        return broker, opened[0]

    return make


@pytest.fixture
async def private_redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisProcess]:
    """A Redis for one test, which may harm it."""
    directory = tmp_path_factory.mktemp("private")
    async with RedisProcess(directory, fsync="no") as redis:
        yield redis
