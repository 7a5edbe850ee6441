"""RSE's replies: polls answered, events taken, and errors in RSE's own shape (section 3)."""

from typing import Final

from restmq.access import BASIC_CHALLENGE, BEARER_CHALLENGE
from restmq.endpoints.rse_events import encode_channel
from restmq.endpoints.web import HTTP_STATUS, Reply, Request, encode_json, javascript
from restmq.errors import (
    CredentialsRequired,
    InvalidKey,
    KeyRequired,
    MethodNotAllowed,
    RestMQError,
    Unavailable,
)

JSON: Final = "application/json; charset=utf-8"
JAVASCRIPT: Final = "text/javascript; charset=utf-8"

CHANNEL_METHODS: Final = "GET, POST"
HEALTH_METHODS: Final = "GET, HEAD"

_SILENT_STATUSES = (401, 503)


def poll_reply(channel: str, events: bytes, callback: str | None) -> Reply:
    """Answer a poll with what was found; ``events`` is JSON with commas in between."""
    if callback is None and not events:
        return Reply(status=204)
    document = encode_channel(channel, events)
    return Reply(document, content_type=JSON) if callback is None else _jsonp(callback, document)


def stored_reply(callback: str | None) -> Reply:
    """Say that an event is stored."""
    return Reply(status=201) if callback is None else _jsonp(callback, b"{}")


def _jsonp(callback: str, json_text: bytes) -> Reply:
    body = b"%b(%b);" % (callback.encode(), javascript(json_text))
    headers = [("X-Content-Type-Options", "nosniff")]
    return Reply(body, content_type=JAVASCRIPT, headers=headers)


def refuse(request: Request, error: RestMQError) -> Reply:
    """Reply with an error in RSE's shape: a message alone, and none for 401 and 503."""
    status = HTTP_STATUS.get(error.code, 500)
    message = "" if status in _SILENT_STATUSES else str(error)
    headers: list[tuple[str, str]] = []
    if isinstance(error, MethodNotAllowed):
        message = request.method
        is_health = error.allowed == HEALTH_METHODS
        # The front door would name the methods that are only in its table to be refused here.
        headers = [("Allow", HEALTH_METHODS if is_health else CHANNEL_METHODS)]
    elif isinstance(error, CredentialsRequired):
        is_about_key = isinstance(error, KeyRequired | InvalidKey)
        headers = [("WWW-Authenticate", BEARER_CHALLENGE if is_about_key else BASIC_CHALLENGE)]
    elif isinstance(error, Unavailable):
        headers = [("Retry-After", str(error.retry_after_seconds))]
    body = b'{ "message": %b }' % encode_json(message)
    return Reply(body, status=status, content_type=JSON, headers=headers)
