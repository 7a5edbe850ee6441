"""The client of a server that limits rates: it waits for as long as it is told to."""

import asyncio

import pytest

from restmq.client import Client, NoAnswer, RateLimited, Unavailable
from restmq.http_client import error_class, refusal
from tests.endpoints.conftest import OpenNode

SLOW = 1 / 3600
"""Requests a second: so few that the bucket stays empty for the test."""


async def test_what_was_refused_is_asked_again(open_node: OpenNode, fresh_name: str) -> None:
    """Also what may not be repeated when it was done perhaps, since it was not."""
    async with open_node(rate_limit=5, rate_burst=1) as node, Client(node.url) as client:
        await client.publish(fresh_name, "a")
        taken = await client.take(fresh_name)
        assert taken is not None
        assert taken.text == "a"


async def test_a_wait_that_is_too_long_is_told(open_node: OpenNode, fresh_name: str) -> None:
    """At once, and not when the time is up."""
    async with open_node(rate_limit=SLOW, rate_burst=1) as node, Client(node.url) as client:
        await client.publish(fresh_name, "a")
        async with asyncio.timeout(20):
            with pytest.raises(RateLimited, match="too many") as refused:
                await client.publish(fresh_name, "b")
    assert isinstance(refused.value, Unavailable)
    assert 3000 < refused.value.retry_after_seconds <= 3600


async def test_consuming_and_listening_go_on(open_node: OpenNode, fresh_name: str) -> None:
    """They begin while the bucket is empty."""
    async with open_node(rate_limit=5, rate_burst=2) as node, Client(node.url) as client:
        await client.publish_many(fresh_name, "ab")
        await client.stats(fresh_name)
        async with client.consume(fresh_name) as messages, asyncio.timeout(20):
            async for message in messages:
                async with message:
                    assert message.text == "a"
                break
        listener = client.listen(fresh_name, after=0)
        async with asyncio.timeout(20):
            await client.stats(fresh_name)
            assert (await anext(listener)).text in "ab"
        await listener.aclose()


async def test_a_consumer_asks_no_earlier_than_it_was_told(
    open_node: OpenNode, fresh_name: str
) -> None:
    """One request, one refusal, and then silence."""
    async with open_node(rate_limit=SLOW, rate_burst=1) as node, Client(node.url) as client:
        await client.publish(fresh_name, "a")
        attempts = 0
        attempt = client._connection.attempt

        async def counted(*arguments: object, **named: object) -> object:
            nonlocal attempts
            attempts += 1
            return await attempt(*arguments, **named)  # type: ignore[arg-type]

        client._connection.attempt = counted  # type: ignore[assignment, method-assign]
        consumer = client.consume(fresh_name)
        iterator = aiter(consumer)
        waiting = asyncio.ensure_future(anext(iterator, None))
        await asyncio.wait([waiting], timeout=0.7)
        consumer.stop()
        assert await waiting is None
        assert attempts == 1


async def test_what_found_no_free_connection_was_not_sent(
    open_node: OpenNode, fresh_name: str
) -> None:
    """The error says so, and it is not in doubt."""
    async with (
        open_node() as node,
        Client(node.url, max_connections=1, timeout_seconds=0.2) as client,
    ):
        async with client._connection._slots:
            with pytest.raises(NoAnswer, match="max_connections") as busy:
                await client.take(fresh_name)
        assert not busy.value.was_sent
        assert await client.take(fresh_name) is None


@pytest.mark.parametrize("seconds", ["17", "", "soon", "²"])
def test_the_refusal_of_a_proxy_is_read_by_its_status(seconds: str) -> None:
    """Retry-After counts if it is a number."""
    error = refusal(429, "Too Many Requests", "text/html", b"<h1>slowly</h1>", seconds)
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == (17 if seconds == "17" else 1)
    assert error_class("rate-limited") is RateLimited
