"""STOMP frames: the words of the protocol, and bytes to frames.

This follows the STOMP specifications 1.0, 1.1 and 1.2 (https://stomp.github.io/), lenient where
real clients need it and strict where leniency would guess. The same parser reads client frames
for a server and server frames for a client. ``stomp_encoder`` writes frames, and ``stomp_session``
knows which frame may follow which.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from restmq.errors import InvalidInput

Version = Literal["1.0", "1.1", "1.2"]
VERSIONS: Final[tuple[Version, ...]] = get_args(Version)
"""What is spoken, the best last."""

CLIENT_COMMANDS: Final = frozenset(
    {"CONNECT", "STOMP", "SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK"}
    | {"BEGIN", "COMMIT", "ABORT", "DISCONNECT"}
)
SERVER_COMMANDS: Final = frozenset({"CONNECTED", "MESSAGE", "RECEIPT", "ERROR"})
CONNECTING_COMMANDS: Final = frozenset({"CONNECT", "STOMP", "CONNECTED"})
"""Sent while the version is being agreed on, so nothing in them is escaped or trimmed."""

COMMANDS_WITH_BODY: Final = frozenset({"SEND", "MESSAGE", "ERROR"})

PADDING: Final = " \t"
"""What 1.0 trims around the names and values of headers."""

_KNOWN_COMMANDS: Final = CLIENT_COMMANDS | SERVER_COMMANDS
_UNESCAPED_1_1: Final = {"\\n": "\n", "\\c": ":", "\\\\": "\\"}
_UNESCAPED: Final[dict[Version, dict[str, str]]] = {
    "1.0": {},
    "1.1": _UNESCAPED_1_1,
    "1.2": {**_UNESCAPED_1_1, "\\r": "\r"},
}
_ESCAPE: Final = re.compile(r"\\.?", re.DOTALL)
_LINE_ENDS: Final = re.compile(rb"(?:\r?\n)+")
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_CONTENT_LENGTH: Final = re.compile(r"[0-9]+")
_MAX_CONTENT_LENGTH_DIGITS: Final = 18  # Python refuses to read very long numbers
_MAX_EXCERPT_CHARACTERS: Final = 60


class StompError(InvalidInput):
    """The peer broke the protocol or passed a limit; answer with ERROR and close.

    ``str(error)`` is one short line that names the fault. ``receipt_id`` is the receipt that the
    frame at fault asked for, where it is known. ``headers`` are for the ERROR frame to carry.
    """

    code = "invalid-input"

    def __init__(
        self,
        message: str,
        *,
        receipt_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.receipt_id = receipt_id
        self.headers = headers or {}


class Frame(NamedTuple):
    """One frame as it was read: escapes undone, the first of repeated headers kept.

    ``body`` is empty for commands that carry none, whatever was sent.
    """

    command: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """How large a frame may be; a frame over a limit is refused before it is buffered.

    ``max_headers`` counts repeated ones too. ``max_line_bytes`` is for the command and for each
    header, its LF not counted. A parser holds at most one frame of this size.
    """

    max_headers: int = 100
    max_line_bytes: int = 8 * 1024
    max_body_bytes: int = 16 * 1024 * 1024


DEFAULT_FRAME_LIMITS: Final = FrameLimits()


def excerpt(text: str) -> str:
    """Quote what a peer sent, cut short and in printable ASCII, for use in an error."""
    if len(text) > _MAX_EXCERPT_CHARACTERS:
        text = f"{text[:_MAX_EXCERPT_CHARACTERS]}..."
    return ascii(text)


def negotiate_version(accept_version: str | None) -> Version | None:
    """Return the highest version that the ``accept-version`` header shares with this codec.

    Without the header the client speaks 1.0. None means that nothing is shared.
    """
    if accept_version is None:
        return "1.0"
    accepted = {version.strip() for version in accept_version.split(",")}
    return next((version for version in reversed(VERSIONS) if version in accepted), None)


class FrameParser:
    """Turns the bytes of one connection into frames, however they are cut.

    Lines end in LF or CR LF in every version; line ends between frames are skipped. A CR
    elsewhere in a line belongs to the value in 1.0 and 1.1, and is refused in 1.2.

    ``version`` decides about escapes and trimming. It is None, which reads as 1.0, until a
    CONNECT, STOMP or CONNECTED frame has passed, and from then on what that frame makes it; so
    frames may follow CONNECT in the same bytes.
    """

    def __init__(
        self, limits: FrameLimits = DEFAULT_FRAME_LIMITS, version: Version | None = None
    ) -> None:
        self.version = version
        self._limits = limits
        self._buffer = bytearray()  # of the frame that is not complete, without a finished head
        self._scanned = 0  # how much of the buffer was looked through for the end of head or body
        self._line_start = 0  # in the buffer, of the last line of an unfinished head
        self._line_count = 0  # of the lines before it
        self._head: tuple[str, dict[str, str]] | None = None  # the body is being read
        self._content_length: int | None = None  # of that body; None reads up to the first NUL
        self._fault: tuple[str, str | None] | None = None  # its text and receipt id

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete frame is held."""
        return len(self._buffer)

    def receive_data(self, data: bytes) -> list[Frame]:
        """Take in what arrived and return the frames that are now complete.

        Raises StompError for a malformed or oversized frame, and ever after; if the same call
        completed frames before that one, it returns those and the next call raises.
        """
        if self._fault is not None:
            message, receipt_id = self._fault
            raise StompError(message, receipt_id=receipt_id)
        frames: list[Frame] = []
        source: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            source = self._buffer
        try:
            consumed = self._parse(source, frames)
        except StompError as error:
            self._fault = (str(error), error.receipt_id)
            self._buffer.clear()
            if not frames:
                raise
            return frames
        if source is self._buffer:
            del self._buffer[:consumed]
        elif consumed < len(data):
            self._buffer += data[consumed:] if consumed else data
        return frames

    def _parse(self, source: bytes | bytearray, frames: list[Frame]) -> int:
        """Read all complete frames and return where the first incomplete part begins."""
        position = 0
        while True:
            if self._head is None:
                if line_ends := _LINE_ENDS.match(source, position):
                    position = line_ends.end()
                if position == len(source):
                    return position
                blank = _BLANK_LINE.search(source, position + self._scanned)
                if blank is None:
                    self._check_lines(source, position, len(source))
                    self._scanned = max(len(source) - position - 2, 0)  # it may end in LF CR
                    return position
                self._read_head(source, position, blank.start())
                position = blank.end()
            end = self._find_body_end(source, position)
            if end is None:
                return position
            frames.append(self._finish(source, position, end))
            position = end + 1

    def _check_lines(self, source: bytes | bytearray, start: int, end: int) -> None:
        """Hold the lines of a head, the last of which may be unfinished, against the limits."""
        look_from = start + self._scanned
        if source.find(b"\0", look_from, end) >= 0:
            raise StompError("a NUL before the end of the headers; put a blank line after them")
        line_start = start + self._line_start
        while (line_end := source.find(b"\n", max(line_start, look_from), end)) >= 0:
            self._check_line(line_end - line_start)
            self._line_count += 1
            line_start = line_end + 1
        # A CR alone is most likely half of the blank line, and no header yet.
        if line_start < end and source[line_start:end] != b"\r":
            self._check_line(end - line_start)
        self._line_start = line_start - start

    def _check_line(self, size: int) -> None:
        if self._line_count > self._limits.max_headers:  # the command is a line too
            raise StompError(f"more than {self._limits.max_headers} headers in one frame")
        if size > self._limits.max_line_bytes:
            raise StompError(f"a command or header over {self._limits.max_line_bytes} bytes")

    def _read_head(self, source: bytes | bytearray, start: int, end: int) -> None:
        """Read the command and headers between these places, and prepare for the body."""
        head = source[start:end]
        # What is short and has few lines passes any check of its lines.
        if (
            len(head) > self._limits.max_line_bytes
            or head.count(b"\n") >= self._limits.max_headers
            or 0 in head
        ):
            self._check_lines(source, start, end)
        self._scanned = self._line_start = self._line_count = 0
        try:
            command, *lines = head.decode().split("\n")
        except UnicodeDecodeError as error:
            raise StompError("the command and headers must be UTF-8") from error
        if b"\r" in head:
            command = command.removesuffix("\r")
            lines = [self._without_carriage_return(command, line) for line in lines]
        headers = self._read_headers(command, lines)
        if command not in _KNOWN_COMMANDS:
            raise StompError(
                f"unknown command {excerpt(command)}", receipt_id=headers.get("receipt")
            )
        self._content_length = self._read_content_length(headers)
        self._head = (command, headers)

    def _without_carriage_return(self, command: str, line: str) -> str:
        line = line.removesuffix("\r")
        if "\r" in line and self.version == "1.2" and command not in CONNECTING_COMMANDS:
            raise StompError(f"a carriage return in header {excerpt(line)}; write it as \\r")
        return line

    def _read_headers(self, command: str, lines: list[str]) -> dict[str, str]:
        version: Version = self.version or "1.0"
        is_verbatim = command in CONNECTING_COMMANDS
        is_padded = version == "1.0" and not is_verbatim
        unescaped = {} if is_verbatim else _UNESCAPED[version]
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if is_padded:
                name = name.strip(PADDING)
                value = value.strip(PADDING)
            elif unescaped and "\\" in line:
                name = _unescape(name, unescaped)
                value = _unescape(value, unescaped)
            if not colon or not name:
                raise StompError(f"header {excerpt(line)} is not of the form name:value")
            headers.setdefault(name, value)
        return headers

    def _read_content_length(self, headers: dict[str, str]) -> int | None:
        text = headers.get("content-length")
        if text is None:
            return None
        receipt_id = headers.get("receipt")
        if not _CONTENT_LENGTH.fullmatch(text):
            raise StompError(
                f"content-length {excerpt(text)} is not a number of octets", receipt_id=receipt_id
            )
        if len(text) > _MAX_CONTENT_LENGTH_DIGITS or int(text) > self._limits.max_body_bytes:
            raise self._body_too_large(receipt_id)
        return int(text)

    def _body_too_large(self, receipt_id: str | None) -> StompError:
        return StompError(f"a body over {self._limits.max_body_bytes} bytes", receipt_id=receipt_id)

    def _find_body_end(self, source: bytes | bytearray, start: int) -> int | None:
        """Return where the NUL after the body is, or None if it has not come yet."""
        assert self._head is not None
        _, headers = self._head
        if self._content_length is not None:
            end = start + self._content_length
            if end >= len(source):
                return None
            if source[end] != 0:
                raise StompError(
                    f"no NUL after the {self._content_length} octets of content-length",
                    receipt_id=headers.get("receipt"),
                )
            return end
        end = source.find(b"\0", start + self._scanned)
        size = (end if end >= 0 else len(source)) - start
        if size > self._limits.max_body_bytes:
            raise self._body_too_large(headers.get("receipt"))
        self._scanned = 0 if end >= 0 else size
        return end if end >= 0 else None

    def _finish(self, source: bytes | bytearray, start: int, end: int) -> Frame:
        assert self._head is not None
        command, headers = self._head
        self._head = None
        if self.version is None and command in CONNECTING_COMMANDS:
            headers = self._agree(command, headers)
        if command not in COMMANDS_WITH_BODY:
            return Frame(command, headers)
        # One copy out of a buffer, too; a slice of it would be copied once more.
        body = source if isinstance(source, bytes) else memoryview(source)
        return Frame(command, headers, bytes(body[start:end]))

    def _agree(self, command: str, headers: dict[str, str]) -> dict[str, str]:
        """Take the version from this frame, and return its headers as that version has them."""
        name = "version" if command == "CONNECTED" else "accept-version"
        # A client that shares no version is refused by the session, whatever it sends next.
        self.version = negotiate_version(headers.get(name))
        if self.version != "1.0":
            return headers
        trimmed: dict[str, str] = {}
        for name, value in headers.items():
            trimmed.setdefault(name.strip(PADDING), value.strip(PADDING))
        return trimmed


def _unescape(text: str, unescaped: dict[str, str]) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: _lookup(match[0], unescaped), text)


def _lookup(escape: str, unescaped: dict[str, str]) -> str:
    try:
        return unescaped[escape]
    except KeyError:
        allowed = " ".join(unescaped)
        raise StompError(
            f"undefined escape {escape if escape.isprintable() else ascii(escape)} in a header;"
            f" this version knows {allowed}"
        ) from None
