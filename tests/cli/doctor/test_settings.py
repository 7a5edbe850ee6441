"""What the doctor finds in files, ports and the data directory: real files, ports and servers."""

import dataclasses
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from restmq.cli.doctor.findings import Finding, Findings, Level
from restmq.cli.doctor.settings import check_durability, check_files, check_places, lock_holder
from restmq.settings import Settings
from restmq.settings_sources import load
from tests.server_thread import BlockingServer, server_on_a_thread
from tests.support import free_port, redis_on_a_thread

NOBODY = 65534


def not_well(found: Findings) -> list[tuple[str, str]]:
    """Level and check of what is not as it should be; looks at the form of all."""
    listed = list(found)
    for each in listed:
        assert bool(each.remedy) is (each.level is not Level.OK)
        assert "\n" not in each.what + each.remedy
    return [(each.level, each.check) for each in listed if each.level is not Level.OK]


# Files


@pytest.mark.parametrize("name", ["acl", "keys", "tls_key"])
def test_a_file_that_cannot_be_read_is_found(tmp_path: Path, name: str) -> None:
    """Or one in a directory that cannot be entered."""
    file = tmp_path / "closed" / "file"
    file.parent.mkdir()
    file.write_text("x")
    for path in (file, file.parent):
        mode = path.stat().st_mode
        path.chmod(0)
        settings = Settings(**{"acl": str(tmp_path / "none"), name: str(file)})
        found = as_nobody(lambda: not_well(check_files(settings)), tmp_path)  # noqa: B023
        path.chmod(mode)
        check = "access-file" if name == "acl" else "key-file"
        assert ("problem", check) in found


def test_a_data_directory_in_one_that_cannot_be_entered_is_found(tmp_path: Path) -> None:
    """By what the system says."""
    closed = tmp_path / "closed"
    closed.mkdir(0)
    settings = Settings(data_dir=closed / "data", port=free_port())
    assert as_nobody(lambda: not_well(check_places(settings)), tmp_path) == [
        ("problem", "data-directory")
    ]


def as_nobody(look: Callable[[], Any], directory: Path) -> Any:
    """Do it as a user who may not read everything, as root may."""
    if os.geteuid() != 0:
        return look()
    for each in (directory, *directory.parents):
        if each != Path("/tmp") and each.is_relative_to("/tmp"):
            each.chmod(each.stat().st_mode | 0o055)
    os.seteuid(NOBODY)
    try:
        return look()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("text", "mode", "level"),
    [
        ('[stomp]\npasscode = "59d1fd07c2a5"\n', 0o640, None),
        ('[stomp]\npasscode = "59d1fd07c2a5"\n', 0o644, "problem"),
        ('[server]\nredis_url = "redis://u:59d1fd07c2a5@h/0"\n', 0o604, "problem"),
        ('[server]\nredis_url = "redis://h/0"\n', 0o644, None),
        ("[server]\nport = 9000\n", 0o644, None),
        ("[server]\nport = 9000\n", 0o646, "problem"),
    ],
)
def test_a_settings_file_that_others_can_read_or_change_is_found(
    tmp_path: Path, text: str, mode: int, level: str | None
) -> None:
    """To read it matters only if there is a secret in it."""
    file = tmp_path / "restmq.toml"
    file.write_text(text)
    file.chmod(mode)
    settings = load({"acl": str(tmp_path / "none")}, {}, tmp_path)
    assert not_well(check_files(settings)) == ([(level, "settings-file")] if level else [])


def test_a_secret_of_another_place_does_not_make_the_file_secret(tmp_path: Path) -> None:
    """Nor is the environment of a process for others to see."""
    (tmp_path / "restmq.toml").write_text('[stomp]\npasscode = "59d1fd07c2a5"\n')
    (tmp_path / "restmq.toml").chmod(0o644)
    settings = load({}, {"RESTMQ_STOMP_PASSCODE": "59d1fd07c2a6"}, tmp_path)
    assert not_well(check_files(settings)) == []


@pytest.mark.parametrize(
    ("text", "mode", "level"),
    [
        ("[stomp]\nusername = u\npassword = 59d1fd07c2a5\n", 0o600, None),
        ("[stomp]\nusername = u\npassword = 59d1fd07c2a5\n", 0o644, "problem"),
        ("[stomp]\n#password = x\nhosts_deny = all\n", 0o644, None),
        ("[stomp]\nhosts_deny = all\n", 0o666, "problem"),
    ],
)
def test_an_access_file_that_others_can_read_or_change_is_found(
    tmp_path: Path, text: str, mode: int, level: str | None
) -> None:
    """To read it matters only if there is a password in it."""
    file = tmp_path / "acl.conf"
    file.write_text(text)
    file.chmod(mode)
    assert not_well(check_files(Settings(acl=str(file)))) == (
        [(level, "access-file")] if level else []
    )


@pytest.mark.parametrize(
    ("word", "mode", "level"),
    [
        ("PRIVATE KEY", 0o600, None),
        ("PRIVATE KEY", 0o644, "problem"),
        ("CERTIFICATE", 0o644, None),
    ],
)
def test_a_private_key_that_others_can_read_is_found(
    tmp_path: Path, word: str, mode: int, level: str | None
) -> None:
    """Also in the file of the certificate."""
    file = tmp_path / "server.pem"
    file.write_text(f"-----BEGIN {word}-----\n")
    file.chmod(mode)
    settings = Settings(stomp_certificate=str(file), acl=str(tmp_path / "none"))
    assert not_well(check_files(settings)) == ([(level, "key-file")] if level else [])


def test_a_file_of_api_keys_that_others_can_change_is_found(tmp_path: Path) -> None:
    """To read it does no harm."""
    keys = tmp_path / "keys.conf"
    keys.touch()
    settings = Settings(acl=str(tmp_path / "acl.conf"))
    for mode, found in ((0o644, []), (0o646, [("problem", "key-file")])):
        keys.chmod(mode)
        assert not_well(check_files(settings)) == found


def test_a_secret_on_the_command_line_is_found(tmp_path: Path) -> None:
    """But an address without a password is no secret."""
    shown = {"stomp_passcode": "59d1fd07c2a5"}
    assert not_well(check_files(load(shown, {}, tmp_path))) == [("warning", "secret-flag")]
    shown = {"redis_url": "redis://:59d1fd07c2a5@h/0"}
    assert not_well(check_files(load(shown, {}, tmp_path))) == [("warning", "secret-flag")]
    assert not_well(check_files(load({"redis_url": "redis://h/0"}, {}, tmp_path))) == []


# Ports and the data directory


def settings_for(tmp_path: Path, **changes: Any) -> Settings:
    """Settings with a free port and a directory that is yet to be made."""
    return Settings(**{"data_dir": tmp_path / "data", "port": free_port(), **changes})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BlockingServer, Path]]:
    """A running server, and its data directory."""
    place = tmp_path_factory.mktemp("doctor")
    with server_on_a_thread(place) as running:
        yield running, place / "data"


def port_of(server: BlockingServer) -> int:
    """Where it listens."""
    return int(server.url.rpartition(":")[2])


def test_free_ports_and_a_directory_to_be_made_are_well(tmp_path: Path) -> None:
    """And nothing is made by looking."""
    settings = settings_for(tmp_path, stomp_port=free_port(), syslog_port=free_port())
    assert not_well(check_places(settings)) == []
    assert list(tmp_path.iterdir()) == []
    (ports,) = [each for each in check_places(settings) if each.check == "ports"]
    assert all(str(port) in ports.what for port in (settings.port, settings.stomp_port))


@pytest.mark.parametrize("name", ["port", "stomp_port", "rse_port", "syslog_port"])
def test_a_port_in_use_is_found(tmp_path: Path, name: str) -> None:
    """Of each listener, by its name."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        changes = {name: other.getsockname()[1]}
        found = list(check_places(settings_for(tmp_path, **changes)))
    bad = [each for each in found if each.level is not Level.OK]
    assert [(each.level, each.check) for each in bad] == [("problem", "ports")]
    assert f"--{name.replace('_', '-')}" in bad[0].remedy
    assert bad[0].what.startswith(f"{name}: ")


def test_a_port_in_use_for_datagrams_is_found(tmp_path: Path) -> None:
    """Syslog lines come that way too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        settings = settings_for(tmp_path, syslog_port=other.getsockname()[1])
        assert not_well(check_places(settings)) == [("problem", "ports")]


@pytest.mark.parametrize("listen", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_found(tmp_path: Path, listen: str) -> None:
    """Nobody can listen there."""
    (bad,) = [
        each
        for each in check_places(settings_for(tmp_path, listen=listen))
        if each.level is not Level.OK
    ]
    assert (bad.level, bad.check) == ("problem", "ports")
    assert "set listen" in bad.remedy


def test_a_server_that_runs_with_these_settings_is_well(
    server: tuple[BlockingServer, Path], tmp_path: Path
) -> None:
    """Its port is in use and its directory held, as they should be."""
    running, data_dir = server
    settings = Settings(data_dir=data_dir, port=port_of(running))
    assert not_well(check_places(settings)) == []
    assert "a server runs" in " ".join(each.what for each in check_places(settings))


def test_a_directory_of_another_server_is_found(
    server: tuple[BlockingServer, Path], tmp_path: Path
) -> None:
    """One on another port."""
    _, data_dir = server
    (bad,) = [
        each
        for each in check_places(Settings(data_dir=data_dir, port=free_port()))
        if each.level is not Level.OK
    ]
    assert (bad.level, bad.check) == ("problem", "data-directory")
    assert str(lock_holder(data_dir)) in bad.what


def test_another_server_at_the_port_is_found(
    server: tuple[BlockingServer, Path], tmp_path: Path
) -> None:
    """One with another directory. With a Redis elsewhere it counts as the one that is meant."""
    running, _ = server
    settings = settings_for(tmp_path, port=port_of(running))
    assert not_well(check_places(settings)) == [("problem", "ports")]
    settings = Settings(redis_url="redis://h/0", port=port_of(running))
    assert not_well(check_places(settings)) == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_a_server_that_speaks_tls_is_recognised(tmp_path: Path) -> None:
    """Whatever its certificate is for."""
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other.example"]
    subprocess.run(
        ["openssl", *words, "-keyout", str(key), "-out", str(made)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made, key)
    with HTTPServer(("127.0.0.1", 0), Alive) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        settings = Settings(redis_url="redis://h/0", port=server.server_port)
        with_tls = dataclasses.replace(settings, tls_certificate=str(made), tls_key=str(key))
        found = not_well(check_places(with_tls))
        server.shutdown()
        thread.join()
    assert found == []


class Alive(BaseHTTPRequestHandler):
    """Answers as a server does."""

    def do_GET(self) -> None:
        """Say so."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"alive\r\n")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_something_else_at_the_port_is_found_although_the_directory_is_held(
    server: tuple[BlockingServer, Path],
) -> None:
    """Another web server, for one."""
    _, data_dir = server
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        thread = Thread(target=other.serve_forever, args=(0.02,))
        thread.start()
        settings = Settings(data_dir=data_dir, port=other.server_port)
        found = not_well(check_places(settings))
        other.shutdown()
        thread.join()
    assert found == [("problem", "data-directory"), ("problem", "ports")]


def test_a_lock_that_a_redis_left_alone_holds_is_told(tmp_path: Path) -> None:
    """The lock names its holder; when it ends nobody holds it."""
    assert lock_holder(tmp_path) is None
    with redis_on_a_thread(tmp_path):
        assert lock_holder(tmp_path) == f"process {os.getpid()}"
    assert lock_holder(tmp_path) is None


def test_a_directory_that_is_none_is_found(tmp_path: Path) -> None:
    """A file of that name."""
    (tmp_path / "data").touch()
    assert not_well(check_places(settings_for(tmp_path))) == [("problem", "data-directory")]


@pytest.mark.parametrize(("mode", "level"), [(0o700, None), (0o755, None), (0o777, "problem")])
def test_a_directory_that_others_can_write_is_found(
    tmp_path: Path, mode: int, level: str | None
) -> None:
    """Its files are for their owner only, but could be replaced."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(mode)
    assert not_well(check_places(settings_for(tmp_path))) == (
        [(level, "data-directory")] if level else []
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("directory", "is_found"),
    [
        ("open/data", False),
        ("open/own", False),
        ("closed/data", True),
        ("open/foreign", True),
    ],
)
def test_a_directory_that_this_user_may_not_write_is_found(directory: str, is_found: bool) -> None:
    """For a user who is not root."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        for part, mode, owner in (
            ("open", 0o777, 0),
            ("closed", 0o755, 0),
            ("open/own", 0o700, NOBODY),
            ("open/foreign", 0o755, 0),
        ):
            (place / part).mkdir()
            (place / part).chmod(mode)
            os.chown(place / part, owner, owner)
        settings = settings_for(place, data_dir=place / directory)
        list(check_places(settings))  # imports what it needs, while this user may still read it
        os.setresuid(NOBODY, NOBODY, 0)
        try:
            found = not_well(check_places(settings))
        finally:
            os.setresuid(0, 0, 0)
    assert found == ([("problem", "data-directory")] if is_found else [])


@pytest.mark.skipif(os.geteuid() != 0, reason="root may use any port, and become somebody else")
def test_a_port_that_this_user_may_not_use_is_found(tmp_path: Path) -> None:
    """One below 1024, where the kernel keeps these for root."""
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 1:
        pytest.skip("here everyone may use any port")
    settings = Settings(redis_url="redis://h/0", port=1)
    assert not_well(check_places(settings)) == []
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        found = not_well(check_places(settings))
    finally:
        os.setresuid(0, 0, 0)
    assert found == [("problem", "ports")]


@pytest.mark.parametrize(
    ("fsync", "level"), [("always", "ok"), ("everysec", "warning"), ("no", "problem")]
)
def test_settings_that_lose_messages_are_found(fsync: str, level: str) -> None:
    """As the server's own Redis would."""
    (finding,) = check_durability(Settings(fsync=fsync))
    assert isinstance(finding, Finding)
    assert (finding.level, finding.check) == (level, "fsync")
