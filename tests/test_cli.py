"""The command line against a small server that speaks the part of the contract it uses."""

import base64
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote_to_bytes, urlsplit

import pytest
from click.testing import CliRunner, Result

from restmq.cli import cli
from restmq.http_client import HttpClient, MessageStream, one_line, parse_address, queue_path

DEADLINE_SECONDS = 20
COMMANDS = ["serve", "add", "take", "peek", "listen", "len", "stats", "queues", "policy"]
COMMANDS += ["start", "stop", "purge"]


@dataclass
class FakeServer:
    """Queues in memory, and what was asked of them."""

    url: str = ""
    queues: dict[str, list[bytes]] = field(default_factory=dict)
    added_count: int = 0
    policies: dict[str, str] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    asked: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)
    connections_count: int = 0
    credentials: str | None = None
    refuse: Callable[[bytes], tuple[int, str, bytes] | None] = lambda _: None
    # What each stream sends, the next connection the next one, and whether it ends in order.
    streams: list[tuple[bytes, bool]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """Answers like a RestMQ server."""

    protocol_version = "HTTP/1.1"
    fake: FakeServer

    def setup(self) -> None:
        super().setup()
        with self.fake.lock:
            self.fake.connections_count += 1

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_DELETE = do_GET

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        route, _, rest = url.path.removeprefix("/").partition("/")
        queue = unquote_to_bytes(rest).decode("utf-8", "surrogateescape")
        with self.fake.lock:
            self.fake.asked.append((self.command, self.path, dict(self.headers), body))
            answer = self._refusal(body) or self._answer(route, queue, query, body)
        if answer is not None:
            self._send(*answer)

    def _refusal(self, body: bytes) -> tuple[int, str, bytes] | None:
        if self.fake.credentials is not None:
            token = base64.b64encode(self.fake.credentials.encode()).decode()
            if self.headers.get("Authorization") != f"Basic {token}":
                return 401, "text/html", b"<html>who are you?</html>"
        return self.fake.refuse(body)

    def _answer(
        self, route: str, queue: str, query: Mapping[str, str], body: bytes
    ) -> tuple[int, str, bytes] | None:
        fake = self.fake
        if route == "c":
            return self._stream()
        if route == "stats":
            return self._stats(queue, query)
        if route == "control":
            status = parse_qs(body.decode())["status"][0]
            (fake.stopped.add if status == "stop" else fake.stopped.discard)(queue)
            return _json({"stat": {"queue": queue, "status": int(status == "start")}})
        if route == "p":
            if self.command == "POST":
                fake.policies[queue] = parse_qs(body.decode())["policy"][0]
                return 200, "text/plain", b"OK\r\n"
            return _json({"queue": queue, "value": fake.policies.get(queue, "broadcast")})
        if self.command == "POST":
            fake.added_count += 1
            fake.queues.setdefault(queue, []).append(body)
            return 200, "text/plain", f"{queue}:{len(fake.queues[queue])}\r\n".encode()
        waiting = fake.queues.get(queue, [])
        if self.command == "DELETE":
            fake.queues[queue] = []
            return _json({"queue": queue, "status": int(bool(waiting))})
        if not waiting:
            return 204, "", b""
        if "peek" in query:
            listed = waiting[: int(query["peek"])]
            return _json([_message(queue, n, value) for n, value in enumerate(listed, 1)])
        return _json({**_message(queue, 1, waiting.pop(0)), "count": 0})

    def _stats(self, queue: str, query: Mapping[str, str]) -> tuple[int, str, bytes]:
        def entry(name: str) -> dict[str, object]:
            policy = {"broadcast": 1, "roundrobin": 2}.get(self.fake.policies.get(name, ""), "")
            started = int(name not in self.fake.stopped)
            return {"len": len(self.fake.queues.get(name, ())), "status": started, "policy": policy}

        if queue:
            return _json({"redis": "a fake", "queue": queue, **entry(queue)})
        names = sorted(name for name in self.fake.queues if name > query.get("after", ""))
        page = names[: int(query["limit"])]
        queues = {name: {"name": name, **entry(name)} for name in page}
        return _json({"queues": queues, "count": len(page), "redis": "a fake"})

    def _stream(self) -> None:
        data, in_order = self.fake.streams.pop(0)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data) if data else b"")
        self.wfile.write(b"0\r\n\r\n" if in_order else b"")
        self.close_connection = True

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _json(document: object) -> tuple[int, str, bytes]:
    return 200, "application/json", json.dumps(document).encode() + b"\r\n"


def _message(queue: str, number: int, value: bytes) -> dict[str, object]:
    message: dict[str, object] = {"key": f"{queue}:{number}"}
    try:
        return {**message, "value": value.decode()}
    except UnicodeDecodeError:
        return {**message, "value": base64.b64encode(value).decode(), "encoding": "base64"}
