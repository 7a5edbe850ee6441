"""What a service manager is told, and how often."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from restmq.systemd_notify import ALIVE, READY, notify, watchdog_seconds, watched


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(20)
        yield receiver


def test_lines_go_out_in_one_datagram(manager: socket.socket) -> None:
    assert notify({"NOTIFY_SOCKET": manager.getsockname()}, READY, "STATUS=serving")
    assert manager.recv(4096) == b"READY=1\nSTATUS=serving"


def test_a_name_of_the_abstract_namespace_begins_with_an_at_sign() -> None:
    name = f"restmq-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(20)
        assert notify({"NOTIFY_SOCKET": f"@{name}"}, READY)
        assert receiver.recv(4096) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1", "/nowhere/at/all", "/" + 200 * "x"])
def test_nobody_to_tell_is_no_trouble(address: str | None) -> None:
    assert not notify({} if address is None else {"NOTIFY_SOCKET": address}, READY)


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "9" * 40}, None),
    ],
)
def test_signs_of_life_are_wanted_of_the_process_that_is_named(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert watchdog_seconds(environ) == seconds


async def test_signs_of_life_come_while_the_loop_runs_and_end_with_it(
    manager: socket.socket,
) -> None:
    manager.setblocking(False)
    loop = asyncio.get_running_loop()
    environ = {"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "100000"}
    async with watched(environ), asyncio.timeout(20):
        for _ in range(3):
            assert await loop.sock_recv(manager, 4096) == ALIVE.encode()
    tasks = {task.get_name() for task in asyncio.all_tasks()}
    assert "watchdog" not in tasks


async def test_nothing_comes_where_nothing_is_wanted(manager: socket.socket) -> None:
    async with watched({"NOTIFY_SOCKET": manager.getsockname()}):
        assert "watchdog" not in {task.get_name() for task in asyncio.all_tasks()}
