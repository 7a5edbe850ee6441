"""Topics: fan-out to whoever listens now, on all nodes, with nothing stored.

A message goes to the subscribers of its own node at once, and over Redis to the other nodes that
have any: each topic has a channel, so that a message nobody wants costs Redis one look-up. The
messages of one publisher reach each subscriber in their order. A subscriber that cannot keep up
is its own endpoint's business: what it is handed here it takes or loses.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from restmq.broker.commit import Committer
from restmq.broker.keys import topic_channel, topic_pattern
from restmq.broker.message import Message
from restmq.broker.pubsub import Channel, Channels
from restmq.broker.scripts import Reply, command

WILDCARD = ".>"
"""A name that ends so stands for all that go on after the dot."""

_NO_TIMES = bytes(16)  # a record starts with two times, and here there are none

Member = TypeVar("Member")


class TopicMessage(Message):
    """A message of a topic; it has no number."""

    __slots__ = ("encoded",)

    def __init__(self, packed: bytes) -> None:
        super().__init__(0, _NO_TIMES + packed)
        self.encoded: dict[str, bytes] = {}
        """For endpoints: its forms by the name of a format, so that it is encoded once for all."""


Heard = Callable[[str, TopicMessage], None]
"""What a subscriber is: called with the topic and the message; it must not raise."""


class Interests(Generic[Member]):
    """Who wants which names: one by one, or all that a wildcard matches."""

    def __init__(self) -> None:
        self._names: dict[str, dict[Member, None]] = {}
        self._prefixes: dict[str, dict[Member, None]] = {}

    def add(self, name: str, member: Member) -> bool:
        """Count a member in; returns whether it is the first for this name or wildcard."""
        table, key = self._place(name)
        members = table.setdefault(key, {})
        members[member] = None
        return len(members) == 1

    def discard(self, name: str, member: Member) -> bool:
        """Count a member out; returns whether nobody is left for this name or wildcard."""
        table, key = self._place(name)
        members = table.get(key)
        if members is None:
            return False
        members.pop(member, None)
        if not members:
            del table[key]
        return not members

    def count(self, name: str) -> int:
        """Return how many there are for just this name or wildcard."""
        table, key = self._place(name)
        return len(table.get(key, ()))

    def names(self) -> list[str]:
        """Return all names and wildcards."""
        return [*self._names, *(f"{prefix}>" for prefix in self._prefixes)]

    def of(self, name: str) -> list[Member]:
        """Return those for just this name or wildcard."""
        table, key = self._place(name)
        return list(table.get(key, ()))

    def matching(self, name: str) -> Iterator[Member]:
        """Yield all who want this name, whatever they called it; O(dots in the name)."""
        yield from list(self._names.get(name, ()))
        if not self._prefixes:
            return
        dot = name.find(".")
        while 0 <= dot < len(name) - 1:
            yield from list(self._prefixes.get(name[: dot + 1], ()))
            dot = name.find(".", dot + 1)

    def _place(self, name: str) -> tuple[dict[str, dict[Member, None]], str]:
        if name.endswith(WILDCARD):
            return self._prefixes, name[:-1]
        return self._names, name


class Topics:
    """All topics, as one node sees them. A topic is made by using it."""

    def __init__(self, node: str, committer: Committer, channels: Channels) -> None:
        self._origin = node.encode()
        self._committer = committer
        self._channels = channels
        self._interests: Interests[Heard] = Interests()
        self._open: dict[str, Channel] = {}
        self._loop = asyncio.get_running_loop()

    def subscribe(self, topic: str, heard: Heard) -> asyncio.Future[None]:
        """Have ``heard`` called for each message of a topic, or of all that a wildcard matches.

        What is published on this node comes from now on, and that of other nodes when the future
        is done; it is shared, so do not cancel it.
        """
        if self._interests.add(topic, heard):
            self._open[topic] = self._listen(topic)
        return self._open[topic].listening

    def unsubscribe(self, topic: str, heard: Heard) -> None:
        """Call it no more."""
        if self._interests.discard(topic, heard):
            self._channels.forget(self._open.pop(topic))

    def publish(
        self, topic: str, packed: bytes, *, is_private: bool = False
    ) -> asyncio.Future[Reply]:
        """Hand a packed message to all who listen now; done when Redis has it for other nodes.

        ``is_private``: it has one subscriber at most, so if that is here, no other node hears.
        """
        if self._deliver(self._interests.matching(topic), topic, packed) and is_private:
            done: asyncio.Future[Reply] = self._loop.create_future()
            done.set_result(0)
            return done
        return self._committer.submit(
            command("PUBLISH", topic_channel(topic), self._origin + packed)
        )

    def counts(self) -> dict[str, int]:
        """Return how many subscribers each topic and wildcard has on this node."""
        return {name: self._interests.count(name) for name in self._interests.names()}

    def _listen(self, topic: str) -> Channel:
        """Listen to other nodes. Redis tells the channel and each pattern of a message once."""
        start = len(topic_channel(""))

        def heard(channel: str, data: bytes) -> None:
            size = len(self._origin)
            if not data.startswith(self._origin):  # else it was delivered here already
                self._deliver(iter(self._interests.of(topic)), channel[start:], data[size:])

        if topic.endswith(WILDCARD):
            return self._channels.listen(topic_pattern(topic[:-1]), heard, is_pattern=True)
        return self._channels.listen(topic_channel(topic), heard)

    def _deliver(self, subscribers: Iterator[Heard], topic: str, packed: bytes) -> bool:
        message = None
        for heard in subscribers:
            if message is None:
                message = TopicMessage(packed)
            heard(topic, message)
        return message is not None
