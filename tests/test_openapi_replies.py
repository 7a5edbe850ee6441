"""A tour of the server whose every reply is held against the description.

Made-up requests hardly ever lease a message or bury one; here each shape of a reply is seen.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp
import jsonschema_rs
import pytest
from yarl import URL

from restmq.openapi import describe
from tests.endpoints.conftest import NodeUnderTest, OpenNode, open_node  # noqa: F401 - a fixture

DIALECT = "https://json-schema.org/draft/2020-12/schema"
RSE_CLIENT = {"User-Agent": "agent uuid/6f1b1c1e-0000-4000-8000-000000000001"}
QUEUEY_CLIENT = {"Authorization": "Application K"}


class Answer(NamedTuple):
    """A reply that the description knows."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Tour:
    """A client that believes no reply unless the description has it."""

    def __init__(self, node: NodeUnderTest) -> None:
        self._node = node
        self._document = describe()

    async def call(
        self, method: str, template: str, query: str = "", *, headers: Any = None, **options: Any
    ) -> Answer:
        """Send a request to a path of the description; the names in braces are in ``options``."""
        names = {name: options.pop(name) for name in _names_in(template)}
        path = template.format_map(names) + (f"?{query}" if query else "")
        url = URL(self._node.url + path, encoded=True)
        async with self._node.session.request(
            method, url, headers=headers, allow_redirects=False, **options
        ) as answer:
            body = await answer.read()
            self._check(method, template, answer, body)
            return Answer(answer.status, body)

    def _check(
        self, method: str, template: str, answer: aiohttp.ClientResponse, body: bytes
    ) -> None:
        replies = self._document["paths"][template][method.lower()]["responses"]
        described = replies.get(str(answer.status))
        assert described is not None, (method, template, answer.status, body)
        if "$ref" in described:
            name = described["$ref"].rpartition("/")[2]
            described = self._document["components"]["responses"][name]
        if not body:
            return
        assert answer.content_type in described["content"], (method, template, answer.content_type)
        if answer.content_type == "application/json":
            schema = described["content"][answer.content_type]["schema"]
            whole = {"$schema": DIALECT, "components": self._document["components"], **schema}
            jsonschema_rs.validator_for(whole).validate(json.loads(body))


def _names_in(template: str) -> list[str]:
    return [part[1:-1] for part in template.split("/") if part.startswith("{")]


@pytest.fixture
async def tour(open_node: OpenNode) -> AsyncIterator[Tour]:  # noqa: F811 - the fixture of this name
    async with open_node(rse_test_mode=True, queuey_application_keys=("demo=K",)) as node:
        yield Tour(node)


async def test_queues(tour: Tour, fresh_name: str) -> None:
    queue, form = {"queue": fresh_name}, {"value": "v"}
    plain = await tour.call("POST", "/q/{queue}", **queue, data=form)
    assert plain.body == f"{fresh_name}:1\r\n".encode()
    as_json = {"Accept": "application/json"}
    await tour.call("POST", "/q/{queue}", "id=one", **queue, data=form, headers=as_json)
    batch = {"Content-Type": "application/x-ndjson"}
    added = await tour.call("POST", "/q/{queue}", **queue, data=b"a\nb\nc\n", headers=batch)
    assert len(added.json["keys"]) == 3
    await tour.call("POST", "/q/{queue}", "callback=f", **queue, data=b"\xff\xfe")
    await tour.call("POST", "/", data={"queue": fresh_name, **form})
    for query in ("peek=9", "count=2", "callback=f", "wait=0", ""):
        assert (await tour.call("GET", "/q/{queue}", query, **queue)).status == 200
    value = {"Accept": "application/octet-stream"}
    assert (await tour.call("GET", "/q/{queue}", **queue, headers=value)).body == b"\xff\xfe"
    await tour.call("GET", "/", f"queue={fresh_name}")
    assert (await tour.call("GET", "/", f"queue={fresh_name}")).status == 404
    assert (await tour.call("GET", "/")).status == 302
    assert (await tour.call("GET", "/q/{queue}", **queue)).status == 204
    for path in ("/q", "/stats", "/control"):
        await tour.call("GET", path)
    await tour.call("GET", "/stats", "limit=3")
    for path in ("/stats/{queue}", "/control/{queue}", "/p/{queue}", "/j/{queue}"):
        await tour.call("GET", path, **queue)
    await tour.call("POST", "/p/{queue}", **queue, data={"policy": "roundrobin"})
    await tour.call("POST", "/control/{queue}", **queue, data={"status": "stop"})
    await tour.call("POST", "/control/{queue}", **queue, data={"status": "perhaps"})
    changed = {"max_length": 1, "copies_to": ["elsewhere"], "lease_seconds": 2.5}
    await tour.call("PATCH", "/settings/{queue}", **queue, json=changed)
    await tour.call("GET", "/settings/{queue}", **queue)
    await tour.call("POST", "/q/{queue}", **queue, data=form)
    assert (await tour.call("POST", "/q/{queue}", **queue, data=form)).status == 507
    await tour.call("DELETE", "/settings/{queue}", **queue)
    await tour.call("DELETE", "/q/{queue}", **queue)


async def test_deliveries(tour: Tour, fresh_name: str) -> None:
    queue = {"queue": fresh_name}
    for _ in range(4):
        await tour.call("POST", "/q/{queue}", **queue, data=b"{}", headers=_JSON)

    async def lease() -> str:
        return str((await tour.call("GET", "/q/{queue}", "lease=30", **queue)).json["receipt"])

    first = await lease()
    assert (await _state(tour, f"{fresh_name}:1"))["state"] == "leased"
    await tour.call("POST", "/lease/{receipts}", receipts=first, data={"extend": "60"})
    both = f"{first},{await lease()}"
    settled = await tour.call("DELETE", "/lease/{receipts}", receipts=f"{both},{first}")
    assert len(settled.json) == 3
    assert (await tour.call("DELETE", "/lease/{receipts}", receipts=first)).status == 409
    assert (await tour.call("DELETE", "/lease/{receipts}", receipts="none")).status == 400
    await tour.call("POST", "/lease/{receipts}", receipts=await lease(), data={"release": "60"})
    assert (await _state(tour, f"{fresh_name}:3"))["state"] == "delayed"
    await tour.call("POST", "/lease/{receipts}", receipts=await lease(), data={"dead": "why"})
    assert (await _state(tour, f"{fresh_name}:4"))["state"] == "dead"
    letters = await tour.call("GET", "/dead/{queue}", **queue)
    assert letters.json[0]["reason"] == "why"
    key = {"key": f"{fresh_name}:3"}
    await tour.call("POST", "/m/{key}", **key, data={"delay": "60"})
    await tour.call("POST", "/m/{key}", **key, data={"priority": "9"})
    dead = await tour.call("POST", "/m/{key}", key=f"{fresh_name}:4", data={"delay": "0"})
    assert dead.status == 409
    await tour.call("DELETE", "/m/{key}", **key)
    assert (await tour.call("GET", "/m/{key}", **key)).status == 404
    await tour.call("POST", "/dead/{queue}", **queue)
    await tour.call("DELETE", "/dead/{queue}", **queue)
    assert (await tour.call("GET", "/dead/{queue}", **queue)).status == 204


_JSON = {"Content-Type": "application/json"}


async def _state(tour: Tour, key: str) -> Any:
    return (await tour.call("GET", "/m/{key}", key=key)).json


async def test_commands(tour: Tour, fresh_name: str) -> None:
    async def command(word: str, **fields: Any) -> Any:
        body = {"cmd": word, "queue": fresh_name, **fields}
        return (await tour.call("POST", "/queue", json=body)).json

    for value in ("v", {"any": ["JSON"]}, "v"):
        await command("add", value=value, priority=5)
    await command("get")
    await command("peek", count=2)
    await command("len")
    await command("take")
    receipt = (await command("lease", seconds=30))["receipt"]
    await command("extend", receipt=receipt, seconds=60)
    await command("nack", receipt=receipt)
    await command("ack", receipt=(await command("lease"))["receipt"])
    await command("del", key=f"{fresh_name}:3")
    assert "error" in await command("take")
    assert "error" in await command("no such word")
    several = [{"cmd": "len"}, {"cmd": "take"}, {"cmd": "add", "value": "v", "ttl": 0}, 1]
    answers = await tour.call("POST", "/queue/{queue}", queue=fresh_name, json=several)
    assert len(answers.json) == 4
    assert (await tour.call("GET", "/queue")).status == 302
    assert (await tour.call("POST", "/queue", data=b"{")).status == 400


async def test_streams(tour: Tour, fresh_name: str) -> None:
    queue = {"queue": fresh_name}
    for accept in ("text/plain", "text/event-stream"):
        await tour.call("POST", "/q/{queue}", **queue, data={"value": "v"})
        headers = {"Accept": accept}
        got = await tour.call("GET", "/c/{queue}", "wait=10", **queue, headers=headers)
        assert b'"value":"v"' in got.body
    await tour.call("POST", "/q/{queue}", **queue, data={"value": "v"})
    assert b"receipt" in (await tour.call("GET", "/c/{queue}", "wait=10&ack=1", **queue)).body
    assert (await tour.call("GET", "/c/{queue}", "wait=0", **queue)).status == 204
    assert (await tour.call("GET", "/ws/{queue}", **queue)).status == 400
    assert (await tour.call("GET", "/stomp")).status == 400
    line = b"PUTVAL web1/load/load interval=10 1288548767:1:2"
    headers = {"Content-Type": "text/plain"}
    await tour.call("POST", "/collectd/{kind}", kind="data", data=line, headers=headers)


async def test_channels(tour: Tour, fresh_name: str) -> None:
    channel, client = {"channel": fresh_name}, {"client": f"c-{fresh_name}"}
    await tour.call("PUT", "/cursors/{client}/{channel}", "policy=earliest", **client, **channel)
    for data in (1, None, {"a": []}):
        written = {"data": data, "src": "somebody"}
        await tour.call("POST", "/channels/{channel}", **channel, json=written)
    await tour.call("GET", "/channels")
    await tour.call("GET", "/channels/{channel}", **channel)
    await tour.call("GET", "/channels/{channel}/messages", "limit=2", **channel)
    await tour.call("GET", "/cursors/{client}", **client)
    new = await tour.call("POST", "/cursors/{client}/read", **client)
    assert len(new.json[fresh_name]) == 3
    await tour.call("DELETE", "/channels/{channel}/messages", "before=2", **channel)
    await tour.call("DELETE", "/cursors/{client}/{channel}", **client, **channel)
    await tour.call("DELETE", "/cursors/{client}", **client)
    assert (await tour.call("DELETE", "/channels/{channel}", **channel)).status == 204
    assert (await tour.call("GET", "/channels/{channel}", **channel)).status == 404


async def test_rse(tour: Tour, fresh_name: str) -> None:
    channel = {"channel": fresh_name}
    other = {"User-Agent": "someone"}
    await tour.call("POST", "/rse/{channel}", **channel, json={"a": 1}, headers=RSE_CLIENT)
    await tour.call("POST", "/rse/{channel}", "callback=f", **channel, json=[], headers=RSE_CLIENT)
    polled = await tour.call("GET", "/rse/{channel}", **channel, headers=other)
    assert len(polled.json["events"]) == 2
    await tour.call("GET", "/rse/{channel}", "callback=f", **channel, headers=other)
    own = await tour.call("GET", "/rse/{channel}", **channel, headers=RSE_CLIENT)
    assert own.status == 204
    await tour.call("GET", "/rse/{channel}", channel="all", headers=other)
    assert (await tour.call("POST", "/rse/{channel}", **channel, data=b"{")).status == 400
    await tour.call("GET", "/rse/health")
    await tour.call("GET", "/rse/health", "verbose=true")


async def test_queuey(tour: Tour, fresh_name: str) -> None:
    name = fresh_name[:30]
    queue = {"application": "demo", "queue": name}
    known: dict[str, Any] = {"headers": QUEUEY_CLIENT}
    made = {"queue_name": name, "partitions": "2", "principles": "app:demo"}
    await tour.call("POST", "/v1/{application}", application="demo", data=made, **known)
    await tour.call("GET", "/v1/{application}", "include_count=true", application="demo", **known)
    posted = await tour.call(
        "POST", "/v1/{application}/{queue}", **queue, data=b"text", headers={**QUEUEY_CLIENT}
    )
    (message,) = posted.json["messages"]
    batch = {"messages": [{"body": "a"}, {"body": "b", "ttl": 60, "partition": 2}]}
    await tour.call("POST", "/v1/{application}/{queue}", **queue, json=batch, **known)
    read = await tour.call("GET", "/v1/{application}/{queue}", "partitions=1,2", **queue, **known)
    assert len(read.json["messages"]) == 3
    named = {**queue, "messages": f"{message['partition']}:{message['key']}"}
    path = "/v1/{application}/{queue}/{messages}"
    await tour.call("PUT", path, **named, data=b"other", **known)
    await tour.call("GET", path, **named, **known)
    await tour.call("DELETE", path, **named, **known)
    await tour.call("PUT", "/v1/{application}/{queue}", **queue, data={"partitions": "3"}, **known)
    wrong = {"Authorization": "Application wrong"}
    refused = await tour.call("GET", "/v1/{application}/{queue}", **queue, headers=wrong)
    assert refused.status == 401
    assert (await tour.call("GET", "/v1/{application}/{queue}", **queue)).status == 403
    await tour.call("DELETE", "/v1/{application}/{queue}", **queue, **known)
    gone = await tour.call("GET", "/v1/{application}/{queue}", **queue, **known)
    assert gone.status == 404
    await tour.call("GET", "/__heartbeat__")


async def test_the_server_itself(tour: Tour) -> None:
    open_metrics = {"Accept": "application/openmetrics-text"}
    await asyncio.gather(
        tour.call("GET", "/healthz"),
        tour.call("GET", "/readyz"),
        tour.call("GET", "/metrics"),
        tour.call("GET", "/metrics", headers=open_metrics),
        tour.call("GET", "/openapi.json"),
        tour.call("GET", "/static/{file}", file="help.html"),
        tour.call("GET", "/static/{file}", file="restmq.svg"),
        tour.call("GET", "/static/{file}", file="none"),
        tour.call("GET", "/docs/{page}", page="none"),
        tour.call("GET", "/ui/{view}", view="nodes"),
    )
