"""``POST /collectd/data`` and ``/collectd/event``: what collectd writes becomes messages.

They follow the RestMQ specification, section 8.
"""

import msgspec
from aiohttp import web

from restmq.access import Section
from restmq.broker.broker import Broker
from restmq.broker.keys import message_key
from restmq.codecs.collectd import parse_notification, parse_putval
from restmq.endpoints.router import Route
from restmq.endpoints.web import JSON, Reply, Request, encode_json, read_body, text_reply
from restmq.errors import InvalidInput, UnsupportedMediaType

DATA_QUEUE = "collectd_data"
EVENT_QUEUE = "collectd_event"


class CollectdEndpoint:
    """The feeder for collectd's HTTP writers."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [Route("POST", "collectd", (Section.PRODUCER,), self.post, changes=True)]

    async def post(self, request: Request, name: str) -> web.StreamResponse:
        """Store the body's values (``data``) or notification (``event``)."""
        if name == "data":
            return await self._store(DATA_QUEUE, await self._read_data(request))
        if name == "event":
            notification = parse_notification(_text(await read_body(request)))
            return await self._store(EVENT_QUEUE, encode_json(notification))
        raise InvalidInput("post to /collectd/data or /collectd/event")

    async def _read_data(self, request: Request) -> bytes:
        kind = request.content_type
        if kind == "text/plain":
            return encode_json(parse_putval(_text(await read_body(request))))
        if kind != JSON:
            raise UnsupportedMediaType("send collectd data as application/json or text/plain")
        body = await read_body(request)
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"the body is not valid JSON: {error}") from None
        return body

    async def _store(self, queue: str, value: bytes) -> Reply:
        return text_reply(message_key(queue, await self._broker.add(queue, value)))


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise InvalidInput("the body must be UTF-8") from None
