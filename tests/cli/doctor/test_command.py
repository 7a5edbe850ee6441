"""The command that looks for what is wrong, as people call it."""

import json
import os
import pty
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from restmq.cli.doctor.examination import examine
from restmq.cli.doctor.findings import Level
from restmq.cli.doctor.machine import Machine
from restmq.cli.doctor.server import check_server
from restmq.cli.main import cli
from restmq.http_client import parse_address
from restmq.settings import knobs
from tests.redis_server import redis_server
from tests.server_thread import BlockingServer, server_on_a_thread
from tests.support import free_port

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in an empty directory and with no setting in the environment."""
    for name in os.environ:
        if name.startswith("RESTMQ_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BlockingServer, Path]]:
    """A running server, and its data directory."""
    place = tmp_path_factory.mktemp("doctor")
    with server_on_a_thread(place) as running:
        yield running, place / "data"


def run(*arguments: str) -> Result:
    """Run ``restmq doctor`` in this process."""
    return CliRunner().invoke(cli, ["doctor", "--port", str(free_port()), *arguments])


def rows(result: Result) -> list[list[str]]:
    """What a pipe gets: level, check, what, and what to do."""
    assert result.stderr == ""
    found = [line.split("\t") for line in result.stdout.splitlines()]
    assert all(len(row) == 4 for row in found)
    assert all(bool(remedy) is (level != "ok") for level, _, _, remedy in found)
    return found


def kernel(tmp_path: Path) -> Machine:
    """A machine as it should be."""
    file = tmp_path / "proc/sys/vm/overcommit_memory"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    return Machine(tmp_path / "proc", tmp_path / "sys")


def test_where_all_is_well_nothing_is_found(place: Path) -> None:
    """As a server would be started here, with a Redis of its own."""
    found = list(examine({"port": str(free_port())}, machine=kernel(place)))
    assert [
        each for each in found if each.level is not Level.OK and each.check != "fsync-time"
    ] == []
    assert {each.check for each in found} >= {
        "file-limit",
        "settings",
        "open-listener",
        "data-directory",
        "ports",
        "workers",
        "disk-space",
        "fsync-time",
        "redis-version",
        "fsync",
        "overcommit",
    }


def test_a_running_server_is_looked_at_with_its_redis(
    server: tuple[BlockingServer, Path], tmp_path: Path
) -> None:
    """Also over HTTP."""
    running, data_dir = server
    flags = {"port": running.url.rpartition(":")[2], "data_dir": str(data_dir)}
    address = parse_address(running.url)
    found = list(examine(flags, server=address, machine=kernel(tmp_path)))
    slow = {"fsync-time", "redis-latency"}  # a busy machine
    assert [each for each in found if each.level is not Level.OK and each.check not in slow] == []
    assert {each.check for each in found} >= {
        "redis-persistence",
        "clock",
        "server",
        "server-clock",
    }


def test_a_redis_elsewhere_is_looked_at_with_its_disk(tmp_path: Path) -> None:
    """And the one for memory beside it."""
    wrong = {"appendfsync": "no", "disable-thp": "no"}
    with (
        redis_server(tmp_path / "disk", wrong) as disk,
        redis_server(tmp_path / "memory", {"maxmemory-policy": "allkeys-lru"}) as memory,
    ):
        file = tmp_path / "sys/kernel/mm/transparent_hugepage/enabled"
        file.parent.mkdir(parents=True)
        file.write_text("[always] madvise never\n")
        flags = {"redis_url": disk.url, "memory_redis_url": memory.url, "port": str(free_port())}
        found = list(examine(flags, machine=kernel(tmp_path)))
        slow = {"fsync-time", "redis-latency"}
        bad = [
            (each.level, each.check)
            for each in found
            if each.level is not Level.OK and each.check not in slow
        ]
        assert bad == [
            ("problem", "redis-persistence"),
            ("warning", "huge-pages"),
            ("warning", "redis-eviction"),
        ]
        spaces = [each.what for each in found if each.check == "disk-space"]
        assert len(spaces) == 1
        assert str(disk.directory) in spaces[0]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--fsync", "always"], 0),
        (["--workers", "1000"], 1),
        (["--fsync", "no"], 2),
        (["--workers", "1000", "--fsync", "no"], 2),
        (["--port", "http"], 2),
        (["--config", "none.toml"], 2),
    ],
)
def test_the_exit_status_is_that_of_the_worst(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch, place: Path
) -> None:
    """Whether it is about a setting or about what stands behind it."""
    well = kernel(place)
    monkeypatch.setattr("restmq.cli.doctor.examination.Machine", lambda: well)
    result = run(*arguments)
    assert result.exit_code == status, result.output
    worst = {0: "ok", 1: "warning", 2: "problem"}[status]
    assert worst in {level for level, *_ in rows(result)}
    assert json.loads(run(*arguments, "--json").stdout)["level"] == worst


def test_a_wrong_setting_is_a_problem_and_the_machine_is_looked_at_all_the_same() -> None:
    """Unknown options are refused as for serve."""
    found = rows(run("--port", "http"))
    assert ["problem", "settings"] in [row[:2] for row in found]
    assert "file-limit" in [row[1] for row in found]
    result = run("--prot", "1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert run("--url", "nonsense").exit_code == 2


def test_quiet_leaves_out_what_is_well() -> None:
    """Also in JSON."""
    found = rows(run("--fsync", "no", "--quiet"))
    assert ["problem", "fsync"] in [row[:2] for row in found]
    assert "ok" not in {row[0] for row in found}
    document = json.loads(run("--fsync", "no", "--quiet", "--json").stdout)
    assert document["findings"][-1].keys() == {"level", "check", "what", "remedy"}
    assert "ok" not in {each["level"] for each in document["findings"]}


def test_the_consumers_to_be_borne_count() -> None:
    """Against the limit of this process."""
    found = {row[1]: row for row in rows(run("--consumers", "999999999"))}
    assert found["file-limit"][0] == "problem"
    assert "999,999,999" in found["file-limit"][2]


def test_on_a_terminal_it_is_a_table() -> None:
    """With what to do beneath what was found."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "restmq", "doctor", "--fsync", "no", "--acl", "[b]x[/b]"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "TERM": "xterm"}
    done = subprocess.run(command, stdout=theirs, env=environ, timeout=60)
    os.close(theirs)
    shown = b""
    while b"fsync always" not in shown:
        shown += os.read(ours, 65536)
    os.close(ours)
    assert done.returncode == 2
    assert "-> set fsync always" in shown.decode()
    assert "[b]x[/b]" in shown.decode()


def test_the_help_offers_the_settings_and_an_example() -> None:
    """As for every command."""
    text = run("--help").stdout
    assert re.search(r"Examples:\n +restmq doctor\b", text)
    assert "Exit codes: 0" in text
    assert all(knob.flag in text for knob in knobs())


# A running server


class Handler(BaseHTTPRequestHandler):
    """A server that answers as the test says: status and body by path, and a date."""

    answers: dict[str, tuple[int, bytes]]
    date: datetime

    def do_GET(self) -> None:
        """Answer."""
        status, body = self.answers[self.path.partition("?")[0]]
        self.send_response_only(status)
        self.send_header("Date", format_datetime(self.date, usegmt=True))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


WELL = {"/healthz": (200, b"alive\r\n"), "/readyz": (200, b"ready"), "/stats": (200, b"{}")}


@pytest.mark.parametrize(
    ("changes", "seconds", "found"),
    [
        ({}, 0, []),
        ({"/healthz": (200, b"<html>")}, 0, [("problem", "server")]),
        ({"/healthz": (404, b"")}, 0, [("problem", "server")]),
        ({"/readyz": (503, b"")}, 0, [("problem", "server")]),
        ({"/stats": (401, b"")}, 0, [("warning", "server-access")]),
        ({"/stats": (500, b"")}, 0, [("problem", "server")]),
        ({}, -60, [("warning", "server-clock")]),
        ({}, 60, [("warning", "server-clock")]),
    ],
)
def test_what_is_wrong_with_a_server_is_found(
    changes: dict[str, tuple[int, bytes]], seconds: int, found: list[tuple[str, str]]
) -> None:
    """Each, and nothing else."""
    date = datetime.now(UTC) + timedelta(seconds=seconds)
    kind = type("Bound", (Handler,), {"answers": WELL | changes, "date": date})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        listed = list(check_server(parse_address(f"http://127.0.0.1:{http.server_port}")))
        http.shutdown()
        thread.join()
    bad = [each for each in listed if each.level is not Level.OK]
    assert [(each.level, each.check) for each in bad] == found
    assert all(each.remedy for each in bad)


def test_a_server_out_of_reach_is_a_problem() -> None:
    """Told with its address."""
    with closing(socket.create_server(("127.0.0.1", 0))) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    result = run("--url", url)
    (row,) = [row for row in rows(result) if row[1] == "server"]
    assert row[0] == "problem"
    assert url in row[2]
    assert result.exit_code == 2


def test_a_password_in_clear_is_found(server: tuple[BlockingServer, Path]) -> None:
    """Across the network, that is; not on this machine, and not with TLS."""
    running, _ = server
    port = running.url.rpartition(":")[2]
    name = socket.gethostname()
    try:
        reaches_itself = socket.gethostbyname(name).startswith("127.")
    except OSError:
        reaches_itself = False
    for host, is_found in (("127.0.0.1", False), (name, True)):
        if host == name and not reaches_itself:
            continue
        listed = list(check_server(parse_address(f"http://u:p@{host}:{port}")))
        assert ("clear-password" in {each.check for each in listed}) is is_found
