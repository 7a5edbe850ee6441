"""Values as programs have them, and as they travel: bytes with a content type."""

from dataclasses import dataclass
from typing import Any, TypeVar, overload

import msgspec

from restmq.errors import InvalidInput

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
NDJSON = "application/x-ndjson"
MAX_BATCH_MESSAGES = 10_000

_PARSED_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", NDJSON)
"""Bodies of these types are not the value itself to the server."""

Kind = TypeVar("Kind")


@dataclass(eq=False, repr=False)
class Payload:
    """Bytes that somebody sent, and what they are."""

    value: bytes
    content_type: str | None
    """As it was published; None if it was published without one, or the answer does not tell."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.value)} bytes>"

    @property
    def text(self) -> str:
        """The value as UTF-8. Raises UnicodeDecodeError if it is none."""
        return self.value.decode()

    @overload
    def json(self) -> Any: ...
    @overload
    def json(self, kind: type[Kind]) -> Kind: ...
    def json(self, kind: Any = Any) -> Any:
        """Read the value as JSON, of the type ``kind`` if it is given.

        That may be anything msgspec can check: ``dict[str, int]``, a dataclass, a ``Struct``.
        Raises InvalidInput when it is something else.
        """
        try:
            return msgspec.json.decode(self.value, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInput(f"the value is not the JSON that is expected: {error}") from error


def encode_value(value: object, content_type: str | None = None) -> tuple[bytes, str]:
    """Return a value's bytes and their content type: bytes as they are, str as UTF-8, else JSON.

    JSON is made of whatever msgspec can: dictionaries, lists, dataclasses, times, and so on.
    Raises InvalidInput for what has no such form, and for a type that the server would take apart.
    """
    if content_type is not None:
        if not content_type.isascii() or not content_type.isprintable():
            raise InvalidInput("the content type must be printable ASCII")
        if content_type.partition(";")[0].strip().lower() in _PARSED_TYPES:
            raise InvalidInput(f"the server would read a body of type {content_type} as a form")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), content_type or BYTES
    try:
        if isinstance(value, str):
            return value.encode(), content_type or TEXT
        return msgspec.json.encode(value), content_type or JSON
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidInput(f"the value cannot be written: {error}") from error


def encode_batch(values: list[object]) -> bytes:
    """Return the lines of a batch. Raises InvalidInput for what cannot be a message of one.

    These are values that are blank, hold a line feed, or end in a carriage return.
    """
    if not 1 <= len(values) <= MAX_BATCH_MESSAGES:
        raise InvalidInput(f"a batch has 1 to {MAX_BATCH_MESSAGES} messages")
    lines = []
    for index, value in enumerate(values):
        line, _ = encode_value(value)
        if not line or line.isspace() or b"\n" in line or line.endswith(b"\r"):
            text = f"value {index} is blank or has a line break; publish it by itself"
            raise InvalidInput(text)
        lines.append(line)
    return b"\n".join(lines)
