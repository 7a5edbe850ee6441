"""What queues and messages look like at one moment, as the scripts tell it."""

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

from restmq.broker.message import Message


class Policy(enum.IntEnum):
    """How streaming consumers share a queue; the values are the classic protocol's."""

    BROADCAST = 1
    ROUNDROBIN = 2


class QueueStats(NamedTuple):
    """What a queue looks like at one moment."""

    name: str
    length: int
    """Messages that are ready, expired ones not counted."""
    started: bool
    """False while delivery to streams is paused."""
    policy: Policy | None
    """None if it was never set, which means broadcast."""
    consumers: int
    """Streaming consumers on all nodes."""
    delayed: int = 0
    leased: int = 0
    dead: int = 0
    oldest_age_seconds: float | None = None
    """How long ago the oldest ready message was published; None if none is ready."""
    rate_in: float = 0.0
    """Messages that came, a second, lately."""
    rate_out: float = 0.0
    """Messages that were taken, acked or sent, a second, lately."""
    expired_leases: int = 0
    """Leases that ran out, since the queue was made."""
    died: int = 0
    """Messages that became dead letters, since the queue was made."""


class MessageState(NamedTuple):
    """One message, wherever it is."""

    message: Message
    state: str
    """``ready``, ``delayed``, ``leased`` or ``dead``."""
    attempts: int
    """How often it was leased."""
    last_error: str | None
    """Why it last came back."""
    since_or_until: float | None
    """When the lease or the delay ends, or when it died; None while it is ready."""


def read_stats(queue: str, reply: Sequence[Any]) -> QueueStats:
    """Read the reply of stats.lua."""
    ready, status, policy, consumers, delayed, leased, dead, oldest, *rest = reply
    rate_in, rate_out, expired_leases, died = rest
    return QueueStats(
        name=queue,
        length=ready,
        started=status != b"0",
        policy=Policy(int(policy)) if policy else None,
        consumers=consumers,
        delayed=delayed,
        leased=leased,
        dead=dead,
        oldest_age_seconds=float(oldest) if oldest else None,
        rate_in=float(rate_in),
        rate_out=float(rate_out),
        expired_leases=expired_leases,
        died=died,
    )


def read_state(number: int, reply: Sequence[Any]) -> MessageState:
    """Read the reply of inspect.lua, which must not be empty."""
    state, record, attempts, reason, at = reply
    return MessageState(
        message=Message(number, record),
        state=state.decode(),
        attempts=attempts,
        last_error=reason.decode() or None,
        since_or_until=float(at) if at else None,
    )
