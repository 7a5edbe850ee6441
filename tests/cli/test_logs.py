"""The commands that look after channels and applications, against the real program."""

import json
import re
from collections.abc import Iterator
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner, Result

from restmq import rivulet
from restmq.cli.main import cli
from tests.server_thread import server_on_a_thread

COMMANDS = ["channels", "channels list", "channels show", "channels prune", "channels delete"]
COMMANDS += ["apps"]
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that the tests of this module share."""
    flags = ("--queuey-application-keys", "demo=K,other=O")
    with server_on_a_thread(tmp_path_factory.mktemp("cli"), *flags) as server:
        yield server.url


def run(url: str | None, *arguments: str) -> Result:
    """Run ``restmq`` in this process."""
    environ = {"RESTMQ_URL": url, "RESTMQ_USER": None, "RESTMQ_APPLICATION_KEY": None}
    return CliRunner().invoke(cli, list(arguments), env=environ)


def lines(result: Result) -> list[str]:
    """Return the lines of a command that did well."""
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example_and_the_exit_codes(command: str) -> None:
    """As for every command."""
    text = run(None, *command.split(), "--help").stdout
    assert re.search(rf"Examples:\n +(RESTMQ\S+ )?restmq {command}\b", text)
    assert "Exit codes: 0" in text
    assert "Print" in text


def test_the_help_lists_them() -> None:
    """Under a heading of their own."""
    assert re.search(r"Logs:\n  channels +L.*\n  apps +L", run(None, "--help").stdout)


def test_channels_are_listed(url: str, fresh_name: str) -> None:
    """By name, in pages or not, also those that only have a subscriber."""
    names = [f"{fresh_name}-{index}/ä" for index in range(4)]
    client = rivulet.connect(url, channel_ids=names[3:])
    for name in names[:3]:
        client.write(name, 1)
    listed = [each for each in lines(run(url, "channels", "list")) if fresh_name in each]
    assert listed == names
    page = run(url, "channels", "list", "--after", names[0], "--limit", "2", "-0")
    assert page.stdout_bytes == "".join(f"{name}\0" for name in names[1:3]).encode()


def test_a_channel_is_shown(url: str, fresh_name: str) -> None:
    """Its numbers and its subscribers."""
    name = f"{fresh_name} /?"
    client = rivulet.connect(url, client_id=fresh_name, channel_ids=[name])
    for number in range(5):
        client.write(name, number)
    client.read(message_limit=2)
    shown = dict(line.split("\t") for line in lines(run(url, "channels", "show", name)))
    assert shown == {
        "channel": name,
        "count": "5",
        "first": "1",
        "last": "5",
        "subscriber_count": "1",
        f"cursor of {fresh_name}": "2",
    }
    document = json.loads(run(url, "channels", "show", name, "--json").stdout)
    assert (document["count"], document["subscribers"]) == (5, {fresh_name: 2})


def test_a_channel_is_pruned_and_deleted(url: str, fresh_name: str) -> None:
    """What is gone is gone for those who had not read it, too."""
    client = rivulet.connect(url, channel_ids=[fresh_name])
    for number in range(1, 6):
        client.write(fresh_name, number)
    assert lines(run(url, "channels", "prune", fresh_name, "--before", "4")) == ["3"]
    assert lines(run(url, "channels", "prune", fresh_name, "--before", "4")) == ["0"]
    assert [m["id"] for m in client.read()[fresh_name]] == [4, 5]
    assert lines(run(url, "channels", "delete", fresh_name, "--yes")) == ["deleted"]
    assert client.subscriptions == []


def test_a_channel_that_is_not_there_is_told(url: str, fresh_name: str) -> None:
    """On one line of standard error, with exit code 1."""
    for command in ("show", "delete"):
        result = run(url, "channels", command, fresh_name)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"restmq: there is no channel {fresh_name!r} (404 Not Found)\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("channels", "show", ""),
        ("channels", "delete", ""),
        ("channels", "prune", "x"),
        ("channels", "prune", "x", "--before", "0"),
        ("channels", "list", "--limit", "0"),
        ("apps", "demo"),
        ("apps", "", "--key", "K"),
    ],
)
def test_a_wrong_command_line_is_told(url: str, arguments: tuple[str, ...]) -> None:
    """With exit code 2, before anything is asked."""
    result = run(url, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def post(url: str, path: str, body: bytes, **headers: str) -> None:
    """Send one request to Queuey."""
    wanted = {"Authorization": "Application K"}
    wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
    with urlopen(Request(url + path, body, wanted)) as answer:
        assert answer.status == 201


def test_the_queues_of_an_application_are_listed(url: str) -> None:
    """With partitions, type and the number of their messages."""
    assert lines(run(url, "apps", "other", "--key", "O")) == []
    post(url, "/v1/demo", b"queue_name=b&type=public", Content_Type=FORM)
    post(url, "/v1/demo", b"queue_name=%s&partitions=3" % quote("ä").encode(), Content_Type=FORM)
    post(url, "/v1/demo/b", b"hello", Content_Type="text/plain")
    assert lines(run(url, "apps", "demo", "--key", "K")) == ["b\t1\tpublic\t1", "ä\t3\tuser\t0"]
    documents = [json.loads(line) for line in lines(run(url, "apps", "demo", "--key=K", "--json"))]
    assert [each["queue_name"] for each in documents] == ["b", "ä"]
    wrong = run(url, "apps", "demo", "--key", "wrong")
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("restmq: cannot list the queues of demo: ")
    assert "401" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


def test_long_lists_come_in_pages(
    url: str, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left out or comes twice."""
    monkeypatch.setattr("restmq.cli.logs.PAGE_SIZE", 2)
    names = [f"{fresh_name}-{index}" for index in range(5)]
    for name in names:
        rivulet.connect(url).write(name, 1)
        post(url, "/v1/demo", b"queue_name=%s" % name[-30:].encode(), Content_Type=FORM)
    listed = [each for each in lines(run(url, "channels", "list")) if fresh_name in each]
    assert listed == names
    queues = [line.split("\t")[0] for line in lines(run(url, "apps", "demo", "--key", "K"))]
    assert [name for name in queues if fresh_name[-10:] in name] == [name[-30:] for name in names]
