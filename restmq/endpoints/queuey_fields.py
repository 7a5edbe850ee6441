"""What Queuey's requests and replies are made of: fields read and checked, messages written.

The texts of errors are those that Queuey's clients know (specification of Queuey, section 6).
Nothing here talks to a store or to the network.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import hdrs
from multidict import CIMultiDictProxy, istr

from restmq.broker.log_entry import Entry, EntryKey
from restmq.broker.log_ids import first_id_at, hex_of_id, id_of_hex, last_id_at, ticks_of_id
from restmq.endpoints.web import JSON, Parameters
from restmq.errors import InvalidInput

MAX_NAME_CHARACTERS = 50
MAX_PARTITIONS = 200
DEFAULT_TTL_SECONDS = 259_200
MAX_TTL_SECONDS = 33_554_432
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_BATCH_MESSAGES = 10_000
MAX_COUNT_DIGITS = 18
MAX_AHEAD_SECONDS = 60
"""How far in the future the time of an id may lie under which a client stores a message."""

TICKS_PER_SECOND = 10_000_000

_TTL_HEADER: Final = istr("X-TTL")
_PARTITION_HEADER: Final = istr("X-Partition")

_NUMBER = re.compile(r"[+-]?[0-9]+")
_HEX_ID = re.compile(r"[0-9a-fA-F]{32}")
_SECONDS = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]*))?")
_MESSAGE_ID = re.compile(r"(?:([0-9]{1,3}):)?([0-9a-zA-Z]{32})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PRINCIPLE = re.compile(r"app:\w+|bid:\w+@\w+\.\w+", re.ASCII)


class BadField(InvalidInput):
    """A field of the request is wrong; ``field`` is the key that clients look for."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class InvalidUpdate(BadField):
    """The queue cannot be changed in this way."""

    def __init__(self) -> None:
        super().__init__("InvalidUpdate", "Partitions can only be increased.")


class QueueSettings(msgspec.Struct, array_like=True, frozen=True):
    """What is kept of a queue beside its messages; stored as a list, so fields keep their order."""

    partitions: int = 1
    type: str = "user"
    consistency: str = "strong"
    principles: str | None = None
    """As it was given: names joined by commas."""

    @property
    def principle_list(self) -> list[str]:
        """The principles one by one."""
        return [each.strip() for each in (self.principles or "").split(",") if each.strip()]


class Draft(msgspec.Struct, gc=False):
    """A message that a client wants stored; the number of partitions is yet to be asked."""

    body: str
    ttl: int | None = None
    partition: int | None = None


class _Batch(msgspec.Struct):
    messages: list[Draft]


class Position(NamedTuple):
    """Where reading begins."""

    id: bytes
    inclusive: bool


class PostedMessage(msgspec.Struct, gc=False):
    """A message as the reply to a post tells it."""

    key: str
    timestamp: str
    partition: int


class ReadMessage(msgspec.Struct, gc=False):
    """A message as a reader gets it."""

    message_id: str
    timestamp: str
    body: str
    partition: int


_decode_batch = msgspec.json.Decoder(_Batch).decode
_decode_any = msgspec.json.Decoder().decode


def check_number(field: str, value: int, minimum: int, maximum: int | None) -> int:
    """Return the number if it is in the range; raises BadField."""
    if value < minimum:
        raise BadField(field, f"{value} is less than minimum value {minimum}")
    if maximum is not None and value > maximum:
        raise BadField(field, f"{value} is greater than maximum value {maximum}")
    return value


def read_number(field: str, text: str, minimum: int, maximum: int | None) -> int:
    """Read a whole number in a range; raises BadField."""
    if not _NUMBER.fullmatch(text) or len(text) > MAX_COUNT_DIGITS:
        raise BadField(field, f'"{text}" is not a number')
    return check_number(field, int(text), minimum, maximum)


def read_choice(field: str, text: str, choices: Sequence[str]) -> str:
    """Read a word out of a few; raises BadField."""
    if text not in choices:
        raise BadField(field, f'"{text}" is not one of {", ".join(choices)}')
    return text


def read_flag(text: str | None) -> bool:
    """Read a flag of a query: anything but ``false`` and ``0`` in any case is true."""
    return text is not None and text.lower() not in ("false", "0")


def _read_partition_count(text: str) -> int:
    return read_number("partitions", text, 1, MAX_PARTITIONS)


def _read_type(text: str) -> str:
    return read_choice("type", text, ("public", "user"))


def _read_consistency(text: str) -> str:
    return read_choice("consistency", text, ("strong", "very_strong", "weak"))


def _read_principles(text: str) -> str:
    for principle in text.split(","):
        if not _PRINCIPLE.fullmatch(principle.strip()):
            raise BadField("principles", f'"{text}" is not a valid permission list.')
    return text


_SETTINGS: Final[Mapping[str, Callable[[str], Any]]] = MappingProxyType(
    {
        "partitions": _read_partition_count,
        "type": _read_type,
        "consistency": _read_consistency,
        "principles": _read_principles,
    }
)


def read_change(parameters: Parameters) -> dict[str, Any]:
    """Return the settings of a queue that a form names; raises BadField."""
    change = {}
    for field, read in _SETTINGS.items():
        text = parameters.text(field.encode())
        if text is not None:
            change[field] = read(text)
    if "principles" not in change and parameters.names(b"principles"):
        change["principles"] = None  # blank: there are to be none
    return change


def apply_change(settings: QueueSettings, change: dict[str, Any]) -> QueueSettings:
    """Return the settings after a change; raises InvalidUpdate for fewer partitions."""
    if change.get("partitions", settings.partitions) < settings.partitions:
        raise InvalidUpdate
    return msgspec.structs.replace(settings, **change)


def check_new_name(name: str) -> str:
    """Return the name if a queue may be made under it; raises BadField."""
    if len(name) > MAX_NAME_CHARACTERS:
        raise BadField("queue_name", f"Longer than maximum length {MAX_NAME_CHARACTERS}")
    if "/" in name:
        raise BadField("queue_name", "A queue name cannot hold a slash")
    if name in (".", ".."):
        raise BadField("queue_name", f'"{name}" is not a queue name, as paths take it away')
    if _CONTROL.search(name):
        raise BadField("queue_name", "A queue name cannot hold control characters")
    return name


def read_text_body(body: bytes) -> str:
    """Return the body of a message if it can be one; raises BadField."""
    if not body:
        raise BadField("body", "Required")
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise BadField("body", "The body is not valid UTF-8") from None


def read_draft(body: bytes, headers: CIMultiDictProxy[str]) -> Draft:
    """Read a message that is a whole request body; raises BadField."""
    return Draft(read_text_body(body), read_ttl(headers), read_partition(headers))


def is_batch(headers: CIMultiDictProxy[str]) -> bool:
    """Return whether the body of a post holds messages, and is not one itself."""
    return headers.get(hdrs.CONTENT_TYPE, "")[: len(JSON)].lower() == JSON


def read_partition(headers: CIMultiDictProxy[str]) -> int | None:
    """Read the header X-Partition; raises BadField.

    How many there are is left to who knows the queue.
    """
    text = headers.get(_PARTITION_HEADER)
    return None if text is None else read_number("partition", text, 1, None)


def read_ttl(headers: CIMultiDictProxy[str]) -> int:
    """Read the header X-TTL, in seconds; raises BadField."""
    text = headers.get(_TTL_HEADER)
    if text is None:
        return DEFAULT_TTL_SECONDS
    return read_number("ttl", text, 1, MAX_TTL_SECONDS)


def read_batch(body: bytes) -> list[Draft]:
    """Read the messages of a JSON body; raises BadField.

    Their range of partitions is left to who knows the queue.
    """
    try:
        drafts = _decode_batch(body).messages
    except msgspec.MsgspecError:
        drafts = _read_batch_field_by_field(body)
    if len(drafts) > MAX_BATCH_MESSAGES:
        raise BadField("messages", f"Longer than maximum length {MAX_BATCH_MESSAGES}")
    for index, draft in enumerate(drafts):
        if not draft.body:
            raise BadField(f"{index}.body", "Required")
        if draft.ttl is None:
            draft.ttl = DEFAULT_TTL_SECONDS
        elif not 1 <= draft.ttl <= MAX_TTL_SECONDS:
            check_number(f"{index}.ttl", draft.ttl, 1, MAX_TTL_SECONDS)
    return drafts


def _read_batch_field_by_field(body: bytes) -> list[Draft]:
    """Read what is not quite as it should be: numbers as text, and the reverse, will do."""
    try:
        document = _decode_any(body)
        items = document["messages"]
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, KeyError, TypeError):
        items = None
    if not isinstance(items, list):
        raise BadField("InvalidParameter", "Unable to properly deserialize JSON body.")
    return [_read_draft(str(index), item) for index, item in enumerate(items)]


def _read_draft(place: str, item: Any) -> Draft:
    if not isinstance(item, dict):
        raise BadField(place, "A message is an object with a body")
    body = item.get("body")
    if body is None:
        raise BadField(f"{place}.body", "Required")
    if isinstance(body, bool) or not isinstance(body, str | int | float):
        raise BadField(f"{place}.body", "A body is text")
    return Draft(
        str(body),
        _read_any_number(f"{place}.ttl", item.get("ttl")),
        _read_any_number(f"{place}.partition", item.get("partition")),
    )


def _read_any_number(field: str, value: Any) -> int | None:
    if value is None or type(value) is int:
        return value
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return read_number(field, text, -(10**MAX_COUNT_DIGITS), None)


def read_limit(text: str | None) -> int:
    """Read how many messages of each partition are wanted; raises BadField."""
    return DEFAULT_LIMIT if text is None else read_number("limit", text, 1, MAX_LIMIT)


def read_is_descending(text: str | None) -> bool:
    """Read whether the newest message is wanted first; raises BadField."""
    words = ("ascending", "descending")
    return text is not None and read_choice("order", text, words) == "descending"


def read_partitions(text: str | None) -> list[int]:
    """Read a list of partitions, each once; those that no queue can have are left out."""
    if text is None:
        return [1]
    numbers = []
    for part in text.split(","):
        part = part.strip()
        if not _NUMBER.fullmatch(part) or len(part) > MAX_COUNT_DIGITS:
            raise BadField("partitions", f'"{part}" is not a number')
        numbers.append(int(part))
    return [number for number in dict.fromkeys(numbers) if 1 <= number <= MAX_PARTITIONS]


def read_since(text: str | None, *, is_descending: bool) -> Position | None:
    """Read a position, which is inclusive: a message's id, or seconds since the epoch."""
    if text is None:
        return None
    if _HEX_ID.fullmatch(text):
        try:
            return Position(id_of_hex(text), inclusive=True)
        except InvalidInput as error:
            raise BadField("since", f'"{text}": {error}') from None
    match = _SECONDS.fullmatch(text)
    if match is None:
        raise BadField("since", f'"{text}" is not a message id, nor a time in seconds')
    sign, whole, fraction = match.groups()
    ticks = int(whole) * TICKS_PER_SECOND + int((fraction or "")[:7].ljust(7, "0"))
    bound = last_id_at if is_descending else first_id_at
    return Position(bound(-ticks if sign else ticks), inclusive=True)


def read_message_ids(text: str) -> list[EntryKey]:
    """Read a list of ``[partition:]id``, each once, in the order given; raises BadField."""
    keys = []
    for part in text.split(","):
        match = _MESSAGE_ID.fullmatch(part)
        try:
            if match is None:
                raise InvalidInput(part)
            keys.append(EntryKey(int(match[1] or 1), id_of_hex(match[2])))
        except InvalidInput:
            raise BadField("InvalidMessageID", "Invalid message id's.") from None
    return list(dict.fromkeys(keys))


def read_resume_point(text: str | None) -> dict[int, Position]:
    """Read the id of an event: for each partition, the id after which to go on."""
    if text is None:
        return {}
    try:
        return {key.partition: Position(key.id, inclusive=False) for key in read_message_ids(text)}
    except BadField:
        raise BadField("last_event_id", "It must be the id of an event of this queue") from None


def format_resume_point(positions: dict[int, bytes]) -> str:
    """Write what ``read_resume_point`` reads."""
    return ",".join(f"{partition}:{hex_of_id(each)}" for partition, each in positions.items())


def format_timestamp(message_id: bytes) -> str:
    """Write the time of an id: seconds since the epoch with seven decimals."""
    ticks = ticks_of_id(message_id)
    if ticks >= TICKS_PER_SECOND:  # nearly always, and this is faster than dividing
        digits = str(ticks)
        return f"{digits[:-7]}.{digits[-7:]}"
    seconds, rest = divmod(abs(ticks), TICKS_PER_SECOND)
    return f"{'-' if ticks < 0 else ''}{seconds}.{rest:07d}"


def posted_message(message_id: bytes, partition: int) -> PostedMessage:
    """Return what the reply to a post tells of one message."""
    return PostedMessage(hex_of_id(message_id), format_timestamp(message_id), partition)


def read_message(entry: Entry) -> ReadMessage:
    """Return what a reader gets of a message."""
    return ReadMessage(
        hex_of_id(entry.id), format_timestamp(entry.id), entry.value.decode(), entry.partition
    )
