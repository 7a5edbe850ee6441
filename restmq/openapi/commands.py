"""The JSON protocol on ``/queue``."""

from typing import Final

from restmq.access import Section
from restmq.broker.limits import MAX_LEASE_SECONDS, MAX_WAIT_SECONDS
from restmq.endpoints.commands import MAX_COMMANDS
from restmq.endpoints.delivery import MAX_COUNT
from restmq.openapi.queues import DELAY, IN_FORM, NOT_BOTH
from restmq.openapi.vocabulary import (
    JSON,
    QUEUE_NAME,
    Json,
    any_of,
    array,
    body,
    choice,
    form,
    header,
    in_path,
    integer,
    number,
    operation,
    path,
    record,
    ref,
    reply,
    text,
)


def _command(word: str, fields: Json, optional: Json | None = None, **more: Json) -> Json:
    """Describe a command about a queue."""
    return record(
        {"cmd": choice(word), **fields}, {"queue": QUEUE_NAME, **(optional or {})}, **more
    )


def _settlement(word: str, fields: Json | None = None, optional: Json | None = None) -> Json:
    """Describe a command about a lease, whose receipt says all."""
    return record({"cmd": choice(word), "receipt": text(), **(fields or {})}, optional)


_SECONDS: Final = number(1, MAX_LEASE_SECONDS)
_COUNT: Final = integer(1, MAX_COUNT)
_WAIT: Final = number(0, MAX_WAIT_SECONDS)


def schemas() -> Json:
    """Return the components of this protocol."""
    commands = [
        _command(
            "add", {"value": {"description": "Text, or any JSON."}}, dict(IN_FORM), **NOT_BOTH
        ),
        _command("get", {}),
        _command("take", {}),
        _command("del", {"key": text()}),
        _command("lease", {}, {"seconds": _SECONDS, "wait": _WAIT, "count": _COUNT}),
        _settlement("ack"),
        _settlement("nack", optional={"delay": DELAY}),
        _settlement("extend", {"seconds": _SECONDS}),
        _command("peek", {}, {"count": _COUNT}),
        _command("len", {}),
    ]
    return {
        "Command": {
            "description": "What shall be done; queue may be left to the path.",
            "oneOf": commands,
        },
        "Commands": {
            "oneOf": [ref("Command"), array(ref("Command"), minItems=1, maxItems=MAX_COMMANDS)]
        },
        "CommandAnswer": {
            "type": "object",
            "description": "Fields by the command, or error where it could not be carried out.",
            "properties": {"error": text(), "queue": text(), "value": text()},
        },
    }


def paths() -> Json:
    """Return the paths of this protocol."""
    name = in_path("queue", QUEUE_NAME, "The queue of commands that name none.")
    return {
        "/queue": path(get=_help(), post=_command_operation("command")),
        "/queue/{queue}": path(name, post=_command_operation("commandForQueue")),
    }


def _help() -> Json:
    return operation(
        "commandHelp",
        "The page with a form to try commands",
        {"302": reply("The page.", headers={"Location": header(text(), "Its path.")})},
    )


def _command_operation(name: str) -> Json:
    one = text(minLength=1, description="A command, or an array of them, in JSON.")
    return operation(
        name,
        "Carry out a command, or several",
        {
            "200": reply(
                "What came of it; of an array, an array with each answer in its place.",
                {JSON: {"oneOf": [ref("CommandAnswer"), array(ref("CommandAnswer"))]}},
            )
        },
        description=(
            "get, take, lease, ack, nack, extend, peek and len need the access of consumers as"
            " well. Expected errors are answered with 200 and a field error."
        ),
        request_body=body(
            {JSON: ref("Commands"), **form({}, {"body": one, "msg": one}, **any_of("body", "msg"))}
        ),
        sections=(Section.PRODUCER,),
        errors=["queue-full", "conflict", "not-found"],
    )
