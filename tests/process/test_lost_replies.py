"""The connection to Redis breaks after a message was taken and before the server hears of it.

A proxy between the server and its Redis cuts the connection in the place of the one reply that
carries the message, so what a kill meets by chance happens for certain.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.process.clients import Api, listening, open_api
from tests.server_process import running_server
from tests.support import eventually


class CuttingProxy:
    """Passes bytes between a server and its Redis, but for one reply."""

    def __init__(self, redis_path: str) -> None:
        self._redis_path = redis_path
        self.cut_at = b""
        """The connection that is about to carry these bytes to the server is cut, once."""
        self.cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until either side closes it."""
        redis_reader, redis_writer = await asyncio.open_unix_connection(self._redis_path)
        directions = [
            asyncio.create_task(self._pass_on(reader, redis_writer, replies=False)),
            asyncio.create_task(self._pass_on(redis_reader, writer, replies=True)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            writer.close()
            redis_writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 20):
                if replies and self.cut_at and self.cut_at in data:
                    self.cut_at = b""
                    self.cuts += 1
                    return
                writer.write(data)
                await writer.drain()


@contextlib.asynccontextmanager
async def server_behind_proxy(directory: Path) -> AsyncIterator[tuple[Api, CuttingProxy]]:
    """Run a server whose Redis, which belongs to another server, is behind a proxy."""
    async with running_server(directory, "--fsync", "no") as owner:
        proxy = CuttingProxy(str(owner.data_dir / "run" / "redis.sock"))
        socket = directory / "proxy.sock"
        listener = await asyncio.start_unix_server(proxy.serve, socket)
        try:
            async with (
                running_server(
                    directory, "--redis-url", f"unix://{socket}", data_dir="b"
                ) as server,
                open_api(server.url) as api,
            ):
                yield api, proxy
        finally:
            listener.close()
            await listener.wait_closed()


async def pop_when_possible(api: Api, queue: str) -> str:
    """Pop until Redis is in reach and there is a message; returns its value."""

    async def pop() -> str:
        async with api.session.get(f"{api.url}/q/{queue}") as answer:
            if answer.status != 200:
                return ""
            value: str = (await answer.json())["value"]
            return value

    return await eventually(pop)


@pytest.fixture
def short_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose path leaves room for the names of sockets."""
    return tmp_path_factory.mktemp("n")


async def test_a_message_whose_taking_went_unheard_is_back_at_the_head(short_directory, fresh_name):
    async with server_behind_proxy(short_directory) as (api, proxy):
        for value in ("the first", "the second", "the third"):
            await api.add(fresh_name, value)
        for how in ("pop", "take"):
            proxy.cut_at = b"the first"
            if how == "pop":
                refused = api.session.get(f"{api.url}/q/{fresh_name}")
            else:
                body = {"cmd": "take", "queue": fresh_name}
                refused = api.session.post(f"{api.url}/queue", json=body)
            async with refused as answer:
                assert answer.status == 503
            assert proxy.cut_at == b""
            await eventually(lambda: is_ready(api))
            assert await api.length(fresh_name) == 3
        for value in ("the first", "the second", "the third"):
            assert await pop_when_possible(api, fresh_name) == value
        assert await api.pop(fresh_name) is None


@pytest.mark.parametrize("policy", ["broadcast", "roundrobin"])
async def test_a_stream_gets_what_went_unheard_once_and_in_order(
    short_directory, fresh_name, policy
):
    values = [f"value {number}" for number in range(10)]
    async with server_behind_proxy(short_directory) as (api, proxy):
        await api.set_policy(fresh_name, policy)
        async with listening(api.url, fresh_name, "comet") as (listener,):
            for count, value in enumerate(values, start=1):
                await eventually(lambda: is_ready(api))
                # The reply to an add carries no value, so this cuts what fetches it for the stream.
                proxy.cut_at = value.encode()
                await add_for_certain(api, fresh_name, value)
                await eventually(lambda count=count: len(listener.values) >= count)
                assert proxy.cuts == count
            assert listener.values == values
            assert not listener.ended


async def add_for_certain(api: Api, queue: str, value: str) -> None:
    """Publish. It is stored also where the reply went unheard, as part of the same round trip."""
    url = f"{api.url}/q/{queue}"
    async with api.session.post(url, data={"value": value}) as answer:
        assert answer.status in (200, 503)


async def is_ready(api: Api) -> bool:
    """Whether the server reaches its Redis."""
    try:
        async with api.session.get(f"{api.url}/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False
