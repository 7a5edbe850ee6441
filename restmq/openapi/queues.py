"""Queues over REST: ``/``, ``/q``, ``/p``, ``/control``, ``/stats`` and ``/j``."""

from typing import Final

from restmq.access import Section
from restmq.broker.broker import PAGE, Policy
from restmq.broker.limits import (
    LATEST_SECONDS,
    MAX_DELAY_SECONDS,
    MAX_ID_CHARACTERS,
    MAX_LEASE_SECONDS,
    MAX_TTL_SECONDS,
    MAX_WAIT_SECONDS,
)
from restmq.broker.message import DEFAULT_PRIORITY, MAX_PRIORITY
from restmq.endpoints.delivery import BYTES, MAX_BATCH_MESSAGES, MAX_COUNT, NDJSON
from restmq.openapi.vocabulary import (
    CALLBACK,
    HTML,
    JSON,
    QUEUE,
    QUEUE_NAME,
    TEXT,
    Json,
    any_of,
    array,
    body,
    bytes_reply,
    choice,
    form,
    header,
    in_header,
    in_query,
    integer,
    json_reply,
    mapping,
    not_both,
    number,
    operation,
    or_null,
    path,
    record,
    ref,
    reply,
    text,
    text_reply,
)

CONSUMER: Final = (Section.CONSUMER,)
PRODUCER: Final = (Section.PRODUCER,)

PRIORITY: Final = integer(0, MAX_PRIORITY, default=DEFAULT_PRIORITY)
DELAY: Final = number(0, MAX_DELAY_SECONDS)
AT: Final = number(0, LATEST_SECONDS)
LEASE: Final = number(1, MAX_LEASE_SECONDS)
WAIT: Final = number(0, MAX_WAIT_SECONDS)

PUBLISHING: Final[dict[str, tuple[Json, str]]] = {
    "ttl": (integer(1, MAX_TTL_SECONDS), "Whole seconds until the message expires."),
    "delay": (DELAY, "Seconds before anybody gets it."),
    "at": (AT, "The Unix time before which nobody gets it; instead of delay."),
    "priority": (PRIORITY, "Higher goes first; first in, first out inside of one."),
    "id": (
        text(minLength=1, maxLength=MAX_ID_CHARACTERS),
        "Publishing again with this id within dedupe_seconds stores nothing, and is answered"
        " with the first key.",
    ),
}
"""What a publisher may say of a message, in query, form, or a header ``X-RestMQ-<Name>``."""

IN_QUERY: Final = [in_query(name, schema, words) for name, (schema, words) in PUBLISHING.items()]
IN_FORM: Final = {
    name: {**schema, "description": words} for name, (schema, words) in PUBLISHING.items()
}
NOT_BOTH: Final = not_both("delay", "at")

IDEMPOTENCY_KEY: Final = in_header(
    "Idempotency-Key", PUBLISHING["id"][0], "The same as the parameter id."
)

TAKING: Final = [
    in_query("count", integer(1, MAX_COUNT), "Up to so many, as a list."),
    in_query("wait", WAIT, "Seconds to wait for the first message."),
    in_query("lease", LEASE, "Lease for so many seconds, instead of taking."),
    in_query(
        "peek",
        integer(1, MAX_COUNT),
        "Look at the next so many and leave them; goes without lease and count.",
    ),
    CALLBACK,
]

DUPLICATE: Final = {
    "X-RestMQ-Duplicate": header(
        choice("true"), "There if the id was published before, so that nothing was stored."
    )
}

_FLAG = {"type": "integer", "enum": [0, 1]}


def schemas() -> Json:
    """Return the components of this protocol."""
    key = text(description="The message's key, QUEUE:NUMBER.")
    classic = {
        "len": integer(0, description="Messages that are ready."),
        "status": {**_FLAG, "description": "0 while delivery to streams is paused."},
        "policy": {
            "enum": [*(int(policy) for policy in Policy), ""],
            "description": "1 is broadcast, 2 round-robin; empty if it was never set.",
        },
    }
    figures = {
        "ready": integer(0),
        "delayed": integer(0),
        "leased": integer(0),
        "dead": integer(0),
        "consumers": integer(0, description="Streams that listen, on all nodes."),
        "oldest_age": or_null(
            number(description="Seconds since the oldest ready message was published.")
        ),
        "rate_in": number(0, description="Messages that came, a second, lately."),
        "rate_out": number(0, description="Messages that went, a second, lately."),
    }
    status = record({"queue": text(), "status": _FLAG})
    return {
        "Message": record(
            {"key": key, "value": text()},
            {
                "encoding": choice(
                    "base64", description="There if the value is not UTF-8, and so in base64."
                ),
                "count": integer(0, description="How often it was looked at."),
                "attempt": integer(1, description="Which delivery this is."),
                "receipt": text(description="What it takes to settle the lease."),
                "expires": number(description="When the lease ends, as Unix time."),
                "content_type": text(description="What it was published as, if that was said."),
            },
        ),
        "QueueStats": record(
            {**classic, **figures}, {"redis": text(), "queue": text(), "name": text()}
        ),
        "AllStats": record(
            {
                "queues": mapping(record({"name": text(), **classic}, figures)),
                "count": integer(0),
                "redis": text(description="Which store this is."),
            }
        ),
        "QueueStatus": status,
        "AllStatuses": record({"queues": mapping(status), "count": integer(0), "redis": text()}),
    }


def paths() -> Json:
    """Return the paths of this protocol."""
    return {
        "/": path(get=_get_root(), post=_post_root()),
        "/q": path(get=_list()),
        "/q/{queue}": path(QUEUE, get=_take(), post=_add(), delete=_purge()),
        "/p/{queue}": path(QUEUE, get=_get_policy(), post=_post_policy()),
        "/control": path(get=_get_all_control()),
        "/control/{queue}": path(QUEUE, get=_get_control(), post=_post_control()),
        "/stats": path(get=_get_all_stats()),
        "/stats/{queue}": path(QUEUE, get=_get_stats()),
        "/j/{queue}": path(QUEUE, get=_get_jobs()),
    }


def _taken() -> Json:
    described = json_reply(
        "What was taken, leased or looked at: an object, or a list with count or peek.",
        {"oneOf": [ref("Message"), array(ref("Message"), minItems=1)]},
    )
    described["content"] |= {
        kind: {"schema": schema}
        for kind, schema in bytes_reply(
            f"With Accept: {BYTES} the value alone, under the type that it was published with."
        ).items()
    }
    described["headers"] = {
        "X-RestMQ-Key": header(text(), "The key, beside a value alone."),
        "X-RestMQ-Attempt": header(integer(1), "The attempt, beside a leased value alone."),
        "X-RestMQ-Receipt": header(text(), "The receipt, beside a leased value alone."),
        "X-RestMQ-Expires": header(number(), "The lease's end, beside a leased value alone."),
    }
    return described


def _get_root() -> Json:
    named = in_query("queue", QUEUE_NAME, "The queue; without one the dashboard is shown.")
    return operation(
        "takeFromRoot",
        "Take a message of the queue that the query names",
        {
            "200": _taken(),
            "302": reply("The dashboard.", headers={"Location": header(text(), "Its path.")}),
        },
        description="As GET /q/{queue}, but an empty queue is 404.",
        parameters=[named, *TAKING],
        sections=CONSUMER,
        errors=["not-found"],
    )


def _added() -> Json:
    return {
        "200": reply(
            "It is stored and safe. The key, as a line of text; in JSON if Accept asks for that,"
            " and for a batch.",
            {
                TEXT: text(),
                JSON: {"oneOf": [_ADDED_ONE, _ADDED_BATCH]},
                "application/javascript": text(),
            },
            DUPLICATE,
        )
    }


_ADDED_ONE: Final = record({"queue": text(), "key": text()}, additionalProperties=False)
_ADDED_BATCH: Final = record(
    {"queue": text(), "count": integer(1), "keys": array(text())}, additionalProperties=False
)

_VALUE: Final = {
    "value": text(minLength=1),
    "msg": text(minLength=1, description="Wins over value."),
}


def _post_root() -> Json:
    return operation(
        "addToRoot",
        "Add a message to the queue that a parameter names",
        _added(),
        parameters=[
            in_query("queue", QUEUE_NAME, "The queue, unless the form names it."),
            IDEMPOTENCY_KEY,
            CALLBACK,
        ],
        request_body=body(
            form({"queue": QUEUE_NAME}, {**_VALUE, **IN_FORM}, **any_of(*_VALUE), **NOT_BOTH)
        ),
        sections=PRODUCER,
        errors=["queue-full"],
    )


def _list() -> Json:
    return operation(
        "listQueues",
        "All queues, as a page of links",
        {"200": reply("A page, with a link to the next if there is more.", {HTML: text()})},
        parameters=[
            in_query("after", QUEUE_NAME, "Only the names after this one."),
            in_query("limit", integer(1, PAGE), "Up to so many."),
        ],
        sections=CONSUMER,
    )


def _take() -> Json:
    return operation(
        "take",
        "Take the next message, lease it, or look",
        {"200": _taken(), "204": reply("The queue is empty.")},
        description=(
            "Without lease, what is taken is gone: at most once. Parameters may also be headers,"
            " as in X-RestMQ-Wait."
        ),
        parameters=TAKING,
        sections=CONSUMER,
    )


def _add() -> Json:
    raw = text(minLength=1, description="The value itself, byte for byte.")
    return operation(
        "add",
        "Add a message, or many",
        _added(),
        description=(
            "The message is a form's field value (or msg), or else the whole body, whose type is"
            f" kept. A body of type {NDJSON} holds up to {MAX_BATCH_MESSAGES} messages, one a"
            " line: all of them are stored, or none. What is said of a message may also be a"
            " header, as in X-RestMQ-Delay."
        ),
        parameters=[*IN_QUERY, IDEMPOTENCY_KEY, CALLBACK],
        request_body=body(
            {
                **form({}, {**_VALUE, **IN_FORM}, **any_of(*_VALUE), **NOT_BOTH),
                NDJSON: text(minLength=1, pattern=r"\S"),
                TEXT: raw,
                BYTES: {**raw, "format": "binary"},
                JSON: {"description": "Any JSON; it is kept as it was written."},
            }
        ),
        sections=PRODUCER,
        errors=["queue-full"],
    )


def _purge() -> Json:
    return operation(
        "purge",
        "Empty the queue and end its streams",
        {
            "200": json_reply(
                "It is empty.",
                record(
                    {
                        "queue": text(),
                        "status": {**_FLAG, "description": "1 if it held any message."},
                    }
                ),
            )
        },
        parameters=[CALLBACK],
        sections=PRODUCER,
    )


def _get_policy() -> Json:
    return operation(
        "getPolicy",
        "How streams share the queue",
        {
            "200": json_reply(
                "The policy.", record({"queue": text(), "value": choice("broadcast", "roundrobin")})
            )
        },
        parameters=[CALLBACK],
        sections=CONSUMER,
    )


def _post_policy() -> Json:
    return operation(
        "setPolicy",
        "Set how streams share the queue",
        {"200": text_reply("OK")},
        parameters=[CALLBACK],
        request_body=body(form({"policy": choice("broadcast", "roundrobin")})),
        sections=PRODUCER,
    )


def _get_all_control() -> Json:
    return operation(
        "getAllControl",
        "Whether delivery to streams runs, for all queues",
        {"200": json_reply("Each queue.", ref("AllStatuses"))},
        parameters=[*_PAGING, CALLBACK],
        sections=CONSUMER,
    )


_PAGING: Final = [
    in_query("after", QUEUE_NAME, "Only the queues after this one, by name."),
    in_query("limit", integer(1, PAGE), "A page of up to so many; without it all are told."),
]


def _get_control() -> Json:
    return operation(
        "getControl",
        "Whether delivery to streams runs",
        {
            "200": json_reply(
                "The queue.",
                record({"redis": text(), "queue": text(), "status": ref("QueueStatus")}),
            )
        },
        parameters=[CALLBACK],
        sections=CONSUMER,
    )


def _post_control() -> Json:
    return operation(
        "control",
        "Pause delivery to streams, or let it go on",
        {
            "200": json_reply(
                "Done; or, for another word than these two, nothing is, and stat says so.",
                record({"stat": {"oneOf": [ref("QueueStatus"), text()]}}),
            )
        },
        parameters=[CALLBACK],
        request_body=body(form({"status": choice("start", "stop")})),
        sections=PRODUCER,
    )


def _get_all_stats() -> Json:
    return operation(
        "getAllStats",
        "Figures of all queues",
        {"200": json_reply("Each queue; a page of them tells more of each.", ref("AllStats"))},
        parameters=[*_PAGING, CALLBACK],
        sections=CONSUMER,
    )


def _get_stats() -> Json:
    return operation(
        "getStats",
        "Figures of one queue",
        {"200": json_reply("The figures; all zero for a queue that is not.", ref("QueueStats"))},
        parameters=[CALLBACK],
        sections=CONSUMER,
    )


def _get_jobs() -> Json:
    return operation(
        "getJobs",
        "A page about the queue with its newest keys",
        {"200": reply("The page.", {HTML: text()})},
        sections=CONSUMER,
    )
