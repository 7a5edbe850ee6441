"""Queuey: stored messages of many applications, under ``/v1``."""

from typing import Final

from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.endpoints.queuey_fields import (
    DEFAULT_LIMIT,
    DEFAULT_TTL_SECONDS,
    MAX_BATCH_MESSAGES,
    MAX_LIMIT,
    MAX_NAME_CHARACTERS,
    MAX_PARTITIONS,
    MAX_TTL_SECONDS,
)
from restmq.openapi.vocabulary import (
    EVENTS,
    JSON,
    TEXT,
    URLENCODED,
    Json,
    array,
    body,
    choice,
    in_header,
    in_path,
    in_query,
    integer,
    mapping,
    number,
    operation,
    or_null,
    path,
    record,
    ref,
    refusal_components,
    reply,
    text,
)

PREFIX: Final = "Queuey"

_SECURITY: Final[list[Json]] = [{"applicationKey": []}]
_APPLICATION: Final = in_path("application", text(minLength=1), "An application that has a key.")
_QUEUE: Final = in_path(
    "queue",
    text(minLength=1, maxLength=MAX_NAME_CHARACTERS, pattern="^[^/\\x00-\\x1f\\x7f-\\x9f]+$"),
    "The queue's name.",
)
_MESSAGES: Final = in_path(
    "messages",
    text(pattern="^([0-9]{1,3}:)?[0-9a-f]{32}(,([0-9]{1,3}:)?[0-9a-f]{32})*$"),
    "Messages by their ids, [partition:]id, with commas in between.",
)
_TTL: Final = integer(1, MAX_TTL_SECONDS, default=DEFAULT_TTL_SECONDS)
_PARTITION: Final = integer(1, MAX_PARTITIONS)
_PRINCIPLE: Final = r"(app:[A-Za-z0-9_]+|bid:[A-Za-z0-9_]+@[A-Za-z0-9_]+\.[A-Za-z0-9_]+)"
_HEX: Final = text(pattern="^[0-9a-f]{32}$")
_TIME: Final = text(description="Seconds since 1970 with seven decimals.")
_OK: Final = {"status": {"const": "ok"}}
_MANY: Final = "With as many as there are, the list is sent as it is read."

_TTL_HEADER: Final = in_header("X-TTL", _TTL, "Seconds until the message expires.")
_PARTITION_HEADER: Final = in_header("X-Partition", _PARTITION, "The partition; else any.")


def schemas() -> Json:
    """Return the components of this protocol."""
    posted = record({"key": _HEX, "timestamp": _TIME, "partition": _PARTITION})
    settings = {
        "partitions": integer(1, MAX_PARTITIONS),
        "type": choice("user", "public"),
        "consistency": choice("strong", "weak", "very_strong"),
    }
    return {
        "QueueyError": record(
            {
                "status": {"const": "error"},
                "error_msg": mapping(text(), description="What is wrong, by field."),
            }
        ),
        "QueueyDone": record(_OK),
        "QueueyPosted": record({**_OK, "messages": array(posted)}),
        "QueueyMessages": record(
            {
                **_OK,
                "messages": array(
                    record(
                        {
                            "message_id": _HEX,
                            "timestamp": _TIME,
                            "body": text(),
                            "partition": _PARTITION,
                        }
                    )
                ),
            }
        ),
        "QueueyQueue": record(
            {"queue_name": text()},
            {
                **settings,
                "application": text(),
                "created": number(),
                "principles": text(),
                "count": integer(0),
            },
        ),
        "QueueySettings": record(
            {**_OK, "queue_name": text(), **settings},
            {
                "created": number(),
                "principles": {"type": ["string", "array", "null"], "items": text()},
            },
        ),
        "QueueyQueues": record({**_OK, "queues": array(ref("QueueyQueue"))}),
    }


def responses() -> Json:
    """Return the replies for errors in this protocol's shape."""
    return refusal_components(ref("QueueyError"), PREFIX)


def paths() -> Json:
    """Return the paths of this protocol."""
    return {
        "/v1/{application}": path(_APPLICATION, get=_list(), post=_create()),
        "/v1/{application}/{queue}": path(
            _APPLICATION, _QUEUE, get=_read(), post=_post(), put=_update(), delete=_delete()
        ),
        "/v1/{application}/{queue}/{messages}": path(
            _APPLICATION, _QUEUE, _MESSAGES, get=_get(), put=_put(), delete=_remove()
        ),
        "/__heartbeat__": path(get=_heartbeat()),
    }


def _operation(name: str, summary: str, status: str, answer: Json, **more: object) -> Json:
    return operation(
        name,
        summary,
        {status: answer},
        error_component=PREFIX,
        errors=["not-found", "forbidden", "unsupported-media-type", "conflict"],
        security=_SECURITY,
        **more,  # type: ignore[arg-type]  # as the callers below give them
    )


def _done(schema: str, description: str = "Done.") -> Json:
    return reply(description, {JSON: ref(schema)})


def _settings_form(optional: Json | None = None) -> Json:
    fields = {
        **(optional or {}),
        "partitions": integer(1, MAX_PARTITIONS),
        "type": choice("user", "public"),
        "consistency": choice("strong", "weak", "very_strong"),
        "principles": text(
            pattern=f"^({_PRINCIPLE}(,{_PRINCIPLE})*)?$",
            description="app:NAME and bid:USER@HOST, with commas in between.",
        ),
    }
    return body({URLENCODED: record({}, fields)}, required=False)


def _list() -> Json:
    flag = choice("true", "false")
    return _operation(
        "listApplicationQueues",
        "The application's queues by name",
        "200",
        _done("QueueyQueues", _MANY),
        parameters=[
            in_query("limit", integer(1, 10**17), "Up to so many."),
            in_query("offset", text(minLength=1), "From this name on."),
            in_query("details", flag, "Their settings as well."),
            in_query("include_count", flag, "And how many messages they have."),
        ],
    )


def _create() -> Json:
    name = text(minLength=1, maxLength=MAX_NAME_CHARACTERS, description="Else one is made up.")
    return _operation(
        "createApplicationQueue",
        "Make a queue, or change it if there is one",
        "201",
        _done("QueueySettings"),
        request_body=_settings_form({"queue_name": name}),
    )


def _read() -> Json:
    answer = reply(
        "Messages; with Accept: text/event-stream a stream of them and of what comes.",
        {JSON: ref("QueueyMessages"), EVENTS: text()},
    )
    return _operation(
        "readApplicationQueue",
        "Read messages in order",
        "200",
        answer,
        parameters=[
            in_query(
                "limit",
                integer(1, MAX_LIMIT, default=DEFAULT_LIMIT),
                "Up to so many of each partition.",
            ),
            in_query("order", choice("ascending", "descending"), "By time."),
            in_query(
                "since",
                text(pattern="^([0-9a-f]{32}|[0-9]{1,12}(\\.[0-9]{1,7})?)$"),
                "From this id, or this Unix time, on.",
            ),
            in_query("partitions", text(pattern="^[0-9]+(,[0-9]+)*$"), "Which ones; else 1."),
            in_query("wait", integer(0, MAX_WAIT_SECONDS), "Seconds to wait for something."),
            in_header("Last-Event-ID", _MESSAGES["schema"], "After these positions."),
            in_query("last_event_id", _MESSAGES["schema"], "The same, where headers cannot be."),
        ],
    )


def _post() -> Json:
    draft = record({"body": text(minLength=1)}, {"ttl": or_null(_TTL), "partition": _PARTITION})
    batch = record({"messages": array(draft, maxItems=MAX_BATCH_MESSAGES)})
    return _operation(
        "postMessages",
        "Store messages, all or none",
        "201",
        _done("QueueyPosted", "They are stored."),
        parameters=[_TTL_HEADER, _PARTITION_HEADER],
        request_body=body({TEXT: text(minLength=1), JSON: batch}),
    )


def _update() -> Json:
    return _operation(
        "updateApplicationQueue",
        "Change the settings of a queue",
        "200",
        _done("QueueySettings"),
        request_body=_settings_form(),
    )


def _delete() -> Json:
    return _operation(
        "deleteApplicationQueue", "Delete a queue with all its messages", "200", _done("QueueyDone")
    )


def _get() -> Json:
    return _operation(
        "getMessages", "Messages by their ids", "200", _done("QueueyMessages", "Those there are.")
    )


def _put() -> Json:
    return _operation(
        "putMessages",
        "Store a body under each id",
        "200",
        _done("QueueyDone"),
        parameters=[_TTL_HEADER],
        request_body=body({TEXT: text(minLength=1)}),
    )


def _remove() -> Json:
    return _operation("deleteMessages", "Delete messages by their ids", "200", _done("QueueyDone"))


def _heartbeat() -> Json:
    return operation(
        "heartbeat",
        "Whether the server is there",
        {"200": _done("QueueyDone", "It is.")},
        error_component=PREFIX,
        errors=["not-found"],
    )
