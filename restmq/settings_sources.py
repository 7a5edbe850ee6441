"""Where settings come from: the TOML file, ``RESTMQ_*`` variables and flags, later over earlier.

``settings.py`` says which there are; what is wrong is told here with the place where it stands.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from restmq.errors import InvalidInput, SettingsError
from restmq.knobs import Knob
from restmq.queue_settings import Patterns, did_you_mean
from restmq.settings import (
    DEFAULT_DATA_DIR,
    DEFAULT_SOURCE,
    QUEUES_SECTION,
    Settings,
    knobs,
)

DEFAULT_FILE_NAME = "restmq.toml"
MAX_FILE_BYTES = 1024 * 1024


def load(
    flags: Mapping[str, object], environ: Mapping[str, str], working_directory: Path
) -> Settings:
    """Read all settings; later wins: defaults, TOML file, ``RESTMQ_*`` variables, flags.

    ``flags`` holds values by setting name, and ``config``, the TOML file; None or an empty tuple
    is a flag that was not given. The file is ``config``, else ``RESTMQ_CONFIG``, else
    ``restmq.toml`` if there is one in ``working_directory``, from which relative paths count.
    ``RESTMQ_*`` variables that are no setting are ignored: platforms set some for their services.

    Raises SettingsError for a name, type or value that is wrong, also where a later one wins.
    """
    values: dict[str, Any] = {}
    sources = {each.name: DEFAULT_SOURCE for each in knobs()}

    file = _settings_file(flags, environ, working_directory)
    if file is not None:
        values["config_file"] = file
        document = _parse(read_settings_file(file), file)
        values["queues"] = _queue_patterns(document.pop(QUEUES_SECTION, {}), file)
        for each, value, where in _read_sections(document, file):
            values[each.name] = each.convert(value, where, textual=False)
            sources[each.name] = where
    for each, value, where in (*_read_environment(environ), *_read_flags(flags)):
        values[each.name] = each.convert(value, where, textual=True)
        sources[each.name] = where

    values["data_dir"] = working_directory / values.get("data_dir", DEFAULT_DATA_DIR)
    settings = Settings(**values, sources=sources)
    settings.check_memory_redis()  # raises also if the names of the Redis contradict each other
    return settings


def _settings_file(
    flags: Mapping[str, object], environ: Mapping[str, str], working_directory: Path
) -> Path | None:
    for where, value in (
        ("--config", flags.get("config")),
        ("RESTMQ_CONFIG", environ.get("RESTMQ_CONFIG")),
    ):
        if value:
            file = working_directory / str(value)
            if not _is_file(file):
                raise SettingsError(f"{where}: there is no file {file}; name a TOML file")
            return file
    file = working_directory / DEFAULT_FILE_NAME
    return file if _is_file(file) else None


def _is_file(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError as error:  # a directory on the way may not be entered
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from error


def read_queue_patterns(content: bytes, file: Path) -> Patterns:
    """Read only the sections [queues."pattern"] out of the content of the TOML file.

    Raises SettingsError that names the file, the section and the setting at fault.
    """
    return _queue_patterns(_parse(content, file).get(QUEUES_SECTION, {}), file)


def read_settings_file(file: Path) -> bytes:
    """Return the content of the TOML file; SettingsError if it cannot be read or is too long."""
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError(f"{file} has more than {MAX_FILE_BYTES} bytes")
    return content


def _parse(content: bytes, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # also for numbers of too many digits
        raise SettingsError(f"{file} cannot be read as a TOML file: {error}") from error


def _queue_patterns(table: object, file: Path) -> Patterns:
    if not isinstance(table, dict):
        raise SettingsError(
            f'{file}: {QUEUES_SECTION} must be sections, each written [{QUEUES_SECTION}."pattern"]'
        )
    try:
        return Patterns(table.items())
    except InvalidInput as error:
        raise SettingsError(f"{file} {error}") from error


def _read_sections(
    document: Mapping[str, object], file: Path
) -> Iterator[tuple[Knob, object, str]]:
    by_section: dict[str, dict[str, Knob]] = {}
    for each in knobs():
        by_section.setdefault(each.section, {})[each.key] = each
    for section, table in document.items():
        if section not in by_section:
            known = " ".join(f"[{name}]" for name in (*by_section, f'{QUEUES_SECTION}."pattern"'))
            what = "section" if isinstance(table, dict) else "name outside a section"
            raise SettingsError(f"{file}: unknown {what} {section!r}; the sections are {known}")
        if not isinstance(table, dict):
            raise SettingsError(f"{file}: {section} must be a section, written [{section}]")
        for key, value in table.items():
            if key not in by_section[section]:
                raise SettingsError(
                    f"{file}: unknown name {key!r} in section [{section}]"
                    + did_you_mean(key, by_section[section])
                )
            yield by_section[section][key], value, f"{file} [{section}] {key}"


def _read_environment(environ: Mapping[str, str]) -> Iterator[tuple[Knob, object, str]]:
    for each in knobs():
        if each.environment in environ:
            yield each, environ[each.environment], each.environment


def _read_flags(flags: Mapping[str, object]) -> Iterator[tuple[Knob, object, str]]:
    by_name = {each.name: each for each in knobs()}
    for name, value in flags.items():
        if name == "config":
            continue
        if name not in by_name:
            raise SettingsError(f"unknown setting {name!r}{did_you_mean(name, by_name)}")
        if value is not None and value != ():
            yield by_name[name], value, by_name[name].flag
