"""STOMP on several nodes of the real program, and with Redis or a node killed on the way."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from restmq.redis_process import RedisProcess
from tests.endpoints.stomp_client import send, stomp_client, subscribe
from tests.server_process import ServerProcess, running_server
from tests.support import eventually, free_port


@contextlib.asynccontextmanager
async def stomp_server(
    directory: Path, redis_url: str, name: str
) -> AsyncIterator[tuple[ServerProcess, int]]:
    """Run a node, and tell its STOMP port."""
    port = free_port()
    flags = ("--redis-url", redis_url, "--stomp-port", str(port))
    async with running_server(directory, *flags, data_dir=name) as server:
        yield server, port


async def test_nodes_share_queues_and_topics(
    tmp_path: Path, redis_url: str, fresh_name: str
) -> None:
    async with (
        stomp_server(tmp_path, redis_url, "here") as (_, here),
        stomp_server(tmp_path, redis_url, "there") as (_, there),
        stomp_client(here) as one,
        stomp_client(there) as other,
    ):
        for client in (one, other):
            await subscribe(client, f"/queue/{fresh_name}.>")
            await subscribe(client, f"/topic/{fresh_name}", "auto", "t")
        await send(one, f"/queue/{fresh_name}.new", b"1", b"2")
        got = [await client.message() for client in (one, other)]
        assert sorted(message.body for message in got) == [b"1", b"2"]
        await send(other, f"/topic/{fresh_name}", b"t")
        assert [(await client.message()).body for client in (one, other)] == [b"t", b"t"]


async def test_what_a_killed_node_held_comes_to_another(
    tmp_path: Path, redis_url: str, fresh_name: str
) -> None:
    async with (
        stomp_server(tmp_path, redis_url, "here") as (here, here_port),
        stomp_server(tmp_path, redis_url, "there") as (_, there_port),
        stomp_client(here_port) as held_here,
        stomp_client(there_port) as other,
    ):
        await send(other, f"/queue/{fresh_name}", b"1")
        await subscribe(held_here, f"/queue/{fresh_name}")
        await held_here.message()
        await subscribe(other, f"/queue/{fresh_name}")
        await here.kill()
        again = await other.message()
        assert (again.body, again.headers["redelivered"]) == (b"1", "true")


@pytest.mark.parametrize("has_ack", [False, True])
async def test_a_commit_survives_a_redis_that_is_killed(
    tmp_path: Path, fresh_name: str, has_ack: bool
) -> None:
    """It is answered when Redis is back, and nothing is stored twice."""
    redis = RedisProcess(tmp_path / "redis")
    await redis.start()
    try:
        async with (
            stomp_server(tmp_path, redis.url, "node") as (server, port),
            stomp_client(port) as client,
        ):
            queues = [f"{fresh_name}-{number}" for number in range(5)]
            for queue in queues:
                await send(client, queue, b"first")
            await client.call("BEGIN", transaction="t")
            if has_ack:
                await subscribe(client, queues[0])
                message = await client.message()
                await client.call("ACK", transaction="t", **client.ack_headers(message))
            for queue in queues:
                await send(client, queue, b"1", b"2", transaction="t")
            await redis.stop()
            await client.send_frame("COMMIT", transaction="t", receipt="c")
            await redis.start()
            await client.wait_for_receipt("c")
            await client.close()  # it may have been given the next one
            async with stomp_client(port) as consumer:
                for number, queue in enumerate(queues):
                    await subscribe(consumer, queue, "auto", str(number))
                    expected = [b"1", b"2"] if has_ack and not number else [b"first", b"1", b"2"]
                    assert [(await consumer.message()).body for _ in expected] == expected
                await consumer.assert_quiet()
            await eventually(server.is_ready)
    finally:
        await redis.stop()


async def test_a_server_stops_in_order_while_redis_is_away(tmp_path: Path, fresh_name: str) -> None:
    """Whatever its clients wait for; each is told."""
    redis = RedisProcess(tmp_path / "redis")
    await redis.start()
    try:
        async with (
            stomp_server(tmp_path, redis.url, "node") as (server, port),
            stomp_client(port) as client,
            stomp_client(port) as committing,
        ):
            await committing.call("BEGIN", transaction="t")
            await send(committing, fresh_name, b"x", transaction="t")
            await redis.stop()
            await client.send_frame("SUBSCRIBE", id="0", destination=f"/topic/{fresh_name}")
            await client.send_frame("SUBSCRIBE", id="1", destination=f"/queue/{fresh_name}.>")
            await committing.send_frame("COMMIT", transaction="t")
            await client.send_frame("BEGIN", transaction="t", receipt="never")
            assert await server.stop() == 0
            for each in (client, committing):
                assert "stopping" in (await each.error()).headers["message"]
    finally:
        await redis.stop()


async def test_subscriptions_go_on_when_redis_is_back(tmp_path: Path, fresh_name: str) -> None:
    redis = RedisProcess(tmp_path / "redis")
    await redis.start()
    try:
        async with (
            stomp_server(tmp_path, redis.url, "node") as (server, port),
            stomp_client(port) as consumer,
        ):
            await subscribe(consumer, f"/queue/{fresh_name}")
            await subscribe(consumer, f"/queue/{fresh_name}.>", number="1")
            await redis.stop()
            async with stomp_client(port) as client:
                await client.send_frame("SEND", b"x", destination=fresh_name, receipt="r")
                assert (await client.error()).headers["receipt-id"] == "r"
            await redis.start()
            await eventually(server.is_ready)
            async with stomp_client(port) as client:
                for name in (fresh_name, f"{fresh_name}.new"):
                    await send(client, f"/queue/{name}", b"x")
                    message = await consumer.message()
                    assert message.headers["destination"] == f"/queue/{name}"
                    await consumer.ack(message)
    finally:
        await redis.stop()
