"""Channels over HTTP: writing, cursors, reading, and what administrators do."""

import asyncio
import itertools
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.endpoints.channel_client import Channels, segment
from tests.endpoints.conftest import NodeUnderTest, OpenNode


@pytest.fixture
def channels(node: NodeUnderTest) -> Channels:
    """A client of a node with the default settings."""
    return Channels(node.session, node.url)


async def test_a_write_answers_with_the_envelope(channels: Channels, fresh_name: str) -> None:
    """Ids count from 1, the time is in microseconds, and ``src`` may be left out."""
    before = time.time()
    first, second = await channels.write(fresh_name, "one", {"k": [1, 2.5, None]}, source="alice")
    assert first == {"id": 1, "ts": first["ts"], "src": "alice", "data": "one"}
    assert second == {"id": 2, "ts": second["ts"], "src": "alice", "data": {"k": [1, 2.5, None]}}
    assert isinstance(first["ts"], int)
    assert abs(first["ts"] / 1e6 - before) < 60
    assert first["ts"] <= second["ts"]
    path = f"/channels/{fresh_name}"
    anonymous = await channels.json("POST", path, 201, data=b'{"data": null}')
    assert (anonymous["id"], anonymous["src"], anonymous["data"]) == (3, "", None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1]",
        b"hello",
        b'{"src": "a"}',
        b'{"data": 1, "src": 2}',
        b'{"data": tru}',
        b'{"data": "\xff"}',
        b'{"data": 1} 2',
        b'{"data": 1, "src": "' + b"s" * 256 + b'"}',
        b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
async def test_a_body_that_is_no_message_is_refused_and_stores_nothing(
    channels: Channels, fresh_name: str, body: bytes
) -> None:
    """One line says what to send."""
    answer = await channels.json("POST", f"/channels/{fresh_name}", 400, data=body)
    assert answer["error"] == "invalid-input"
    assert "\n" not in answer["message"]
    assert await channels.retained(fresh_name) == []


async def test_a_body_over_the_limit_is_refused(open_node: OpenNode, fresh_name: str) -> None:
    """Whether it comes along with the headers or later."""
    async with open_node(max_body_bytes=1000) as node:
        channels = Channels(node.session, node.url)
        path = f"/channels/{fresh_name}"
        for size_bytes in (1001, 1_000_000):
            answer = await channels.json("POST", path, 413, json={"data": "x" * size_bytes})
            assert answer["error"] == "too-large"
        await channels.write(fresh_name, "x" * 900)
        assert await channels.retained(fresh_name) == [1]


async def test_a_long_message_comes_back_whole(channels: Channels, fresh_name: str) -> None:
    """Also when it does not come along with the headers."""
    await channels.subscribe(fresh_name, fresh_name)
    text = "ä" * 100_000
    await channels.write(fresh_name, text)
    assert await channels.read(fresh_name) == {fresh_name: [text]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text() | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
@given(value=json_values)
async def test_any_json_value_comes_back_as_it_was_written(
    channels: Channels, fresh_name: str, value: object
) -> None:
    """The data is not touched."""
    await channels.subscribe("any", fresh_name)
    await channels.write(fresh_name, value)
    assert await channels.read("any") == {fresh_name: [value]}


async def test_names_may_hold_anything_when_they_are_encoded(
    channels: Channels, fresh_name: str
) -> None:
    """Slashes, braces, spaces, dots and letters of any script."""
    for start in ("a/b", "{x}", "%", "ä ", "../", "messages", "?"):
        channel, client = f"{start}{fresh_name}", f"{fresh_name}{start}"
        assert await channels.subscribe(client, channel) == 0
        await channels.write(channel, start)
        assert await channels.read(client) == {channel: [start]}
        assert (await channels.json("GET", f"/channels/{segment(channel)}"))["channel"] == channel


async def test_reading_moves_the_cursor_and_limits_each_channel(
    channels: Channels, fresh_name: str
) -> None:
    """At most ``limit`` of each channel; channels without news are left out; then ``{}``."""
    client, one, two = (f"{fresh_name}-{word}" for word in ("client", "one", "two"))
    await channels.subscribe(client, one)
    await channels.subscribe(client, two)
    await channels.write(one, *range(10))
    await channels.write(two, *range(3))
    assert await channels.read(client, "?limit=5") == {one: [*range(5)], two: [*range(3)]}
    assert await channels.read(client, "?limit=5") == {one: [*range(5, 10)]}
    assert await channels.read(client, "?limit=5") == {}
    subscriptions = (await channels.json("GET", f"/cursors/{client}"))["subscriptions"]
    assert subscriptions == {one: 10, two: 3}


async def test_a_client_without_subscriptions_reads_nothing(
    channels: Channels, fresh_name: str
) -> None:
    """It is not an error to be unknown."""
    assert await channels.read(fresh_name) == {}
    answer = await channels.json("GET", f"/cursors/{fresh_name}")
    assert answer == {"client": fresh_name, "subscriptions": {}}


async def test_the_policies(channels: Channels, fresh_name: str) -> None:
    """Earliest before what is retained, latest and a new current after the last message."""
    client = f"{fresh_name}-client"
    await channels.write(fresh_name, *range(4))
    assert await channels.subscribe(client, fresh_name) == 4
    assert await channels.subscribe(client, fresh_name, "earliest") == 0
    assert await channels.read(client, "?limit=1") == {fresh_name: [0]}
    assert await channels.subscribe(client, fresh_name, "current") == 1
    assert await channels.subscribe(client, fresh_name, "latest") == 4
    assert await channels.read(client) == {}
    pruned = await channels.json("DELETE", f"/channels/{fresh_name}/messages?before=4")
    assert pruned == {"channel": fresh_name, "discarded": 3}
    assert await channels.subscribe(client, fresh_name, "earliest") == 3
    await channels.json("DELETE", f"/channels/{fresh_name}/messages?before=5")
    assert await channels.subscribe(client, fresh_name, "earliest") == 4
    await channels.call("PUT", f"/cursors/{client}/{fresh_name}?policy=newest", 400)


async def test_a_cursor_can_be_moved_to_a_message(channels: Channels, fresh_name: str) -> None:
    """Back or ahead, but not beyond the last one; it makes a subscription too."""
    path = f"/cursors/{fresh_name}-client/{fresh_name}"
    await channels.write(fresh_name, *range(1, 6))
    for asked, expected in ((3, 3), (99, 5), (0, 0), (4, 4)):
        assert (await channels.json("PUT", f"{path}?cursor={asked}"))["cursor"] == expected
        rest = [*range(expected + 1, 6)]
        found = await channels.read(f"{fresh_name}-client", "?limit=10")
        assert found == ({fresh_name: rest} if rest else {})
    for query in ("cursor=-1", "cursor=x", "cursor=1&policy=latest", "cursor=9007199254740992"):
        answer = await channels.json("PUT", f"{path}?{query}", 400)
        assert "cursor" in answer["message"]


async def test_what_was_pruned_does_not_stop_a_reader(channels: Channels, fresh_name: str) -> None:
    """The next ``limit`` messages that exist are returned, however far away they are."""
    client = f"{fresh_name}-client"
    await channels.subscribe(client, fresh_name)
    await channels.write(fresh_name, *range(1, 21))
    await channels.json("DELETE", f"/channels/{fresh_name}/messages?before=15")
    assert await channels.read(client, "?limit=3") == {fresh_name: [15, 16, 17]}
    assert await channels.read(client, "?limit=5") == {fresh_name: [18, 19, 20]}


async def test_bufsize_keeps_that_much_behind_the_slowest_reader(
    channels: Channels, fresh_name: str
) -> None:
    """What somebody has yet to read is never discarded."""
    fast, slow = f"{fresh_name}-fast", f"{fresh_name}-slow"
    await channels.subscribe(fast, fresh_name)
    await channels.subscribe(slow, fresh_name)
    await channels.write(fresh_name, *range(1, 31))
    await channels.read(fast, "?bufsize=10")
    assert await channels.retained(fresh_name) == [*range(1, 31)]
    await channels.read(slow, "?bufsize=10&limit=15")
    assert await channels.retained(fresh_name) == [*range(6, 31)]
    await channels.read(slow, "?bufsize=10")
    assert await channels.retained(fresh_name) == [*range(21, 31)]
    await channels.write(fresh_name, 31)
    await channels.read(slow, "?bufsize=0")
    await channels.read(fast, "?bufsize=0")
    assert await channels.retained(fresh_name) == []


async def test_unsubscribing_discards_what_the_others_have_read(
    channels: Channels, fresh_name: str
) -> None:
    """The last one takes everything along; ids go on."""
    fast, slow = f"{fresh_name}-fast", f"{fresh_name}-slow"
    await channels.subscribe(fast, fresh_name)
    await channels.subscribe(slow, fresh_name)
    await channels.write(fresh_name, *range(1, 13))
    await channels.read(fast, "?limit=10")
    await channels.read(slow, "?limit=4")
    await channels.unsubscribe(slow, fresh_name)
    assert await channels.retained(fresh_name) == [11, 12]
    assert await channels.read(fast) == {fresh_name: [11, 12]}
    await channels.write(fresh_name, 13)
    await channels.unsubscribe(fast, fresh_name)
    assert await channels.retained(fresh_name) == []
    assert (await channels.write(fresh_name, 14))[0]["id"] == 14
    await channels.unsubscribe("nobody", fresh_name)
    await channels.unsubscribe(fast, f"{fresh_name}-never-seen")


async def test_readers_of_one_client_share_its_messages(
    channels: Channels, fresh_name: str
) -> None:
    """Balanced consumers: each message goes to one of them, in order."""
    client = f"{fresh_name}-client"
    await channels.subscribe(client, fresh_name)

    async def consume(shares: list[int]) -> None:
        while len(shares) == 0 or shares[-1] != -1:
            for value in (await channels.read(client, "?limit=3&wait=10")).get(fresh_name, []):
                shares.append(value)
                if value == -1:  # so that the other one ends as well
                    await channels.write(fresh_name, -1)

    shares: list[list[int]] = [[], []]
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        for share in shares:
            tasks.create_task(consume(share))
        await channels.write(fresh_name, *range(60), -1)
    values = [[value for value in share if value >= 0] for share in shares]
    assert sorted(itertools.chain(*values)) == [*range(60)]
    assert values == [sorted(share) for share in values]


async def test_a_read_waits_for_something(channels: Channels, fresh_name: str) -> None:
    """``wait`` holds the answer until a message comes, in any of the client's channels."""
    client = f"{fresh_name}-client"
    await channels.subscribe(client, f"{fresh_name}-quiet")
    await channels.subscribe(client, fresh_name)
    reading = asyncio.create_task(channels.read(client, "?wait=60"))
    done, _ = await asyncio.wait([reading], timeout=0.2)
    assert not done
    await channels.write(fresh_name, "at last")
    async with asyncio.timeout(20):
        assert await reading == {fresh_name: ["at last"]}
    assert await channels.read(client, "?wait=1") == {}
    assert await channels.read(client, "?wait=0") == {}


async def test_a_channel_is_shown_with_its_subscribers(channels: Channels, fresh_name: str) -> None:
    """Count, first, last, cursors; the subscribers in pages, lowest cursor first."""
    await channels.call("GET", f"/channels/{fresh_name}", 404)
    clients = [f"{fresh_name}-{index}" for index in range(3)]
    for client in clients:
        await channels.subscribe(client, fresh_name)
    shown = await channels.json("GET", f"/channels/{fresh_name}")
    assert (shown["count"], shown["first"], shown["last"]) == (0, None, 0)
    await channels.write(fresh_name, *range(5))
    await channels.read(clients[1], "?limit=3")
    await channels.read(clients[2])
    cursors = {clients[0]: 0, clients[1]: 3, clients[2]: 5}
    assert await channels.json("GET", f"/channels/{fresh_name}") == {
        "channel": fresh_name,
        "count": 5,
        "first": 1,
        "last": 5,
        "subscriber_count": 3,
        "subscribers": cursors,
    }
    page = await channels.json("GET", f"/channels/{fresh_name}?offset=1&limit=1")
    assert (page["subscriber_count"], page["subscribers"]) == (3, {clients[1]: 3})


async def test_channels_are_listed_in_pages_also_those_that_are_empty(
    channels: Channels, fresh_name: str
) -> None:
    """By name; a channel that somebody only subscribed to is one as well."""
    names = [f"{fresh_name}-{index}" for index in range(5)]
    for name in names[:4]:
        await channels.write(name, "x")
    await channels.subscribe(f"{fresh_name}-client", names[4])
    seen: list[str] = []
    after = fresh_name
    while len(seen) < len(names):
        page = (await channels.json("GET", f"/channels?limit=2&after={after}"))["channels"]
        assert 0 < len(page) <= 2
        seen += page
        after = page[-1]
    assert [name for name in seen if name.startswith(fresh_name)] == names


async def test_a_deleted_channel_is_gone_and_goes_on_counting(
    channels: Channels, fresh_name: str
) -> None:
    """Messages and cursors go; the next message has the next id."""
    client = f"{fresh_name}-client"
    await channels.subscribe(client, fresh_name)
    await channels.write(fresh_name, 1, 2)
    await channels.call("DELETE", f"/channels/{fresh_name}", 204)
    await channels.call("DELETE", f"/channels/{fresh_name}", 404)
    listed = await channels.json("GET", f"/channels?limit=1&after={fresh_name[:-1]}")
    assert fresh_name not in listed["channels"]
    assert (await channels.json("GET", f"/cursors/{client}"))["subscriptions"] == {}
    assert await channels.read(client) == {}
    assert (await channels.write(fresh_name, 3))[0]["id"] == 3


async def test_a_removed_client_has_no_cursors(channels: Channels, fresh_name: str) -> None:
    """It holds nothing back any more."""
    client, other = f"{fresh_name}-client", f"{fresh_name}-other"
    names = [f"{fresh_name}-{index}" for index in range(3)]
    for name in names:
        await channels.subscribe(client, name)
    await channels.subscribe(other, names[0])
    await channels.write(names[0], "unread")
    await channels.call("DELETE", f"/cursors/{client}", 204)
    await channels.call("DELETE", f"/cursors/{client}", 204)
    assert (await channels.json("GET", f"/cursors/{client}"))["subscriptions"] == {}
    assert await channels.read(other) == {names[0]: ["unread"]}


async def test_messages_can_be_listed_without_a_cursor(channels: Channels, fresh_name: str) -> None:
    """After a position, up to a limit; the answer says where to go on; nothing is consumed."""
    await channels.write(fresh_name, *range(1, 8))
    path = f"/channels/{fresh_name}/messages"
    after, seen = 0, []
    while page := (await channels.json("GET", f"{path}?limit=3&after={after}"))["messages"]:
        seen += [(each["id"], each["data"]) for each in page]
        after = page[-1]["id"]
    assert seen == [(number, number) for number in range(1, 8)]
    empty = await channels.json("GET", f"{path}?after=7")
    assert empty == {"channel": fresh_name, "messages": [], "after": 7}
    beyond = await channels.json("GET", f"{path}?after=100")
    assert beyond == empty, "it is where the next message will be found"


async def test_messages_can_be_waited_for_without_a_cursor(
    channels: Channels, fresh_name: str
) -> None:
    """``wait`` alone waits for what is new; with ``after`` what is there comes at once."""
    await channels.write(fresh_name, "old")
    reading = asyncio.create_task(channels.json("GET", f"/channels/{fresh_name}?wait=60"))
    done, _ = await asyncio.wait([reading], timeout=0.2)
    assert not done
    await channels.write(fresh_name, "new")
    async with asyncio.timeout(20):
        assert [each["data"] for each in (await reading)["messages"]] == ["new"]
    answer = await channels.json("GET", f"/channels/{fresh_name}?wait=60&after=0")
    assert [each["data"] for each in answer["messages"]] == ["old", "new"]
    answer = await channels.json("GET", f"/channels/{fresh_name}/messages?wait=0")
    assert answer == {"channel": fresh_name, "messages": [], "after": 2}


async def test_a_client_is_known_by_255_bytes_at_most(channels: Channels, fresh_name: str) -> None:
    """Wherever it is named, the answer is the same."""
    client, path = "é" * 128, f"/channels/{fresh_name}"
    answers = [await channels.json("POST", path, 400, json={"data": 1, "src": client})]
    encoded = f"/cursors/{'%C3%A9' * 128}"
    for method, tail in (
        ("GET", ""),
        ("DELETE", ""),
        ("PUT", f"/{fresh_name}"),
        ("DELETE", f"/{fresh_name}"),
        ("POST", "/read"),
    ):
        answers.append(await channels.json(method, encoded + tail, 400))
    assert {each["message"] for each in answers} == {
        "a client's id has at most 255 bytes, and this one has 256"
    }
    await channels.write(fresh_name, 1, source="x" * 255)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/channels?limit=0", 400),
        ("GET", "/channels?limit=1001", 400),
        ("GET", "/channels/x/messages?limit=10001", 400),
        ("GET", "/channels/x/messages?after=-1", 400),
        ("GET", "/channels/x/messages?after=9007199254740993000", 400),
        ("GET", "/channels/x?wait=61", 400),
        ("GET", "/channels/x/other", 404),
        ("GET", "/channels//messages", 400),
        ("GET", "/channels/%FF", 400),
        ("POST", "/channels", 404),
        ("POST", "/channels/x/messages", 404),
        ("PUT", "/channels/x", 405),
        ("DELETE", "/channels", 404),
        ("DELETE", "/channels/x/messages", 400),
        ("DELETE", "/channels/x/messages?before=0", 400),
        ("GET", "/cursors", 404),
        ("GET", "/cursors/x/y", 404),
        ("GET", "/cursors/" + "x" * 1025, 400),
        ("PUT", "/cursors/x", 404),
        ("PUT", "/cursors/x/y/z", 404),
        ("PUT", "/cursors/x/" + "y" * 1025, 400),
        ("POST", "/cursors/x/read?limit=0", 400),
        ("POST", "/cursors/x/read?limit=ten", 400),
        ("POST", "/cursors/x/read?wait=61", 400),
        ("POST", "/cursors/x/read?bufsize=-1", 400),
        ("POST", "/cursors/x", 404),
        ("DELETE", "/cursors", 404),
    ],
)
async def test_bad_requests_are_told_what_to_change(
    channels: Channels, method: str, path: str, status: int
) -> None:
    """One line of JSON, and nothing else happens."""
    answer = await channels.json(method, path, status)
    assert set(answer) == {"error", "message"}
    assert answer["message"]


async def test_writing_and_reading_are_allowed_apart(open_node: OpenNode, fresh_name: str) -> None:
    """Producers write, prune and delete; consumers subscribe and read; streams are comet's."""
    may = {section: f"[{section}]\nhosts_deny = all\n" for section in ("rest:producer",)}
    async with open_node(may["rest:producer"]) as node:
        channels = Channels(node.session, node.url)
        await channels.call("POST", f"/channels/{fresh_name}", 401, json={"data": 1})
        await channels.call("DELETE", f"/channels/{fresh_name}", 401)
        await channels.call("DELETE", f"/channels/{fresh_name}/messages?before=9", 401)
        await channels.subscribe(fresh_name, fresh_name)
        assert await channels.read(fresh_name) == {}
    async with open_node("[rest:consumer]\nhosts_deny = all\n") as node:
        channels = Channels(node.session, node.url)
        await channels.write(fresh_name, 1)
        for method, path in (
            ("GET", "/channels"),
            ("GET", f"/channels/{fresh_name}/messages"),
            ("GET", f"/cursors/{fresh_name}"),
            ("PUT", f"/cursors/{fresh_name}/{fresh_name}"),
            ("POST", f"/cursors/{fresh_name}/read"),
            ("DELETE", f"/cursors/{fresh_name}"),
        ):
            await channels.call(method, path, 401)
    async with open_node("[comet:consumer]\nhosts_deny = all\n") as node:
        channels = Channels(node.session, node.url)
        headers = {"Accept": "text/event-stream"}
        await channels.call("GET", f"/channels/{fresh_name}", 401, headers=headers)
        await channels.call("GET", f"/channels/{fresh_name}?wait=1", 401)
        await channels.call("GET", f"/channels/{fresh_name}/messages?wait=1", 401)
        await channels.call("POST", f"/cursors/{fresh_name}/read?wait=1", 401)
        await channels.call("POST", f"/cursors/{fresh_name}/read", 401, data={"wait": "1"})
        assert await channels.read(fresh_name, "?wait=0") == {fresh_name: [1]}
        for path in ("?wait=0", "/messages?wait=0", "/messages"):
            await channels.call("GET", f"/channels/{fresh_name}{path}", 200)
        assert json.loads((await channels.call("GET", f"/channels/{fresh_name}", 200))[0])
