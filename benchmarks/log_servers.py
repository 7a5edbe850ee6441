"""What the rows of logs share: RestMQ with tokens and keys, checks, and what stands beside it."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import redis

from benchmarks.harness import (
    HOST,
    Bench,
    BenchmarkError,
    Child,
    Load,
    Request,
    accepts_connections,
    find_wrk,
    free_port,
    wait_until,
)
from benchmarks.rows import WARMUP_SECONDS, Enqueue, Metric, Row
from benchmarks.servers import Bare, RestMQ, rewrites_log

TOKEN = "benchmark"
APPLICATION = "benchmark"
KEY = "benchmark"

LONGEST_REWRITE_SECONDS = 600
"""How long Redis may take to put the log of a million queues in order."""

SETTINGS = f"""
[rse]
tokens = ["{TOKEN}"]
event_ttl = 600
[queuey.application_keys]
{APPLICATION} = "{KEY}"
"""


class LogRestMQ(RestMQ):
    """RestMQ as the other rows have it, with a token for RSE and a key for Queuey."""

    def start(self) -> None:
        """Writes the settings where the server looks for them."""
        (self.directory / "restmq.toml").write_text(SETTINGS)
        super().start()

    def redis_memory_bytes(self) -> int:
        """The memory that Redis uses when it has put its log in order."""
        with redis.Redis(unix_socket_path=str(self.redis_socket)) as client:
            wait_until(
                lambda: not rewrites_log(client), LONGEST_REWRITE_SECONDS, "Redis to end a rewrite"
            )
            self.rest()
            return int(client.info("memory")["used_memory"])

    def get_json(self, request: Request) -> Any:
        """The JSON that a GET answers."""
        url = f"http://{HOST}:{self.port}{request.path}"
        asked = urllib.request.Request(url, headers=dict(request.headers))
        with urllib.request.urlopen(asked, timeout=60) as response:
            return json.load(response)


@contextmanager
def second_node(bench: Bench, server: LogRestMQ) -> Iterator[int]:
    """A second node over the server's Redis, on the load generator's core; gives its port.

    It halves the time in which very much is made, and is gone before anything is measured.
    """
    directory, port = server.directory / "second", free_port()
    directory.mkdir()
    (directory / "restmq.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "restmq", "serve", "--listen", HOST, "--port", str(port)]
    command += ["--redis-url", f"unix://{server.redis_socket}"]
    child = Child(command, bench.client_core, directory / "log")
    try:
        child.wait_until(lambda: accepts_connections(port))
        yield port
    finally:
        child.stop()


def check_stored(bench: Bench, load: Load, stored: int, each: int = 1) -> None:
    """Raises BenchmarkError unless as much was stored as was answered.

    The last request of each connection may have been carried out without being answered.
    """
    if not 0 <= stored - load.requests * each <= bench.connections * each:
        raise BenchmarkError(f"{load.requests} requests were answered, {stored} messages stored")


def bare_load(bench: Bench, server: Bare, *, posts: bool) -> dict[str, float]:
    """What the framework alone does with a request of that kind."""
    run = server.enqueue if posts else server.dequeue
    run("queue", WARMUP_SECONDS)
    return asdict(run("queue", bench.seconds))


class WrkRow(Row):
    """A row whose load comes from wrk."""

    def check(self, bench: Bench) -> None:
        """Needs wrk."""
        find_wrk()


def rate_metrics(title: str, at_least: float | None = None) -> tuple[Metric, ...]:
    rate = Metric("requests_per_second", title, "/s", reference="bare", at_least=at_least)
    return (rate, *Enqueue.metrics[1:])
