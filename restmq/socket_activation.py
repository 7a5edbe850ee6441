"""Listening sockets that a service manager opened before it started the server.

It follows the protocol of systemd, sd_listen_fds(3): the sockets are the descriptors from 3 on,
``LISTEN_FDS`` counts them, ``LISTEN_PID`` says for which process they are meant, and
``LISTEN_FDNAMES`` names them, with colons in between. While the server is restarted, its clients
wait in such a socket instead of being refused.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Final

from restmq.errors import StartupError

HTTP, STOMP, RSE = "http", "stomp", "rse"
NAMES: Final = (HTTP, STOMP, RSE)
"""What a socket can be called, by ``FileDescriptorName=`` of its unit."""

MAX_SOCKETS: Final = 100

FIRST_DESCRIPTOR: Final = 3

_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

PassedSockets = Mapping[str, Sequence[socket.socket]]
"""Sockets that listen, by what they are called."""


def take_sockets(
    environ: MutableMapping[str, str], first_descriptor: int = FIRST_DESCRIPTOR
) -> PassedSockets:
    """Return the sockets that were passed to this process; none if nobody passed any.

    Without names all of them are for HTTP. The variables are taken out of ``environ`` and the
    sockets are not inherited by what is executed, so that no child takes them for its own.

    Raises StartupError for a socket of another name or kind.
    """
    process, count, names = (environ.pop(name, "") for name in _VARIABLES)
    if process != str(os.getpid()) or not count:
        return {}
    if not (count.isascii() and count.isdigit() and len(count) <= 3 and int(count) <= MAX_SOCKETS):
        raise StartupError(f"LISTEN_FDS must be a number from 0 to {MAX_SOCKETS}, not {count!r}")
    called = names.split(":") if names else [HTTP] * int(count)
    if len(called) != int(count):
        raise StartupError(f"LISTEN_FDNAMES holds {len(called)} names for {count} sockets")
    found: dict[str, list[socket.socket]] = {}
    for descriptor, name in enumerate(called, first_descriptor):
        if name not in NAMES:
            raise StartupError(
                f"a socket that was passed is called {name!r}; FileDescriptorName= of its unit"
                f" must be one of {', '.join(NAMES)}"
            )
        found.setdefault(name, []).append(_listening_socket(descriptor, name))
    return found


def _listening_socket(descriptor: int, name: str) -> socket.socket:
    """Make an object of a descriptor; raises StartupError unless it listens over TCP."""
    try:
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
    except OSError as error:
        raise StartupError(
            f"descriptor {descriptor} ({name}) is no socket: {error.strerror}"
        ) from error
    is_tcp = passed.family in (socket.AF_INET, socket.AF_INET6)
    if (
        not is_tcp
        or passed.type != socket.SOCK_STREAM
        or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        passed.detach()
        raise StartupError(
            f"the socket that was passed as {name} does not listen over TCP; its unit needs"
            " ListenStream= with a port"
        )
    passed.setblocking(False)
    return passed


def address_of(passed: socket.socket) -> tuple[str, int]:
    """Return where a socket listens: address and port."""
    host, port, *_ = passed.getsockname()
    return host, port
