"""What a worker holds: what is begun, and when the server is asked before."""

import time
from dataclasses import dataclass, field

import pytest

from restmq.cli.held import Delivery, HeldLeases
from restmq.errors import RestMQError, StaleReceipt, Unavailable
from restmq.http_client import HttpClient, parse_address
from restmq.http_leases import Settler

LEASE_SECONDS = 600.0


@dataclass(frozen=True)
class ClockedSettler(Settler):
    """Extends leases by a clock that is ahead, and knows some of them no more."""

    ahead_seconds: float = 0
    failures: dict[str, RestMQError] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def extend(self, receipt: str, seconds: float) -> float:
        """Tell the new end of the lease."""
        self.asked.append(receipt)
        if receipt in self.failures:
            raise self.failures[receipt]
        return time.time() + self.ahead_seconds + seconds

    def leased(self, receipt: str, left_seconds: float = LEASE_SECONDS) -> Delivery:
        """A message that this server leases."""
        expires = time.time() + self.ahead_seconds + left_seconds
        return Delivery({"key": "q:" + receipt, "receipt": receipt, "expires": expires}, 1)


def clocked(
    ahead_seconds: float = 0, failures: dict[str, RestMQError] | None = None
) -> ClockedSettler:
    client = HttpClient(parse_address("http://127.0.0.1:1"))
    return ClockedSettler(client, ahead_seconds, failures or {})


def held(prefetch: int = 10) -> HeldLeases:
    return HeldLeases(prefetch, lambda: 1)


def begun(leases: HeldLeases, settler: Settler) -> str:
    delivery = leases.begin(settler)
    assert delivery is not None
    return delivery.receipt


@pytest.mark.parametrize("ahead_seconds", [0, 86_400, -200])
def test_a_fresh_lease_needs_no_question(ahead_seconds: float) -> None:
    settler, leases = clocked(ahead_seconds), held()
    leases.put(settler.leased("1"), LEASE_SECONDS)
    assert begun(leases, settler) == "1"
    assert settler.asked == []


def test_a_server_whose_clock_is_behind_is_asked_once() -> None:
    settler, leases = clocked(-86_400), held()
    for receipt in ("1", "2", "3"):
        leases.put(settler.leased(receipt), LEASE_SECONDS)
        assert begun(leases, settler) == receipt
    assert settler.asked == ["1"]


@pytest.mark.parametrize("failure", [StaleReceipt("it ended"), Unavailable("it is away")])
def test_what_came_late_is_begun_only_when_the_server_says_so(failure: RestMQError) -> None:
    settler, leases = clocked(failures={"2": failure}), held()
    leases.put(settler.leased("1", left_seconds=-1), LEASE_SECONDS)
    leases.put(settler.leased("2", left_seconds=-1), LEASE_SECONDS)
    leases.put(settler.leased("3"), LEASE_SECONDS)
    assert [begun(leases, settler) for _ in range(2)] == ["1", "3"]
    assert settler.asked == ["1", "2"]


def test_more_than_was_asked_for_is_refused_unless_a_lease_may_have_ended() -> None:
    settler, leases = clocked(), held(prefetch=2)
    leases.put(settler.leased("1"), LEASE_SECONDS)
    leases.put(settler.leased("2", left_seconds=-1), LEASE_SECONDS)
    leases.put(settler.leased("3"), LEASE_SECONDS)
    with pytest.raises(RestMQError, match="more messages than were asked for"):
        leases.put(settler.leased("4"), LEASE_SECONDS)
    assert [begun(leases, settler) for _ in range(2)] == ["1", "3"]


def test_nothing_is_begun_that_came_over_a_former_connection() -> None:
    connections = [1]
    settler, leases = clocked(), HeldLeases(10, lambda: connections[-1])
    leases.put(settler.leased("1"), LEASE_SECONDS)
    connections.append(2)
    leases.put(Delivery({"key": "q:1", "receipt": "again"}, 2), LEASE_SECONDS)
    assert begun(leases, settler) == "again"
    leases.begin_no_more()
    assert leases.begin(settler) is None
