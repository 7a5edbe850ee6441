"""Two nodes over one Redis behave as one server: policies, status, DELETE, and the death of one."""

import asyncio
import contextlib
import itertools
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.process.clients import Api, Listener, listening, open_api
from tests.server_process import ServerProcess, running_server
from tests.support import eventually

KINDS = ("comet", "sse", "websocket")
PUBLISHERS = 16

Nodes = tuple[ServerProcess, ServerProcess]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@contextlib.asynccontextmanager
async def two_nodes(directory: Path) -> AsyncIterator[Nodes]:
    """Run a node with a private Redis, and a second one over the same Redis."""
    async with running_server(directory, "--fsync", "no", data_dir="a") as first:
        redis_url = f"unix://{first.data_dir}/run/redis.sock"
        async with running_server(directory, "--redis-url", redis_url, data_dir="b") as second:
            yield first, second


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nodes]:
    """Two nodes that the tests of this module share; use fresh names."""
    # Not tmp_path, whose name may be too long for a socket in it.
    async with two_nodes(tmp_path_factory.mktemp("n")) as pair:
        yield pair


@contextlib.asynccontextmanager
async def open_apis(nodes: Nodes) -> AsyncIterator[tuple[Api, Api]]:
    """Talk to both."""
    async with open_api(nodes[0].url) as first, open_api(nodes[1].url) as second:
        yield first, second


@contextlib.asynccontextmanager
async def listening_on_both(
    nodes: Nodes, queue: str, *kinds: str
) -> AsyncIterator[tuple[list[Listener], list[Listener]]]:
    """Connect consumers of these kinds to each node."""
    async with (
        listening(nodes[0].url, queue, *kinds) as first,
        listening(nodes[1].url, queue, *kinds) as second,
    ):
        yield first, second


async def all_received(listeners: Sequence[Listener], count: int) -> None:
    """Wait until all together have so many messages."""
    await eventually(lambda: sum(len(one.messages) for one in listeners) >= count, 20)


def values_of(listeners: Sequence[Listener]) -> list[str]:
    """Return what all together have received, in no particular order."""
    return [value for listener in listeners for value in listener.values]


def numbered(prefix: str, count: int) -> list[str]:
    """Return that many different values."""
    return [f"{prefix} {number}" for number in range(count)]


class TestBroadcast:
    async def test_every_consumer_of_both_nodes_gets_every_message_in_order(
        self, nodes, fresh_name
    ):
        async with (
            open_apis(nodes) as apis,
            listening_on_both(nodes, fresh_name, *KINDS) as (first, second),
        ):
            everyone = [*first, *second]
            values = numbered("message", 30)
            for index, value in enumerate(values):
                await apis[index % 2].add(fresh_name, value)
            await all_received(everyone, len(everyone) * len(values))
            assert [listener.values for listener in everyone] == [values] * len(everyone)
            assert await apis[1].length(fresh_name) == 0


class TestRoundrobin:
    async def test_each_message_goes_to_one_consumer_and_every_consumer_gets_its_share(
        self, nodes, fresh_name
    ):
        async with (
            open_apis(nodes) as apis,
            listening(nodes[0].url, fresh_name, "comet", "sse") as first,
            listening(nodes[1].url, fresh_name, "websocket") as second,
        ):
            await apis[0].set_policy(fresh_name, "roundrobin")
            everyone = [*first, *second]
            values = numbered("message", 30)
            for index, value in enumerate(values):
                await apis[index % 2].add(fresh_name, value)
            await all_received(everyone, len(values))
            assert sorted(values_of(everyone)) == sorted(values)
            assert all(abs(len(listener.messages) - 10) <= 1 for listener in everyone)

    async def test_two_hundred_consumers_share_two_thousand_messages_evenly(
        self, nodes, fresh_name
    ):
        """Each gets its ten, give or take two.

        Redis deals in turn over 200 places, 100 of each node, and a node deals what is its own in
        turn over its consumers. That is exactly ten each as long as no node lies so far behind
        that it is left out, for which at most 200 messages are under way at a time, and no
        consumer is passed over because it has unsent bytes at that moment, hence the margin.
        """
        values = numbered("message", 2000)
        under_way = asyncio.Semaphore(200)
        kinds = [KINDS[number % 3] for number in range(100)]
        async with (
            open_apis(nodes) as apis,
            listening(nodes[0].url, fresh_name, *kinds, on_message=under_way.release) as first,
            listening(nodes[1].url, fresh_name, *kinds, on_message=under_way.release) as second,
        ):
            await apis[0].set_policy(fresh_name, "roundrobin")

            async def publish(index: int) -> None:
                await under_way.acquire()
                await apis[index % 2].add(fresh_name, values[index])

            await asyncio.gather(*(publish(index) for index in range(len(values))))
            everyone = [*first, *second]
            await all_received(everyone, len(values))
            assert Counter(values_of(everyone)) == Counter(values)
            shares = [len(listener.messages) for listener in everyone]
            assert min(shares) >= 8, Counter(shares)
            assert max(shares) <= 12, Counter(shares)
            assert await apis[1].length(fresh_name) == 0

    async def test_the_policy_can_change_while_consumers_are_connected(self, nodes, fresh_name):
        async with (
            open_apis(nodes) as apis,
            listening_on_both(nodes, fresh_name, "comet", "websocket") as (first, second),
        ):
            everyone = [*first, *second]
            expected = [0] * len(everyone)
            for policy, node in (("broadcast", 0), ("roundrobin", 1), ("broadcast", 1)):
                await apis[node].set_policy(fresh_name, policy)
                for value in numbered(policy, 12):
                    await apis[node].add(fresh_name, value)
                shares = 12 if policy == "broadcast" else 12 // len(everyone)
                expected = [count + shares for count in expected]
                await all_received(everyone, sum(expected))
                assert [len(listener.messages) for listener in everyone] == expected


class TestAdministration:
    async def test_a_delete_at_one_node_ends_the_streams_of_the_other(self, nodes, fresh_name):
        async with (
            open_apis(nodes) as apis,
            listening_on_both(nodes, fresh_name, *KINDS) as (first, second),
        ):
            await apis[0].delete(fresh_name)
            everyone = [*first, *second]
            await eventually(lambda: all(listener.ended for listener in everyone))
            assert [listener.error for listener in everyone] == [None] * len(everyone)
            assert [listener.close_code for listener in everyone] == [None, None, 1000] * 2

            async def are_gone() -> bool:
                return await apis[1].consumers(fresh_name) == 0

            await eventually(are_gone)

    async def test_a_stop_at_one_node_pauses_the_streams_of_the_other(self, nodes, fresh_name):
        async with (
            open_apis(nodes) as apis,
            listening(nodes[1].url, fresh_name, *KINDS) as listeners,
        ):
            await apis[0].add(fresh_name, "flowing")
            await all_received(listeners, len(listeners))
            await apis[0].set_status(fresh_name, "stop")
            values = numbered("held back", 10)
            for index, value in enumerate(values):
                await apis[index % 2].add(fresh_name, value)
            assert await apis[1].length(fresh_name) == len(values)
            await apis[0].set_status(fresh_name, "start")
            await all_received(listeners, len(listeners) * (1 + len(values)))
            assert all(listener.values == ["flowing", *values] for listener in listeners)


class TestDeparture:
    async def test_a_node_told_to_stop_under_load_returns_what_it_has_not_handed_over(
        self, nodes, fresh_name, tmp_path
    ):
        redis_url = f"unix://{nodes[0].data_dir}/run/redis.sock"
        async with (
            running_server(tmp_path, "--redis-url", redis_url) as leaving,
            open_api(nodes[0].url) as api,
            listening(nodes[0].url, fresh_name, "comet", "websocket") as staying_listeners,
            listening(leaving.url, fresh_name, "comet", "websocket") as leaving_listeners,
        ):
            everyone = [*staying_listeners, *leaving_listeners]
            await api.set_policy(fresh_name, "roundrobin")
            values: list[str] = []
            load = asyncio.create_task(self.publish_without_end(api, fresh_name, values))
            await eventually(lambda: len(values) >= 500)
            assert await leaving.stop() == 0
            count = len(values)
            await eventually(lambda: len(values) >= count + 500)
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            await all_received(everyone, len(values))
            assert Counter(values_of(everyone)) >= Counter(values)
            # The one that was under way when the load ended may have been stored or not.
            assert len(values_of(everyone)) - len(values) <= PUBLISHERS
            assert len(set(values_of(everyone))) == len(values_of(everyone))
            assert [listener.error for listener in leaving_listeners] == [None, None]
            assert leaving_listeners[1].close_code == aiohttp.WSCloseCode.GOING_AWAY

    async def publish_without_end(self, api: Api, queue: str, values: list[str]) -> None:
        """Add until cancelled, several at a time; ``values`` is what was acknowledged."""

        async def publish(name: int) -> None:
            for turn in itertools.count():
                value = f"{name} {turn}"
                await api.add(queue, value)
                values.append(value)

        async with asyncio.TaskGroup() as group:
            for name in range(PUBLISHERS):
                group.create_task(publish(name))


class TestDeath:
    async def test_what_was_dealt_to_a_node_that_hangs_and_dies_reaches_the_others(
        self, tmp_path_factory, fresh_name
    ):
        """A dead node is noticed within 15 s, and at the next call of a live one all comes back."""
        async with (
            two_nodes(tmp_path_factory.mktemp("n")) as nodes,
            open_api(nodes[0].url) as api,
            listening_on_both(nodes, fresh_name, "comet", "websocket") as (first, second),
        ):
            await api.set_policy(fresh_name, "roundrobin")
            before = numbered("before", 20)
            for value in before:
                await api.add(fresh_name, value)
            await all_received([*first, *second], len(before))
            received_there = values_of(second)
            assert len(received_there) == 10
            os.kill(nodes[1].pid, signal.SIGSTOP)
            hanging = numbered("while it hangs", 20)
            for value in hanging:
                await api.add(fresh_name, value)
            await nodes[1].kill()
            after = numbered("after its death", 20)
            for value in after:
                await api.add(fresh_name, value)
            assert await api.length(fresh_name) > 0
            expected = {*before, *hanging, *after} - set(received_there)
            await eventually(lambda: len(values_of(first)) >= len(expected), 25)
            assert sorted(values_of(first)) == sorted(expected)
            assert values_of(second) == received_there
            assert await api.length(fresh_name) == 0
