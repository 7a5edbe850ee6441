"""The settings of the server as options of the command line, for each command that takes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from restmq.knobs import Knob

_METAVARS: Mapping[type[object], str] = {
    int: "N",
    float: "NUMBER",
    bool: "true|false",
    Path: "PATH",
    tuple: "A,B,...",
}
_ABBREVIATIONS = {"rse": "RSE", "stomp": "STOMP"}


class SettingsCommand(click.Command):
    """A command that takes every setting as an option; they are shown under headings.

    ``others`` are options of its own, which come first under ``Options``.
    """

    def __init__(self, others: tuple[click.Option, ...] = (), **attributes: Any) -> None:
        from restmq.settings import knobs

        config = click.Option(
            ["--config"],
            metavar="PATH",
            help="TOML file with settings.  [default: restmq.toml, if any]",
        )
        self._headings = {each.name or "": "Options" for each in others}
        self._headings |= {each.name: _heading(each) for each in knobs()}
        params: list[click.Parameter] = [*others, *(_option(each) for each in knobs()), config]
        super().__init__(params=params, **attributes)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a table of options for each heading, in the order in which they come."""
        tables: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                heading = self._headings.get(parameter.name or "", "Other options")
                tables.setdefault(heading, []).append(record)
        for heading, records in tables.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def _option(knob: "Knob") -> click.Option:
    """The flag of a setting; its value stays text, for the settings to check and convert."""
    default = knob.format(knob.default)
    shown = f"{knob.help_text}  [default: {default}]" if default else knob.help_text
    metavar = (
        f"[{'|'.join(knob.choices)}]" if knob.choices else _METAVARS.get(knob.value_type, "TEXT")
    )
    return click.Option([knob.flag, knob.name], metavar=metavar, help=shown)


def _heading(knob: "Knob") -> str:
    if knob.section != "server":
        return _ABBREVIATIONS.get(knob.section, knob.section.capitalize())
    if "redis_" in knob.name or knob.name in ("data_dir", "fsync"):
        return "Storage"
    if knob.name.endswith(("_seconds", "_bytes", "_count")):
        return "Limits"
    return "Server"
