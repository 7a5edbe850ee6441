"""What the doctor finds in rules and listeners: each mistake, and nothing where there is none."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from restmq.cli.doctor.access import check_access, check_proxies
from restmq.cli.doctor.findings import Finding, Level
from restmq.settings import Settings

SECTIONS = ("rest:producer", "rest:consumer", "comet:consumer", "websocket:consumer")
PASSWORD = "username = somebody\npassword = 59d1fd07c2a5"


def rules(text: str, *sections: str) -> str:
    """An access file with the same rule in these sections, by default in all."""
    return "".join(f"[{section}]\n{text}\n" for section in sections or SECTIONS)


def findings(tmp_path: Path, acl: str, **settings: Any) -> list[tuple[str, str]]:
    """Level and check of all that is not well."""
    (tmp_path / "acl.conf").write_text(acl)
    found = list(check_access(Settings(acl=str(tmp_path / "acl.conf"), **settings)))
    return [(each.level, each.check) for each in not_well(found)]


def not_well(found: Sequence[Finding]) -> list[Finding]:
    """Leave out what is as it should be; look at the form of the rest."""
    bad = [each for each in found if each.level is not Level.OK]
    assert all(each.what and each.remedy for each in bad)
    return bad


@pytest.mark.parametrize("listen", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_a_listener_for_this_machine_needs_no_rules(tmp_path: Path, listen: str) -> None:
    """As by default."""
    assert findings(tmp_path, "", listen=listen) == []


def test_a_proxy_brings_the_world_to_a_listener_for_this_machine(tmp_path: Path) -> None:
    """The server cannot know whom it lets through."""
    behind = {"listen": "127.0.0.1", "trusted_proxies": ("127.0.0.1",)}
    assert findings(tmp_path, "", **behind) == [("warning", "open-listener")]
    assert findings(tmp_path, rules(PASSWORD), **behind) == []


@pytest.mark.parametrize(
    ("listen", "level"),
    [
        ("0.0.0.0", "problem"),
        ("::", "problem"),
        ("198.41.0.4", "problem"),
        ("2001:500:2::c", "problem"),
        ("10.1.2.3", "warning"),
        ("192.168.1.1", "warning"),
        ("fd00::1", "warning"),
    ],
)
def test_an_open_listener_is_found(tmp_path: Path, listen: str, level: str) -> None:
    """Worse where everyone can reach it."""
    assert findings(tmp_path, "", listen=listen) == [(level, "open-listener")]
    assert findings(tmp_path, rules(PASSWORD), listen=listen, tls_certificate="x") == []
    assert findings(tmp_path, rules("hosts_allow = 10.0.0.0/8 127.0.0.1"), listen=listen) == []
    assert findings(tmp_path, rules("hosts_deny = all"), listen=listen) == []


@pytest.mark.parametrize(
    "rule",
    [
        "hosts_allow = all",
        "hosts_allow = 0.0.0.0/0",
        "hosts_allow = ::/0",
        "hosts_deny = 192.168.7.13",
        "hosts_allow = all 10.0.0.1",
        "hosts_allow = 10.0.0.1\nhosts_deny = 10.0.0.2",
    ],
)
def test_rules_that_let_everyone_in_are_no_rules(tmp_path: Path, rule: str) -> None:
    """However they are written."""
    assert findings(tmp_path, rules(rule), listen="0.0.0.0") == [("problem", "open-listener")]


def test_a_forgotten_section_is_found(tmp_path: Path) -> None:
    """By its name; what is for STOMP stands in the others."""
    (tmp_path / "acl.conf").write_text(rules(PASSWORD, *SECTIONS[:3]))
    settings = Settings(
        acl=str(tmp_path / "acl.conf"), listen="0.0.0.0", trusted_proxies=("10.0.0.1",)
    )
    (finding,) = not_well(list(check_access(settings)))
    assert (finding.level, finding.check) == ("warning", "open-listener")
    assert "[websocket:consumer]" in finding.remedy
    assert "producer" not in finding.remedy


def test_passwords_that_cross_the_network_in_clear_are_found(tmp_path: Path) -> None:
    """Unless the server speaks TLS, or a proxy may do so for it."""
    found = [("warning", "clear-password")]
    assert findings(tmp_path, rules(PASSWORD), listen="0.0.0.0") == found
    only_here = rules(f"hosts_allow = 127.0.0.1\n{PASSWORD}")
    assert findings(tmp_path, only_here, listen="10.1.2.3") == found
    assert findings(tmp_path, "", listen="0.0.0.0", require_key=True) == found
    for changes in (
        {"listen": "127.0.0.1"},
        {"listen": "0.0.0.0", "tls_certificate": "x"},
        {"listen": "0.0.0.0", "trusted_proxies": ("10.0.0.1",)},
    ):
        assert findings(tmp_path, rules(PASSWORD), **changes) == []
        assert findings(tmp_path, "", require_key=True, **changes) == []


def test_passcodes_of_stomp_in_clear_are_found(tmp_path: Path) -> None:
    """Whatever stands in front of HTTP: that speaks no STOMP over TCP."""
    found = [("warning", "clear-password")]
    (tmp_path / "keys.conf").touch()
    http = {"listen": "10.1.2.3", "tls_certificate": "x", "require_key": True}
    stomp = {**http, "stomp_port": 61613}
    assert findings(tmp_path, "", **http) == []
    assert findings(tmp_path, "", **stomp) == found
    assert findings(tmp_path, "", **stomp, trusted_proxies=("10.0.0.1",)) == found
    assert findings(tmp_path, "", **{**stomp, "tls_certificate": ""}) == found * 2
    assert findings(tmp_path, "", **stomp, stomp_certificate="x") == []
    assert findings(tmp_path, "", **{**stomp, "listen": "127.0.0.1"}) == []
    (tmp_path / "keys.conf").unlink()
    closed = rules("hosts_allow = 10.0.0.0/8")
    open_stomp = {"listen": "10.1.2.3", "stomp_port": 61613}
    assert findings(tmp_path, closed, **open_stomp) == []
    assert findings(tmp_path, closed, **open_stomp, stomp_passcode="59d1fd07c2a5") == found
    assert findings(tmp_path, closed + rules(PASSWORD, "stomp"), **open_stomp) == found


def test_any_origin_is_found(tmp_path: Path) -> None:
    """Where a page needs no password."""
    found = [("warning", "any-origin")]
    assert findings(tmp_path, "", allowed_origins=("*",)) == found
    assert findings(tmp_path, "", allowed_origins=("https://app.example",)) == []
    assert findings(tmp_path, rules(PASSWORD), allowed_origins=("*",)) == []


def test_the_test_mode_of_rse_is_found(tmp_path: Path) -> None:
    """Where others can reach it."""
    closed = {"tls_certificate": "x", "rse_test_mode": True}
    found = [("warning", "rse-test-mode")]
    assert findings(tmp_path, rules(PASSWORD), listen="10.1.2.3", **closed) == found
    assert findings(tmp_path, rules(PASSWORD), **closed) == []


def test_a_file_of_keys_does_not_close_an_open_listener(tmp_path: Path) -> None:
    """Only to require one does."""
    (tmp_path / "keys.conf").touch()
    proxy = {"listen": "0.0.0.0", "trusted_proxies": ("10.0.0.1",)}
    assert findings(tmp_path, "", **proxy) == [("problem", "open-listener")]
    assert findings(tmp_path, "", require_key=True, **proxy) == []
    (tmp_path / "keys.conf").write_text("nonsense\n")
    assert findings(tmp_path, "", **proxy) == [("problem", "access-file")]


def test_a_host_that_is_unknown_counts_as_public(tmp_path: Path) -> None:
    """The check of the port tells the rest."""
    found = findings(tmp_path, "", listen="no-such-host.invalid")
    assert found == [("problem", "open-listener")]


def test_rules_that_let_nobody_in_who_can_come_are_found(tmp_path: Path) -> None:
    """For want of a trusted proxy every client comes from this machine."""
    acl = rules("hosts_allow = 10.0.0.0/8")
    assert findings(tmp_path, acl) == [("warning", "unreachable")]
    assert findings(tmp_path, acl, trusted_proxies=("127.0.0.1",)) == []
    assert findings(tmp_path, acl, listen="10.0.0.1") == []
    assert findings(tmp_path, rules("hosts_allow = 10.0.0.0/8 ::1")) == []
    assert findings(tmp_path, rules(f"hosts_allow = 127.0.0.1\n{PASSWORD}")) == []


@pytest.mark.parametrize("text", ["[rest:producer]\nhosts_alow = all\n", "[x]\n", "nonsense\n"])
def test_a_broken_file_is_found(tmp_path: Path, text: str) -> None:
    """As the server would refuse it."""
    assert findings(tmp_path, text) == [("problem", "access-file")]


def test_a_missing_file_is_found_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the server."""
    monkeypatch.chdir(tmp_path)
    assert not_well(list(check_access(Settings()))) == []
    (finding,) = check_access(Settings(acl=str(tmp_path / "none.conf")))
    assert (finding.level, finding.check) == ("problem", "access-file")


@pytest.mark.parametrize(
    ("password", "level"), [("change me", "problem"), ("Secret", "problem"), ("short1", "warning")]
)
def test_a_weak_password_is_found(tmp_path: Path, password: str, level: str) -> None:
    """And not repeated."""
    text = rules(f"username = somebody\npassword = {password}", "stomp")
    assert findings(tmp_path, text) == [(level, "weak-secret")]
    (tmp_path / "acl.conf").write_text(text)
    found = list(check_access(Settings(acl=str(tmp_path / "acl.conf"))))
    assert not any(password in each.what + each.remedy for each in found)
    assert findings(tmp_path, rules(PASSWORD, "stomp")) == []


def test_a_weak_secret_of_the_settings_is_found(tmp_path: Path) -> None:
    """Of each that has one."""
    for settings in (
        {"stomp_passcode": "abc"},
        {"rse_tokens": ("59d1fd07c2a5", "abc")},
        {"queuey_application_keys": ("application=abc",)},
    ):
        assert findings(tmp_path, "", **settings) == [("warning", "weak-secret")]
    long = {"rse_tokens": ("59d1fd07c2a5",), "queuey_application_keys": ("a=59d1fd07c2a5",)}
    assert findings(tmp_path, "", stomp_passcode="59d1fd07c2a5", **long) == []


@pytest.mark.parametrize(
    ("network", "level"),
    [
        ("0.0.0.0/0", "problem"),
        ("::/0", "problem"),
        ("128.0.0.0/1", "problem"),
        ("2000::/3", "problem"),
        ("104.16.0.0/13", "warning"),
        ("2a06:98c0::/29", "warning"),
        ("10.0.0.0/8", "ok"),
        ("127.0.0.1", "ok"),
        ("fd00::/16", "ok"),
        ("198.41.0.4", "ok"),
    ],
)
def test_proxies_that_are_half_the_world_are_found(network: str, level: str) -> None:
    """By the size of their networks."""
    (finding,) = check_proxies(Settings(trusted_proxies=(network,)))
    assert (finding.level, finding.check) == (level, "trusted-proxies")
    assert network in finding.what
    assert bool(finding.remedy) is (level != "ok")


def test_without_proxies_there_is_nothing_to_say() -> None:
    """Nothing at all."""
    assert list(check_proxies(Settings())) == []
