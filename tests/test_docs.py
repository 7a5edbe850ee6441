"""The manual: its pages link to each other, and its tables say what the program does.

``python -m tests.test_docs`` writes the tables of settings anew.
"""

import ast
import inspect
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
import pytest
from markdown_it import MarkdownIt

from restmq import client
from restmq.access import Access
from restmq.cli.main import cli
from restmq.knobs import Knob
from restmq.node import Node
from restmq.queue_settings import DEFAULTS
from restmq.settings import Settings, knobs

FOLDER = Path(__file__).parent.parent / "restmq" / "docs"
PAGES = sorted(FOLDER.glob("*.md"))
BEGIN, END = "[//]: # (settings)", "[//]: # (end of settings)"
_LINK = re.compile(r"\]\(([^)#:]+\.md)\)")
_FENCED = re.compile(r"^```", re.MULTILINE)

_INVOKED = re.compile(r"(?:^|\$\(|\| |&& )restmq ([^|;&)]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_CALL = re.compile(r"(\w+)\(([^()]*)\)")
_KEYWORD = re.compile(r"(\w+)=")
_METHOD_AND_PATH = re.compile(r"(GET|POST|PUT|PATCH|DELETE|HEAD) (/\S*)")
_SERVERS = ("S/", "http://127.0.0.1:8888/")
_DATA_OPTIONS = ("-d", "--data", "--data-binary", "--data-urlencode")
OTHER_PATHS = {"hosts", "temp-queue", "topic", "jobs"}
"""What cells of tables name that is no path here: RSE's at its own port, and STOMP's names."""


def settings_tables() -> str:
    """Return one table for each section of the settings file."""
    sections: dict[str, list[Knob]] = {}
    for one in knobs():
        sections.setdefault(one.section, []).append(one)
    parts = []
    for section, members in sections.items():
        rows = [f"### [{section}]", "", "| name | default | meaning |", "|---|---|---|"]
        rows += [f"| `{one.key}` | {default_of(one)} | {meaning_of(one)} |" for one in members]
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def default_of(one: Knob) -> str:
    """Return how the table shows a default."""
    text = one.format(one.default)
    return f"`{text}`" if text else ""


def meaning_of(one: Knob) -> str:
    """Return the help text and what values are right."""
    expected = one.expected[0].upper() + one.expected[1:]
    return f"{one.help_text} {expected}.".replace("|", "\\|").replace("*", "\\*")


def between_marks(text: str) -> str:
    """Return what stands between the two marks."""
    return text.split(BEGIN)[1].split(END)[0].strip()


def test_the_table_of_settings_is_that_of_the_program() -> None:
    page = (FOLDER / "settings.md").read_text()
    assert between_marks(page) == settings_tables(), "python -m tests.test_docs writes it anew"


@pytest.mark.parametrize("name", DEFAULTS.__struct_fields__)
def test_each_setting_of_queues_is_in_the_manual_with_its_default(name: str) -> None:
    value = msgspec.to_builtins(getattr(DEFAULTS, name))
    shown = {None: "none", (): ""}.get(
        value if not isinstance(value, list) else tuple(value), value
    )
    cell = f"`{shown}`" if shown != "" else ""
    assert f"| `{name}` | {cell} |" in (FOLDER / "settings.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
class TestPages:
    def test_every_link_leads_to_a_page(self, page: Path) -> None:
        for target in _LINK.findall(page.read_text()):
            assert (FOLDER / target).is_file(), target

    def test_the_first_page_leads_here(self, page: Path) -> None:
        found = _LINK.findall((FOLDER / "index.md").read_text())
        assert page.name == "index.md" or page.name in found

    def test_it_begins_with_its_title(self, page: Path) -> None:
        assert page.read_text().startswith("# ")

    def test_its_fences_are_closed(self, page: Path) -> None:
        assert len(_FENCED.findall(page.read_text())) % 2 == 0


class Code(NamedTuple):
    """A piece of code in the manual."""

    text: str
    is_inline: bool
    begins_cell: bool
    """Whether it is the first thing in a cell of a table."""


def code_of(page: Path) -> Iterator[Code]:
    """Yield all pieces of code of a page."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    is_cell = False
    for token in parser.parse(page.read_text()):
        if token.type in ("code_block", "fence"):
            yield Code(token.content.replace("\\\n", " "), is_inline=False, begins_cell=False)
        for place, child in enumerate(token.children or ()):
            if child.type == "code_inline":
                begins_cell = is_cell and place == 0
                yield Code(child.content, is_inline=True, begins_cell=begins_cell)
        is_cell = token.type == "td_open"


def all_commands() -> Mapping[str, set[str]]:
    """Return the options of each command, by its name; of one in a group ``GROUP COMMAND``."""
    found: dict[str, set[str]] = {}

    def walk(group: click.Group, context: click.Context, path: str) -> None:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None, name
            own = {
                option
                for parameter in command.get_params(context)
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            found[f"{path}{name}"] = own | {"--help"}
            if isinstance(command, click.Group):
                walk(command, context, f"{path}{name} ")

    walk(cli, click.Context(cli), "")
    return found


COMMANDS = all_commands()


def named_command(words: str) -> str:
    """Return the command that a line begins with; raises AssertionError if there is none."""
    first, _, rest = words.partition(" ")
    for name in (f"{first} {rest.partition(' ')[0]}", first):
        if name in COMMANDS:
            return name
    raise AssertionError(f"there is no command restmq {words}")


def invocations(page: Path) -> Iterator[str]:
    """Yield what follows ``restmq`` in each command line of a page."""
    for code in code_of(page):
        for line in code.text.splitlines():
            yield from (words for words in _INVOKED.findall(line) if words.strip())


def requests_of(page: Path) -> Iterator[tuple[str, str]]:
    """Yield method and path of each request that a page names or makes."""
    for code in code_of(page):
        if code.is_inline:
            match = _METHOD_AND_PATH.match(code.text)
            if match is not None:
                yield match[1], match[2]
            elif code.begins_cell and code.text.startswith("/"):
                yield "", code.text
            continue
        for line in code.text.splitlines():
            if line.startswith("curl "):
                yield from curl_request(line)


def curl_request(line: str) -> Iterator[tuple[str, str]]:
    """Yield method and path of a curl command line."""
    words = shlex.split(line)
    paths = [
        word.removeprefix(each) for word in words for each in _SERVERS if word.startswith(each)
    ]
    assert len(paths) == 1, line
    method = "POST" if any(word in _DATA_OPTIONS for word in words) and "-G" not in words else "GET"
    if "-X" in words:
        method = words[words.index("-X") + 1]
    yield method, f"/{paths[0]}"


def segment_of(path: str) -> str:
    """Return the first segment of a path."""
    return re.split(r"[/?]", path[1:])[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
class TestCommands:
    def test_every_command_line_is_one(self, page: Path) -> None:
        for words in invocations(page):
            if words.split()[0] in ("COMMAND", "--version"):
                continue
            name = named_command(words)
            for option in _OPTION.findall(words):
                assert option in COMMANDS[name], f"restmq {words}"

    def test_every_option_is_one(self, page: Path) -> None:
        known = set().union(*COMMANDS.values()) | {"--version"}
        for code in code_of(page):
            if code.is_inline and code.text.startswith("--"):
                assert _OPTION.match(code.text), code.text
                assert code.text.split()[0] in known, code.text


class TestCommandLinePage:
    page = FOLDER / "command-line.md"

    def test_it_has_every_command(self) -> None:
        rows = re.findall(r"^\| `restmq ([^`]+)`", self.page.read_text(), re.MULTILINE)
        groups = {name.split()[0] for name in COMMANDS if " " in name}
        assert sorted(map(named_command, rows)) == sorted(COMMANDS.keys() - groups)

    def test_options_stand_at_their_command(self) -> None:
        for row in re.findall(r"^\| `restmq (.+)$", self.page.read_text(), re.MULTILINE):
            known = COMMANDS[named_command(row.replace("`", " "))]
            for option in _OPTION.findall(row):
                assert option in known, row


@pytest.fixture
async def routes() -> set[tuple[str, str]]:
    """The methods and first segments that there are."""
    node = Node(Settings(), "redis://127.0.0.1:1", Access.from_text(""))
    return {(route.method, route.segment) for route in node.router.routes}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
async def test_every_request_has_a_route(page: Path, routes: set[tuple[str, str]]) -> None:
    segments = {segment for _, segment in routes}
    for method, path in requests_of(page):
        segment = segment_of(path)
        if method:
            assert (method, segment) in routes, f"{method} {path}"
        else:
            assert segment in segments | OTHER_PATHS, path


class TestPythonPage:
    page = FOLDER / "python.md"

    def test_examples_are_python(self) -> None:
        for code in code_of(self.page):
            if not code.is_inline:
                ast.parse(f"async def example():\n{textwrap.indent(code.text, '    ')}")

    def test_methods_and_arguments_are_those_of_the_client(self) -> None:
        owners = (
            client.Client,
            client.LeasedMessage,
            client.Message,
            client.Consumer,
            client.Channel,
            client.Cursor,
        )
        for code in code_of(self.page):
            for name, arguments in _CALL.findall(code.text) if code.is_inline else ():
                found = [getattr(owner, name) for owner in owners if hasattr(owner, name)]
                assert found or name == "on_gap", code.text
                for argument in _KEYWORD.findall(arguments):
                    assert any(_takes(function, argument) for function in found), code.text

    def test_errors_are_those_of_the_client(self) -> None:
        table = self.page.read_text().partition("| class | because |")[2]
        for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE):
            for name in re.findall(r"`(\w+)`", cell):
                assert issubclass(getattr(client, name), client.RestMQError)


def _takes(function: Callable[..., object], argument: str) -> bool:
    parameters = inspect.signature(function).parameters
    return argument in parameters or any(
        each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()
    )


def write_tables() -> None:
    """Write the tables of settings anew."""
    path = FOLDER / "settings.md"
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{settings_tables()}\n\n{END}{after}")


if __name__ == "__main__":
    write_tables()
