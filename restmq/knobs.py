"""What one setting is: its spellings, its type and range, and the reading of its values.

``settings.py`` declares the settings with ``knob`` and turns them into a ``Settings``.
"""

import dataclasses
import ipaddress
import math
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from restmq.errors import SettingsError

Value = TypeVar("Value")

REDIS_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")

MASK = "***"

_DESCRIPTIONS: typing.Mapping[type[object], str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    tuple: "a list of strings",
}
_WORDS_FOR_BOOL = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])"
    r"(:(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE,
)
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")
_APPLICATION = re.compile(r"[A-Za-z0-9._-]{1,100}")
_APPLICATION_KEY = re.compile(r"[!-:<-~]{1,1000}")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


@dataclasses.dataclass(frozen=True)
class Knob:
    """One setting as people meet it; built by ``knobs()`` from a field of ``Settings``."""

    name: str
    section: str
    value_type: type[object]  # str, int, float, bool, Path, or tuple (of strings)
    default: object
    help_text: str
    minimum: float | None = None  # inclusive, like maximum
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], Any] | None = None
    secret: bool = False
    table: bool = False  # a table of the file, name = text or texts; here a tuple of "name=text"

    @property
    def key(self) -> str:
        """The name within its section of the TOML file."""
        return self.name if self.section == "server" else self.name.removeprefix(self.section + "_")

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def environment(self) -> str:
        """The name of the environment variable."""
        return "RESTMQ_" + self.name.upper()

    @property
    def expected(self) -> str:
        """What a right value is, as the end of a sentence: "a whole number from 0 to 65535"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        text = "names, each with a text or texts" if self.table else _DESCRIPTIONS[self.value_type]
        if self.minimum is not None and self.maximum is not None:
            return f"{text} from {self.minimum:.15g} to {self.maximum:.15g}"
        return text if self.minimum is None else f"{text}, {self.minimum:.15g} or more"

    def format(self, value: object) -> str:
        """``value`` as one would write it behind the flag, without passwords."""
        value = self.masked(value)
        if isinstance(value, tuple):
            return ",".join(value)
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, float):
            return f"{value:.15g}"
        return "" if value is None else str(value)

    def masked(self, value: object) -> object:
        """Return ``value`` without what nobody else should read."""
        if not self.secret or not value:
            return value
        if isinstance(value, tuple):
            names = [f"{each.partition('=')[0]}=" if self.table else "" for each in value]
            return tuple(name + MASK for name in names)
        return without_password(str(value)) if "://" in str(value) else MASK

    def convert(self, value: object, where: str, *, textual: bool) -> Any:
        """Return ``value`` in this setting's type.

        ``where`` names the file, variable or flag it was read from. With ``textual``, text is read
        as people write it on a command line ("8888", "a,b"). Raises SettingsError if it cannot be.
        """
        try:
            if textual and isinstance(value, str):
                result = _from_text(self.value_type, value)
            else:
                native = _pairs(value) if self.table else value
                result = _from_native(self.value_type, native)
            result = self._within_range(result)
        except ValueError:
            raise self._refusal(value, where, f"it must be {self.expected}") from None
        if self.check is None:
            return result
        try:
            return self.check(result)
        except ValueError as reason:
            raise self._refusal(value, where, str(reason)) from None

    def _within_range(self, value: Any) -> Any:
        if self.choices:
            value = value.lower()
            if value not in self.choices:
                raise ValueError(value)
        if self.minimum is not None and value < self.minimum:
            raise ValueError(value)
        if self.maximum is not None and value > self.maximum:
            raise ValueError(value)
        return value

    def _refusal(self, value: object, where: str, remedy: str) -> SettingsError:
        # A secret is not repeated: errors end up in logs.
        shown = "the value given" if self.secret else repr(value)
        return SettingsError(f"{where}: {self.name} cannot be {shown}; {remedy}")


def knob(
    default: Value,
    help_text: str,
    *,
    section: str = "server",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    check: Callable[[Value], Value] | None = None,
    secret: bool = False,
    table: bool = False,
) -> Value:
    """Declare a field of ``Settings``.

    ``minimum`` and ``maximum`` are inclusive. ``check`` returns the value in its normal form, or
    raises ValueError with the end of a sentence that says what is right.
    """
    details = {
        "section": section,
        "help_text": help_text,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "check": check,
        "secret": secret,
        "table": table,
    }
    return dataclasses.field(default=default, repr=not secret, metadata={"knob": details})


def _from_text(value_type: type[object], text: str) -> Any:
    """Read ``text`` as people write it behind a flag; ValueError if it is not of that type."""
    if value_type is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if value_type is bool:
        if text.lower() not in _WORDS_FOR_BOOL:
            raise ValueError(text)
        return _WORDS_FOR_BOOL[text.lower()]
    if value_type is int:
        if re.fullmatch(r"-?[0-9]{1,18}", text) is None:  # int() would take "1_0" and " 10" too
            raise ValueError(text)
        return int(text)
    return _from_native(value_type, float(text) if value_type is float else text)


def _from_native(value_type: type[object], value: object) -> Any:
    """Take ``value`` as it is, or ValueError if it is not of that type."""
    if value_type is tuple and isinstance(value, list | tuple):
        if all(isinstance(part, str) for part in value):
            return tuple(value)
    elif value_type is Path and isinstance(value, str | Path):
        if str(value):
            return Path(value)
    elif value_type is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    # bool is a subclass of int, and "port = true" is a mistake.
    elif type(value) is value_type:
        return value
    raise ValueError(value)


def _pairs(value: object) -> object:
    """Turn a table of names with a text, or a list of texts, into pairs "name=text"."""
    if not isinstance(value, dict):
        return value
    pairs = []
    for name, texts in value.items():
        for text in texts if isinstance(texts, list) else [texts]:
            if not isinstance(text, str):
                raise ValueError(text)
            pairs.append(f"{name}={text}")
    return tuple(pairs)


def check_application_keys(pairs: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``pairs`` if each names an application and a key of its own, else ValueError."""
    owners: dict[str, str] = {}
    for pair in pairs:
        application, _, key = pair.partition("=")
        if not _APPLICATION.fullmatch(application):
            raise ValueError(
                "an application's name has 1 to 100 letters, digits, dots, dashes and underscores"
            )
        if not _APPLICATION_KEY.fullmatch(key):
            raise ValueError(
                f"a key of {application} must be 1 to 1000 characters of printable ASCII, with "
                "neither spaces nor semicolons"
            )
        if owners.setdefault(key, application) != application:
            raise ValueError(f"{owners[key]} and {application} cannot have the same key")
    return pairs


def check_not_empty(value: str | None) -> Any:
    """Return ``value``, or ValueError if it is blank."""
    if value is not None and not value.strip():
        raise ValueError("it must not be empty")
    return value


def check_redis_url(value: str) -> str:
    """Return ``value`` if it is empty or a URL of one of ``REDIS_SCHEMES``, else ValueError."""
    if not value:
        return value
    scheme = value.partition("://")[0]
    if scheme not in REDIS_SCHEMES:
        known = ", ".join(f"{name}://" for name in REDIS_SCHEMES)
        raise ValueError(f"it must start with one of {known}")
    try:
        parts = urlsplit(value)
        if scheme in ("redis", "rediss"):
            _ = parts.port  # is read, and checked, on demand
    except ValueError:
        raise ValueError("its host or port is malformed") from None
    hosts = parts.netloc.rpartition("@")[2]
    if scheme == "unix":
        if hosts or len(parts.path) < 2:
            raise ValueError(
                "it must be unix:// and an absolute path, as in unix:///run/redis.sock"
            )
    elif not hosts.strip(":"):
        raise ValueError(f"it must name a host, as in {scheme}://localhost:6379")
    return value


def without_password(url: str) -> str:
    """Return ``url`` with user names and passwords replaced by three asterisks."""
    url = re.sub(r"://[^/?]*@", "://***@", url)
    return re.sub(r"(password=)[^&]+", r"\1***", url)


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``origins`` as browsers spell them, or ValueError if one is no origin."""
    return tuple(_normal_origin(origin) for origin in origins)


def _normal_origin(origin: str) -> str:
    if origin == "*":
        return origin
    match = _ORIGIN.fullmatch(origin)
    port = int(match["port"] or 0) if match else 0
    if match is None or port > 65535:
        raise ValueError(
            f"{origin!r} must be * or scheme://host[:port] in ASCII, without a path or a final /, "
            "as in https://example.org"
        )
    scheme, host = match["scheme"].lower(), match["host"].lower()
    if not match["port"] or port == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{host}"
    return f"{scheme}://{host}:{port}"


def check_hosts(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``hosts`` if each is the name of a host and no more, else ValueError."""
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} must be a name without scheme and port, as in mq.example")
    return hosts


def check_networks(networks: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``networks`` if each is an IP address or a network, else ValueError."""
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(
                f"{error}; each must be an address or a network, as in 10.0.0.1 or 10.0.0.0/8"
            ) from None
    return networks
