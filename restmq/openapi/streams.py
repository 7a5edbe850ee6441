"""Streams of queues, ``/c`` and ``/ws``, STOMP over WebSocket, and what collectd sends."""

from typing import Final

from restmq.access import Section
from restmq.broker.limits import MAX_LEASE_SECONDS, MAX_PREFETCH, MAX_WAIT_SECONDS
from restmq.endpoints.collectd import DATA_QUEUE, EVENT_QUEUE
from restmq.endpoints.consumers import MAX_POSITION
from restmq.openapi.vocabulary import (
    CALLBACK,
    EVENTS,
    JAVASCRIPT,
    JSON,
    QUEUE,
    TEXT,
    Json,
    body,
    choice,
    header,
    in_header,
    in_path,
    in_query,
    integer,
    number,
    operation,
    path,
    reply,
    text,
)

_POSITION: Final = integer(0, MAX_POSITION)
_FLAG: Final = choice("0", "1")
_SHARED: Final = [
    in_query("after", _POSITION, "First what came after this message; 0 for all that is kept."),
    in_header("Last-Event-ID", _POSITION, "The same, as a browser says it; after wins."),
    in_query("ack", _FLAG, "1: messages are leased, and carry receipts."),
    in_query(
        "prefetch",
        integer(1, MAX_PREFETCH, default=1),
        "With ack=1: so many messages at a time that are not settled.",
    ),
    in_query("lease", number(1, MAX_LEASE_SECONDS), "With ack=1: for so many seconds."),
    in_query("open", _FLAG, "1: say when the stream is open, also where it is not the custom."),
]


def paths() -> Json:
    """Return the paths of these protocols."""
    return {
        "/c/{queue}": path(QUEUE, get=_stream()),
        "/ws/{queue}": path(QUEUE, get=_websocket()),
        "/stomp": path(get=_stomp()),
        "/collectd/{kind}": path(_KIND, post=_collectd()),
    }


def _stream() -> Json:
    formats = choice("comet", "sse", "ws")
    return operation(
        "stream",
        "A stream of the queue's messages",
        {
            "200": reply(
                "A line of JSON for each message, for ever; or with wait, once.",
                {
                    TEXT: text(description="Lines of JSON."),
                    EVENTS: text(
                        description="Server-sent events: open, the messages, and gap where some"
                        " are not kept any more. The id of an event is the message's number."
                    ),
                    JAVASCRIPT: text(description="A call of the callback for each message."),
                },
                _POSITION_HEADER,
            ),
            "204": reply("With wait: nothing came in that time.", headers=_POSITION_HEADER),
        },
        parameters=[
            in_query("format", formats, "Lines (comet), events (sse), or WebSocket frames (ws)."),
            in_query(
                "wait",
                number(0, MAX_WAIT_SECONDS),
                "Answer once: as soon as there is something, or after so many seconds.",
            ),
            *_SHARED,
            CALLBACK,
        ],
        sections=(Section.COMET,),
    )


_POSITION_HEADER: Final = {
    "X-RestMQ-Position": header(integer(0), "With wait: what to pass as after next time.")
}


def _websocket() -> Json:
    return operation(
        "websocket",
        "The queue's messages over WebSocket",
        {"101": reply("A text frame of JSON for each message.")},
        description=(
            'With ack=1 the client settles in place: {"ack":R}, {"nack":R,"delay":5},'
            ' {"extend":R,"seconds":30}. Anything else that it sends comes back.'
        ),
        parameters=_SHARED,
        sections=(Section.WEBSOCKET,),
    )


def _stomp() -> Json:
    return operation(
        "stomp",
        "STOMP 1.0, 1.1 and 1.2 over WebSocket",
        {"101": reply("Frames of STOMP, whole or in parts.")},
        sections=(Section.WEBSOCKET,),
    )


_KIND: Final = in_path(
    "kind",
    choice("data", "event"),
    f"data goes to the queue {DATA_QUEUE}, event to {EVENT_QUEUE}.",
)


def _collectd() -> Json:
    return operation(
        "collectd",
        "Values and notifications of collectd",
        {"200": reply("Stored; the message's key.", {TEXT: text()})},
        request_body=body({TEXT: text(), JSON: {}}),
        sections=(Section.PRODUCER,),
        errors=["unsupported-media-type", "queue-full"],
    )
