"""Metrics for Prometheus at ``/metrics``: what ``metrics_families.py`` lists.

It is answered from what is known already, in Redis or in memory; while Redis does not answer, it
tells that, and what concerns this server alone.
"""

import asyncio
import os
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import TypeVar

from aiohttp import hdrs, web
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest as encode_text
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics
from prometheus_client.registry import Collector

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.measures import Measures
from restmq.endpoints.metrics_families import (
    WorkerGauges,
    census_metrics,
    node_metrics,
    redis_metrics,
    request_metrics,
    server_metrics,
)
from restmq.endpoints.metrics_requests import RequestCounts
from restmq.endpoints.metrics_sheet import Figures, Row, Sheet
from restmq.endpoints.router import Route
from restmq.endpoints.web import Reply, Request
from restmq.errors import NotFound, RestMQError

WRITE_SECONDS = 1.0
"""How often a worker writes its row."""

PATIENCE_SECONDS = 1.0
"""How long a scrape waits for Redis."""

OPENMETRICS = "application/openmetrics-text"
TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"

_STATM = Path("/proc/self/statm")
_CPU_SECONDS = "cpu_seconds"

Result = TypeVar("Result")


class MetricsEndpoint:
    """The metrics of this server; ``row`` is the place of this process among its workers."""

    def __init__(self, broker: Broker, row: Row | None = None) -> None:
        self._broker = broker
        self._row = row
        self._counts = RequestCounts(())
        self._sheet = self._new_sheet()

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [Route("GET", "metrics", (Section.CONSUMER,), self.get, changes=False)]

    def count_requests_of(self, routes: Iterable[Route]) -> RequestCounts:
        """Return where the requests of these routes are to be counted."""
        self._counts = RequestCounts(route.segment for route in routes)
        self._sheet = self._new_sheet()
        return self._counts

    async def write_rows(self) -> None:
        """Write this worker's row about once a second, for ever, if there are other workers."""
        while self._row is not None:
            self._sheet.write()
            await asyncio.sleep(WRITE_SECONDS)

    def close(self) -> None:
        """Write down what was done, for those that go on."""
        self._sheet.write(is_last=True)

    async def get(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /metrics``: all metrics, as text or as OpenMetrics, whichever is accepted."""
        # Not with a slash either: a proxy that guards the one address would let the other through.
        if rest or request.rel_url.raw_path.endswith("/"):
            raise NotFound("metrics are at /metrics")
        families = await self._families()
        accepted = ", ".join(request.headers.getall(hdrs.ACCEPT, ()))
        collected = _Collected(families)
        if OPENMETRICS in accepted.lower():
            content_type = f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
            body = encode_openmetrics(collected)  # type: ignore[no-untyped-call]
            return Reply(body, content_type=content_type)
        return Reply(encode_text(collected), content_type=TEXT_FORMAT)

    async def _families(self) -> list[Metric]:
        broker = self._broker
        overview, nodes, states = await asyncio.gather(
            _soon(broker.census.overview()),
            _soon(broker.census.nodes()),
            _soon(broker.redis_states.read()),
        )
        self._sheet.write()
        (counters, gauges), workers = self._sheet.total()
        count = len(broker.measures.values())
        families = [
            *server_metrics(
                Measures.from_values(counters[:count]),
                counters[count],
                WorkerGauges(*gauges),
                workers,
            ),
            *request_metrics(self._counts.labelled(counters[count + 1 :])),
        ]
        if overview is not None:
            families += census_metrics(overview, broker.measures.redis_now())
        if nodes is not None:
            families += node_metrics(len(nodes))
        return [*families, *redis_metrics(states)]

    def _new_sheet(self) -> Sheet:
        measures = Measures.value_names()
        names = [*measures, _CPU_SECONDS, *self._counts.names(), *WorkerGauges._fields]
        return Sheet(self._row or Row.alone(), names, self._read)

    def _read(self) -> Figures:
        times = os.times()
        counters = self._broker.measures.values()
        counters += [times.user + times.system, *self._counts.values()]
        return Figures(counters, list(self._gauges()))

    def _gauges(self) -> WorkerGauges:
        consumers, waiting = self._broker.count_readers()
        return WorkerGauges(consumers, waiting, self._broker.pending_operations, _resident_bytes())


class _Collected(Collector):
    """Metrics that are there already, as the library's encoders ask for them."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


async def _soon(asked: Awaitable[Result]) -> Result | None:
    """Return the answer; None if Redis has none, or none in time."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await asked
    except (RestMQError, TimeoutError):
        return None


def _resident_bytes() -> float:
    """Return the resident memory of this process; 0 where the system does not tell it so."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
