"""collectd and syslog, from outside (specification of RestMQ, section 8)."""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest

from restmq.access import Access
from restmq.broker.broker import Broker
from restmq.endpoints.syslog import SyslogListener
from tests.endpoints.conftest import NodeUnderTest
from tests.support import eventually

PUTVAL = "PUTVAL host/plugin/type interval=10 1288548767:1:2\n"


async def pop_last(node: NodeUnderTest, key: bytes) -> object:
    """Return the value of the message that was just stored under ``key``."""
    queue, number = key.decode().strip().split(":")
    for message in await node.node.broker.take(queue, 10_000):
        if message.number == int(number):
            return json.loads(message.value)
    raise AssertionError(f"{key!r} is not in its queue")


@pytest.mark.xdist_group("collectd")
async def test_collectd_data_as_text_and_as_json(node: NodeUnderTest) -> None:
    """Lines are parsed; JSON is stored as it is; media-type parameters are ignored."""
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    status, key = await node.post("/collectd/data", data=PUTVAL, headers=headers)
    assert status == 200
    assert key.startswith(b"collectd_data:")
    assert await pop_last(node, key) == [
        {
            "host": "host",
            "plugin_instance": "plugin",
            "type_instance": "type",
            "interval": "10",
            "value": "1288548767:1:2",
        }
    ]
    headers = {"Content-Type": "application/json"}
    _, key = await node.post("/collectd/data", data="[1, 2]", headers=headers)
    assert await pop_last(node, key) == [1, 2]


@pytest.mark.xdist_group("collectd")
async def test_collectd_events(node: NodeUnderTest) -> None:
    """Headers become one-key objects, the text comes last."""
    text = "Severity: WARNING\nTime: 1\nHost: h\n\nit is hot\n"
    status, key = await node.post("/collectd/event", data=text)
    assert status == 200
    assert await pop_last(node, key) == [
        {"severity": "WARNING"},
        {"time": "1"},
        {"host": "h"},
        {"event_text": "it is hot"},
    ]


@pytest.mark.parametrize(
    ("path", "content_type", "body", "status"),
    [
        ("/collectd/data", "image/png", PUTVAL, 415),
        ("/collectd/data", "text/plain", "PUTVAL nonsense", 400),
        ("/collectd/data", "application/json", "{oops", 400),
        ("/collectd/event", "text/plain", "nothing of the kind", 400),
        ("/collectd/other", "text/plain", PUTVAL, 400),
    ],
)
async def test_collectd_refuses(
    node: NodeUnderTest, path: str, content_type: str, body: str, status: int
) -> None:
    """What it cannot read."""
    headers = {"Content-Type": content_type}
    assert (await node.post(path, data=body, headers=headers))[0] == status


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_collectd_only_takes_posts(node: NodeUnderTest, method: str) -> None:
    """The original popped and purged here by accident."""
    assert (await node.call(method, "/collectd/data"))[0] == 405


async def test_syslog_lines_over_tcp_and_udp(redis_url: str) -> None:
    """Each becomes a message of the sender's queue, in order for TCP."""
    async with Broker(redis_url) as broker:
        listener = SyslogListener(broker, Access.from_text(""))
        port = await listener.open("127.0.0.1", 0, reuse_port=False)
        await broker.purge("syslogd:127.0.0.1")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"<22>mail info\n<999>bad pri\nno pri\r\nunfinished")
        writer.close()
        await writer.wait_closed()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port)
        )
        transport.sendto(b"<0>over udp")
        events: list[dict[str, object]] = []

        async def all_here() -> bool:
            taken = await broker.take("syslogd:127.0.0.1", 10)
            events.extend(json.loads(message.value) for message in taken)
            return len(events) == 5

        await eventually(all_here)
        transport.close()
        await listener.close()
    by_line = {event["line"]: (event["facility"], event["severity"]) for event in events}
    assert by_line == {
        "<22>mail info": ("mail", "info"),
        "<999>bad pri": (None, None),
        "no pri": (None, None),
        "unfinished": (None, None),
        "<0>over udp": ("kern", "emerg"),
    }
    tcp = [event["line"] for event in events if event["line"] != "<0>over udp"]
    assert tcp == ["<22>mail info", "<999>bad pri", "no pri", "unfinished"]
    assert all(event["host"] == "127.0.0.1" and event["tstamp"] for event in events)


async def test_syslog_from_a_refused_address_is_not_stored(redis_url: str, tmp_path: Path) -> None:
    """The listener asks like every other endpoint."""
    async with Broker(redis_url) as broker:
        rules = Access.from_text("[rest:producer]\nhosts_deny = all\n")
        listener = SyslogListener(broker, rules)
        port = await listener.open("127.0.0.1", 0, reuse_port=False)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"<22>refused\n")
        with contextlib.suppress(ConnectionResetError):  # it may come before the end of file
            assert await reader.read() == b""
        writer.close()
        await listener.close()
        held = await broker.peek("syslogd:127.0.0.1", 1000)
    assert not any(b"refused" in message.value for message in held)
