"""Redis and the server are killed under load, and every message is accounted for.

A publisher posts one value after the other and never the same twice: a value that was not
acknowledged may or may not have been stored, one that was must be there.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis

from tests.process.clients import Api, Message, listening, open_api
from tests.server_process import ServerProcess, running_server
from tests.support import POLL_SECONDS, eventually

PUBLISHERS = 4
ADDS_BETWEEN_KILLS = 25
LONGEST_OUTAGE_SECONDS = 20


class Publisher:
    """Posts values that tell their publisher and their turn; keeps what was acknowledged."""

    def __init__(self, api: Api, queue: str, name: str) -> None:
        self._api = api
        self._queue = queue
        self._name = name
        self.acknowledged: dict[str, str] = {}
        """Key to value, in the order of publication."""
        self.repeated_keys: list[str] = []
        self.failures = 0
        self.stopped = False

    async def run(self) -> None:
        """Publish until told to stop."""
        turn = 0
        while not self.stopped:
            turn += 1
            await self._publish(f"{self._name} {turn}")

    async def _publish(self, value: str) -> None:
        url = f"{self._api.url}/q/{self._queue}"
        try:
            async with self._api.session.post(url, data={"value": value}) as answer:
                key = (await answer.text()).strip()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = 503
        if status == 200:
            if key in self.acknowledged:
                self.repeated_keys.append(key)
            self.acknowledged[key] = value
            return
        assert status == 503
        self.failures += 1
        await asyncio.sleep(POLL_SECONDS)


class Popper:
    """Takes messages one by one; keeps those that came with a 200."""

    def __init__(self, api: Api, queue: str) -> None:
        self._api = api
        self._queue = queue
        self.received: list[Message] = []
        self.stopped = False

    async def run(self) -> None:
        """Take until told to stop."""
        while not self.stopped:
            async with self._api.session.get(f"{self._api.url}/q/{self._queue}") as answer:
                assert answer.status in (200, 204, 503)
                if answer.status == 200:
                    self.received.append(await answer.json())
            if answer.status != 200:
                await asyncio.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def running(workers: Sequence[Publisher | Popper]) -> AsyncIterator[None]:
    """Let them work meanwhile, and finish what they are about at the end."""
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run())
        try:
            yield
        finally:
            for worker in workers:
                worker.stopped = True


@contextlib.asynccontextmanager
async def publishing(api: Api, queue: str) -> AsyncIterator[list[Publisher]]:
    """Let several publishers add to one queue meanwhile."""
    publishers = [Publisher(api, queue, f"publisher-{number}") for number in range(PUBLISHERS)]
    async with running(publishers):
        yield publishers


async def more_acknowledged(publishers: Sequence[Publisher]) -> None:
    """Wait until each publisher has got so many more through."""
    goals = [len(publisher.acknowledged) + ADDS_BETWEEN_KILLS for publisher in publishers]

    def all_have() -> bool:
        return all(
            len(publisher.acknowledged) >= goal
            for publisher, goal in zip(publishers, goals, strict=True)
        )

    await eventually(all_have, LONGEST_OUTAGE_SECONDS)


def acknowledged_by(publishers: Sequence[Publisher]) -> dict[str, str]:
    """Return key to value of all; AssertionError if one key was given twice."""
    assert [publisher.repeated_keys for publisher in publishers] == [[]] * len(publishers)
    together = {key: value for p in publishers for key, value in p.acknowledged.items()}
    assert len(together) == sum(len(publisher.acknowledged) for publisher in publishers)
    return together


def number_of(message: Message) -> int:
    """Return the number in a message's key."""
    return int(message["key"].rpartition(":")[2])


def kill_redis(server: ServerProcess) -> None:
    """SIGKILL the server's private Redis."""
    (pid,) = server.child_pids("redis-server")
    os.kill(pid, signal.SIGKILL)


async def kill_server(server: ServerProcess) -> None:
    """SIGKILL the server, and start it again on the same data and the same port."""
    await server.kill()
    await server.start()


async def check_settings(api: Api, queue: str) -> None:
    """The policy and the status that were set before the first kill stand."""
    assert (await api.get_json(f"/p/{queue}"))["value"] == "roundrobin"
    assert (await api.get_json(f"/control/{queue}"))["status"]["status"] == 0


class TestWhatWasAcknowledged:
    async def test_is_in_the_queue_in_order_and_once_whoever_is_killed(self, tmp_path, fresh_name):
        settings = f"settings-{fresh_name}"
        async with running_server(tmp_path) as server, open_api(server.url) as api:
            await api.set_policy(settings, "roundrobin")
            await api.set_status(settings, "stop")
            async with publishing(api, fresh_name) as publishers:
                await more_acknowledged(publishers)
                kill_redis(server)
                await more_acknowledged(publishers)
                await kill_server(server)
                await check_settings(api, settings)
                await more_acknowledged(publishers)
                kill_redis(server)
                await kill_server(server)
                await more_acknowledged(publishers)
                kill_redis(server)
                await more_acknowledged(publishers)
                await check_settings(api, settings)
            acknowledged = acknowledged_by(publishers)
            assert sum(publisher.failures for publisher in publishers) > 0
            last_key = await api.add(fresh_name, "the last")
            self.check(await api.drain(fresh_name), {**acknowledged, last_key: "the last"})

    def check(self, drained: list[Message], acknowledged: dict[str, str]) -> None:
        """Every acknowledged message is there under its key; all are in order, none is twice."""
        stored = {message["key"]: message["value"] for message in drained}
        assert {key: stored.get(key) for key in acknowledged} == acknowledged
        assert len(set(stored.values())) == len(drained)
        numbers = [number_of(message) for message in drained]
        assert numbers == sorted(set(numbers))
        turns: dict[str, list[int]] = {}
        for message in drained[:-1]:
            publisher, _, turn = message["value"].partition(" ")
            turns.setdefault(publisher, []).append(int(turn))
        assert len(turns) == PUBLISHERS
        assert all(each == sorted(each) for each in turns.values())
        assert drained[-1]["value"] == "the last"

    @pytest.mark.parametrize("kills", [4])
    async def test_is_popped_once_or_still_queued_when_redis_is_killed(
        self, tmp_path, fresh_name, kills
    ):
        async with running_server(tmp_path) as server, open_api(server.url) as api:
            poppers = [Popper(api, fresh_name) for _ in range(PUBLISHERS)]
            async with running(poppers), publishing(api, fresh_name) as publishers:
                await more_acknowledged(publishers)
                for _ in range(kills):
                    kill_redis(server)
                    await more_acknowledged(publishers)
            received = [message for popper in poppers for message in popper.received]
            assert received
            found = received + await api.drain(fresh_name)
        acknowledged = acknowledged_by(publishers)
        by_key = {message["key"]: message["value"] for message in found}
        assert {key: by_key.get(key) for key in acknowledged} == acknowledged
        assert len(by_key) == len(found)
        assert len(set(by_key.values())) == len(found)


@contextlib.contextmanager
def redis_kept_away(server: ServerProcess) -> contextlib.AbstractContextManager[None]:
    """Kill Redis, and let it not come back before the end."""
    sockets = Path(server.data_dir, "run")
    aside = Path(server.data_dir, "aside")
    sockets.rename(aside)
    try:
        kill_redis(server)
        yield
    finally:
        aside.rename(sockets)


class TestWithoutRedis:
    async def test_requests_get_503_meanwhile_and_streams_stay_open(self, tmp_path, fresh_name):
        async with (
            running_server(tmp_path, "--fsync", "everysec") as server,
            open_api(server.url) as api,
            listening(server.url, fresh_name, "comet", "sse", "websocket") as listeners,
        ):
            await api.add(fresh_name, "before")
            await eventually(lambda: all(one.values == ["before"] for one in listeners))
            with redis_kept_away(server):
                await self.check_refusals(api, fresh_name)
            await eventually(lambda: self.adds(api, fresh_name), LONGEST_OUTAGE_SECONDS)
            await eventually(lambda: all(one.values[-1] == "after" for one in listeners))
            assert not any(one.ended for one in listeners)

    async def test_streams_flow_on_when_redis_has_lost_what_they_have_read(
        self, tmp_path_factory, fresh_name
    ):
        """A replica that lags behind may take over, or the last second be missing on the disk."""
        # Not tmp_path, whose name may be too long for a socket in it.
        async with (
            running_server(tmp_path_factory.mktemp("n"), "--fsync", "no") as server,
            open_api(server.url) as api,
            listening(server.url, fresh_name, "comet", "sse", "websocket") as listeners,
        ):
            for number in range(5):
                await api.add(fresh_name, f"before {number}")
            await eventually(lambda: all(len(one.values) == 5 for one in listeners))
            socket = server.data_dir / "run" / "redis.sock"
            async with contextlib.aclosing(Redis(unix_socket_path=str(socket))) as redis:
                await redis.flushall()
            await api.add(fresh_name, "after")
            await eventually(lambda: all(one.values[5:] == ["after"] for one in listeners))

    async def check_refusals(self, api: Api, queue: str) -> None:
        """Every kind of request is refused, and told when to ask again."""
        for method, path in (
            ("POST", f"/q/{queue}"),
            ("GET", f"/q/{queue}"),
            ("DELETE", f"/q/{queue}"),
            ("GET", f"/c/{queue}"),
            ("GET", f"/stats/{queue}"),
            ("GET", "/readyz"),
        ):
            data = {"value": "meanwhile"} if method == "POST" else None
            async with api.session.request(method, api.url + path, data=data) as answer:
                assert answer.status == 503, (method, path)
                assert int(answer.headers["Retry-After"]) >= 1
        async with api.session.get(f"{api.url}/healthz") as answer:
            assert answer.status == 200

    async def adds(self, api: Api, queue: str) -> bool:
        """Try to publish; whether it was acknowledged."""
        async with api.session.post(f"{api.url}/q/{queue}", data={"value": "after"}) as answer:
            assert answer.status in (200, 503)
            return answer.status == 200
