"""What the engine accepts: ranges of numbers that callers give."""

from restmq.errors import InvalidInput

MAX_TTL_SECONDS = 10 * 366 * 86400
MAX_DELAY_SECONDS = MAX_TTL_SECONDS
MAX_LEASE_SECONDS = 43_200
MAX_ID_CHARACTERS = 128
MAX_PREFETCH = 1000
"""Unsettled messages that one leased consumer may hold."""

MAX_WAIT_SECONDS = 60
"""How long one request may wait for something to come."""

LATEST_SECONDS = 10**11
"""The latest time, in seconds since the epoch, for which a message can be scheduled."""


def check_number(name: str, value: float, minimum: float, maximum: float) -> None:
    """Raise ``InvalidInput``, naming ``name``, unless the value lies in the range."""
    if not minimum <= value <= maximum:
        raise InvalidInput(f"{name} must be a number from {minimum} to {maximum}")
