"""The command line against a small server that speaks the part of the contract it uses."""

import base64
import json
import os
import pty
import re
import select
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

from restmq.cli.main import cli
from restmq.errors import RateLimited, SettingsError, StartupError
from restmq.http_client import HttpClient, one_line, parse_address, queue_path
from restmq.http_stream import MessageStream
from restmq.settings import Settings, knobs

DEADLINE_SECONDS = 20
COMMANDS = ["serve", "add", "take", "peek", "listen", "len", "stats", "queues", "policy"]
COMMANDS += [
    "start",
    "stop",
    "purge",
    "lease",
    "ack",
    "nack",
    "extend",
    "dead",
    "redrive",
    "settings",
]


@dataclass
class FakeServer:
    """Queues in memory, and what was asked of them."""

    url: str = ""
    queues: dict[str, list[bytes]] = field(default_factory=dict)
    added_count: int = 0
    policies: dict[str, str] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    asked: list[tuple[str, str, Mapping[str, str], bytes]] = field(default_factory=list)
    connections_count: int = 0
    credentials: str | None = None
    refuse: Callable[[bytes], tuple[int, str, bytes] | None] = lambda _: None
    retry_after: str | None = None
    # What each stream sends, the next connection the next one, and whether it ends in order.
    streams: list[tuple[bytes, bool]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    """Answers like a RestMQ server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeServer

    def setup(self) -> None:
        super().setup()
        with self.fake.lock:
            self.fake.connections_count += 1

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

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
            self._stream()
            return None
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
        fake = self.fake

        def entry(name: str) -> dict[str, object]:
            policy = {"broadcast": 1, "roundrobin": 2}.get(self.fake.policies.get(name, ""), "")
            started = int(name not in self.fake.stopped)
            return {"len": len(self.fake.queues.get(name, ())), "status": started, "policy": policy}

        if queue:
            return _json({"redis": "a fake", "queue": queue, **entry(queue)})
        names = sorted(name for name in self.fake.queues if name > query.get("after", ""))
        page = names[: int(query["limit"])]
        queues = {name: {"name": name, **entry(name), **fake.counts.get(name, {})} for name in page}
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
        if self.fake.retry_after is not None:
            self.send_header("Retry-After", self.fake.retry_after)
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


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """Serve an empty fake until the test ends."""
    fake = FakeServer()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"fake": fake})) as http:
        fake.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield fake
        http.shutdown()
        thread.join()


def run(server: FakeServer | None, *arguments: str, given: bytes = b"") -> Result:
    """Run ``restmq`` in this process, against the fake unless the arguments name another."""
    environ = {"RESTMQ_URL": server.url if server else None, "RESTMQ_USER": None}
    return CliRunner().invoke(cli, list(arguments), input=given, env=environ)


def start(
    server: FakeServer, *arguments: str, stdin: int = subprocess.PIPE, stdout: int = subprocess.PIPE
) -> "subprocess.Popen[bytes]":
    """Start ``python -m restmq`` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "restmq", *arguments],
        env={**os.environ, "RESTMQ_URL": server.url, "PYTHONWARNINGS": "error"},
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def unused_url() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def assert_fails(result: Result, exit_code: int, *words: str) -> None:
    assert (result.exit_code, result.stdout) == (exit_code, ""), result.output
    assert result.stderr.startswith("restmq: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


# Help, and the server


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_and_the_exit_codes(command: str) -> None:
    text = run(None, command, "--help").stdout
    assert re.search(rf"Examples:\n +restmq {command}\b", text)
    assert "Exit codes: 0" in text
    assert "Print" in text or command == "serve"


def test_an_example_that_is_a_whole_line_stands_as_it_is() -> None:
    assert '\n    test "$(restmq len jobs)"' in run(None, "len", "--help").stdout
    assert "\n    RESTMQ_APPLICATION_KEY=K restmq apps" in run(None, "apps", "--help").stdout


def test_the_help_lists_every_command() -> None:
    text = run(None, "--help").stdout
    assert all(re.search(rf"^  {command} +[A-Z]", text, re.MULTILINE) for command in COMMANDS)


def test_serve_runs_the_server_with_the_flags_and_exits_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Settings] = []

    def remember(settings: Settings) -> int:
        given.append(settings)
        return 7

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("restmq.server.run", remember)
    result = run(None, "serve", "--port", "0", "--fsync", "everysec", "--redis-pool", "3")
    assert result.exit_code == 7
    assert (given[0].port, given[0].fsync, given[0].redis_pool) == (0, "everysec", 3)


def test_serve_offers_every_setting_with_its_default() -> None:
    text = " ".join(run(None, "serve", "--help").stdout.split())
    for knob in knobs():
        assert knob.flag in text
        assert knob.format(knob.default) in text
    assert "--config" in text


def test_a_wrong_setting_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_fails(run(None, "serve", "--port", "http"), 2, "--port", "http")
    assert_fails(run(None, "serve", "--config", "no.toml"), 2, "no.toml")


@pytest.mark.parametrize(("kind", "exit_code"), [(StartupError, 1), (SettingsError, 2)])
def test_a_server_that_cannot_start_is_one_line_and_tells_if_that_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[StartupError], exit_code: int
) -> None:
    def refuse(_: Settings) -> int:
        raise kind("the port\nis taken")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("restmq.server.run", refuse)
    assert_fails(run(None, "serve"), exit_code, "the port is taken")


# Reaching a server


def test_a_server_out_of_reach_is_one_line_with_its_url() -> None:
    url = unused_url()
    for command in ("take", "listen", "len"):
        assert_fails(run(None, command, "q", "--url", url), 1, "cannot reach", url)


@pytest.mark.parametrize(
    "url", ["", "localhost", "ftp://host", "http://", "http://h:99999", "http://a b", "http://h/?q"]
)
def test_a_bad_url_is_a_usage_error(url: str) -> None:
    result = run(None, "len", "q", "--url", url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--url" in result.stderr


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((400, "application/json", b'{"error": "x", "message": "say\\nit"}'), "say it (400"),
        ((409, "application/json", b'{"error": "stale"}'), "stale (409"),
        ((503, "text/plain", b"Redis is \x1b[31m away\r\n"), "Redis is ?[31m away (503"),
        ((500, "text/html", b"<h1>Oh</h1>"), "(500 Internal Server Error)"),
        ((302, "text/plain", b""), "(302 Found)"),
        ((200, "text/html", b"<h1>Router</h1>"), "not JSON"),
        ((200, "application/json", b"[]"), "not what was asked for"),
    ],
)
def test_a_refusal_is_one_line_with_the_servers_words(
    server: FakeServer, answer: tuple[int, str, bytes], told: str
) -> None:
    server.refuse = lambda _: answer
    assert_fails(run(server, "len", "q"), 1, told)


def test_credentials_come_from_the_option_or_the_url(server: FakeServer) -> None:
    server.credentials = "zoë:a:b"
    assert run(server, "len", "q", "--user", "zoë:a:b").stdout == "0\n"
    assert run(server, "len", "q", "--url", server.url.replace("//", "//zo%C3%AB:a%3Ab@")).stdout
    assert_fails(run(server, "len", "q"), 1, "401")
    assert run(server, "len", "q", "--user", "zoë").exit_code == 2


def test_a_connection_that_idled_out_is_replaced_before_anything_is_sent() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = parse_address(f"http://127.0.0.1:{listener.getsockname()[1]}")

        def answer_once_each() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer_once_each)
        thread.start()
        with HttpClient(address) as client:
            assert client.request("GET", "/").body == b"{}"
            assert client._connection is not None
            select.select([client._connection.sock], [], [], DEADLINE_SECONDS)
            assert client.request("GET", "/").body == b"{}"
        thread.join()


def test_a_connection_lost_before_the_answer_is_told_and_nothing_is_sent_again() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        received: list[bytes] = []

        def hang_up() -> None:
            connection, _ = listener.accept()
            with connection:
                received.append(connection.recv(65536))

        thread = threading.Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert_fails(run(None, "add", "q", "v", "--url", url), 1, url, "unknown", "before: 0")
        thread.join()
        assert len(received) == 1


# Messages in and out


@pytest.mark.parametrize(
    "name", ["two words", "a/b", "//", "zoë/π", "100%", "%2F", "a?b=c#d", "a+b&c", "..", "x\ny\x7f"]
)
def test_any_queue_name_arrives_as_it_is(server: FakeServer, name: str) -> None:
    assert run(server, "add", name, "v").exit_code == 0
    assert list(server.queues) == [name]
    assert run(server, "len", name).stdout == "1\n"
    assert run(server, "take", name).stdout == "v\n"


def test_an_empty_queue_name_is_a_usage_error(server: FakeServer) -> None:
    assert run(server, "purge", "").exit_code == 2
    assert server.asked == []


def test_values_of_any_bytes_come_back_as_they_were(server: FakeServer) -> None:
    value = bytes(range(256)) + b"\r\n\n"
    assert run(server, "add", "q", "--whole", given=value).exit_code == 0
    assert server.queues == {"q": [value]}
    assert run(server, "peek", "q").stdout_bytes == value + b"\n"
    assert run(server, "take", "q", "-0").stdout_bytes == value + b"\0"


def test_lines_are_stored_in_order_over_one_connection(server: FakeServer) -> None:
    lines = [b"line %d \xff\r" % n for n in range(300)]
    result = run(
        server, "add", "q", given=b"\n".join(lines[:150]) + b"\n\n" + b"\n".join(lines[150:])
    )
    assert (result.exit_code, result.stdout) == (0, "")
    assert server.queues["q"] == lines
    assert server.connections_count == 1


def test_unordered_lines_are_all_stored_over_several_connections(server: FakeServer) -> None:
    lines = [b"%d" % n for n in range(300)]
    result = run(server, "add", "q", "--unordered", "--connections", "4", given=b"\n".join(lines))
    assert result.exit_code == 0
    assert sorted(server.queues["q"]) == sorted(lines)
    assert 1 < server.connections_count <= 4


@pytest.mark.parametrize("flags", [(), ("--unordered", "--connections", "1")])
def test_add_stops_at_the_first_refusal_and_counts(
    server: FakeServer, flags: tuple[str, ...]
) -> None:
    server.refuse = lambda body: (413, "text/plain", b"too large") if body == b"3" else None
    result = run(server, "add", "q", *flags, given=b"1\n2\n3\n4\n")
    assert_fails(result, 1, "too large", "stored before: 2")
    assert server.queues["q"] == [b"1", b"2"]


def test_add_prints_keys_of_values_or_when_asked(server: FakeServer) -> None:
    assert run(server, "add", "q", "a", "b").stdout == "q:1\nq:2\n"
    assert run(server, "add", "q", given=b"c").stdout == ""
    assert run(server, "add", "q", "--keys", given=b"d\n").stdout == "q:4\n"
    assert run(server, "add", "q", "--", "-5").stdout == "q:5\n"


def test_add_sends_the_time_to_live_and_a_raw_body(server: FakeServer) -> None:
    run(server, "add", "q", "--ttl", "60", "value=x&y")
    method, path, headers, body = server.asked[0]
    assert (method, path, body) == ("POST", "/q/q?ttl=60", b"value=x&y")
    assert headers["Content-Type"] == "application/octet-stream"
    assert run(server, "add", "q", "--ttl", "0", "v").exit_code == 2


def test_an_empty_message_is_refused_before_anything_is_stored(server: FakeServer) -> None:
    assert run(server, "add", "q", "a", "").exit_code == 2
    assert_fails(run(server, "add", "q", "--whole"), 1, "empty")
    assert server.asked == []


def test_take_from_an_empty_queue_prints_nothing_and_exits_with_3(server: FakeServer) -> None:
    for command in ("take", "peek"):
        result = run(server, command, "q")
        assert (result.exit_code, result.output) == (3, "")


def test_take_takes_as_many_as_asked(server: FakeServer) -> None:
    server.queues["q"] = [b"a", b"b", b"c", b"d", b"e"]
    assert run(server, "take", "q").stdout == "a\n"
    assert run(server, "take", "q", "-n", "2", "--with-key").stdout == "q:1\tb\nq:1\tc\n"
    assert len(server.queues["q"]) == 2
    assert run(server, "take", "q", "--all").stdout == "d\ne\n"
    assert run(server, "take", "q", "--all", "-n", "1").exit_code == 2


def test_messages_as_json_keep_all_fields(server: FakeServer) -> None:
    server.queues["q"] = ["π\n".encode(), b"\xff"]
    assert run(server, "peek", "q", "--json").stdout == '{"key":"q:1","value":"π\\n"}\n'
    first, second = map(json.loads, run(server, "take", "q", "--all", "--json").stdout.splitlines())
    assert first == {"key": "q:1", "value": "π\n", "count": 0}
    assert second == {"key": "q:1", "value": "/w==", "encoding": "base64", "count": 0}


def test_peek_leaves_messages_where_they_are(server: FakeServer) -> None:
    server.queues["q"] = [b"a", b"b", b"c"]
    assert run(server, "peek", "q", "-n", "2").stdout == "a\nb\n"
    assert len(server.queues["q"]) == 3


def test_take_names_the_message_that_it_could_not_print(server: FakeServer) -> None:
    server.queues["q"] = [b"a", b"b"]
    reader, writer = os.pipe()
    os.close(reader)
    process = start(server, "take", "q", "--all", stdout=writer)
    os.close(writer)
    _, told = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 1
    assert re.fullmatch(rb"restmq: .*q:1 was taken and not printed\n", told)
    assert server.queues["q"] == [b"b"]


# Listening


def stream_of(*messages: tuple[int, str]) -> bytes:
    """Server-sent events with these numbers and values."""
    text = "retry: 100\n\nevent: open\ndata: 0\n\n"
    for number, value in messages:
        data = json.dumps({"key": f"q:{number}", "value": value})
        text += f"id: {number}\ndata: {data}\n\n: ping\n\n"
    return text.encode()


def test_listen_prints_until_the_server_ends_the_stream(server: FakeServer) -> None:
    server.streams = [(stream_of((1, "a"), (2, "π")), True)]
    result = run(server, "listen", "q")
    assert (result.exit_code, result.stdout) == (0, "a\nπ\n")
    assert "the server ended the stream" in result.stderr
    assert server.asked[0][2]["Accept"] == "text/event-stream"


def test_listen_reads_comet_lines(server: FakeServer) -> None:
    lines = b'{"key":"q:1","value":"a"}\r\n{"key":"q:2","value":"/w==","encoding":"base64"}\r\n'
    server.streams = [(lines, True)]
    assert run(server, "listen", "q", "--format", "comet").stdout_bytes == b"a\n\xff\n"


def test_listen_leaves_after_the_count(server: FakeServer) -> None:
    server.streams = [(stream_of((1, "a"), (2, "b")), False)]
    result = run(server, "listen", "q", "-n", "1", "--json")
    assert (result.exit_code, result.output) == (0, '{"key":"q:1","value":"a"}\n')


@pytest.mark.parametrize("stream_format", ["sse", "comet"])
def test_a_broken_stream_is_taken_up_where_it_broke(server: FakeServer, stream_format: str) -> None:
    comet = b'{"key":"q:7","value":"a"}\r\n'
    first = comet if stream_format == "comet" else stream_of((7, "a"))
    gap = b'event: gap\ndata: {"from":8,"to":9}\n\n'
    if stream_format == "comet":
        gap = b'{"event":"gap","from":8,"to":9}\r\n'
    server.streams = [(first, False), (b"", False), (b"", False), (gap, True)]
    told: list[str] = []
    pauses: list[float] = []
    with HttpClient(parse_address(server.url)) as client:
        stream = MessageStream(client, "q", stream_format, False, told.append, pauses.append)
        assert [message["value"] for message in stream.messages()] == ["a"]
    asked_for = [headers.get("Last-Event-ID") for _, _, headers, _ in server.asked]
    assert asked_for == [None, "7", "7", "7"]
    shortest = 0.1 if stream_format == "sse" else 0.25
    assert pauses == pytest.approx([shortest, 2 * shortest, 4 * shortest])
    assert "lost the stream" in told[0]
    assert told[-2] == "messages 8 to 9 came meanwhile and are no longer kept"


def test_listen_following_waits_for_the_server_and_outlives_a_purge(server: FakeServer) -> None:
    server.streams = [(stream_of((1, "a")), True), (stream_of((2, "b")), True)]
    refusals = iter([(503, "text/plain", b"starting")])
    server.refuse = lambda _: next(refusals, None)
    result = run(server, "listen", "q", "--follow", "-n", "2")
    assert (result.exit_code, result.stdout) == (0, "a\nb\n")
    assert "starting (503" in result.stderr


@pytest.mark.parametrize("body", [b'{"error":"rate-limited","message":"slowly"}', b"of a proxy"])
def test_listen_waits_for_as_long_as_it_is_told_to(server: FakeServer, body: bytes) -> None:
    """Who asks too often is not sent away, in the middle of a stream or at its beginning."""
    kind = "application/json" if body.startswith(b"{") else "text/html"
    server.streams = [(stream_of((1, "a")), False), (stream_of((2, "b")), True)]
    answers = iter([(429, kind, body), None, (429, kind, body)])
    server.refuse = lambda _: next(answers, None)
    server.retry_after = "7"
    pauses: list[float] = []
    with HttpClient(parse_address(server.url)) as client:
        stream = MessageStream(client, "q", "sse", True, lambda _: None, pauses.append)
        messages = stream.messages()
        assert [next(messages)["value"], next(messages)["value"]] == ["a", "b"]
    assert [seconds for seconds in pauses if seconds >= 7] == [7, 7]
    server.refuse = lambda _: (429, kind, body)
    with HttpClient(parse_address(server.url)) as client, pytest.raises(RateLimited) as refused:
        client.request("GET", "/stats/q")
    assert refused.value.retry_after_seconds == 7


def test_listen_gives_up_when_it_is_refused(server: FakeServer) -> None:
    server.refuse = lambda _: (401, "text/plain", b"not you")
    assert_fails(run(server, "listen", "q", "--follow"), 1, "not you (401")


def test_listen_leaves_quietly_on_ctrl_c(server: FakeServer) -> None:
    server.streams = [(stream_of((1, "a")), False), (b"", False)]
    process = start(server, "listen", "q")
    assert process.stdout is not None
    assert process.stdout.readline() == b"a\n"
    process.send_signal(signal.SIGINT)
    rest, told = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, rest) == (0, b"")
    assert b"Traceback" not in told


def test_listen_leaves_quietly_when_nobody_reads(server: FakeServer) -> None:
    server.streams = [(stream_of((1, "a")), False)]
    reader, writer = os.pipe()
    os.close(reader)
    process = start(server, "listen", "q", stdout=writer)
    os.close(writer)
    _, told = process.communicate(timeout=DEADLINE_SECONDS)
    assert (process.returncode, told) == (0, b"")


# Looking after queues


def test_stats_prints_tabs_in_a_pipe_and_json_when_asked(server: FakeServer) -> None:
    server.queues = {"a\tb": [b"1"], "q": []}
    server.policies["q"] = "roundrobin"
    server.stopped.add("q")
    server.counts["q"] = {"delayed": 0, "leased": 2, "dead": 0}
    lines = "a\\tb\t1\tstarted\tbroadcast\t0\t0\t0\nq\t0\tstopped\troundrobin\t0\t2\t0\n"
    assert run(server, "stats").stdout == lines
    documents = [json.loads(line) for line in run(server, "stats", "--json").stdout.splitlines()]
    assert [document["name"] for document in documents] == ["a\tb", "q"]
    one = "redis\ta fake\nqueue\tq\nlen\t0\nstatus\tstopped\npolicy\troundrobin\n"
    assert run(server, "stats", "q").stdout == one
    assert json.loads(run(server, "stats", "q", "--json").stdout)["len"] == 0


def test_queues_are_listed_a_page_at_a_time(server: FakeServer) -> None:
    names = [f"q{number:04}" for number in range(2500)]
    server.queues = {name: [] for name in names}
    assert run(server, "queues").stdout.split() == names
    assert len(server.asked) == 4
    assert run(server, "queues", "--limit", "3", "--after", "q0009").stdout.split() == names[10:13]
    assert run(server, "queues", "-0", "--limit", "2").stdout == "q0000\0q0001\0"


def test_policy_start_stop_and_purge_say_what_holds_now(server: FakeServer) -> None:
    server.queues["q"] = [b"1"]
    assert run(server, "policy", "q").stdout == "broadcast\n"
    assert run(server, "policy", "q", "roundrobin").stdout == "roundrobin\n"
    assert run(server, "policy", "q").stdout == "roundrobin\n"
    assert run(server, "policy", "q", "random").exit_code == 2
    assert (run(server, "stop", "q").stdout, server.stopped) == ("stopped\n", {"q"})
    assert (run(server, "start", "q").stdout, server.stopped) == ("started\n", set())
    assert run(server, "purge", "q").stdout == "purged\n"
    assert run(server, "purge", "q", "--yes").stdout == "already empty\n"


def test_on_a_terminal_stats_is_a_table_and_purge_asks(server: FakeServer) -> None:
    server.queues["[b]q[/b]"] = [b"1"]
    ours, theirs = pty.openpty()
    table = start(server, "stats", stdout=theirs)
    assert table.wait(DEADLINE_SECONDS) == 0
    assert "[b]q[/b]" in os.read(ours, 65536).decode()
    purge = start(server, "purge", "[b]q[/b]", stdin=theirs)
    os.write(ours, b"n\n")
    _, told = purge.communicate(timeout=DEADLINE_SECONDS)
    assert purge.returncode == 1
    assert b"Delete all messages" in told
    assert server.queues == {"[b]q[/b]": [b"1"]}
    table.communicate()
    os.close(ours)
    os.close(theirs)


def test_text_of_a_peer_cannot_drive_the_terminal() -> None:
    assert one_line("a\r\n\tb\x1b[2J\x07 \u202e") == "a b?[2J? ?"


def test_a_name_from_the_command_line_keeps_bytes_that_are_no_utf_8() -> None:
    assert queue_path("/q/", "a\udcff/b") == "/q/a%FF/b"
