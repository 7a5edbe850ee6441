"""RSE's polls against a list of all events and the rules in a few lines of Python."""

import random
import uuid
from typing import Any, NamedTuple

import pytest

from tests.endpoints.conftest import OpenNode
from tests.endpoints.test_rse import Agent, opened

SEGMENTS = ("a", "b", "ab")
POSTS = 60
POLLS = 150


class Posted(NamedTuple):
    """An event of the model."""

    id: int
    channel: str
    sender: Agent


def expected(events: list[Posted], channel: str, reader: Agent, query: dict[str, Any]) -> list[int]:
    """Return the ids that a poll is to find, in their order."""
    selection = query.get("events", "exact")

    def is_selected(event: Posted) -> bool:
        if event.sender is reader and query.get("echo") != "true":
            return False
        if selection == "parent":
            return f"{channel}/".startswith(f"{event.channel}/")
        if selection == "all":
            return f"{event.channel}/".startswith(f"{channel}/")
        return event.channel == channel

    found = [e.id for e in events if e.id > query.get("last-known-id", 0) and is_selected(e)]
    found = found[:: -1 if query.get("sort") == -1 else 1]
    return found[: query.get("max-events", 200)]


def any_query(source: random.Random, events: list[Posted]) -> dict[str, Any]:
    """Return some parameters of a poll."""
    query: dict[str, Any] = {
        "events": source.choice(["exact", "parent", "all", "all"]),
        "echo": source.choice(["true", "false"]),
        "sort": source.choice([1, -1]),
        "max-events": source.choice([1, 2, 3, 5, 8, 500]),
        "last-known-id": source.choice([0, *(event.id for event in events)]),
    }
    return {name: value for name, value in query.items() if source.random() < 0.6}


@pytest.mark.parametrize("seed", range(3))
async def test_polls_find_what_the_rules_say(open_node: OpenNode, seed: int) -> None:
    """Any selection, order, limit, position and reader, over a small tree of channels."""
    source = random.Random(seed)
    root = f"/model-{uuid.uuid4().hex}"
    events: list[Posted] = []

    def any_channel() -> str:
        return "/".join([root, *source.choices(SEGMENTS, k=source.randrange(4))])

    async with opened(open_node, "path", rse_test_mode=True) as rse:
        agents = [rse.agent() for _ in range(3)]
        witness = rse.agent()
        for _ in range(POSTS):
            sender, channel = source.choice(agents), any_channel()
            await sender.posted(channel, {})
            newest = (await witness.get(f"{channel}?sort=-1&max-events=1")).events[0]
            events.append(Posted(newest["id"], channel, sender))
        for _ in range(POLLS):
            reader, channel, query = source.choice(agents), any_channel(), any_query(source, events)
            text = "&".join(f"{name}={value}" for name, value in query.items())
            found = [event["id"] for event in (await reader.get(f"{channel}?{text}")).events]
            assert found == expected(events, channel, reader, query), (channel, query)
