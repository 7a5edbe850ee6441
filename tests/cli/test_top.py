"""The command that shows what moves in all queues: on a real server, and on a terminal."""

import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from restmq.cli.main import cli
from restmq.cli.top.command import ORDERS as OFFERED
from restmq.cli.top.drawing import (
    COLUMNS,
    PLAIN_BARS,
    View,
    age_text,
    chart,
    columns_for,
    count_text,
    draw_screen,
    rate_text,
)
from restmq.cli.top.figures import (
    HISTORY_SAMPLES,
    ORDERS,
    History,
    QueueFigures,
    Snapshot,
    pause_after,
    sum_up,
)
from restmq.cli.top.screen import Feed, split_keys
from restmq.http_client import HttpClient, parse_address
from tests.server_thread import BlockingServer, server_on_a_thread

ROOT = Path(__file__).parents[2]
DEADLINE_SECONDS = 60
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FIXED_SIZE = ("COLUMNS", "LINES")
BACK_TO_SHELL = "\x1b[?1049l"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingServer]:
    """A server that the tests of this module share."""
    with server_on_a_thread(tmp_path_factory.mktemp("top")) as running:
        yield running


def post(url: str, path: str, **fields: str) -> None:
    """Send a form."""
    body = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
    urlopen(Request(url + path, data=body.encode()), timeout=DEADLINE_SECONDS).close()


def run(url: str, *arguments: str) -> Result:
    """Run ``restmq top`` in this process, whose output is no terminal."""
    return CliRunner().invoke(
        cli, ["top", *arguments], env={"RESTMQ_URL": url, "RESTMQ_USER": None}
    )


def rows(result: Result) -> dict[str, list[str]]:
    """The columns of each queue after its name, in their order."""
    assert result.exit_code == 0, result.output
    split = (line.split("\t") for line in result.stdout.splitlines())
    return {name: rest for name, *rest in split}


@pytest.fixture(scope="module")
def queues(server: BlockingServer) -> dict[str, str]:
    """Queues in all states, by what they are an example of."""
    url = server.url
    for _ in range(3):
        post(url, "/q/shop.deep", value="v")
    post(url, "/q/shop.leased", value="v")
    urlopen(f"{url}/q/shop.leased?lease=600", timeout=DEADLINE_SECONDS).close()
    post(url, "/q/shop.delayed", value="v", delay="600")
    post(url, "/q/shop.dead", value="v")
    with urlopen(f"{url}/q/shop.dead?lease=600", timeout=DEADLINE_SECONDS) as reply:
        receipt = json.load(reply)["receipt"]
    post(url, f"/lease/{receipt}", dead="broken")
    post(url, "/q/shop.stopped", value="v")
    urlopen(f"{url}/q/shop.stopped", timeout=DEADLINE_SECONDS).close()
    post(url, "/control/shop.stopped", status="stop")
    post(url, "/q/shop[1]", value="v")
    return {name: f"shop.{name}" for name in ("deep", "leased", "delayed", "dead", "stopped")}


def test_in_a_pipe_it_prints_the_figures_once(
    server: BlockingServer, queues: dict[str, str]
) -> None:
    """Ready, leased, delayed, dead, consumers, oldest age, in, out and status."""
    for arguments in ((), ("--once",)):
        found = rows(run(server.url, "shop.*", *arguments))
        assert set(found) == set(queues.values())
        assert found["shop.deep"][:5] == ["3", "0", "0", "0", "0"]
        assert found["shop.leased"][:5] == ["0", "1", "0", "0", "0"]
        assert found["shop.delayed"][:5] == ["0", "0", "1", "0", "0"]
        assert found["shop.dead"][:5] == ["0", "0", "0", "1", "0"]
        assert float(found["shop.deep"][5]) >= 0
        assert found["shop.dead"][5] == ""
        assert float(found["shop.deep"][6]) > 0
        assert [found[f"shop.{name}"][8] for name in ("deep", "stopped")] == ["started", "stopped"]


def test_a_pattern_chooses_by_the_whole_name(
    server: BlockingServer, queues: dict[str, str]
) -> None:
    """A bracket stands for itself."""
    assert set(rows(run(server.url, "shop.d???"))) == {"shop.deep", "shop.dead"}
    assert set(rows(run(server.url, "*.leased"))) == {"shop.leased"}
    assert set(rows(run(server.url, "shop[1]"))) == {"shop[1]"}
    assert rows(run(server.url, "shop")) == {}
    assert len(rows(run(server.url))) >= len(queues)


def test_it_sorts_and_limits(server: BlockingServer, queues: dict[str, str]) -> None:
    """By what was asked."""
    first = {
        order: next(iter(rows(run(server.url, "shop.*", "--sort", order, "--limit", "1"))))
        for order in OFFERED
    }
    assert first["depth"] == "shop.deep"
    assert first["dead"] == first["name"] == "shop.dead"
    assert first["age"] == "shop.deep"
    assert run(server.url, "--sort", "size").exit_code == 2
    assert tuple(ORDERS) == OFFERED


def test_json_is_one_object(server: BlockingServer, queues: dict[str, str]) -> None:
    """With the sums over all that was looked at, also beyond the limit."""
    result = run(server.url, "shop.*", "--json", "--once", "--sort", "depth", "--limit", "1")
    document = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert document["complete"] is True
    assert document["totals"]["queues"] == len(queues)
    assert [document["totals"][name] for name in ("ready", "leased", "delayed", "dead")] == [
        3,
        1,
        1,
        1,
    ]
    assert [each["name"] for each in document["queues"]] == ["shop.deep"]
    assert document["queues"][0]["ready"] == 3


def test_json_leaves_the_server_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a look that took long it pauses longer, as the screen does."""
    assert pause_after(2, 0.1) == 2
    assert pause_after(2, 10) == 50
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        raise KeyboardInterrupt

    def look(*_: object) -> Snapshot:
        clock.append(clock[-1] + 10)
        return Snapshot(0, "", (), True, sum_up(()))

    clock = [0.0]
    monkeypatch.setattr("restmq.cli.top.figures.take_snapshot", look)
    monkeypatch.setattr(
        "restmq.cli.top.command.time", SimpleNamespace(sleep=sleep, monotonic=lambda: clock[-1])
    )
    assert run("http://127.0.0.1:1", "--json").exit_code == 0
    assert pauses == [50]


def test_the_screen_outlives_an_error_that_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and the next look is taken."""
    is_well = False

    def look(*_: object) -> Snapshot:
        if not is_well:
            raise ValueError("what is this")
        return Snapshot(0, "", (), True, sum_up(()))

    monkeypatch.setattr("restmq.cli.top.screen.take_snapshot", look)
    deadline = time.monotonic() + DEADLINE_SECONDS
    with (
        HttpClient(parse_address("http://127.0.0.1:1")) as client,
        Feed(client, "*", 10, 0.01) as feed,
    ):
        while feed.take()[1] != "ValueError: what is this":
            assert time.monotonic() < deadline
        is_well = True
        while feed.take()[1]:
            assert time.monotonic() < deadline


def test_json_goes_on_until_nobody_reads(server: BlockingServer) -> None:
    """A line for each look."""
    command = [sys.executable, "-m", "restmq", "top", "--json", "--interval", "0.1"]
    environ = {**os.environ, "RESTMQ_URL": server.url, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
    ) as top:
        assert top.stdout is not None
        assert top.stderr is not None
        times = [json.loads(top.stdout.readline())["time"] for _ in range(3)]
        top.send_signal(signal.SIGINT)
        assert top.stderr.read() == b""
        assert top.wait(DEADLINE_SECONDS) == 0
    assert times == sorted(set(times))


def test_more_queues_than_are_to_be_looked_at_are_told(
    server: BlockingServer, fresh_name: str
) -> None:
    """The first by name are shown; the answers come in pages."""
    for number in range(12):
        post(server.url, f"/q/{fresh_name}-{number:02}", value="v")
    result = run(server.url, f"{fresh_name}-*", "--max-queues", "10", "--sort", "name")
    assert list(rows(result)) == [f"{fresh_name}-{number:02}" for number in range(10)]
    assert "the first 10 queues" in result.stderr
    document = json.loads(
        run(server.url, f"{fresh_name}-*", "--json", "--once", "--max-queues", "10").stdout
    )
    assert (document["complete"], document["totals"]["queues"]) == (False, 10)
    assert run(server.url, f"{fresh_name}-*", "--max-queues", "12").stderr == ""


def test_a_server_out_of_reach_is_one_line() -> None:
    """As for every command."""
    result = run("http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("restmq: cannot reach http://127.0.0.1:1")


def test_the_help_has_an_example_and_the_exit_codes() -> None:
    """As for every command."""
    text = run("", "--help").stdout
    assert re.search(r"Examples:\n +restmq top\b", text)
    assert "Exit codes: 0" in text
    assert "Prints a screen" in text


# On a terminal


class Terminal:
    """A pseudo-terminal with ``restmq top`` in it."""

    def __init__(self, url: str, *arguments: str, size: tuple[int, int] = (24, 160)) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "restmq", "top", "--interval", "0.1", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={
                **{name: each for name, each in os.environ.items() if name not in FIXED_SIZE},
                "RESTMQ_URL": url,
                "PYTHONPATH": str(ROOT),
                "TERM": "xterm-256color",
                "PYTHONWARNINGS": "error",
            },
            start_new_session=True,
        )
        self._theirs = theirs
        self.raw = ""

    def resize(self, height: int, width: int) -> None:
        """Change the size of the window."""
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._ours, keys.encode())

    def read(self) -> str:
        """Return all that was written until now."""
        while select.select([self._ours], [], [], 0.02)[0]:
            self.raw += os.read(self._ours, 65536).decode("utf-8", "replace")
        return self.raw

    @property
    def screen(self) -> str:
        """What was drawn last, as far as it was drawn whole."""
        frames = self.read().split("\x1b[H")
        return ESCAPES.sub("", frames[-2] if len(frames) > 1 else "").replace("\r", "")

    def until(self, predicate: Callable[[str], object]) -> str:
        """Wait for a screen of which this is true, and return it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            screen = self.screen
            if predicate(screen):
                return screen
            assert self.process.poll() is None, self.raw
            assert time.monotonic() < deadline, screen

    def leave(self) -> int:
        """Wait for the end; returns the exit status, after a look at what was left behind."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.process.poll() is None:
            self.read()
            assert time.monotonic() < deadline
        assert BACK_TO_SHELL in self.read()
        assert "\x1b[?25h" in self.raw, "the cursor is gone"
        assert "Traceback" not in self.raw
        assert termios.tcgetattr(self._theirs) == self.before
        return self.process.returncode

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)


@pytest.fixture
def terminal(server: BlockingServer) -> Iterator[Callable[..., Terminal]]:
    """Open terminals, and close them afterwards."""
    opened: list[Terminal] = []

    def start(
        *arguments: str, url: str = server.url, size: tuple[int, int] = (24, 160)
    ) -> Terminal:
        opened.append(Terminal(url, *arguments, size=size))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def names(screen: str) -> list[str]:
    """The names of the queues on a screen."""
    table = screen.partition("Queue  ")[2].partition("sort: ")[0]
    return [line.split()[0] for line in table.splitlines()[1:] if line.strip()]


def test_the_screen_shows_queues_and_moves(
    server: BlockingServer, terminal: Callable[..., Terminal], fresh_name: str
) -> None:
    """A message that comes is seen, and so is its rate."""
    post(server.url, f"/q/{fresh_name}", value="v")
    shown = terminal(f"{fresh_name}*")
    shown.until(lambda screen: names(screen) == [fresh_name])
    assert server.url in shown.screen
    assert "1 queues" in shown.screen
    for _ in range(4):
        post(server.url, f"/q/{fresh_name}", value="v")
    screen = shown.until(lambda screen: "ready 5 " in screen)
    assert re.search(rf"^{fresh_name} +5 +0 +0 +0 +0 +\d+s +\d", screen, re.MULTILINE)
    shown.until(lambda screen: "█" in screen)
    shown.press("q")
    assert shown.leave() == 0


def test_keys_sort_scroll_and_pause(
    server: BlockingServer, terminal: Callable[..., Terminal], fresh_name: str
) -> None:
    """On a terminal with room for three queues."""
    for number in range(8):
        for _ in range(number + 1):
            post(server.url, f"/q/{fresh_name}-{number}", value="v")
    listed = [f"{fresh_name}-{number}" for number in range(8)]
    shown = terminal(f"{fresh_name}-*", "--sort", "name", size=(9, 160))
    shown.until(lambda screen: names(screen) == listed[:3])
    shown.press("d")
    shown.until(lambda screen: names(screen) == listed[:4:-1] and "by depth" in screen)
    shown.press("\x1b[B")
    shown.until(lambda screen: names(screen) == listed[6:3:-1])
    shown.press("\x1b[6~\x1b[6~")
    shown.until(lambda screen: names(screen) == listed[2::-1])
    shown.press("\x1b[6~" * 9)
    shown.until(lambda screen: names(screen) == listed[:1])
    shown.press("\x1b[H")
    shown.until(lambda screen: names(screen) == listed[:4:-1])
    shown.press("n ")
    shown.until(lambda screen: names(screen) == listed[:3] and "paused" in screen)
    for _ in range(50):
        post(server.url, f"/q/{fresh_name}-0", value="v")
    shown.press("d")
    shown.until(lambda screen: names(screen) == listed[:4:-1])
    shown.press(" ")
    shown.until(lambda screen: names(screen)[0] == listed[0] and "paused" not in screen)
    shown.resize(12, 160)
    shown.until(lambda screen: len(names(screen)) == 6)
    shown.press("\x1b")
    assert shown.leave() == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_signals_leave_the_terminal_as_it_was(
    terminal: Callable[..., Terminal], number: signal.Signals, status: int
) -> None:
    """Ctrl-C is as good as q."""
    shown = terminal("none")
    shown.until(lambda screen: "0 queues" in screen)
    shown.process.send_signal(number)
    assert shown.leave() == status


def test_a_server_that_leaves_is_told_and_asked_again(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """Until it is back."""
    with server_on_a_thread(tmp_path) as server:
        post(server.url, "/q/jobs", value="v")
        shown = terminal(url=server.url)
        shown.until(lambda screen: names(screen) == ["jobs"])
        server.stop()
        screen = shown.until(lambda screen: "cannot reach" in screen)
        assert names(screen) == ["jobs"]
        server.start()
        shown.until(lambda screen: "cannot reach" not in screen)
        post(server.url, "/q/jobs", value="v")
        shown.until(lambda screen: "ready 2 " in screen)
        shown.press("q")
        assert shown.leave() == 0


def test_a_server_that_hangs_does_not_keep_it_from_leaving(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    """The keyboard is read by another thread than the answers."""
    with server_on_a_thread(tmp_path) as server:
        shown = terminal(url=server.url)
        shown.until(lambda screen: "0 queues" in screen)
        pid = server._server.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            shown.press("d")
            shown.until(lambda screen: "by depth" in screen)
            shown.press("q")
            assert shown.leave() == 0
        finally:
            os.kill(pid, signal.SIGCONT)


def test_hostile_names_drive_nothing(
    server: BlockingServer, terminal: Callable[..., Terminal], fresh_name: str
) -> None:
    """Neither the terminal nor the markup of the table."""
    hostile = f"{fresh_name}[b]:smile:\u202e"
    post(server.url, f"/q/{quote(hostile)}", value="v")
    shown = terminal(f"{fresh_name}*")
    screen = shown.until(lambda screen: "[b]" in screen)
    assert f"{fresh_name}[b]:smile:\\u202e" in screen


# Drawing


def figures(name: str = "q", **changes: float) -> QueueFigures:
    """A queue, empty but for the changes."""
    values = dict.fromkeys(("ready", "leased", "delayed", "dead", "consumers"), 0)
    rates = dict.fromkeys(("rate_in", "rate_out"), 0.0)
    given = {**values, **rates, "oldest_age_seconds": None, "is_stopped": False, **changes}
    return QueueFigures(name=name, **given)  # type: ignore[arg-type]


def snapshot_of(*queues: QueueFigures, is_complete: bool = True) -> Snapshot:
    """A snapshot of these."""
    return Snapshot(0.0, "a fake", queues, is_complete, sum_up(queues))


def test_a_chart_is_scaled_by_its_highest_value() -> None:
    """Nothing is empty, and the least of something is seen."""
    assert chart([], 4) == "    "
    assert chart([0, 0], 4) == "    "
    assert chart([0, 1, 50, 100], 4) == " ▁▄█"
    assert chart([9, 9, 1, 2, 4, 8], 4) == "▁▂▄█"
    assert chart([0, 100], 2, PLAIN_BARS) == " #"


def test_numbers_fit_their_columns() -> None:
    """At any size."""
    assert [count_text(n) for n in (0, 99_999, 100_000, 9_999_999)] == [
        "0",
        "99,999",
        "100k",
        "9,999k",
    ]
    assert [count_text(n) for n in (10**7, 10**10)] == ["10M", "10G"]
    assert [rate_text(n) for n in (0, 0.04, 0.06, 9.94, 12.6, 250_000)] == [
        "0",
        "0",
        "0.1",
        "9.9",
        "13",
        "250k",
    ]
    seconds = (None, 0.2, 99, 100, 7200, 86_400, 864_000)
    assert [age_text(n) for n in seconds] == ["-", "0s", "99s", "2m", "2h", "24h", "10d"]
    most = figures(ready=10**12, leased=10**12, dead=10**12, rate_in=1e12, oldest_age_seconds=1e7)
    for column in COLUMNS:
        assert len(column.text(most, History().total, PLAIN_BARS)) <= column.width


def test_a_narrow_terminal_shows_what_matters_most() -> None:
    """The name always."""
    assert columns_for(200) == list(COLUMNS)
    assert [each.title for each in columns_for(45)] == ["Ready", "In/s", "Out/s"]
    assert [each.title for each in columns_for(40)] == ["Ready", "In/s"]
    assert columns_for(10) == []
    for width in range(10, 200):
        console = Console(width=width, height=10, file=io.StringIO())
        view = View("u", "rate", 2)
        with console.capture() as shown:
            console.print(
                draw_screen(console, snapshot_of(figures()), [figures()], History(), view)
            )
        assert max(map(len, shown.get().splitlines())) <= width
        assert len(shown.get().splitlines()) <= 10


def test_what_is_not_shown_is_told() -> None:
    """In a line of its own."""
    console = Console(width=120, height=10, file=io.StringIO())
    with console.capture() as shown:
        snapshot = snapshot_of(figures(), is_complete=False)
        console.print(draw_screen(console, snapshot, [], History(), View("u", "rate", 2)))
    assert "the first 1 by name" in shown.get()


def test_the_history_keeps_only_what_moves() -> None:
    """However many queues there are."""
    history = History()
    history.add(snapshot_of(figures("a", rate_in=1.0), figures("b")))
    history.add(snapshot_of(figures("a", rate_in=3.0), figures("b", rate_out=2.0)))
    assert list(history.of("a").incoming) == [1.0, 3.0]
    assert list(history.of("b").outgoing) == [2.0]
    assert list(history.total.incoming) == [1.0, 3.0]
    for _ in range(HISTORY_SAMPLES):
        history.add(snapshot_of(figures("a")))
    assert list(history.of("a").incoming) == []
    assert list(history.of("b").outgoing) == []
    assert len(history.total.incoming) == HISTORY_SAMPLES


def test_keys_are_taken_apart() -> None:
    """Also when several come at once."""
    assert list(split_keys("q")) == ["q"]
    assert list(split_keys("\x1b")) == ["\x1b"]
    assert list(split_keys("d\x1b[A\x1b[6~\x1bOBn")) == ["d", "\x1b[A", "\x1b[6~", "\x1bOB", "n"]
    assert list(split_keys("\x1b[1;5Aq")) == ["\x1b[1;5A", "q"]
