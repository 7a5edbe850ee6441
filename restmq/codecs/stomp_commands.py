"""What a STOMP client can ask of a server, as values, and what each frame has to say for it."""

import re
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from restmq.codecs.stomp import Frame, StompError, Version, excerpt
from restmq.codecs.stomp_encoder import MESSAGE_HEADERS
from restmq.codecs.stomp_heart_beat import HeartBeatIntervals

AckMode = Literal["auto", "client", "client-individual"]
ACK_MODES: Final[tuple[AckMode, ...]] = get_args(AckMode)

MAX_DESTINATION_BYTES: Final = 255
MAX_ID_BYTES: Final = 255
"""Of the ids that are kept: those of subscriptions and transactions."""

# Each entry is the names of which one must be there with a value.
_COMMON: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "SEND": (("destination",),),
    "BEGIN": (("transaction",),),
    "COMMIT": (("transaction",),),
    "ABORT": (("transaction",),),
    "DISCONNECT": (),
}
REQUIRED_HEADERS: Final[dict[Version, dict[str, tuple[tuple[str, ...], ...]]]] = {
    "1.0": {
        **_COMMON,
        "SUBSCRIBE": (("destination",),),
        "UNSUBSCRIBE": (("id", "destination"),),
        "ACK": (("message-id",),),
    },
    "1.1": {
        **_COMMON,
        "SUBSCRIBE": (("destination",), ("id",)),
        "UNSUBSCRIBE": (("id",),),
        "ACK": (("message-id",), ("subscription",)),
        "NACK": (("message-id",), ("subscription",)),
    },
    "1.2": {
        **_COMMON,
        "SUBSCRIBE": (("destination",), ("id",)),
        "UNSUBSCRIBE": (("id",),),
        "ACK": (("id",),),
        "NACK": (("id",),),
    },
}
"""What a client may send once it is connected, by version, and the headers each needs."""

_CONTROL_CHARACTER: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PREFETCH_COUNT: Final = re.compile(r"[0-9]{1,9}")


@dataclass(slots=True, eq=False)
class Subscription:
    """One subscription of a connection, which the session owns; compared by identity.

    ``subscription_id`` is None only for a 1.0 client that gave none. ``prefetch_count`` is None
    if the client did not ask. ``headers`` are those of the frame, as sent.
    """

    subscription_id: str | None
    destination: str
    ack: AckMode
    prefetch_count: int | None
    headers: dict[str, str]
    unsettled: dict[int, None] = field(default_factory=dict, repr=False)
    """The numbers of the deliveries that wait for an acknowledgement, the oldest first."""


@dataclass(frozen=True, slots=True)
class Connect:
    """The client wants in: check its credentials, then send ``ServerSession.accept()``."""

    version: Version
    host: str | None
    login: str | None
    passcode: str | None = field(repr=False)
    intervals: HeartBeatIntervals


@dataclass(frozen=True, slots=True)
class Send:
    """A message to put; ``headers`` are the user's only. The receipt means that it is stored."""

    destination: str
    body: bytes
    headers: dict[str, str]
    content_type: str | None
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A subscription to start."""

    subscription: Subscription
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """A subscription to end; the ``unsettled`` deliveries go back, the oldest first."""

    subscription: Subscription
    unsettled: tuple[int, ...]
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """Deliveries to acknowledge, the oldest first; none if all were settled before."""

    deliveries: tuple[int, ...]
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Nack:
    """Deliveries to return to the head of their queue, the oldest first; perhaps none."""

    deliveries: tuple[int, ...]
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction was opened."""

    transaction_id: str
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """A SEND, ACK or NACK was kept for its transaction; all to do is to send the receipt.

    That receipt promises nothing: the one of COMMIT does.
    """

    transaction_id: str
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """Do all of these in order, the sends at once or not at all."""

    transaction_id: str
    commands: tuple[Send | Ack | Nack, ...]
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Abort:
    """What a transaction held was dropped; its deliveries are still unsettled."""

    transaction_id: str
    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The client is done: send the receipt if there is one, then close."""

    receipt_id: str | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """The client broke the protocol: send ``error_frame``, then close. ``message`` is for logs."""

    message: str
    error_frame: bytes = field(repr=False)


Command = (
    Connect
    | Send
    | Subscribe
    | Unsubscribe
    | Ack
    | Nack
    | Begin
    | Hold
    | Commit
    | Abort
    | Disconnect
    | Refuse
)


def check_headers(frame: Frame, version: Version) -> None:
    """Check that a connected client may send this frame, and that it has what it needs.

    Raises StompError if the command is not a client's in this version, or a header is missing
    or empty.
    """
    required = REQUIRED_HEADERS[version].get(frame.command)
    if required is None:
        raise StompError(f"{frame.command} is no command of a STOMP {version} client")
    headers = frame.headers
    for names in required:
        if not any(map(headers.get, names)):
            raise StompError(f"{frame.command} needs the header {' or '.join(names)}")


def read_send(headers: dict[str, str], body: bytes) -> Send:
    """Read a checked SEND; whether it belongs to a transaction is up to the session.

    Raises StompError for a destination that no queue can have.
    """
    return Send(
        read_destination(headers),
        body,
        {name: value for name, value in headers.items() if name not in MESSAGE_HEADERS},
        headers.get("content-type"),
        headers.get("receipt"),
    )


def read_subscription(headers: dict[str, str]) -> Subscription:
    """Read a checked SUBSCRIBE.

    Raises StompError for a bad destination, id, ack mode or prefetch-count.
    """
    ack = headers.get("ack", "auto")
    if ack not in ACK_MODES:
        raise StompError(f"ack {excerpt(ack)} is not one of: {', '.join(ACK_MODES)}")
    prefetch_count = headers.get("prefetch-count")
    if prefetch_count is not None and not (
        _PREFETCH_COUNT.fullmatch(prefetch_count) and int(prefetch_count)
    ):
        raise StompError(f"prefetch-count {excerpt(prefetch_count)} is not a number from 1 on")
    return Subscription(
        # No id and an empty one are the same: a 1.0 client that goes by destinations.
        subscription_id=read_kept_id(headers, "id") if headers.get("id") else None,
        destination=read_destination(headers),
        ack=ack,
        prefetch_count=None if prefetch_count is None else int(prefetch_count),
        headers=headers,
    )


def read_destination(headers: dict[str, str]) -> str:
    """Return the destination of a checked frame.

    Raises StompError if it has control characters or over 255 bytes.
    """
    destination = headers["destination"]
    if len(destination.encode()) > MAX_DESTINATION_BYTES:
        raise StompError(f"a destination over {MAX_DESTINATION_BYTES} bytes")
    if not destination.isprintable() and _CONTROL_CHARACTER.search(destination):
        raise StompError("a destination with control characters")
    return destination


def read_kept_id(headers: dict[str, str], name: str) -> str:
    """Return the id in this header; raises StompError if it has over 255 bytes."""
    value = headers[name]
    if len(value.encode()) > MAX_ID_BYTES:
        raise StompError(f"the {name} is over {MAX_ID_BYTES} bytes")
    return value
