"""What clients that behave badly get from the real program, and that they harm nobody else."""

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.process.clients import (
    UPGRADE,
    Api,
    bare_connection,
    deaf_consumer,
    exchange,
    listening,
    open_api,
    read_to_end,
)
from tests.server_process import ServerProcess, running_server
from tests.support import eventually

OUTBOX_BYTES = 256 * 1024

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerProcess]:
    """A server that the tests of this module share; use fresh names."""
    flags = ("--fsync", "no", "--outbox-bytes", str(OUTBOX_BYTES))
    async with running_server(tmp_path_factory.mktemp("clients"), *flags) as process:
        yield process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(server: ServerProcess) -> AsyncIterator[Api]:
    """The everyday requests to that server."""
    async with open_api(server.url) as client:
        yield client


def masked(first_byte: int, payload: bytes, length_byte: int | None = None) -> bytes:
    """Write a frame as clients do, with a mask that changes nothing."""
    length = len(payload) if length_byte is None else length_byte
    return bytes([first_byte, 0x80 | length]) + bytes(4) + payload


class TestWebSocketFrames:
    @pytest.mark.parametrize(
        ("frame", "close_code"),
        [
            pytest.param(masked(0xC1, b"hi"), 1002, id="first reserved bit"),
            pytest.param(masked(0xA1, b"hi"), 1002, id="second reserved bit"),
            pytest.param(masked(0x83, b"hi"), 1002, id="unknown opcode"),
            pytest.param(masked(0x80, b"hi"), 1002, id="continuation of nothing"),
            pytest.param(masked(0x09, b"hi"), 1002, id="ping in fragments"),
            pytest.param(b"\x89\xfe\x00\x80" + bytes(132), 1002, id="ping of 128 bytes"),
            pytest.param(masked(0x88, b"x"), 1002, id="close with half a code"),
            pytest.param(masked(0x81, b"\xff\xff"), 1007, id="text that is not UTF-8"),
            pytest.param(b"\x81\xff" + struct.pack(">Q", 2**62), 1009, id="huge length"),
            pytest.param(b"\x81\xff" + b"\xff" * 8, 1009, id="negative length"),
        ],
    )
    async def test_that_are_broken_end_the_connection_and_nothing_else(
        self, server, api, fresh_name, frame, close_code
    ):
        lines = [f"GET /ws/{fresh_name} HTTP/1.1", "Host: x"]
        lines += [f"{key}: {value}" for key, value in UPGRADE.items()]
        async with (
            listening(server.url, fresh_name, "websocket") as (other,),
            bare_connection(server.port) as (reader, writer),
        ):
            writer.write("\r\n".join([*lines, "", ""]).encode())
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            writer.write(frame)
            answer = await read_to_end(reader, timeout_seconds=3)
            assert answer == b"\x88\x02" + struct.pack(">H", close_code)
            await api.add(fresh_name, "for the other")
            await eventually(lambda: other.values == ["for the other"])

    async def test_an_ordinary_request_is_told_that_this_path_speaks_websocket(self, api):
        async with api.session.get(f"{api.url}/ws/x") as answer:
            assert answer.status in (400, 426)


class TestSlowClients:
    async def test_one_that_drips_its_headers_or_body_is_closed(self, tmp_path, fresh_name):
        flags = ("--header-timeout-seconds", "1", "--body-timeout-seconds", "1", "--fsync", "no")
        head = f"POST /q/{fresh_name} HTTP/1.1\r\nHost: x\r\n".encode()
        async with running_server(tmp_path, *flags) as server, open_api(server.url) as api:
            await asyncio.gather(
                self.is_closed(server, b"GET /q/", b"x"),
                self.is_closed(server, head, b"X-Header: y\r\n"),
                self.is_closed(server, head + b"Content-Length: 10000\r\n\r\n", b"x"),
                self.is_closed(server, head + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
            )
            assert await api.length(fresh_name) == 0
            assert await api.add(fresh_name, "first") == f"{fresh_name}:1"

    async def is_closed(self, server: ServerProcess, start: bytes, drip: bytes) -> None:
        """Send a little again and again until the server ends it; it tells why, if anything."""
        async with bare_connection(server.port) as (reader, writer):
            writer.write(start)
            port = writer.get_extra_info("sockname")[1]

            def drips_in_vain() -> bool:
                if not writer.is_closing():
                    writer.write(drip)
                return server.has_let_go_of(port)

            await eventually(lambda: server.has_read_all_from(port))
            await eventually(drips_in_vain, 15)
            answer = await read_to_end(reader)
            assert not answer or answer.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 ")), answer

    async def test_one_that_never_says_anything_is_closed(self, tmp_path):
        flags = ("--header-timeout-seconds", "1", "--fsync", "no")
        async with running_server(tmp_path, *flags) as server:
            await exchange(server.port, b"")


class TestConsumers:
    async def test_one_that_stops_reading_is_cut_off_and_the_others_notice_nothing(
        self, server, api, fresh_name
    ):
        payload = "x" * 64_000
        kinds = ["comet", "sse", "websocket", "comet"] * 5
        async with listening(server.url, fresh_name, *kinds) as others:
            with deaf_consumer(server.port, fresh_name) as deaf:
                await eventually(lambda: self.has_consumers(api, fresh_name, len(others) + 1))
                values = []
                # Some megabytes fit into the buffers of the kernel before the server's fills up.
                while not await self.has_consumers(api, fresh_name, len(others)):
                    values.append(f"{len(values)} {payload}")
                    await api.add(fresh_name, values[-1])
                    await eventually(
                        lambda: all(len(one.messages) == len(values) for one in others), 5
                    )
                    assert len(values) < 200
                await eventually(
                    lambda: server.has_let_go_of(deaf.getsockname()[1]), timeout_seconds=5
                )
            await api.add(fresh_name, "afterwards")
            await eventually(lambda: all(one.values == [*values, "afterwards"] for one in others))

    async def has_consumers(self, api: Api, queue: str, count: int) -> bool:
        """Return whether the queue has so many streaming consumers."""
        return await api.consumers(queue) == count

    async def test_what_was_not_sent_to_one_that_vanishes_goes_to_the_next(
        self, server, api, fresh_name
    ):
        await api.set_policy(fresh_name, "roundrobin")
        values = []
        with deaf_consumer(server.port, fresh_name):
            await eventually(lambda: self.has_consumers(api, fresh_name, 1))
            while await api.length(fresh_name) < 3:  # until it has no room
                values.append(f"{len(values)} {'x' * 64_000}")
                await api.add(fresh_name, values[-1])
            waiting = await api.length(fresh_name)
        await eventually(lambda: self.has_consumers(api, fresh_name, 0))
        async with listening(server.url, fresh_name, "comet") as (next_one,):
            # All that waited, and at least the one of which the last byte was never sent.
            await eventually(lambda: len(next_one.values) > waiting)
            count = len(next_one.values)
            assert next_one.values == values[-count:]

    @pytest.mark.parametrize("how", ["pop", "take", "poll", "stream"])
    async def test_one_that_leaves_before_its_answer_leaves_the_message(
        self, server, api, fresh_name, how
    ):
        command = f'{{"cmd":"take","queue":"{fresh_name}"}}'
        requests = {
            "pop": f"GET /q/{fresh_name} HTTP/1.1\r\nHost: x\r\n\r\n",
            "take": f"POST /queue HTTP/1.1\r\nHost: x\r\nContent-Length: {len(command)}\r\n\r\n"
            + command,
            "poll": f"GET /c/{fresh_name}?wait=30 HTTP/1.1\r\nHost: x\r\n\r\n",
            "stream": f"GET /c/{fresh_name} HTTP/1.1\r\nHost: x\r\n\r\n",
        }
        await api.set_policy(fresh_name, "roundrobin")
        await api.add(fresh_name, "left")
        (redis_pid,) = server.child_pids("redis-server")
        os.kill(redis_pid, signal.SIGSTOP)  # so that the answer is not there before it leaves
        try:
            async with bare_connection(server.port) as (_, writer):
                writer.write(requests[how].encode())
                port = writer.get_extra_info("sockname")[1]
                await eventually(lambda: server.has_read_all_from(port))
            await eventually(lambda: server.has_let_go_of(port))
        finally:
            os.kill(redis_pid, signal.SIGCONT)
        await eventually(lambda: self.has_consumers(api, fresh_name, 0))

        async def is_back() -> bool:
            return await api.length(fresh_name) == 1

        await eventually(is_back)
        assert (await api.pop(fresh_name))["value"] == "left"
