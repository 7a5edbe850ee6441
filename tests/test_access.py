"""What acl.conf lets through: every rule of the RestMQ specification, section 7."""

import asyncio
import base64
import errno
import ipaddress
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import restmq
from restmq import access as access_module
from restmq import followed_file
from restmq.access import Access, HostList, Section, canonical_address
from restmq.access_rules import Rules
from restmq.errors import AccessDenied, CredentialsRequired, SettingsError
from restmq.followed_file import FollowedFile
from tests.support import eventually

ALL_OPEN = "[rest:producer]\n[rest:consumer]\n[comet:consumer]\n[websocket:consumer]\n"
CLOSED = "[rest:producer]\nhosts_deny = all\n"
LOGIN = "[{}]\nusername = zz\npassword = bla\n"


def basic(text: str, encoding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(text.encode(encoding)).decode()


def admits(access: Access, address: str, section: Section = Section.PRODUCER) -> bool:
    try:
        access.check(section, address, None)
    except CredentialsRequired:
        raise
    except AccessDenied:
        return False
    return True


def recognises(
    access: Access, section: Section, authorization: str | None = None, cookie: str | None = None
) -> bool:
    try:
        access.check(section, "10.0.0.1", authorization, cookie)
    except CredentialsRequired:
        return False
    return True


# Addresses


@pytest.mark.parametrize(
    ("allow", "deny", "address", "admitted"),
    [
        # Nothing said, or nothing after the "=": no rule.
        (None, None, "10.0.0.1", True),
        ("", "", "10.0.0.1", True),
        # Rule 1: "all" restricts nobody.
        ("all", None, "10.0.0.1", True),
        ("ALL", None, "fd00::1", True),
        # Rule 1: an entry matches the addresses that start with it.
        ("192.168.0.", None, "192.168.0.7", True),
        ("192.168.0.", None, "192.168.01.7", False),
        ("192.168.0.", None, "192.168.10.7", False),
        ("192.168.0", None, "192.168.0.7", True),
        ("10.", None, "10.200.3.4", True),
        ("10.1", None, "10.10.0.7", True),
        ("10", None, "100.0.0.1", True),
        ("10", None, "10::1", False),
        # Rule 1: a whole address matches itself only.
        ("10.0.0.1", None, "10.0.0.1", True),
        ("10.0.0.1", None, "10.0.0.10", False),
        ("10.0.0.1", None, "110.0.0.1", False),
        # Entries are separated by any white space.
        ("10.0.0.1 \t 192.168.0.", None, "192.168.0.9", True),
        ("10.0.0.1\n    192.168.0.", None, "192.168.0.9", True),
        # Rule 2: with hosts_allow alone, everyone else is refused.
        ("127.0.0.1", None, "10.0.0.1", False),
        ("127.0.0.1", "", "10.0.0.1", False),
        # Rule 2: a match in hosts_allow wins over hosts_deny.
        ("10.0.0.1", "10.0.0.", "10.0.0.1", True),
        ("127.0.0.1", "all", "127.0.0.1", True),
        # Rule 2 and 3: with hosts_deny, who is in neither list is let in.
        ("10.0.0.1", "192.168.0.", "172.16.0.1", True),
        ("10.0.0.1", "192.168.0.", "192.168.0.1", False),
        # Rule 3: hosts_deny alone refuses whom it names.
        (None, "192.168.0.", "192.168.0.1", False),
        (None, "192.168.0.", "10.0.0.1", True),
        (None, "10.0.0.1", "10.0.0.10", True),
        # Rule 3: "all" refuses everyone that hosts_allow does not name.
        (None, "all", "10.0.0.1", False),
        ("127.0.0.1", "all", "10.0.0.1", False),
        ("all", "all", "10.0.0.1", False),
        ("all", "192.168.0.", "192.168.0.1", False),
        ("all", "192.168.0.", "10.0.0.1", True),
        # "all" beside other entries: those are let in first, and the rest as if there were none.
        ("all 10.0.0.1", None, "172.16.0.1", True),
        ("all 10.0.0.1", "10.0.0.", "10.0.0.1", True),
        ("all 10.0.0.1", "10.0.0.", "10.0.0.2", False),
        (None, "all 10.0.0.1", "172.16.0.1", False),
        # Networks.
        ("10.0.0.0/8", None, "10.255.0.1", True),
        ("10.0.0.0/8", None, "11.0.0.1", False),
        ("10.0.0.0/255.0.0.0", None, "10.255.0.1", True),
        ("10.0.0.0/8", None, "fd00::1", False),
        ("fd00::/8", None, "fdff::1", True),
        ("fd00::/8", None, "fe80::1", False),
        (None, "0.0.0.0/0", "10.0.0.1", False),
        (None, "0.0.0.0/0", "fd00::1", True),
        # IPv6 addresses, however spelt, and their beginnings.
        ("fd00::1", None, "fd00::1", True),
        ("fd00::1", None, "fd00::10", False),
        ("FD00:0:0:0:0:0:0:1", None, "fd00::1", True),
        ("fe80::1", None, "fe80::1%eth0", True),
        ("2001:db8:", None, "2001:db8::1", True),
        ("2001:db8:", None, "2001:db80::1", False),
        ("2001:DB8:0:", None, "2001:db8::1", True),
        ("fe80:", None, "fe80::1%eth0", True),
        # A peer that comes as IPv4-mapped IPv6 is the IPv4 peer.
        ("10.0.0.1", None, "::ffff:10.0.0.1", True),
        ("10.0.0.", None, "::ffff:a00:1", True),
        ("10.0.0.0/8", None, "::ffff:10.0.0.1", True),
        (None, "10.0.0.1", "::ffff:10.0.0.1", False),
        (None, "::ffff:10.0.0.1", "10.0.0.1", False),
        (None, "::ffff:10.0.0.0/104", "10.9.9.9", False),
        (None, "::ffff:10.0.0.0/104", "11.9.9.9", True),
        # What is no address is in no list, but still among all.
        ("10.0.0.0/8", None, "", False),
        ("10.0.0.0/8", None, "not:an:address", False),
        (None, "10.0.0.0/8", "", True),
        (None, "all", "", False),
    ],
)
def test_address_rules(allow: str | None, deny: str | None, address: str, admitted: bool) -> None:
    """hosts_allow and hosts_deny decide about an address in the order of the specification."""
    lines = ["[rest:producer]"]
    lines += [] if allow is None else [f"hosts_allow = {allow}"]
    lines += [] if deny is None else [f"hosts_deny = {deny}"]
    assert admits(Access.from_text("\n".join(lines)), address) is admitted


octets = st.sampled_from([0, 1, 2, 10, 19, 100, 192, 255])
addresses = st.tuples(octets, octets, octets, octets).map(lambda four: ".".join(map(str, four)))


@given(
    entries=st.lists(st.tuples(addresses, st.integers(1, 15)), max_size=4),
    address=addresses,
)
@settings(deadline=None)
def test_prefixes_match_like_text(entries: list[tuple[str, int]], address: str) -> None:
    """An entry matches what starts with it, unless it is a whole address: then only itself."""
    cut = [entry[:length] for entry, length in entries]

    def matches(entry: str) -> bool:
        whole = entry.count(".") == 3 and not entry.endswith(".")
        return address == entry if whole else address.startswith(entry)

    assert HostList.parse(" ".join(cut)).names(address) is any(map(matches, cut))


@given(st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 32))
@settings(deadline=None)
def test_networks_match_like_ipaddress(
    base: ipaddress.IPv4Address, peer: ipaddress.IPv4Address, length: int
) -> None:
    """A network matches its members, also when they come as IPv4-mapped IPv6."""
    network = ipaddress.ip_network((base, length), strict=False)
    hosts = HostList.parse(str(network))
    assert hosts.names(str(peer)) is (peer in network)
    assert hosts.names(canonical_address(f"::ffff:{peer}")) is (peer in network)
    assert hosts.names(str(base))


# Credentials


@pytest.mark.parametrize("section", Section)
def test_credentials_are_needed_where_they_are_set(section: Section) -> None:
    """A section with user name and password wants them, and no other section does."""
    access = Access.from_text(LOGIN.format(section))
    for other in Section:
        assert recognises(access, other) is (other is not section)
        assert recognises(access, other, basic("zz:bla"))


@pytest.mark.parametrize(
    ("authorization", "recognised"),
    [
        (None, False),
        ("", False),
        (basic("zz:bla"), True),
        (basic("zz:bla").replace("Basic", "basic"), True),
        (basic("zz:bla").replace(" ", "  "), True),
        (basic("zz:bla") + "; Application K", True),
        ("Application K;" + basic("zz:bla"), True),
        ("Application K; " + basic("zz:wrong"), False),
        (basic("zz:wrong"), False),
        (basic("zz:bla2"), False),
        (basic("zz"), False),
        (basic(""), False),
        ("Basic", False),
        ("Basic zz:bla", False),
        ("Basic !!!!", False),
        ("Basic enp6Ymxh=", False),
        ("Basic \u00e4\udcff", False),
        (basic("zz:bla").replace("Basic", "Bearer"), False),
        (base64.b64encode(b"zz:bla").decode(), False),
    ],
)
def test_basic_credentials(authorization: str | None, recognised: bool) -> None:
    """Only the right credentials in well-formed Basic are taken; the rest is simply wrong."""
    access = Access.from_text(LOGIN.format(Section.CONSUMER))
    assert recognises(access, Section.CONSUMER, authorization) is recognised


@pytest.mark.parametrize("password", ["p%40ss%(x)s", "a:b", "# no; comment", "schön ✓", '"q"', "="])
def test_a_password_is_taken_as_it_stands(password: str) -> None:
    """No character of a password has a meaning to the file; it is compared in UTF-8."""
    access = Access.from_text(f"[websocket:consumer]\nusername = zoë\npassword = {password}\n")
    assert recognises(access, Section.WEBSOCKET, basic(f"zoë:{password}"))
    assert not recognises(access, Section.WEBSOCKET, basic(f"zoë:{password}", "utf-16"))
    assert recognises(access, Section.WEBSOCKET, cookie="auth=" + quote(f"zoë:{password}"))
    if ";" not in password:
        assert recognises(access, Section.WEBSOCKET, cookie=f"auth=zoë:{password}")


@pytest.mark.parametrize(
    ("cookie", "recognised"),
    [
        ("auth=zz:bla", True),
        ("auth=zz%3Abla", True),
        ("auth=%7a%7A%3abla", True),
        ("theme=dark; auth=zz:bla; x", True),
        ("auth=old:one;auth=zz:bla", True),
        ("auth = zz:bla ", True),
        ("auth=zz:bla2", False),
        ("auth=zz:wrong", False),
        ("auth=", False),
        ("auth", False),
        ("", False),
        ("Auth=zz:bla", False),
        ("xauth=zz:bla", False),
        ("auth=zz:bla\udcff", False),
        ("auth=zz:bla%ff", False),
    ],
)
def test_the_websocket_cookie(cookie: str, recognised: bool) -> None:
    """A websocket may log in with the auth cookie, as it is or percent-encoded."""
    access = Access.from_text(LOGIN.format(Section.WEBSOCKET))
    assert recognises(access, Section.WEBSOCKET, None, cookie) is recognised
    assert recognises(access, Section.WEBSOCKET, basic("zz:bla"), cookie)
    assert recognises(access, Section.WEBSOCKET, basic("no:no"), cookie) is recognised


@pytest.mark.parametrize("section", [Section.PRODUCER, Section.CONSUMER, Section.COMET])
def test_only_websockets_have_the_cookie(section: Section) -> None:
    """The auth cookie opens no other section, so that other sites cannot post with it."""
    access = Access.from_text(LOGIN.format(section))
    assert not recognises(access, section, cookie="auth=zz:bla")


def test_credentials_do_not_help_a_refused_address() -> None:
    """The address is looked at first, and no password changes what it decides."""
    access = Access.from_text(LOGIN.format(Section.PRODUCER) + "hosts_allow = 127.0.0.1")
    with pytest.raises(AccessDenied) as refusal:
        access.check(Section.PRODUCER, "10.0.0.1", basic("zz:bla"))
    assert not isinstance(refusal.value, CredentialsRequired)
    with pytest.raises(CredentialsRequired):
        access.check(Section.PRODUCER, "127.0.0.1", None)


# The file


def test_a_section_without_a_rule_is_open() -> None:
    """is_open tells which sections let everyone in."""
    access = Access.from_text(
        "[rest:producer]\nhosts_allow = all\n[rest:consumer]\nhosts_deny = 10.\n"
        "[comet:consumer]\nusername =\npassword =\n"
    )
    assert [access.is_open(section) for section in Section] == [True, False, True, True, True]
    assert all(Access.from_text("").is_open(section) for section in Section)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("[rest:producers]\n", ["rest:producers", "rest:producer, rest:consumer"]),
        ("[DEFAULT]\nhosts_deny = all\n", ["DEFAULT"]),
        ("[rest:producer]\nhost_deny = all\n", ["[rest:producer]", "host_deny", "hosts_deny"]),
        ("hosts_deny = all\n", ["line 1", "section"]),
        ("[rest:producer]\n\nhosts_deny\n", ["line 3"]),
        ("[rest:producer]\n[rest:producer]\n", ["line 2", "twice"]),
        ("[rest:producer]\nhosts_deny = 1.\nhosts_deny = 2.\n", ["line 3", "hosts_deny", "twice"]),
        ("[rest:producer]\nusername = zz\n", ["[rest:producer]", "password is missing"]),
        ("[rest:producer]\npassword = zz\n", ["[rest:producer]", "username is missing"]),
        ("[rest:producer]\nusername = z\n password = p\n", ["username", "space"]),
        ("[rest:producer]\nhosts_deny = localhost\n", ["hosts_deny", "localhost", "host names"]),
        ("[rest:producer]\nhosts_deny = 10. # office\n", ["'#'", "line of its own"]),
        ("[rest:producer]\nhosts_deny = 10.0.0.256\n", ["10.0.0.256"]),
        ("[rest:producer]\nhosts_deny = 10.0.0.1.\n", ["10.0.0.1."]),
        ("[rest:producer]\nhosts_deny = 010.0.\n", ["010.0."]),
        ("[rest:producer]\nhosts_deny = 10.0.0.1/8\n", ["10.0.0.1/8", "host bits"]),
        ("[rest:producer]\nhosts_deny = fe80::1%eth0\n", ["fe80::1%eth0", "zone"]),
        ("[rest:producer]\nhosts_deny = 2001:db8\n", ["2001:db8"]),
    ],
)
def test_a_mistake_in_the_file_is_told(text: str, fragments: list[str], tmp_path: Path) -> None:
    """A file with anything unknown or contradictory is refused, and the place is named."""
    path = tmp_path / "acl.conf"
    path.write_text(text)
    with pytest.raises(SettingsError) as fault:
        Access.load(path)
    message = str(fault.value)
    assert "\n" not in message
    for fragment in [str(path), *fragments]:
        assert fragment in message


def test_a_mistake_does_not_tell_the_password() -> None:
    """A line that cannot be understood is not repeated, for it may hold a password."""
    for text in ("hidden\n", "[rest:producer]\nhidden\n", "[rest:producer]\npassword = hidden\n"):
        with pytest.raises(SettingsError) as fault:
            Access.from_text(text)
        assert "hidden" not in str(fault.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a directory, a file that is not text and an endless file are all told."""
    binary, endless = tmp_path / "binary.conf", tmp_path / "endless.conf"
    binary.write_bytes(b"[rest:producer]\xff")
    endless.write_bytes(b"#" * (followed_file.MAX_FILE_BYTES + 1))
    for path in (tmp_path / "missing.conf", tmp_path, binary, endless):
        with pytest.raises(SettingsError, match=str(path)):
            Access.load(path)


@pytest.mark.parametrize("reload", [False, True])
async def test_a_directory_that_may_not_be_searched_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reload: bool,
) -> None:
    """At the start, and once while the server runs, when keys may be there or not."""
    rules = tmp_path / "acl.conf"
    rules.write_text(ALL_OPEN)
    access = Access.load(rules) if reload else None

    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name in ("stat", "open"):
        usual = getattr(Path, name)

        def chosen(path: Path, *arguments: Any, usual: Any = usual, **options: Any) -> Any:
            return (refuse if path.name == "keys.conf" else usual)(path, *arguments, **options)

        monkeypatch.setattr(Path, name, chosen)
    if access is None:
        with pytest.raises(SettingsError, match=r"keys\.conf: cannot be read: Permission denied"):
            Access.load(rules)
        return
    for _ in range(2):
        assert await access.reload_keys() is False
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "Permission denied" in line.getMessage()


def test_a_byte_order_mark_and_crlf_are_no_mistake(tmp_path: Path) -> None:
    """A file saved by an editor of another system is read like any other."""
    path = tmp_path / "acl.conf"
    path.write_bytes(b"\xef\xbb\xbf" + CLOSED.replace("\n", "\r\n").encode())
    assert not admits(Access.load(path), "10.0.0.1")


@pytest.mark.parametrize(
    "path",
    [Path(restmq.__file__).with_name("acl.conf"), Path(restmq.__file__).parents[1] / "acl.conf"],
    ids=["packaged default", "sample"],
)
def test_the_files_that_come_with_restmq_let_everyone_in(path: Path) -> None:
    """The packaged default and the commented sample have no rule."""
    access = Access.load(path)
    assert all(access.is_open(section) for section in Section)


def test_the_sample_is_right_when_its_comments_are_taken_away() -> None:
    """Every key that the sample shows can be put into force as it stands."""
    sample = Path(restmq.__file__).parents[1] / "acl.conf"
    lines = sample.read_text().splitlines()
    text = "\n".join(
        line.removeprefix("#") if line.startswith(("#hosts_", "#username", "#password")) else line
        for line in lines
    )
    access = Access.from_text(text)
    assert not any(access.is_open(section) for section in Section)


def test_a_bare_name_falls_back_to_the_packaged_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """acl.conf, not found here, stands for the all-open default, and the log says so."""
    monkeypatch.chdir(tmp_path)
    access = Access.load("acl.conf")
    assert all(access.is_open(section) for section in Section)
    assert "no acl.conf here" in caplog.text
    with pytest.raises(SettingsError, match=r"\./acl\.conf"):
        Access.load("./acl.conf")


def test_a_bare_name_found_here_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """acl.conf in the current directory goes before the packaged default."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acl.conf").write_text(CLOSED)
    assert not admits(Access.load("acl.conf"), "10.0.0.1")


# Reloading


async def test_a_changed_file_is_applied(tmp_path: Path) -> None:
    """A reload puts new content into force, and tells whether it did."""
    path = tmp_path / "acl.conf"
    path.write_text(ALL_OPEN)
    access = Access.load(path)
    assert await access.reload_if_changed() is False
    path.write_text(CLOSED)
    assert await access.reload_if_changed() is True
    assert not admits(access, "10.0.0.1")
    assert await access.reload_if_changed() is False


async def test_rules_without_a_file_do_not_change() -> None:
    """There is nothing to reload when the rules came as text."""
    assert await Access.from_text(CLOSED).reload_if_changed() is False


async def test_a_broken_file_changes_nothing_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The old rules stay on a mistake; each faulty content makes one line in the log."""
    path = tmp_path / "acl.conf"
    path.write_text(CLOSED)
    access = Access.load(path)

    def errors() -> int:
        return sum(record.levelno == logging.ERROR for record in caplog.records)

    path.write_text("[rest:producer\n")
    for _ in range(2):
        assert await access.reload_if_changed() is False
    assert errors() == 1
    path.write_text("[rest:producer")
    assert await access.reload_if_changed() is False
    assert errors() == 2
    path.unlink()
    for _ in range(2):
        assert await access.reload_if_changed() is False
    assert errors() == 3
    assert not admits(access, "10.0.0.1")
    path.write_text(ALL_OPEN)
    assert await access.reload_if_changed() is True
    assert admits(access, "10.0.0.1")


async def test_a_half_written_file_is_not_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file caught empty between two writes does not open the doors."""
    path = tmp_path / "acl.conf"
    path.write_text(CLOSED)
    access = Access.load(path)
    applied: list[bytes] = []
    read = FollowedFile.read
    parse = access_module.parse_rules

    def read_and_finish_writing(file: FollowedFile) -> bytes:
        content = read(file)
        path.write_text(CLOSED + "hosts_allow = 127.0.0.1\n")
        return content

    def parse_and_note(content: bytes, name: str) -> Rules:
        applied.append(content)
        return parse(content, name)

    monkeypatch.setattr(FollowedFile, "read", read_and_finish_writing)
    monkeypatch.setattr(access_module, "parse_rules", parse_and_note)
    path.write_text("")
    assert await access.reload_if_changed() is True
    assert applied == [path.read_bytes()]
    assert admits(access, "127.0.0.1")
    assert not admits(access, "10.0.0.1")


async def test_a_file_that_appears_or_is_lost_never_opens_a_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bare name is looked for until it is there; once read, its loss keeps the rules."""
    monkeypatch.chdir(tmp_path)
    access = Access.load("acl.conf")
    assert await access.reload_if_changed() is False
    (tmp_path / "acl.conf").write_text(CLOSED)
    assert await access.reload_if_changed() is True
    (tmp_path / "acl.conf").unlink()
    assert await access.reload_if_changed() is False
    assert not admits(access, "10.0.0.1")


async def test_watching_goes_on_after_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Unchanged files, broken files and errors nobody thought of do not end the watch."""
    path = tmp_path / "acl.conf"
    path.write_text(ALL_OPEN)
    access = Access.load(path)
    read = FollowedFile.read
    readings = 0

    def read_or_fail(file: FollowedFile) -> bytes:
        nonlocal readings
        readings += 1
        if readings == 3:
            raise RuntimeError("unforeseen")
        return read(file)

    monkeypatch.setattr(FollowedFile, "read", read_or_fail)
    watching = asyncio.create_task(access.watch(interval_seconds=0.005))
    try:
        await eventually(lambda: readings > 4)
        assert "unforeseen" in caplog.text
        path.write_text("[oops]\n")
        await eventually(lambda: "oops" in caplog.text)
        path.write_text(CLOSED)
        await eventually(lambda: not admits(access, "10.0.0.1"))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert watching.cancelled()


async def test_reloads_at_the_same_time_apply_a_change_once(tmp_path: Path) -> None:
    """A signal during a check does not apply the same content twice."""
    path = tmp_path / "acl.conf"
    path.write_text(ALL_OPEN)
    access = Access.load(path)
    path.write_text(CLOSED)
    results = await asyncio.gather(*(access.reload_if_changed() for _ in range(3)))
    assert sorted(results) == [False, False, True]
