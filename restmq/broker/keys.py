"""How every Redis key and channel is spelt: this module is the only speller.

All keys of a queue carry the queue's hash tag, so that Redis Cluster keeps them in one slot and
one script can touch them all. Keys that serve the whole server stand alone.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from restmq.errors import InvalidInput

MAX_QUEUE_NAME_BYTES = 1024
"""A queue's name may be so long, in UTF-8."""

_MAX_NUMBER_DIGITS = len(str(2**53))
_GLOB_CHARACTER = re.compile(r"[*?\[\]\\]")
_ESCAPED = r"\\\g<0>"

REGISTRY = "restmq:queues"
"""Sorted set of the names of all queues ever added to, all with score 0, so in byte order."""

MEMORY_QUEUES = "{restmq:queues}:memory"
"""Set of the names of those that live in memory; in the same slot of a cluster as the registry."""

DUE = "restmq:due"
"""Sorted set: ``<time>:<kind>:<name>`` by the time at which to look at a queue or log."""

DUE_CHANNEL = "restmq:due"
"""All nodes listen here; a message says that something is due earlier than what was first."""

QUEUES_CHANNEL = "restmq:new-queues"
"""Nodes with an interest in queues to come listen here; the payload is the name of a new one."""

QUESTION_CHANNEL = "restmq:ask"
"""Nodes that have something to tell listen here; the payload is what one of them wants to know."""

TOPIC_CHANNEL = "restmq:topic:"
"""What the channels of topics start with."""

NODE_CHANNEL = "restmq:node:"
"""A node listens on this plus its own name; the payload is the name of a queue to look at."""


LIVE_NODES = "{restmq:nodes}:live"
"""Hash: node to when it counts as dead, and what it tells of itself."""

CENSUS = "{restmq:nodes}:census"
"""Hash: the latest census of all queues, who takes it, and when somebody last asked."""


class QueueKeys(NamedTuple):
    """The keys of one queue, in the order in which every script receives them as KEYS."""

    record: str
    """Hash: ``next`` (last number given), ``status``, ``policy``, ``settings``, ``epoch`` (times
    purged), ``purged`` (last number at the latest purge), ``rate_in`` and ``rate_out``;
    ``expired_leases`` and ``died`` (how often that happened); ``turn`` (of round-robin); ``sent``,
    ``generation``, ``history_bytes``, ``sent_number``, ``trimmed`` and ``alone`` (of
    broadcast)."""
    ready: str
    """List: the numbers of ready messages of default priority that never left, oldest first."""
    ranked: str
    """Sorted set: the numbers of all other ready messages, by priority and number."""
    stale: str
    """Set: numbers that are still in ``ready`` though their messages have moved to ``ranked``."""
    messages: str
    """Hash: number to stored record (``message.py``) of all that is ready, leased or delayed."""
    expiry: str
    """Sorted set: number by the time at which it expires; only with a ttl, and not leased."""
    gets: str
    """Hash: number to how often it was looked at by ``get``; only messages that were."""
    popped: str
    """List: runs of numbers popped lately, which ``delete`` still knows; bounded, expires."""
    stories: str
    """Hash: number to attempts, receipt token, holder, deadline, why it last came back."""
    leased: str
    """Sorted set: number by the end of its lease."""
    held: str
    """Sorted set, by name: ``<node>:<number>``, leases that belong to a stream of that node."""
    delayed: str
    """Sorted set: number by the time at which it becomes ready."""
    dead: str
    """Sorted set: number by the time of its death."""
    dead_messages: str
    """Hash: number to record, attempts and reason of a dead letter."""
    dead_expiry: str
    """Sorted set: number by the time at which it expires; only dead letters with a ttl."""
    ids: str
    """Hash: idempotency key to the messages that it made, and until when it counts."""
    id_expiry: str
    """Sorted set: idempotency key by that time."""
    copies: str
    """List: messages on their way to the queues that copy this one, oldest first."""
    nodes: str
    """Hash: node to its consumers, its deadline and its position in the history."""
    listeners: str
    """Hash: node to its consumers of leased streams, and its deadline."""
    assigned: str
    """Sorted set, by name: ``<node>:<number>``, messages whose turn fell to another node."""
    history: str
    """List: broadcast messages, oldest first, which every node reads from its position."""
    taken: str
    """String: the last reply of one flavour to this node, to undo it if it was lost; or list: the
    names of its latest calls that put messages back, which are done once. Expires."""


def queue_keys(queue: str, node: str, flavour: str = "") -> QueueKeys:
    """Spell the keys of ``queue`` as ``node`` uses them, for replies of one ``flavour``."""
    tag = queue
    if "}" in queue or "%" in queue:  # a brace would end the hash tag too early
        tag = queue.replace("%", "%25").replace("}", "%7D")
    prefix = f"restmq:{{{tag}}}:"
    return QueueKeys._make(
        [*(prefix + suffix for suffix in _SUFFIXES), f"{prefix}taken:{node}:{flavour}"]
    )


_SUFFIXES = tuple(
    "queue" if name == "record" else name.replace("_", "-")
    for name in QueueKeys._fields
    if name != "taken"
)


def check_queue_name(name: str) -> str:
    """Return ``name`` if it can name a queue.

    Raises ``InvalidInput`` when it is empty, longer than 1,024 bytes of UTF-8, or not text.
    """
    if not name:
        raise InvalidInput("the queue needs a name")
    if not name.isascii():
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            raise InvalidInput("the queue's name must be valid UTF-8") from None
    else:
        length = len(name)
    if length > MAX_QUEUE_NAME_BYTES:
        raise InvalidInput(
            f"the queue's name has {length} bytes; at most {MAX_QUEUE_NAME_BYTES} are allowed"
        )
    return name


def message_key(queue: str, number: int) -> str:
    """Spell the key by which clients know a message: ``<queue>:<number>``."""
    return f"{queue}:{number}"


def message_keys(queue: str, numbers: Iterable[int]) -> list[str]:
    """Spell the keys of many messages, as ``message_key`` does."""
    start = f"{queue}:"
    return [f"{start}{number}" for number in numbers]


def message_number(queue: str, key: str) -> int | None:
    """Read the number out of a message's key; None if it is not a key of this queue."""
    name, separator, digits = key.rpartition(":")
    if not separator or name != queue or not digits.isascii() or not digits.isdigit():
        return None
    if digits[0] == "0" or len(digits) > _MAX_NUMBER_DIGITS:  # int() raises at some length
        return None
    number = int(digits)
    return number if number < 2**53 else None


def topic_channel(topic: str) -> str:
    """Spell the channel over which the messages of a topic go from node to node."""
    return TOPIC_CHANNEL + topic


def topic_pattern(prefix: str) -> str:
    """Spell the pattern of the channels of all topics whose names start so and go on."""
    return f"{TOPIC_CHANNEL}{_GLOB_CHARACTER.sub(_ESCAPED, prefix)}?*"


def answer_channel(node: str) -> str:
    """Spell the channel on which a node hears the answers to what it asked."""
    return f"{NODE_CHANNEL}{node}:answers"


class LogKeys(NamedTuple):
    """The keys of one log, in the order in which every script of logs receives them as KEYS."""

    entries: str
    """Hash: field (partition and id) to record, and ``last`` and ``attributes`` of the log."""
    order: str
    """Sorted set, all scores 0: fields in order, by path, and runs by their deadline; the sections
    are described in ``lua/log_common.lua``."""
    cursors: str
    """Sorted set: client by the number of the entry that it has read last."""


def log_keys(collection: str, name: str) -> LogKeys:
    """Spell the keys of a log; a collection holds no slash, so that no two logs share them."""
    prefix = f"restmq:{{{_log_tag(collection, name)}}}:"
    return LogKeys(prefix + "entries", prefix + "order", prefix + "cursors")


def log_channel(collection: str, name: str) -> str:
    """Spell the channel on which the followers of a log are woken.

    The payload names the paths of what is new, with a zero byte between them; empty: anything.
    """
    return f"restmq:log:{collection}/{name}"


LOG_NODES_CHANNEL = "restmq:log"
"""Nodes listen here while they follow no log; nothing is ever said."""


def log_registry(collection: str) -> str:
    """Spell the sorted set of the names of a collection's logs, all with score 0."""
    return f"restmq:logs:{collection}"


def log_client(collection: str, client: str) -> str:
    """Spell the sorted set of the names of the logs in which a client has, or had, a cursor."""
    return f"restmq:log-client:{collection}/{client}"


def _log_tag(collection: str, name: str) -> str:
    tag = f"{collection}/{name}"
    if "}" in tag or "%" in tag:  # a brace would end the hash tag too early
        tag = tag.replace("%", "%25").replace("}", "%7D")
    return tag
