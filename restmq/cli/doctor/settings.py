"""What ``restmq doctor`` says about files, ports and the data directory of the settings."""

import errno
import fcntl
import http.client
import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

from restmq.access import keys_path
from restmq.cli.doctor.findings import Finding, Findings, ok, problem, warning
from restmq.knobs import without_password
from restmq.settings import Settings, knobs

LOCK_FILE = "server.lock"
ASK_TIMEOUT_SECONDS = 2.0
ALIVE = b"alive"
_PASSWORD = re.compile(rb"^\s*password\s*=", re.MULTILINE)
_PRIVATE_KEY = re.compile(rb"PRIVATE KEY")


def check_files(settings: Settings) -> Findings:
    """Look at who else may read or change the files that hold secrets or rules."""
    secret_names = sorted(_secrets_from(settings, f"{settings.config_file} "))
    if settings.config_file is not None:
        yield from _check_file("settings-file", settings.config_file, ", ".join(secret_names))
    yield from _check_content("access-file", Path(settings.acl), _PASSWORD, "passwords")
    # It holds hashes, which are for nobody to guess from.
    yield from _check_content("key-file", keys_path(settings.keys, settings.acl), None, "")
    for name in _private_key_names():
        text = str(getattr(settings, name) or "")
        if text:
            yield from _check_content("key-file", Path(text), _PRIVATE_KEY, "a private key")
    flags = sorted(_secrets_from(settings, "--"))
    if flags:
        yield warning(
            "secret-flag",
            f"{', '.join(flags)}: given as an option, which every user of this machine can see",
            "put it into the TOML file, or into a RESTMQ_ variable",
        )


def _secrets_from(settings: Settings, beginning: str) -> Iterator[str]:
    """Yield the names of the secrets that come from a place whose name begins so."""
    for knob in knobs():
        value = getattr(settings, knob.name)
        is_secret = bool(value) and knob.secret
        if is_secret and "://" in str(value):  # most addresses hold no password
            is_secret = without_password(str(value)) != str(value)
        if is_secret and settings.sources.get(knob.name, "").startswith(beginning):
            yield knob.name


def _private_key_names() -> Iterator[str]:
    for knob in knobs():
        is_path = knob.value_type is str and knob.name.endswith(("_key", "_certificate"))
        if is_path and not knob.secret:
            yield knob.name


def _check_content(
    check: str, file: Path, secret: re.Pattern[bytes] | None, called: str
) -> Findings:
    """Look at a file if there is one; it holds what is ``called`` so if ``secret`` is in it."""
    try:
        if not file.is_file():
            return
        content = file.read_bytes()
    except OSError as error:
        yield _unreadable(check, file, error)
        return
    is_secret = secret is not None and secret.search(content) is not None
    yield from _check_file(check, file, called if is_secret else "")


def _unreadable(check: str, file: Path, error: OSError) -> Finding:
    reason = error.strerror or str(error)
    remedy = f"let the server's user read it, or run restmq doctor as that user ({_user()} now)"
    return problem(check, f"{file} cannot be read: {reason}", remedy)


def _check_file(check: str, file: Path, secrets: str) -> Findings:
    try:
        mode = file.stat().st_mode
    except OSError as error:
        yield _unreadable(check, file, error)
        return
    if mode & stat.S_IWOTH:
        what = f"every user of this machine can change {file}"
        yield problem(check, what, f"chmod o-rwx {file}")
    elif mode & stat.S_IROTH and secrets:
        what = f"every user of this machine can read {file}, which holds {secrets}"
        yield problem(check, what, f"chmod o-rwx {file}")
    else:
        yield ok(check, f"{file} is safe from others ({stat.filemode(mode)})")


def check_places(settings: Settings) -> Findings:
    """Look at the data directory and the ports: can a server start, or does it run already?"""
    holder = None
    if settings.external_redis_url is None:
        holder = lock_holder(settings.data_dir)
        try:
            finding = _check_directory(settings.data_dir)
        except OSError as error:  # a directory on the way may not be entered
            finding = _unreadable("data-directory", settings.data_dir, error)
        if finding is not None:
            yield finding
    taken = _why_not_bind(settings.listen, settings.port, socket.SOCK_STREAM)
    is_server = taken == errno.EADDRINUSE and _is_restmq(settings)
    # With a Redis elsewhere nothing tells the server that runs from another one.
    is_running = is_server and (holder is not None or settings.external_redis_url is not None)
    if holder is not None and not is_running:
        yield problem(
            "data-directory",
            f"{settings.data_dir} is held by {holder}, which does not serve on port "
            f"{settings.port}",
            "stop that server, or choose another directory with --data-dir",
        )
    if is_running:
        yield ok("ports", f"a server runs with these settings on port {settings.port}")
        return
    if is_server:
        yield problem(
            "ports",
            f"another RestMQ server listens on {settings.listen} port {settings.port}",
            "stop that server, or choose another --port",
        )
    elif taken is not None:
        yield _cannot_listen("port", settings.listen, settings.port, taken)
    yield from _check_other_ports(settings)


def _check_other_ports(settings: Settings) -> Findings:
    kinds = {"syslog_port": (socket.SOCK_STREAM, socket.SOCK_DGRAM)}
    free = []
    for knob in knobs():
        port = getattr(settings, knob.name)
        if knob.name in ("port", "redis_port") or not knob.name.endswith("_port") or not port:
            continue
        for kind in kinds.get(knob.name, (socket.SOCK_STREAM,)):
            taken = _why_not_bind(settings.listen, port, kind)
            if taken is not None:
                yield _cannot_listen(knob.name, settings.listen, port, taken)
                break
        else:
            free.append(str(port))
    if _why_not_bind(settings.listen, settings.port, socket.SOCK_STREAM) is None:
        free.insert(0, str(settings.port))
    if free:
        yield ok("ports", f"free on {settings.listen}: {', '.join(free)}")


def _cannot_listen(name: str, host: str, port: int, reason: int) -> Finding:
    what = f"{name}: cannot listen on {host} port {port}: {os.strerror(reason)}"
    remedy = f"choose another --{name.replace('_', '-')}"
    if reason == errno.EADDRINUSE:
        remedy = f"stop what listens there (ss -lntup 'sport = :{port}'), or {remedy}"
    elif reason in (errno.EACCES, errno.EPERM):
        remedy = f"{remedy} from 1024 on, or allow it with CAP_NET_BIND_SERVICE"
    else:
        remedy = "set listen to an address of this machine"
    return problem("ports", what, remedy)


def _why_not_bind(host: str, port: int, kind: socket.SocketKind) -> int | None:
    """Try what the server would do; returns the error number, or None if it can be done."""
    try:
        found = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    except OSError:
        return errno.EADDRNOTAVAIL
    for family, _, _, _, address in found:
        try:
            with socket.socket(family, kind) as probe:
                if kind == socket.SOCK_STREAM:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
        except OSError as error:
            return error.errno or errno.EADDRNOTAVAIL
    return None


def _is_restmq(settings: Settings) -> bool:
    """Whether what listens there answers as a RestMQ server does."""
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not listened on
    host = wildcards.get(settings.listen, settings.listen)
    connection = http.client.HTTPConnection(host, settings.port, timeout=ASK_TIMEOUT_SECONDS)
    if settings.tls_certificate:
        anyone = ssl.create_default_context()
        anyone.check_hostname = False  # it is asked under an address, and told nothing
        anyone.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(
            host, settings.port, timeout=ASK_TIMEOUT_SECONDS, context=anyone
        )
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        return response.status == http.client.OK and response.read(100).strip() == ALIVE
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def lock_holder(data_dir: Path) -> str | None:
    """Say which process holds a data directory; None if nobody does, or nobody can tell.

    The look takes the lock for a moment if nobody holds it; a server that starts just then waits.
    """
    try:
        descriptor = os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(descriptor, 1024, 0).decode("ascii", "replace").split()
        return f"process {words[1]}" if len(words) > 1 else "another process"
    finally:
        os.close(descriptor)
    return None


def _check_directory(data_dir: Path) -> Finding | None:
    """See whether the private Redis could keep its data there, for the user who asks."""
    if data_dir.exists() and not data_dir.is_dir():
        return problem(
            "data-directory", f"{data_dir} is not a directory", "choose another --data-dir"
        )
    if not data_dir.exists():
        parent = data_dir.parent
        while not parent.exists():
            parent = parent.parent
        if not os.access(parent, os.W_OK | os.X_OK):
            return problem(
                "data-directory",
                f"{data_dir} cannot be made in {parent}, which this user may not write",
                f"make it for the server's user, or run restmq doctor as that user ({_user()} now)",
            )
        return ok("data-directory", f"{data_dir} will be made when the server starts")
    if not os.access(data_dir, os.R_OK | os.W_OK | os.X_OK):
        return problem(
            "data-directory",
            f"this user ({_user()}) may not write {data_dir}",
            "give it to the server's user with chown, or run restmq doctor as that user",
        )
    mode = data_dir.stat().st_mode
    if mode & stat.S_IWOTH:
        what = f"every user of this machine can replace what is in {data_dir}"
        return problem("data-directory", what, f"chmod o-rwx {data_dir}")
    return ok("data-directory", f"{data_dir} can be used ({stat.filemode(mode)})")


def _user() -> str:
    return f"user {os.geteuid()}"


def check_durability(settings: Settings) -> Findings:
    """Say what the private Redis would promise with these settings."""
    if settings.fsync == "always":
        yield ok("fsync", "a publisher is answered when the message is on the disk")
    elif settings.fsync == "everysec":
        yield warning("fsync", "a crash of the machine loses up to two seconds", "set fsync always")
    else:
        yield problem(
            "fsync",
            "a crash of the machine loses what the kernel had not written",
            "set fsync always",
        )
