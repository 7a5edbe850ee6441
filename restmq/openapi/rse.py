"""Events of channels that are polled, under ``/rse``."""

from typing import Final

from restmq.broker.limits import MAX_WAIT_SECONDS
from restmq.endpoints.rse_events import DEFAULT_EVENTS, MAX_EVENTS
from restmq.openapi.vocabulary import (
    EVENTS,
    JAVASCRIPT,
    JSON,
    TEXT,
    Json,
    array,
    body,
    choice,
    in_header,
    in_path,
    in_query,
    integer,
    operation,
    path,
    record,
    ref,
    refusal_components,
    reply,
    text,
)

PREFIX: Final = "Rse"

_SECURITY: Final[list[Json]] = [{}, {"rseToken": []}]
_CHANNEL: Final = in_path(
    "channel", text(pattern="^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", maxLength=1000), "The channel."
)
_USER_AGENT: Final = in_header(
    "User-Agent",
    text(pattern="^[A-Za-z0-9/ ._-]+$"),
    "Who asks: it holds uuid/ and a UUID, by which one's own events are left out.",
    required=True,
)
_CALLBACK: Final = in_query("callback", text(pattern="^[A-Za-z0-9_]{1,128}$"), "For JSONP.")


def schemas() -> Json:
    """Return the components of this protocol."""
    return {
        "RseError": record({"message": text(description="Empty for 401 and 503.")}),
        "Event": record(
            {
                "id": integer(1),
                "user_agent": text(),
                "created_at": text(),
                "age": integer(0, description="Seconds since it was posted."),
                "data": {"type": ["object", "array"]},
            }
        ),
    }


def responses() -> Json:
    """Return the replies for errors in this protocol's shape."""
    return refusal_components(ref("RseError"), PREFIX)


def paths() -> Json:
    """Return the paths of this protocol."""
    return {
        "/rse/{channel}": path(_CHANNEL, get=_poll(), post=_post()),
        "/rse/health": path(get=_health()),
    }


def _poll() -> Json:
    return operation(
        "pollEvents",
        "Poll a channel for events",
        {
            "200": reply(
                "Events; in test mode /rse/all answers with a bare array of them all.",
                {
                    JSON: {
                        "oneOf": [
                            record({"channel": text(), "events": array(ref("Event"))}),
                            array(ref("Event")),
                        ]
                    },
                    JAVASCRIPT: text(),
                    "text/javascript": text(),
                    EVENTS: text(description="With Accept: text/event-stream, as they come."),
                },
            ),
            "201": reply("With method=POST: stored."),
            "204": reply("There is nothing new."),
        },
        parameters=[
            _USER_AGENT,
            in_query("last-known-id", integer(), "Only events after this one."),
            in_query(
                "max-events",
                integer(1, default=DEFAULT_EVENTS),
                f"Up to so many; never more than {MAX_EVENTS}.",
            ),
            in_query("events", choice("parent", "all"), "Those of channels above, or below, too."),
            in_query("echo", choice("true"), "One's own events as well."),
            in_query("sort", {"type": "integer"}, "-1: the newest first."),
            in_query("wait", integer(0, MAX_WAIT_SECONDS), "Seconds to wait for the first."),
            in_query("method", choice("POST"), "Post what post-data holds, for JSONP clients."),
            in_query("post-data", text(minLength=1), "With method=POST: the event, in JSON."),
            in_query("last_event_id", integer(), "For a stream: where to go on."),
            _CALLBACK,
        ],
        error_component=PREFIX,
        errors=["too-large", "not-found"],
        security=_SECURITY,
    )


def _post() -> Json:
    return operation(
        "postEvent",
        "Post an event",
        {"201": reply("It is stored."), "200": reply("The same, for a callback.", _JSONP)},
        parameters=[_USER_AGENT, _CALLBACK],
        request_body=body({JSON: {"type": ["object", "array"]}}, "Whatever its type is."),
        error_component=PREFIX,
        errors=["not-found"],
        security=_SECURITY,
    )


_JSONP: Final = {"text/javascript": text()}


def _health() -> Json:
    detail = choice("true", "false", "yes", "no", "on", "off", "1", "0")
    report = record({"rse": {"type": "object"}, "warnings": array(text())})
    return operation(
        "rseHealth",
        "Whether events can be read; with verbose a report, for those with a token",
        {"200": reply("OK, or the report.", {TEXT: text(), JSON: report})},
        parameters=[
            in_query("verbose", detail, "true for the report."),
            in_query("profile_db", detail, "Of no effect here."),
            in_query("validate_db", detail, "Of no effect here."),
        ],
        error_component=PREFIX,
        security=_SECURITY,
    )
