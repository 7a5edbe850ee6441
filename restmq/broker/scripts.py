"""The Lua scripts: how they are loaded, and how each is called.

A ``Call`` is one script on one queue. Arguments are bound here by name, in the order that the
header of the script's file states, so that no other module knows a position.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

from restmq.broker.keys import NODE_CHANNEL, queue_keys

Argument = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file, with what all scripts share in front of it."""

    name: str
    text: str
    sha1: str


class Call(NamedTuple):
    """One command for Redis; ``script`` is None for a plain command."""

    script: Script | None
    arguments: Sequence[Argument]

    def command(self) -> Sequence[Argument]:
        """Return the words of the command to send."""
        if self.script is None:
            return self.arguments
        return ("EVALSHA", self.script.sha1, *self.arguments)


def _load(name: str) -> Script:
    directory = resources.files("restmq.broker") / "lua"
    text = (directory / "common.lua").read_text() + (directory / f"{name}.lua").read_text()
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


POPPED, TAKEN, DELIVERED = "popped", "taken", "delivered"
"""Flavours of replies that hold messages; the last of each can be undone."""

RESTORED = "restored"
"""The flavour of calls that put messages back; those of late are known by their names."""


class HistoryLimits(NamedTuple):
    """How much of a queue's broadcast messages is kept; whatever limit is met first counts."""

    max_count: int = 1000
    max_seconds: int = 300
    max_bytes: int = 16 * 1024 * 1024


class Scripts:
    """All scripts, bound to the name of one node."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.clock_seconds: float | None = None
        """Set by tests: the time that scripts believe in, instead of Redis's own clock."""
        self._add = _load("add")
        self._take = _load("take")
        self._restore = _load("restore")
        self._get = _load("get")
        self._peek = _load("peek")
        self._delete = _load("delete")
        self._purge = _load("purge")
        self._configure = _load("configure")
        self._stats = _load("stats")
        self._join = _load("join")
        self._deliver = _load("deliver")

    def all(self) -> list[Script]:
        """Return every script, for loading them into Redis."""
        return [value for value in vars(self).values() if isinstance(value, Script)]

    def _call(self, script: Script, queue: str, *own: Argument, flavour: str = "") -> Call:
        keys = queue_keys(queue, self.node, flavour)
        clock = "" if self.clock_seconds is None else repr(self.clock_seconds)
        return Call(script, (len(keys), *keys, clock, NODE_CHANNEL, queue, *own))

    def add(
        self, queue: str, messages: Iterable[tuple[int | None, bytes]], wakes_itself: bool = False
    ) -> Call:
        """Append messages: pairs of ttl in seconds (None: never expires) and packed message.

        With ``wakes_itself`` this node is not told: it looks at the queue afterwards anyway.
        """
        own: list[Argument] = [self.node if wakes_itself else ""]
        for ttl_seconds, packed in messages:
            own.append("" if ttl_seconds is None else ttl_seconds)
            own.append(packed)
        return self._call(self._add, queue, *own)

    def take(
        self, queue: str, flavour: str, batch: str, count: int, max_bytes: int, remember: bool
    ) -> Call:
        """Take the oldest messages; with ``remember`` a later delete still knows them."""
        own = (batch, count, max_bytes, "1" if remember else "")
        return self._call(self._take, queue, *own, flavour=flavour)

    def restore(self, queue: str, name: str, messages: Iterable[tuple[int, bytes]]) -> Call:
        """Put messages that reached nobody back: pairs of number and stored record.

        ``name`` tells this call from others of this node, so that it can be sent again.
        """
        own = [word for message in messages for word in message]
        return self._call(self._restore, queue, "", name, *own, flavour=RESTORED)

    def restore_reply(self, queue: str, flavour: str, batch: str) -> Call:
        """Put back all that one reply held, if it was this node's last of its flavour."""
        return self._call(self._restore, queue, batch, flavour=flavour)

    def get(self, queue: str) -> Call:
        """Look at the oldest message and count the look."""
        return self._call(self._get, queue)

    def peek(self, queue: str, count: int, newest: bool, max_bytes: int) -> Call:
        """List messages that wait, from the oldest or from the newest."""
        order = "newest" if newest else "oldest"
        return self._call(self._peek, queue, count, order, max_bytes)

    def delete(self, queue: str, number: int) -> Call:
        """Remove one message."""
        return self._call(self._delete, queue, number)

    def purge(self, queue: str) -> Call:
        """Empty the queue and end its streams."""
        return self._call(self._purge, queue)

    def configure(self, queue: str, field: str, value: str) -> Call:
        """Set one field of the queue's record."""
        return self._call(self._configure, queue, field, value)

    def stats(self, queue: str) -> Call:
        """Count what waits, and read status and policy."""
        return self._call(self._stats, queue)

    def join(
        self, queue: str, consumers: int, lifetime_seconds: float, position: int | None
    ) -> Call:
        """Say how many consumers this node has; ``position`` None starts at the end."""
        place = "" if position is None else position
        return self._call(self._join, queue, self.node, consumers, lifetime_seconds, place)

    def deliver(
        self,
        queue: str,
        *,
        consumers: int,
        lifetime_seconds: float,
        position: int,
        has_room: bool,
        max_messages: int,
        max_bytes: int,
        history: HistoryLimits,
        batch: str,
        generation: str,
    ) -> Call:
        """Hand out what waits and fetch what is for this node."""
        return self._call(
            self._deliver,
            queue,
            self.node,
            consumers,
            lifetime_seconds,
            position,
            "1" if has_room else "",
            max_messages,
            max_bytes,
            history.max_count,
            history.max_seconds,
            history.max_bytes,
            batch,
            generation,
            flavour=DELIVERED,
        )


def command(*words: Argument) -> Call:
    """Make a call of a plain Redis command."""
    return Call(None, words)


Reply = Any
"""What Redis answers: int, bytes, None, or a list of these."""
