"""Reliable delivery: leases, single messages, dead letters, and the settings of queues."""

from typing import Any, Final

import msgspec

from restmq.access import Section
from restmq.endpoints.delivery import MAX_COUNT
from restmq.endpoints.leases import MAX_RECEIPTS
from restmq.endpoints.messages import DEFAULT_LISTED, MAX_OFFSET, MAX_REDRIVEN
from restmq.openapi.queues import AT, CONSUMER, DELAY, LEASE, PRIORITY, PRODUCER
from restmq.openapi.vocabulary import (
    CALLBACK,
    JSON,
    QUEUE,
    QUEUE_NAME,
    Json,
    array,
    body,
    choice,
    form,
    in_path,
    in_query,
    integer,
    json_reply,
    not_both,
    number,
    one_of,
    operation,
    or_null,
    path,
    record,
    ref,
    reply,
    text,
)
from restmq.queue_settings import (
    _CHECKS,
    DEFAULTS,
    MAX_COPIES,
    NONE,
    QueueSettings,
    _Choice,
    _Number,
)

_RECEIPT: Final = r"[1-9][0-9]{0,15}\.[0-9a-f]{16}\.[A-Za-z0-9_-]{2,1400}"
_RECEIPTS: Final = in_path(
    "receipts",
    text(pattern=f"^{_RECEIPT}(,{_RECEIPT})*$"),
    f"The receipt of a leased message, or up to {MAX_RECEIPTS} of them with commas in between.",
)
_KEY: Final = in_path(
    "key", text(pattern="^.+:[1-9][0-9]{0,14}$"), "The message's key, as in jobs:7."
)
_YES: Final = {"const": True}


def schemas() -> Json:
    """Return the components of this protocol."""
    story = {
        "published": number(description="When, as Unix time."),
        "expires": or_null(number(description="When its ttl ends, as Unix time.")),
        "priority": PRIORITY,
        "content_type": or_null(text()),
        "attempts": integer(0),
    }
    message = {"key": text(), "value": text()}
    encoding = {"encoding": choice("base64")}
    return {
        "MessageState": record(
            {
                **message,
                **story,
                "state": choice("ready", "delayed", "leased", "dead"),
                "last_error": or_null(text(description="Why it last came back.")),
            },
            {
                **encoding,
                "lease_expires": number(),
                "ready_at": number(),
                "died": number(),
            },
        ),
        "DeadLetter": record({**message, **story, "reason": text(), "died": number()}, encoding),
        "Settlement": record(
            {"key": text()},
            {
                "acked": _YES,
                "released": _YES,
                "buried": _YES,
                "expires": number(description="When the lease ends now, as Unix time."),
            },
        ),
        "RefusedReceipt": record({"receipt": text(), "error": text(), "message": text()}),
        "QueueSettings": _settings_schema(),
        "QueueSettingsChange": _change_schema(),
    }


def _settings_schema() -> Json:
    """Describe the settings in force from the struct that holds them."""
    described: Json = msgspec.json.schema(QueueSettings)["$defs"]["QueueSettings"]
    described.pop("title", None)
    return {**described, "required": list(described["properties"])}


def _change_schema() -> Json:
    """Describe a change from the table that checks it: each name, or null to take it back."""
    properties = {name: or_null(_setting(name, check)) for name, check in _CHECKS.items()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _setting(name: str, check: Any) -> Json:
    if isinstance(check, _Choice):
        return {"enum": [*check.words, None]}
    if isinstance(check, _Number):
        make = integer if check.whole else number
        schema = make(check.minimum, check.maximum)
        return {"anyOf": [schema, {"const": NONE}]} if check.may_be_none else schema
    default = getattr(DEFAULTS, name)
    assert isinstance(default, tuple), f"the setting {name} is of a kind that is not described"
    return array(QUEUE_NAME, maxItems=MAX_COPIES, uniqueItems=True)


def paths() -> Json:
    """Return the paths of this protocol."""
    return {
        "/lease/{receipts}": path(_RECEIPTS, delete=_ack(), post=_settle()),
        "/m/{key}": path(_KEY, get=_inspect(), post=_move(), delete=_remove()),
        "/dead/{queue}": path(QUEUE, get=_list_dead(), post=_redrive(), delete=_drop()),
        "/settings/{queue}": path(
            QUEUE, get=_get_settings(), patch=_change_settings(), delete=_reset_settings()
        ),
    }


def _settled() -> Json:
    one = ref("Settlement")
    either = {"anyOf": [one, ref("RefusedReceipt")]}
    return {
        "200": json_reply(
            "Done; of several receipts, a list of what became of each.",
            {"oneOf": [one, array(either)]},
        )
    }


def _ack() -> Json:
    return operation(
        "acknowledge",
        "The leased message is done",
        _settled(),
        description="It is gone for good. A lease that has ended, or was settled, is 409.",
        parameters=[CALLBACK],
        sections=CONSUMER,
        errors=["stale-receipt"],
    )


def _settle() -> Json:
    verbs = {
        "extend": {**LEASE, "description": "Let the lease run so many seconds from now."},
        "release": {**DELAY, "description": "Give it back, after so many seconds."},
        "dead": text(minLength=1, description="Make it a dead letter, for this reason."),
        "attempt": choice("keep", description="With release: the attempt does not count."),
    }
    return operation(
        "settle",
        "Extend a lease, give the message back, or bury it",
        _settled(),
        description="Exactly one of extend, release and dead.",
        parameters=[CALLBACK],
        request_body=body(
            form(
                {},
                verbs,
                **one_of("extend", "release", "dead"),
                dependentRequired={"attempt": ["release"]},
            )
        ),
        sections=CONSUMER,
        errors=["stale-receipt"],
    )


def _inspect() -> Json:
    return operation(
        "inspect",
        "A message and its story, left as it is",
        {"200": json_reply("The message.", ref("MessageState"))},
        parameters=[CALLBACK],
        sections=CONSUMER,
        errors=["not-found"],
    )


def _move() -> Json:
    moves = {"delay": DELAY, "at": AT, "priority": PRIORITY}
    return operation(
        "move",
        "Reschedule a delayed message, or move a ready one to another priority",
        {
            "200": json_reply(
                "It is moved.",
                record({"key": text()}, {"rescheduled": _YES, "priority": PRIORITY}),
            )
        },
        description="Exactly one of delay, at and priority.",
        parameters=[CALLBACK],
        request_body=body(form({}, moves, **one_of(*moves))),
        sections=PRODUCER,
        errors=["not-found", "conflict"],
    )


def _remove() -> Json:
    return operation(
        "remove",
        "Remove a message, in whatever state it is",
        {"200": json_reply("It is gone.", record({"key": text(), "deleted": _YES}))},
        parameters=[CALLBACK],
        sections=PRODUCER,
        errors=["not-found", "conflict"],
    )


def _list_dead() -> Json:
    return operation(
        "listDead",
        "The dead letters, oldest first",
        {
            "200": json_reply("Some of them.", array(ref("DeadLetter"), minItems=1)),
            "204": reply("There is none."),
        },
        parameters=[
            in_query("count", integer(1, MAX_COUNT, default=DEFAULT_LISTED), "Up to so many."),
            in_query("offset", integer(0, MAX_OFFSET), "After the first so many."),
            CALLBACK,
        ],
        sections=CONSUMER,
    )


def _redrive() -> Json:
    chosen = {
        "count": integer(1, MAX_REDRIVEN, description="Only the first so many."),
        "key": text(minLength=1, description="Only this one; goes without count."),
    }
    return operation(
        "redrive",
        "Put dead letters back into the queue",
        {"200": json_reply("So many.", record({"queue": text(), "redriven": integer(0)}))},
        description="All of them, unless the form says less.",
        parameters=[CALLBACK],
        request_body=body(form({}, chosen, **not_both("count", "key")), required=False),
        sections=PRODUCER,
        errors=["not-found", "queue-full"],
    )


def _drop() -> Json:
    return operation(
        "dropDead",
        "Throw all dead letters away",
        {"200": json_reply("So many.", record({"queue": text(), "dropped": integer(0)}))},
        parameters=[CALLBACK],
        sections=PRODUCER,
    )


_IN_FORCE: Final = {"200": json_reply("All settings in force.", ref("QueueSettings"))}


def _get_settings() -> Json:
    return operation(
        "getSettings",
        "The settings of the queue",
        _IN_FORCE,
        parameters=[CALLBACK],
        sections=(Section.CONSUMER,),
    )


def _change_settings() -> Json:
    return operation(
        "changeSettings",
        "Change settings, all of these or none",
        _IN_FORCE,
        description="null takes one back; storage is fixed once the queue exists.",
        parameters=[CALLBACK],
        request_body=body({JSON: ref("QueueSettingsChange")}),
        sections=(Section.PRODUCER,),
        errors=["conflict"],
    )


def _reset_settings() -> Json:
    return operation(
        "resetSettings",
        "Take back all that was set for the queue",
        _IN_FORCE,
        parameters=[CALLBACK],
        sections=(Section.PRODUCER,),
    )
