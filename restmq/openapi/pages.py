"""What a server says about itself: health, figures, this description, and pages for people."""

from typing import Final

from restmq.access import Section
from restmq.openapi.vocabulary import (
    HTML,
    JSON,
    QUEUE_NAME,
    TEXT,
    URLENCODED,
    Json,
    body,
    choice,
    header,
    in_header,
    in_path,
    in_query,
    operation,
    path,
    record,
    refusal_components,
    reply,
    text,
)

PREFIX: Final = "Page"

_PAGE: Final = in_path("page", text(minLength=1), "The name of a page, as in delivery.md.")
_VIEW: Final = in_path(
    "view",
    choice(
        "queue", "confirm", "value", "logs", "channel", "application", "nodes", "redis", "static"
    ),
    "What is shown; its links and forms know the rest.",
)
_NAME: Final = in_query("name", QUEUE_NAME, "The queue.", required=True)
_FILE: Final = in_path("file", text(minLength=1), "The name of a file.")


def paths() -> Json:
    """Return the paths of this kind."""
    return {
        "/healthz": path(get=_alive()),
        "/readyz": path(get=_ready()),
        "/metrics": path(get=_metrics()),
        "/openapi.json": path(get=_description()),
        "/static/{file}": path(_FILE, get=_static()),
        "/docs/{page}": path(_PAGE, get=_manual()),
        "/ui/{view}": path(_VIEW, get=_dashboard()),
        "/ui/queue": path(_NAME, post=_change_in_dashboard()),
    }


def responses() -> Json:
    """Return the replies for errors that are pages."""
    return refusal_components(text(), PREFIX, HTML)


def _alive() -> Json:
    return operation(
        "alive", "Whether the process answers", {"200": reply("It does.", {TEXT: text()})}
    )


def _ready() -> Json:
    return operation(
        "ready",
        "Whether Redis answers and the server is not leaving",
        {"200": reply("It may be sent requests.", {TEXT: text()})},
    )


def _metrics() -> Json:
    formats = {TEXT: text(), "application/openmetrics-text": text()}
    return operation(
        "metrics",
        "Figures for Prometheus",
        {"200": reply("In its text format.", formats)},
        sections=(Section.CONSUMER,),
    )


def _description() -> Json:
    tag = header(text(), "Changes when the description does.")
    return operation(
        "describe",
        "This description",
        {
            "200": reply("OpenAPI 3.1.", {JSON: {"type": "object"}}, {"ETag": tag}),
            "304": reply("It is what If-None-Match says.", headers={"ETag": tag}),
        },
        parameters=[in_header("If-None-Match", text(pattern='^"[0-9a-f]+"$'), "What is known.")],
    )


def _static() -> Json:
    kinds = (HTML, "text/css", "text/javascript", "application/javascript", "image/svg+xml")
    return operation(
        "getFile",
        "Pages for people",
        {"200": reply("The file.", {kind: text() for kind in kinds})},
        errors=["not-found"],
    )


def _manual() -> Json:
    return operation(
        "getManualPage",
        "A page of the manual, as Markdown; as HTML for those whose Accept names that",
        {
            "200": reply("The page.", {"text/markdown": text(), HTML: text()}),
            "304": reply("It is what If-None-Match says."),
        },
        errors=["not-found"],
    )


def _dashboard() -> Json:
    return operation(
        "getDashboardPage",
        "A page of the dashboard",
        {
            "200": reply(
                "The page, or a message's value as a file.",
                {HTML: text(), "application/octet-stream": text(format="binary")},
            )
        },
        description="It is for people, and may change; programs have all of it elsewhere here.",
        parameters=[in_query("name", text(minLength=1), "What the page is about.")],
        sections=(Section.CONSUMER,),
        errors=["not-found"],
        error_component=PREFIX,
    )


def _change_in_dashboard() -> Json:
    return operation(
        "changeInDashboard",
        "What a form of the dashboard asks for",
        {"303": reply("Done; where the outcome is told.", {HTML: text(), TEXT: text()})},
        request_body=body({URLENCODED: record({"action": text(minLength=1)})}),
        sections=(Section.PRODUCER,),
        errors=["not-found", "conflict", "queue-full"],
        error_component=PREFIX,
    )
