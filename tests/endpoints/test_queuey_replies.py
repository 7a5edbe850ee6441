"""Queuey's replies when things go wrong, and to pages of other origins."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from restmq.broker.log import Logs
from restmq.endpoints.queuey_access import Forbidden, InvalidApplicationKey
from restmq.endpoints.queuey_fields import BadField, InvalidUpdate
from restmq.endpoints.queuey_queues import QueueyQueues, no_such_queue
from restmq.endpoints.queuey_replies import error_reply
from restmq.errors import (
    AccessDenied,
    CredentialsRequired,
    ForeignOrigin,
    InvalidInput,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RestMQError,
    StoreUnavailable,
    TooLarge,
    UnsupportedMediaType,
)
from tests.endpoints.conftest import OpenNode
from tests.endpoints.queuey_client import QueueyClient, queuey
from tests.support import eventually

ORIGIN = "https://app.example"


@pytest.fixture
async def app(open_node: OpenNode) -> AsyncIterator[QueueyClient]:
    """An application of its own, with a queue ``q``."""
    async with queuey(open_node, allowed_origins=(ORIGIN,), body_timeout_seconds=1.0) as client:
        await client.create()
        yield client


@pytest.mark.parametrize(
    ("error", "status", "field"),
    [
        (BadField("limit", "x"), 400, "limit"),
        (InvalidUpdate(), 400, "InvalidUpdate"),
        (InvalidInput("x"), 400, "InvalidParameter"),
        (InvalidApplicationKey("x"), 401, "InvalidApplicationKey"),
        (Forbidden("x"), 403, "Forbidden"),
        (AccessDenied("x"), 401, "Forbidden"),
        (CredentialsRequired("x"), 401, "Forbidden"),
        (ForeignOrigin("x"), 403, "Forbidden"),
        (no_such_queue(), 404, "InvalidQueueName"),
        (NotFound("x"), 404, "NotFound"),
        (MethodNotAllowed("GET"), 405, "method"),
        (TooLarge("x"), 413, "body"),
        (UnsupportedMediaType("x"), 415, "InvalidParameter"),
        (StoreUnavailable("x"), 503, "storage"),
        (Overloaded("x"), 503, "storage"),
        (RestMQError("x"), 500, "InvalidParameter"),
    ],
)
def test_every_error_has_a_status_and_a_field(error: RestMQError, status: int, field: str) -> None:
    reply = error_reply(error)
    assert reply.status == status
    body = json.loads(reply._reply_body)
    assert body == {"status": "error", "error_msg": {field: str(error)}}


CASES = [
    ("GET", {}, 401, "Forbidden", 'Basic realm="RestMQ Restricted Access"'),
    ("POST", {"Authorization": "Basic eA=="}, 401, "Forbidden", 'Basic realm="RestMQ'),
    ("GET", {"Authorization": "Basic dTpw"}, 403, "Forbidden", ""),
    ("GET", {"Authorization": "Basic dTpw; Application bad"}, 401, "InvalidAp", "Application"),
    ("DELETE", {"Origin": "http://evil.example"}, 403, "Forbidden", ""),
    ("PATCH", {}, 405, "method", ""),
]


@pytest.mark.parametrize(("method", "headers", "status", "field", "challenge"), CASES)
async def test_refusals_at_the_door_are_told_as_the_others_are(
    open_node: OpenNode,
    method: str,
    headers: dict[str, str],
    status: int,
    field: str,
    challenge: str,
) -> None:
    """By field, with the challenge that helps; a password and a key can come together."""
    rule = "username = u\npassword = p\n"
    acl = "".join(f"[{each}]\n{rule}" for each in ("rest:producer", "rest:consumer"))
    async with queuey(open_node, acl=acl) as app:
        both = app.headers | {"Authorization": "Basic dTpw; Application K"}
        await app.ok("POST", status=201, data={"queue_name": "q"}, headers=both)
        assert await app.bodies("/q", headers=both) == []
        url = app.node.url + app.path("/q")
        async with app.node.session.request(method, url, headers=headers) as answer:
            assert answer.status == status
            document = await answer.json()
            assert (document["status"], len(document["error_msg"])) == ("error", 1)
            assert next(iter(document["error_msg"])).startswith(field)
            told = answer.headers.get("WWW-Authenticate", "")
            assert told.startswith(challenge)
            assert bool(told) == bool(challenge)


async def test_a_path_that_is_no_text_is_refused_as_the_others_are(app: QueueyClient) -> None:
    assert (await app.error("GET", "/%FF"))[:2] == (400, "InvalidParameter")


async def test_a_rule_about_hosts_is_told_as_the_others_are(open_node: OpenNode) -> None:
    """Inside the endpoint too, and there is nothing that a client could send instead."""
    async with queuey(open_node, acl="[comet:consumer]\nhosts_deny = all\n") as app:
        await app.create()
        url = app.node.url + app.path("/q?wait=1")
        async with app.node.session.get(url, headers=app.headers) as answer:
            assert answer.status == 401
            assert "WWW-Authenticate" not in answer.headers
            assert (await answer.json())["error_msg"].keys() == {"Forbidden"}


async def test_a_head_of_a_long_list_reads_no_more_than_its_beginning(
    app: QueueyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would all be held in memory otherwise, for nobody."""
    await app.post(*[f"{number:0100d}" for number in range(30)])
    monkeypatch.setattr("restmq.endpoints.queuey_reading.READ_BYTES", 300)
    monkeypatch.setattr("restmq.endpoints.queuey_replies.MAX_WHOLE_BYTES", 1000)
    fail_from(monkeypatch, "read", 12)
    status, body = await app.node.call("HEAD", app.path("/q"), headers=app.headers)
    assert (status, body) == (200, b"")
    assert len(await app.messages("/q?limit=5")) == 5, "the connection is still good"


def fail_from(monkeypatch: pytest.MonkeyPatch, name: str, call_number: int) -> None:
    """Let a method of the logs fail from that call on, as without a store."""
    calls = 0
    whole = getattr(Logs, name)

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < call_number:
            return whole(*arguments, **options)
        future = asyncio.get_running_loop().create_future()
        future.set_exception(StoreUnavailable("Redis is out of reach"))
        return future

    monkeypatch.setattr(Logs, name, failing)


async def test_a_store_out_of_reach_is_told_with_when_to_come_back(
    app: QueueyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("info", "read", "get", "remove", "append", "append_all", "put", "names"):
        fail_from(monkeypatch, name, 1)
    some_id = "0" * 12 + "11f1" + "8" * 16
    for method, path, body in (
        ("GET", "", None),
        ("GET", "/q", None),
        ("POST", "/q", "x"),
        ("PUT", "/q", None),
        ("DELETE", "/q", None),
        *((method, f"/q/{some_id}", "x") for method in ("GET", "PUT", "DELETE")),
    ):
        url = app.node.url + app.path(path)
        async with app.node.session.request(method, url, headers=app.headers, data=body) as answer:
            assert answer.status == 503, (method, path)
            assert int(answer.headers["Retry-After"]) >= 1
            expected = {"storage": "Redis is out of reach"}
            assert (await answer.json())["error_msg"] == expected


async def test_a_post_to_a_remembered_queue_tells_errors_in_the_same_words(
    app: QueueyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second post takes a shorter way through the server."""
    await app.ok("POST", "/q", status=201, data="x")
    with monkeypatch.context() as patch:
        patch.setattr(QueueyQueues, "post", None)
        await app.ok("POST", "/q", status=201, data="x")
    assert await app.error("POST", "/q", data=b"") == (400, "body", "Required")
    assert (await app.error("POST", "/q", data=b"\xff"))[:2] == (400, "body")
    assert (await app.with_key("bad").error("POST", "/q", data="x"))[0] == 401
    assert (await app.with_key(None).error("POST", "/q", data="x"))[0] == 403

    def refuse(*_: Any, **__: Any) -> Any:
        raise Overloaded("too much waits")

    def fail(*_: Any, **__: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(StoreUnavailable("Redis is out of reach"))
        return future

    for name in ("append", "append_all"):
        monkeypatch.setattr(Logs, name, refuse)
    expected = (503, "storage", "too much waits")
    assert await app.error("POST", "/q", data="x") == expected
    for name in ("append", "append_all"):
        monkeypatch.setattr(Logs, name, fail)
    expected = (503, "storage", "Redis is out of reach")
    assert await app.error("POST", "/q", data="x") == expected


async def test_a_long_reply_that_cannot_be_completed_is_cut_off(
    app: QueueyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not look like a whole one."""
    await app.post(*[f"{number:0100d}" for number in range(30)])
    monkeypatch.setattr("restmq.endpoints.queuey_reading.READ_BYTES", 300)
    monkeypatch.setattr("restmq.endpoints.queuey_replies.MAX_WHOLE_BYTES", 1000)
    fail_from(monkeypatch, "read", 5)
    with pytest.raises(aiohttp.ClientError):
        await app.messages()


async def test_a_client_that_does_not_read_a_long_reply_is_cut_off(app: QueueyClient) -> None:
    big = "x" * 1_000_000
    for _ in range(24):
        await app.post(big)
    reader, writer = await asyncio.open_connection("127.0.0.1", app.node.node.port, limit=1000)
    with contextlib.closing(writer):
        head = f"GET {app.path('/q')} HTTP/1.1\r\nHost: x\r\nAuthorization: Application K\r\n\r\n"
        writer.write(head.encode())
        await reader.readline()

        async def probe() -> bool:
            writer.write(b"\r\n")
            await writer.drain()
            return False

        # Nothing more is read, so the buffers of both sides fill up.
        with pytest.raises(ConnectionError):
            await eventually(probe, timeout_seconds=30)
    assert (await app.ok("GET", "?details=1"))["queues"]


async def test_a_page_of_an_allowed_origin_may_use_a_key(app: QueueyClient) -> None:
    url = app.node.url + app.path("/q")
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization,x-ttl",
    }
    async with app.node.session.options(url, headers=asked) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert {"DELETE", "PUT"} <= set(answer.headers["Access-Control-Allow-Methods"].split(", "))
        assert answer.headers["Access-Control-Allow-Headers"] == "authorization,x-ttl"
    for accept, key in (("*/*", "K"), ("text/event-stream", "K"), ("*/*", "bad")):
        headers = {"Origin": ORIGIN, "Authorization": f"Application {key}", "Accept": accept}
        async with app.node.session.get(url, headers=headers) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN


async def test_a_long_reply_can_be_read_by_a_page_too(
    app: QueueyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restmq.endpoints.queuey_replies.MAX_WHOLE_BYTES", 10)
    await app.post("x")
    headers = {**app.headers, "Origin": ORIGIN}
    async with app.node.session.get(app.node.url + app.path("/q"), headers=headers) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.content_type == "application/json"
        assert [each["body"] for each in (await answer.json())["messages"]] == ["x"]
