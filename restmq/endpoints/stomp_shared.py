"""What the STOMP connections of a node have in common."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from restmq.broker.holders import Holder
from restmq.broker.messaging import Messaging
from restmq.codecs.stomp import FrameLimits
from restmq.codecs.stomp_commands import Ack, Nack, Send
from restmq.codecs.stomp_session import ServerSession
from restmq.endpoints.stomp_access import StompAccess
from restmq.endpoints.stomp_answers import Answers
from restmq.endpoints.stomp_destinations import Destination
from restmq.endpoints.stomp_wheel import Wheel
from restmq.errors import RestMQError
from restmq.settings import Settings


class Prepared(NamedTuple):
    """A message that was checked: where it goes, and what it is when it is packed."""

    destination: Destination
    packed: bytes


class Client(Holder):
    """A connection as its subscriptions and transactions see it."""

    __slots__ = ("answers", "session")

    answers: Answers
    session: ServerSession

    @abstractmethod
    def prepare(self, command: Send) -> Prepared:
        """Check a message and pack it; raises RestMQError if it cannot be sent."""

    @abstractmethod
    def put(
        self, destination: Destination, packed: bytes, idempotency_key: str | None
    ) -> asyncio.Future[Any]:
        """Begin to send one message; raises RestMQError."""

    @abstractmethod
    def settle(self, command: Ack | Nack) -> list[asyncio.Future[Any]]:
        """Begin to settle what an ACK or NACK covers."""

    @abstractmethod
    def hold_back(self) -> None:
        """Begin nothing more until ``go_on``."""

    @abstractmethod
    def go_on(self) -> None:
        """Begin what came meanwhile."""

    @abstractmethod
    def write_topic(self, data: bytes) -> None:
        """Send a message of a topic, unless the client has too much unread: then cut it off."""

    @property
    @abstractmethod
    def log_fields(self) -> dict[str, Mapping[str, object]]:
        """Return what a log line about it takes as ``extra``."""

    @abstractmethod
    def refuse(self, message: str, detail: str = "", receipt_id: str | None = None) -> None:
        """Send an ERROR and close."""

    @abstractmethod
    def fail(self, error: RestMQError, receipt_id: str | None) -> None:
        """Refuse what the client asked for, once all before it is answered, and close."""


@dataclass(slots=True)
class Shared:
    """What a connection needs of its node."""

    messaging: Messaging
    access: StompAccess
    settings: Settings
    wheel: Wheel
    frame_limits: FrameLimits
    spawn: Callable[[Coroutine[Any, Any, None], Client], asyncio.Task[None]]
    """Runs for a client what cannot be a callback; somebody waits for it at the end."""
    forget: Callable[[Client], None]
