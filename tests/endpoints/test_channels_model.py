"""A channel does what a few lines of Python do, whatever is done to it in whatever order."""

import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.endpoints.channel_client import Channels
from tests.endpoints.conftest import NodeUnderTest

CLIENTS = ("ann", "ben", "cat")

clients = st.sampled_from(CLIENTS)
steps = st.one_of(
    st.tuples(st.just("write")),
    st.tuples(st.just("subscribe"), clients, st.sampled_from(["earliest", "current", "latest"])),
    st.tuples(st.just("read"), clients, st.integers(1, 4), st.integers(0, 3)),
    st.tuples(st.just("unsubscribe"), clients),
    st.tuples(st.just("prune"), st.integers(1, 12)),
    st.tuples(st.just("delete")),
)


@dataclass
class Model:
    """What the specification says of one channel; messages are known by their ids."""

    last: int = 0
    retained: list[int] = field(default_factory=list)
    cursors: dict[str, int] = field(default_factory=dict)

    def discard_through(self, number: int) -> None:
        """Discard all up to an id."""
        self.retained = [each for each in self.retained if each > number]

    def subscribe(self, client: str, policy: str) -> int:
        """Return where the cursor is now."""
        if policy == "earliest":
            self.cursors[client] = self.retained[0] - 1 if self.retained else self.last
        elif policy == "latest" or client not in self.cursors:
            self.cursors[client] = self.last
        return self.cursors[client]

    def read(self, client: str, limit: int, kept_count: int) -> list[int]:
        """Return what is read."""
        if client not in self.cursors:
            return []
        found = [each for each in self.retained if each > self.cursors[client]][:limit]
        if found:
            self.cursors[client] = found[-1]
            self.discard_through(min(self.cursors.values()) - kept_count)
        return found

    def unsubscribe(self, client: str) -> None:
        """Give up a cursor."""
        if self.cursors.pop(client, None) is not None:
            self.discard_through(min(self.cursors.values(), default=self.last))


class Run:
    """One channel, beside its model."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.model = Model()
        self.own = uuid.uuid4().hex
        self.channel = f"model-{self.own}"

    def client(self, name: str) -> str:
        """Return the id of a client that nobody else has."""
        return f"{name}-{self.own}"

    async def write(self) -> None:
        self.model.last += 1
        self.model.retained.append(self.model.last)
        [written] = await self.channels.write(self.channel, self.model.last)
        assert written["id"] == self.model.last

    async def subscribe(self, name: str, policy: str) -> None:
        cursor = await self.channels.subscribe(self.client(name), self.channel, policy)
        assert cursor == self.model.subscribe(name, policy)

    async def read(self, name: str, limit: int, kept_count: int) -> None:
        query = f"?limit={limit}&bufsize={kept_count}"
        found = await self.channels.read(self.client(name), query)
        expected = self.model.read(name, limit, kept_count)
        assert found == ({self.channel: expected} if expected else {})

    async def unsubscribe(self, name: str) -> None:
        await self.channels.unsubscribe(self.client(name), self.channel)
        self.model.unsubscribe(name)

    async def prune(self, before: int) -> None:
        path = f"/channels/{self.channel}/messages?before={before}"
        answer = await self.channels.json("DELETE", path)
        count = len(self.model.retained)
        self.model.discard_through(before - 1)
        assert answer["discarded"] == count - len(self.model.retained)

    async def delete(self) -> None:
        path = f"/channels/{self.channel}"
        url = self.channels.url + path
        async with self.channels.session.delete(url) as answer:
            assert answer.status in (204, 404)
        self.model.cursors.clear()
        self.model.retained.clear()

    async def check(self) -> None:
        """Compare what is left."""
        assert await self.channels.retained(self.channel) == self.model.retained
        for name in CLIENTS:
            answer = await self.channels.json("GET", f"/cursors/{self.client(name)}")
            cursor = self.model.cursors.get(name)
            expected = {} if cursor is None else {self.channel: cursor}
            assert answer["subscriptions"] == expected


@pytest.fixture
def channels(node: NodeUnderTest) -> Channels:
    """A client of a node with the default settings."""
    return Channels(node.session, node.url)


@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(steps, max_size=25))
async def test_a_channel_behaves_as_its_model(
    channels: Channels, steps: list[tuple[str, ...]]
) -> None:
    """After each step, the same is retained and the cursors are the same."""
    run = Run(channels)
    for word, *arguments in steps:
        await getattr(run, word)(*arguments)
        await run.check()
