"""RSE's documents: what a request says, how an event is stored, and how it is answered.

All of this follows the RSE specification, sections 3 to 5, and does no I/O. An event is stored as
the two parts of its answer that are known at that time, already in JSON: the sender's User-Agent,
a NUL, which JSON cannot hold, and the data exactly as posted. Answering joins bytes.
"""

import functools
import re
import time
from typing import NamedTuple

import msgspec

from restmq.broker.log_entry import Entry, NewEntry, Page, Query, Scope, check_path, make_log
from restmq.broker.log_ids import IdKind, id_of_number
from restmq.codecs.sse import encode_event
from restmq.endpoints.web import Parameters, Request, encode_json
from restmq.errors import InvalidInput, TooLarge

EVENTS = make_log("rse", "events", IdKind.NUMBER)
"""The one log of all events: a channel is a path in it, so ids are in order across channels."""

DEFAULT_EVENTS = 200
MAX_EVENTS = 500

ANONYMOUS = "550e8400-dead-beef-dead-446655440000"
"""The UUID of everyone without one, in test mode."""

_UUID_MARKER = "uuid/"
_UUID_CHARACTERS = 36
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_CALLBACK = re.compile(rb"[A-Za-z0-9_]{1,128}")
_CHANNEL = re.compile(r"[A-Za-z0-9/_-]+", re.ASCII)
_INTEGER = re.compile(rb"[+-]?[0-9]+")
_LAST_ID = 2**64 - 1
_MAX_REMEMBERED_BYTES = 2048
_SPACES = b" \t\r\n"
_SCOPES = {b"parent": Scope.PARENTS, b"all": Scope.SUBTREE}

_check_json = msgspec.json.Decoder(msgspec.Raw).decode


class Reading(NamedTuple):
    """What a poll asks for."""

    query: Query
    """Ascending from the last known id, whichever order is wanted; nothing is left out."""
    newest_first: bool
    last_known_id: int
    without_source: bytes
    """Whose events are left out: the client's own; empty for nobody."""


class EventRules(NamedTuple):
    """What the settings say about new events."""

    ttl_seconds: float
    max_bytes: int
    is_test_mode: bool

    def check_size(self, size_bytes: int) -> None:
        """Raise TooLarge if no event can have so many bytes."""
        if size_bytes > self.max_bytes:
            raise TooLarge(f"an event may have at most {self.max_bytes} bytes")


class NewEvent(NamedTuple):
    """An event that is to be stored, and who is told of it."""

    entry: NewEntry
    callback: str | None
    """The JSONP function that the reply calls, if any."""


def check_channel(channel: str, is_any_name_allowed: bool) -> None:
    """Raise InvalidInput unless this is a channel's name, with its leading slash."""
    if not is_any_name_allowed and not _CHANNEL.fullmatch(channel):
        raise InvalidInput("Invalid channel name")


def user_agent_of(request: Request) -> str:
    """Return the whole header; raises InvalidInput if there is none."""
    user_agent = request.headers.get("User-Agent")
    if not user_agent:
        raise InvalidInput("Missing header: User-Agent")
    if not user_agent.isascii():  # bytes that are not UTF-8 came as surrogates, which JSON refuses
        user_agent = user_agent.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return user_agent


def source_of(user_agent: str, is_test_mode: bool) -> bytes:
    """Return the UUID that the User-Agent names, which is who sends or asks, in lower case.

    Raises InvalidInput if there is none; in test mode anything serves for one.
    """
    _, _, rest = user_agent.partition(_UUID_MARKER)
    name = rest[:_UUID_CHARACTERS].lower()
    if not _UUID.fullmatch(name):
        if not is_test_mode:
            raise InvalidInput("Missing UUID in User-Agent header")
        name = name or ANONYMOUS
    return name.encode()


def check_data(data: bytes, user_agent: str) -> None:
    """Raise InvalidInput unless this is JSON (RFC 8259) with an object or array at its root.

    For a User-Agent that could not stand between quotation marks it says the same.
    """
    try:
        _check_json(data)
        data.decode()  # the check above passes over what is inside strings
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("Invalid JSON") from None
    if data.lstrip(_SPACES)[:1] not in (b"{", b"[") or '"' in user_agent or "\\" in user_agent:
        raise InvalidInput("Invalid JSON")


def callback_of(parameters: Parameters) -> str | None:
    """Return the JSONP function's name, if one is given; raises InvalidInput for a bad one."""
    name = parameters.raw(b"callback")
    if name is None:
        return None
    if not _CALLBACK.fullmatch(name):
        raise InvalidInput("Invalid callback name")
    return name.decode()


def integer_of(parameters: Parameters, name: bytes, default: int) -> int:
    """Return a whole number of any size; raises InvalidInput for what is none."""
    text = parameters.raw(name)
    return default if text is None else parse_integer(name.decode(), text)


def parse_integer(name: str, text: bytes) -> int:
    """Read a whole number, which may have a sign; raises InvalidInput, naming ``name``."""
    if not _INTEGER.fullmatch(text) or len(text) > 1000:
        raise InvalidInput(f"{name} must be a whole number")
    return int(text)


def reading_of(
    channel: str, parameters: Parameters, user_agent: str, is_test_mode: bool
) -> Reading:
    """Read the parameters of a poll; raises InvalidInput for what cannot be asked."""
    has_echo = parameters.raw(b"echo") == b"true"
    source = b"" if has_echo else source_of(user_agent, is_test_mode)
    last_known_id = min(max(integer_of(parameters, b"last-known-id", 0), 0), _LAST_ID)
    limit = integer_of(parameters, b"max-events", DEFAULT_EVENTS)
    if limit < 1:
        raise InvalidInput("max-events must be 1 or more")
    path = channel.encode()
    check_path(path)
    query = Query(
        limit=min(limit, MAX_EVENTS),
        start=id_of_number(last_known_id),
        scope=_SCOPES.get(parameters.raw(b"events") or b"", Scope.EXACT),
        path=path,
    )
    newest_first = integer_of(parameters, b"sort", 1) == -1
    return Reading(query, newest_first, last_known_id, source)


def event_of(
    request: Request,
    channel: str,
    parameters: Parameters,
    data: bytes | None,
    rules: EventRules,
) -> NewEvent:
    """Make the event that a request posts; ``data`` is what its body or query holds, None for none.

    Raises InvalidInput for the first thing that is wrong, in the order of section 4.
    """
    user_agent = user_agent_of(request)
    callback = callback_of(parameters)
    if data is None:
        raise InvalidInput("Missing query parameter: post-data")
    rules.check_size(len(data))
    check_data(data, user_agent)
    entry = NewEntry(
        pack_event(user_agent, data),
        rules.ttl_seconds,
        source=source_of(user_agent, rules.is_test_mode),
        path=channel.encode(),
    )
    return NewEvent(entry, callback)


def pack_event(user_agent: str, data: bytes) -> bytes:
    """Return an event as it is stored."""
    return b"%b\0%b" % (encode_json(user_agent), data)


def encode(entry: Entry, now: float) -> bytes:
    """Return an event as JSON; ``now`` is the time on Redis's clock."""
    record = entry.record
    split_it = _split_once if len(record) <= _MAX_REMEMBERED_BYTES else split
    head, published, tail = split_it(entry.id, record)
    return b"%b%d%b" % (head, max(now - published, 0), tail)


def split(entry_id: bytes, record: bytes) -> tuple[bytes, float, bytes]:
    """Return what stands before an event's age, when it was published, and what stands after."""
    entry = Entry(0, entry_id, record)
    user_agent, _, data = entry.value.partition(b"\0")
    published = entry.published
    head = b'{"id":%d,"user_agent":%b,"created_at":"%b","age":' % (
        entry.number,
        user_agent,
        _format_time(int(published)),
    )
    return head, published, b',"data":%b}' % data


# Many clients poll for the same recent events, each from another position.
_split_once = functools.lru_cache(maxsize=4096)(split)


@functools.lru_cache(maxsize=1024)
def _format_time(seconds: int) -> bytes:
    """Return a time as events tell it; what is posted together has it in common."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds)).encode()


def encode_list(page: Page) -> bytes:
    """Return the events of a page as JSON, with commas in between."""
    now = page.now
    return b",".join([encode(entry, now) for entry in page.entries])


def encode_channel(channel: str, events: bytes) -> bytes:
    """Return the answer to a poll: the channel that was asked for, and what was found."""
    return b'{"channel":%b,"events":[%b]}' % (encode_json(channel), events)


def encode_stream(page: Page) -> bytes:
    """Return the events of a page as server-sent events, whose ids are those of the events."""
    return b"".join(
        encode_event(encode(entry, page.now), id=str(entry.number)) for entry in page.entries
    )
