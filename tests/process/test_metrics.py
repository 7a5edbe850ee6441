"""Metrics of a server with several workers: one scrape tells of all, also of those that died."""

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.server_process import ServerProcess, running_server
from tests.support import eventually


class Scraper:
    """Scrapes over a new connection each time, so that any worker may answer."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server

    async def request(self, method: str, path: str, value: str = "") -> int:
        """Send one request over a connection of its own."""
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, self._server.url + path, data={"value": value}) as answer,
        ):
            await answer.read()
            return answer.status

    async def samples(self) -> dict[str, float]:
        """Return the samples without labels, and those of requests to /q that were served."""
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(self._server.url + "/metrics") as answer,
        ):
            assert answer.status == 200
            families = text_string_to_metric_families(await answer.text())
        found = {}
        for sample in (sample for family in families for sample in family.samples):
            if not sample.labels:
                found[sample.name] = sample.value
            elif sample.labels == {"route": "/q", "status": "200"}:
                found["requests"] = sample.value
        return found


async def test_every_worker_tells_of_all_and_nothing_is_forgotten(tmp_path: Path) -> None:
    async with running_server(tmp_path, "--workers", "3") as server:
        scraper = Scraper(server)

        async def has(name: str, value: float) -> bool:
            return (await scraper.samples()).get(name) == value

        await eventually(lambda: has("restmq_workers", 3), 30)
        await asyncio.gather(*(scraper.request("POST", "/q/jobs", "x") for _ in range(60)))
        await eventually(lambda: has("restmq_published_messages_total", 60))
        await eventually(lambda: has("requests", 60))
        for _ in range(10):  # whichever worker answers
            assert await has("restmq_published_messages_total", 60)
            assert await has("restmq_publish_seconds_count", 60)

        workers = server.child_pids("spawn_main")
        assert len(workers) == 3
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        await eventually(lambda: _answers(scraper), 30)
        await eventually(lambda: has("restmq_workers", 3), 60)
        for _ in range(10):
            assert await has("restmq_published_messages_total", 60)
        await asyncio.gather(*(scraper.request("POST", "/q/jobs", "x") for _ in range(30)))
        await eventually(lambda: has("restmq_published_messages_total", 90))
        await eventually(lambda: has("requests", 90))
        assert await has("restmq_queues", 1)


async def _answers(scraper: Scraper) -> bool:
    try:
        return await scraper.request("GET", "/readyz") == 200
    except aiohttp.ClientError:
        return False
