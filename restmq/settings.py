"""Every setting of the server once: name, type, default, range, help text, place in the TOML file.

The fields of ``Settings`` are the only list of settings. ``knobs()`` walks them for whoever needs
a view of that list: the flags of the command line, the table in the manual, ``load`` below.

A setting ``stomp_port`` of section ``stomp`` is spelled ``port`` under ``[stomp]`` in the file,
``RESTMQ_STOMP_PORT`` in the environment and ``--stomp-port`` on the command line; the names of
section ``server`` carry no prefix. A new section needs no code: give its fields that section.

Sections ``[queues."pattern"]`` stand apart: they hold settings of queues, not of the server.
``queue_settings.py`` says what may be in them, and they are found in the file only.
"""

import dataclasses
import functools
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from restmq.errors import InvalidInput, SettingsError
from restmq.knobs import (
    Knob,
    check_application_keys,
    check_networks,
    check_not_empty,
    check_origins,
    check_redis_url,
    knob,
)
from restmq.queue_settings import Patterns, did_you_mean

DEFAULT_FILE_NAME = "restmq.toml"
DEFAULT_DATA_DIR = Path("restmq-data")
DEFAULT_REDIS_HOST = "127.0.0.1"
DEFAULT_REDIS_PORT = 6379
DEFAULT_SOURCE = "default"
QUEUES_SECTION = "queues"

MEBIBYTE = 1024 * 1024
MAX_FILE_BYTES = MEBIBYTE


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the server was told; ``sources`` says for each name who said it.

    Values given to the constructor are taken as they are; ``load`` is what checks them.
    """

    listen: str = knob(
        "127.0.0.1",
        "Address to listen on.",
        check=check_not_empty,
    )
    port: int = knob(8888, "HTTP port; 0 takes any free one.", minimum=0, maximum=65535)
    workers: int = knob(
        1,
        "Number of worker processes that share the ports and the Redis.",
        minimum=1,
        maximum=1024,
    )
    data_dir: Path = knob(  # noqa: RUF009 - like all others, a field and not a shared value
        DEFAULT_DATA_DIR,
        "Directory of the private Redis that is started when no other is named.",
    )
    fsync: str = knob(
        "always",
        "When the private Redis forces writes to disk: before each reply, each second, or never.",
        choices=("always", "everysec", "no"),
    )
    redis_url: str = knob(
        "",
        "Redis to use instead of a private one: redis://, rediss://, unix://, redis+sentinel:// "
        "or redis+cluster://.",
        check=check_redis_url,
        secret=True,
    )
    redis_host: str | None = knob(
        None,
        f"Host of the Redis to use instead of a private one; {DEFAULT_REDIS_HOST} when only "
        "--redis-port is given.",
        check=check_not_empty,
    )
    redis_port: int = knob(
        DEFAULT_REDIS_PORT,
        "Port of the Redis to use instead of a private one.",
        minimum=1,
        maximum=65535,
    )
    redis_db: int = knob(
        0,
        "Database number at --redis-host; a --redis-url carries its own, and the private Redis "
        "always uses 0.",
        minimum=0,
    )
    redis_pool: int = knob(
        10,
        "Kept for the original's start scripts; a worker uses two connections whatever it says.",
        minimum=1,
        maximum=10_000,
    )
    memory_redis_url: str = knob(
        "",
        "Redis for queues with storage=memory; to be named where the other one is, else a private "
        "one is started when it is first needed.",
        check=check_redis_url,
        secret=True,
    )
    acl: str = knob(
        "acl.conf",
        "Access control file.",
        check=check_not_empty,
    )
    allowed_origins: tuple[str, ...] = knob(
        (),
        "Origins (scheme://host[:port]) of other sites whose pages may use this server; * is any.",
        check=check_origins,
    )
    trusted_proxies: tuple[str, ...] = knob(
        (),
        "Addresses or networks (10.0.0.0/8) of proxies whose X-Forwarded-For is believed.",
        check=check_networks,
    )
    max_body_bytes: int = knob(
        16 * MEBIBYTE,
        "Largest request body, in bytes.",
        minimum=1,
        maximum=512 * MEBIBYTE,
    )
    outbox_bytes: int = knob(
        4 * MEBIBYTE,
        "Unsent bytes a streaming consumer may have before it is cut off.",
        minimum=1024,
        maximum=1024 * MEBIBYTE,
    )
    ping_seconds: float = knob(
        15.0,
        "Pause between signs of life on an idle stream.",
        minimum=0.1,
        maximum=3600,
    )
    drain_seconds: float = knob(
        10.0,
        "Longest time that stopping waits for requests and streams to end.",
        minimum=0,
        maximum=3600,
    )
    header_timeout_seconds: float = knob(
        10.0,
        "Longest time a client may take to send its request headers.",
        minimum=0.1,
        maximum=3600,
    )
    body_timeout_seconds: float = knob(
        60.0,
        "Longest time a client may take to send its request body.",
        minimum=0.1,
        maximum=3600,
    )
    history_count: int = knob(
        1000,
        "Recent messages kept per broadcast queue, for nodes that lag behind.",
        minimum=0,
        maximum=1_000_000,
    )
    history_seconds: float = knob(
        300.0,
        "Longest time a message stays in that history.",
        minimum=0,
        maximum=7 * 24 * 3600,
    )
    log_level: str = knob(
        "info",
        "Least serious kind of log lines that are written.",
        choices=("debug", "info", "warning", "error", "critical"),
    )
    syslog_port: int = knob(
        0,
        "Port for syslog lines over TCP and UDP; 0 is off.",
        section="syslog",
        minimum=0,
        maximum=65535,
    )
    rse_port: int = knob(
        0,
        "Port for RSE alone, with its channels at the root of the path; 0 is off.",
        section="rse",
        minimum=0,
        maximum=65535,
    )
    rse_test_mode: bool = knob(
        False,
        "Let RSE clients in without a token or UUID, and show every event at /all.",
        section="rse",
    )
    rse_tokens: tuple[str, ...] = knob(
        (),
        "What RSE clients may send as X-Auth-Token; with none, only test mode lets anyone in.",
        section="rse",
        secret=True,
    )
    rse_event_ttl: float = knob(
        120.0,
        "Seconds for which an RSE event can be read; clients poll more often than that.",
        section="rse",
        minimum=0.1,
        maximum=30 * 24 * 3600,
    )
    rse_max_event_bytes: int = knob(
        4 * MEBIBYTE,
        "Largest RSE event, in bytes; max_body_bytes limits it as well.",
        section="rse",
        minimum=2,
        maximum=64 * MEBIBYTE,
    )
    rse_any_channel_name: bool = knob(
        False,
        "Let names of RSE channels hold more than letters, digits, /, _ and -.",
        section="rse",
    )
    rse_https_only: bool = knob(
        False,
        "Refuse RSE requests unless a proxy in front says X-Forwarded-Proto: https.",
        section="rse",
    )
    queuey_application_keys: tuple[str, ...] = knob(
        (),
        "Applications that may use Queuey, each with its key or a list of keys: NAME=KEY,...",
        section="queuey",
        check=check_application_keys,
        secret=True,
        table=True,
    )
    stomp_port: int = knob(
        0,
        "Port for STOMP over TCP; 0 is off. STOMP over WebSocket is always at /stomp.",
        section="stomp",
        minimum=0,
        maximum=65535,
    )
    stomp_login: str = knob(
        "",
        "What STOMP clients must send as login; empty asks for none, but acl.conf may.",
        section="stomp",
    )
    stomp_passcode: str = knob(
        "",
        "What STOMP clients must send as passcode.",
        section="stomp",
        secret=True,
    )
    stomp_prefetch: int = knob(
        1,
        "Messages that a STOMP connection may hold unacknowledged, unless it asks for more.",
        section="stomp",
        minimum=1,
        maximum=1000,
    )
    stomp_ack_timeout: float = knob(
        120.0,
        "Seconds until an unacknowledged STOMP message goes back, where its queue sets no "
        "lease_seconds.",
        section="stomp",
        minimum=1,
        maximum=43_200,
    )
    stomp_max_attempts: int = knob(
        5,
        "Deliveries over STOMP before a message becomes a dead letter, where its queue sets no "
        "max_attempts; only a queue can allow more than 5.",
        section="stomp",
        minimum=1,
        maximum=5,
    )
    stomp_create: bool = knob(
        True,
        "Let STOMP clients make queues by using them; else a queue must exist, or be named by a "
        "section [queues].",
        section="stomp",
    )
    stomp_certificate: str = knob(
        "",
        "PEM file with the certificate (and those between it and the root) for STOMP over TLS.",
        section="stomp",
    )
    stomp_key: str = knob(
        "",
        "PEM file with the certificate's private key, if that is not in the same file.",
        section="stomp",
    )
    queues: Patterns = dataclasses.field(default_factory=Patterns)
    config_file: Path | None = dataclasses.field(default=None, compare=False)
    """The TOML file that was read, if any, so that ``queues`` can follow it."""
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def external_redis_url(self) -> str | None:
        """The URL of the Redis to use; None means: start the private one.

        Raises SettingsError if ``redis_url`` is joined by settings that contradict it.
        """
        classic = [name for name in ("redis_host", "redis_port") if self._named(name)]
        if self.redis_url:
            self._refuse_beside_url([*classic, "redis_db"] if self.redis_db else classic)
            return self.redis_url
        if not classic:
            return None
        host = self.redis_host or DEFAULT_REDIS_HOST
        host = f"[{host}]" if ":" in host else quote(host, safe="")
        return f"redis://{host}:{self.redis_port}/{self.redis_db}"

    def _refuse_beside_url(self, names: list[str]) -> None:
        if names:
            given = [
                f"{name} ({self.sources.get(name, 'given')})" for name in ("redis_url", *names)
            ]
            raise SettingsError(
                f"{' and '.join(given)} contradict each other; keep either redis_url or the others "
                "(a database number can be part of the URL, as in redis://localhost:6379/3)"
            )

    def check_memory_redis(self) -> None:
        """Raise SettingsError if queues with storage=memory would have no Redis of their own."""
        external = self.external_redis_url
        where = self.sources.get("memory_redis_url", "memory_redis_url")
        if external is not None and self.memory_redis_url == external:
            raise SettingsError(
                f"{where}: memory_redis_url must name another Redis, or another database of it, "
                "than the one for queues with storage=disk"
            )
        needed = self.queues.sets("storage", "memory")
        if needed and external is not None and not self.memory_redis_url:
            raise SettingsError(
                f'{self.config_file}: storage = "memory" in a section [{QUEUES_SECTION}] needs '
                "memory_redis_url, since no private Redis is started beside one that was named"
            )

    def _named(self, name: str) -> bool:
        """Whether someone set ``name``, be it to its default."""
        is_default = getattr(self, name) == getattr(Settings, name)
        return not is_default or self.sources.get(name, DEFAULT_SOURCE) != DEFAULT_SOURCE


@functools.cache
def knobs() -> tuple[Knob, ...]:
    """Return all settings in the order in which people should read them."""
    annotations = typing.get_type_hints(Settings)
    return tuple(
        Knob(
            name=field.name,
            value_type=_plain_type(annotations[field.name]),
            default=field.default,
            **field.metadata["knob"],
        )
        for field in dataclasses.fields(Settings)
        if "knob" in field.metadata
    )


def _plain_type(annotation: Any) -> type[object]:
    """``int`` for ``int``, ``str`` for ``str | None``, ``tuple`` for ``tuple[str, ...]``."""
    if isinstance(annotation, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not type(None))
    plain: type[object] = typing.get_origin(annotation) or annotation
    return plain


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
            if not file.is_file():
                raise SettingsError(f"{where}: there is no file {file}; name a TOML file")
            return file
    file = working_directory / DEFAULT_FILE_NAME
    return file if file.is_file() else None


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
