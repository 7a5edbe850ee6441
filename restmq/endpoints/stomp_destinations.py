"""STOMP destinations: what a client calls things, and what they are called here.

``/queue/NAME`` is the queue ``NAME`` of every endpoint, ``/topic/NAME`` a topic, and any other
destination is the queue of that name without a leading slash. ``/temp-queue/NAME`` is private to
the connection that names it: only that may subscribe to it. In ``reply-to`` it becomes
``/temp-queue/<session>/NAME``, to which anyone may send who was told. A name that ends in ``.>``
is a wildcard, for subscriptions only.
"""

import enum
import re
from typing import NamedTuple

from restmq.broker.topics import WILDCARD
from restmq.errors import InvalidInput

_QUEUE, _TOPIC, _TEMPORARY = "/queue/", "/topic/", "/temp-queue/"
_SESSION = re.compile(r"[0-9a-f]{32}")


class Kind(enum.Enum):
    """What is behind a destination."""

    QUEUE = "queue"
    TOPIC = "topic"
    TEMPORARY = "temp-queue"
    """A topic with at most one subscriber: nothing of it is stored."""


class Destination(NamedTuple):
    """A destination as the broker knows it; ``spelling`` is how the client starts its name."""

    kind: Kind
    name: str
    spelling: str

    @property
    def is_wildcard(self) -> bool:
        """Return whether it stands for all names that go on after the dot."""
        return self.kind is not Kind.TEMPORARY and self.name.endswith(WILDCARD)

    def spell(self, name: str) -> str:
        """Spell a name that a subscription to this destination gets messages of."""
        return self.spelling + name


def for_sending(text: str, session_id: str) -> Destination:
    """Read the destination of a SEND; raises InvalidInput for what none can go to."""
    destination = _read(text, session_id)
    if destination.is_wildcard:
        raise InvalidInput(f"nothing can be sent to the wildcard {text!r}")
    return destination


def for_subscribing(text: str, session_id: str) -> Destination:
    """Read the destination of a SUBSCRIBE; raises InvalidInput, also for another's private one."""
    destination = _read(text, session_id)
    if destination.kind is Kind.TEMPORARY and not destination.name.startswith(f"{session_id}/"):
        raise InvalidInput(f"{text!r} is private to another connection")
    return destination


def public_reply_to(text: str, session_id: str) -> str:
    """Spell a ``reply-to`` so that it means the same to every other connection."""
    if not text.startswith(_TEMPORARY):
        return text
    return _TEMPORARY + _read(text, session_id).name


def _read(text: str, session_id: str) -> Destination:
    if text.startswith(_TOPIC):
        destination = Destination(Kind.TOPIC, text[len(_TOPIC) :], _TOPIC)
    elif text.startswith(_TEMPORARY):
        return _read_temporary(text, session_id)
    elif text.startswith(_QUEUE):
        destination = Destination(Kind.QUEUE, text[len(_QUEUE) :], _QUEUE)
    else:
        spelling = "/" if text.startswith("/") else ""
        destination = Destination(Kind.QUEUE, text[len(spelling) :], spelling)
    if not destination.name or destination.name == WILDCARD:
        raise InvalidInput(f"the destination {text!r} has no name")
    return destination


def _read_temporary(text: str, session_id: str) -> Destination:
    name = text[len(_TEMPORARY) :]
    session, slash, rest = name.partition("/")
    if slash and _SESSION.fullmatch(session) and rest:
        return Destination(Kind.TEMPORARY, name, _TEMPORARY)
    if slash or not name:
        raise InvalidInput(f"{text!r} must be {_TEMPORARY} and a name without a slash")
    return Destination(Kind.TEMPORARY, f"{session_id}/{name}", _TEMPORARY)
