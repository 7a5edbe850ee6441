"""Sockets that were passed to a process: taken, named, and refused when they are of no use."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from restmq.errors import StartupError
from restmq.socket_activation import address_of, take_sockets


@contextlib.contextmanager
def passed(*sockets: socket.socket) -> Iterator[int]:
    """Give the sockets descriptors that follow each other, high above all; yields the first."""
    first = 700
    for at, each in enumerate(sockets, first):
        os.dup2(each.fileno(), at)
    try:
        yield first
    finally:
        for at in range(first, first + len(sockets)):
            with contextlib.suppress(OSError):
                os.close(at)


def environment(count: int | str, names: str | None = None, pid: int = 0) -> dict[str, str]:
    found = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "HOME": "/"}
    return found if names is None else {**found, "LISTEN_FDNAMES": names}


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as each:
        yield each


def test_nothing_is_passed_unless_somebody_says_so() -> None:
    assert take_sockets({}) == {}
    assert take_sockets({"LISTEN_FDS": "1"}) == {}


def test_what_is_meant_for_another_process_is_left_alone(listening: socket.socket) -> None:
    environ = environment(1, "http", pid=1)
    with passed(listening) as first:
        assert take_sockets(environ, first) == {}
        os.fstat(first)  # still open


def test_sockets_come_by_their_names(listening: socket.socket) -> None:
    environ = environment(3, "http:stomp:http")
    with passed(listening, listening, listening) as first:
        found = take_sockets(environ, first)
        assert {name: len(sockets) for name, sockets in found.items()} == {"http": 2, "stomp": 1}
        assert address_of(found["stomp"][0]) == listening.getsockname()
        assert not any(each.get_inheritable() for sockets in found.values() for each in sockets)
        assert environ == {"HOME": "/"}
        for sockets in found.values():
            for each in sockets:
                each.close()


def test_without_names_they_are_for_http(listening: socket.socket) -> None:
    with passed(listening) as first:
        found = take_sockets(environment(1), first)
        assert list(found) == ["http"]
        found["http"][0].close()


def test_no_sockets_are_none() -> None:
    assert take_sockets(environment(0)) == {}


@pytest.mark.parametrize(
    ("count", "names", "complaint"),
    [
        (1, "web", "'web'.*http, stomp, rse"),
        (2, "http", "1 names for 2 sockets"),
        ("-1", "http", "LISTEN_FDS"),
        ("9" * 30, None, "LISTEN_FDS"),
        ("101", None, "LISTEN_FDS"),
    ],
)
def test_what_does_not_fit_is_refused(
    listening: socket.socket, count: int | str, names: str | None, complaint: str
) -> None:
    with passed(listening, listening) as first, pytest.raises(StartupError, match=complaint):
        take_sockets(environment(count, names), first)


@pytest.mark.parametrize("kind", ["connected", "datagram", "unix", "file"])
def test_only_what_listens_over_tcp_is_taken(kind: str, listening: socket.socket) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "connected":
            other = stack.enter_context(socket.create_connection(listening.getsockname()))
        elif kind == "datagram":
            other = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        elif kind == "unix":
            other = stack.enter_context(socket.socket(socket.AF_UNIX))
        if kind == "file":
            first = os.open("/dev/null", os.O_RDONLY)
            stack.callback(os.close, first)
        else:
            first = stack.enter_context(passed(other))
        with pytest.raises(StartupError, match="http"):
            take_sockets(environment(1, "http"), first)
