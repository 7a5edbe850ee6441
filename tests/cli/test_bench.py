"""The command that measures a server: on a real one, small and short."""

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner, Result

from restmq.cli.bench import command
from restmq.cli.bench.command import WORKS
from restmq.cli.bench.load import Connection, Latencies, Meter, Target
from restmq.cli.bench.load import Result as Measured
from restmq.cli.bench.server import started_server
from restmq.cli.bench.works import MARK, Listener, Plan
from restmq.cli.main import cli
from restmq.errors import RestMQError, Unavailable
from restmq.http_client import parse_address
from tests.server_thread import server_on_a_thread

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60
SMALL = ("--seconds", "0.3", "--connections", "4", "--consumers", "3", "--batch", "10")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that the tests of this module share."""
    with server_on_a_thread(tmp_path_factory.mktemp("bench")) as server:
        yield server.url


def run(url: str, *arguments: str) -> Result:
    """Run ``restmq bench`` in this process, whose output is no terminal."""
    environ = {"RESTMQ_URL": url, "RESTMQ_USER": None}
    return CliRunner().invoke(cli, ["bench", *arguments], env=environ)


def measured(result: Result) -> dict[str, Any]:
    """What was printed as JSON."""
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def stats(url: str, queue: str) -> dict[str, Any]:
    """The figures of a queue."""
    with urlopen(f"{url}/stats/{quote(queue)}", timeout=DEADLINE_SECONDS) as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def is_empty(url: str, queue: str) -> bool:
    """Whether nothing is left, in either queue."""
    names = ("len", "leased", "delayed", "dead", "consumers")
    both = (stats(url, queue), stats(url, f"{queue}.stream"))
    return not any(each[name] for each in both for name in names)


def test_all_works_are_measured_and_leave_nothing(url: str, fresh_name: str) -> None:
    """Each counts something, and tells the time it took."""
    document = measured(run(url, "--queue", fresh_name, "--json", *SMALL))
    assert [each["name"] for each in document["works"]] == list(WORKS)
    for each in document["works"]:
        assert each["count"] > 0, each
        assert each["rate"] == pytest.approx(each["count"] / each["seconds"], rel=0.01)
        assert sum(each["slices"]) == each["count"]
        latency = each["latency_seconds"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["longest"]
    assert document["works"][1]["count"] % 10 == 0
    assert document["works"][4]["count"] % 3 == 0
    assert (document["connections"], document["size_bytes"]) == (4, 100)
    assert is_empty(url, fresh_name)


def test_what_was_counted_was_really_done(url: str, fresh_name: str) -> None:
    """The numbers that the queue gave out tell how many messages it got."""
    document = measured(
        run(url, "--queue", fresh_name, "--json", "--only", "publish,batch", *SMALL)
    )
    counted = sum(each["count"] for each in document["works"])
    request = Request(
        f"{url}/q/{fresh_name}", data=b"value=v", headers={"Accept": "application/json"}
    )
    with urlopen(request, timeout=DEADLINE_SECONDS) as reply:
        number = int(json.load(reply)["key"].rpartition(":")[2])
    assert counted <= number - 1 <= counted + 4 + 40  # those under way at the end


def test_in_a_pipe_it_prints_rows(url: str, fresh_name: str) -> None:
    """Of those that were asked for, in that order."""
    result = run(url, "--queue", fresh_name, "--only", "take, publish", *SMALL)
    assert result.exit_code == 0, result.output
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[:2] for row in rows] == [["take", "messages"], ["publish", "messages"]]
    assert all(len(row) == 10 and float(row[2]) > 0 for row in rows)


@pytest.mark.parametrize("suffix", ["", ".stream"])
@pytest.mark.parametrize("state", ["ready", "delayed", "leased", "dead"])
def test_a_queue_that_holds_something_is_not_touched(
    url: str, fresh_name: str, suffix: str, state: str
) -> None:
    """Whatever state its messages are in."""
    name = f"{fresh_name}{suffix}"
    body = b"value=v&delay=600" if state == "delayed" else b"value=v"
    urlopen(Request(f"{url}/q/{name}", data=body), timeout=DEADLINE_SECONDS).close()
    if state in ("leased", "dead"):
        with urlopen(f"{url}/q/{name}?lease=600", timeout=DEADLINE_SECONDS) as reply:
            receipt = json.load(reply)["receipt"]
        if state == "dead":
            body = b"dead=broken"
            urlopen(Request(f"{url}/lease/{receipt}", data=body), timeout=DEADLINE_SECONDS).close()
    before = stats(url, name)
    result = run(url, "--queue", fresh_name, *SMALL)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"the queue {name} is in use" in result.stderr
    assert "--queue" in result.stderr
    names = ("len", "leased", "delayed", "dead")
    assert [stats(url, name)[each] for each in names] == [before[each] for each in names]


def test_a_queue_that_is_there_is_only_used_when_told_to(
    url: str, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may be about to use it; and if somebody just did, it is not used at all."""
    urlopen(Request(f"{url}/q/{fresh_name}", data=b"value=v"), timeout=DEADLINE_SECONDS).close()
    urlopen(f"{url}/q/{fresh_name}", timeout=DEADLINE_SECONDS).close()
    arguments = ("--queue", fresh_name, "--only", "publish", *SMALL, "--json")
    result = run(url, *arguments, "--force")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "rate_in" in result.stderr
    monkeypatch.setattr(command, "RATES", ())  # as when some time has passed
    result = run(url, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "--force" in result.stderr
    assert measured(run(url, *arguments, "--force"))["works"][0]["count"] > 0


def test_a_started_server_writes_into_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where temporary files are, which may be in memory."""
    monkeypatch.chdir(tmp_path)
    with started_server("no", 1, None):
        (place,) = tmp_path.iterdir()
        assert (place / "data").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_queue_that_is_not_broadcast_is_not_used(url: str, fresh_name: str) -> None:
    """Its streams would not all get every message."""
    request = Request(f"{url}/p/{fresh_name}.stream", data=b"policy=roundrobin")
    urlopen(request, timeout=DEADLINE_SECONDS).close()
    result = run(url, "--queue", fresh_name, "--force", *SMALL)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "policy roundrobin" in result.stderr


def test_a_server_of_its_own_is_started_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither settings of the user reach it, nor does it reach the user's server."""
    monkeypatch.setenv("RESTMQ_PORT", "http")
    arguments = ["--start", "--fsync", "no", "--directory", str(tmp_path), "--only", "publish"]
    document = measured(run("http://127.0.0.1:1", *arguments, *SMALL, "--json"))
    assert document["works"][0]["count"] > 0
    assert document["url"] != "http://127.0.0.1:1"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="refused"):
        urlopen(document["url"], timeout=DEADLINE_SECONDS)


def test_a_server_out_of_reach_is_one_line() -> None:
    """As for every command."""
    result = run("http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("restmq: cannot reach http://127.0.0.1:1")


@pytest.mark.parametrize(
    "arguments", [("--only", "publish,run"), ("--only", ","), ("--size", "1"), ("--seconds", "0")]
)
def test_wrong_options_are_refused(url: str, arguments: tuple[str, ...]) -> None:
    """Before anything is done."""
    result = run(url, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_the_help_has_an_example_and_the_exit_codes() -> None:
    """As for every command."""
    text = run("", "--help").stdout
    assert re.search(r"Examples:\n +restmq bench\b", text)
    assert "Exit codes: 0" in text
    assert "Prints a table" in text


def start(url: str, *arguments: str) -> tuple["subprocess.Popen[bytes]", int]:
    """Start it on a pseudo-terminal; returns our end of that."""
    ours, theirs = pty.openpty()
    fixed = ("COLUMNS", "LINES")
    environ = {name: value for name, value in os.environ.items() if name not in fixed}
    process = subprocess.Popen(
        [sys.executable, "-m", "restmq", "bench", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={
            **environ,
            "RESTMQ_URL": url,
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
            "COLUMNS": "200",
        },
    )
    os.close(theirs)
    return process, ours


def read(ours: int, until: str | None = None) -> str:
    """Read what was written, to the end or until a word has come."""
    shown = b""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while until is None or until not in shown.decode("utf-8", "replace"):
        assert select.select([ours], [], [], max(0, deadline - time.monotonic()))[0], shown
        try:
            part = os.read(ours, 65536)
        except OSError:  # it has ended
            break
        if not part:
            break
        shown += part
    return shown.decode("utf-8", "replace")


def test_on_a_terminal_there_are_progress_a_table_and_plots(url: str, fresh_name: str) -> None:
    """With a bar while it runs, which is gone afterwards."""
    process, ours = start(url, "--queue", fresh_name, *SMALL, "--seconds", "1")
    shown = read(ours)
    os.close(ours)
    assert process.wait(DEADLINE_SECONDS) == 0, shown
    assert "messages a second" in shown
    table = shown.rpartition("Work")[2]
    for name in WORKS:
        assert len(re.findall(rf"^{name} +\S*[▁▂▃▄▅▆▇█]", plain(table), re.MULTILINE)) >= 1
        assert f"│ {name} " in plain(table)
    for title in ("A second", "Over time", "Latencies"):
        assert title in table
    assert "Traceback" not in shown


def plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def test_ctrl_c_empties_the_queues(url: str, fresh_name: str) -> None:
    """Although it was in the middle of the work."""
    process, ours = start(url, "--queue", fresh_name, *SMALL, "--seconds", "600")
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not stats(url, fresh_name)["len"]:
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    shown = read(ours)
    os.close(ours)
    assert process.wait(DEADLINE_SECONDS) == 1
    assert "Traceback" not in shown
    assert is_empty(url, fresh_name)


# The load


class Handler(BaseHTTPRequestHandler):
    """Answers each request as the test says."""

    protocol_version = "HTTP/1.1"
    answer: bytes

    def do_GET(self) -> None:
        """Answer, in two parts."""
        middle = len(self.answer) // 2
        self.wfile.write(self.answer[:middle])
        self.wfile.flush()
        self.wfile.write(self.answer[middle:])
        self.close_connection = b"close" in self.answer

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-LENGTH: 3\r\n\r\nabc", (200, b"abc")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nX: close\r\n\r\n", (503, b"")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX: close\r\n\r\nabc", None),
        (b"close", None),
    ],
)
def test_answers_are_read_however_they_come(answer: bytes, found: tuple[int, bytes] | None) -> None:
    """In parts, short, or not at all; then it is an error and nobody waits."""

    async def ask(port: int) -> list[tuple[int, bytes]]:
        target = Target(parse_address(f"http://127.0.0.1:{port}"))
        async with asyncio.timeout(DEADLINE_SECONDS), target.connections(1) as (connection,):
            request = target.request("GET", "/")
            count = 1 if b"close" in answer else 2
            return [await connection.ask(request) for _ in range(count)]

    kind = type("Bound", (Handler,), {"answer": answer})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        try:
            if found is None:
                with pytest.raises(RestMQError):
                    asyncio.run(ask(http.server_port))
            else:
                assert set(asyncio.run(ask(http.server_port))) == {found}
        finally:
            http.shutdown()
            thread.join()


async def test_a_connection_that_is_closed_cannot_be_asked() -> None:
    """It says so at once."""
    with pytest.raises(Unavailable):
        await Connection().ask(b"")


def test_requests_carry_credentials_and_lengths() -> None:
    """And the path in front of the routes."""
    target = Target(parse_address("http://u:p@[::1]:8/base/"))
    request = target.request("POST", "/q/a", b"xyz", "A: b\r\n")
    lines = request.decode().split("\r\n")
    assert lines[0] == "POST /base/q/a HTTP/1.1"
    assert set(lines[1:-2]) == {
        "Host: [::1]:8",
        "Authorization: Basic dTpw",
        "A: b",
        "Content-Length: 3",
    }
    assert lines[-2:] == ["", "xyz"]


async def test_messages_of_a_stream_are_counted_however_they_are_cut() -> None:
    """Each once."""
    data = b"event: open\n\n" + b"".join(b"data: " + MARK + b"xx\n\n" for _ in range(5))
    for size in (1, 7, len(MARK), 40, 1000):
        counted: list[int] = []
        listener = Listener(b"", lambda _, count, into=counted: into.append(count))  # type: ignore[misc]
        for start_at in range(0, len(data), size):
            listener.data_received(data[start_at : start_at + size])
        assert (sum(counted), listener.count) == (5, 5)
        assert listener.opened.done()


def test_latencies_are_right_to_a_percent() -> None:
    """Whatever their size."""
    latencies = Latencies()
    assert latencies.percentile(50) == 0
    for number in range(1, 1001):
        latencies.add(number / 1000)
    for percent in (50, 90, 99):
        assert latencies.percentile(percent) == pytest.approx(percent / 100, rel=0.02)
    assert latencies.percentile(100) == 1.0
    latencies.add(1e9)
    latencies.add(0)
    assert latencies.percentile(100) == latencies.longest_seconds == 1e9
    assert sum(latencies.spread(10, 0.001, 1.0)) == 1002


def test_a_meter_knows_when_it_is_over() -> None:
    """And counts what comes late."""
    meter = Meter(Measured("name", "what"), 1000)
    meter.add(2, time.perf_counter())
    assert not meter.is_over
    assert meter.share < 1
    meter = Meter(meter.result, 0.0000001)
    assert (meter.is_over, meter.share) == (True, 1)
    meter.count(3)
    assert (meter.result.count, sum(meter.result.slices)) == (5, 5)


def test_messages_have_the_size_that_was_asked_for() -> None:
    """And no more are stored than there may be."""
    target = Target(parse_address("http://h"))
    plan = Plan(target, "q", 1, 1, 1000, 10, 1)
    assert len(plan.value) == 1000
    assert plan.value.startswith(MARK)
    assert plan.batch(10, "q").count(MARK) == 10
    assert Plan(target, "q", 1, 1, 1024 * 1024, 10, 1).most_messages < 256
