"""RSE's rules, from outside, on both mounts (RSE specification, sections 3 to 7)."""

import asyncio
import contextlib
import json
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import pytest
from redis.asyncio import Redis
from yarl import URL

from restmq.access import Access
from restmq.endpoints.rse_events import EVENTS
from restmq.node import Node
from restmq.redis_process import RedisProcess
from restmq.settings import Settings
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually, free_port

TOKEN = "a secret token"
JSON = "application/json; charset=utf-8"
JAVASCRIPT = "text/javascript; charset=utf-8"


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    headers: "aiohttp.typedefs.LooseHeaders"

    @property
    def content_type(self) -> str | None:
        """The whole header."""
        value: str | None = dict(self.headers).get("Content-Type")  # type: ignore[arg-type]
        return value

    @property
    def message(self) -> str:
        """The text of an error, which stands in RSE's own shape."""
        assert self.content_type == JSON
        assert self.body.startswith(b'{ "message": ')
        assert self.body.endswith(b" }")
        fields = json.loads(self.body)
        assert list(fields) == ["message"]
        text: str = fields["message"]
        return text

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a poll."""
        if self.status == 204:
            assert self.body == b""
            return []
        assert (self.status, self.content_type) == (200, JSON)
        events: list[dict[str, Any]] = json.loads(self.body)["events"]
        assert events
        return events

    @property
    def data(self) -> list[Any]:
        """What the events carry."""
        return [event["data"] for event in self.events]


class Agent:
    """A client with a UUID of its own, at one mount."""

    def __init__(self, session: aiohttp.ClientSession, base: str, **headers: str) -> None:
        self.uuid = str(uuid.uuid4())
        self.session = session
        self.base = base
        self.headers = {"User-Agent": f"test/1 uuid/{self.uuid}", **headers}

    async def call(
        self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any
    ) -> Answer:
        """Send one request, its path taken literally."""
        url = URL(self.base + path, encoded=True)
        merged = {**self.headers, **(headers or {})}
        skipped = [name for name, value in merged.items() if not value]
        kept = {name: value for name, value in merged.items() if value}
        async with self.session.request(
            method, url, headers=kept, skip_auto_headers=skipped, **options
        ) as answer:
            return Answer(answer.status, await answer.read(), dict(answer.headers))

    async def get(self, path: str, **headers: str) -> Answer:
        """Poll."""
        return await self.call("GET", path, {k.replace("_", "-"): v for k, v in headers.items()})

    async def post(self, path: str, data: Any = b"{}", **options: Any) -> Answer:
        """Post bytes, or what is to be written as JSON."""
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        return await self.call("POST", path, data=body, **options)

    async def posted(self, path: str, *data: Any) -> None:
        """Post one after the other."""
        for each in data:
            answer = await self.post(path, each)
            assert (answer.status, answer.body) == (201, b"")


class Rse:
    """A node that speaks RSE, at one of its mounts."""

    def __init__(self, node: NodeUnderTest, base: str) -> None:
        self.node = node
        self.base = base

    def agent(self, **headers: str) -> Agent:
        """Make one more client."""
        return Agent(
            self.node.session, self.base, **{k.replace("_", "-"): v for k, v in headers.items()}
        )


@asynccontextmanager
async def opened(
    open_node: OpenNode, mount: str, acl: str = "", **settings: Any
) -> AsyncIterator[Rse]:
    """Open a node and look at it through one of the mounts."""
    port = free_port() if mount == "port" else 0
    async with open_node(acl, rse_port=port, **settings) as node:
        yield Rse(node, f"http://127.0.0.1:{port}" if port else f"{node.url}/rse")


@pytest.fixture(params=["path", "port"])
def mount(request: pytest.FixtureRequest) -> str:
    """Under /rse of the HTTP port, then at the root of a port of its own."""
    name: str = request.param
    return name


@pytest.fixture
async def rse(open_node: OpenNode, mount: str) -> AsyncIterator[Rse]:
    """A node in test mode."""
    async with opened(open_node, mount, rse_test_mode=True) as one:
        yield one


@pytest.fixture
async def live(open_node: OpenNode, mount: str) -> AsyncIterator[Rse]:
    """A node in live mode, with one token."""
    async with opened(open_node, mount, rse_tokens=(TOKEN, "x" * 300)) as one:
        yield one


@pytest.fixture
def channel() -> str:
    """A channel of this test alone."""
    return f"/test-{uuid.uuid4().hex}"


class TestPosting:
    async def test_an_event_comes_back_exactly_as_it_was_posted(
        self, rse: Rse, channel: str
    ) -> None:
        sender, reader = rse.agent(), rse.agent()
        data = b' {"z": 1.0,\t"a":12345678901234567890123, "a": "\xc3\xa9\\u00e9"}\r\n'
        answer = await sender.post(channel, data)
        assert (answer.status, answer.body) == (201, b"")
        assert dict(answer.headers)["Content-Length"] == "0"  # type: ignore[arg-type]
        answer = await reader.get(channel)
        assert answer.content_type == JSON
        start = b'{"channel":"%b","events":[{"id":' % channel.encode()
        assert answer.body.startswith(start)
        assert answer.body.endswith(b',"data":%b}]}' % data)
        (event,) = answer.events
        assert list(event) == ["id", "user_agent", "created_at", "age", "data"]
        assert event["user_agent"] == sender.headers["User-Agent"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", event["created_at"])
        assert 0 <= event["age"] < 60

    async def test_the_content_type_is_not_looked_at(self, rse: Rse, channel: str) -> None:
        for content_type in ("application/x-www-form-urlencoded", "text/plain", "nonsense"):
            answer = await rse.agent().post(channel, headers={"Content-Type": content_type})
            assert answer.status == 201
        assert len((await rse.agent().get(channel)).events) == 3

    @pytest.mark.parametrize("body", [b'"text"', b"{bad", b"", b"[NaN]", b'["\xff"]'])
    async def test_what_is_no_json_document_is_refused(
        self, rse: Rse, channel: str, body: bytes
    ) -> None:
        answer = await rse.agent().post(channel, body)
        assert (answer.status, answer.message) == (400, "Invalid JSON")
        assert (await rse.agent().get(channel)).status == 204

    async def test_a_body_that_comes_late_is_taken_too(self, rse: Rse, channel: str) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b'{"a":'
            await asyncio.sleep(0)
            yield b"1}"

        answer = await rse.agent().call("POST", channel, data=pieces())
        assert answer.status == 201
        assert (await rse.agent().get(channel)).data == [{"a": 1}]

    async def test_checks_come_in_their_order(self, live: Rse, channel: str) -> None:
        """Token, User-Agent, JSON, UUID."""
        agent = live.agent()
        answer = await agent.post(channel, b"{bad", headers={"User-Agent": ""})
        assert (answer.status, answer.message) == (401, "")
        agent.headers["X-Auth-Token"] = TOKEN
        answer = await agent.post(channel, b"{bad", headers={"User-Agent": ""})
        assert (answer.status, answer.message) == (400, "Missing header: User-Agent")
        answer = await agent.post(channel, b"{bad", headers={"User-Agent": "x"})
        assert (answer.status, answer.message) == (400, "Invalid JSON")
        answer = await agent.post(channel, b"{}", headers={"User-Agent": "x"})
        assert (answer.status, answer.message) == (400, "Missing UUID in User-Agent header")
        assert (await agent.post(channel, b"{}")).status == 201

    async def test_a_user_agent_with_quotation_marks_cannot_post_but_read(
        self, rse: Rse, channel: str
    ) -> None:
        agent = rse.agent()
        agent.headers["User-Agent"] = f'x"y uuid/{agent.uuid}'
        answer = await agent.post(channel)
        assert (answer.status, answer.message) == (400, "Invalid JSON")
        assert (await agent.get(channel)).status == 204

    async def test_a_user_agent_beyond_ascii_comes_back_as_text(
        self, rse: Rse, channel: str
    ) -> None:
        agent = rse.agent()
        agent.headers["User-Agent"] = f"é\udcff uuid/{agent.uuid}"
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(rse.base).port)
        head = f"POST {URL(rse.base).path.rstrip('/')}{channel} HTTP/1.1\r\nHost: x\r\n"
        head += f"User-Agent: {agent.headers['User-Agent']}\r\nContent-Length: 2\r\n\r\n{{}}"
        writer.write(head.encode("utf-8", "surrogateescape"))
        assert b" 201 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        (event,) = (await rse.agent().get(channel)).events
        assert event["user_agent"] == f"é\ufffd uuid/{agent.uuid}"

    async def test_a_document_over_the_limit_is_too_large(
        self, open_node: OpenNode, mount: str, channel: str
    ) -> None:
        async with opened(open_node, mount, rse_test_mode=True, rse_max_event_bytes=20) as rse:
            agent = rse.agent()
            answer = await agent.post(channel, b"[%b]" % (b" " * 19))
            assert answer.status == 413
            assert "20" in answer.message
            query = f"{channel}?method=POST&post-data=[{'+' * 19}]"
            assert (await agent.get(query)).status == 413
            assert (await agent.post(channel, b"[%b]" % (b" " * 18))).status == 201
        async with opened(open_node, mount, rse_test_mode=True, max_body_bytes=20) as rse:
            answer = await rse.agent().post(channel, b"[%b]" % (b" " * 19))
            assert answer.status == 413
            assert answer.message


class TestJsonp:
    async def test_a_poll_is_a_call_with_200_even_when_empty(self, rse: Rse, channel: str) -> None:
        answer = await rse.agent().get(f"{channel}?callback=cb")
        assert (answer.status, answer.content_type) == (200, JAVASCRIPT)
        assert answer.body == b'cb({"channel":"%b","events":[]});' % channel.encode()
        await rse.agent().posted(channel, {"text": "\u2028"})
        answer = await rse.agent().get(f"{channel}?callback=cb")
        assert answer.body.startswith(b'cb({"channel":"%b","events":[{' % channel.encode())
        assert answer.body.endswith(b"]});")
        assert "\u2028".encode() not in answer.body

    async def test_an_event_can_be_posted_by_a_get(self, rse: Rse, channel: str) -> None:
        data = quote('{"k": "+ &"}')
        agent = rse.agent()
        answer = await agent.get(f"{channel}?method=POST&post-data={data}")
        assert (answer.status, answer.body) == (201, b"")
        answer = await agent.get(f"{channel}?method=POST&post-data={data}&callback=cb")
        assert (answer.status, answer.content_type, answer.body) == (200, JAVASCRIPT, b"cb({});")
        assert (await rse.agent().get(channel)).data == [{"k": "+ &"}] * 2

    async def test_a_post_can_ask_for_a_call_too(self, rse: Rse, channel: str) -> None:
        answer = await rse.agent().post(f"{channel}?callback=cb")
        assert (answer.status, answer.body) == (200, b"cb({});")
        assert len((await rse.agent().get(channel)).events) == 1

    async def test_the_method_is_case_sensitive(self, rse: Rse, channel: str) -> None:
        assert (await rse.agent().get(f"{channel}?method=post&post-data={{}}")).status == 204

    @pytest.mark.parametrize("data", ["", "&post-data="])
    async def test_post_data_must_be_there(self, rse: Rse, channel: str, data: str) -> None:
        answer = await rse.agent().get(f"{channel}?method=POST{data}")
        assert (answer.status, answer.message) == (400, "Missing query parameter: post-data")

    async def test_a_bad_callback_stores_nothing(self, rse: Rse, channel: str) -> None:
        agent = rse.agent()
        for answer in (
            await agent.get(f"{channel}?method=POST&post-data={{}}&callback=a-b"),
            await agent.post(f"{channel}?callback=a-b"),
            await agent.get(f"{channel}?callback=a-b"),
        ):
            assert (answer.status, answer.message) == (400, "Invalid callback name")
        assert (await rse.agent().get(channel)).status == 204


class TestPolling:
    async def test_ids_increase_over_all_channels_and_known_ones_are_left_out(
        self, rse: Rse, channel: str
    ) -> None:
        sender, reader = rse.agent(), rse.agent()
        ids = []
        for name in (channel, f"{channel}-2", channel):
            await sender.posted(name, {})
            ids.append((await reader.get(f"{name}?sort=-1")).events[0]["id"])
        assert 0 < ids[0] < ids[1] < ids[2]
        found = (await reader.get(f"{channel}?last-known-id={ids[0]}")).events
        assert [event["id"] for event in found] == [ids[2]]
        for known in (ids[2], 2**53, 2**64, 10**40):
            assert (await reader.get(f"{channel}?last-known-id={known}")).status == 204
        assert len((await reader.get(f"{channel}?last-known-id=-1")).events) == 2

    async def test_ids_can_be_told_where_to_begin(
        self, open_node: OpenNode, mount: str, rse: Rse, channel: str
    ) -> None:
        """Above those that clients know of a server that was here before; never lower again."""
        await rse.agent().posted(channel, {})
        (event,) = (await rse.agent().get(channel)).events
        first = event["id"] + 1_000_000
        settings = {"rse_test_mode": True, "rse_first_event": first}
        async with opened(open_node, mount, **settings) as other:
            poster = other.agent()
            await asyncio.gather(*(poster.posted(channel, {}) for _ in range(5)))
            await rse.agent().posted(channel, {})
            query = f"{channel}?last-known-id={event['id']}"
            ids = [each["id"] for each in (await rse.agent().get(query)).events]
            assert len(ids) == 6
            assert first <= min(ids) < first + 1_000_000
            posted_by_get = f"{channel}?method=POST&post-data={{}}"
            assert (await other.agent().get(posted_by_get)).status == 201

    async def test_ids_begin_there_again_when_redis_has_lost_them(
        self, tmp_path: Path, channel: str
    ) -> None:
        first = 1000
        settings = Settings(port=0, drain_seconds=1, rse_test_mode=True, rse_first_event=first)
        async with (
            RedisProcess(tmp_path, fsync="no") as redis,
            Node(settings, redis.url, Access.from_text("")) as node,
            aiohttp.ClientSession(f"http://127.0.0.1:{node.port}") as session,
            contextlib.aclosing(Redis.from_url(redis.url)) as client,
        ):

            async def post() -> int:
                """Post, and return the id of what was posted."""
                async with session.post(f"/rse{channel}", json={}) as answer:
                    assert answer.status == 201
                log = node.broker.logs
                return await log.last_number(EVENTS)

            assert [await post() for _ in range(2)] == [first, first + 1]
            await client.flushall()
            assert await post() < first
            assert await post() == first, "its number told"
            told = asyncio.Event()
            node.broker.on_reconnect.append(told.set)
            await client.flushall()
            await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.wait_for(told.wait(), 20)
            assert await post() == first, "the connection told"

    async def test_own_events_are_hidden_unless_echo_is_exactly_true(
        self, rse: Rse, channel: str
    ) -> None:
        agent, other = rse.agent(), rse.agent()
        await agent.posted(channel, [1])
        await other.posted(channel, [2])
        assert (await agent.get(channel)).data == [[2]]
        assert (await agent.get(f"{channel}?echo=TRUE")).data == [[2]]
        assert (await agent.get(f"{channel}?echo=true")).data == [[1], [2]]
        agent.headers["User-Agent"] = f"other/2 uuid/{agent.uuid.upper()}"
        assert (await agent.get(channel)).data == [[2]]

    async def test_own_events_do_not_count_towards_the_limit(self, rse: Rse, channel: str) -> None:
        agent, other = rse.agent(), rse.agent()
        for index in range(10):
            await agent.posted(channel, *[["own"]] * 3)
            await other.posted(channel, [index])
        path = f"{channel}?max-events="
        assert (await agent.get(f"{path}4")).data == [[0], [1], [2], [3]]
        assert (await agent.get(f"{path}100")).data == [[index] for index in range(10)]
        assert (await agent.get(f"{path}3&sort=-1")).data == [[9], [8], [7]]
        assert (await other.get(f"{path}500")).data == [["own"]] * 30

    async def test_a_page_of_own_events_is_no_end(self, rse: Rse, channel: str) -> None:
        agent = rse.agent()
        await agent.posted(channel, *[["own"]] * 25)
        await rse.agent().posted(channel, ["other"])
        assert (await agent.get(f"{channel}?max-events=2")).data == [["other"]]

    async def test_max_events_and_order(self, rse: Rse, channel: str) -> None:
        await rse.agent().posted(channel, *([index] for index in range(6)))
        reader = rse.agent()
        events = (await reader.get(channel)).events
        assert [event["data"] for event in events] == [[index] for index in range(6)]
        assert (await reader.get(f"{channel}?max-events=2")).data == [[0], [1]]
        assert (await reader.get(f"{channel}?max-events=2&sort=-1")).data == [[5], [4]]
        assert (await reader.get(f"{channel}?max-events=2&sort=7")).data == [[0], [1]]
        known = f"{channel}?last-known-id={events[2]['id']}"
        assert (await reader.get(f"{known}&sort=-1")).data == [[5], [4], [3]]
        assert (await reader.get(f"{known}&sort=-1&max-events=2")).data == [[5], [4]]
        assert (await reader.get(f"{known}&sort=-1&max-events=3")).data == [[5], [4], [3]]
        newest = events[-1]["id"]
        assert (await reader.get(f"{channel}?sort=-1&last-known-id={newest}")).status == 204

    async def test_two_hundred_unless_said_otherwise_and_never_over_five_hundred(
        self, rse: Rse, channel: str
    ) -> None:
        agent = rse.agent()
        await asyncio.gather(*(agent.posted(channel, *[[]] * 26) for _ in range(20)))
        reader = rse.agent()
        assert len((await reader.get(channel)).events) == 200
        assert len((await reader.get(f"{channel}?max-events=501")).events) == 500
        assert len((await reader.get(f"{channel}?max-events=9999&sort=-1")).events) == 500

    @pytest.mark.parametrize(
        "query", ["last-known-id=zzz", "max-events=x", "max-events=0", "max-events=-5", "sort=y"]
    )
    async def test_bad_numbers_are_refused(self, rse: Rse, channel: str, query: str) -> None:
        answer = await rse.agent().get(f"{channel}?{query}")
        assert answer.status == 400
        assert query.partition("=")[0] in answer.message

    async def test_parents_and_descendants(self, rse: Rse, channel: str) -> None:
        agent, reader = rse.agent(), rse.agent()
        for name in ("", "/u", "/u/v", "x", "/u-", "/u/w"):
            await agent.posted(channel + name, [name])
        for path, expected in (
            (channel, [""]),
            (f"{channel}/u/v?events=parent", ["", "/u", "/u/v"]),
            (f"{channel}/u?events=parent", ["", "/u"]),
            (f"{channel}/u?events=parent&max-events=1", [""]),
            (f"{channel}/u?events=parent&max-events=1&sort=-1", ["/u"]),
            (f"{channel}?events=all", ["", "/u", "/u/v", "/u-", "/u/w"]),
            (f"{channel}?events=all&sort=-1&max-events=2", ["/u/w", "/u-"]),
            (f"{channel}/u?events=all", ["/u", "/u/v", "/u/w"]),
            (f"{channel}/u?events=nonsense", ["/u"]),
        ):
            assert (await reader.get(path)).data == [[name] for name in expected], path
        answer = await reader.get(f"{channel}/u/v?events=parent")
        assert json.loads(answer.body)["channel"] == f"{channel}/u/v"

    async def test_the_limit_counts_after_merging(self, rse: Rse, channel: str) -> None:
        """Whoever goes on from the highest id misses nothing."""
        agent, reader = rse.agent(), rse.agent()
        for index in range(12):
            await agent.posted(channel + "/u" * (index % 3 == 0), [index])
        known, got = 0, []
        while True:
            path = f"{channel}/u?events=parent&max-events=2&last-known-id={known}"
            events = (await reader.get(path)).events
            if not events:
                break
            known = events[-1]["id"]
            got += [event["data"][0] for event in events]
        assert got == list(range(12))

    async def test_a_trailing_slash_makes_another_channel(self, rse: Rse, channel: str) -> None:
        await rse.agent().posted(f"{channel}/", [1])
        reader = rse.agent()
        assert (await reader.get(channel)).status == 204
        assert (await reader.get(f"{channel}/")).data == [[1]]

    async def test_events_expire(self, open_node: OpenNode, mount: str, channel: str) -> None:
        async with opened(open_node, mount, rse_test_mode=True, rse_event_ttl=0.5) as rse:
            agent = rse.agent()
            await agent.posted(channel, [1])
            first = (await agent.get(f"{channel}?echo=true")).events[0]["id"]

            async def expired() -> bool:
                return (await agent.get(f"{channel}?echo=true")).status == 204

            await eventually(expired)
            await agent.posted(channel, [2])
            (event,) = (await agent.get(f"{channel}?echo=true")).events
            assert (event["id"] > first, event["data"]) == (True, [2])


class TestRequests:
    async def test_there_is_no_channel_at_the_root(self, rse: Rse) -> None:
        for method in ("GET", "POST", "PUT"):
            answer = await rse.agent().call(method, "/")
            assert (answer.status, bool(answer.message)) == (404, True)

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
    async def test_another_method_is_answered_by_its_name(
        self, rse: Rse, channel: str, method: str
    ) -> None:
        for path in (channel, "/health"):
            answer = await rse.agent().call(method, path)
            assert (answer.status, answer.message) == (405, method)
        answer = await rse.agent().post("/health")
        assert (answer.status, answer.message) == (405, "POST")
        assert (await rse.agent().call("HEAD", channel)).status == 405

    @pytest.mark.parametrize("name", ["%20", "a.b", "%C3%A9", "a%0A", "a*b", "a:b"])
    async def test_a_bad_name_is_refused(self, rse: Rse, name: str) -> None:
        for answer in (await rse.agent().get(f"/{name}"), await rse.agent().post(f"/{name}")):
            assert (answer.status, answer.message) == (400, "Invalid channel name")

    async def test_a_setting_lets_any_name_be_one(
        self, open_node: OpenNode, mount: str, channel: str
    ) -> None:
        async with opened(open_node, mount, rse_test_mode=True, rse_any_channel_name=True) as rse:
            await rse.agent().posted(f"{channel}%20%C3%A9.%22", [1])
            answer = await rse.agent().get(f"{channel}%20%C3%A9.%22")
            assert json.loads(answer.body)["channel"] == f'{channel} é."'
            assert (await rse.agent().get(f"{channel}%00")).status == 400

    async def test_names_have_their_limits(self, rse: Rse) -> None:
        for name in ("/" + "a" * 1100, "/a" * 40):
            for answer in (await rse.agent().get(name), await rse.agent().post(name)):
                assert (answer.status, bool(answer.message)) == (400, True)

    async def test_a_user_agent_is_needed_even_to_hear_the_echo(
        self, rse: Rse, channel: str
    ) -> None:
        for path in (channel, f"{channel}?echo=true"):
            answer = await rse.agent(User_Agent="").get(path)
            assert (answer.status, answer.message) == (400, "Missing header: User-Agent")

    async def test_live_mode_wants_a_uuid_but_for_the_echo(self, live: Rse, channel: str) -> None:
        agent = live.agent(X_Auth_Token=TOKEN, User_Agent="plain/1")
        answer = await agent.get(channel)
        assert (answer.status, answer.message) == (400, "Missing UUID in User-Agent header")
        assert (await agent.get(f"{channel}?echo=true")).status == 204

    async def test_https_can_be_demanded(
        self, open_node: OpenNode, mount: str, channel: str
    ) -> None:
        """What says that a proxy was asked over it is believed of proxies that are trusted."""
        demanded = {"rse_test_mode": True, "rse_https_only": True}
        async with opened(open_node, mount, **demanded) as rse:
            for agent in (rse.agent(), rse.agent(X_Forwarded_Proto="https")):
                for answer in (await agent.get(channel), await agent.post(channel)):
                    assert (answer.status, "HTTPS" in answer.message) == (400, True)
            assert (await rse.agent().get("/health")).status == 200
        async with opened(open_node, mount, **demanded, trusted_proxies=("127.0.0.1",)) as rse:
            for proto, status in (("https", 204), ("http", 400), ("https, http", 400)):
                answer = await rse.agent(X_Forwarded_Proto=proto).get(channel)
                assert answer.status == status, proto
            assert (await rse.agent().get(channel)).status == 400

    async def test_documented_headers_are_accepted_and_ignored(
        self, rse: Rse, channel: str
    ) -> None:
        agent = rse.agent(X_RSE_Version="2012-04-16", Accept="application/json", Date="now")
        await agent.posted(channel, {})

    async def test_the_absolute_form_of_a_path_is_served(self, rse: Rse, channel: str) -> None:
        await rse.agent().posted(channel, ["absolute"])
        url = URL(rse.base)
        reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
        path = url.path.rstrip("/") + channel
        writer.write(f"GET http://elsewhere{path}?sort=1 HTTP/1.1\r\nHost: x\r\n".encode())
        writer.write(b"User-Agent: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"absolute" in answer


class TestAuthentication:
    async def test_live_mode_needs_a_known_token(self, live: Rse, channel: str) -> None:
        for headers in ({}, {"X_Auth_Token": "nope"}, {"X_Auth_Token": TOKEN.upper()}):
            agent = live.agent(**headers)
            for answer in (
                await agent.get(channel),
                await agent.post(channel),
                await agent.get(f"{channel}?method=POST&post-data={{}}"),
            ):
                assert (answer.status, answer.body) == (401, b'{ "message": "" }')
        for token in (TOKEN, "x" * 300):
            assert (await live.agent(X_Auth_Token=token).get(channel)).status == 204

    async def test_without_tokens_live_mode_lets_nobody_in(
        self, open_node: OpenNode, mount: str, channel: str
    ) -> None:
        async with opened(open_node, mount) as rse:
            assert (await rse.agent().get(channel)).status == 401
            assert (await rse.agent(X_Auth_Token="x").get(channel)).status == 401

    async def test_test_mode_forgives_a_missing_token_and_no_unknown_one(
        self, rse: Rse, channel: str
    ) -> None:
        assert (await rse.agent().get(channel)).status == 204
        for path in (channel, "/all"):
            answer = await rse.agent(X_Auth_Token="nope").get(path)
            assert (answer.status, answer.message) == (401, "")

    @pytest.mark.parametrize("rule", ["hosts_deny = all", "username = u\npassword = p"])
    async def test_the_access_file_counts_at_both_mounts(
        self, open_node: OpenNode, mount: str, channel: str, rule: str
    ) -> None:
        """Posting by GET is publishing; to stream, and to wait, is to follow live."""
        acl = f"[rest:producer]\n{rule}\n[comet:consumer]\n{rule}\n"
        async with opened(open_node, mount, acl, rse_test_mode=True) as rse:
            agent = rse.agent()
            assert (await agent.get(channel)).status == 204
            for answer in (
                await agent.post(channel),
                await agent.get(f"{channel}?method=POST&post-data={{}}"),
                await agent.get(channel, Accept="text/event-stream"),
                await agent.get(f"{channel}?wait=1"),
                await agent.get(f"{channel}?wait=1&callback=cb"),
            ):
                assert answer.status == 401
                headers = dict(answer.headers)  # type: ignore[arg-type]
                assert ("WWW-Authenticate" in headers) == ("user" in rule)
            assert (await agent.get(channel)).status == 204
        async with opened(
            open_node, mount, f"[rest:consumer]\n{rule}\n", rse_test_mode=True
        ) as rse:
            assert (await rse.agent().get(channel)).status == 401
            assert (await rse.agent().post(channel)).status == 201

    async def test_pages_of_foreign_origins_may_not_post_or_read(
        self, rse: Rse, channel: str
    ) -> None:
        agent = rse.agent(Origin="http://evil.example")
        assert (await agent.post(channel)).status == 403
        assert (await agent.get(channel)).status == 403
        agent = rse.agent(Sec_Fetch_Site="cross-site")
        assert (await agent.get(f"{channel}?method=POST&post-data={{}}&callback=cb")).status == 403
        assert (await rse.agent().get(channel)).status == 204

    async def test_pages_of_allowed_origins_may(
        self, open_node: OpenNode, mount: str, channel: str
    ) -> None:
        origin = "https://app.example"
        async with opened(open_node, mount, rse_test_mode=True, allowed_origins=(origin,)) as rse:
            agent = rse.agent(Origin=origin)
            for answer in (await agent.post(channel), await agent.get(f"{channel}?sort=x")):
                headers = dict(answer.headers)  # type: ignore[arg-type]
                assert headers["Access-Control-Allow-Origin"] == origin


class TestTestMode:
    async def test_clients_without_a_uuid_share_one_identity(self, rse: Rse, channel: str) -> None:
        one, other = rse.agent(User_Agent="one/1"), rse.agent(User_Agent="other/1")
        await one.posted(channel, [1])
        assert (await other.get(channel)).status == 204
        assert (await other.get(f"{channel}?echo=true")).data == [[1]]
        assert (await rse.agent().get(channel)).data == [[1]]

    async def test_all_shows_everything(self, rse: Rse, channel: str) -> None:
        """A bare array, without channels; no User-Agent is needed."""
        agent = rse.agent()
        await agent.posted(channel, [channel, 1])
        await agent.posted(f"{channel}/u", [channel, 2])
        for query, order in (("", 1), ("?sort=1", 1), ("?sort=-1", -1)):
            answer = await rse.agent(User_Agent="").get(f"/all{query}")
            assert (answer.status, answer.content_type) == (200, JSON)
            events = json.loads(answer.body)
            ids = [event["id"] for event in events]
            assert ids == sorted(ids)[::order]
            mine = [event["data"][1] for event in events if channel in event["data"]]
            assert mine == [1, 2][::order]
            assert all("channel" not in event for event in events)

    async def test_all_comes_in_pieces_when_it_is_long(
        self, rse: Rse, channel: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await rse.agent().posted(channel, *([channel, index] for index in range(5)))
        monkeypatch.setattr("restmq.endpoints.rse_live.LIST_EVENTS", 2)
        for query, order in (("", 1), ("?sort=-1", -1)):
            answer = await rse.agent().get(f"/all{query}")
            assert (answer.status, answer.content_type) == (200, JSON)
            events = json.loads(answer.body)
            mine = [event["data"][1] for event in events if channel in event["data"]]
            assert mine == list(range(5))[::order]

    async def test_a_post_to_all_is_an_ordinary_one(self, rse: Rse, channel: str) -> None:
        await rse.agent().posted("/all", {"to": channel})
        answer = await rse.agent().get("/all")
        assert {"to": channel} in [event["data"] for event in json.loads(answer.body)]

    async def test_in_live_mode_all_is_a_channel(self, live: Rse, channel: str) -> None:
        agent = live.agent(X_Auth_Token=TOKEN)
        await agent.posted("/all", {"to": channel})
        answer = await live.agent(X_Auth_Token=TOKEN).get("/all?sort=-1&max-events=1")
        assert json.loads(answer.body)["channel"] == "/all"


class TestHealth:
    async def test_it_says_ok(self, live: Rse) -> None:
        answer = await live.agent(User_Agent="").get("/health")
        assert (answer.status, answer.body) == (200, b"OK\n")
        answer = await live.agent().call("HEAD", "/health")
        assert (answer.status, answer.body) == (200, b"")
        assert (await live.agent().get("/health?verbose=no")).body == b"OK\n"

    @pytest.mark.parametrize("word", ["true", "Yes", "ON", "1"])
    async def test_a_report_for_those_with_a_token(self, live: Rse, word: str) -> None:
        assert (await live.agent().get(f"/health?verbose={word}")).status == 401
        agent = live.agent(X_Auth_Token=TOKEN)
        await agent.posted("/health/x", {})
        answer = await agent.get(f"/health?verbose={word}")
        assert (answer.status, answer.content_type) == (200, JSON)
        report = json.loads(answer.body)
        assert report["rse"]["test_mode"] is False
        assert report["rse"]["events"] >= 1
        assert report["rse"]["pp_stats"]["id_generator"].keys() == {
            "attempts",
            "retries",
            "retry_rate",
        }
        assert report["rse"]["pp_stats"]["id_generator"]["attempts"] >= report["rse"]["events"]
        assert "profile_db=true" in report["profiling"]
        assert report["versions"]["rse"]
        assert report["warnings"] == []
        answer = await agent.get("/health?verbose=1&profile_db=1")
        assert "profile_db" not in json.loads(answer.body)["profiling"]

    async def test_test_mode_needs_no_token_and_is_warned_of(self, rse: Rse) -> None:
        report = json.loads((await rse.agent().get("/health?verbose=true")).body)
        assert report["rse"]["test_mode"] is True
        assert len(report["warnings"]) == 1

    @pytest.mark.parametrize("name", ["verbose", "verbose=1&profile_db", "verbose=1&validate_db"])
    async def test_a_bad_switch_is_refused(self, rse: Rse, name: str) -> None:
        answer = await rse.agent().get(f"/health?{name}=maybe")
        assert answer.status == 400
        assert name.rpartition("&")[2] in answer.message

    async def test_a_name_below_it_is_an_ordinary_channel(self, rse: Rse, channel: str) -> None:
        await rse.agent().posted(f"/health{channel}", [1])
        assert (await rse.agent().get(f"/health{channel}")).data == [[1]]


async def test_a_store_that_is_away_is_told_without_words(mount: str, channel: str) -> None:
    """503, to posts, polls, streams and the question for health; in live mode tokens come first."""
    port = free_port()
    settings = Settings(
        port=free_port(), rse_port=port, rse_tokens=(TOKEN,), rse_test_mode=True, drain_seconds=1.0
    )
    away = f"redis://127.0.0.1:{free_port()}"
    async with (
        Node(settings, away, Access.from_text("")) as node,
        aiohttp.ClientSession() as session,
    ):
        agent = Agent(session, f"http://127.0.0.1:{port if mount == 'port' else node.port}")
        prefix = "" if mount == "port" else "/rse"
        for answer in (
            await agent.get(f"{prefix}/health"),
            await agent.post(prefix + channel),
            await agent.get(prefix + channel),
            await agent.get(f"{prefix}{channel}?method=POST&post-data={{}}"),
            await agent.get(prefix + channel, Accept="text/event-stream"),
            await agent.get(f"{prefix}/all"),
            await agent.get(f"{prefix}/health?verbose=1"),
        ):
            assert (answer.status, answer.body) == (503, b'{ "message": "" }')
            assert dict(answer.headers)["Retry-After"]  # type: ignore[arg-type]
        assert (await agent.call("HEAD", f"{prefix}/health")).status == 503
        answer = await agent.get(prefix + channel, X_Auth_Token="nope")
        assert answer.status == 401
