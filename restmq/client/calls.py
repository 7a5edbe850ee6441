"""Request and reply: ``call`` and ``serve``, which speak STOMP with each other, or with others.

A request is a message of a queue whose ``reply-to`` names a destination that is private to one
connection of the caller, and whose ``correlation-id`` comes back with the reply. An ``error`` in
the reply's headers is what the answering side has to say instead of an answer.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from restmq.client.connection import Connection, Pauses, retry_after_seconds
from restmq.client.errors import CallFailed, CallTimedOut, ConnectionLost
from restmq.client.stomp_link import StompLink
from restmq.client.values import Payload, encode_value
from restmq.codecs.stomp import Frame
from restmq.errors import InvalidInput, Unavailable
from restmq.http_client import MAX_MESSAGE_CHARACTERS, one_line

REPLIES = "replies"
"""What the caller's private destination is called."""

REDELIVERY_SECONDS = 60.0
"""For how long an answer waits for its request to come again after a connection broke."""

MAX_CONCURRENCY = 1000
MAX_DESTINATION_BYTES = 255

logger = logging.getLogger("restmq.client")


@dataclass(eq=False, repr=False)
class Reply(Payload):
    """What came back."""

    headers: Mapping[str, str]


@dataclass(eq=False, repr=False)
class Request(Payload):
    """What somebody asks."""

    queue: str
    headers: Mapping[str, str]

    @property
    def is_redelivered(self) -> bool:
        """Whether it was handed out before, and perhaps handled."""
        return self.headers.get("redelivered") == "true"


class Caller:
    """The calls of one client.

    One connection is for replies and another for requests, since a refused request ends its
    connection, which is no reason for others to lose their replies.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._replies: StompLink | None = None
        self._requests: StompLink | None = None
        self._opening = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Hang up; calls that wait raise ConnectionLost."""
        links, self._replies, self._requests = (self._replies, self._requests), None, None
        for link in links:
            if link is not None:
                await link.close()
        if self._watch is not None:
            await asyncio.wait([self._watch])

    async def call(
        self, queue: str, value: object, timeout_seconds: float, content_type: str | None
    ) -> Reply:
        """Do as ``Client.call`` says."""
        destination = _destination(queue)
        body, kind = encode_value(value, content_type)
        correlation_id = uuid.uuid4().hex
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_seconds) as timeout:
                session = await self._open_replies()
                self._waiting[correlation_id] = reply
                headers = {
                    "destination": destination,
                    "content-type": kind,
                    "reply-to": f"/temp-queue/{session}/{REPLIES}",
                    "correlation-id": correlation_id,
                    "idempotency-key": correlation_id,
                }
                await self._send(headers, body, reply)
                return await reply
        except TimeoutError as error:
            if not timeout.expired():
                raise
            text = f"no reply from {queue!r} within {timeout_seconds:g} s"
            raise CallTimedOut(text) from error
        finally:
            self._waiting.pop(correlation_id, None)
            if not reply.cancel() and not reply.cancelled():
                reply.exception()  # seen, though the request itself may have failed first

    async def _send(
        self, headers: Mapping[str, str], body: bytes, reply: asyncio.Future[Reply]
    ) -> None:
        """Store a request; repeated as often as it takes, since it is stored once all the same.

        But not when the way back for its reply is lost.
        """
        pauses = Pauses()
        while not reply.done():
            try:
                link = await self._open_requests()
                await link.ask("SEND", headers, body)
            except Unavailable as error:
                logger.info("a request was not stored yet: %s", error)
                told_seconds = retry_after_seconds(error)
            else:
                break
            await pauses.sleep(told_seconds)

    async def _open_replies(self) -> str:
        async with self._opening:
            link = self._replies
            if link is None or link.ended.is_set():
                self._replies = None
                if link is not None:
                    await link.close()
                if self._watch is not None:  # others wait for what it tells them, so it goes on
                    await asyncio.wait([self._watch])
                link = await self._open(is_for_replies=True)
                self._replies = link
                self._watch = asyncio.get_running_loop().create_task(
                    self._fail_when_ended(link), name="restmq replies"
                )
            return link.session

    async def _open_requests(self) -> StompLink:
        async with self._opening:
            link = self._requests
            if link is None or link.ended.is_set():
                self._requests = None
                if link is not None:
                    await link.close()
                link = self._requests = await self._open(is_for_replies=False)
            return link

    async def _open(self, *, is_for_replies: bool) -> StompLink:
        pauses = Pauses()
        while True:
            try:
                link = await StompLink.open(self._connection, self._receive)
                if is_for_replies:
                    await _subscribe(link, f"/temp-queue/{REPLIES}", {"ack": "auto"})
            except Unavailable as error:
                logger.info("calls have no connection: %s", error)
                told_seconds = retry_after_seconds(error)
            else:
                return link
            await pauses.sleep(told_seconds)

    async def _fail_when_ended(self, link: StompLink) -> None:
        await link.ended.wait()
        for reply in self._waiting.values():
            if not reply.done():
                text = "the way back for the reply was lost; the request may have been handled"
                reply.set_exception(ConnectionLost(text, was_sent=True))

    def _receive(self, link: StompLink, frame: Frame) -> None:
        headers = frame.headers
        reply = self._waiting.get(headers.get("correlation-id", ""))
        if reply is None or reply.done():  # too late, or a second one
            return
        if "error" in headers:
            reply.set_exception(CallFailed(headers["error"]))
        else:
            reply.set_result(Reply(frame.body, headers.get("content-type"), headers))


Handler = Callable[[Request], Awaitable[object]]


@dataclass(eq=False)
class _Job:
    """A request that is being handled, and the delivery to settle when it was."""

    request: Request
    link: StompLink
    delivery: str
    redelivered: asyncio.Event = field(default_factory=asyncio.Event)


async def serve(
    connection: Connection,
    queue: str,
    handler: Handler,
    concurrency: int,
    timeout_seconds: float,
) -> None:
    """Do as ``Client.serve`` says."""
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise InvalidInput(f"concurrency must be from 1 to {MAX_CONCURRENCY}")
    if not timeout_seconds > 0:
        raise InvalidInput("timeout_seconds must be more than 0")
    subscription = {"ack": "client-individual", "prefetch-count": str(concurrency)}
    destination = _destination(queue)
    server = _Server(queue, handler, concurrency, timeout_seconds)
    pauses = Pauses()
    try:
        while True:
            told_seconds = 0.0
            try:
                link = await StompLink.open(connection, server.receive)
                try:
                    await _subscribe(link, destination, subscription)
                    pauses.reset()
                    await link.ended.wait()
                except asyncio.CancelledError:
                    await server.close()  # before hanging up, which hands its requests to others
                    raise
                finally:
                    await link.close()
            except Unavailable as error:
                logger.info("serving %s: %s", queue, error)
                told_seconds = retry_after_seconds(error)
            await pauses.sleep(told_seconds)
    finally:
        await server.close()


class _Server:
    """Handles requests, ``concurrency`` at a time.

    A request that is delivered again while it is handled is the same one. Those that wait for
    their turn came after a connection broke, and their leases run, so waiting counts as well.
    """

    def __init__(
        self, queue: str, handler: Handler, concurrency: int, timeout_seconds: float
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._turns = asyncio.Semaphore(concurrency)
        self._timeout_seconds = timeout_seconds
        self._jobs: dict[tuple[str, str, bytes], _Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, link: StompLink, frame: Frame) -> None:
        """Begin to handle a request."""
        headers = frame.headers
        delivery = headers.get("ack", "")
        request = Request(frame.body, headers.get("content-type"), self._queue, headers)
        name = (headers.get("reply-to", ""), headers.get("correlation-id", ""), frame.body)
        former = self._jobs.get(name) if request.is_redelivered else None
        if former is not None:
            former.link, former.delivery = link, delivery
            former.redelivered.set()
            return
        job = _Job(request, link, delivery)
        task = asyncio.get_running_loop().create_task(self._handle(job), name="restmq request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if name[0] and name[1]:
            self._jobs[name] = job
            task.add_done_callback(lambda _: self._forget(name, job))

    def _forget(self, name: tuple[str, str, bytes], job: _Job) -> None:
        if self._jobs.get(name) is job:
            del self._jobs[name]

    async def close(self) -> None:
        """Cancel what is being handled; the server hands it to others."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handle(self, job: _Job) -> None:
        headers, body, is_late = {}, b"", False
        try:
            async with asyncio.timeout(self._timeout_seconds) as timeout, self._turns:
                value = await self._handler(job.request)
            body, headers["content-type"] = encode_value(value)
        except Exception as error:
            is_late = isinstance(error, TimeoutError) and timeout.expired()
            if is_late:
                seconds = self._timeout_seconds
                logger.error("a request of %s was given up after %g s", self._queue, seconds)
            else:
                logger.exception("a request of %s failed", self._queue)
            text = one_line(str(error)) or type(error).__name__
            headers = {"error": text[:MAX_MESSAGE_CHARACTERS]}
        reply_to = job.request.headers.get("reply-to")
        if reply_to is not None and not is_late:
            headers["destination"] = reply_to
            headers["correlation-id"] = job.request.headers.get("correlation-id", "")
        while True:
            job.redelivered.clear()
            try:
                await self._settle(job, headers, body)
            except ConnectionLost:
                if not is_late and await _is_set_in_time(job.redelivered):
                    continue
                logger.info("the reply to a request of %s could not be sent", self._queue)
            return

    async def _settle(self, job: _Job, headers: Mapping[str, str], body: bytes) -> None:
        """Send the reply and then acknowledge; without anybody to reply to, failing is a NACK."""
        link, delivery = job.link, job.delivery
        if "destination" in headers:
            await link.send("SEND", headers, body)
        failed = "error" in headers and "destination" not in headers
        await link.send("NACK" if failed else "ACK", {"id": delivery})


async def _is_set_in_time(event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(REDELIVERY_SECONDS):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def _subscribe(link: StompLink, destination: str, headers: Mapping[str, str]) -> None:
    try:
        await link.ask("SUBSCRIBE", {"id": "0", "destination": destination, **headers})
    except BaseException:
        await link.close()
        raise


def _destination(queue: str) -> str:
    destination = f"/queue/{queue}"
    if not queue or len(destination.encode()) > MAX_DESTINATION_BYTES:
        raise InvalidInput("to be called, a queue has a name, and with /queue/ 255 bytes at most")
    return destination
