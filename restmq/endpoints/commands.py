"""The JSON protocol on ``/queue``: objects with ``cmd``, in a form field or as the body.

It follows the RestMQ specification, section 5, and that of delivery, section 2: expected errors
are answered with 200 and ``{"error": ...}``, unusable requests with 400. An array of commands is
answered by an array, each command in its place, whatever becomes of the others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from aiohttp import web

from restmq.access import Section
from restmq.api_keys import Permission
from restmq.broker.broker import Broker
from restmq.broker.keys import check_queue_name, message_key, message_number
from restmq.broker.limits import (
    LATEST_SECONDS,
    MAX_DELAY_SECONDS,
    MAX_LEASE_SECONDS,
    MAX_TTL_SECONDS,
    MAX_WAIT_SECONDS,
)
from restmq.broker.message import MAX_PRIORITY, Message
from restmq.broker.publishing import PublishOptions
from restmq.broker.receipts import read_receipt
from restmq.endpoints.delivery import (
    MAX_COUNT,
    Fields,
    acknowledge,
    extend,
    list_fields,
    release,
)
from restmq.endpoints.key_needs import check_key
from restmq.endpoints.router import Route
from restmq.endpoints.web import (
    JSON,
    Reply,
    Request,
    client_is_gone,
    decimal_number,
    encode_json,
    error_fields,
    json_reply,
    message_fields,
    read_parameters,
    whole_number,
)
from restmq.errors import InvalidInput, RestMQError, StaleReceipt, TooLarge, Unavailable

MAX_COMMANDS = 1000
"""Commands that one array may hold."""

MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""Commands of an array that come after so much of an answer are not carried out."""

DEFAULT_PEEK_COUNT = 10

EMPTY_QUEUE: Fields = {"error": "empty queue"}
UNKNOWN_COMMAND: Fields = {"error": "null resultset"}

Undo = Callable[[], None]
Perform = Callable[[Fields, list[Undo]], Awaitable[Fields]]
"""Carries out one command; adds to the list what gives back messages that reached nobody."""


class MissingFieldError(Exception):
    """A command lacks a field; the original answered with its quoted name."""


class Command(NamedTuple):
    """One word of the protocol."""

    perform: Perform
    is_consuming: bool
    """Whether it takes the section of consumers, beside that of producers for the route."""
    permission: Permission
    """What an API key must allow on the queue."""
    is_by_receipt: bool = False
    """Whether a receipt names the queue."""


class CommandEndpoint:
    """Commands as JSON objects."""

    def __init__(self, broker: Broker, check_access: Callable[[Request, Section], None]) -> None:
        self._broker = broker
        self._check_access = check_access
        self._commands: Mapping[str, Command] = {
            "add": Command(self._add, False, Permission.PUBLISH),
            # A look that is counted, and the end of what was looked at: the classic consumer.
            "get": Command(self._get, True, Permission.CONSUME),
            "take": Command(self._take, True, Permission.CONSUME),
            "del": Command(self._delete, False, Permission.CONSUME),
            "lease": Command(self._lease, True, Permission.CONSUME),
            "ack": Command(self._ack, True, Permission.CONSUME, is_by_receipt=True),
            "nack": Command(self._nack, True, Permission.CONSUME, is_by_receipt=True),
            "extend": Command(self._extend, True, Permission.CONSUME, is_by_receipt=True),
            "peek": Command(self._peek, True, Permission.VIEW),
            "len": Command(self._length, True, Permission.VIEW),
        }

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [
            Route("GET", "queue", (), self.get_help, changes=False),
            Route("POST", "queue", (Section.PRODUCER,), self.post_command, changes=True),
        ]

    async def get_help(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /queue``: the page with a form to try commands."""
        return Reply(status=302, headers=[("Location", "/static/help.html")])

    async def post_command(self, request: Request, rest: str) -> web.StreamResponse:
        """``POST /queue`` and ``/queue/Q``, whose name serves a command that names none."""
        parameters, body = await read_parameters(request)
        text = parameters.raw(b"msg") or parameters.raw(b"body") or body
        if text is None:
            raise InvalidInput("the form field body (or msg) with a JSON object is missing")
        parsed = _parse(text)
        undo: list[Undo] = []
        try:
            if isinstance(parsed, list):
                reply = await self._perform_all(request, parsed, rest, undo)
            else:
                self._admit(request, [parsed])
                reply = json_reply(await self._perform(request, parsed, rest, undo))
        except asyncio.CancelledError:
            _give_back(undo)
            raise
        if client_is_gone(request):
            _give_back(undo)
        return reply

    def _admit(self, request: Request, items: Sequence[object]) -> None:
        """Raise AccessDenied unless the peer may do all of this."""
        known = [self._commands.get(_name(item)) for item in items]
        if any(command is not None and command.is_consuming for command in known):
            self._check_access(request, Section.CONSUMER)

    async def _perform_all(
        self, request: Request, items: Sequence[object], rest: str, undo: list[Undo]
    ) -> Reply:
        if not 1 <= len(items) <= MAX_COMMANDS:
            raise InvalidInput(f"an array must hold 1 to {MAX_COMMANDS} commands")
        self._admit(request, items)
        answers: list[bytes] = []
        size_bytes = 0
        for item in items:
            try:
                if size_bytes > MAX_ANSWER_BYTES:
                    raise TooLarge("the answer is too long for this command; send it again")
                answer = await self._perform(request, item, rest, undo)
            except Unavailable as error:
                if not answers:  # nothing was done, and more would be no use
                    raise
                answer = error_fields(error)
            except RestMQError as error:
                answer = error_fields(error)
            answers.append(encode_json(answer))
            size_bytes += len(answers[-1])
        return Reply(b"[%b]" % b",".join(answers), content_type=JSON)

    async def _perform(self, request: Request, item: object, rest: str, undo: list[Undo]) -> Fields:
        """Carry out one command, and answer the expected errors.

        Raises Forbidden if the client's API key does not allow it.
        """
        if not isinstance(item, dict):
            raise InvalidInput("a command must be a JSON object")
        if rest:
            item.setdefault("queue", rest)
        name = _name(item)
        if not name:
            raise InvalidInput(f"cmd is missing; it is one of {', '.join(self._commands)}")
        command = self._commands.get(name)
        if command is None:
            return UNKNOWN_COMMAND
        try:
            if request.key is not None:
                queue = (
                    read_receipt(_receipt(item)).queue if command.is_by_receipt else _queue(item)
                )
                check_key(request, command.permission, queue)
            return await command.perform(item, undo)
        except MissingFieldError as missing:
            return {"error": f"'{missing}'"}
        except StaleReceipt as stale:
            return error_fields(stale)

    async def _add(self, fields: Fields, undo: list[Undo]) -> Fields:
        queue = _queue(fields)
        value = _required(fields, "value")
        text = value if isinstance(value, str) else encode_json(value).decode()
        added = await self._broker.publish(queue, [text.encode()], **_publish_options(fields))
        answer: Fields = {"queue": queue, "value": text, "key": message_key(queue, added.number)}
        if added.is_duplicate:
            answer["duplicate"] = True
        return answer

    async def _get(self, fields: Fields, undo: list[Undo]) -> Fields:
        queue = _queue(fields)
        found = await self._broker.get(queue)
        if found is None:
            return EMPTY_QUEUE
        message, looks = found
        return {"queue": queue, **message_fields(queue, message, looks)}

    async def _take(self, fields: Fields, undo: list[Undo]) -> Fields:
        queue = _queue(fields)
        messages = await self._broker.take(queue)
        undo.append(lambda: self._broker.give_back(queue, messages))
        return _handed_out(queue, messages, is_list=False)

    async def _lease(self, fields: Fields, undo: list[Undo]) -> Fields:
        """Lease one message, or with ``count`` up to so many, as a list."""
        queue = _queue(fields)
        lease_seconds = _number(fields, "seconds", 1, MAX_LEASE_SECONDS)
        wait_seconds = _number(fields, "wait", 0, MAX_WAIT_SECONDS) or 0
        count = _integer(fields, "count", 1, MAX_COUNT)
        messages = await self._broker.lease(queue, count or 1, lease_seconds, wait_seconds)
        undo.append(lambda: self._broker.release_unseen(queue, messages))
        return _handed_out(queue, messages, is_list=count is not None)

    async def _ack(self, fields: Fields, undo: list[Undo]) -> Fields:
        return await acknowledge(self._broker, _receipt(fields))

    async def _nack(self, fields: Fields, undo: list[Undo]) -> Fields:
        delay_seconds = _number(fields, "delay", 0, MAX_DELAY_SECONDS) or 0
        return await release(self._broker, _receipt(fields), delay_seconds)

    async def _extend(self, fields: Fields, undo: list[Undo]) -> Fields:
        seconds = _number(fields, "seconds", 1, MAX_LEASE_SECONDS)
        if seconds is None:
            raise MissingFieldError("seconds")
        return await extend(self._broker, _receipt(fields), seconds)

    async def _peek(self, fields: Fields, undo: list[Undo]) -> Fields:
        queue = _queue(fields)
        count = _integer(fields, "count", 1, MAX_COUNT) or DEFAULT_PEEK_COUNT
        return _handed_out(queue, await self._broker.peek(queue, count), is_list=True)

    async def _length(self, fields: Fields, undo: list[Undo]) -> Fields:
        queue = _queue(fields)
        return {"queue": queue, "len": (await self._broker.stats(queue)).length}

    async def _delete(self, fields: Fields, undo: list[Undo]) -> Fields:
        queue = _queue(fields)
        key = _required(fields, "key")
        number = message_number(queue, key) if isinstance(key, str) else None
        deleted = number is not None and await self._broker.delete(queue, number)
        return {"queue": queue, "key": key, "deleted": deleted}


def _give_back(undo: list[Undo]) -> None:
    """Give back what was handed out for an answer that nobody reads."""
    for step in reversed(undo):
        step()


def _handed_out(queue: str, messages: Sequence[Message], *, is_list: bool) -> Fields:
    if not messages:
        return EMPTY_QUEUE
    if is_list:
        return {"queue": queue, "messages": list_fields(queue, messages)}
    return {"queue": queue, **message_fields(queue, messages[0])}


def _parse(text: bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the command is not valid JSON: {error}") from None


def _name(item: object) -> str:
    """Return the word of a command; empty if there is none."""
    name = item.get("cmd") if isinstance(item, dict) else None
    return name if isinstance(name, str) else ""


def _required(fields: Fields, name: str) -> object:
    if name not in fields:
        raise MissingFieldError(name)
    return fields[name]


def _queue(fields: Fields) -> str:
    queue = _required(fields, "queue")
    if not isinstance(queue, str):
        raise InvalidInput("queue must be a string")
    return check_queue_name(queue)


def _receipt(fields: Fields) -> str:
    receipt = _required(fields, "receipt")
    if not isinstance(receipt, str):
        raise InvalidInput("receipt must be a string")
    return receipt


def _publish_options(fields: Fields) -> PublishOptions:
    options: PublishOptions = {}
    ttl_seconds = _integer(fields, "ttl", 1, MAX_TTL_SECONDS)
    if ttl_seconds is not None:
        options["ttl_seconds"] = ttl_seconds
    delay_seconds = _number(fields, "delay", 0, MAX_DELAY_SECONDS)
    if delay_seconds is not None:
        options["delay_seconds"] = delay_seconds
    at = _number(fields, "at", 0, LATEST_SECONDS)
    if at is not None:
        options["at"] = at
    priority = _integer(fields, "priority", 0, MAX_PRIORITY)
    if priority is not None:
        options["priority"] = priority
    key = fields.get("id")
    if key is not None:
        if not isinstance(key, str):
            raise InvalidInput("id must be a string")
        options["idempotency_key"] = key
    return options


def _integer(fields: Fields, name: str, minimum: int, maximum: int) -> int | None:
    """Return a whole number, which may stand in a string; None if it is not there or null."""
    value = fields.get(name)
    if value is None:
        return None
    text = str(value) if isinstance(value, int | str) else ""
    return whole_number(name, text, minimum, maximum)


def _number(fields: Fields, name: str, minimum: float, maximum: float) -> float | None:
    """Return a number, which may stand in a string; None if it is not there or null."""
    value = fields.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if minimum <= value <= maximum:
            return value
        value = ""
    if value is None:
        return None
    return decimal_number(name, value if isinstance(value, str) else "", minimum, maximum)
