"""The commands of reliable delivery, against the real server."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from restmq.cli.main import cli
from tests.support import free_port

DEADLINE_SECONDS = 30
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server_url(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests of this module; queues are fresh in each."""
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "restmq", "serve", "--port", str(port)]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [*command, "--redis-url", redis_url],
            cwd=folder,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process,
    ):
        until(lambda: answers(url + "/readyz") or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield url
        process.terminate()


@pytest.fixture
def restmq(server_url: str) -> Callable[..., Result]:
    """Runs a command in this process, with ``given`` as its standard input."""

    def run(*arguments: str, given: str | bytes = b"") -> Result:
        environ = {"RESTMQ_URL": server_url, "RESTMQ_USER": None}
        return CliRunner().invoke(cli, list(arguments), input=given, env=environ)

    return run


Run = Callable[..., Result]


def until(predicate: Callable[[], object]) -> None:
    """Wait until it is true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not predicate():
        assert time.monotonic() < deadline, predicate
        time.sleep(0.02)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url) as response:
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False


def documents(result: Result) -> list[dict[str, Any]]:
    """The JSON lines that a command printed."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def stats(run: Run, queue: str) -> dict[str, Any]:
    return documents(run("stats", queue, "--json"))[0]


# Adding


def test_a_batch_stores_each_line_in_order_in_few_requests(restmq: Run, fresh_name: str) -> None:
    lines = [f'{{"n": {n}}}' for n in range(2500)]
    result = restmq("add", fresh_name, "--batch", "--keys", given="\n\n".join(lines))
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [f"{fresh_name}:{n}" for n in range(1, 2501)]
    assert restmq("peek", fresh_name, "-n", "1000").stdout.splitlines() == lines[:1000]


def test_a_batch_goes_out_when_its_lines_arrive(server_url: str, fresh_name: str) -> None:
    with child(server_url, "add", fresh_name, "--batch", "--keys") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one\ntw")
        process.stdin.flush()
        assert process.stdout.readline() == f"{fresh_name}:1\n".encode()
        rest, _ = process.communicate(b"o", timeout=DEADLINE_SECONDS)
        assert rest == f"{fresh_name}:2\n".encode()


def test_a_refused_batch_tells_how_much_was_stored_before(restmq: Run, fresh_name: str) -> None:
    restmq("settings", fresh_name, "max_length=1500")
    result = restmq("add", fresh_name, "--batch", given="x\n" * 2500)
    assert result.exit_code == 1
    assert "messages stored before: 1000" in result.stderr
    assert restmq("len", fresh_name).stdout == "1000\n"


def test_what_is_said_about_a_message_is_kept(restmq: Run, fresh_name: str) -> None:
    restmq("add", fresh_name, "plain")
    restmq("add", fresh_name, "--priority", "9", "--content-type", "text/x-note", "urgent")
    restmq("add", fresh_name, "--delay", "1e6", "later")
    restmq("add", fresh_name, "--at", "1", "now")
    assert restmq("peek", fresh_name, "-n", "9").stdout.split() == ["urgent", "plain", "now"]
    assert stats(restmq, fresh_name)["delayed"] == 1
    (dead,) = buried(restmq, fresh_name)
    assert (dead["content_type"], dead["priority"]) == ("text/x-note", 9)


def test_an_id_stores_once_and_says_so(restmq: Run, fresh_name: str) -> None:
    for told in ("", f"restmq: stored before: {fresh_name}:1\n"):
        result = restmq("add", fresh_name, "--id", "order 17", "value")
        assert (result.stdout, result.stderr) == (f"{fresh_name}:1\n", told)
    assert restmq("len", fresh_name).stdout == "1\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--batch", "value"),
        ("--batch", "--whole"),
        ("--batch", "--unordered"),
        ("--batch", "--content-type", "text/plain"),
        ("--delay", "1", "--at", "1", "v"),
        ("--delay", "nan", "v"),
        ("--at", "inf", "v"),
        ("--priority", "10", "v"),
        ("--id", "x", "a", "b"),
        ("--id", "x"),
        ("--content-type", "multipart/form-data; boundary=x", "v"),
        ("--content-type", "image/jpeg\r\nX: y", "v"),
        ("--content-type", "jpeg", "v"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(
    restmq: Run, fresh_name: str, arguments: tuple[str, ...]
) -> None:
    assert restmq("add", fresh_name, *arguments, given=b"line\n").exit_code == 2
    assert restmq("len", fresh_name).stdout == "0\n"


def test_take_waits_for_a_message(restmq: Run, server_url: str, fresh_name: str) -> None:
    assert restmq("take", fresh_name, "--wait", "0.01").exit_code == 3
    with child(server_url, "take", fresh_name, "-n", "2", "--wait", "60") as process:
        assert process.stdout is not None
        for value in ("first", "second"):
            restmq("add", fresh_name, value)
            assert process.stdout.readline() == f"{value}\n".encode()
        assert process.wait(DEADLINE_SECONDS) == 0


# Leasing and settling


def test_a_lease_is_acked_extended_and_given_back(restmq: Run, fresh_name: str) -> None:
    restmq("add", fresh_name, "a", "b", "c")
    first, second = documents(restmq("lease", fresh_name, "-n", "2", "--seconds", "60"))
    assert (first["value"], first["attempt"]) == ("a", 1)
    assert restmq("ack", first["receipt"]).stdout == f"{first['key']}\n"
    extended = restmq("extend", second["receipt"], "600")
    assert float(extended.stdout) > second["expires"] + 500
    assert restmq("nack", second["receipt"]).stdout == f"{second['key']}\n"
    (again,) = documents(restmq("lease", fresh_name))
    assert (again["value"], again["attempt"]) == ("b", 2)
    restmq("nack", again["receipt"], "--keep-attempt")
    (again,) = documents(restmq("lease", fresh_name))
    assert again["attempt"] == 2
    restmq("nack", again["receipt"], "--delay", "3600")
    assert restmq("lease", fresh_name, "--value").stdout == "c\n"
    numbers = stats(restmq, fresh_name)
    assert (numbers["ready"], numbers["delayed"], numbers["leased"]) == (0, 1, 1)


def test_a_lease_that_names_no_time_lasts_as_the_queue_says(restmq: Run, fresh_name: str) -> None:
    restmq("settings", fresh_name, "lease_seconds=4000")
    restmq("add", fresh_name, "a", "b")
    (long,) = documents(restmq("lease", fresh_name))
    (short,) = documents(restmq("lease", fresh_name, "--seconds", "5"))
    assert long["expires"] > short["expires"] + 3000


def test_a_lease_on_an_empty_queue_exits_with_3(restmq: Run, fresh_name: str) -> None:
    for flags in ((), ("--wait", "0.01")):
        result = restmq("lease", fresh_name, *flags)
        assert (result.exit_code, result.output) == (3, "")


def test_receipts_come_from_standard_input_and_bad_ones_spoil_nothing(
    restmq: Run, fresh_name: str
) -> None:
    restmq("add", fresh_name, "--batch", given="x\n" * 120)
    messages = documents(restmq("lease", fresh_name, "-n", "120"))
    receipts = [message["receipt"] for message in messages]
    restmq("ack", receipts[3])
    result = restmq("ack", given="\n".join(["nonsense", *receipts, "a,b", "é"[:0]]))
    assert result.exit_code == 1
    keys = [message["key"] for message in messages]
    assert result.stdout.split() == keys[:3] + keys[4:]
    told = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in told] == ["nonsense", receipts[3], "a,b"]
    assert stats(restmq, fresh_name)["leased"] == 0


def test_a_stale_receipt_is_one_line_and_exit_code_1(restmq: Run, fresh_name: str) -> None:
    restmq("add", fresh_name, "a")
    (message,) = documents(restmq("lease", fresh_name))
    assert restmq("ack", message["receipt"]).exit_code == 0
    for command in (("ack",), ("nack",), ("nack", "--dead", "x"), ("extend",)):
        end = ("30",) if command == ("extend",) else ()
        result = restmq(command[0], message["receipt"], *command[1:], *end)
        assert (result.exit_code, result.stdout) == (1, "")
        assert re.fullmatch(r"restmq: .*settled.*\n", result.stderr)


def test_settling_without_a_server_stops_at_once(restmq: Run) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in ("ack", "nack"):
        result = restmq(command, "1.a.b", "2.a.b", "--url", url)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1


# Dead letters


def buried(run: Run, queue: str, count: int = 1) -> list[dict[str, Any]]:
    """Give the next messages up, and return what the list of dead letters says."""
    for message in documents(run("lease", queue, "-n", str(count))):
        assert run("nack", message["receipt"], "--dead", "no good").exit_code == 0
    return documents(run("dead", queue, "--all"))


def test_dead_letters_are_listed_put_back_and_dropped(restmq: Run, fresh_name: str) -> None:
    assert restmq("dead", fresh_name).output == ""
    restmq("add", fresh_name, *map(str, range(130)))
    letters = buried(restmq, fresh_name, 130)
    assert [letter["value"] for letter in letters] == list(map(str, range(130)))
    assert {letter["reason"] for letter in letters} == {"no good"}
    assert len(documents(restmq("dead", fresh_name))) == 20
    assert len(documents(restmq("dead", fresh_name, "-n", "110"))) == 110
    assert restmq("redrive", fresh_name, "--key", letters[7]["key"]).stdout == "1\n"
    assert restmq("redrive", fresh_name, "--count", "2").stdout == "2\n"
    assert restmq("take", fresh_name, "--all").stdout.split() == ["0", "1", "7"]
    assert restmq("redrive", fresh_name, "--key", f"{fresh_name}:999").exit_code == 1
    assert restmq("redrive", fresh_name, "--key", "x", "--count", "1").exit_code == 2
    assert restmq("dead", fresh_name, "--drop", "--all").exit_code == 2
    assert restmq("dead", fresh_name, "--drop").stdout == "127\n"
    assert restmq("redrive", fresh_name).stdout == "0\n"


def test_on_a_terminal_dead_is_a_table_and_drop_asks(
    restmq: Run, server_url: str, fresh_name: str
) -> None:
    restmq("add", fresh_name, "[b]poison[/b]\x1b[2J")
    buried(restmq, fresh_name)
    ours, theirs = pty.openpty()
    with child(server_url, "dead", fresh_name, stdout=theirs) as table:
        assert table.wait(DEADLINE_SECONDS) == 0
        shown = os.read(ours, 65536).decode()
        assert "no good" in shown
        assert "\x1b[2J" not in shown
    with child(server_url, "dead", fresh_name, "--drop", stdin=theirs) as drop:
        os.write(ours, b"n\n")
        _, told = drop.communicate(timeout=DEADLINE_SECONDS)
        assert drop.returncode == 1
        assert b"Delete all dead letters" in told
    assert len(documents(restmq("dead", fresh_name))) == 1
    os.close(ours)
    os.close(theirs)


# Settings


def test_settings_are_shown_changed_and_taken_back(restmq: Run, fresh_name: str) -> None:
    def shown(*arguments: str) -> dict[str, str]:
        result = restmq("settings", fresh_name, *arguments)
        assert result.exit_code == 0, result.output
        return dict(line.split("\t") for line in result.stdout.splitlines())

    defaults = shown()
    assert (defaults["max_attempts"], defaults["ttl"]) == ("5", "none")
    changed = shown("max_attempts=3", "policy=roundrobin", 'copies_to=["a b"]', "ttl=60")
    assert changed["policy"] == "roundrobin"
    assert (changed["copies_to"], changed["ttl"]) == ('["a b"]', "60")
    assert shown("max_attempts=null", "ttl=none")["max_attempts"] == "5"
    assert shown("--reset") == defaults
    (document,) = documents(restmq("settings", fresh_name, "--json"))
    assert document["copies_to"] == []


@pytest.mark.parametrize(
    ("change", "exit_code"), [("zap=1", 1), ("ttl=soon", 1), ("ttl", 2), ("=1", 2), ("ttl=NaN", 1)]
)
def test_a_wrong_setting_changes_nothing(
    restmq: Run, fresh_name: str, change: str, exit_code: int
) -> None:
    result = restmq("settings", fresh_name, "max_attempts=3", change)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert "max_attempts\t5\n" in restmq("settings", fresh_name).stdout
    assert restmq("settings", fresh_name, "ttl=1", "--reset").exit_code == 2


# Listening with acknowledgement


def child(
    server_url: str,
    *arguments: str,
    stdin: int = subprocess.PIPE,
    stdout: int = subprocess.PIPE,
    **environ: str,
) -> "subprocess.Popen[bytes]":
    """Start ``python -m restmq`` as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "restmq", *arguments],
        env={**os.environ, "RESTMQ_URL": server_url, "PYTHONWARNINGS": "error", **environ},
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def script(folder: Path, text: str) -> str:
    """Write a shell script, and return a command line that runs it."""
    path = folder / "work it.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return f"'{path}'"


def empty(run: Run, queue: str) -> bool:
    numbers = stats(run, queue)
    return [numbers[name] for name in ("ready", "delayed", "leased", "dead")] == [0, 0, 0, 0]


@pytest.mark.parametrize("stream_format", ["sse", "comet"])
def test_what_was_printed_is_acked(restmq: Run, fresh_name: str, stream_format: str) -> None:
    restmq("add", fresh_name, "a", "b", "c")
    result = restmq("listen", fresh_name, "--ack", "-n", "2", "--format", stream_format)
    assert (result.exit_code, result.output) == (0, "a\nb\n")
    until(lambda: stats(restmq, fresh_name)["ready"] == 1)
    assert stats(restmq, fresh_name)["leased"] == 0


def test_what_nobody_reads_is_not_acked(restmq: Run, server_url: str, fresh_name: str) -> None:
    restmq("add", fresh_name, "a")
    reader, writer = os.pipe()
    os.close(reader)
    with child(server_url, "listen", fresh_name, "--ack", stdout=writer) as process:
        os.close(writer)
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, told) == (0, b"")
    until(lambda: stats(restmq, fresh_name)["ready"] == 1)


def test_a_command_gets_value_and_environment_and_its_exit_code_decides(
    restmq: Run, server_url: str, fresh_name: str, tmp_path: Path
) -> None:
    value = bytes(range(1, 256)) + b"\n\n"
    restmq("add", fresh_name, "--whole", "--content-type", "text/x-π"[:7], given=value)
    tell = 'cat > "$OUT/$RESTMQ_ATTEMPT"; echo "$RESTMQ_KEY $RESTMQ_QUEUE $RESTMQ_CONTENT_TYPE"'
    command = script(tmp_path, f'{tell}; echo "$1"; test "$RESTMQ_ATTEMPT" = 2 || exit 7')
    flags = ("--ack", "-n", "2", "--retry-delay", "0", "--exec", f"{command} '$HOME *'")
    with child(server_url, "listen", fresh_name, *flags, OUT=str(tmp_path)) as process:
        output, told = process.communicate(timeout=DEADLINE_SECONDS)
    assert output.decode() == f"{fresh_name}:1 {fresh_name} text/x-\n$HOME *\n" * 2
    assert told.decode() == f"restmq: {fresh_name}:1: attempt 1 failed with exit code 7\n"
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes() == value
    assert empty(restmq, fresh_name)


def test_a_shell_reads_the_command_when_told_to(
    restmq: Run, server_url: str, fresh_name: str
) -> None:
    restmq("add", fresh_name, "a b")
    flags = ("--ack", "-n", "1", "--shell", "--exec", 'echo "$(cat | wc -w)" words')
    with child(server_url, "listen", fresh_name, *flags) as process:
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert output.split() == [b"2", b"words"]


def test_what_always_fails_becomes_a_dead_letter(
    restmq: Run, server_url: str, fresh_name: str
) -> None:
    restmq("settings", fresh_name, "max_attempts=3")
    restmq("add", fresh_name, "poison")
    flags = ("--ack", "-n", "3", "--exec", "false", "--retry-delay", "0")
    with child(server_url, "listen", fresh_name, *flags) as process:
        process.communicate(timeout=DEADLINE_SECONDS)
    (letter,) = documents(restmq("dead", fresh_name))
    assert (letter["value"], letter["attempts"]) == ("poison", 3)


def test_jobs_run_at_once(restmq: Run, server_url: str, fresh_name: str, tmp_path: Path) -> None:
    """Each of three jobs waits until all three have begun."""
    restmq("add", fresh_name, "1", "2", "3")
    meet = 'touch "begun-$(cat)"; until [ "$(ls begun-* | wc -l)" = 3 ]; do sleep 0.02; done'
    flags = ("--ack", "-n", "3", "--jobs", "3", "--shell", "--exec", f"cd '{tmp_path}'; {meet}")
    with child(server_url, "listen", fresh_name, *flags) as process:
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, told) == (0, b"")
    assert empty(restmq, fresh_name)


def test_the_lease_is_extended_while_the_command_runs(
    restmq: Run, server_url: str, fresh_name: str, tmp_path: Path
) -> None:
    """It stays with who works on it for longer than the lease of one second."""
    restmq("add", fresh_name, "v")
    command = f"touch '{tmp_path}/begun'; until [ -e '{tmp_path}/finish' ]; do sleep 0.02; done"
    flags = ("--ack", "-n", "1", "--lease", "1", "--shell", "--exec", command)
    with child(server_url, "listen", fresh_name, *flags) as process:
        until((tmp_path / "begun").exists)
        ends = lease_end(server_url, fresh_name)
        until(lambda: lease_end(server_url, fresh_name) > ends + 1.2)
        (tmp_path / "finish").touch()
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, told) == (0, b"")
    assert empty(restmq, fresh_name)


def story(server_url: str, queue: str, number: int = 1) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server_url}/m/{queue}:{number}") as response:
        return dict(json.load(response))


def lease_end(server_url: str, queue: str, number: int = 1) -> float:
    told = story(server_url, queue, number)
    assert (told["state"], told["attempts"]) == ("leased", 1)
    return float(told["lease_expires"])


def test_the_lease_is_extended_of_what_waits_for_its_turn(
    restmq: Run, server_url: str, fresh_name: str, tmp_path: Path
) -> None:
    restmq("add", fresh_name, "1", "2", "3", "4")
    command = f"cat >> '{tmp_path}/begun'; until [ -e '{tmp_path}/finish' ]; do sleep 0.02; done"
    flags = ("--prefetch", "3", "--lease", "1", "-n", "4", "--shell", "--exec", command)
    with child(server_url, "listen", fresh_name, "--ack", *flags) as process:
        until(lambda: stats(restmq, fresh_name)["leased"] == 3)
        ends = lease_end(server_url, fresh_name, 3)
        until(lambda: lease_end(server_url, fresh_name, 3) > ends + 1.2)
        (tmp_path / "finish").touch()
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, told) == (0, b"")
    assert (tmp_path / "begun").read_text() == "1234"
    assert empty(restmq, fresh_name)


def test_what_was_lost_while_suspended_is_not_begun(
    restmq: Run, server_url: str, fresh_name: str, tmp_path: Path
) -> None:
    restmq("add", fresh_name, "1", "2")
    command = f"cat >> '{tmp_path}/begun'; until [ -e '{tmp_path}/finish' ]; do sleep 0.02; done"
    flags = ("--prefetch", "2", "--lease", "1", "-n", "2", "--shell", "--exec", command)
    with child(server_url, "listen", fresh_name, "--ack", *flags) as process:
        until((tmp_path / "begun").exists)
        until(lambda: stats(restmq, fresh_name)["leased"] == 2)
        process.send_signal(signal.SIGSTOP)
        settled: set[str] = set()

        def others_did_both() -> bool:
            settled.update(restmq("take", fresh_name, "--all").stdout.split())
            return settled == {"1", "2"}

        until(others_did_both)
        (tmp_path / "finish").touch()
        restmq("add", fresh_name, "3")
        process.send_signal(signal.SIGCONT)
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0, told
    assert (tmp_path / "begun").read_text() == "13"
    assert empty(restmq, fresh_name)


def test_listening_leases_for_as_long_as_the_queue_says(
    restmq: Run, server_url: str, fresh_name: str, tmp_path: Path
) -> None:
    begun, finish = tmp_path / "begun", tmp_path / "finish"
    restmq("settings", fresh_name, "lease_seconds=4000")
    restmq("add", fresh_name, "v")
    command = f"touch '{begun}'; until [ -e '{finish}' ]; do sleep 0.02; done"
    flags = ("--ack", "-n", "1", "--shell", "--exec", command)
    with child(server_url, "listen", fresh_name, *flags) as process:
        until(begun.exists)
        long_end = lease_end(server_url, fresh_name)
        finish.touch()
        assert process.wait(DEADLINE_SECONDS) == 0
    restmq("settings", fresh_name, "lease_seconds=1")
    restmq("add", fresh_name, "v")
    begun.unlink()
    finish.unlink()
    with child(server_url, "listen", fresh_name, *flags) as process:
        until(begun.exists)
        short_end = lease_end(server_url, fresh_name, 2)
        assert long_end > short_end + 3000
        until(lambda: lease_end(server_url, fresh_name, 2) > short_end + 1.2)
        finish.touch()
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, told) == (0, b"")
    assert empty(restmq, fresh_name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_command_finish_and_begins_nothing_more(
    restmq: Run, server_url: str, fresh_name: str, tmp_path: Path, number: int
) -> None:
    restmq("add", fresh_name, "1", "2")
    begun, finish = tmp_path / "begun", tmp_path / "finish"
    command = f"echo x >> '{begun}'; until [ -e '{finish}' ]; do sleep 0.02; done"
    flags = ("--ack", "--shell", "--exec", command, "--grace", "60")
    with child(server_url, "listen", fresh_name, *flags) as process:
        until(begun.exists)
        process.send_signal(number)
        finish.touch()
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, told) == (0, b"")
    assert begun.read_text() == "x\n"
    until(lambda: stats(restmq, fresh_name)["leased"] == 0)
    assert restmq("take", fresh_name, "--all").stdout == "2\n"


def test_what_outlasts_the_grace_is_ended_and_not_acked(
    restmq: Run, server_url: str, fresh_name: str, tmp_path: Path
) -> None:
    restmq("add", fresh_name, "v")
    begun = tmp_path / "begun"
    command = f"trap '' TERM; echo $$ > '{begun}.new'; mv '{begun}.new' '{begun}'; sleep 1000"
    flags = ("--ack", "--shell", "--exec", command, "--grace", "0")
    with child(server_url, "listen", fresh_name, *flags) as process:
        until(begun.exists)
        process.terminate()
        _, told = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 0
        assert b"cutting short" in told
        assert b"signal 9" in told
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    until(lambda: story(server_url, fresh_name)["state"] == "ready")


def test_a_killed_listener_gives_back_what_it_held(
    restmq: Run, server_url: str, fresh_name: str, tmp_path: Path
) -> None:
    restmq("add", fresh_name, "v")
    begun = tmp_path / "begun"
    command = f"touch '{begun}'; exec sleep 0.5"
    flags = ("--ack", "--lease", "600", "--shell", "--exec", command)
    with child(server_url, "listen", fresh_name, *flags) as process:
        until(begun.exists)
        process.kill()
    until(lambda: story(server_url, fresh_name)["state"] == "ready")


def test_a_purge_does_not_end_a_worker(restmq: Run, server_url: str, fresh_name: str) -> None:
    with child(server_url, "listen", fresh_name, "--ack", "-n", "2") as process:
        assert process.stdout is not None
        for value in ("before", "after"):
            restmq("add", fresh_name, value)
            assert process.stdout.readline() == f"{value}\n".encode()
            if value == "before":
                until(lambda: stats(restmq, fresh_name)["leased"] == 0)
                restmq("purge", fresh_name)
        assert process.wait(DEADLINE_SECONDS) == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--exec", "true"),
        ("--prefetch", "2"),
        ("--lease", "5"),
        ("--ack", "--jobs", "2"),
        ("--ack", "--shell"),
        ("--ack", "--grace", "1"),
        ("--ack", "--retry-delay", "1"),
        ("--ack", "--exec", "no-such-command-anywhere"),
        ("--ack", "--exec", "'unbalanced"),
        ("--ack", "--exec", ""),
        ("--ack", "--exec", "true", "--json"),
    ],
)
def test_listen_refuses_what_does_not_go_together(
    restmq: Run, fresh_name: str, flags: tuple[str, ...]
) -> None:
    result = restmq("listen", fresh_name, *flags)
    assert (result.exit_code, result.stdout) == (2, "")
