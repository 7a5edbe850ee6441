"""What becomes of leases, by their receipts: acknowledged, given back, extended, or dead letters.

Acknowledgements that are made at the same time share requests: while one is under way the next
gather, so that a hundred handlers do not need a hundred requests.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from restmq.client.connection import Connection
from restmq.errors import RestMQError, StaleReceipt
from restmq.http_client import Answer, decimal, error_class, one_line
from restmq.http_leases import (
    ACKED_PER_REQUEST,
    FORM,
    MAX_RECEIPTS_CHARACTERS,
    form_body,
    lease_path,
)

Item = TypeVar("Item")

StillHeld = Callable[[], Awaitable[bool]]
"""Whether a lease cannot have run out yet, so that only its holder can have settled it."""


@dataclass(eq=False)
class _Ack:
    receipt: str
    is_held: StillHeld
    outcome: "asyncio.Future[None]"
    is_in_doubt: bool = False
    """Whether an earlier request, whose answer was lost, may have settled it."""


class Settler:
    """Settles leases.

    Every method may raise Unavailable and AccessDenied, and StaleReceipt if the lease has run out
    or was settled. When an answer got lost and the repeated request finds the receipt stale, it
    was the first one that settled it if the lease cannot have run out, and all is well.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._acks: list[_Ack] = []
        self._turn = asyncio.Lock()

    async def ack(self, receipt: str, is_held: StillHeld) -> None:
        """Acknowledge: the message is done."""
        ack = _Ack(receipt, is_held, asyncio.get_running_loop().create_future())
        self._acks.append(ack)
        try:
            async with self._turn:
                # Whose turn it is sends for all; those who find theirs done have nothing to do.
                while not ack.outcome.done():
                    await self._send_acks()
        finally:
            if ack in self._acks:  # cancelled before its turn
                self._acks.remove(ack)
            ack.outcome.cancel()
        ack.outcome.result()

    async def _send_acks(self) -> None:
        batch = next(batches_of(self._acks, lambda ack: ack.receipt))
        del self._acks[: len(batch)]
        try:
            try:
                outcomes = await self._ack_all(batch)
            except RestMQError as error:
                outcomes = [error] * len(batch)
            for ack, outcome in zip(batch, outcomes, strict=True):
                await _resolve(ack, outcome)
        except BaseException:  # only the one whose turn it is was cancelled; the others go on
            unresolved = [ack for ack in batch if not ack.outcome.done()]
            _doubt(unresolved)
            self._acks[:0] = unresolved
            raise

    async def _ack_all(self, batch: Sequence[_Ack]) -> list[RestMQError | None]:
        receipts = [ack.receipt for ack in batch]
        try:
            answer = await self._connection.request(
                "DELETE", lease_path(*receipts), in_doubt=lambda: _doubt(batch)
            )
        except StaleReceipt as error:  # of a single one; in a list each has its own
            return [error]
        return _outcomes(answer, len(batch))

    async def extend(self, receipts: Sequence[str], seconds: float) -> list[RestMQError | None]:
        """Let each lease run for so long from now; tells of each what was wrong, if anything.

        At most as many receipts as ``batches_of`` puts together.
        """
        return await self._post_all(receipts, {"extend": decimal(seconds)}, max(seconds / 3, 1.0))

    async def release_all(
        self, receipts: Sequence[str], *, keeps_attempt: bool
    ) -> list[RestMQError | None]:
        """Give messages back at once; tells of each what was wrong. As many as in ``extend``."""
        fields = {"release": "0", **({"attempt": "keep"} if keeps_attempt else {})}
        return await self._post_all(receipts, fields, None)

    async def _post_all(
        self, receipts: Sequence[str], fields: Mapping[str, str], timeout_seconds: float | None
    ) -> list[RestMQError | None]:
        try:
            answer = await self._connection.request(
                "POST",
                lease_path(*receipts),
                body=form_body(fields),
                headers={"Content-Type": FORM},
                timeout_seconds=timeout_seconds,
            )
        except StaleReceipt as error:  # of a single one; in a list each has its own
            return [error]
        return _outcomes(answer, len(receipts))

    async def release(self, receipt: str, delay: float, is_held: StillHeld) -> None:
        """Give the message back, to be ready in ``delay`` seconds."""
        await self._settle(receipt, {"release": decimal(delay)}, is_held)

    async def bury(self, receipt: str, reason: str, is_held: StillHeld) -> None:
        """Put the message with the dead letters."""
        await self._settle(receipt, {"dead": reason}, is_held)

    async def _settle(self, receipt: str, fields: Mapping[str, str], is_held: StillHeld) -> None:
        is_in_doubt = False

        def doubt() -> None:
            nonlocal is_in_doubt
            is_in_doubt = True

        try:
            await self._connection.request(
                "POST",
                lease_path(receipt),
                body=form_body(fields),
                headers={"Content-Type": FORM},
                in_doubt=doubt,
            )
        except StaleReceipt as error:
            if not (is_in_doubt and await _is_ours(error, is_held)):
                raise


def batches_of(items: Sequence[Item], receipt_of: Callable[[Item], str]) -> Iterator[list[Item]]:
    """Split into what one request can name, in their order."""
    batch: list[Item] = []
    size = 0
    for item in items:
        length = len(receipt_of(item)) + 1
        if batch and (len(batch) >= ACKED_PER_REQUEST or size + length > MAX_RECEIPTS_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


async def _resolve(ack: _Ack, outcome: RestMQError | None) -> None:
    if outcome is not None and ack.is_in_doubt:
        try:
            if await _is_ours(outcome, ack.is_held):
                outcome = None
        except RestMQError as error:  # who cannot tell has told its owner why
            outcome = error
    if ack.outcome.done():  # its owner was cancelled
        return
    if outcome is None:
        ack.outcome.set_result(None)
    else:
        ack.outcome.set_exception(outcome)
        ack.outcome.exception()  # its owner may be cancelled before it looks


def _doubt(acks: Sequence[_Ack]) -> None:
    for ack in acks:
        ack.is_in_doubt = True


async def _is_ours(error: RestMQError, is_held: StillHeld) -> bool:
    return isinstance(error, StaleReceipt) and await is_held()


def _outcomes(answer: Answer, count: int) -> list[RestMQError | None]:
    entries = [answer.json_object()] if count == 1 else answer.json_array()
    if len(entries) != count:
        raise RestMQError(f"{answer.url} did not answer for each receipt")
    return [_outcome(entry) for entry in entries]


def _outcome(entry: Mapping[str, object]) -> RestMQError | None:
    code = entry.get("error")
    if code is None:
        return None
    return error_class(str(code))(one_line(str(entry.get("message") or code)))
