"""The Lua scripts: how they are loaded, and how each is called.

A ``Call`` is one script on one queue. Arguments are bound here by name, in the order that the
header of the script's file states, so that no other module knows a position.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, NamedTuple

import msgspec

from restmq.broker.keys import (
    DUE,
    DUE_CHANNEL,
    MEMORY_QUEUES,
    NODE_CHANNEL,
    REGISTRY,
    queue_keys,
)
from restmq.broker.linking import link

Argument = str | bytes | int | float

_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua file, with what it shares with others in front of it."""

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


def load_script(name: str, *shared: str) -> Script:
    """Read a Lua file of this package, with what it needs of the files named by ``shared``."""
    directory = resources.files("restmq.broker") / "lua"
    common = "".join([(directory / f"{part}.lua").read_text() for part in shared])
    text = link(common, (directory / f"{name}.lua").read_text())
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


POPPED, TAKEN, DELIVERED = "popped", "taken", "delivered"
"""Flavours of replies that hold messages; the last of each can be undone."""

RESTORED = "restored"
"""The flavour of calls that put messages back; those of late are known by their names."""

_MAX_CACHED_QUEUES = 10_000
"""Queues whose keys and settings are kept spelt out."""

_QUEUE = ("common", "ready")
_NODES = (*_QUEUE, "nodes")
_LEASES = (*_NODES, "leases")


class HistoryLimits(NamedTuple):
    """How much of a queue's broadcast messages is kept; whatever limit is met first counts."""

    max_count: int = 1000
    max_seconds: int = 300
    max_bytes: int = 16 * 1024 * 1024


class Operation(NamedTuple):
    """Messages that one publisher adds together: all of them or none."""

    messages: Sequence[bytes]
    """What each packed message has after ``head``; at least one."""
    options: Mapping[str, Any] | None = None
    """What else add.lua reads of an operation; None for one plain message."""
    head: bytes = b""
    """How all packed messages begin."""

    def arguments(self) -> list[Argument]:
        """Return the words that add.lua expects."""
        if self.options is None and len(self.messages) == 1:
            return ["", self.head + self.messages[0]]
        header = _pack({"n": len(self.messages), **(self.options or {})})
        return [header, self.head, *self.messages]


class Settlement(NamedTuple):
    """What becomes of one leased message; settle.lua says what each verb means."""

    verb: str
    number: int
    token: str
    argument: str | float = ""


class LeaseDefaults(NamedTuple):
    """What counts for a lease where neither the queue's settings nor those of patterns say."""

    seconds: float
    max_attempts: int
    """Deliveries before a message is dead, when such a lease ends without an ack; 0 is never."""


class _Head(NamedTuple):
    """What all calls for one queue have in common."""

    overrides: Mapping[str, Any] | None
    keys: tuple[Argument, ...]
    taken: str
    settings: bytes


class Scripts:
    """All scripts for queues, bound to the name of one node.

    ``overrides``: what the node's patterns set for a queue, by name of the setting.
    """

    def __init__(
        self, node: str, overrides: Callable[[str], Mapping[str, Any]] | None = None
    ) -> None:
        self.node = node
        self.clock_seconds: float | None = None
        """Set by tests: the time that scripts believe in, instead of Redis's own clock."""
        self._overrides = overrides
        self._heads: dict[str, _Head] = {}
        self._add = load_script("add", *_LEASES, "overflow")
        self._take = load_script("take", *_LEASES, "popped", "replies")
        self._lease = load_script("lease", *_LEASES)
        self._settle = load_script("settle", *_LEASES)
        self._still_leased = load_script("still_leased", *_LEASES)
        self._restore = load_script("restore", *_QUEUE, "popped", "replies")
        self._get = load_script("get", *_LEASES)
        self._peek = load_script("peek", *_LEASES)
        self._inspect = load_script("inspect", *_LEASES)
        self._move = load_script("move", *_LEASES)
        self._delete = load_script("delete", *_LEASES, "popped")
        self._dead = load_script("dead", *_LEASES)
        self._purge = load_script("purge", *_QUEUE)
        self._configure = load_script("configure", "common")
        self._stats = load_script("stats", *_LEASES)
        self._census = load_script("census", *_LEASES)
        self._join = load_script("join", *_NODES)
        self._deliver = load_script("deliver", *_LEASES, "replies")
        self._resume = load_script("resume", *_QUEUE)
        self._listen = load_script("listen", "common")
        self._visit = load_script("visit", *_LEASES)
        self._copies = load_script("copies", "common")
        self._schedule = load_script("schedule")
        self._register = load_script("register")

    def all(self) -> list[Script]:
        """Return every script, for loading them into Redis."""
        return [value for value in vars(self).values() if isinstance(value, Script)]

    def _call(self, script: Script, queue: str, *own: Argument, flavour: str = "") -> Call:
        found = None if self._overrides is None else self._overrides(queue)
        head = self._heads.get(queue)
        if head is None or head.overrides is not found:
            head = self._head(queue, found)
        clock = "" if self.clock_seconds is None else repr(self.clock_seconds)
        own_part = (head.taken + flavour, clock, NODE_CHANNEL, queue, head.settings)
        return Call(script, (*head.keys, *own_part, *own))

    def _head(self, queue: str, found: Mapping[str, Any] | None) -> "_Head":
        head = self._new_head(queue, found)
        if len(self._heads) >= _MAX_CACHED_QUEUES:
            self._heads.clear()
        self._heads[queue] = head
        return head

    def _new_head(self, queue: str, found: Mapping[str, Any] | None) -> "_Head":
        keys = queue_keys(queue, self.node)
        settings = _pack(dict(found)) if found else b""
        return _Head(found, (len(keys), *keys[:-1]), keys.taken, settings)

    def add(self, queue: str, operations: Iterable[Operation], wakes_itself: bool = False) -> Call:
        """Add messages. With ``wakes_itself`` this node looks at the queue by itself afterwards."""
        own: list[Argument] = [self.node if wakes_itself else ""]
        for operation in operations:
            own += operation.arguments()
        return self._call(self._add, queue, *own)

    def take(
        self, queue: str, flavour: str, batch: str, count: int, max_bytes: int, remember: bool
    ) -> Call:
        """Take the next messages; with ``remember`` a later delete still knows them."""
        own = (batch, count, max_bytes, "1" if remember else "")
        return self._call(self._take, queue, *own, flavour=flavour)

    def lease(
        self,
        queue: str,
        *,
        count: int,
        max_bytes: int,
        seconds: float | None,
        token: str,
        held_by_stream: bool,
        heeds_pause: bool = False,
        defaults: LeaseDefaults | None = None,
    ) -> Call:
        """Hand out the next messages for a time; ``seconds`` None: as the settings say.

        ``heeds_pause``: nothing while the queue is paused, which holds for streams anyway.
        """
        time = "" if seconds is None else seconds
        holder = self.node if held_by_stream else "+" if heeds_pause else "-"
        fallbacks = defaults or ("", "")
        return self._call(self._lease, queue, count, max_bytes, time, token, holder, *fallbacks)

    def settle(self, queue: str, settlements: Iterable[Settlement]) -> Call:
        """Ack, extend, release or bury leased messages."""
        own: list[Argument] = [word for settlement in settlements for word in settlement]
        return self._call(self._settle, queue, self.node, *own)

    def still_leased(self, queue: str, deliveries: Iterable[tuple[int, str]]) -> Call:
        """Ask which deliveries, pairs of number and token, are leased still."""
        own: list[Argument] = [word for delivery in deliveries for word in delivery]
        return self._call(self._still_leased, queue, *own)

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
        """Look at the next message and count the look."""
        return self._call(self._get, queue)

    def peek(self, queue: str, count: int, newest: bool, max_bytes: int) -> Call:
        """List messages that wait, from the next or from the last."""
        order = "newest" if newest else "oldest"
        return self._call(self._peek, queue, count, order, max_bytes)

    def inspect(self, queue: str, number: int) -> Call:
        """Show one message in whatever state it is."""
        return self._call(self._inspect, queue, number)

    def move(self, queue: str, number: int, what: str, value: float) -> Call:
        """Reschedule a delayed message (``delay``, ``at``), or change its ``priority``."""
        return self._call(self._move, queue, number, what, value)

    def delete(self, queue: str, number: int) -> Call:
        """Remove one message."""
        return self._call(self._delete, queue, number)

    def dead(
        self,
        queue: str,
        what: str,
        count: int,
        number: int | None = None,
        until: str = "",
        offset: int = 0,
        max_bytes: int = 0,
    ) -> Call:
        """List, redrive or drop dead letters: all, or one, or those that died ``until`` then."""
        only = "" if number is None else number
        return self._call(self._dead, queue, what, count, only, until, offset, max_bytes)

    def purge(self, queue: str) -> Call:
        """Empty the queue and end its streams."""
        return self._call(self._purge, queue)

    def set_fields(self, queue: str, fields: Mapping[str, str]) -> Call:
        """Set policy and status; an empty value removes."""
        own = [word for pair in fields.items() for word in pair]
        return self._call(self._configure, queue, "fields", *own)

    def set_settings(
        self, queue: str, changes: Mapping[str, Any], removed: Iterable[str] = ()
    ) -> Call:
        """Merge into the queue's own settings."""
        packed = _pack(dict(changes)) if changes else b""
        return self._call(self._configure, queue, "settings", packed, *removed)

    def reset_settings(self, queue: str) -> Call:
        """Forget the queue's own settings, policy and status."""
        return self._call(self._configure, queue, "reset")

    def copy_settings(self, queue: str, policy: bytes, status: bytes, settings: bytes) -> Call:
        """Take over settings as ``show_settings`` gave them elsewhere."""
        own = ("copy", policy, status, settings)
        return self._call(self._configure, queue, *own)

    def show_settings(self, queue: str) -> Call:
        """Read the queue's own settings, policy and status."""
        return self._call(self._configure, queue, "show")

    def stats(self, queue: str) -> Call:
        """Count what is in the queue."""
        return self._call(self._stats, queue)

    def census(self, queue: str) -> Call:
        """Count what is in the queue as a walk over all queues does."""
        found = None if self._overrides is None else self._overrides(queue)
        # Not kept: a walk would push out what those queues need that are in use.
        head = self._heads.get(queue)
        if head is None or head.overrides is not found:
            head = self._new_head(queue, found)
        clock = "" if self.clock_seconds is None else repr(self.clock_seconds)
        own = (head.taken, clock, NODE_CHANNEL, queue, head.settings)
        return Call(self._census, (*head.keys, *own))

    def join(
        self, queue: str, consumers: int, lifetime_seconds: float, position: int | None
    ) -> Call:
        """Say how many consumers this node has; ``position`` None starts at the end."""
        place = "" if position is None else position
        return self._call(self._join, queue, self.node, consumers, lifetime_seconds, place)

    def listen(self, queue: str, consumers: int, lifetime_seconds: float | None) -> Call:
        """Say that this node wants to hear of new messages; ``lifetime_seconds`` None: no more."""
        lifetime = "" if lifetime_seconds is None else lifetime_seconds
        return self._call(self._listen, queue, self.node, consumers, lifetime)

    def visit(self, queue: str, unsure_seconds: float = 0) -> Call:
        """Clear what is due; for ``unsure_seconds`` this node may count no other as dead."""
        return self._call(self._visit, queue, unsure_seconds)

    def copies(self, queue: str, count: int, max_bytes: int, arrived: Iterable[int] = ()) -> Call:
        """Read messages on their way to other queues, after forgetting those that arrived."""
        return self._call(self._copies, queue, count, max_bytes, *arrived)

    def resume(
        self,
        queue: str,
        after: int,
        position: int | None,
        upto: int,
        max_messages: int,
        max_bytes: int,
    ) -> Call:
        """Read the history for a consumer that comes back."""
        place = "" if position is None else position
        return self._call(self._resume, queue, after, place, upto, max_messages, max_bytes)

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

    def register(self, queue: str, storage: str) -> Call:
        """Say where a queue lives, which is in ``storage`` if it is new; '' only asks."""
        return Call(self._register, (2, REGISTRY, MEMORY_QUEUES, queue, storage))

    def note_due(self, items: Iterable[tuple[float, bool, float, str]]) -> Call:
        """Note when something is due: seconds, whether that is from now, grain, kind and name."""
        own: list[Argument] = []
        for seconds, is_relative, grain_seconds, what in items:
            own += (seconds, "in" if is_relative else "at", grain_seconds, what)
        return self._schedule_call("note", *own)

    def claim_due(self, count: int, claim_seconds: float) -> Call:
        """Claim what is due now, for so many seconds."""
        return self._schedule_call("claim", count, claim_seconds)

    def finish_due(self, member: bytes, upcoming: float | None, grain_seconds: float) -> Call:
        """Cross out what was claimed, and note when the same is due next, if at all."""
        return self._schedule_call("done", member, upcoming or "", grain_seconds)

    def _schedule_call(self, *own: Argument) -> Call:
        clock = "" if self.clock_seconds is None else repr(self.clock_seconds)
        return Call(self._schedule, (1, DUE, clock, DUE_CHANNEL, *own))


def command(*words: Argument) -> Call:
    """Make a call of a plain Redis command."""
    return Call(None, words)


Reply = Any
"""What Redis answers: int, bytes, None, or a list of these."""
