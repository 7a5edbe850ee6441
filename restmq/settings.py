"""Every setting of the server once: name, type, default, range, help text, place in the TOML file.

The fields of ``Settings`` are the only list of settings. ``knobs()`` walks them for whoever needs
a view of that list: the flags of the command line, the manual, ``settings_sources.py``.

A setting ``stomp_port`` of section ``stomp`` is spelled ``port`` under ``[stomp]`` in the file,
``RESTMQ_STOMP_PORT`` in the environment and ``--stomp-port`` on the command line; the names of
section ``server`` carry no prefix. A new section needs no code: give its fields that section.

Sections ``[queues."pattern"]`` stand apart: they hold settings of queues, not of the server.
``queue_settings.py`` says what may be in them, and they are found in the file only.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from restmq.errors import SettingsError
from restmq.knobs import (
    Knob,
    check_application_keys,
    check_hosts,
    check_networks,
    check_not_empty,
    check_origins,
    check_redis_url,
    knob,
)
from restmq.queue_settings import Patterns

DEFAULT_DATA_DIR = Path("restmq-data")
DEFAULT_REDIS_HOST = "127.0.0.1"
DEFAULT_REDIS_PORT = 6379
DEFAULT_SOURCE = "default"
QUEUES_SECTION = "queues"

MEBIBYTE = 1024 * 1024
MEMCACHED_SCHEME = "memcached"


def _check_token_store(value: str) -> str:
    """Return a URL that names a memcached or a Redis, or is empty; else ValueError."""
    parts = urlsplit(value)
    if parts.scheme != MEMCACHED_SCHEME:
        return check_redis_url(value)
    if not parts.hostname or parts.path.strip("/") or parts.port == 0:
        raise ValueError(
            "it must be memcached:// with host and port, as in memcached://cache:11211"
        )
    return value


def _check_token_prefix(value: str) -> str:
    """Return a prefix that a memcached's keys may have; else ValueError."""
    if not (value.isascii() and value.isprintable() and " " not in value and len(value) <= 100):
        raise ValueError("it must be at most 100 ASCII characters without spaces")
    return value


def _check_ack_timeout(value: float) -> float:
    """Return a time that a lease can last, or 0; else ValueError."""
    if 0 < value < 1:
        raise ValueError("it must be 0, or from 1 to 43200")
    return value


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
    keys: str = knob(
        "",
        "File of API keys, which `restmq keys` writes; keys.conf beside the access control file, "
        "if it is there and no other is named.",
    )
    require_key: bool = knob(
        False,
        "Refuse whoever shows no API key, whatever the access control file says.",
    )
    allowed_origins: tuple[str, ...] = knob(
        (),
        "Origins (scheme://host[:port]) of other sites whose pages may use this server; * is any.",
        check=check_origins,
    )
    allowed_hosts: tuple[str, ...] = knob(
        (),
        "Further names, beside localhost and addresses, by which browsers may call a server that "
        "listens for its own machine only and has no trusted proxy.",
        check=check_hosts,
    )
    trusted_proxies: tuple[str, ...] = knob(
        (),
        "Addresses or networks (10.0.0.0/8) of proxies whose X-Forwarded-For and "
        "X-Forwarded-Proto are believed.",
        check=check_networks,
    )
    rate_limit: float = knob(
        0.0,
        "Requests a second that one client address (a /64 of IPv6) may make, STOMP frames that "
        "connect, send or subscribe included; 0 is no limit. Each of several workers counts for "
        "itself.",
        minimum=0,
        maximum=1_000_000,
    )
    rate_burst: int = knob(
        0,
        "Requests that an address may make at once before that pace holds; 0 is those of a second.",
        minimum=0,
        maximum=1_000_000,
    )
    tls_certificate: str = knob(
        "",
        "PEM file with the certificate (and those between it and the root) for HTTPS, on the ports "
        "of HTTP and RSE; SIGHUP has it read again.",
    )
    tls_key: str = knob(
        "",
        "PEM file with the certificate's private key, if that is not in the same file.",
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
    log_format: str = knob(
        "text",
        "What a line of the log is: text, or a JSON object.",
        choices=("text", "json"),
    )
    access_log: bool = knob(
        False,
        "Log a line for each request when it is over, without its query, and for each STOMP "
        "connection.",
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
    rse_token_store: str = knob(
        "",
        "Where more tokens are looked up, memcached://HOST[:11211] or the URL of a Redis: one is "
        "valid while there is a value under token_prefix and the token.",
        section="rse",
        check=_check_token_store,
        secret=True,
    )
    rse_token_prefix: str = knob(
        "",
        "What stands in front of a token in the token_store.",
        section="rse",
        check=_check_token_prefix,
    )
    rse_token_hashing_threshold: int = knob(
        250,
        "Prefix and token that have so many bytes together are looked up by their SHA-512.",
        section="rse",
        minimum=1,
        maximum=250,
    )
    rse_first_event: int = knob(
        1,
        "The least id of a new RSE event: above those that clients know from another server.",
        section="rse",
        minimum=1,
        maximum=2**52,
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
        "Refuse RSE requests that came neither over TLS nor, as a trusted proxy says in "
        "X-Forwarded-Proto, over HTTPS.",
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
        "lease_seconds; 0 is never, while its consumer is connected.",
        section="stomp",
        minimum=0,
        maximum=43_200,
        check=_check_ack_timeout,
    )
    stomp_max_attempts: int = knob(
        5,
        "Deliveries before a message that comes back from STOMP becomes a dead letter, where its "
        "queue sets no max_attempts; 0 is never.",
        section="stomp",
        minimum=0,
        maximum=1_000_000,
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
