"""What many tests do with a broker, and ask of it."""

import asyncio
from collections.abc import Callable, Sequence

from redis.asyncio import Redis

from restmq.broker.broker import Broker
from restmq.broker.groups import Added
from restmq.broker.message import LeasedMessage, Message
from restmq.broker.receipts import Receipt
from restmq.errors import NotFound, StoreUnavailable
from tests.broker.fakes import FakeConsumer
from tests.support import START_TIMEOUT_SECONDS, eventually

NOON = 1_700_000_000.0
"""A moment for brokers whose clock is set."""


async def until(condition: Callable[[], object], timeout_seconds: float = 10) -> None:
    """Wait until ``condition``, plain or async, is true; AssertionError if it never is."""
    await eventually(condition, timeout_seconds)


async def add_all(broker: Broker, queue: str, *values: bytes) -> list[int]:
    """Add the values at once, in this order, and return their numbers."""
    return list(await asyncio.gather(*(broker.add(queue, value) for value in values)))


async def add_many(broker: Broker, queue: str, count: int, size_bytes: int = 1) -> None:
    """Add ``count`` messages at once."""
    await add_all(broker, queue, *[b"a" * size_bytes] * count)


async def add_when_possible(broker: Broker, queue: str, value: bytes) -> int:
    """Add as soon as Redis takes it; returns the number."""

    async def add() -> int:
        try:
            return await broker.add(queue, value)
        except StoreUnavailable:
            return 0

    return await eventually(add, START_TIMEOUT_SECONDS)


async def publish(
    broker: Broker,
    queue: str,
    values: Sequence[bytes],
    *,
    priority: int = 4,
    ttl_seconds: int | None = None,
    delay_seconds: float | None = None,
    at: float | None = None,
    idempotency_key: str | None = None,
) -> Added:
    """Add a batch, with all that can be said about it."""
    return await broker.publish(
        queue,
        values,
        priority=priority,
        ttl_seconds=ttl_seconds,
        delay_seconds=delay_seconds,
        at=at,
        idempotency_key=idempotency_key,
    )


async def classic_stats(broker: Broker, queue: str) -> tuple[object, ...]:
    """Return name, length, status, policy and consumers: what does not depend on time."""
    return tuple(await broker.stats(queue))[:5]


def values_of(messages: Sequence[Message]) -> list[bytes]:
    """Return the values of the messages."""
    return [message.value for message in messages]


def numbers_of(messages: Sequence[Message]) -> list[int]:
    """Return the numbers of the messages."""
    return [message.number for message in messages]


def receipt_of(queue: str, message: LeasedMessage) -> Receipt:
    """Return what names a delivery."""
    return Receipt(queue, message.number, message.token)


async def ack_all(broker: Broker, queue: str, messages: Sequence[LeasedMessage]) -> None:
    """Ack all of them at once."""
    await asyncio.gather(*(broker.ack(receipt_of(queue, message)) for message in messages))


async def visit(broker: Broker, queue: str) -> float | None:
    """Clear what is due, as the schedule does; returns when something is due next."""
    return await broker._stores.disk._visit(queue)


async def state_of(broker: Broker, queue: str, number: int) -> str:
    """Return the state of a message, or `gone`."""
    try:
        return (await broker.inspect(queue, number)).state
    except NotFound:
        return "gone"


async def drain(broker: Broker, queue: str) -> list[Message]:
    """Take all that is there."""
    messages = []
    while taken := await broker.take(queue, 500):
        messages += taken
    return messages


async def length_is(broker: Broker, queue: str, length: int) -> bool:
    """Whether Redis is in reach and so many messages wait."""
    try:
        return (await broker.stats(queue)).length == length
    except StoreUnavailable:
        return False


async def received(consumers: Sequence[FakeConsumer], count: int) -> list[int]:
    """Wait until the consumers have ``count`` messages between them; returns all numbers."""
    await until(lambda: sum(len(consumer.messages) for consumer in consumers) >= count, 30)
    return sorted(number for consumer in consumers for number in consumer.numbers)


async def execute(client: "Redis", *words: str) -> object:
    """Send one command for which the client has no method."""
    answer: object = await client.execute_command(*words)  # type: ignore[no-untyped-call]
    return answer


async def size_of(store: "Redis", key: str) -> int:
    """Return what Redis spends on a key, in bytes."""
    return await store.memory_usage(key, samples=0) or 0


async def keys_of(store: "Redis", queue: str) -> dict[str, int]:
    """Return all keys that carry the queue's hash tag, each with its size in bytes."""
    found = [key async for key in store.scan_iter(match=f"restmq:{{{queue}}}:*", count=10_000)]
    return {key.decode(): await size_of(store, key) for key in found}
