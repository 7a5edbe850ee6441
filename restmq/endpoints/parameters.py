"""Reading what a request says: parameters of query, form and headers, and bodies."""

import asyncio
import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy

from restmq.endpoints.replies import MAX_FORM_FIELDS, Request
from restmq.errors import InvalidInput, TooLarge

_URLENCODED, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"

_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.]{0,127}")
_DECIMAL = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
_THREAD_BYTES = 256 * 1024
"""Forms longer than this are taken apart in a thread."""

_QUICK_BYTES = 16 * 1024
"""Bodies longer than this are read in a task of their own."""

Values = Mapping[bytes, bytes]
_NOTHING: Values = MappingProxyType({})

_STARTS = frozenset(b"xXiI")
"""The first bytes of X-RestMQ-... and Idempotency-Key, as a quick look."""

_PARAMETER_HEADER = re.compile(rb"x-restmq-.|idempotency-key\Z", re.IGNORECASE | re.DOTALL)

_CLASSIC = frozenset((b"queue", b"value", b"msg", b"policy", b"status", b"callback", b"body"))
"""Parameters of the classic contract, which come from query and form alone."""


class Parameters:
    """The parameters of a request, by name. Blank ones count as missing.

    Values are bytes, percent-decoded and otherwise verbatim. The classic parameters come from
    query and form, of which the form wins (specification of RestMQ, section 3). All others may
    also come as a header ``X-RestMQ-<Name>``, and ``id`` as ``Idempotency-Key``; of these the
    query wins over the form, and the form over the header (specification of delivery).
    """

    __slots__ = ("_form", "_headers", "_query")

    def __init__(
        self,
        query: Values = _NOTHING,
        form: Values = _NOTHING,
        headers: CIMultiDictProxy[str] | None = None,
    ) -> None:
        self._query = query
        self._form = form
        self._headers = headers

    def __bool__(self) -> bool:
        """Return whether there may be any."""
        return bool(self._query or self._form or self._headers)

    def sole(self, name: bytes) -> bytes | None:
        """Return the value if it stands in a form where nothing else was said at all."""
        if len(self._form) != 1 or self._query or self._headers:
            return None
        return self._form.get(name) or None

    def names(self, name: bytes) -> bool:
        """Return whether it is there, be it blank."""
        headers = self._headers or ()
        return name in self._query or name in self._form or _header_name(name) in headers

    def raw(self, name: bytes) -> bytes | None:
        """Return the value, or None if it is missing or blank."""
        if name in _CLASSIC:
            return self._form.get(name, self._query.get(name)) or None
        value = self._query.get(name) or self._form.get(name)
        if value or self._headers is None:
            return value or None
        text = self._headers.get(_header_name(name))
        if text is None and name == b"id":
            text = self._headers.get("Idempotency-Key")
        return text.encode("utf-8", "surrogateescape") if text else None

    def text(self, name: bytes) -> str | None:
        """Return the value as text; raises InvalidInput if it is not UTF-8."""
        value = self.raw(name)
        if value is None:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"{name.decode()} must be valid UTF-8") from None

    def integer(self, name: bytes, minimum: int, maximum: int) -> int | None:
        """Return the value as a whole number; raises InvalidInput if it is not in the range."""
        text = self.text(name)
        if text is None:
            return None
        return whole_number(name.decode(), text, minimum, maximum)

    def number(self, name: bytes, minimum: float, maximum: float) -> float | None:
        """Return the value as a number, maybe with a fraction; raises InvalidInput likewise."""
        text = self.text(name)
        if text is None:
            return None
        return decimal_number(name.decode(), text, minimum, maximum)

    def callback(self) -> str | None:
        """Return the JSONP function's name; raises InvalidInput if it could do harm."""
        name = self.text(b"callback")
        if name is not None and not _CALLBACK.fullmatch(name):
            raise InvalidInput("callback must be a JavaScript name of at most 128 characters")
        return name


def _header_name(name: bytes) -> str:
    return f"X-RestMQ-{name.decode()}"


def whole_number(name: str, text: str, minimum: int, maximum: int) -> int:
    """Read a whole number of plain digits; raises InvalidInput, naming ``name``, if it is none."""
    if text.isascii() and text.isdigit() and len(text) <= 18:
        number = int(text)
        if minimum <= number <= maximum:
            return number
    raise InvalidInput(f"{name} must be a whole number from {minimum} to {maximum}")


def decimal_number(name: str, text: str, minimum: float, maximum: float) -> float:
    """Read a number such as 5 or 0.25; raises InvalidInput, naming ``name``, if it is none."""
    if _DECIMAL.fullmatch(text):
        number = float(text)
        if minimum <= number <= maximum:
            return number
    raise InvalidInput(f"{name} must be a number from {minimum} to {maximum}")


_NO_PARAMETERS = Parameters()


def _parse_urlencoded(text: bytes) -> dict[bytes, bytes]:
    values = {}
    if text.count(b"&") >= MAX_FORM_FIELDS:
        raise InvalidInput(f"a form may have at most {MAX_FORM_FIELDS} fields")
    for pair in text.split(b"&"):
        name, _, value = pair.partition(b"=")
        values[_unquote(name)] = _unquote(value)
    return values


def _unquote(text: bytes) -> bytes:
    if b"+" in text:
        text = text.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text


def _query_values(request: Request) -> Values:
    path = request.raw_path
    if "?" not in path:
        return _NOTHING
    query = path.partition("?")[2]
    return _parse_urlencoded(query.encode("utf-8", "surrogateescape")) if query else _NOTHING


def _parameter_headers(request: Request) -> CIMultiDictProxy[str] | None:
    """Return the headers if one of them is a parameter; ``X-Forwarded-For``, say, is none."""
    for name, _ in request.raw_headers:
        if name[0] in _STARTS and _PARAMETER_HEADER.match(name):
            return request.headers
    return None


def query_parameters(request: Request) -> Parameters:
    """Return the parameters of a request whose body is none: those of the query and headers."""
    headers = _parameter_headers(request)
    if headers is None and "?" not in request.raw_path:
        return _NO_PARAMETERS
    return Parameters(_query_values(request), _NOTHING, headers)


def sole_query(request: Request) -> str | None:
    """Return the query string, or None if headers may hold parameters as well."""
    if _parameter_headers(request) is not None:
        return None
    return request.raw_path.partition("?")[2]


def parameters_of(query: str) -> Parameters:
    """Return the parameters of a query string alone."""
    values = _parse_urlencoded(query.encode("utf-8", "surrogateescape"))
    return Parameters(values, _NOTHING, None)


async def read_body(request: Request) -> bytes:
    """Return the whole body.

    Raises TooLarge over ``max_body_bytes``, InvalidInput if the client takes too long to send it.
    """
    content, limit = request.content, request.client_max_size
    if content.is_eof():  # it came along with the headers, as short ones do
        body = content.read_nowait(-1)
        if len(body) > limit:
            raise _too_large(limit)
        return body
    length = request.content_length
    if length is not None and length > limit:
        raise _too_large(limit)
    if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(request.body_timeout_seconds):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(limit) from None
    except TimeoutError:
        raise InvalidInput("the request body did not arrive in time") from None
    except web.RequestPayloadError as error:
        raise InvalidInput(f"the request body cannot be read: {error}") from None


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is over {limit} bytes (max_body_bytes)")


async def read_parameters(request: Request) -> tuple[Parameters, bytes | None]:
    """Return the parameters of query, form and headers, and the body if it is not a form.

    A body of any kind but ``application/x-www-form-urlencoded`` and ``multipart/form-data`` is
    not parsed; an empty one counts as none.
    """
    if is_at_hand(request):
        return read_at_hand(request)
    kind = request.content_type
    if kind == _URLENCODED:
        body = await read_body(request)
        if len(body) > _THREAD_BYTES:
            form = await asyncio.to_thread(_parse_urlencoded, body)
        else:
            form = _parse_urlencoded(body)
        return Parameters(_query_values(request), form, _parameter_headers(request)), None
    if kind == _MULTIPART:
        query = _query_values(request)
        form = await _read_multipart(request)
        return Parameters(query, form, _parameter_headers(request)), None
    return query_parameters(request), await read_body(request) or None


def is_at_hand(request: Request) -> bool:
    """Return whether the whole body has come, and is short and quickly read."""
    content = request.content
    return (
        content.is_eof()
        and content.total_bytes <= _QUICK_BYTES
        and content.exception() is None
        and request.content_type != _MULTIPART
    )


def read_at_hand(request: Request) -> tuple[Parameters, bytes | None]:
    """Do as ``read_parameters`` for what ``is_at_hand``. The body cannot be read again then."""
    body = request.content.read_nowait(-1)
    if len(body) > request.client_max_size:
        raise _too_large(request.client_max_size)
    if request.content_type != _URLENCODED:
        return query_parameters(request), body or None
    form = _parse_urlencoded(body)
    return Parameters(_query_values(request), form, _parameter_headers(request)), None


async def _read_multipart(request: Request) -> dict[bytes, bytes]:
    try:
        async with asyncio.timeout(request.body_timeout_seconds):
            form = await request.post()
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(request.client_max_size) from None
    except TimeoutError:
        raise InvalidInput("the request body did not arrive in time") from None
    except (
        ValueError,
        AssertionError,
        RuntimeError,
        HttpProcessingError,
        web.RequestPayloadError,
    ) as error:
        raise InvalidInput(f"the multipart body cannot be read: {error}") from None
    values = {}
    for name, value in form.items():
        if isinstance(value, web.FileField):
            with value.file as file:
                content = file.read()
        elif isinstance(value, str):
            content = value.encode("utf-8", "surrogateescape")
        else:
            content = bytes(value)
        values[name.encode("utf-8", "surrogateescape")] = content
    return values
