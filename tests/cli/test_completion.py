"""Completion by the shell: a real bash, with the script that the command prints."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner

from restmq.cli.main import cli
from tests.server_thread import server_on_a_thread

DEADLINE_SECONDS = 30
ROOT = Path(__file__).parents[2]
ASK_BASH = """
source <(restmq completion bash)
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
COMPREPLY=()
_restmq_completion restmq "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that the tests of this module share."""
    with server_on_a_thread(tmp_path_factory.mktemp("completion")) as server:
        yield server.url


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory with a program ``restmq`` that runs this checkout."""
    script = tmp_path / "bin" / "restmq"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m restmq "$@"\n')
    script.chmod(0o755)
    return script.parent


def complete(program: Path, url: str, *words: str) -> list[str]:
    """What bash offers for the last of these words; nothing may be said beside it."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RESTMQ_URL": url}
    environ["PATH"] = f"{program}:{environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", ASK_BASH, "bash", "restmq", *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def add(url: str, queue: str) -> None:
    """Make a queue."""
    urlopen(Request(f"{url}/q/{quote(queue, safe='')}", data=b"value=v"), timeout=60).close()


def test_bash_completes_commands_and_options(program: Path, url: str) -> None:
    """With the script as it is printed."""
    assert complete(program, url, "pur") == ["purge"]
    assert complete(program, url, "add", "--pri") == ["--priority"]
    assert complete(program, url, "policy", "q", "ro") == ["roundrobin"]
    assert complete(program, url, "completion", "z") == ["zsh"]
    assert "--show-secrets" in complete(program, url, "config", "--sh")


def test_bash_completes_names_of_queues(program: Path, url: str, fresh_name: str) -> None:
    """Those that begin so and need no quotes, wherever the argument is a queue."""
    names = [f"{fresh_name}{end}" for end in ("", "-b", "/c.d")]
    others = [f"{fresh_name}{end}" for end in (" e", ":f", "'g")]
    for name in (*names, *others, fresh_name[:-1]):
        add(url, name)
    for command in ("take", "purge", "len", "dead", "lease", "settings", "listen"):
        assert complete(program, url, command, fresh_name) == names
    assert complete(program, url, "policy", fresh_name + "-") == [names[1]]
    assert complete(program, url, "take", "--url", url, names[2][:-1]) == [names[2]]
    assert complete(program, "http://127.0.0.1:1", "take", "--url", url, names[2]) == [names[2]]


def test_names_come_from_the_beginning_that_was_typed_and_not_from_the_first_page(
    program: Path, url: str, fresh_name: str
) -> None:
    """Although there are more queues than one answer holds."""
    for number in range(120):
        add(url, f"{fresh_name}-{number:03}")
    assert complete(program, url, "take", f"{fresh_name}-119") == [f"{fresh_name}-119"]
    assert len(complete(program, url, "take", f"{fresh_name}-")) == 100


def test_without_a_server_there_are_no_names_and_no_words(program: Path) -> None:
    """Nobody there; nobody who answers; somebody else; no address at all."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        assert complete(program, f"http://127.0.0.1:{port}", "take", "q") == []
    assert complete(program, f"http://127.0.0.1:{port}", "take", "q") == []
    assert complete(program, "nonsense", "take", "q") == []


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("bash", "complete -o nosort -F _restmq_completion restmq"),
        ("zsh", "#compdef restmq"),
        ("fish", "complete --no-files --command restmq"),
    ],
)
def test_each_shell_has_a_script(shell: str, words: str) -> None:
    """That names the program and its variable."""
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert words in result.stdout
    assert f"_RESTMQ_COMPLETE={shell}_complete" in result.stdout


def test_the_help_has_an_example_and_the_exit_codes() -> None:
    """As for every command."""
    text = CliRunner().invoke(cli, ["completion", "--help"]).stdout
    assert re.search(r"Examples:\n +restmq completion bash\b", text)
    assert "Exit codes: 0" in text
    assert "Prints the script" in text
    assert CliRunner().invoke(cli, ["completion", "tcsh"]).exit_code == 2
