"""Queuey's replies: everything is JSON with a status, errors by field, and lists of any length.

A store out of reach is 503 with Retry-After, as everywhere in this server, where the specification
has 500: the field is the same, and clients and proxies learn that it is worth asking again.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from http import HTTPStatus

from aiohttp import web

from restmq.access import BASIC_CHALLENGE
from restmq.endpoints.long_reply import send_in_parts
from restmq.endpoints.queuey_access import InvalidApplicationKey
from restmq.endpoints.web import HTTP_STATUS, JSON, Reply, Request, encode_json
from restmq.errors import (
    AccessDenied,
    CredentialsRequired,
    ForeignOrigin,
    MethodNotAllowed,
    NotFound,
    RateLimited,
    RestMQError,
    TooLarge,
    Unavailable,
)

MAX_WHOLE_BYTES = 1024 * 1024
"""A list that takes more is sent as it is read, so that no reply has to fit into memory."""

_CHALLENGE = "WWW-Authenticate"


def ok_reply(status: int = HTTPStatus.OK, **fields: object) -> Reply:
    """Reply that it is done, with what there is to tell."""
    return Reply(encode_json({"status": "ok", **fields}), status=status, content_type=JSON)


def error_reply(error: RestMQError) -> Reply:
    """Reply with an error, under the field that clients look for.

    The text may hold what a header said, and there what is not UTF-8 becomes ``?``.
    """
    status = HTTP_STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    headers = []
    if isinstance(error, InvalidApplicationKey):
        headers.append((_CHALLENGE, "Application"))
    if isinstance(error, CredentialsRequired):
        headers.append((_CHALLENGE, BASIC_CHALLENGE))
    if isinstance(error, MethodNotAllowed):
        headers.append(("Allow", error.allowed))
    if isinstance(error, Unavailable):
        headers.append(("Retry-After", str(error.retry_after_seconds)))
    text = str(error).encode("utf-8", "replace").decode()
    body = {"status": "error", "error_msg": {_field_of(error): text}}
    return Reply(encode_json(body), status=status, content_type=JSON, headers=headers)


def _field_of(error: RestMQError) -> str:
    field = getattr(error, "field", None)
    if isinstance(field, str):
        return field
    if isinstance(error, RateLimited):
        return "rate"
    if isinstance(error, Unavailable):
        return "storage"
    if isinstance(error, AccessDenied | ForeignOrigin):
        return "Forbidden"
    if isinstance(error, TooLarge):
        return "body"
    if isinstance(error, MethodNotAllowed):
        return "method"
    return "NotFound" if isinstance(error, NotFound) else "InvalidParameter"


async def list_reply(
    request: Request, name: str, parts: AsyncGenerator[Sequence[object]]
) -> web.StreamResponse:
    """Reply with a list under ``name``, which comes in parts.

    What may be refused must be found out before the first part; see ``send_in_parts``. ``parts``
    is closed at the end.
    """
    start = b'{"status":"ok","%b":[' % name.encode()
    pieces, size_bytes = [start], len(start)
    is_first = True
    async with aclosing(parts):
        async for part in parts:
            if not part:
                continue
            piece = encode_json(part)[1:-1]
            pieces.append(piece if is_first else b"," + piece)
            size_bytes += len(piece)
            is_first = False
            if size_bytes > MAX_WHOLE_BYTES:
                return await send_in_parts(request, _long_list(b"".join(pieces), parts), JSON)
    return Reply(b"".join((*pieces, b"]}")), content_type=JSON)


async def _long_list(
    beginning: bytes, parts: AsyncGenerator[Sequence[object]]
) -> AsyncGenerator[bytes]:
    yield beginning
    async for part in parts:
        if part:
            yield b"," + encode_json(part)[1:-1]
    yield b"]}"
