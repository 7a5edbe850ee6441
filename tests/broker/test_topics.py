"""Topics, queues to come, and subscriptions: on an instance and on a cluster, on two nodes."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from restmq.broker.broker import Broker
from restmq.broker.holders import Binding, Delivery, Holder
from restmq.broker.message import pack
from restmq.broker.messaging import Messaging
from restmq.broker.topics import Interests, TopicMessage
from tests.broker.conftest import MakeBroker
from tests.support import eventually


def messaging_of(broker: Broker) -> Messaging:
    return Messaging(broker, lambda queue: True, lease_seconds=60, max_attempts=5)


@pytest.fixture
async def nodes(make_broker: MakeBroker) -> AsyncIterator[tuple[Messaging, Messaging]]:
    """Two nodes on one Redis."""
    first, second = [messaging_of(await make_broker()) for _ in range(2)]
    yield first, second
    await asyncio.gather(first.close(), second.close())


class Collector(Holder):
    """A holder that keeps what it gets."""

    def __init__(self, prefetch: int) -> None:
        super().__init__(prefetch)
        self.deliveries: list[Delivery] = []
        self.expired: list[Delivery] = []

    @property
    def is_able(self) -> bool:
        return True

    def deliver(self, binding: Binding, deliveries: Sequence[Delivery]) -> None:
        self.deliveries += deliveries

    def expire(self, delivery: Delivery) -> None:
        self.expired.append(delivery)

    def has(self, count: int) -> bool:
        return len(self.deliveries) == count


def test_a_wildcard_matches_what_goes_on_after_its_dot() -> None:
    interests: Interests[str] = Interests()
    assert interests.add("a.>", "below a")
    assert not interests.add("a.>", "below a too")
    assert interests.add("a", "a")
    assert interests.add("a.b.>", "below b")
    assert list(interests.matching("a")) == ["a"]
    assert list(interests.matching("a.")) == []
    assert list(interests.matching("ab.c")) == []
    assert list(interests.matching("a.b")) == ["below a", "below a too"]
    assert list(interests.matching("a.b.c")) == ["below a", "below a too", "below b"]
    assert not interests.discard("a.>", "below a")
    assert interests.discard("a.>", "below a too")
    assert not interests.discard("a.>", "nobody")
    assert interests.names() == ["a", "a.b.>"]


async def test_a_topic_reaches_both_nodes_once(
    nodes: tuple[Messaging, Messaging], fresh_name: str
) -> None:
    heard: list[tuple[str, str, bytes]] = []

    def hearing(who: str) -> object:
        def hear(topic: str, message: TopicMessage) -> None:
            heard.append((who, topic, message.value))

        return hear

    here, there = nodes
    for who, node in (("here", here), ("there", there)):
        for topic in (f"{fresh_name}.x", f"{fresh_name}.>"):
            await node.topics.subscribe(topic, hearing(who))  # type: ignore[arg-type]
    for value in (b"1", b"2"):
        await here.topics.publish(f"{fresh_name}.x", pack(value))
    await eventually(lambda: len(heard) == 8)
    for who in ("here", "there"):
        values = [value for name, _, value in heard if name == who]
        assert values.count(b"1") == values.count(b"2") == 2
        assert values[0] == b"1"
    assert {topic for _, topic, _ in heard} == {f"{fresh_name}.x"}


async def test_queues_that_are_there_and_to_come(
    nodes: tuple[Messaging, Messaging], fresh_name: str
) -> None:
    found: list[str] = []
    here, there = nodes
    await there.sender.send(f"{fresh_name}.old", [pack(b"x")])
    await here.new_queues.watch(f"{fresh_name}.>", found.append)
    assert set(found) == {f"{fresh_name}.old"}
    await there.sender.send(f"{fresh_name}.new", [pack(b"x")])
    await eventually(lambda: f"{fresh_name}.new" in found)
    here.new_queues.unwatch(f"{fresh_name}.>", found.append)


async def test_sending_keeps_its_order_while_a_queue_is_made(
    nodes: tuple[Messaging, Messaging], fresh_name: str
) -> None:
    sender = nodes[0].sender
    futures = [sender.send(fresh_name, [pack(b"%d" % n)]) for n in range(50)]
    await eventually(lambda: sender.is_known(fresh_name))
    futures += [sender.send(fresh_name, [pack(b"%d" % n)]) for n in range(50, 100)]
    numbers = [added.number for added in await asyncio.gather(*futures)]
    assert numbers == list(range(1, 101))


async def test_a_holder_keeps_to_its_limit_over_all_queues(
    nodes: tuple[Messaging, Messaging], fresh_name: str
) -> None:
    """Whichever of several queues comes first; what is given back is handed out again."""
    node = nodes[0]
    holder, other = Collector(3), Collector(100)
    for letter in "abcd":
        await node.sender.send(fresh_name + letter, [pack(b"%d" % n) for n in range(5)])
        await node.subscriptions.bind(fresh_name + letter, holder, 2, is_counted=True, owner=letter)
    await eventually(lambda: holder.has(3))
    assert holder.held_count == 3
    while len(holder.deliveries) < 20 or not all(d.name for d in holder.deliveries):
        done = next(d for d in holder.deliveries if d.name == 0)
        done.name = 1
        count = len(holder.deliveries)
        await node.subscriptions.ack(done)
        assert holder.held_count <= 3
        if count < 20:
            await eventually(lambda count=count: len(holder.deliveries) > count)  # type: ignore[misc]
    for letter in "abcd":
        got = [d.message.value for d in holder.deliveries if d.binding.owner == letter]
        assert got == [b"%d" % n for n in range(5)]
    binding = await node.subscriptions.bind(fresh_name, other, 100, is_counted=False, owner=None)
    await node.sender.send(fresh_name, [pack(b"1"), pack(b"2")])
    await eventually(lambda: other.has(2))
    await asyncio.gather(*node.subscriptions.unbind(binding, other.deliveries))
    await nodes[1].subscriptions.bind(fresh_name, holder, 2, is_counted=True, owner="again")
    await eventually(lambda: holder.has(22))
    assert [d.message.value for d in holder.deliveries[-2:]] == [b"1", b"2"]
    assert [d.message.attempt for d in holder.deliveries[-2:]] == [2, 2]
