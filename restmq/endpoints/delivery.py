"""What the endpoints of reliable delivery share: how leases are settled, and a message's story.

They follow the specification of delivery, sections 1 and 2.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from restmq.broker.broker import Broker
from restmq.broker.keys import message_key
from restmq.broker.limits import (
    LATEST_SECONDS,
    MAX_DELAY_SECONDS,
    MAX_LEASE_SECONDS,
    MAX_TTL_SECONDS,
    MAX_WAIT_SECONDS,
)
from restmq.broker.message import MAX_PRIORITY, LeasedMessage, Message
from restmq.broker.publishing import PublishOptions
from restmq.broker.receipts import Receipt, read_receipt, write_receipt
from restmq.endpoints.parameters import parameters_of, query_parameters, sole_query
from restmq.endpoints.web import Parameters, Reply, Request, message_fields, wants
from restmq.errors import InvalidInput

Fields = dict[str, object]

MAX_COUNT = 1000
"""Messages that one request may take, lease or list."""

MAX_BATCH_MESSAGES = 10_000
"""Messages that one request may publish."""

NDJSON = "application/x-ndjson"
BYTES = "application/octet-stream"

_CACHED_QUERY_CHARACTERS = 200
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_.:/-]+")


def read_publish_options(parameters: Parameters) -> PublishOptions:
    """Read ``ttl``, ``delay``, ``at``, ``priority`` and ``id``; raises InvalidInput, naming it."""
    options: PublishOptions = {}
    ttl_seconds = parameters.integer(b"ttl", 1, MAX_TTL_SECONDS)
    if ttl_seconds is not None:
        options["ttl_seconds"] = ttl_seconds
    delay_seconds = parameters.number(b"delay", 0, MAX_DELAY_SECONDS)
    if delay_seconds is not None:
        options["delay_seconds"] = delay_seconds
    at = parameters.number(b"at", 0, LATEST_SECONDS)
    if at is not None:
        options["at"] = at
    priority = parameters.integer(b"priority", 0, MAX_PRIORITY)
    if priority is not None:
        options["priority"] = priority
    idempotency_key = parameters.text(b"id")
    if idempotency_key is not None:
        options["idempotency_key"] = idempotency_key
    return options


def is_batch(request: Request) -> bool:
    """Return whether the body holds a message per line."""
    return request.content_type == NDJSON


def read_batch(body: bytes) -> list[bytes]:
    r"""Return the messages of a batch, one a line.

    A line ends in ``\n`` or ``\r\n``, which the last one may lack, and is the message verbatim;
    lines of nothing but white space are skipped. Raises InvalidInput if no message is left, or
    more than ``MAX_BATCH_MESSAGES``, or with them more than as many blank lines.
    """
    if body.count(b"\n") <= 2 * MAX_BATCH_MESSAGES:
        lines = body.split(b"\n")
        # A lone \r inside of a line is part of the message.
        values = [line.removesuffix(b"\r") for line in lines if line and not line.isspace()]
        if not values:
            raise InvalidInput("there is no message in the batch")
        if len(values) <= MAX_BATCH_MESSAGES:
            return values
    raise InvalidInput(f"a batch may have at most {MAX_BATCH_MESSAGES} messages, one a line")


@dataclass(frozen=True, slots=True)
class TakeOptions:
    """How a consumer wants to get messages."""

    callback: str | None = None
    peek_count: int | None = None
    """Look at so many without taking them; then the rest says nothing."""
    count: int | None = None
    """Up to so many, as a list; None for a single message."""
    wait_seconds: float = 0
    is_lease: bool = False
    lease_seconds: float | None = None
    """None: as the queue's settings say."""

    @property
    def is_quick(self) -> bool:
        """Return whether it is a single message, now."""
        return self.count is None and self.peek_count is None and not self.wait_seconds


TAKE_ONE = TakeOptions()


def read_take_options(parameters: Parameters) -> TakeOptions:
    """Read ``count``, ``wait``, ``lease`` and ``peek``; raises InvalidInput, naming it.

    A ``lease`` that names no time lasts as long as the queue's settings say.
    """
    options = TakeOptions(
        callback=parameters.callback(),
        peek_count=parameters.integer(b"peek", 1, MAX_COUNT),
        count=parameters.integer(b"count", 1, MAX_COUNT),
        wait_seconds=parameters.number(b"wait", 0, MAX_WAIT_SECONDS) or 0,
        is_lease=parameters.names(b"lease"),
        lease_seconds=parameters.number(b"lease", 1, MAX_LEASE_SECONDS),
    )
    if options.peek_count is not None and (options.is_lease or options.count):
        raise InvalidInput("peek goes without lease and count")
    return options


def take_options(request: Request) -> TakeOptions:
    """Read how the consumer wants to get messages, as ``read_take_options`` does.

    Consumers say the same again and again, so short query strings are read once.
    """
    query = sole_query(request)
    if query is None or len(query) > _CACHED_QUERY_CHARACTERS:
        return read_take_options(query_parameters(request))
    return _cached_take_options(query) if query else TAKE_ONE


@functools.lru_cache(maxsize=1024)
def _cached_take_options(query: str) -> TakeOptions:
    return read_take_options(parameters_of(query))


def wants_value_alone(request: Request) -> bool:
    """Return whether the body of the reply shall be the value and nothing else."""
    return wants(request, BYTES)


def value_reply(queue: str, message: Message) -> Reply:
    """Reply with a value as it was published; header lines tell the rest.

    The key is percent-encoded as in a path.
    """
    content_type = message.attributes.content_type
    if content_type is None or not (content_type.isascii() and content_type.isprintable()):
        content_type = BYTES  # other protocols may have let through what cannot stand here
    key = message_key(queue, message.number)
    headers = [
        # What one client stores must not run as a page of this server at another's.
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "sandbox"),
        ("X-RestMQ-Key", key if _PLAIN_PATH.fullmatch(key) else quote(key, safe="/:")),
    ]
    if isinstance(message, LeasedMessage):
        headers += [
            ("X-RestMQ-Attempt", str(message.attempt)),
            ("X-RestMQ-Receipt", write_receipt(queue, message)),
            ("X-RestMQ-Expires", str(message.lease_expires)),
        ]
    return Reply(message.value, content_type=content_type, headers=headers)


async def acknowledge(broker: Broker, receipt: str) -> Fields:
    """Settle a delivery. Raises InvalidInput for what is no receipt, StaleReceipt, Unavailable."""
    delivery = read_receipt(receipt)
    await broker.ack(delivery)
    return acked_fields(delivery)


def acked_fields(delivery: Receipt) -> Fields:
    """Return what says that a message is done."""
    return {"key": _key(delivery), "acked": True}


async def extend(broker: Broker, receipt: str, seconds: float) -> Fields:
    """Let a lease run for so many seconds from now; raises as ``acknowledge``."""
    delivery = read_receipt(receipt)
    return {"key": _key(delivery), "expires": await broker.extend(delivery, seconds)}


async def release(
    broker: Broker, receipt: str, delay_seconds: float, *, keep_attempt: bool = False
) -> Fields:
    """Give a leased message back, at once or after a delay; raises as ``acknowledge``."""
    delivery = read_receipt(receipt)
    await broker.release(delivery, delay_seconds, keep_attempt=keep_attempt)
    return {"key": _key(delivery), "released": True}


async def bury(broker: Broker, receipt: str, reason: str) -> Fields:
    """Move a leased message to the dead letters; raises as ``acknowledge``."""
    delivery = read_receipt(receipt)
    await broker.bury(delivery, reason)
    return {"key": _key(delivery), "buried": True}


def _key(delivery: Receipt) -> str:
    return message_key(delivery.queue, delivery.number)


def list_fields(
    queue: str, messages: Sequence[Message], count: int | None = None
) -> list[dict[str, object]]:
    """Return messages as a JSON array carries them."""
    return [message_fields(queue, message, count) for message in messages]


def story_fields(queue: str, message: Message) -> Fields:
    """Return a message with what its publisher said about it; ``expires`` ends its ttl."""
    fields = message_fields(queue, message)
    fields["published"] = message.published
    fields["expires"] = message.expires
    fields["priority"] = message.priority
    fields["content_type"] = message.attributes.content_type
    return fields
