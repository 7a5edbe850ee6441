"""``/lease/R``: what becomes of leased messages, by their receipts.

They follow the specification of delivery, section 2.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.limits import MAX_DELAY_SECONDS, MAX_LEASE_SECONDS
from restmq.broker.receipts import read_receipt
from restmq.endpoints.delivery import (
    Fields,
    acked_fields,
    acknowledge,
    bury,
    extend,
    release,
)
from restmq.endpoints.router import Pending, Route
from restmq.endpoints.web import (
    Parameters,
    Reply,
    Request,
    error_fields,
    json_reply,
    query_parameters,
    read_parameters,
)
from restmq.errors import InvalidInput, RestMQError, Unavailable

MAX_RECEIPTS = 1000
"""Receipts that one request may name."""

Settle = Callable[[str], Awaitable[Fields]]

CONSUMER = (Section.CONSUMER,)


class LeaseEndpoint:
    """Leases as REST resources."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [
            Route(
                "DELETE",
                "lease",
                CONSUMER,
                self.delete_lease,
                changes=True,
                begin=self.begin_delete,
            ),
            Route("POST", "lease", CONSUMER, self.post_lease, changes=True),
        ]

    async def delete_lease(self, request: Request, receipts: str) -> web.StreamResponse:
        """``DELETE /lease/R``: the message is done; or several, comma-separated."""
        callback = query_parameters(request).callback()
        return await _settle(receipts, lambda one: acknowledge(self._broker, one), callback)

    def begin_delete(self, request: Request, receipt: str) -> Pending | None:
        """Begin ``delete_lease``, if it is about a single one."""
        if "," in receipt or "?" in request.raw_path:
            return None
        broker, read = self._broker, read_receipt(receipt)
        if not broker.knows(read.queue):
            return None

        def finish(outcome: object) -> Reply:
            broker.conclude(read, outcome)
            return json_reply(acked_fields(read), end=b"\r\n")

        return Pending(broker.begin_ack(read), finish)

    async def post_lease(self, request: Request, receipts: str) -> web.StreamResponse:
        """``POST /lease/R`` with ``extend=``, ``release=`` (and ``attempt=keep``) or ``dead=``."""
        parameters, _ = await read_parameters(request)
        return await _settle(receipts, self._read_verb(parameters), parameters.callback())

    def _read_verb(self, parameters: Parameters) -> Settle:
        broker = self._broker
        extend_seconds = parameters.number(b"extend", 1, MAX_LEASE_SECONDS)
        delay_seconds = parameters.number(b"release", 0, MAX_DELAY_SECONDS)
        reason = parameters.text(b"dead")
        attempt = parameters.text(b"attempt")
        if [extend_seconds, delay_seconds, reason].count(None) != 2:
            raise InvalidInput(
                "say one of extend=<seconds>, release=<delay in seconds> and dead=<reason>"
            )
        if attempt is not None and (attempt != "keep" or delay_seconds is None):
            raise InvalidInput("attempt can only be keep, and goes with release=0")
        if extend_seconds is not None:
            return lambda one: extend(broker, one, extend_seconds)
        if reason is not None:
            return lambda one: bury(broker, one, reason)
        assert delay_seconds is not None
        keep_attempt = attempt is not None
        return lambda one: release(broker, one, delay_seconds, keep_attempt=keep_attempt)


async def _settle(receipts: str, settle: Settle, callback: str | None) -> Reply:
    """Settle one lease, or several: then each has its own outcome in a list."""
    if "," not in receipts:
        return json_reply(await settle(receipts), callback, end=b"\r\n")
    names = receipts.split(",")
    if len(names) > MAX_RECEIPTS:
        raise InvalidInput(f"one request may settle at most {MAX_RECEIPTS} leases")
    outcomes = await asyncio.gather(*(_try(settle, name) for name in names))
    if all(isinstance(outcome, Unavailable) for outcome in outcomes):
        raise outcomes[0]  # type: ignore[misc]  # as all() has seen
    listed = [
        {"receipt": name, **error_fields(outcome)} if isinstance(outcome, RestMQError) else outcome
        for name, outcome in zip(names, outcomes, strict=True)
    ]
    return json_reply(listed, callback, end=b"\r\n")


async def _try(settle: Settle, receipt: str) -> Fields | RestMQError:
    try:
        return await settle(receipt)
    except RestMQError as error:
        return error
