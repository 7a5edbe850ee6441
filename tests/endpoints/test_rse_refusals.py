"""Everything that RSE refuses is told in RSE's own shape, by whomever, on both mounts."""

import asyncio
import contextlib
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from restmq.broker.log import Logs
from restmq.errors import StoreUnavailable
from tests.endpoints.conftest import OpenNode
from tests.endpoints.test_rse import JSON, Rse, channel, mount, opened, rse
from tests.support import eventually

__all__ = ["channel", "mount", "rse"]  # fixtures

RULES = ["hosts_deny = all", "username = u\npassword = p"]


@pytest.mark.parametrize("rule", RULES)
async def test_the_access_file_refuses_in_the_shape_of_rse(
    open_node: OpenNode, mount: str, channel: str, rule: str
) -> None:
    acl = f"[rest:producer]\n{rule}\n[rest:consumer]\n{rule}\n"
    async with opened(open_node, mount, acl, rse_test_mode=True) as rse:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            answer = await rse.agent().call(method, channel)
            assert (answer.status, answer.body) == (401, b'{ "message": "" }'), method
            assert answer.content_type == JSON
            headers = dict(answer.headers)  # type: ignore[arg-type]
            assert ("WWW-Authenticate" in headers) == ("user" in rule)
        assert (await rse.agent().call("GET", "/health?verbose=1")).status == 401
        assert (await rse.agent().call("HEAD", "/health")).status == 200  # a probe


async def test_a_foreign_page_is_refused_in_the_shape_of_rse(rse: Rse, channel: str) -> None:
    for method in ("GET", "POST"):
        answer = await rse.agent(Origin="http://evil.example").call(method, channel)
        assert answer.status == 403
        assert "http://evil.example" in answer.message


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "REPORT"])
async def test_methods_are_refused_by_name_with_those_that_there_are(
    rse: Rse, channel: str, method: str
) -> None:
    answer = await rse.agent().call(method, channel)
    assert (answer.status, answer.message) == (405, method)
    headers = dict(answer.headers)  # type: ignore[arg-type]
    assert headers["Allow"] == "GET, POST"
    answer = await rse.agent().call("DELETE", "/health")
    headers = dict(answer.headers)  # type: ignore[arg-type]
    assert (answer.status, headers["Allow"]) == (405, "GET, HEAD")


async def test_a_path_that_is_no_text_is_refused_in_the_shape_of_rse(rse: Rse) -> None:
    for method in ("GET", "POST"):
        answer = await rse.agent().call(method, "/%ff")
        assert (answer.status, bool(answer.message)) == (400, True)


async def test_errors_that_nobody_expected_are_told_in_the_shape_of_rse(
    rse: Rse, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise ZeroDivisionError

    for name in ("append", "read", "read_once"):
        monkeypatch.setattr(Logs, name, fail)
    for answer in (
        await rse.agent().post(channel),
        await rse.agent().get(channel),
        await rse.agent().get(f"{channel}?method=POST&post-data={{}}"),
    ):
        assert (answer.status, bool(answer.message)) == (500, True)


@pytest.mark.parametrize("size_bytes", [100, 50_000, 140_000, 200_000, 300_000])
async def test_a_refused_body_leaves_the_connection_in_order(
    open_node: OpenNode, mount: str, channel: str, size_bytes: int
) -> None:
    """However long it is, and whether it is refused by its token or for another reason."""
    async with opened(open_node, mount, rse_tokens=("listed",)) as rse:
        url = urlsplit(rse.base)
        for token in ("wrong", "listed"):
            reader, writer = await asyncio.open_connection("127.0.0.1", url.port)
            with contextlib.closing(writer):
                for _ in range(3):
                    head = f"POST {url.path}{channel} HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n"
                    head += f"X-Auth-Token: {token}\r\nContent-Length: {size_bytes}\r\n\r\n"
                    writer.write(head.encode() + b"x" * size_bytes)
                    async with asyncio.timeout(20):
                        answer = await reader.readuntil(b"\r\n\r\n")
                        await reader.readuntil(b"}")
                    assert answer.startswith(b"HTTP/1.1 4"), answer


# The list of all events, which may be longer than memory


@pytest.fixture
def long_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the list have parts of two events."""
    monkeypatch.setattr("restmq.endpoints.rse_live.LIST_EVENTS", 2)


@pytest.mark.usefixtures("long_list")
async def test_a_list_that_cannot_be_completed_is_cut_off(
    rse: Rse, channel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must neither look whole nor have an error in its middle."""
    await rse.agent().posted(channel, *([number] for number in range(10)))
    calls, read = 0, Logs.read

    async def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            return await read(*arguments, **options)
        raise StoreUnavailable("Redis is out of reach")

    monkeypatch.setattr(Logs, "read", failing)
    with pytest.raises(aiohttp.ClientError):
        await rse.agent().get("/all")


async def test_who_does_not_read_the_list_is_cut_off(
    open_node: OpenNode, mount: str, channel: str
) -> None:
    """Meanwhile no more than a part of it is in memory."""
    async with opened(open_node, mount, rse_test_mode=True, body_timeout_seconds=1.0) as rse:
        await rse.agent().posted(channel, *[["x" * 1_000_000]] * 24)
        url = urlsplit(rse.base)
        reader, writer = await asyncio.open_connection("127.0.0.1", url.port, limit=1000)
        with contextlib.closing(writer):
            writer.write(f"GET {url.path}/all HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert b"200" in await reader.readline()
            await until_cut_off(writer)
        assert (await rse.agent().get("/health")).status == 200


async def test_who_does_not_read_the_answer_to_a_poll_is_cut_off(
    open_node: OpenNode, mount: str, channel: str
) -> None:
    async with opened(open_node, mount, rse_test_mode=True, body_timeout_seconds=1.0) as rse:
        await rse.agent().posted(channel, *[["x" * 1_000_000]] * 12)
        for _ in range(2):  # once from the log, and once from memory
            assert len((await rse.agent().get(channel)).events) >= 5
        url = urlsplit(rse.base)
        reader, writer = await asyncio.open_connection("127.0.0.1", url.port, limit=1000)
        with contextlib.closing(writer):
            head = f"GET {url.path}{channel} HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n\r\n"
            writer.write(head.encode())
            assert b"200" in await reader.readline()
            await until_cut_off(writer)


async def test_who_reads_the_answer_late_is_served_on(
    open_node: OpenNode, mount: str, channel: str
) -> None:
    """The time for reading one reply is none for the connection."""
    async with opened(open_node, mount, rse_test_mode=True, body_timeout_seconds=2.0) as rse:
        await rse.agent().posted(channel, *[["x" * 1_000_000]] * 7)
        url, loop = urlsplit(rse.base), asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", url.port, limit=1000)
        with contextlib.closing(writer):
            head = f"GET {url.path}{channel} HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\n\r\n"
            deadline = loop.time() + 4

            async def poll() -> bool:
                writer.write(head.encode())
                lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
                (length,) = [line for line in lines if line.startswith(b"Content-Length: ")]
                await reader.readexactly(int(length.partition(b" ")[2]))
                return loop.time() > deadline

            await eventually(poll, timeout_seconds=30)


async def until_cut_off(writer: asyncio.StreamWriter) -> None:
    """Wait until the server has ended the connection, reading nothing."""

    async def probe() -> bool:
        writer.write(b"\r\n")
        await writer.drain()
        return False

    # As nothing is read, the buffers of both sides fill up.
    with pytest.raises(ConnectionError):
        await eventually(probe, timeout_seconds=30)
