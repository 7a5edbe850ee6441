"""What keys cover and allow, and the file that keeps them."""

import configparser
import json
import os
import re
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from restmq.access import Access, Section
from restmq.api_keys import (
    EVERYTHING,
    KEY_PREFIX,
    ApiKey,
    ApiKeys,
    Permission,
    Resource,
    digest_of,
    format_keys,
    key_in,
    new_key,
    parse_keys,
)
from restmq.cli.main import cli
from restmq.errors import Forbidden, InvalidKey, KeyRequired, SettingsError
from restmq.key_file import change_keys, read_keys

ALL = frozenset(Permission)


def make_key(*patterns: str, can: frozenset[Permission] = ALL, **fields: int) -> ApiKey:
    return ApiKey(digest_of(new_key()), patterns, can, **fields)  # type: ignore[arg-type]


def path(name: str, *, is_whole: bool = False) -> Resource:
    return Resource(name, is_path=True, is_whole=is_whole)


@pytest.mark.parametrize(
    ("pattern", "resource", "is_covered"),
    [
        ("jobs.*", Resource("jobs.mail"), True),
        ("jobs.*", Resource("jobs"), False),
        ("jobs.*", Resource("my.jobs.mail"), False),
        ("jobs", Resource("jobs"), True),
        ("jobs", Resource("jobs2"), False),
        ("jobs", Resource("Jobs"), False),
        ("job?", Resource("jobs"), True),
        ("job?", Resource("job"), False),
        ("[a]", Resource("[a]"), True),
        ("[a]", Resource("a"), False),
        ("*", Resource("a\nb"), True),
        ("*", Resource("/odd"), True),
        # A queue is no channel, however it is called.
        ("/rse/*", Resource("/rse/a"), False),
        ("/rse/*", path("/rse/a"), True),
        ("rse*", path("/rse/a"), False),
        ("?rse/*", path("/rse/a"), False),
        ("*", path("/rse/a"), True),
        ("**", path("/rse/a"), True),
        ("/*", path("/rse/a"), True),
        # All of something takes a pattern that leaves none of it out.
        ("*", EVERYTHING, True),
        ("a*", EVERYTHING, False),
        ("/*", EVERYTHING, False),
        ("?*", EVERYTHING, False),
        ("jobs.*", Resource("jobs.", is_whole=True), True),
        ("jobs.*", Resource("jobs.mail.", is_whole=True), True),
        ("jobs.*", Resource("jobs", is_whole=True), False),
        ("jobs.?*", Resource("jobs.", is_whole=True), False),
        ("jobs.*.x", Resource("jobs.", is_whole=True), False),
        ("/rse/*", path("/rse/a/", is_whole=True), True),
        ("/rse/a", path("/rse/a/", is_whole=True), False),
        ("/rse/*", Resource("/rse/", is_whole=True), False),
    ],
)
def test_what_a_pattern_covers(pattern: str, resource: Resource, is_covered: bool) -> None:
    key = make_key(pattern)
    assert key.covers(resource) is is_covered
    assert key.allows(Permission.VIEW, resource) is is_covered


@given(st.text(st.sampled_from("ab.*?/"), min_size=1), st.text(st.sampled_from("ab./")))
def test_what_covers_all_of_something_covers_each_of_it(pattern: str, name: str) -> None:
    key = make_key(pattern)
    for is_path in (False, True):
        whole = Resource(name, is_path, is_whole=True)
        if key.covers(whole):
            for rest in ("", "x", "a/b", "\n*"):
                assert key.covers(Resource(name + rest, is_path))


@pytest.mark.parametrize("permission", Permission)
def test_a_permission_includes_no_other(permission: Permission) -> None:
    key = make_key("*", can=frozenset({permission}))
    for other in Permission:
        if other is permission:
            key.check(other, Resource("q"))
        else:
            with pytest.raises(Forbidden, match=rf"{key.id} does not allow to {other} queue q"):
                key.check(other, Resource("q"))


def test_a_pattern_cannot_keep_the_server_busy() -> None:
    started = time.process_time()
    assert not make_key("*a" * 500).covers(Resource("a" * 499 + "b" * 500))
    assert time.process_time() - started < 20


def test_keys_are_long_and_not_alike() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(rf"{KEY_PREFIX}[A-Za-z0-9_-]{{43}}", key) for key in keys)


@pytest.mark.parametrize(
    ("header", "key"),
    [
        (None, None),
        ("", None),
        ("Bearer k", "k"),
        ("bEARER   k ", "k"),
        ("Bearer", ""),
        ("Application A;Bearer k", "k"),
        ("Basic a2V5Oms=", "k"),
        ("Basic a2V5OmE6Yg==", "a:b"),
        ("Basic b3RoZXI6aw==", None),
        ("Basic !", None),
        ("Digest k", None),
    ],
)
def test_what_a_header_shows(header: str | None, key: str | None) -> None:
    assert key_in(header) == key


def test_only_known_keys_are_found_and_only_in_their_time() -> None:
    text, over = new_key(), new_key()
    key = ApiKey(digest_of(text), ("q",), ALL)
    expired = ApiKey(digest_of(over), ("q",), ALL, expires=int(time.time()))
    keys = ApiKeys([key, expired])
    assert keys.find(text) is key
    for unknown in ("", text[:-1], text + "x", key.digest, "\udcff"):
        with pytest.raises(InvalidKey, match="not known"):
            keys.find(unknown)
    with pytest.raises(InvalidKey, match="expired"):
        keys.find(over)
    assert keys.holds(key)
    assert not keys.holds(expired)
    assert not ApiKeys().holds(key)
    assert not ApiKeys([ApiKey(key.digest, ("other",), ALL)]).holds(key)


patterns = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
names = st.text(max_size=30).filter(lambda text: text.isprintable() and text == text.strip())
times = st.none() | st.integers(0, 4_000_000_000)


@given(
    st.lists(
        st.builds(
            ApiKey,
            st.binary(min_size=8, max_size=8).map(lambda data: digest_of(data.hex())),
            st.lists(patterns, min_size=1, max_size=3).map(tuple),
            st.sets(st.sampled_from(Permission), min_size=1).map(frozenset),
            names,
            times,
            times,
        ),
        max_size=4,
        unique_by=lambda key: key.digest,
    )
)
def test_a_file_holds_what_was_written(keys: list[ApiKey]) -> None:
    assert list(parse_keys(format_keys(keys).encode(), "keys.conf")) == keys


def test_a_file_holds_no_key() -> None:
    text = new_key()
    assert text not in format_keys([ApiKey(digest_of(text), ("q",), ALL)])


DIGEST = "ab" * 32
GOOD = f'[{DIGEST[:12]}]\nhash = {DIGEST}\nqueues = ["q"]\ncan = publish\n'


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (("[abab", "[ffff"), "SHA-256"),
        (("[abababababab]", "[x]"), "12 digits"),
        (("hash =", "digest ="), "unknown name 'digest'"),
        ((DIGEST, "abc"), "SHA-256"),
        (('["q"]', "q"), "list of patterns"),
        (('["q"]', "[]"), "list of patterns"),
        (('["q"]', '["q", 1]'), "list of patterns"),
        (('["q"]', '[["q"]]'), "list of patterns"),
        (('["q"]', "[null]"), "list of patterns"),
        (('["q"]', '[""]'), "1 to 1024 bytes"),
        (('["q"]', '["\\ud800"]'), "UTF-8"),
        (("publish", "fly"), "'fly' is no permission"),
        (("can = publish", ""), "needs a permission"),
        (("can = publish", "can = publish\nexpires = never"), "is no time"),
        (("can = publish", "can = publish\nname = " + "x" * 101), "100"),
        (("hash =", "[oops"), "not as"),
        (("hash", "\x00\n"), "not as"),
    ],
)
def test_a_mistake_in_the_file_is_told(change: tuple[str, str], fragment: str) -> None:
    parse_keys(GOOD.encode(), "keys.conf")
    content = GOOD.replace(*change, 1)
    assert content != GOOD
    with pytest.raises(SettingsError, match=r"^keys\.conf: ") as caught:
        parse_keys(content.encode(), "keys.conf")
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


# The decision


def test_keys_and_rules_are_one_decision() -> None:
    text = new_key()
    keys = format_keys([ApiKey(digest_of(text), ("q",), ALL)])
    acl = "[rest:producer]\nusername = u\npassword = p\nhosts_deny = 10.0.0.1\n"
    access = Access.from_text(acl, keys=keys)
    header = f"Bearer {text}"
    found = access.check(Section.PRODUCER, "10.0.0.2", header)
    assert found is not None
    assert found.patterns == ("q",)
    assert access.check(Section.CONSUMER, "10.0.0.2", None, api_key=text) == found
    assert access.check(Section.CONSUMER, "10.0.0.2", None) is None
    assert access.check(Section.PRODUCER, "10.0.0.2", "Basic dTpw") is None
    assert not any(access.is_open(section) for section in Section)
    with pytest.raises(KeyRequired):
        Access.from_text(acl, requires_key=True).check(Section.CONSUMER, "10.0.0.2", "Basic dTpw")


def test_without_keys_nothing_is_asked_that_was_not() -> None:
    access = Access.from_text("[rest:producer]\nhosts_deny = all\n")
    assert access.is_open(Section.CONSUMER)
    assert not access.uses_keys


async def test_the_file_beside_the_rules_comes_into_force_when_it_appears(tmp_path: Path) -> None:
    (tmp_path / "acl.conf").write_text("")
    access = Access.load(tmp_path / "acl.conf")
    assert access.is_open(Section.CONSUMER)
    key = make_key("q")
    change_keys(tmp_path / "keys.conf", lambda known: [*known, key])
    assert await access.reload_if_changed() is True
    assert access.still_holds(key)
    assert not access.is_open(Section.CONSUMER)
    (tmp_path / "keys.conf").unlink()
    assert await access.reload_if_changed() is False
    assert access.still_holds(key)


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "acl.conf").write_text("")
    missing = str(tmp_path / "missing.conf")
    with pytest.raises(SettingsError, match=r"missing\.conf: cannot be read"):
        Access.load(tmp_path / "acl.conf", missing)


# The file and its commands


def test_the_file_is_for_its_owner_alone_and_replaced_at_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.conf"
    change_keys(file, lambda known: [make_key("a")])
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    before = file.stat().st_ino
    change_keys(file, lambda known: [*known, make_key("b")])
    assert file.stat().st_mode & 0o777 == 0o640
    assert file.stat().st_ino != before
    assert [key.patterns for key in read_keys(file)] == [("a",), ("b",)]
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_stays_with_those_who_could_read_it(tmp_path: Path) -> None:
    """With the owner and the group that it had: the server is one of them."""
    file = tmp_path / "keys.conf"
    for owner, group, mode in ((0, 12345, 0o640), (12345, 12345, 0o600), (12345, 0, 0o400)):
        file.touch()
        os.chown(file, owner, group)
        file.chmod(mode)
        assert change_keys(file, lambda known: [make_key("a")]) is False
        status = file.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (owner, group, mode)
    file.unlink()
    assert change_keys(file, lambda known: [make_key("a")]) is True


def test_what_goes_wrong_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "keys.conf"
    change_keys(file, lambda known: [make_key("a")])
    content = file.read_text()

    def fail(known: ApiKeys) -> list[ApiKey]:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        change_keys(file, fail)
    many = [make_key("x" * 1000) for _ in range(1000)]
    with pytest.raises(SettingsError, match="would pass"):
        change_keys(file, lambda known: many)
    with pytest.raises(SettingsError, match="cannot be changed"):
        change_keys(tmp_path / "nowhere" / "keys.conf", lambda known: [])
    assert file.read_text() == content
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.conf").write_text("")
    (tmp_path / "keys.conf").symlink_to("real.conf")
    change_keys(tmp_path / "keys.conf", lambda known: [make_key("a")])
    assert (tmp_path / "keys.conf").is_symlink()
    assert len(read_keys(tmp_path / "real.conf")) == 1


def test_changes_at_the_same_time_are_all_made(tmp_path: Path) -> None:
    file = tmp_path / "keys.conf"
    threads = [
        threading.Thread(target=change_keys, args=(file, lambda known: [*known, make_key("a")]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_keys(file)) == 8


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["keys", *arguments])


@pytest.mark.parametrize("is_root", [True, False])
def test_root_is_told_whose_a_new_file_is(
    here: Path, monkeypatch: pytest.MonkeyPatch, is_root: bool
) -> None:
    """Once: a server of another user could not read it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0 if is_root else 1000)
    made = run("add", "--queues", "a", "--can", "view")
    assert ("chown USER: " in made.stderr) is is_root
    assert made.stdout.startswith(KEY_PREFIX)
    assert "chown" not in run("add", "--queues", "b", "--can", "view").stderr


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("RESTMQ_"):
            monkeypatch.delenv(name)
    return tmp_path


def test_add_list_and_remove(here: Path) -> None:
    added = run("add", "--queues", "jobs.*, mail", "--queues", "a", "--can", "publish,consume")
    assert added.exit_code == 0, added.output
    text = added.stdout.strip()
    (key,) = read_keys(here / "keys.conf")
    assert key.digest == digest_of(text)
    assert key.patterns == ("jobs.*", "mail", "a")
    assert key.permissions == {Permission.PUBLISH, Permission.CONSUME}
    assert key.expires is None
    assert key.id in added.stderr
    assert text not in (here / "keys.conf").read_text() + added.stderr
    second = run(
        "add", "--queues", "*", "--can", "view", "--expires", "2h", "--json", "--name", "d"
    )
    told = json.loads(second.stdout)
    assert (told["can"], told["name"]) == (["view"], "d")
    rows = [line.split("\t") for line in run("list").stdout.splitlines()]
    assert [row[:4] for row in rows] == [
        [key.id, "", "jobs.*,mail,a", "publish,consume"],
        [told["id"], "d", "*", "view"],
    ]
    assert [row[5] for row in rows] == ["never", told["expires"]]
    assert run("remove", key.id, "nonsense").exit_code == 1
    assert len(read_keys(here / "keys.conf")) == 2
    assert run("remove", key.id).exit_code == 0
    assert [json.loads(line)["id"] for line in run("list", "--json").stdout.splitlines()] == [
        told["id"]
    ]


@pytest.mark.parametrize(
    ("expires", "seconds"), [("90s", 90), ("2m", 120), ("1h", 3600), ("3d", 259_200)]
)
def test_a_time_from_now(here: Path, expires: str, seconds: int) -> None:
    assert run("add", "--queues", "q", "--can", "view", "--expires", expires).exit_code == 0
    (key,) = read_keys(here / "keys.conf")
    assert key.created is not None
    assert key.expires == key.created + seconds


@pytest.mark.parametrize(
    "arguments",
    [
        ("--queues", "q", "--can", "fly"),
        ("--queues", "q", "--can", ","),
        ("--queues", ",", "--can", "view"),
        ("--queues", "q", "--can", "view", "--expires", "2001-01-01"),
        ("--queues", "q", "--can", "view", "--expires", "soon"),
        ("--queues", "q", "--can", "view", "--expires", "999999w"),
        ("--queues", "q", "--can", "view", "--name", "a\nb"),
        ("--can", "view"),
    ],
)
def test_a_wrong_command_line_makes_no_key(here: Path, arguments: tuple[str, ...]) -> None:
    result = run("add", *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    assert not (here / "keys.conf").exists()


def test_the_file_is_the_one_of_the_server(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("add", "--queues", "q", "--can", "view")
    (here / "etc").mkdir()
    assert run(*wanted, "--acl", "etc/acl.conf").exit_code == 0
    assert len(read_keys(here / "etc" / "keys.conf")) == 1
    assert run(*wanted, "--file", "mine.conf").exit_code == 0
    assert len(read_keys(here / "mine.conf")) == 1
    (here / "restmq.toml").write_text('[server]\nkeys = "toml.conf"\n')
    assert run(*wanted).exit_code == 0
    assert len(read_keys(here / "toml.conf")) == 1
    monkeypatch.setenv("RESTMQ_KEYS", "variable.conf")
    assert run(*wanted).exit_code == 0
    assert len(read_keys(here / "variable.conf")) == 1
    (here / "variable.conf").write_text("[oops]\n")
    broken = run("list")
    assert broken.exit_code == 2
    assert "[oops]" in broken.stderr


def test_what_is_written_is_an_ordinary_file_of_sections(here: Path) -> None:
    run("add", "--queues", "q", "--can", "view", "--name", "it's 100 % fine; # really")
    parser = configparser.RawConfigParser()
    parser.read(here / "keys.conf")
    (section,) = parser.sections()
    assert parser[section]["name"] == "it's 100 % fine; # really"
