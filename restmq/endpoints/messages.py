"""Single messages by their keys, ``/m/Q:7``, and the dead letters of a queue, ``/dead/Q``.

They follow the specification of delivery, section 2.
"""

from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.dead_letters import DeadLetter
from restmq.broker.keys import check_queue_name, message_key, message_number
from restmq.broker.limits import LATEST_SECONDS, MAX_DELAY_SECONDS
from restmq.broker.message import MAX_PRIORITY
from restmq.endpoints.delivery import MAX_COUNT, Fields, story_fields
from restmq.endpoints.router import Route
from restmq.endpoints.web import (
    Reply,
    Request,
    json_reply,
    query_parameters,
    read_parameters,
)
from restmq.errors import InvalidInput, NotFound

CRLF = b"\r\n"
DEFAULT_LISTED = 20
MAX_OFFSET = 2**53
MAX_REDRIVEN = 10**9

STATE_TIMES = {"leased": "lease_expires", "delayed": "ready_at", "dead": "died"}
"""What the time means that comes with a state."""

CONSUMER = (Section.CONSUMER,)
PRODUCER = (Section.PRODUCER,)


class MessageEndpoint:
    """Messages and dead letters as REST resources."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [
            # The two that show values change nothing, but what is in a queue is no business of
            # foreign pages either: they are refused as if it did.
            Route("GET", "m", CONSUMER, self.get_message, changes=True),
            Route("DELETE", "m", PRODUCER, self.delete_message, changes=True),
            Route("POST", "m", PRODUCER, self.post_message, changes=True),
            Route("GET", "dead", CONSUMER, self.get_dead, changes=True, named=True),
            Route("POST", "dead", PRODUCER, self.post_dead, changes=True, named=True),
            Route("DELETE", "dead", PRODUCER, self.delete_dead, changes=True, named=True),
        ]

    async def get_message(self, request: Request, key: str) -> web.StreamResponse:
        """``GET /m/Q:7``: the message with its state and its story, left as it is."""
        callback = query_parameters(request).callback()
        queue, number = _read_key(key)
        found = await self._broker.inspect(queue, number)
        fields = story_fields(queue, found.message)
        fields["state"] = found.state
        fields["attempts"] = found.attempts
        fields["last_error"] = found.last_error
        if found.state in STATE_TIMES:
            fields[STATE_TIMES[found.state]] = found.since_or_until
        return json_reply(fields, callback, end=CRLF)

    async def delete_message(self, request: Request, key: str) -> web.StreamResponse:
        """``DELETE /m/Q:7``: removes it, in whatever state it is."""
        callback = query_parameters(request).callback()
        queue, number = _read_key(key)
        # Deleting alone would also succeed for what was popped lately, by the classic contract.
        await self._broker.inspect(queue, number)
        if not await self._broker.delete(queue, number):
            raise NotFound(f"there is no message {key!r} any more")
        return json_reply({"key": key, "deleted": True}, callback, end=CRLF)

    async def post_message(self, request: Request, key: str) -> web.StreamResponse:
        """``POST /m/Q:7``: with ``delay`` or ``at`` reschedules, with ``priority`` moves it."""
        parameters, _ = await read_parameters(request)
        callback = parameters.callback()
        queue, number = _read_key(key)
        delay_seconds = parameters.number(b"delay", 0, MAX_DELAY_SECONDS)
        at = parameters.number(b"at", 0, LATEST_SECONDS)
        priority = parameters.integer(b"priority", 0, MAX_PRIORITY)
        if [delay_seconds, at, priority].count(None) != 2:
            raise InvalidInput("say one of delay=<seconds>, at=<Unix seconds> and priority=<0-9>")
        if priority is not None:
            await self._broker.set_priority(queue, number, priority)
            return json_reply({"key": key, "priority": priority}, callback, end=CRLF)
        await self._broker.reschedule(queue, number, delay_seconds=delay_seconds, at=at)
        return json_reply({"key": key, "rescheduled": True}, callback, end=CRLF)

    async def get_dead(self, request: Request, queue: str) -> web.StreamResponse:
        """``GET /dead/Q``: ``count`` dead letters after the first ``offset``; 204 if none."""
        parameters = query_parameters(request)
        callback = parameters.callback()
        count = parameters.integer(b"count", 1, MAX_COUNT) or DEFAULT_LISTED
        offset = parameters.integer(b"offset", 0, MAX_OFFSET) or 0
        letters = await self._broker.dead_letters.list(queue, count, offset)
        if not letters:
            return Reply(status=204)
        return json_reply([_letter_fields(queue, each) for each in letters], callback, end=CRLF)

    async def post_dead(self, request: Request, queue: str) -> web.StreamResponse:
        """``POST /dead/Q``: puts all dead letters back, or ``count`` of them, or that of a key."""
        parameters, _ = await read_parameters(request)
        callback = parameters.callback()
        count = parameters.integer(b"count", 1, MAX_REDRIVEN)
        key = parameters.text(b"key")
        number = None
        if key is not None:
            if count is not None:
                raise InvalidInput("say count or key, not both")
            number = message_number(queue, key)
            if number is None:
                raise InvalidInput(f"key must be that of a message, as in {queue}:7")
        redriven = await self._broker.dead_letters.redrive(queue, count, number)
        if number is not None and not redriven:
            raise NotFound(f"there is no dead letter {message_key(queue, number)!r}")
        return json_reply({"queue": queue, "redriven": redriven}, callback, end=CRLF)

    async def delete_dead(self, request: Request, queue: str) -> web.StreamResponse:
        """``DELETE /dead/Q``: throws all dead letters away."""
        callback = query_parameters(request).callback()
        dropped = await self._broker.dead_letters.drop(queue)
        return json_reply({"queue": queue, "dropped": dropped}, callback, end=CRLF)


def _read_key(key: str) -> tuple[str, int]:
    """Read a message's key, whose last colon ends the queue's name."""
    queue = key.rpartition(":")[0]
    number = message_number(queue, key)
    if number is None:
        raise InvalidInput("name a message by its key, as in /m/queue:7")
    return check_queue_name(queue), number


def _letter_fields(queue: str, letter: DeadLetter) -> Fields:
    fields = story_fields(queue, letter.message)
    fields["attempts"] = letter.attempts
    fields["reason"] = letter.reason
    fields["died"] = letter.died
    return fields
