"""API keys: who shows one may do what it allows on the queues that it covers.

A key is 256 random bits behind a recognisable prefix. The file of keys (``keys.conf``) holds, in
a section for each, the SHA-256 of a key and what it allows; never the key itself. SHA-256 is right
here although it is fast: slow password hashes make guessing dear, and 256 random bits cannot be
guessed, however cheap a guess is. Keys are looked up by that hash, so that how long it takes can
tell something of a hash at most, from which no key can be had.

What a pattern covers: one that begins with a slash covers channels and the like, by their paths
(``/rse/orders``, ``/channels/news``, ``/cursors/worker-1``, ``/v1/app/queue``, ``/topic/news``);
``*`` alone covers everything; any other covers queues by their names.
"""

import configparser
import fnmatch
import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple

from restmq.access_rules import basic_credentials
from restmq.errors import Forbidden, InvalidKey, SettingsError

KEY_PREFIX: Final = "rmq_"
KEY_LOGIN: Final = "key"
"""With this login, or user name of HTTP Basic, the password is a key."""

DEFAULT_FILE_NAME: Final = "keys.conf"
MAX_PATTERNS: Final = 1000
MAX_PATTERN_BYTES: Final = 1024
MAX_NAME_CHARACTERS: Final = 100

_KEY_BYTES: Final = 32
_ID_CHARACTERS: Final = 12
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_ID: Final = re.compile(r"[0-9a-f]{12}")
_EVERYTHING: Final = re.compile(r"\*+")
_WILDCARD: Final = re.compile(r"[*?]")
_PREFIX_PATTERN: Final = re.compile(r"([^*?]*)\*+")
_FIELDS: Final = ("name", "hash", "queues", "can", "created", "expires")


class Permission(StrEnum):
    """What a key may allow; each stands for itself, and none includes another."""

    PUBLISH = "publish"
    CONSUME = "consume"
    VIEW = "view"
    MANAGE = "manage"


class Resource(NamedTuple):
    """What is asked for: a queue by its name, or a channel and the like by its path."""

    name: str
    is_path: bool = False
    is_whole: bool = False
    """Whether it is everything whose name begins so."""

    def __str__(self) -> str:
        kind = "" if self.is_path else "queue "
        if self.is_whole:
            return f"all of {self.name}*" if self.name else "everything"
        return f"{kind}{self.name}"


EVERYTHING: Final = Resource("", is_whole=True)


class Need(NamedTuple):
    """What a key must allow for a request to be served."""

    permission: Permission
    resource: Resource


@dataclass(frozen=True)
class ApiKey:
    """What a key allows. ``digest`` is its SHA-256 in hexadecimal digits.

    ``created`` and ``expires`` are seconds since the epoch; None is not known, and never.
    """

    digest: str
    patterns: tuple[str, ...]
    permissions: frozenset[Permission]
    name: str = ""
    created: int | None = None
    expires: int | None = None
    _queues: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)
    _paths: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        everything = [each for each in self.patterns if _EVERYTHING.fullmatch(each)]
        paths = [each for each in self.patterns if each.startswith("/")]
        queues = [each for each in self.patterns if not each.startswith("/")]
        object.__setattr__(self, "_queues", tuple(map(_compile, queues)))
        object.__setattr__(self, "_paths", tuple(map(_compile, [*everything, *paths])))

    @property
    def id(self) -> str:
        """The beginning of the hash, by which people know the key."""
        return self.digest[:_ID_CHARACTERS]

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires is not None and time.time() >= self.expires

    def check(self, permission: Permission, resource: Resource) -> None:
        """Raise Forbidden unless the key allows this."""
        if not self.allows(permission, resource):
            raise Forbidden(f"the API key {self.id} does not allow to {permission} {resource}")

    def check_queue(self, permission: Permission, queue: str) -> None:
        """Raise Forbidden unless the key allows this on a queue."""
        self.check(permission, Resource(queue))

    def allows(self, permission: Permission, resource: Resource) -> bool:
        """Return whether the key allows this."""
        return permission in self.permissions and self.covers(resource)

    def covers(self, resource: Resource) -> bool:
        """Return whether a pattern covers the resource."""
        if resource.is_whole:
            return self._covers_whole(resource)
        patterns = self._paths if resource.is_path else self._queues
        return any(pattern.match(resource.name) for pattern in patterns)

    def queue_beginnings(self) -> list[str]:
        """Return what the names of covered queues begin with, in order; none begins as another."""
        kept: list[str] = []
        for each in sorted(
            _WILDCARD.split(pattern)[0] for pattern in self.patterns if not pattern.startswith("/")
        ):
            if not (kept and each.startswith(kept[-1])):
                kept.append(each)
        return kept

    def _covers_whole(self, resource: Resource) -> bool:
        for pattern in self.patterns:
            beginning = _PREFIX_PATTERN.fullmatch(pattern)
            if beginning is None:
                continue
            if not beginning[1]:
                return True
            is_same_kind = pattern.startswith("/") is resource.is_path
            if is_same_kind and resource.name.startswith(beginning[1]):
                return True
        return False


def _compile(pattern: str) -> re.Pattern[str]:
    # The translation guards against patterns that would take for ever; "[" is no wildcard here.
    return re.compile(fnmatch.translate(pattern.replace("[", "[[]")))


def new_key() -> str:
    """Return a new key, which is told to its holder and kept nowhere."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def digest_of(key: str) -> str:
    """Return the hash by which a key is known."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def key_in(authorization: str | None) -> str | None:
    """Return the key of an ``Authorization`` header, if it has one.

    That is a Bearer token, or the password of HTTP Basic with the user name ``key``. There may be
    other credentials beside it, with semicolons between them, as Queuey's clients send.
    """
    if authorization is None:
        return None
    for credential in authorization.split(";"):
        scheme, _, token = credential.strip().partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    for pair in basic_credentials(authorization):
        user, _, password = pair.partition(b":")
        if user == KEY_LOGIN.encode():
            return password.decode("utf-8", "surrogateescape")
    return None


class ApiKeys:
    """The keys there are; immutable."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = {key.digest: key for key in keys}

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: str) -> ApiKey:
        """Return what a key allows; raises InvalidKey if it is not known, or has expired."""
        found = self._keys.get(digest_of(key))
        if found is None:
            raise InvalidKey("the API key is not known")
        if found.has_expired:
            raise InvalidKey(f"the API key {found.id} has expired")
        return found

    def holds(self, key: ApiKey) -> bool:
        """Return whether the key is still there, allows the same, and has not expired."""
        found = self._keys.get(key.digest)
        return (found is key or found == key) and not key.has_expired


def check_pattern(pattern: str) -> str:
    """Return ``pattern`` if names can be held against it; else raises ValueError."""
    try:
        size_bytes = len(pattern.encode())
    except UnicodeEncodeError:
        raise ValueError("a pattern must be valid UTF-8") from None
    if not 1 <= size_bytes <= MAX_PATTERN_BYTES:
        raise ValueError(f"a pattern must have 1 to {MAX_PATTERN_BYTES} bytes")
    return pattern


def check_name(name: str) -> str:
    """Return the name of a key if it is a line of text; else raises ValueError."""
    if len(name) > MAX_NAME_CHARACTERS or not (name.isprintable() and name == name.strip()):
        raise ValueError(f"a name is at most {MAX_NAME_CHARACTERS} printable characters")
    return name


def parse_permissions(words: Iterable[str]) -> frozenset[Permission]:
    """Read the names of permissions; raises ValueError for one that is none."""
    known = ", ".join(Permission)
    found = set()
    for word in words:
        if word not in tuple(Permission):
            raise ValueError(f"{word!r} is no permission; there are {known}")
        found.add(Permission(word))
    if not found:
        raise ValueError(f"a key needs a permission; there are {known}")
    return frozenset(found)


def parse_keys(content: bytes, name: str) -> ApiKeys:
    """Read the text of a file of keys; ``name`` is how errors call it.

    Raises SettingsError, which names the section at fault, for anything not understood.
    """
    parser = configparser.RawConfigParser(default_section="", empty_lines_in_values=False)
    try:
        parser.read_string(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SettingsError(f"{name}: the file is not UTF-8 text at byte {error.start}") from None
    except configparser.Error:
        raise SettingsError(f"{name}: the file is not as `restmq keys` writes it") from None
    keys = []
    for section in parser.sections():
        try:
            keys.append(_parse_key(section, dict(parser[section])))
        except ValueError as error:
            raise SettingsError(f"{name}: [{section[:100]}] {error}") from None
    return ApiKeys(keys)


def _parse_key(section: str, values: Mapping[str, str]) -> ApiKey:
    if not _ID.fullmatch(section):
        raise ValueError("a section is named by the first 12 digits of the hash")
    for each in values:
        if each not in _FIELDS:
            raise ValueError(f"unknown name {each!r}; there are {', '.join(_FIELDS)}")
    digest = values.get("hash", "")
    if not _HASH.fullmatch(digest) or not digest.startswith(section):
        raise ValueError("hash must be the SHA-256 of the key, which begins as the section's name")
    return ApiKey(
        digest,
        _parse_patterns(values.get("queues", "")),
        parse_permissions(values.get("can", "").split()),
        check_name(values.get("name", "")),
        parse_time(values["created"]) if "created" in values else None,
        parse_time(values["expires"]) if "expires" in values else None,
    )


def _parse_patterns(text: str) -> tuple[str, ...]:
    try:
        patterns = json.loads(text)
    except (ValueError, RecursionError):
        patterns = None
    if (
        not isinstance(patterns, list)
        or not 1 <= len(patterns) <= MAX_PATTERNS
        or not all(isinstance(each, str) for each in patterns)
    ):
        raise ValueError('queues must be a list of patterns, as in ["jobs.*", "mail"]')
    return tuple(map(check_pattern, patterns))


def format_keys(keys: Iterable[ApiKey]) -> str:
    """Write the text of a file of keys."""
    text = (
        "# API keys, written by `restmq keys`: what each allows, and its SHA-256. The keys\n"
        "# themselves are nowhere. A running server follows this file.\n"
    )
    for key in keys:
        lines = [f"\n[{key.id}]"]
        if key.name:
            lines.append(f"name = {key.name}")
        lines.append(f"hash = {key.digest}")
        lines.append(f"queues = {json.dumps(key.patterns)}")
        lines.append(f"can = {' '.join(each for each in Permission if each in key.permissions)}")
        if key.created is not None:
            lines.append(f"created = {format_time(key.created)}")
        if key.expires is not None:
            lines.append(f"expires = {format_time(key.expires)}")
        text += "\n".join(lines) + "\n"
    return text


def format_time(seconds: int) -> str:
    """Write a time as in RFC 3339, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> int:
    """Read a date, or a date and a time, of ISO 8601 (UTC if it names no zone), or ValueError."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:100]!r} is no time, as 2027-01-31 or 2027-01-31T12:00Z") from None
