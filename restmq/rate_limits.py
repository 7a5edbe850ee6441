"""How many requests one client address may make: a token bucket for each, in a bounded table."""

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from restmq.access_rules import canonical_address
from restmq.errors import RateLimited
from restmq.settings import Settings

MAX_ADDRESSES: Final = 65_536
"""So many addresses are remembered; of more, those that were idle for longest are forgotten."""

_MAX_NAME_CHARACTERS: Final = 64
_LONGEST_SECONDS: Final = 1e9
"""How long a token may take: numbers beyond it would be told as nonsense."""

_ROUNDING_SECONDS: Final = 1e-9
"""How much adding up fractions of seconds may be wrong."""


def client_of(address: str) -> str:
    """Return who counts as one client: an IPv4 address, or a /64 of IPv6.

    Whoever has one IPv6 address has as a rule all of its /64, so that single ones limit nobody.
    """
    if ":" not in address:
        return address[:_MAX_NAME_CHARACTERS]
    spelt = canonical_address(address)
    try:
        parsed = ipaddress.IPv6Address(spelt)
    except ValueError:  # a mapped IPv4 address, or what a proxy said and is none
        return spelt[:_MAX_NAME_CHARACTERS]
    return f"{int(parsed) >> 64:x}::/64"


class RateLimits:
    """The buckets of one process.

    ``rate`` is how many tokens a second flow into each, and ``burst`` how many it holds. ``clock``
    gives seconds, which only grow.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        assert rate > 0
        self._seconds_each = min(1 / rate, _LONGEST_SECONDS)
        self._burst_seconds = self._seconds_each * (max(burst, 1) - 1)
        self._clock = clock
        # A bucket is one number: when it will be full again. The one that was used last is last.
        self._full_at: OrderedDict[str, float] = OrderedDict()

    @classmethod
    def of(cls, settings: Settings) -> "RateLimits | None":
        """Return the limits that the settings ask for; None if there is none."""
        rate = settings.rate_limit
        if not rate:
            return None
        return cls(rate, settings.rate_burst or math.ceil(rate))

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, address: str) -> None:
        """Take a token from the bucket of an address; raises RateLimited if it is empty."""
        client, now = client_of(address), self._clock()
        table = self._full_at
        full_at = max(table.get(client, now), now)
        wait_seconds = full_at - now - self._burst_seconds
        # A refusal takes nothing, and so puts nobody off for longer than the text says.
        is_refused = wait_seconds > _ROUNDING_SECONDS
        table[client] = full_at if is_refused else full_at + self._seconds_each
        table.move_to_end(client)
        if is_refused:
            seconds = math.ceil(wait_seconds - _ROUNDING_SECONDS / 2)
            error = RateLimited(f"too many requests; ask again in {seconds} s")
            error.retry_after_seconds = seconds
            raise error
        if len(table) > MAX_ADDRESSES:
            table.popitem(last=False)
