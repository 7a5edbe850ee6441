"""Channels and cursors, as rivulet's clients use them."""

from typing import Final

from restmq.access import Section
from restmq.broker.cursors import MAX_CLIENT_BYTES, Start
from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.broker.log_entry import MAX_NAME_BYTES, MAX_PAGE_ENTRIES
from restmq.broker.log_ids import MAX_NUMBER
from restmq.endpoints.channels import PAGE_NAMES
from restmq.endpoints.channels_reading import DEFAULT_LIMIT, MAX_KEPT_COUNT
from restmq.openapi.vocabulary import (
    EVENTS,
    JSON,
    Json,
    array,
    body,
    choice,
    in_header,
    in_path,
    in_query,
    integer,
    mapping,
    operation,
    or_null,
    path,
    record,
    ref,
    reply,
    text,
)

CONSUMER: Final = (Section.CONSUMER,)
PRODUCER: Final = (Section.PRODUCER,)

_NUMBER: Final = integer(0, MAX_NUMBER)
_CHANNEL: Final = in_path(
    "channel",
    text(minLength=1, maxLength=MAX_NAME_BYTES),
    "The channel's name; a slash in it must be percent-encoded.",
)
_CLIENT: Final = in_path(
    "client",
    text(minLength=1, maxLength=MAX_CLIENT_BYTES),
    "The client's id; a slash in it must be percent-encoded.",
)
_LIMIT: Final = in_query(
    "limit", integer(1, MAX_PAGE_ENTRIES, default=DEFAULT_LIMIT), "Up to so many messages."
)
_WAIT: Final = in_query("wait", integer(0, MAX_WAIT_SECONDS), "Seconds to wait for something new.")
_READING: Final = [
    in_query("after", _NUMBER, "After the message of this id; 0 is from the oldest."),
    in_header("Last-Event-ID", _NUMBER, "For a stream: the same, and wins."),
    _WAIT,
    in_query("last_event_id", _NUMBER, "The header, for those who cannot send one."),
]


def schemas() -> Json:
    """Return the components of this protocol."""
    return {
        "Envelope": record(
            {
                "id": integer(1, MAX_NUMBER),
                "ts": integer(description="When it was written, in microseconds since 1970."),
                "src": text(description="Who wrote it; may be empty."),
                "data": {"description": "What was written: any JSON."},
            }
        ),
        "ChannelMessages": record(
            {
                "channel": text(),
                "messages": array(ref("Envelope")),
                "after": integer(0, description="Where to go on reading."),
            }
        ),
        "Channel": record(
            {
                "channel": text(),
                "count": integer(0),
                "first": or_null(integer(0)),
                "last": integer(0),
                "subscriber_count": integer(0),
                "subscribers": mapping(or_null(integer(0))),
            }
        ),
    }


def paths() -> Json:
    """Return the paths of this protocol."""
    return {
        "/channels": path(get=_list()),
        "/channels/{channel}": path(_CHANNEL, get=_show(), post=_write(), delete=_delete()),
        "/channels/{channel}/messages": path(_CHANNEL, get=_read(), delete=_prune()),
        "/cursors/{client}": path(_CLIENT, get=_cursors(), delete=_forget()),
        "/cursors/{client}/{channel}": path(_CLIENT, _CHANNEL, put=_subscribe(), delete=_leave()),
        "/cursors/{client}/read": path(_CLIENT, post=_read_new()),
    }


def _answer(description: str, schema: Json) -> Json:
    return {"200": reply(description, {JSON: schema})}


def _list() -> Json:
    return operation(
        "listChannels",
        "All channels by name",
        _answer("A page of names.", record({"channels": array(text())})),
        parameters=[
            in_query("after", text(minLength=1), "Only the names after this one."),
            in_query("limit", integer(1, PAGE_NAMES), "Up to so many."),
        ],
        sections=CONSUMER,
    )


def _live(schema: Json) -> Json:
    return {
        "200": reply(
            "What is there; with Accept: text/event-stream a stream of it and of what comes.",
            {
                JSON: schema,
                EVENTS: text(description="Envelopes, and gap where some are kept no more."),
            },
        )
    }


def _show() -> Json:
    return operation(
        "showChannel",
        "A channel and its subscribers, or with wait what is new in it",
        _live({"oneOf": [ref("Channel"), ref("ChannelMessages")]}),
        parameters=[
            in_query("limit", integer(1, PAGE_NAMES), "Up to so many subscribers, or messages."),
            in_query("offset", _NUMBER, "Subscribers after the first so many."),
            *_READING,
        ],
        sections=CONSUMER,
        errors=["not-found"],
    )


def _write() -> Json:
    source = text(
        maxLength=MAX_CLIENT_BYTES,
        description="The client that writes, who does not get it back when it reads.",
    )
    return operation(
        "writeMessage",
        "Write a message",
        {"201": reply("It is stored; its envelope.", {JSON: ref("Envelope")})},
        request_body=body({JSON: record({"data": {}}, {"src": source})}),
        sections=PRODUCER,
    )


def _delete() -> Json:
    return operation(
        "deleteChannel",
        "Delete a channel with its messages and cursors",
        {"204": reply("It is gone.")},
        sections=PRODUCER,
        errors=["not-found"],
    )


def _read() -> Json:
    return operation(
        "readMessages",
        "Read messages after a position; no cursor moves",
        _live(ref("ChannelMessages")),
        parameters=[_LIMIT, *_READING],
        sections=CONSUMER,
    )


def _prune() -> Json:
    first = in_query(
        "before", integer(1, MAX_NUMBER), "The id of the first message to be kept.", required=True
    )
    return operation(
        "pruneMessages",
        "Discard the oldest messages",
        _answer("So many.", record({"channel": text(), "discarded": integer(0)})),
        parameters=[first],
        sections=PRODUCER,
    )


def _cursors() -> Json:
    return operation(
        "showClient",
        "Where a client's cursors are",
        _answer(
            "The last message read, by channel.",
            record({"client": text(), "subscriptions": mapping(or_null(integer(0)))}),
        ),
        sections=CONSUMER,
    )


def _forget() -> Json:
    return operation(
        "forgetClient",
        "End all subscriptions of a client",
        {"204": reply("They are gone, if there were any.")},
        sections=CONSUMER,
    )


def _subscribe() -> Json:
    policies = choice(*(start.value for start in Start), default=Start.CURRENT.value)
    return operation(
        "subscribe",
        "Subscribe a client to a channel, or move its cursor",
        _answer(
            "Where the cursor is.",
            record({"channel": text(), "client": text(), "cursor": or_null(integer(0))}),
        ),
        parameters=[
            in_query("policy", policies, "Where to begin."),
            in_query("cursor", _NUMBER, "Instead: the message that counts as the last one read."),
        ],
        sections=CONSUMER,
    )


def _leave() -> Json:
    return operation(
        "unsubscribe",
        "End a subscription",
        {"204": reply("It is gone, if it was there.")},
        sections=CONSUMER,
    )


def _read_new() -> Json:
    kept = in_query(
        "bufsize", integer(0, MAX_KEPT_COUNT), "How many of the newest of each channel to keep."
    )
    return operation(
        "readNew",
        "What is new for a client in each of its channels, once",
        _answer("Envelopes by channel.", mapping(array(ref("Envelope")))),
        parameters=[_LIMIT, kept, _WAIT],
        sections=CONSUMER,
    )
