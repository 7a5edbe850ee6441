"""Replies that may be too long for memory: they go out part by part, as the parts come."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from restmq.endpoints.web import Request
from restmq.errors import RestMQError

logger = logging.getLogger(__name__)


async def send_in_parts(
    request: Request, parts: AsyncGenerator[bytes], content_type: str
) -> web.StreamResponse:
    """Reply with parts, one of which at a time is in memory; empty ones are passed over.

    What may be refused must be found out before. Once the reply is being sent, an error can only
    cut the client off, and so does a client that does not take a part in the time it has for
    reading a reply. A HEAD gets the headers alone. ``parts`` is closed at the end.
    """
    response = web.StreamResponse(headers={"Content-Type": content_type})
    response.headers.extend(request.cors)
    async with aclosing(parts):
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            async for part in parts:
                if part:
                    async with asyncio.timeout(request.body_timeout_seconds):
                        await response.write(part)
            await response.write_eof()
        except Exception as error:
            # Nobody above can tell it any more: another reply would end up inside this one.
            if not isinstance(error, RestMQError | TimeoutError | ConnectionError):
                logger.exception("%s %s failed in mid-reply", request.method, request.path)
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the reply could not be completed") from error
    return response
