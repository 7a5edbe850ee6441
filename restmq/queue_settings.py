"""What can be set for one queue: names, defaults and ranges; which layer wins; patterns of names.

A queue's settings come, later over earlier, from the defaults, from each section
``[queues."pattern"]`` of the TOML file whose pattern matches the queue's name, in the order of the
file, and from what was set for that queue itself over HTTP. The two upper layers are kept as
*overrides*: mappings of some names to values, which ``resolve`` lays over the defaults.
"""

import dataclasses
import difflib
import fnmatch
import functools
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, NoReturn, cast

import msgspec

from restmq.errors import InvalidInput

MAX_COPIES = 100
"""A queue is copied to so many others at most."""

MAX_NAME_BYTES = 1024
"""A queue's name, and a pattern of names, may be so long, in UTF-8."""

CACHED_QUEUES = 10_000
"""Patterns remember their answer for so many queues, those asked for last."""

TEN_YEARS_SECONDS = 3653 * 24 * 3600
WEEK_SECONDS = 7 * 24 * 3600

NONE = "none"
"""The explicit value "no limit" for ``ttl`` and ``max_length``, where null is "as by default"."""

SettingValue = str | int | float | tuple[str, ...]
Overrides = Mapping[str, SettingValue]


class QueueSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one queue. Values given to the constructor are taken as they are."""

    policy: Literal["broadcast", "roundrobin"] = "broadcast"
    """What streaming consumers get: each of them every message, or each message one of them."""
    status: Literal["start", "stop"] = "start"
    """Whether streaming consumers get anything at all."""
    lease_seconds: float = 30
    """How long a lease lasts that names no time: 1 to 43,200."""
    max_attempts: int = 5
    """Deliveries before a message becomes a dead letter: 0 (never) to 1,000,000."""
    ttl: int | None = None
    """Whole seconds until a message expires that names no ttl: 1 to ten years, or none."""
    delay: float = 0
    """Seconds before a message becomes ready that names no delay: 0 to ten years."""
    dedupe_seconds: float = 300
    """How long an idempotency key is remembered: 0 (not at all) to a week."""
    history_count: int = 1000
    """Messages kept for streams to resume from: 0 to 1,000,000."""
    history_seconds: float = 300
    """How long they are kept: 0 to a week."""
    max_length: int | None = None
    """Messages the queue may hold: 1 to 1,000,000,000, or any number."""
    overflow: Literal["reject", "drop-oldest", "dead-letter"] = "reject"
    """What happens when the queue is full: refuse the new message, or make room."""
    copies_to: tuple[str, ...] = ()
    """Queues that every message also goes to: at most 100 names, each once."""
    storage: Literal["disk", "memory"] = "disk"
    """Where messages live: safe on disk, or faster in memory and lost with its Redis."""


DEFAULTS = QueueSettings()


@dataclasses.dataclass(frozen=True)
class _Number:
    """Checks a number; ``minimum`` and ``maximum`` are inclusive."""

    minimum: int
    maximum: int
    unit: str = ""
    whole: bool = True
    may_be_none: bool = False

    def __call__(self, value: object) -> SettingValue:
        if self.may_be_none and value == NONE:
            return NONE
        # bool is a subclass of int, and "ttl": true is a mistake.
        is_number = type(value) is int or (not self.whole and type(value) is float)
        if is_number and self.minimum <= cast(float, value) <= self.maximum:
            return cast(float, value)
        kind = "a whole number" if self.whole else "a number"
        none = f', or "{NONE}"' if self.may_be_none else ""
        raise ValueError(f"{kind}{self.unit} from {self.minimum} to {self.maximum}{none}")


@dataclasses.dataclass(frozen=True)
class _Choice:
    """Checks that a value is one of some words."""

    words: tuple[str, ...]

    def __call__(self, value: object) -> SettingValue:
        if isinstance(value, str) and value in self.words:
            return value
        raise ValueError(f"one of {', '.join(self.words)}")


def _queue_names(value: object) -> SettingValue:
    """Check a list of queue names."""
    if not isinstance(value, list | tuple) or len(value) > MAX_COPIES:
        raise ValueError(f"a list of at most {MAX_COPIES} queue names")
    for name in value:
        if not isinstance(name, str) or not _is_name(name):
            raise ValueError(f"a list of queue names, which {_short(name)} is not")
    if len(set(value)) != len(value):
        raise ValueError("a list that names no queue twice")
    return tuple(value)


def _is_name(text: str) -> bool:
    """Whether this can name a queue: not empty, not over ``MAX_NAME_BYTES``, and text."""
    try:
        return 0 < len(text.encode()) <= MAX_NAME_BYTES
    except UnicodeEncodeError:  # half a surrogate pair, as JSON may spell it
        return False


_SECONDS = " of seconds"
_CHECKS: Mapping[str, Callable[[object], SettingValue]] = {
    "policy": _Choice(("broadcast", "roundrobin")),
    "status": _Choice(("start", "stop")),
    "lease_seconds": _Number(1, 43_200, _SECONDS, whole=False),
    "max_attempts": _Number(0, 1_000_000),
    "ttl": _Number(1, TEN_YEARS_SECONDS, _SECONDS, may_be_none=True),
    "delay": _Number(0, TEN_YEARS_SECONDS, _SECONDS, whole=False),
    "dedupe_seconds": _Number(0, WEEK_SECONDS, _SECONDS, whole=False),
    "history_count": _Number(0, 1_000_000),
    "history_seconds": _Number(0, WEEK_SECONDS, _SECONDS, whole=False),
    "max_length": _Number(1, 1_000_000_000, may_be_none=True),
    "overflow": _Choice(("reject", "drop-oldest", "dead-letter")),
    "copies_to": _queue_names,
    "storage": _Choice(("disk", "memory")),
}


def check_changes(changes: object, queue: str | None = None) -> dict[str, SettingValue | None]:
    """Check some settings as they come from JSON or TOML, and return them in their normal form.

    None (JSON null) stays None, and means that the layer shall not set this name any more; "none"
    says for ``ttl`` and ``max_length`` that there shall be no limit. Lists become tuples. If
    ``queue`` is named, it cannot be copied to itself.

    Raises InvalidInput that names the setting at fault, if anything is wrong with any of them.
    """
    if not isinstance(changes, Mapping):
        raise InvalidInput('settings must be an object with names, as in {"max_attempts": 3}')
    checked: dict[str, SettingValue | None] = {}
    for name, value in changes.items():
        if name not in _CHECKS:
            raise InvalidInput(f"unknown setting {_short(name)}{did_you_mean(name, _CHECKS)}")
        try:
            checked[name] = None if value is None else _CHECKS[name](value)
        except ValueError as reason:
            raise InvalidInput(f"{name} cannot be {_short(value)}; it must be {reason}") from None
    copies = checked.get("copies_to")
    if isinstance(copies, tuple) and queue in copies:
        raise InvalidInput(f"copies_to cannot name the queue itself, {_short(queue)}")
    return checked


def resolve(
    overrides_of_patterns: Mapping[str, SettingValue | None],
    own_overrides: Mapping[str, SettingValue | None],
    defaults: QueueSettings = DEFAULTS,
) -> QueueSettings:
    """Lay a queue's own overrides over those of patterns, and these over the defaults.

    All must be in the form that ``check_changes`` returns; a name with None is one not set.
    """
    if not overrides_of_patterns and not own_overrides:
        return defaults
    values: dict[str, Any] = {
        name: None if value == NONE else value
        for overrides in (overrides_of_patterns, own_overrides)
        for name, value in overrides.items()
        if value is not None
    }
    return msgspec.structs.replace(defaults, **values)


class _Section(NamedTuple):
    pattern: str
    changes: Mapping[str, SettingValue | None]
    matches: Callable[[str], object]


class Patterns:
    """Settings for all queues whose name matches a pattern; immutable.

    ``*`` stands for any characters and ``?`` for one; all else, ``[`` too, for itself, in the case
    given. A pattern is held against the whole name. Where several match, the later section wins,
    name by name.
    """

    def __init__(self, sections: Iterable[tuple[str, object]] = ()) -> None:
        """Check pairs of a pattern and its settings; raises InvalidInput that names the section."""
        self._sections = tuple(_section(pattern, changes) for pattern, changes in sections)
        self._cached = functools.lru_cache(CACHED_QUEUES)(self._find)
        for section in self._sections:
            self._refuse_copies_to_itself(section)

    def overrides(self, queue: str) -> Overrides:
        """Return what the matching sections set for a queue; empty if none does."""
        return self._cached(queue)

    def sets(self, name: str, value: SettingValue) -> bool:
        """Whether any section sets ``name`` to ``value``."""
        return any(section.changes.get(name) == value for section in self._sections)

    def _find(self, queue: str) -> Overrides:
        found: dict[str, SettingValue | None] = {}
        for section in self._sections:
            if section.matches(queue) is not None:
                found.update(section.changes)
        return MappingProxyType({name: each for name, each in found.items() if each is not None})

    def _refuse_copies_to_itself(self, section: _Section) -> None:
        copies = section.changes.get("copies_to")
        for target in copies if isinstance(copies, tuple) else ():
            in_force = self._find(target).get("copies_to")
            if section.matches(target) and isinstance(in_force, tuple) and target in in_force:
                raise InvalidInput(
                    f"{_heading(section.pattern)}: copies_to cannot name {_short(target)}, which "
                    "the pattern matches, so that it would be copied to itself; leave it out, or "
                    f"add copies_to = [] in a later section {_heading(target)}"
                )

    def __reduce__(self) -> tuple[type["Patterns"], tuple[object]]:
        """Worker processes are sent a copy, which has a cache of its own."""
        return Patterns, (tuple((each.pattern, dict(each.changes)) for each in self._sections),)

    def __eq__(self, other: object) -> bool:
        """Compare patterns and settings, in their order."""
        if not isinstance(other, Patterns):
            return NotImplemented
        return [each[:2] for each in self._sections] == [each[:2] for each in other._sections]

    def __hash__(self) -> int:
        """Fit ``==``."""
        return hash(tuple(each.pattern for each in self._sections))

    def __repr__(self) -> str:
        """Tell the patterns."""
        return f"Patterns({[each.pattern for each in self._sections]})"


def _section(pattern: str, changes: object) -> _Section:
    heading = _heading(pattern)
    if not _is_name(pattern):
        _refuse(heading, f"a pattern must have 1 to {MAX_NAME_BYTES} bytes of UTF-8")
    if not isinstance(changes, Mapping):
        _refuse(heading, f"this must be a section, written {heading}")
    for name, value in changes.items():
        if isinstance(value, Mapping) and name not in _CHECKS:
            whole = _heading(f"{pattern}.{name}")
            _refuse(heading, f"unknown setting {_short(name)}; a name with a dot is put {whole}")
    try:
        checked = check_changes(changes)
    except InvalidInput as error:
        _refuse(heading, str(error))
    # The translation guards against patterns that would take for ever; "[" is no wildcard here.
    matches = re.compile(fnmatch.translate(pattern.replace("[", "[[]"))).match
    return _Section(pattern, MappingProxyType(checked), matches)


def _heading(pattern: str) -> str:
    return f'[queues."{pattern[:100]}"]'


def _refuse(heading: str, reason: str) -> NoReturn:
    raise InvalidInput(f"{heading}: {reason}")


def _short(value: object) -> str:
    """Return ``value`` as an error may show it, whatever its length and depth."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxlong = 100
    return shortener.repr(value)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown name: what it may have been meant to be."""
    names = list(known)
    near = difflib.get_close_matches(name[:100], names, n=1)
    return f"; did you mean {near[0]}?" if near else "; the names are " + ", ".join(names)
