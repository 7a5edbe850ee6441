"""The command that says which settings a server would have, and who said so: config."""

import functools
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from restmq.cli.common import Printer, cell, print_rows
from restmq.cli.options import SettingsCommand

if TYPE_CHECKING:
    from restmq.knobs import Knob
    from restmq.settings import Settings

CONFIG_HELP = """Show the settings that restmq serve would have here, and where each comes from.

It reads the same TOML file, RESTMQ_* variables and options as restmq serve, refuses what that
would refuse, and starts nothing. Passwords, keys and tokens are shown as ***.

\b
Examples:
  restmq config
  restmq config --config /etc/restmq.toml --workers 4
  restmq config --changed
  restmq config --toml --show-secrets > restmq.toml
  restmq config --json | jq '.settings[] | select(.source != "default")'

Prints a table on a terminal, and in a pipe lines of name, tab, value, tab and source."""
CONFIG_EXIT_CODES = "Exit codes: 0 the settings are right, 2 a setting or an option is wrong"


@functools.cache
def config_command() -> click.Command:
    """Make the command; this is what needs the settings."""
    return SettingsCommand(
        others=(
            click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object."),
            click.Option(
                ["--toml", "as_toml"],
                is_flag=True,
                help="Print a TOML file that --config reads, with the defaults as comments.",
            ),
            click.Option(["--changed"], is_flag=True, help="Leave out what is at its default."),
            click.Option(["--show-secrets"], is_flag=True, help="Show passwords, keys and tokens."),
        ),
        name="config",
        callback=_config,
        help=CONFIG_HELP,
        epilog=CONFIG_EXIT_CODES,
    )


def _config(
    as_json: bool, as_toml: bool, changed: bool, show_secrets: bool, **flags: object
) -> None:
    from restmq.settings_sources import load

    if as_json and as_toml:
        raise click.UsageError("--json and --toml do not go together")
    settings = load(flags, os.environ, Path.cwd())
    view = SettingsView(settings, show_secrets, changed)
    if as_json:
        Printer().json(view.document())
    elif as_toml:
        for line in view.toml():
            Printer().line(line.encode("utf-8", "surrogateescape"))
    else:
        print_rows(("Setting", "Value", "From"), list(view.rows()))


class SettingsView:
    """Settings as people read them; with ``changed`` only those that somebody set."""

    def __init__(self, settings: "Settings", show_secrets: bool, changed: bool = False) -> None:
        self._settings = settings
        self._show_secrets = show_secrets
        self._changed = changed

    def rows(self) -> Iterator[list[str]]:
        """Yield name, value and source of each setting, and of each pattern of queues."""
        for knob in self._knobs():
            value = json_value(self._shown(knob))
            text = "" if value is None else cell(value)
            yield [knob.name, text, cell(self._settings.sources[knob.name])]
        for pattern, changes in self._patterns():
            for name, value in changes.items():
                where = cell(str(self._settings.config_file))
                yield [cell(f'queues."{pattern}".{name}'), cell(value), where]

    def document(self) -> dict[str, object]:
        """Return all of it as JSON has it."""
        file = self._settings.config_file
        return {
            "file": None if file is None else str(file),
            "settings": [
                {
                    "name": knob.name,
                    "section": knob.section,
                    "key": knob.key,
                    "value": json_value(self._shown(knob)),
                    "source": self._settings.sources[knob.name],
                    "secret": knob.secret,
                }
                for knob in self._knobs()
            ],
            "queues": dict(self._patterns()),
        }

    def toml(self) -> Iterator[str]:
        """Yield the lines of a file that gives the same settings, from whatever place they came.

        What is at its default stays a comment, because to name it can mean more than its value:
        a redis_port asks for a Redis elsewhere. A secret that may not be shown is one too.
        """
        sections: dict[str, list[Knob]] = {}
        for knob in self._knobs():
            sections.setdefault(knob.section, []).append(knob)
        for section, knobs in sections.items():
            yield f"[{section}]"
            for knob in knobs:
                if not knob.table:
                    yield from self._toml_lines(knob)
            yield ""
            for knob in knobs:
                if knob.table:
                    lines = list(self._toml_table(knob))
                    is_comment = all(line.startswith("#") for line in lines)
                    yield f"{'# ' if is_comment else ''}[{section}.{knob.key}]"
                    yield from (*lines, "")
        for pattern, changes in self._patterns():
            yield f"[queues.{toml_value(pattern)}]"
            for name, value in changes.items():
                yield f"{name} = {toml_value(value)}"
            yield ""

    def _toml_lines(self, knob: "Knob") -> Iterator[str]:
        from restmq.settings import DEFAULT_SOURCE

        source = self._settings.sources[knob.name]
        value = self._shown(knob)
        line = f"{knob.key} = {toml_value(json_value(value))}"
        if source == DEFAULT_SOURCE:
            yield f"# {line}"
        elif value != getattr(self._settings, knob.name):
            yield f"# {line}  # {cell(source)}; a secret, see --show-secrets"
        else:
            yield f"{line}  # {cell(source)}"

    def _toml_table(self, knob: "Knob") -> Iterator[str]:
        """The lines of a setting that is a table: names, each with a list of texts."""
        texts: dict[str, list[str]] = {}
        for pair in getattr(self._settings, knob.name):
            name, _, text = pair.partition("=")
            texts.setdefault(name, []).append(text)
        for name, values in texts.items():
            if knob.secret and not self._show_secrets:
                yield f"# {toml_value(name)} = {toml_value(['***'] * len(values))}"
            else:
                yield f"{toml_value(name)} = {toml_value(values)}"

    def _knobs(self) -> Iterator["Knob"]:
        from restmq.settings import DEFAULT_SOURCE, knobs

        for knob in knobs():
            if not self._changed or self._settings.sources[knob.name] != DEFAULT_SOURCE:
                yield knob

    def _shown(self, knob: "Knob") -> object:
        value = getattr(self._settings, knob.name)
        return value if self._show_secrets else knob.masked(value)

    def _patterns(self) -> Iterator[tuple[str, Mapping[str, object]]]:
        """The sections of the file as they stand there; they were checked when it was read."""
        from restmq.settings import QUEUES_SECTION
        from restmq.settings_sources import read_settings_file

        file = self._settings.config_file
        if file is not None:
            document = tomllib.loads(read_settings_file(file).decode())
            yield from document.get(QUEUES_SECTION, {}).items()


def json_value(value: object) -> object:
    """Return a setting's value as JSON and TOML have it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def toml_value(value: object) -> str:
    """Spell a value of JSON in TOML, which differs little: no null, and DEL must be escaped."""
    if value is None:
        return '""'
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
