"""The whole description: what is said of the server, and the paths of all protocols."""

from typing import Final

from restmq import __version__
from restmq.access import BASIC_CHALLENGE
from restmq.endpoints.peers import KEY_HEADER, KEY_PARAMETER
from restmq.endpoints.web import HTTP_STATUS
from restmq.openapi import (
    channels,
    commands,
    delivery,
    pages,
    queues,
    queuey,
    rse,
    streams,
)
from restmq.openapi.vocabulary import ERROR, Json, choice, record, ref, refusal_components, text

OPENAPI: Final = "3.1.0"

_DESCRIPTION: Final = """\
Queues over HTTP, durable before the answer. An error is JSON with a stable code word in `error` and
a line for people in `message`; Queuey and RSE have shapes of their own. Parameters that are newer
than RestMQ's classic ones may stand in the query, in a form, or in a header `X-RestMQ-<Name>`. HEAD
is understood where GET changes nothing, OPTIONS everywhere.

Which credentials a request needs is up to the operator (acl.conf, API keys): by default none."""

_TAGS: Final = {
    "Queues": (queues.paths, "Add and take messages; policies, pauses and figures of queues."),
    "Delivery": (delivery.paths, "Leases, single messages, dead letters, settings."),
    "Commands": (commands.paths, "The JSON protocol."),
    "Streams": (streams.paths, "Messages as they come, and feeders."),
    "Channels": (channels.paths, "Logs that each client reads at its own cursor."),
    "RSE": (rse.paths, "Events that are polled for."),
    "Queuey": (queuey.paths, "Stored messages of applications."),
    "Server": (pages.paths, "What the server says about itself."),
}


def describe() -> Json:
    """Return the description as an OpenAPI 3.1 document."""
    return {
        "openapi": OPENAPI,
        "info": {"title": "RestMQ", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/", "description": "The server that tells this."}],
        "tags": [{"name": name, "description": words} for name, (_, words) in _TAGS.items()],
        "paths": _paths(),
        "components": {
            "schemas": _schemas(),
            "responses": {
                **refusal_components(ref(ERROR)),
                **rse.responses(),
                **queuey.responses(),
                **pages.responses(),
            },
            "securitySchemes": _security_schemes(),
        },
    }


def _paths() -> Json:
    found: Json = {}
    for tag, (paths, _) in _TAGS.items():
        for name, item in paths().items():
            for method, operation in item.items():
                if method != "parameters":
                    operation["tags"] = [tag]
            found[name] = item
    return found


def _schemas() -> Json:
    codes = sorted({*HTTP_STATUS, "internal-error"})
    error = record(
        {
            "error": choice(*codes, description="A stable code word."),
            "message": text(description="What is wrong and what to change, for people."),
        }
    )
    return {
        ERROR: error,
        **queues.schemas(),
        **delivery.schemas(),
        **commands.schemas(),
        **channels.schemas(),
        **rse.schemas(),
        **queuey.schemas(),
    }


def _security_schemes() -> Json:
    return {
        "basic": {
            "type": "http",
            "scheme": "basic",
            "description": f"User and password of acl.conf ({BASIC_CHALLENGE}).",
        },
        "bearer": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, made by `restmq keys`.",
        },
        "apiKey": {
            "type": "apiKey",
            "in": "header",
            "name": str(KEY_HEADER),
            "description": "An API key, beside other credentials.",
        },
        "apiKeyInQuery": {
            "type": "apiKey",
            "in": "query",
            "name": KEY_PARAMETER.decode(),
            "description": "An API key, for streams of browsers, which cannot send headers.",
        },
        "authCookie": {
            "type": "apiKey",
            "in": "cookie",
            "name": "auth",
            "description": "USER:PASSWORD, for WebSockets of browsers.",
        },
        "applicationKey": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "Application KEY, the key of a Queuey application.",
        },
        "rseToken": {
            "type": "apiKey",
            "in": "header",
            "name": "X-Auth-Token",
            "description": "A token of the setting rse_tokens.",
        },
    }
