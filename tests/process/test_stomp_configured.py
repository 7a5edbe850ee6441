"""What the configuration file says of STOMP and of queues, against the real program."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.endpoints.stomp_client import send, stomp_client, subscribe
from tests.server_process import ServerProcess, running_server
from tests.support import free_port

CONFIGURATION = """
[stomp]
port = {port}
create = false
prefetch = 3

[queues."orders"]
copies_to = ["billing", "shipping"]

[queues."billing"]
max_attempts = 2

[queues."shipping"]

[queues."fast.*"]
storage = "memory"
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[ServerProcess, int]]:
    """The program with this configuration, and its STOMP port."""
    port = free_port()
    (tmp_path / "restmq.toml").write_text(CONFIGURATION.format(port=port))
    async with running_server(tmp_path) as process:
        yield process, port


async def get(server: ServerProcess, path: str) -> dict[str, Any]:
    """Return what REST says."""
    async with aiohttp.ClientSession() as session, session.get(server.url + path) as answer:
        found: dict[str, Any] = json.loads(await answer.read())
        return found


async def test_a_queue_is_copied_to_others(server: tuple[ServerProcess, int]) -> None:
    """Each has its own consumer and acknowledgement; user headers come along."""
    process, port = server
    async with stomp_client(port) as client, stomp_client(port) as other:
        await send(client, "/queue/orders", b"1", b"2", x_k="v")
        await subscribe(client, "/queue/billing")
        await subscribe(other, "/queue/shipping")
        for each in (client, other):
            for body in (b"1", b"2"):
                message = await each.message()
                assert (message.body, message.headers["x-k"]) == (body, "v")
                assert message.headers["destination"] != "/queue/orders"
                await each.ack(message)
        assert (await get(process, "/stats/orders"))["ready"] == 2
        assert (await get(process, "/stats/billing"))["ready"] == 0


async def test_a_queue_in_memory_delivers_and_is_empty_after_a_restart(
    server: tuple[ServerProcess, int],
) -> None:
    process, port = server
    async with stomp_client(port) as client:
        await send(client, "/queue/fast.1", b"1", b"2", b"3")
        await send(client, "/queue/orders", b"kept")
        await subscribe(client, "/queue/fast.>")
        for body in (b"1", b"2"):
            message = await client.message()
            assert (message.body, message.headers["destination"]) == (body, "/queue/fast.1")
        await client.ack(message)
        await client.nack(await client.message())
        assert (await client.message()).body == b"3"
        assert (await get(process, "/settings/fast.1"))["storage"] == "memory"
    assert await process.stop() == 0
    await process.start()
    async with stomp_client(port) as client:
        await subscribe(client, "/queue/fast.1")
        await send(client, "/queue/fast.1", b"new")
        assert (await client.message()).body == b"new"
        assert (await get(process, "/stats/orders"))["ready"] == 1


async def test_what_is_not_configured_is_refused_until_somebody_makes_it(
    server: tuple[ServerProcess, int],
) -> None:
    process, port = server
    for command in ("SEND", "SUBSCRIBE"):
        async with stomp_client(port) as client:
            await client.send_frame(command, id="0", destination="/queue/other", receipt="r")
            error = await client.error()
            assert "other" in error.headers["message"]
            assert error.headers["receipt-id"] == "r"
    async with (
        aiohttp.ClientSession() as session,
        session.post(process.url + "/q/other", data={"value": "x"}) as answer,
    ):
        assert answer.status == 200
    async with stomp_client(port) as client:
        await subscribe(client, "/queue/other")
        assert (await client.message()).body == b"x"
        await send(client, "/topic/any", b"topics need no configuration")


async def test_the_default_prefetch(server: tuple[ServerProcess, int]) -> None:
    """It is that of the settings; a queue's own number of attempts counts."""
    process, port = server
    async with stomp_client(port) as client:
        await send(client, "/queue/billing", *(b"%d" % number for number in range(5)))
        await subscribe(client, "/queue/billing")
        held = [await client.message() for _ in range(3)]
        await client.assert_quiet()
        await client.nack(held[0])
        again = await client.message()
        assert (again.body, again.headers["delivery-attempt"]) == (b"0", "2")
        await client.nack(again)
        assert (await client.message()).body == b"3"
        assert (await get(process, "/stats/billing"))["dead"] == 1
