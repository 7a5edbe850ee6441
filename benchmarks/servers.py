"""What every server under test has in common, and the two of this project: RestMQ and the bare one.

A contender is a class; an instance is one run of the server, on a port and in a directory of its
own. The rows speak only the words of :class:`Server` and :class:`HttpServer`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.error import HTTPError

import redis

from benchmarks import raw_http
from benchmarks.harness import (
    Bench,
    BenchmarkError,
    Child,
    Load,
    Request,
    accepts_connections,
    command_name,
    free_port,
    process_tree,
    resident_bytes,
    run_wrk,
    wait_until,
)

VALUE = "0123456789abcdefghij" * 5
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
EVENT_STREAM = {"Accept": "text/event-stream"}


REST_SECONDS = 60


def rewrites_log(client: redis.Redis) -> bool:
    """Whether a background child of Redis is at work, which takes time of the server's core."""
    persistence = client.info("persistence")
    flags = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
    return any(persistence[flag] for flag in flags)


def rewrite_log(client: redis.Redis) -> None:
    """Makes Redis rewrite its log now, and waits, so that it does not while it is measured."""
    if not rewrites_log(client):
        client.bgrewriteaof()
    wait_until(lambda: not rewrites_log(client), REST_SECONDS, "Redis to rewrite its log")


class Server(ABC):
    """One run of a server; as a context manager it is started and ended."""

    name: ClassVar[str]
    most_dequeues_per_second: ClassVar[float] = 50_000
    """A guess on the high side, by which the first round fills its queue."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.directory = directory
        self.port = free_port()
        self.children: list[Child] = []

    @classmethod
    @abstractmethod
    def why_missing(cls) -> str | None:
        """What is not installed, or None when the server can be started."""

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The version of what was measured, for the report."""

    @abstractmethod
    def start(self) -> None:
        """Starts the server on ``self.port`` and returns when it answers."""

    def launch(self, *arguments: str) -> Child:
        """Starts one process of the server on the server's core."""
        log = self.directory / f"{len(self.children)}.log"
        child = Child(arguments, self.bench.server_core, log)
        self.children.append(child)
        return child

    def __enter__(self) -> Self:
        self.directory.mkdir()
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every process of the server, the last started first."""
        while self.children:
            left_behind = self.children.pop().stop()
            if left_behind:
                self.bench.note(f"{self.name} left processes behind: {', '.join(left_behind)}")

    def length(self, queue: str) -> int | None:
        """How many messages wait in the queue; None when the server keeps none."""
        return None

    @abstractmethod
    def fill(self, queue: str, count: int) -> None:
        """Adds messages as fast as the server takes them; they need not be measured."""

    def rest(self) -> None:
        """Has the server do now what a fill would make it do in the background later."""
        return

    @abstractmethod
    def enqueue(self, queue: str, seconds: int) -> Load:
        """Adds messages of 100 bytes one by one over all connections, for a time."""

    @abstractmethod
    def dequeue(self, queue: str, seconds: int) -> Load:
        """Takes messages one by one over all connections, for a time."""


class HttpServer(Server):
    """A server that adds and takes one message for one HTTP request, and may stream."""

    @abstractmethod
    def enqueue_request(self, queue: str, value: str) -> Request:
        """The request that adds a message."""

    def dequeue_request(self, queue: str) -> Request:
        """The request that takes the oldest message."""
        raise NotImplementedError

    def publish_request(self, queue: str) -> Request:
        """The request that reaches the streaming consumers; its body is what precedes the value."""
        return self.enqueue_request(queue, "")

    def subscribe_request(self, queue: str) -> Request:
        """The request that opens a stream of server-sent events."""
        raise NotImplementedError

    def memory_bytes(self) -> int:
        """Resident memory of the process that holds the connections."""
        return resident_bytes(self.children[-1].pid)

    def fill(self, queue: str, count: int) -> None:
        """Adds messages over pipelined connections."""
        request = self.enqueue_request(queue, VALUE)
        raw_http.send_repeatedly(self.port, request, count, self.bench.connections)

    def enqueue(self, queue: str, seconds: int) -> Load:
        """Adds messages with wrk."""
        return run_wrk(self.bench, self.port, self.enqueue_request(queue, VALUE), seconds)

    def dequeue(self, queue: str, seconds: int) -> Load:
        """Takes messages with wrk."""
        return run_wrk(self.bench, self.port, self.dequeue_request(queue), seconds)


class RestMQ(HttpServer):
    """RestMQ as this checkout has it, with its embedded Redis, fsync before every answer."""

    name = "restmq"

    @classmethod
    def why_missing(cls) -> str | None:
        """RestMQ is missing only where its command line is."""
        if importlib.util.find_spec("restmq.cli.main") is None:
            return "restmq.cli.main cannot be imported"
        return None

    @classmethod
    def version(cls) -> str:
        """The version of the package in this checkout."""
        from restmq import __version__

        return __version__

    @property
    def redis_socket(self) -> Path:
        """Where the embedded Redis listens."""
        return self.directory / "data" / "run" / "redis.sock"

    def start(self) -> None:
        """Starts one node, and waits until it answers statistics."""
        command = [sys.executable, "-m", "restmq", "serve", "--listen", "127.0.0.1"]
        command += ["--port", str(self.port), "--data-dir", str(self.directory / "data")]
        self.launch(*command, "--fsync", "always").wait_until(self._answers)

    def _answers(self) -> bool:
        if not accepts_connections(self.port):
            return False
        try:
            raw_http.get_json(self.port, "/stats/")
        except HTTPError as error:
            if error.code == 503:
                return False
            raise BenchmarkError(f"/stats/ answers {error.code}") from error
        return True

    def enqueue_request(self, queue: str, value: str) -> Request:
        """The classic form."""
        return Request("POST", f"/q/{queue}", FORM, f"value={value}")

    def dequeue_request(self, queue: str) -> Request:
        """The classic pop."""
        return Request("GET", f"/q/{queue}")

    def subscribe_request(self, queue: str) -> Request:
        """A stream of server-sent events."""
        return Request("GET", f"/c/{queue}", EVENT_STREAM)

    def rest(self) -> None:
        """Lets the embedded Redis put its log in order."""
        with redis.Redis(unix_socket_path=str(self.redis_socket)) as client:
            rewrite_log(client)

    def length(self, queue: str) -> int | None:
        """The length that the statistics tell."""
        length: int = raw_http.get_json(self.port, f"/stats/{queue}")["len"]
        return length

    def memory_bytes(self) -> int:
        """Resident memory of all Python processes of the server, without its Redis."""
        pids = process_tree(self.children[-1].pid)
        return sum(resident_bytes(pid) for pid in pids if "redis" not in command_name(pid))


class Bare(HttpServer):
    """The aiohttp application that stores nothing."""

    name = "bare"

    @classmethod
    def why_missing(cls) -> str | None:
        """Its libraries are RestMQ's own."""
        return None

    @classmethod
    def version(cls) -> str:
        """The versions of what it is made of."""
        return ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("aiohttp", "uvloop"))

    def start(self) -> None:
        """Starts it with the interpreter of the benchmark, which is RestMQ's as well."""
        child = self.launch(sys.executable, "-m", "benchmarks.bare", str(self.port))
        child.wait_until(lambda: accepts_connections(self.port))

    def enqueue_request(self, queue: str, value: str) -> Request:
        """The same form as RestMQ's."""
        return Request("POST", f"/q/{queue}", FORM, f"value={value}")

    def dequeue_request(self, queue: str) -> Request:
        """The same pop as RestMQ's."""
        return Request("GET", f"/q/{queue}")

    def subscribe_request(self, queue: str) -> Request:
        """A stream on which nothing ever comes."""
        return Request("GET", f"/c/{queue}", EVENT_STREAM)

    def fill(self, queue: str, count: int) -> None:
        """There is nothing to fill."""
