"""STOMP clients that do not behave: slow, silent, malformed; and who is let in at all."""

import asyncio
import contextlib
import ssl
import subprocess
from pathlib import Path

import pytest

from restmq.endpoints import stomp_answers
from restmq.errors import StartupError
from tests.endpoints.conftest import OpenNode
from tests.endpoints.stomp_client import (
    StompClient,
    TcpClientWire,
    send,
    stomp_client,
    stomp_node,
    subscribe,
    web_stomp_client,
)
from tests.support import eventually


@pytest.mark.parametrize(
    ("octets", "word"),
    [
        (b"\0", "headers"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\0", "command"),
        (b"CONNECT\naccept-version:1.2\nheart-beat:soon\n\n\0", "heart-beat"),
        (b"SEND\ndestination:/queue/a\n\n\0", "CONNECT"),
        (b"CONNECT\n\n\0CONNECT\n\n\0", "already"),
        (b"CONNECT\n\n\0SEND\ndestination:/topic/\n\n\0", "no name"),
        (b"CONNECT\n\n\0SEND\ndestination:/temp-queue/a/b\n\n\0", "slash"),
        (b"CONNECT\n\n\0SUBSCRIBE\ndestination:a\nack:never\n\n\0", "ack"),
        (b"CONNECT\n\n\0SUBSCRIBE\ndestination:a\nack:client\nprefetch-count:1001\n\n\0", "1000"),
        (b"CONNECT\n\n\0COMMIT\ntransaction:t\n\n\0", "transaction"),
        (b"CONNECT\n\n\0SEND\ndestination:a\nidempotency-key:%b\n\n\0" % (b"k" * 129), "128"),
        (
            b"CONNECT\n\n\0SEND\ndestination:a\n%b\n\0"
            % (b"k%d:%b\n" * 9 % (*(x for n in range(9) for x in (n, b"v" * 8000)),)),
            "headers",
        ),
        (b"CONNECT\n\n\0SEND\ndestination:a\ncontent-length:2000000\n\n", "1000000"),
    ],
)
async def test_what_is_malformed_gets_an_error_and_the_end(
    open_node: OpenNode, octets: bytes, word: str
) -> None:
    async with (
        stomp_node(open_node, max_body_bytes=1_000_000) as node,
        node.client(None) as client,
    ):
        await client.write(octets)
        frame = await client.receive()
        if frame.command == "CONNECTED":
            frame = await client.receive("ERROR")
        assert word in frame.headers["message"]
        assert await client.next_frame() is None


async def test_one_who_never_connects_is_dropped(open_node: OpenNode) -> None:
    async with (
        stomp_node(open_node, header_timeout_seconds=0.3) as node,
        node.client(None) as client,
    ):
        await client.write("CONN")
        assert await client.next_frame() is None


async def test_one_who_reads_no_messages_gets_no_more_and_keeps_none_from_others(
    open_node: OpenNode, fresh_name: str
) -> None:
    """What he was sent but never got comes to the next, once his lease is over."""
    body = b"x" * 100_000
    async with (
        stomp_node(open_node, stomp_ack_timeout=2.0) as node,
        node.client() as lazy,
        node.client() as other,
    ):
        await subscribe(lazy, f"/queue/{fresh_name}", prefetch_count="1000")
        for _ in range(300):
            await other.send_frame("SEND", body, destination=f"/queue/{fresh_name}")
        await other.call("BEGIN", transaction="t")
        held = (await node.stats(fresh_name))["leased"]
        assert held < 300
        await subscribe(other, f"/queue/{fresh_name}", "auto")
        for _ in range(300):
            assert (await other.message()).body == body


async def test_one_who_reads_no_receipts_is_read_no_further(
    open_node: OpenNode, fresh_name: str
) -> None:
    """So what a client makes the server keep is bounded, and all is answered when it reads."""
    async with stomp_node(open_node) as node, node.client() as client:
        receipt = "r" * 8000
        assert isinstance(client.wire, TcpClientWire)
        writer = client.wire.writer
        frame = f"SEND\ndestination:{fresh_name}\nreceipt:{receipt}\n\nx\0".encode()
        count = 3000
        for _ in range(count):
            writer.write(frame)

        lengths: list[int] = []

        async def stands_still() -> bool:
            lengths.append((await node.stats(fresh_name))["len"])
            return len(lengths) > 40 and lengths[-40] == lengths[-1] > 0

        await eventually(stands_still, 30)
        assert (await node.stats(fresh_name))["len"] < count
        for _ in range(count):
            assert (await client.receive("RECEIPT")).headers["receipt-id"] == receipt
        assert (await node.stats(fresh_name))["len"] == count


async def test_many_sends_without_reading_stay_in_order(
    open_node: OpenNode, fresh_name: str
) -> None:
    """More than may be under way at a time, over two queues that are new."""
    count = 3 * stomp_answers.MAX_UNANSWERED
    async with stomp_node(open_node) as node, node.client() as client:
        for number in range(count):
            name = f"{fresh_name}-{number % 2}"
            await client.send_frame("SEND", b"%d" % number, destination=name)
        for parity in range(2):
            await subscribe(client, f"{fresh_name}-{parity}", "auto", str(parity))
            for number in range(parity, count, 2):
                assert (await client.message()).body == b"%d" % number


async def test_heart_beats_hold_a_quiet_connection(open_node: OpenNode) -> None:
    """Who beats in time stays; those that come from the server serve as the clock."""
    async with (
        stomp_node(open_node) as node,
        node.client(heart_beat="500,0") as client,
        web_stomp_client(node.http.url, heart_beat="0,500") as listener,
    ):
        for _ in range(6):
            assert await listener.wire.read() == b"\n"
            await client.write("\n")
        await client.assert_quiet()


async def test_login_and_passcode(open_node: OpenNode) -> None:
    async with stomp_node(open_node, stomp_login="me", stomp_passcode="secret") as node:
        async with node.client(login="me", passcode="secret") as client:
            await client.assert_quiet()
        async with web_stomp_client(node.http.url, login="me", passcode="secret") as client:
            await client.assert_quiet()
        for headers in ({}, {"login": "me"}, {"login": "me", "passcode": "secret2"}):
            async with node.client(None) as client:
                await client.send_frame("CONNECT", **{"accept-version": "1.2", **headers})
                assert "passcode" in (await client.error()).headers["message"]


STOMP_LOGIN = "[stomp]\nusername = u\npassword = p:w\n"


async def test_the_rules_of_acl_conf(open_node: OpenNode, fresh_name: str) -> None:
    """[stomp] to connect, those of producers to send and those of consumers to subscribe."""
    async with stomp_node(open_node, STOMP_LOGIN) as node:
        async with node.client(login="u", passcode="p:w") as client:
            await send(client, fresh_name, b"x")
        async with node.client(None) as client:
            await client.send_frame("CONNECT", **{"accept-version": "1.2"})
            assert "stomp" in (await client.error()).headers["message"]
    async with stomp_node(open_node, "[rest:producer]\nhosts_deny = all\n") as node:
        async with node.client() as client:
            await subscribe(client, fresh_name, "auto")
            assert (await client.message()).body == b"x"
            for destination in (fresh_name, f"/topic/{fresh_name}"):
                async with node.client() as refused:
                    await refused.send_frame("SEND", b"y", destination=destination, receipt="r")
                    assert (await refused.error()).headers["receipt-id"] == "r"
            await client.assert_quiet()
        async with node.client() as client:  # at COMMIT it is asked as well
            await client.call("BEGIN", transaction="t")
            await client.call("SEND", b"y", destination=fresh_name, transaction="t")
            await client.send_frame("COMMIT", transaction="t")
            assert "producer" in (await client.error()).headers["message"]
        assert (await node.stats(fresh_name))["len"] == 0
    async with stomp_node(open_node, "[rest:consumer]\nusername = u\npassword = p\n") as node:
        async with node.client(login="u", passcode="p") as client:
            await subscribe(client, fresh_name)
        async with node.client() as client:
            await client.send_frame("SUBSCRIBE", id="0", destination=fresh_name)
            assert "consumer" in (await client.error()).headers["message"]


async def test_tls(open_node: OpenNode, tmp_path: Path, fresh_name: str) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        (
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ),
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(cafile=certificate)
    async with stomp_node(
        open_node, stomp_certificate=str(certificate), stomp_key=str(key)
    ) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=context)
        client = StompClient(TcpClientWire(reader, writer))
        try:
            await client.connect()
            await send(client, fresh_name, b"x" * 300_000, b"y")
            await subscribe(client, fresh_name, "auto")
            assert len((await client.message()).body) == 300_000
            assert (await client.message()).body == b"y"
            await send(client, fresh_name, b"z")
            assert (await client.message()).body == b"z"
        finally:
            await client.close()


async def test_a_broken_certificate_stops_the_start(open_node: OpenNode, tmp_path: Path) -> None:
    path = tmp_path / "none.pem"
    with pytest.raises(StartupError, match=r"none\.pem"):
        async with stomp_node(open_node, stomp_certificate=str(path)):
            pass


async def test_a_taken_port_stops_the_start(open_node: OpenNode) -> None:
    async with stomp_node(open_node) as node:
        with pytest.raises(StartupError, match=str(node.port)):
            async with open_node(stomp_port=node.port):
                pass


async def test_hundreds_connect_and_leave_at_once(open_node: OpenNode, fresh_name: str) -> None:
    """In waves, as radiator's scenario has it; nothing stays behind."""
    async with stomp_node(open_node) as node:
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for _ in range(3):
                wave = await asyncio.gather(
                    *(stack.enter_async_context(stomp_client(node.port)) for _ in range(100))
                )
                clients += wave
                await asyncio.gather(*(subscribe(each, fresh_name) for each in wave))
            endpoint = node.http.node._stomp
            assert endpoint.connection_count == 300
            assert endpoint.messaging.subscriptions.binding_count == 300
            for number in range(300):
                await clients[0].send_frame("SEND", b"%d" % number, destination=fresh_name)
            got = [(await client.message()).body for client in clients]
            assert sorted(got, key=int) == [b"%d" % number for number in range(300)]
        await eventually(lambda: endpoint.connection_count == 0)
        assert endpoint.messaging.subscriptions.binding_count == 0
        assert endpoint._wheel._places == {}
