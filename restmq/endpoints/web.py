"""What the HTTP endpoints share: parameters (``parameters.py``), short replies, and errors."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from aiohttp import hdrs, web
from multidict import CIMultiDict, istr

from restmq.broker.keys import message_key
from restmq.broker.message import LeasedMessage, Message
from restmq.broker.receipts import write_receipt
from restmq.endpoints.parameters import (
    Parameters,
    decimal_number,
    is_at_hand,
    query_parameters,
    read_at_hand,
    read_body,
    read_parameters,
    whole_number,
)
from restmq.endpoints.replies import (
    HTML,
    JAVASCRIPT,
    JSON,
    TEXT,
    Reply,
    Request,
    wait_for_reader,
)
from restmq.errors import RestMQError, Unavailable
from restmq.log_lines import fields

__all__ = [
    "HTML",
    "HTTP_STATUS",
    "JAVASCRIPT",
    "JSON",
    "TEXT",
    "Parameters",
    "Reply",
    "Request",
    "client_is_gone",
    "connection_id",
    "decimal_number",
    "encode_json",
    "error_fields",
    "error_reply",
    "has_tag",
    "is_at_hand",
    "javascript",
    "json_reply",
    "log_fields",
    "message_fields",
    "query_parameters",
    "read_at_hand",
    "read_body",
    "read_parameters",
    "text_reply",
    "unchanged_reply",
    "wait_for_reader",
    "wants",
    "whole_number",
]

_ACCEPT = istr("Accept")

encode_json = msgspec.json.Encoder().encode


def client_is_gone(request: Request) -> bool:
    """Return whether nobody is left to read the reply."""
    transport = request.transport
    return transport is None or transport.is_closing()


def message_fields(queue: str, message: Message, count: int | None = None) -> dict[str, object]:
    """Return a message as JSON carries it; a value that is not UTF-8 goes as base64.

    ``count``: how often it was looked at, where the answer has that. A leased one says in
    ``attempt``, ``receipt`` and ``expires`` what it takes to settle it, and of what type it is
    if it was published with one.
    """
    fields: dict[str, object] = {"key": message_key(queue, message.number)}
    value = message.value
    try:
        fields["value"] = value.decode()
    except UnicodeDecodeError:
        fields["value"] = value  # msgspec writes bytes as base64
        fields["encoding"] = "base64"
    if count is not None:
        fields["count"] = count
    if isinstance(message, LeasedMessage):
        fields["attempt"] = message.attempt
        fields["receipt"] = write_receipt(queue, message)
        fields["expires"] = message.lease_expires
        content_type = message.attributes.content_type
        if content_type is not None:
            fields["content_type"] = content_type
    return fields


def javascript(json_text: bytes) -> bytes:
    """Make JSON safe to stand in a script: two characters end a line there but not in JSON."""
    return json_text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")


def wants(request: Request, media_type: str) -> bool:
    """Return whether the Accept header names a media type itself, not just a range of them."""
    accept = request.headers.get(_ACCEPT)
    return accept is not None and accept != "*/*" and media_type in accept.lower()


def log_fields(request: Request) -> dict[str, Mapping[str, object]]:
    """Return what a log line about a request takes as ``extra``."""
    values = {"connection": connection_id(request)}
    if request.key is not None:
        values["key"] = request.key.id
    return fields(**values)


def connection_id(request: Request) -> str:
    """Return what the log calls the connection of a request."""
    name: str = getattr(request.protocol, "connection_id", "")
    return name


def has_tag(request: Request, tag: str) -> bool:
    """Return whether ``If-None-Match`` has the tag, be it as a weak one (RFC 9110, 13.1.2)."""
    conditions = ",".join(request.headers.getall(hdrs.IF_NONE_MATCH, ()))
    known = [each.strip().removeprefix("W/") for each in conditions.split(",")]
    return "*" in known or tag in known


def unchanged_reply(request: Request, headers: Iterable[tuple[str, str]]) -> web.Response:
    """Reply 304: the client has what it asked for."""
    # Not a Reply, which tells its length: here that would be taken for the document's.
    return web.Response(status=304, headers=CIMultiDict([*headers, *request.cors]))


def json_reply(
    value: object,
    callback: str | None = None,
    *,
    end: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
) -> Reply:
    """Reply with JSON, or with JSONP if a callback is named; ``end`` closes the plain form."""
    text = encode_json(value)
    if callback is None:
        return Reply(text + end, content_type=JSON, headers=headers)
    return _jsonp(text, callback, headers)


def text_reply(
    text: str, callback: str | None = None, headers: Sequence[tuple[str, str]] = ()
) -> Reply:
    """Reply with a line of text, or with JSONP that passes it as a string."""
    if callback is None:
        return Reply(f"{text}\r\n".encode(), headers=headers)
    return _jsonp(encode_json(text), callback, headers)


def _jsonp(json_text: bytes, callback: str, headers: Sequence[tuple[str, str]]) -> Reply:
    body = b"%b(%b);\r\n" % (callback.encode(), javascript(json_text))
    lines = (("X-Content-Type-Options", "nosniff"), *headers)
    return Reply(body, content_type=JAVASCRIPT, headers=lines)


HTTP_STATUS: Mapping[str, int] = {
    "invalid-input": 400,
    "unsupported-media-type": 415,
    "too-large": 413,
    "not-found": 404,
    "conflict": 409,
    "stale-receipt": 409,
    "queue-full": 507,
    "method-not-allowed": 405,
    "access-denied": 401,
    "credentials-required": 401,
    "key-required": 401,
    "invalid-key": 401,
    "forbidden": 403,
    "foreign-origin": 403,
    "unavailable": 503,
    "store-unavailable": 503,
    "overloaded": 503,
    "rate-limited": 429,
}
"""The one table from an error's code word to its HTTP status; what is not in it is 500."""


def error_fields(error: RestMQError) -> dict[str, object]:
    """Return an error as JSON carries it."""
    return {"error": error.code, "message": str(error)}


def error_reply(error: RestMQError, headers: Iterable[tuple[str, str]] = ()) -> Reply:
    """Reply with an error in one line of JSON, for programs and for people."""
    lines = list(headers)
    if isinstance(error, Unavailable):
        lines.append(("Retry-After", str(error.retry_after_seconds)))
    return Reply(
        encode_json(error_fields(error)) + b"\r\n",
        status=HTTP_STATUS.get(error.code, 500),
        content_type=JSON,
        headers=lines,
    )
