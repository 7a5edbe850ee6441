"""Queuey's everyday request, served without a task: one message for a queue the node remembers."""

import asyncio
from http import HTTPStatus

from aiohttp import hdrs

from restmq.broker.log_entry import Appended, OtherAttributes
from restmq.endpoints.queuey_access import ApplicationKeys
from restmq.endpoints.queuey_fields import (
    Draft,
    is_batch,
    posted_message,
    read_partition,
    read_text_body,
    read_ttl,
)
from restmq.endpoints.queuey_queues import Queue, QueueyQueues, no_such_queue
from restmq.endpoints.queuey_replies import error_reply, ok_reply
from restmq.endpoints.router import Pending
from restmq.endpoints.web import Reply, Request, is_at_hand
from restmq.errors import NotFound, RestMQError


class QuickPosts:
    """Begins posts of single messages; whatever is not so simple is left to the endpoint."""

    def __init__(self, keys: ApplicationKeys, queues: QueueyQueues) -> None:
        self._keys = keys
        self._queues = queues
        # Kept, because asking for the running loop is a system call in this version of Python.
        self._loop = asyncio.get_running_loop()

    def begin(self, request: Request, rest: str) -> Pending | None:
        """Begin ``POST /v1/A/Q``; None leaves it to the endpoint."""
        application, _, name = rest.partition("/")
        queue = self._queues.recall(application, name)
        headers, content = request.headers, request.content
        if queue is None or is_batch(headers) or not is_at_hand(request):
            return None
        try:
            shown = self._keys.applications_of(headers.get(hdrs.AUTHORIZATION))
            wanted, ttl_seconds = read_partition(headers), read_ttl(headers)
            partition = queue.choose(wanted, "partition")
        except RestMQError:  # the endpoint finds it too, and may know better
            return None
        if application not in shown or content.total_bytes > request.client_max_size:
            return None
        try:
            # From here on errors are told here, as nobody can read the body once more.
            draft = Draft(read_text_body(content.read_nowait(-1)), ttl_seconds, wanted)
            post = _Post(self._queues, self._loop.create_future(), draft)
            post.send(queue, partition)
        except RestMQError as error:
            return Pending(self._done(error_reply(error)), _as_it_is)
        return Pending(post.reply, _as_it_is)

    def _done(self, reply: Reply) -> "asyncio.Future[Reply]":
        future: asyncio.Future[Reply] = self._loop.create_future()
        future.set_result(reply)
        return future


class _Post:
    """One post under way; ``reply`` gets the answer."""

    __slots__ = ("_draft", "_partition", "_queue", "_queues", "reply")

    def __init__(self, queues: QueueyQueues, reply: "asyncio.Future[Reply]", draft: Draft) -> None:
        self._queues = queues
        self._draft = draft
        self.reply = reply

    def send(self, queue: Queue, partition: int) -> None:
        """Store the message; raises if it cannot even be tried."""
        self._queue, self._partition = queue, partition
        self._queues.append(queue, self._draft, partition).add_done_callback(self._answer)

    def _answer(self, stored: "asyncio.Future[Appended]") -> None:
        if self.reply.done():  # cancelled, as the client is gone
            _ = stored.cancelled() or stored.exception()
            return
        try:
            message = posted_message(stored.result().id, self._partition)
            reply = ok_reply(HTTPStatus.CREATED, messages=[message])
        except OtherAttributes as error:
            if (refusal := self._send_again(error)) is None:
                return
            reply = error_reply(refusal)
        except NotFound:
            self._queues.forget(self._queue.log)
            reply = error_reply(no_such_queue())
        except RestMQError as error:
            reply = error_reply(error)
        self.reply.set_result(reply)

    def _send_again(self, news: OtherAttributes) -> RestMQError | None:
        """Store it in the queue as it is now; returns why that cannot be."""
        queue = self._queues.remember(self._queue.log, news.info)
        try:
            self.send(queue, queue.choose(self._draft.partition, "partition"))
        except RestMQError as error:
            return error
        return None


def _as_it_is(reply: Reply) -> Reply:
    return reply
