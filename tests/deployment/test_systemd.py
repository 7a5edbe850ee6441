"""The shipped systemd units, and the server under the protocol of a service manager."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest

from restmq.settings_sources import load
from restmq.socket_activation import NAMES
from tests.deployment.programs import ROOT, program, replace_once
from tests.server_process import command_line
from tests.support import eventually, free_port

UNITS = ROOT / "start_scripts" / "systemd"
PATIENCE_SECONDS = 60

PASS_SOCKETS = """
import fcntl, os, sys
passed, *command = sys.argv[1:]
moved = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in passed.split(",")]
for at, each in enumerate(moved, 3):
    os.dup2(each, at)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, *command])
"""
"""Makes descriptors those from 3 on, of the process that this one becomes."""

NO_WRITABLE_CODE = """
import ctypes, os, sys
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0):
    sys.exit(77)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""The kernel's own MemoryDenyWriteExecute=, which is inherited by all that is started from here."""


def unit_values(unit: str, name: str) -> list[str]:
    """Return the values of a setting of a shipped unit."""
    return re.findall(rf"^{name}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    service = replace_once(
        (UNITS / "restmq.service").read_text(), ("/opt/restmq/bin/restmq", sys.executable)
    )
    (tmp_path / "restmq.service").write_text(service)
    for unit in UNITS.glob("*.socket"):
        shutil.copy(unit, tmp_path)
    paths = sorted(map(str, tmp_path.glob("restmq*")))
    assert len(paths) == 4
    checked = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *paths],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert checked.returncode == 0, checked.stderr
    # It may complain about units of this machine, but not about these.
    assert "restmq" not in checked.stdout + checked.stderr


def test_the_sandbox_is_as_tight_as_it_says(tmp_path: Path) -> None:
    checked = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=true", UNITS / "restmq.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.search(r"Overall exposure level for restmq.service: ([0-9.]+)", checked.stdout)
    assert match is not None, checked.stdout + checked.stderr
    assert float(match[1]) < 2.5, checked.stdout


def test_every_socket_has_a_name_that_the_server_knows() -> None:
    names = [unit_values(path.name, "FileDescriptorName")[0] for path in UNITS.glob("*.socket")]
    assert sorted(names) == sorted(NAMES)


def test_the_settings_that_are_shipped_are_settings(tmp_path: Path) -> None:
    settings = load({"config": str(UNITS / "restmq.toml")}, {}, tmp_path)
    (state_directory,) = unit_values("restmq.service", "StateDirectory")
    assert settings.data_dir == Path("/var/lib") / state_directory
    stop_seconds = float(unit_values("restmq.service", "TimeoutStopSec")[0].removesuffix("s"))
    assert stop_seconds >= settings.drain_seconds + 30


class Served:
    """A server that was started as a service manager does."""

    def __init__(self, process: asyncio.subprocess.Process, manager: socket.socket) -> None:
        self.process = process
        self.manager = manager

    async def told(self) -> str:
        """Return the next thing that the manager is told, but for signs of life."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                text = (await loop.sock_recv(self.manager, 4096)).decode()
                if text != "WATCHDOG=1":
                    return text


@contextlib.asynccontextmanager
async def served(
    directory: Path, sockets: Sequence[socket.socket], names: str, *flags: str
) -> AsyncIterator[Served]:
    """Run ``restmq serve`` with these sockets as its descriptors from 3 on."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    path = directory / "notify"
    path.unlink(missing_ok=True)
    manager.bind(str(path))
    passed = [each.fileno() for each in sockets]
    log = directory / "server.log"
    with manager, log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PASS_SOCKETS, ",".join(map(str, passed))),
            *("-m", "restmq", "serve", "--port", "1", "--data-dir", "data", *flags),
            pass_fds=passed,
            stdout=output,
            stderr=output,
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "LISTEN_FDS": str(len(sockets)),
                "LISTEN_FDNAMES": names,
                "NOTIFY_SOCKET": str(path),
                "WATCHDOG_USEC": "400000",
            },
        )
        try:
            yield Served(process, manager)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)


def listening(count: int) -> list[socket.socket]:
    return [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]


def url_of(each: socket.socket) -> str:
    return f"http://127.0.0.1:{each.getsockname()[1]}"


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_server_serves_on_what_it_is_passed_and_tells_its_manager(
    tmp_path: Path, fresh_name: str, workers: int
) -> None:
    http, stomp, rse = sockets = listening(3)
    with contextlib.ExitStack() as stack:
        for each in sockets:
            stack.enter_context(each)
        flags = ("--workers", str(workers), "--rse-test-mode", "true")
        async with (
            served(tmp_path, sockets, "http:stomp:rse", *flags) as server,
            aiohttp.ClientSession() as session,
        ):
            assert await server.told() == "READY=1"
            # Who comes first waits in the socket, so nobody need be asked whether it is there.
            url = f"{url_of(http)}/q/{fresh_name}"
            for value in map(str, range(10)):
                async with session.post(url, data={"value": value}) as answer:
                    assert answer.status == 200, await answer.text()
            async with session.get(f"{url_of(rse)}/health") as answer:
                assert await answer.text() == "OK\n"
            await connect_stomp(stomp)
            server.process.send_signal(signal.SIGTERM)
            told = await server.told()
            while told == "READY=1":  # of each worker
                told = await server.told()
            assert told == "STOPPING=1"
            assert await server.process.wait() == 0
        # The next one takes over the same socket; a client that came in between has waited.
        async with (
            served(tmp_path, [http], "http", *flags),
            aiohttp.ClientSession() as session,
            session.get(url) as answer,
        ):
            assert (await answer.json())["value"] == "0"


async def connect_stomp(listener: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(b"CONNECT\naccept-version:1.2\nhost:x\n\n\0")
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert (await reader.readline()).strip() == b"CONNECTED"
    writer.close()
    await writer.wait_closed()


async def test_a_socket_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    sockets = listening(1)
    with sockets[0]:
        async with served(tmp_path, sockets, "web") as server:
            assert await server.process.wait() == 1
    assert "one of http, stomp, rse" in (tmp_path / "server.log").read_text()


async def test_systemd_starts_it_when_the_first_client_comes(
    tmp_path: Path, fresh_name: str
) -> None:
    port = free_port()
    with (tmp_path / "server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(program("systemd-socket-activate"), "-l", f"127.0.0.1:{port}", "--fdname=http"),
            *("-E", f"PYTHONPATH={ROOT}", sys.executable, "-m", "restmq", "serve"),
            *("--data-dir", "data"),
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )
    try:
        async with aiohttp.ClientSession() as session:

            async def published() -> bool:
                assert process.returncode is None, (tmp_path / "server.log").read_text()
                url = f"http://127.0.0.1:{port}/q/{fresh_name}"
                try:
                    async with session.post(url, data={"value": "v"}) as answer:
                        return answer.status == 200
                except aiohttp.ClientConnectorError:  # it does not listen yet
                    return False

            await eventually(published, PATIENCE_SECONDS)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)


async def test_it_runs_where_no_memory_is_writable_and_executable(
    tmp_path: Path, fresh_name: str
) -> None:
    port = free_port()
    with (tmp_path / "server.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", NO_WRITABLE_CODE, "-m", "restmq", "serve"),
            *("--data-dir", "data", "--port", str(port), "--workers", "2"),
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    url = f"http://127.0.0.1:{port}/q/{fresh_name}"
    try:
        async with aiohttp.ClientSession() as session:

            async def is_ready() -> bool:
                if process.returncode == 77:
                    pytest.skip("the kernel has no PR_SET_MDWE, which came with Linux 6.3")
                assert process.returncode is None, (tmp_path / "server.log").read_text()
                try:
                    async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                        return answer.status == 200
                except aiohttp.ClientError:
                    return False

            await eventually(is_ready, PATIENCE_SECONDS)
            async with session.post(url, data={"value": "v"}) as answer:
                assert answer.status == 200
            async with session.get(f"{url}?lease=30") as answer:
                assert (await answer.json())["value"] == "v"
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)
    assert process.returncode == 0
    assert command_line(process.pid) == ""
