"""Receipts: the names of deliveries, as clients hold them.

A receipt is ``<number>.<token>.<queue>``, with the queue's name in URL-safe base64: a word that
needs no escaping in a path. Clients must not read it; it is spelt and read only here.
"""

import base64
import binascii
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
    name = base64.urlsafe_b64encode(queue.encode()).rstrip(b"=").decode()
    return f"{message.number}.{message.token}.{name}"


def read_receipt(text: str) -> Receipt:
    """Read a receipt; raises ``InvalidInput`` for what none can be."""
    match = _FORM.fullmatch(text)
    if match is not None:
        number, token, name = match.groups()
        try:
            queue = base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
            return Receipt(check_queue_name(queue), int(number), token)
        except (binascii.Error, UnicodeDecodeError):
            pass  # told below, as everything that is no receipt
    raise InvalidInput("this is no receipt; use the one that came with the leased message")
