"""The words of the description: schemas, parameters, bodies, replies, operations."""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, Final

from restmq.access import Section
from restmq.endpoints.delivery import BYTES
from restmq.endpoints.web import HTTP_STATUS
from restmq.queue_settings import MAX_NAME_BYTES

Json = dict[str, Any]

JSON: Final = "application/json"
JAVASCRIPT: Final = "application/javascript"
TEXT: Final = "text/plain"
HTML: Final = "text/html"
EVENTS: Final = "text/event-stream"
URLENCODED: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"

CALLBACK_PATTERN: Final = "^[A-Za-z_$][A-Za-z0-9_$.]{0,127}$"

ERROR: Final = "Error"
"""The component with the shape that errors have where a protocol has none of its own."""

EVERYWHERE: Final = ("invalid-input", "unavailable")
"""What any route may answer: a request that cannot be read, and a store out of reach."""

_SCHEMES: Final = ("basic", "bearer", "apiKey")
_STREAM_SCHEMES: Final = (*_SCHEMES, "apiKeyInQuery")
_SECURITY: Final[Mapping[Section, tuple[str, ...]]] = MappingProxyType(
    dict.fromkeys(Section, _SCHEMES)
    | {Section.COMET: _STREAM_SCHEMES, Section.WEBSOCKET: (*_STREAM_SCHEMES, "authCookie")}
)
"""By which schemes a section of acl.conf that asks for credentials can be satisfied."""


# Schemas


def text(**more: Any) -> Json:
    """Return the schema of a string."""
    return {"type": "string", **more}


def integer(minimum: int | None = None, maximum: int | None = None, **more: Any) -> Json:
    """Return the schema of a whole number in a range."""
    return {"type": "integer", **_range(minimum, maximum), **more}


def number(minimum: float | None = None, maximum: float | None = None, **more: Any) -> Json:
    """Return the schema of a number in a range."""
    return {"type": "number", **_range(minimum, maximum), **more}


def _range(minimum: float | None, maximum: float | None) -> Json:
    limits = {"minimum": minimum, "maximum": maximum}
    return {name: limit for name, limit in limits.items() if limit is not None}


def choice(*words: str, **more: Any) -> Json:
    """Return the schema of one of some words."""
    return {"type": "string", "enum": list(words), **more}


def array(items: Json, **more: Any) -> Json:
    """Return the schema of a list."""
    return {"type": "array", "items": items, **more}


def record(
    properties: Mapping[str, Json], optional: Mapping[str, Json] | None = None, **more: Any
) -> Json:
    """Return the schema of an object: what it must have, and what it may have."""
    return {
        "type": "object",
        "properties": {**properties, **(optional or {})},
        **({"required": list(properties)} if properties else {}),
        **more,
    }


def not_both(first: str, second: str) -> Json:
    """Return what a schema adds to say that two names exclude each other."""
    return {"not": {"required": [first, second]}}


def one_of(*names: str) -> Json:
    """Return what a schema adds to say that exactly one of these names must be there."""
    return {"oneOf": [{"required": [name]} for name in names]}


def any_of(*names: str) -> Json:
    """Return what a schema adds to say that one of these names must be there, or more."""
    return {"anyOf": [{"required": [name]} for name in names]}


def mapping(values: Json, **more: Any) -> Json:
    """Return the schema of an object with any names."""
    return {"type": "object", "additionalProperties": values, **more}


def or_null(schema: Json) -> Json:
    """Return a schema that null fits as well."""
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Json:
    """Return a reference to a schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}


QUEUE_NAME: Final[Json] = text(minLength=1, maxLength=MAX_NAME_BYTES)

# Parameters


def in_query(name: str, schema: Json, description: str, *, required: bool = False) -> Json:
    """Return a parameter of the query string."""
    return _parameter("query", name, schema, description, required)


def in_header(name: str, schema: Json, description: str, *, required: bool = False) -> Json:
    """Return a parameter that is a header."""
    return _parameter("header", name, schema, description, required)


def in_path(name: str, schema: Json, description: str) -> Json:
    """Return a parameter of the path; slashes in it may stand as they are."""
    return _parameter("path", name, schema, description, True)


def _parameter(place: str, name: str, schema: Json, description: str, required: bool) -> Json:
    parameter = {"name": name, "in": place, "description": description, "schema": schema}
    return {**parameter, "required": True} if required else parameter


QUEUE: Final = in_path(
    "queue",
    QUEUE_NAME,
    "The queue's name, percent-encoded UTF-8 of at most"
    f" {MAX_NAME_BYTES} bytes. Slashes and colons may stand as they are.",
)

CALLBACK: Final = in_query(
    "callback",
    text(pattern=CALLBACK_PATTERN),
    "A JavaScript function that shall be called with the answer (JSONP).",
)

# Bodies


def body(content: Mapping[str, Json], description: str = "", *, required: bool = True) -> Json:
    """Return a request body by media type; the values are schemas."""
    described = {"description": description} if description else {}
    return {
        **described,
        "required": required,
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
    }


def form(
    properties: Mapping[str, Json], optional: Mapping[str, Json] | None = None, **more: Any
) -> dict[str, Json]:
    """Return the content of a body that is a form, in both of the ways to send one."""
    schema = record(properties, optional, **more)
    return {URLENCODED: schema, MULTIPART: schema}


# Replies


def reply(
    description: str,
    content: Mapping[str, Json] | None = None,
    headers: Mapping[str, Json] | None = None,
) -> Json:
    """Return a reply; the values of ``content`` are schemas by media type."""
    described: Json = {"description": description}
    if content:
        described["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    if headers:
        described["headers"] = dict(headers)
    return described


def json_reply(description: str, schema: Json, headers: Mapping[str, Json] | None = None) -> Json:
    """Return a reply in JSON, which a callback makes JSONP."""
    return reply(description, {JSON: schema, JAVASCRIPT: text()}, headers)


def text_reply(description: str, headers: Mapping[str, Json] | None = None) -> Json:
    """Return a reply that is a line of text, which a callback makes JSONP."""
    return reply(description, {TEXT: text(), JAVASCRIPT: text()}, headers)


def bytes_reply(description: str) -> Json:
    """Return the content of a reply that is a value byte for byte."""
    return {BYTES: text(format="binary", description=description)}


def header(schema: Json, description: str) -> Json:
    """Return a header line of a reply."""
    return {"description": description, "schema": schema}


def component_of(status: int) -> str:
    """Return the name of the component that describes errors of this status."""
    return "".join(word.capitalize() for word in HTTPStatus(status).phrase.split())


def refusals(codes: Iterable[str], component: str = "") -> Json:
    """Return the replies for errors, by status; ``component`` is a prefix for shapes of its own."""
    statuses = sorted({HTTP_STATUS[code] for code in codes if code in HTTP_STATUS})
    return {
        str(status): {"$ref": f"#/components/responses/{component}{component_of(status)}"}
        for status in statuses
    }


def refusal_components(schema: Json, prefix: str = "", kind: str = JSON) -> Json:
    """Return the components to which ``refusals`` refers, for errors of one shape."""
    words: dict[int, list[str]] = {}
    for code, status in HTTP_STATUS.items():
        words.setdefault(status, []).append(code)
    components = {}
    for status, codes in words.items():
        described = reply(f"{HTTPStatus(status).phrase}: {', '.join(codes)}", {kind: schema})
        headers = _HEADERS_OF_ERRORS.get(status)
        if headers:
            described["headers"] = dict(headers)
        components[prefix + component_of(status)] = described
    return components


_RETRY_AFTER = header(integer(0), "Seconds after which it may be tried again.")
_HEADERS_OF_ERRORS: Final[Mapping[int, Mapping[str, Json]]] = MappingProxyType(
    {
        HTTPStatus.UNAUTHORIZED: {
            "WWW-Authenticate": header(text(), "There where credentials would help.")
        },
        HTTPStatus.METHOD_NOT_ALLOWED: {"Allow": header(text(), "The methods that there are.")},
        HTTPStatus.TOO_MANY_REQUESTS: {"Retry-After": _RETRY_AFTER},
        HTTPStatus.SERVICE_UNAVAILABLE: {"Retry-After": _RETRY_AFTER},
    }
)

# Operations


def operation(
    name: str,
    summary: str,
    replies: Mapping[str, Json],
    *,
    description: str = "",
    parameters: Sequence[Json] = (),
    request_body: Json | None = None,
    sections: Sequence[Section] = (),
    errors: Iterable[str] = (),
    error_component: str = "",
    security: Sequence[Json] | None = None,
) -> Json:
    """Return what is said of one method of one path.

    ``sections``: the sections of acl.conf that must let the client in; ``errors``: code words
    beside those that any route may answer, whose shape is that of the prefix ``error_component``.
    """
    codes = [*EVERYWHERE, *errors, *_ACCESS_ERRORS]
    if request_body is not None:
        codes.append("too-large")
    described: Json = {"operationId": name, "summary": summary}
    if description:
        described["description"] = description
    if parameters:
        described["parameters"] = list(parameters)
    if request_body is not None:
        described["requestBody"] = request_body
    described["responses"] = {**replies, **refusals(codes, error_component)}
    described["security"] = list(_security_of(sections) if security is None else security)
    return described


_ACCESS_ERRORS: Final = ("access-denied", "invalid-key", "foreign-origin", "rate-limited")


def _security_of(sections: Sequence[Section]) -> list[Json]:
    schemes = dict.fromkeys(name for section in sections for name in _SECURITY[section])
    return [{}, *({name: []} for name in schemes)]


def path(*parameters: Json, **operations: Json) -> Json:
    """Return what is said of one path: parameters of all its methods, and each method."""
    shared = {"parameters": list(parameters)} if parameters else {}
    return {**shared, **operations}
