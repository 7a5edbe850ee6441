"""Receipts: the names of deliveries, as clients hold them.

A receipt is ``<number>.<token>.<queue>``, with the queue's name in URL-safe base64: a word that
needs no escaping in a path. Clients must not read it; it is spelt and read only here.
"""

import base64
import binascii
import functools
import re
from typing import NamedTuple

from restmq.broker.keys import check_queue_name
from restmq.broker.message import LeasedMessage
from restmq.errors import InvalidInput

_FORM = re.compile(r"([1-9][0-9]{0,15})\.([0-9a-f]{16})\.([A-Za-z0-9_-]{2,1400})")


class Receipt(NamedTuple):
    """One delivery of one message."""

    queue: str
    number: int
    token: str


def write_receipt(queue: str, message: LeasedMessage) -> str:
    """Spell the receipt of a delivery."""
    return f"{message.number}.{message.token}.{_write_name(queue)}"


def read_receipt(text: str) -> Receipt:
    """Read a receipt; raises ``InvalidInput`` for what none can be."""
    match = _FORM.fullmatch(text)
    if match is not None:
        number, token, name = match.groups()
        queue = _read_name(name)
        if queue is not None:
            return Receipt(queue, int(number), token)
    raise InvalidInput("this is no receipt; use the one that came with the leased message")


@functools.lru_cache(maxsize=1024)
def _write_name(queue: str) -> str:
    return base64.urlsafe_b64encode(queue.encode()).rstrip(b"=").decode()


@functools.lru_cache(maxsize=1024)
def _read_name(name: str) -> str | None:
    """Return the queue's name; None if it cannot be one, and raises ``InvalidInput`` as well."""
    try:
        return check_queue_name(base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode())
    except (binascii.Error, UnicodeDecodeError):
        return None
