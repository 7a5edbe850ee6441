"""Syslog over a byte stream: bytes to lines, and lines to the events that RestMQ queues.

The events are those of the RestMQ specification, section 8. The priority is that of RFC 3164
and RFC 5424; a line needs no other part of either format.
"""

import re
from typing import Final, TypedDict

MAX_LINE_BYTES: Final = 16 * 1024

_PRIORITY: Final = re.compile(rb"<([0-9]{1,3})>")
_FACILITIES: Final = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news"),
    *("uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert", "at"),
    *("local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
_SEVERITIES: Final = ("emerg", "alert", "crit", "err", "warn", "notice", "info", "debug")


class SyslogEvent(TypedDict):
    """One line as it is queued."""

    line: str  # the whole line, its priority included
    host: str  # the sender's address
    tstamp: float  # when it arrived, in seconds since the epoch
    facility: str | None  # both None when the line has no valid priority
    severity: str | None


def parse_line(line: bytes, *, host: str, tstamp: float) -> SyslogEvent:
    """Turn one line into an event; every line makes one.

    The event holds the line as it came, its ``<PRI>`` included and its spaces kept, so that
    nothing of it is lost; bytes that are not UTF-8 become U+FFFD. A priority that is missing, not
    a number or over 191 leaves facility and severity None.

    ``host`` is the sender's address and ``tstamp`` the arrival in seconds since the epoch.
    """
    facility, severity = _parse_priority(line)
    return SyslogEvent(
        line=line.decode("utf-8", "replace"),
        host=host,
        tstamp=tstamp,
        facility=facility,
        severity=severity,
    )


def _parse_priority(line: bytes) -> tuple[str, str] | tuple[None, None]:
    match = _PRIORITY.match(line)
    if match is None:
        return None, None
    facility, severity = divmod(int(match[1]), 8)
    if facility >= len(_FACILITIES):
        return None, None
    return _FACILITIES[facility], _SEVERITIES[severity]


class LineSplitter:
    """Cuts the bytes of one connection into lines that end in LF or CR LF.

    A line longer than ``max_line_bytes``, its end not counted, is cut at the limit: the rest of
    it up to its LF is dropped, and ``overlong_count`` goes up by one. That is also the limit of
    what is buffered between calls. Empty lines are lines.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self.overlong_count = 0
        self._max_line_bytes = max_line_bytes
        self._partial = bytearray()

    def receive_data(self, data: bytes) -> list[bytes]:
        """Take in what arrived and return the lines that are now complete, without their ends."""
        first, *others = data.split(b"\n")
        if not others:
            self._keep(first)
            return []
        *complete, last = others
        self._keep(first)
        lines = [self._cut(bytes(self._partial)), *map(self._cut, complete)]
        self._partial.clear()
        self._keep(last)
        return lines

    def end(self) -> list[bytes]:
        """Return the last line if it had no LF; the splitter is then as new, but for its count."""
        if not self._partial:
            return []
        line = self._cut(bytes(self._partial))
        self._partial.clear()
        return [line]

    def _keep(self, data: bytes) -> None:
        """Buffer the next part of a line."""
        # Two bytes over the limit tell a line that is too long from one whose CR comes after it.
        room = self._max_line_bytes + 2 - len(self._partial)
        self._partial += data[:room]

    def _cut(self, line: bytes) -> bytes:
        """Take the CR and everything over the limit off a line whose LF is gone already."""
        line = line.removesuffix(b"\r")
        if len(line) > self._max_line_bytes:
            self.overlong_count += 1
            return line[: self._max_line_bytes]
        return line
