"""Queuey's replies: everything is JSON with a status, errors by field, and lists of any length.

A store out of reach is 503 with Retry-After, as everywhere in this server, where the specification
has 500: the field is the same, and clients and proxies learn that it is worth asking again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus

from aiohttp import web

from restmq.access import BASIC_CHALLENGE
from restmq.endpoints.queuey_access import InvalidApplicationKey
from restmq.endpoints.web import HTTP_STATUS, JSON, Reply, Request, encode_json
from restmq.errors import (
    AccessDenied,
    CredentialsRequired,
    ForeignOrigin,
    MethodNotAllowed,
    NotFound,
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
    request: Request, name: str, parts: AsyncIterator[Sequence[object]]
) -> web.StreamResponse:
    """Reply with a list under ``name``, which comes in parts.

    What may be refused must be found out before the first part. Once the reply is being sent, an
    error can only cut the client off, and so does a client that does not read it in its time.
    """
    start = b'{"status":"ok","%b":[' % name.encode()
    pieces, size_bytes = [start], len(start)
    is_first = True
    async for part in parts:
        if not part:
            continue
        piece = encode_json(part)[1:-1]
        pieces.append(piece if is_first else b"," + piece)
        size_bytes += len(piece)
        is_first = False
        if size_bytes > MAX_WHOLE_BYTES:
            return await _send_long_list(request, b"".join(pieces), parts)
    return Reply(b"".join((*pieces, b"]}")), content_type=JSON)


async def _send_long_list(
    request: Request, data: bytes, parts: AsyncIterator[Sequence[object]]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": JSON})
    response.headers.extend(request.cors)
    await response.prepare(request)
    if request.method == "HEAD":  # the reply's beginning is all there is to tell
        return response
    try:
        await _write(request, response, data)
        async for part in parts:
            if part:
                await _write(request, response, b"," + encode_json(part)[1:-1])
        await _write(request, response, b"]}")
        await response.write_eof()
    except (RestMQError, TimeoutError) as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the reply could not be completed") from error
    return response


async def _write(request: Request, response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(request.body_timeout_seconds):
        await response.write(data)
