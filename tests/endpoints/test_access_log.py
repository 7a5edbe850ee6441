"""The access log of the real server: a line for each request, with what it is to say."""

import asyncio
import contextlib
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from restmq.api_keys import ApiKey, ApiKeys, Permission, digest_of, new_key
from restmq.endpoints import log_stream, stomp_connection
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.endpoints.stomp_client import stomp_node, web_stomp_client
from tests.server_process import running_server
from tests.support import eventually

Fields = dict[str, Any]


def lines(caplog: pytest.LogCaptureFixture) -> list[Fields]:
    """Return the fields of what the access log has so far."""
    return [record.fields for record in caplog.records if record.name == "restmq.requests"]  # type: ignore[attr-defined]


async def line_of(caplog: pytest.LogCaptureFixture, path: str) -> Fields:
    """Wait for the line of the one request for this path."""
    found = await eventually(lambda: [each for each in lines(caplog) if each.get("path") == path])
    assert len(found) == 1
    return found[0]


async def test_a_request_has_a_line(
    open_node: OpenNode, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Quick ones, others, refused ones and those for nothing: method, path, status and size."""
    async with open_node(access_log=True) as node:
        for method, path, status in (
            ("POST", f"/q/{fresh_name}", 200),  # makes the queue, so the next is quick
            ("POST", f"/q/{fresh_name}-2?value=secret", 200),
            ("GET", f"/q/{fresh_name}", 200),
            ("GET", f"/stats/{fresh_name}?secret=1", 200),
            ("GET", "/no%20where", 404),
            ("HEAD", "/static/help.html", 200),
        ):
            caplog.clear()
            async with node.session.request(
                method, node.url + path, data=b"value" if method == "POST" else None
            ) as answer:
                body = await answer.read()
                assert answer.status == status
            line = await line_of(caplog, path.partition("?")[0])
            assert (line["method"], line["status"], line["peer"]) == (method, status, "127.0.0.1")
            assert len(body) < line["bytes"] < len(body) + 2000
            assert line["milliseconds"] >= 0
            assert re.fullmatch(r"\d+-\d+", line["connection"])
            assert "key" not in line
            assert "secret" not in caplog.text


async def test_requests_of_a_connection_have_its_name(
    open_node: OpenNode, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of another have another."""
    async with open_node(access_log=True) as node:
        for number in range(3):
            await node.get(f"/q/{fresh_name}-{number}")
        async with aiohttp.ClientSession() as session:
            await NodeUnderTest(node.node, session).get(f"/q/{fresh_name}-3")
        found = [(await line_of(caplog, f"/q/{fresh_name}-{n}"))["connection"] for n in range(4)]
        assert found[0] == found[1] == found[2] != found[3]


async def test_streams_have_their_line_at_the_end(
    open_node: OpenNode, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With what they sent, however they ended."""
    async with open_node(access_log=True) as node:
        await node.add(fresh_name, "x" * 5000)
        async with node.session.get(f"{node.url}/c/{fresh_name}") as stream:
            await stream.content.readline()
            assert not [each for each in lines(caplog) if each["path"].startswith("/c/")]
        line = await line_of(caplog, f"/c/{fresh_name}")
        assert (line["status"], line["method"]) == (200, "GET")
        assert line["bytes"] > 5000
        async with node.session.ws_connect(f"{node.url}/ws/{fresh_name}") as socket:
            await socket.send_str("hello")
            await socket.receive_str()
        line = await line_of(caplog, f"/ws/{fresh_name}")
        assert line["status"] == 101
        assert line["bytes"] > 100


async def test_a_client_that_left_before_its_answer_has_a_line(
    open_node: OpenNode, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """499, and nothing was sent."""
    async with open_node(access_log=True) as node:
        _, writer = await asyncio.open_connection("127.0.0.1", node.node.port)
        path = f"/q/{fresh_name}"
        writer.write(b"GET %b?wait=30 HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        await writer.drain()
        # Answered only after the other was read, as all are by one event loop.
        await node.get("/healthz")
        writer.close()
        await writer.wait_closed()
        line = await line_of(caplog, path)
        assert (line["status"], line["bytes"]) == (499, 0)


async def test_what_is_no_request_has_a_line(
    open_node: OpenNode, caplog: pytest.LogCaptureFixture
) -> None:
    """With the status that it was refused with."""
    async with open_node(access_log=True) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.node.port)
        writer.write(b"NONSENSE /\n\x00\r\n\r\n")
        async with asyncio.timeout(20):
            assert b" 400 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        (line,) = await eventually(lambda: lines(caplog))
        assert line["status"] == 400


async def test_the_client_behind_a_trusted_proxy_is_named(
    open_node: OpenNode, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And not the proxy."""
    async with open_node(access_log=True, trusted_proxies=("127.0.0.1",)) as node:
        await node.get(f"/q/{fresh_name}", headers={"X-Forwarded-For": "10.1.2.3"})
        assert (await line_of(caplog, f"/q/{fresh_name}"))["peer"] == "10.1.2.3"


async def test_a_failure_names_the_connection_of_its_request(
    open_node: OpenNode,
    fresh_name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that its line and that of the access log are found together; neither has the query."""

    async def fail(queue: str) -> None:
        raise RuntimeError("unforeseen")

    async with open_node(access_log=True) as node:
        monkeypatch.setattr(node.node.broker, "stats", fail)
        assert (await node.get(f"/stats/{fresh_name}?secret=1"))[0] == 500
        line = await line_of(caplog, f"/stats/{fresh_name}")
        (failure,) = [each for each in caplog.records if each.exc_info]
        assert failure.fields == {"connection": line["connection"]}  # type: ignore[attr-defined]
        assert fresh_name in failure.getMessage()
        assert "secret" not in failure.getMessage()


async def test_without_it_nothing_is_logged(
    node: NodeUnderTest, fresh_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is off unless it is asked for."""
    caplog.set_level("INFO")
    assert (await node.get(f"/q/{fresh_name}"))[0] == 204
    assert lines(caplog) == []


async def test_stomp_connections_have_two_lines(
    open_node: OpenNode, caplog: pytest.LogCaptureFixture
) -> None:
    """One when they come, one when they go."""
    async with stomp_node(open_node, access_log=True) as node:
        async with node.client() as client:
            assert client.session
        await eventually(lambda: len([f for f in lines(caplog) if "event" in f]) == 2)
        found = [each for each in lines(caplog) if "event" in each]
        assert [each["event"] for each in found] == ["connected", "disconnected"]
        assert len({each["connection"] for each in found}) == 1
        assert re.fullmatch(r"\d+-\d+", found[0]["connection"])
        assert client.session not in caplog.text  # it names what only its owner may read
        assert {each["peer"] for each in found} == {"127.0.0.1"}


async def test_stomp_over_websocket_has_the_connection_of_its_request(
    open_node: OpenNode, caplog: pytest.LogCaptureFixture
) -> None:
    """One connection is one name."""
    async with open_node(access_log=True) as node:
        async with web_stomp_client(node.url):
            pass
        request = await line_of(caplog, "/stomp")
        found = [each for each in lines(caplog) if "event" in each]
        assert {each["connection"] for each in found} == {request["connection"]}


async def test_a_failing_frame_and_a_refused_client_are_found_by_their_connection(
    open_node: OpenNode, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And by the id of their key, which stands at the end of the connection too."""
    caplog.set_level("INFO")

    def fail(*arguments: object) -> None:
        raise RuntimeError("unforeseen")

    async with stomp_node(open_node, access_log=True) as node:
        text = new_key()
        key = ApiKey(digest_of(text), ("a",), frozenset(Permission))
        node.http.node.access.use_keys(ApiKeys([key]))
        for is_failing in (False, True):
            caplog.clear()
            if is_failing:
                monkeypatch.setattr(stomp_connection, "for_sending", fail)
            async with node.client(login="key", passcode=text) as client:
                await client.send_frame("SEND", b"x", destination="b")
                await client.error()
            await eventually(lambda: [f for f in lines(caplog) if f["event"] == "disconnected"])
            (connected, gone) = lines(caplog)
            expected = {"connection": connected["connection"], "key": key.id}
            assert gone["key"] == key.id
            told = [each for each in caplog.records if each.name.startswith("restmq.endpoints")]
            assert [each.fields for each in told] == [expected]  # type: ignore[attr-defined]
            assert bool(told[0].exc_info) is is_failing


async def test_a_failing_stream_is_found_by_its_connection(
    open_node: OpenNode,
    fresh_name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*arguments: object) -> None:
        raise RuntimeError("unforeseen")

    async with open_node(access_log=True) as node:
        monkeypatch.setattr(log_stream, "_pump", fail)
        path = f"/channels/{fresh_name}/messages"
        headers = {"Accept": "text/event-stream"}
        async with node.session.get(node.url + path, headers=headers) as answer:
            with contextlib.suppress(aiohttp.ClientError):
                await answer.read()
        line = await line_of(caplog, path)
        (failure,) = [each for each in caplog.records if each.exc_info]
        assert failure.fields == {"connection": line["connection"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_program_writes_json(tmp_path: Path, fresh_name: str, workers: str) -> None:
    """Every line of its log is an object, of whichever process."""
    flags = ("--log-format", "json", "--access-log", "true", "--workers", workers)
    async with running_server(tmp_path, *flags, "--log-level", "warning") as server:
        async with aiohttp.ClientSession() as session:
            await session.get(f"{server.url}/q/{fresh_name}?api_key=rmq_secret")

        def documents() -> list[Fields]:
            return [json.loads(line) for line in server.log_path.read_text().splitlines()]

        def own() -> list[Fields]:
            return [each for each in documents() if each.get("path") == f"/q/{fresh_name}"]

        (line,) = await eventually(own)
        assert (line["level"], line["logger"], line["status"]) == ("info", "restmq.requests", 204)
        assert line["connection"].startswith(f"{line['process']}-")
        assert all(each["time"].endswith("Z") for each in documents())
        assert "secret" not in server.log_path.read_text()
