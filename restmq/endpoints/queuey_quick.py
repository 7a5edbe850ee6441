"""Queuey's everyday request, served without a task: one message for a queue the node remembers."""

import asyncio
from http import HTTPStatus

from aiohttp import hdrs

from restmq.broker.log_entry import Appended
from restmq.endpoints.queuey_access import ApplicationKeys
from restmq.endpoints.queuey_fields import (
    Draft,
    is_batch,
    posted_message,
    read_partition,
    read_text_body,
    read_ttl,
)
from restmq.endpoints.queuey_queues import QueueyQueues, no_such_queue
from restmq.endpoints.queuey_replies import error_reply, ok_reply
from restmq.endpoints.router import Pending
from restmq.endpoints.web import Reply, Request, is_at_hand
from restmq.errors import NotFound, RestMQError


class QuickPosts:
    """Begins posts of single messages; whatever is not so simple is left to the endpoint."""

    def __init__(self, keys: ApplicationKeys, queues: QueueyQueues) -> None:
        self._keys = keys
        self._queues = queues

    def begin(self, request: Request, rest: str) -> Pending | None:
        """Begin ``POST /v1/A/Q``; None leaves it to the endpoint."""
        application, _, name = rest.partition("/")
        queue = self._queues.recall(application, name)
        headers, content = request.headers, request.content
        if queue is None or is_batch(headers) or not is_at_hand(request):
            return None
        try:
            shown = self._keys.applications_of(headers.get(hdrs.AUTHORIZATION))
            partition = queue.choose(read_partition(headers), "partition")
            ttl_seconds = read_ttl(headers)
        except RestMQError:  # the endpoint finds it too, and may know better
            return None
        if application not in shown or content.total_bytes > request.client_max_size:
            return None
        try:
            # From here on errors are told here, as nobody can read the body once more.
            draft = Draft(read_text_body(content.read_nowait(-1)), ttl_seconds, partition)
            stored = self._queues.append(queue, draft)
        except RestMQError as error:
            return Pending(_done(error_reply(error)), _as_it_is)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def answer(stored: "asyncio.Future[Appended]") -> None:
            if reply.done():  # cancelled, as the client is gone
                _ = stored.cancelled() or stored.exception()
                return
            try:
                message = posted_message(stored.result().id, partition)
                reply.set_result(ok_reply(HTTPStatus.CREATED, messages=[message]))
            except NotFound:
                self._queues.forget(queue.log)
                reply.set_result(error_reply(no_such_queue()))
            except RestMQError as error:
                reply.set_result(error_reply(error))

        stored.add_done_callback(answer)
        return Pending(reply, _as_it_is)


def _done(reply: Reply) -> "asyncio.Future[Reply]":
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    future.set_result(reply)
    return future


def _as_it_is(reply: Reply) -> Reply:
    return reply
