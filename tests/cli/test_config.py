"""The command that shows the settings a server would have."""

import json
import os
import pty
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from restmq.cli.main import cli
from restmq.settings import Settings, knobs
from restmq.settings_sources import load

FILE = """
[server]
port = 9000
redis_url = "redis://u:pass-1@h:6379/0"
memory_redis_url = "redis://u:pass-2@h:6379/1"
trusted_proxies = ["10.0.0.0/8"]
[rse]
tokens = ["token-1", "token-2"]
[queuey.application_keys]
demo = ["key-1", "key-2"]
"a.b" = "key-3"
[queues."jobs.*"]
max_attempts = 3
ttl = "none"
copies_to = ["x\\u007fy", "\\"ä\\""]
"""
SECRETS = ("pass-1", "pass-2", "token-1", "token-2", "key-1", "key-2", "key-3", "pass-code")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in an empty directory and with no setting in the environment."""
    for name in os.environ:
        if name.startswith("RESTMQ_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    """Run ``restmq config`` in this process."""
    return CliRunner().invoke(cli, ["config", *arguments])


def rows(*arguments: str) -> dict[str, tuple[str, str]]:
    """Value and source by name, as a pipe gets them."""
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    split = (line.split("\t") for line in result.stdout.splitlines())
    return {name: (value, source) for name, value, source in split}


def test_without_anything_all_is_default(place: Path) -> None:
    """Every setting is there, once, in the order of the settings."""
    found = rows()
    assert list(found) == [knob.name for knob in knobs()]
    assert {source for _, source in found.values()} == {"default"}
    assert found["port"] == ("8888", "default")
    assert found["data_dir"] == (str(place / "restmq-data"), "default")
    assert found["redis_host"] == ("", "default")
    assert rows("--changed") == {}


def test_each_value_says_where_it_comes_from(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later wins, as for the server."""
    file = place / "restmq.toml"
    file.write_text("[server]\nport = 9000\nworkers = 2\nlisten = '::1'\n")
    monkeypatch.setenv("RESTMQ_WORKERS", "3")
    monkeypatch.setenv("RESTMQ_FSYNC", "no")
    found = rows("--fsync", "everysec")
    assert found["listen"] == ("::1", f"{file} [server] listen")
    assert found["port"] == ("9000", f"{file} [server] port")
    assert found["workers"] == ("3", "RESTMQ_WORKERS")
    assert found["fsync"] == ("everysec", "--fsync")
    assert list(rows("--fsync", "always", "--changed")) == ["listen", "port", "workers", "fsync"]


def test_secrets_are_shown_only_when_asked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every form."""
    (place / "restmq.toml").write_text(FILE)
    monkeypatch.setenv("RESTMQ_STOMP_PASSCODE", "pass-code")
    for form in ((), ("--toml",), ("--json",)):
        hidden, shown = run(*form).stdout, run(*form, "--show-secrets").stdout
        assert not any(secret in hidden for secret in SECRETS)
        assert all(secret in shown for secret in SECRETS)
        assert "***" in hidden
        assert "***" not in shown
    assert rows()["redis_url"][0] == "redis://***@h:6379/0"
    assert rows()["stomp_passcode"][0] == "***"


def test_every_secret_setting_is_masked() -> None:
    """Also those that are yet to come."""
    for knob in knobs():
        value: object = ("name=hidden",) if knob.value_type is tuple else "hidden"
        assert ("hidden" in str(knob.masked(value))) is not knob.secret
        assert knob.masked(knob.default) == knob.default


def test_the_file_it_prints_gives_the_same_settings(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever place they came from: file, environment and flag."""
    (place / "restmq.toml").write_text(FILE)
    monkeypatch.setenv("RESTMQ_STOMP_PASSCODE", 'a"b\\c#\x7f\n')
    flags = {"workers": "2", "ping_seconds": "2.5", "data_dir": "elsewhere"}
    given = [
        part for name, value in flags.items() for part in (f"--{name}".replace("_", "-"), value)
    ]
    before = load(flags, os.environ, place)
    printed = run(*given, "--toml", "--show-secrets").stdout
    other = place / "other"
    other.mkdir()
    (other / "restmq.toml").write_text(printed)
    again = load({}, {}, other)
    assert again == before
    assert again.data_dir == place / "elsewhere"
    assert again.queues == before.queues
    assert tomllib.loads(printed)["queues"]["jobs.*"]["copies_to"] == ["x\x7fy", '"ä"']


@pytest.mark.parametrize("arguments", [(), ("--show-secrets",)])
def test_the_file_of_defaults_asks_for_nothing(place: Path, arguments: tuple[str, ...]) -> None:
    """Above all for no Redis elsewhere, as a named redis_port would."""
    (place / "restmq.toml").write_text(run("--toml", *arguments).stdout)
    assert load({}, {}, place) == Settings(data_dir=place / "restmq-data")
    assert rows("--changed") == {}


def test_a_file_with_masked_secrets_can_be_read_but_lacks_them(place: Path) -> None:
    """They are comments, so that no server takes *** for a password."""
    (place / "restmq.toml").write_text(FILE)
    (place / "masked.toml").write_text(run("--toml").stdout)
    settings = load({"config": "masked.toml"}, {}, place)
    assert (settings.port, settings.redis_url, settings.rse_tokens) == (9000, "", ())
    assert settings.queuey_application_keys == ()


def test_json_holds_values_as_they_are(place: Path) -> None:
    """Numbers, lists and null; beside them the patterns of queues."""
    (place / "restmq.toml").write_text(FILE)
    document = json.loads(run("--json").stdout)
    assert document["file"] == str(place / "restmq.toml")
    settings = {each["name"]: each for each in document["settings"]}
    assert settings["port"]["value"] == 9000
    assert settings["redis_host"]["value"] is None
    assert settings["trusted_proxies"]["value"] == ["10.0.0.0/8"]
    assert settings["rse_tokens"] == {
        "name": "rse_tokens",
        "section": "rse",
        "key": "tokens",
        "value": ["***", "***"],
        "source": f"{place / 'restmq.toml'} [rse] tokens",
        "secret": True,
    }
    assert document["queues"]["jobs.*"]["max_attempts"] == 3
    assert rows()['queues."jobs.*".ttl'][0] == "none"


def test_what_serve_refuses_is_refused(place: Path) -> None:
    """With the same line and exit code."""
    (place / "wrong.toml").write_text("[server]\nprot = 1\n")
    for arguments in (["--config", "wrong.toml"], ["--port", "http"], ["--config", "none.toml"]):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == CliRunner().invoke(cli, ["serve", *arguments]).stderr
        assert result.stderr.startswith("restmq: ")
    assert "No such option" in run("--prot", "1").stderr
    assert run("--json", "--toml").exit_code == 2


def test_on_a_terminal_it_is_a_table(place: Path) -> None:
    """Whose values drive nothing."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "restmq", "config", "--stomp-login", "[b]\x1b[2J"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200"}
    subprocess.run(command, stdout=theirs, env=environ, check=True, timeout=60)
    os.close(theirs)
    shown = b""
    while b"stomp_key" not in shown:
        shown += os.read(ours, 65536)
    os.close(ours)
    assert "[b]\\x1b[2J" in shown.decode()
    assert "│ default" in shown.decode()


def test_the_help_offers_the_settings_and_an_example() -> None:
    """As for every command."""
    text = run("--help").stdout
    assert re.search(r"Examples:\n +restmq config\b", text)
    assert "Exit codes: 0" in text
    assert all(knob.flag in text for knob in knobs())
