"""The JSON protocol on ``/queue``: one object with ``cmd``, in a form field or as the body.

It follows the RestMQ specification, section 5: expected errors are answered with 200 and
``{"error": ...}``, unusable requests with 400.
"""

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import MAX_TTL_SECONDS, Broker
from restmq.broker.keys import check_queue_name, message_key, message_number
from restmq.endpoints.router import Route
from restmq.endpoints.web import (
    Reply,
    Request,
    client_is_gone,
    encode_json,
    json_reply,
    message_fields,
    read_parameters,
    whole_number,
)
from restmq.errors import InvalidInput

Fields = dict[str, object]
Command = Callable[[Request, Fields], Awaitable[Fields]]

EMPTY_QUEUE: Fields = {"error": "empty queue"}
UNKNOWN_COMMAND: Fields = {"error": "null resultset"}


class MissingFieldError(Exception):
    """A command lacks a field; the original answered with its quoted name."""


class CommandEndpoint:
    """Commands as JSON objects."""

    def __init__(self, broker: Broker, check_access: Callable[[Request, Section], None]) -> None:
        self._broker = broker
        self._check_access = check_access
        self._commands: Mapping[str, Command] = {
            "add": self._add,
            "get": self._get,
            "take": self._take,
            "del": self._delete,
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
        fields = _parse(text)
        if rest:
            fields.setdefault("queue", rest)
        name = fields.get("cmd")
        if not name or not isinstance(name, str):
            raise InvalidInput("cmd is missing; it is one of add, get, take, del")
        command = self._commands.get(name)
        if command is None:
            return json_reply(UNKNOWN_COMMAND)
        if name in ("get", "take"):
            self._check_access(request, Section.CONSUMER)
        try:
            return json_reply(await command(request, fields))
        except MissingFieldError as missing:
            return json_reply({"error": f"'{missing}'"})

    async def _add(self, request: Request, fields: Fields) -> Fields:
        queue = _queue(fields)
        value = _required(fields, "value")
        text = value if isinstance(value, str) else encode_json(value).decode()
        number = await self._broker.add(queue, text.encode(), ttl_seconds=_ttl_seconds(fields))
        return {"queue": queue, "value": text, "key": message_key(queue, number)}

    async def _get(self, request: Request, fields: Fields) -> Fields:
        queue = _queue(fields)
        found = await self._broker.get(queue)
        if found is None:
            return EMPTY_QUEUE
        message, looks = found
        return {"queue": queue, **message_fields(queue, message), "count": looks}

    async def _take(self, request: Request, fields: Fields) -> Fields:
        queue = _queue(fields)
        messages = await self._broker.take(queue)
        if not messages:
            return EMPTY_QUEUE
        if client_is_gone(request):
            self._broker.give_back(queue, messages)
        return {"queue": queue, **message_fields(queue, messages[0])}

    async def _delete(self, request: Request, fields: Fields) -> Fields:
        queue = _queue(fields)
        key = _required(fields, "key")
        number = message_number(queue, key) if isinstance(key, str) else None
        deleted = number is not None and await self._broker.delete(queue, number)
        return {"queue": queue, "key": key, "deleted": deleted}


def _parse(text: bytes) -> Fields:
    try:
        fields = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the command is not valid JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidInput("the command must be a JSON object")
    return fields


def _required(fields: Fields, name: str) -> object:
    if name not in fields:
        raise MissingFieldError(name)
    return fields[name]


def _queue(fields: Fields) -> str:
    queue = _required(fields, "queue")
    if not isinstance(queue, str):
        raise InvalidInput("queue must be a string")
    return check_queue_name(queue)


def _ttl_seconds(fields: Fields) -> int | None:
    ttl = fields.get("ttl")
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | str):
        raise InvalidInput(f"ttl must be a whole number from 1 to {MAX_TTL_SECONDS}")
    return whole_number("ttl", str(ttl), 1, MAX_TTL_SECONDS)
