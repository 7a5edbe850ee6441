"""How every Redis key and channel is spelt: this module is the only speller.

All keys of a queue carry the queue's hash tag, so that Redis Cluster keeps them in one slot and
one script can touch them all. Keys that serve the whole server stand alone.
"""

from typing import NamedTuple

from restmq.errors import InvalidInput

MAX_QUEUE_NAME_BYTES = 1024
"""A queue's name may be so long, in UTF-8."""

_MAX_NUMBER_DIGITS = len(str(2**53))

REGISTRY = "restmq:queues"
"""Sorted set of the names of all queues ever added to, all with score 0, so in byte order."""

NODE_CHANNEL = "restmq:node:"
"""A node listens on this plus its own name; the payload is the name of a queue to look at."""


class QueueKeys(NamedTuple):
    """The keys of one queue, in the order in which every script receives them as KEYS."""

    record: str
    """Hash: ``next`` (last number given), ``status``, ``policy``, ``epoch`` (times purged),
    ``turn`` (of round-robin), ``sent``, ``generation`` and ``history_bytes`` (of broadcast)."""
    ready: str
    """List: the numbers of the messages that wait, oldest first."""
    messages: str
    """Hash: number to stored record (``message.py``)."""
    expiry: str
    """Sorted set: number by the time at which it expires; only messages with a ttl."""
    gets: str
    """Hash: number to how often it was looked at by ``get``; only messages that were."""
    popped: str
    """List: runs of numbers popped lately, which ``delete`` still knows; bounded, expires."""
    nodes: str
    """Hash: node to its consumers, its deadline and its position in the history."""
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
    return QueueKeys(
        record=prefix + "queue",
        ready=prefix + "ready",
        messages=prefix + "messages",
        expiry=prefix + "expiry",
        gets=prefix + "gets",
        popped=prefix + "popped",
        nodes=prefix + "nodes",
        assigned=prefix + "assigned",
        history=prefix + "history",
        taken=f"{prefix}taken:{node}:{flavour}",
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


def message_number(queue: str, key: str) -> int | None:
    """Read the number out of a message's key; None if it is not a key of this queue."""
    name, separator, digits = key.rpartition(":")
    if not separator or name != queue or not digits.isascii() or not digits.isdigit():
        return None
    if digits[0] == "0" or len(digits) > _MAX_NUMBER_DIGITS:  # int() raises at some length
        return None
    number = int(digits)
    return number if number < 2**53 else None
