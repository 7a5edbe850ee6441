"""Many clients, rude clients, and a server that is killed, against the real program."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from restmq.codecs.stomp import Frame
from tests.endpoints.stomp_client import StompClient, send, stomp_client, subscribe
from tests.server_process import ServerProcess, running_server
from tests.support import eventually, free_port

CONSUMERS = 1500
WAVE = 200
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[ServerProcess, int]]:
    """The program, and its STOMP port."""
    port = free_port()
    async with running_server(tmp_path, "--stomp-port", str(port)) as server:
        yield server, port


async def test_1500_consumers_connect_in_waves_and_get_one_message_each(
    served: tuple[ServerProcess, int],
) -> None:
    """None of them acknowledges anything, so none gets a second one."""
    _, port = served
    total = CONSUMERS + 100
    async with contextlib.AsyncExitStack() as stack:
        producer = await stack.enter_async_context(stomp_client(port))
        clients: list[StompClient] = []
        for first in range(0, CONSUMERS, WAVE):
            size = min(WAVE, CONSUMERS - first)
            wave = await asyncio.gather(
                *(stack.enter_async_context(stomp_client(port)) for _ in range(size))
            )
            await asyncio.gather(*(subscribe(each, "/queue/jobs") for each in wave))
            clients += wave
        for number in range(total):
            await producer.send_frame("SEND", b"%d" % number, destination="/queue/jobs")
        got = await asyncio.gather(*(client.message() for client in clients))
        # Each got one of the first, whatever the order among them.
        assert sorted(int(message.body) for message in got) == list(range(CONSUMERS))
        await asyncio.gather(*(client.assert_quiet() for client in clients))


async def test_what_was_answered_comes_back_in_order_after_a_kill(
    served: tuple[ServerProcess, int],
) -> None:
    """What consumers held comes back too, in its order, when their node counts as dead."""
    server, port = served
    answered: list[int] = []
    async with (
        stomp_client(port) as producer,
        stomp_client(port) as first,
        stomp_client(port) as second,
    ):
        await send(producer, "/queue/jobs", *(b"%d" % number for number in range(10)))
        await subscribe(first, "/queue/jobs")
        await subscribe(second, "/queue/jobs", "client", prefetch_count="4")
        held = [await first.message(), *[await second.message() for _ in range(4)]]
        assert sorted(int(message.body) for message in held) == list(range(5))
        await first.ack(held[0])
        acked = int(held[0].body)
        held.append(await first.message())

        async def produce() -> None:
            for number in range(10, 5000):
                await producer.call("SEND", b"%d" % number, destination="/queue/jobs")
                answered.append(number)

        producing = asyncio.create_task(produce())
        await eventually(lambda: len(answered) >= 300)
        await server.kill()
        with pytest.raises((AssertionError, OSError)):
            await producing
    await server.start()
    returning = sorted({int(message.body) for message in held} - {acked})
    waiting = [number for number in (*range(10), *answered) if number not in (*returning, acked)]
    # One more may have been stored whose answer nobody saw.
    expected = {*returning, *waiting}
    async with stomp_client(port) as consumer:
        await subscribe(consumer, "/queue/jobs", prefetch_count="1000")
        got: list[Frame] = []
        while not expected <= {int(message.body) for message in got}:
            got.append(await consumer.message())
    redelivered = [int(m.body) for m in got if "redelivered" in m.headers]
    others = [int(m.body) for m in got if "redelivered" not in m.headers]
    assert redelivered == returning
    assert others[: len(waiting)] == waiting
    assert len(others) <= len(waiting) + 1


async def test_a_connection_lost_in_a_transaction_leaves_nothing_behind(
    served: tuple[ServerProcess, int],
) -> None:
    _, port = served
    async with stomp_client(port) as watcher:
        await send(watcher, "/queue/jobs", b"held")
        async with stomp_client(port) as client:
            await subscribe(client, "/queue/jobs")
            message = await client.message()
            await client.call("BEGIN", transaction="t")
            await client.call("SEND", b"never", destination="/queue/others", transaction="t")
            await client.call("ACK", **client.ack_headers(message), transaction="t")
        await subscribe(watcher, "/queue/jobs")
        again = await watcher.message()
        assert (again.body, again.headers["redelivered"]) == (b"held", "true")
        await watcher.ack(again)
        await subscribe(watcher, "/queue/others", number="1")
        await watcher.assert_quiet()


def resident_bytes(server: ServerProcess) -> int:
    """Return the resident memory of the program."""
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * 4096


FLOODS = {
    "headers": b"SEND\n" + b"a:b\n" * 100_000,
    "one line": b"SEND\na:" + b"x" * (2 * MEBIBYTE),
    "zeros": b"\0" * (4 * MEBIBYTE),
    "line ends": b"\n" * (4 * MEBIBYTE),
    "a length": b"SEND\ndestination:/queue/a\ncontent-length:4000000000\n\n" + b"x" * MEBIBYTE,
    "no length": b"SEND\ndestination:/queue/a\n\n" + b"x" * (64 * MEBIBYTE),
    "no UTF-8": b"\xff" * (4 * MEBIBYTE),
}


async def test_floods_take_bounded_memory_and_others_are_served(tmp_path: Path) -> None:
    """Each is sent by several at a time, before CONNECT and after; most get an ERROR."""
    port = free_port()
    flags = ("--stomp-port", str(port), "--max-body-bytes", str(2 * MEBIBYTE))
    async with running_server(tmp_path, *flags) as server, stomp_client(port) as patient:

        async def flood(octets: bytes, is_connected: bool) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(OSError):
                if is_connected:
                    writer.write(b"CONNECT\naccept-version:1.2\n\n\0")
                for first in range(0, len(octets), 65536):
                    writer.write(octets[first : first + 65536])
                    await writer.drain()
                writer.write_eof()
                while await reader.read(65536):
                    pass
            writer.close()

        await flood(FLOODS["no length"], is_connected=True)
        before = resident_bytes(server)
        for octets in FLOODS.values():
            await asyncio.gather(*(flood(octets, number % 2 == 0) for number in range(10)))
            await send(patient, "/queue/jobs", b"served")
        assert resident_bytes(server) - before < 64 * MEBIBYTE
        await subscribe(patient, "/queue/jobs", "auto")
        got: list[Frame] = [await patient.message() for _ in FLOODS]
        assert {message.body for message in got} == {b"served"}


async def test_a_slow_writer_is_read_to_the_end(served: tuple[ServerProcess, int]) -> None:
    """Half a frame is waited for, octet by octet, and dropped if the rest never comes."""
    _, port = served
    frame = b"SEND\ndestination:/queue/jobs\nreceipt:r\n\nslow\0"
    async with stomp_client(port) as slow, stomp_client(port) as half:
        await half.write(frame[:-1])
        for octet in frame:
            await slow.write(bytes((octet,)))
            await asyncio.sleep(0)
        await slow.wait_for_receipt("r")
        await half.close()
        await subscribe(slow, "/queue/jobs")
        assert (await slow.message()).body == b"slow"
        await slow.assert_quiet()
