"""What collectd posts: its plain text protocol to the JSON values that RestMQ queues.

The values are those of the RestMQ specification, section 8; the lines are those of collectd's
plain text protocol (``PUTVAL``) and of the notifications its exec plugin hands to programs.
"""

import re
from typing import Final, NamedTuple, TypedDict

from restmq.errors import InvalidInput, TooLarge

MAX_RESULT_CHARACTERS: Final = 4 * 1024 * 1024

_EXPECTED_LINE: Final = (
    "expected PUTVAL host/plugin/type interval=seconds time:value, as in"
    " PUTVAL server/df/df-boot interval=10 1288548767:1:2"
)
_EXPECTED_NOTIFICATION: Final = (
    "expected lines such as Severity: WARNING, then a blank line, then the text"
)

# A word, in quotation marks if it holds spaces, up to white space or the end of the line.
_TEXT: Final = r'(?:"([^"\\]*(?:\\.[^"\\]*)*)"|([^ \t"][^ \t]*))(?:[ \t]+|$)'
_WORD: Final = re.compile(_TEXT)
_OPTION: Final = re.compile(rf"([A-Za-z][A-Za-z0-9_:.-]*)={_TEXT}")
_ESCAPED: Final = re.compile(r"\\(.)")

_DECIMAL: Final = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_INTERVAL: Final = re.compile(_DECIMAL)
_NUMBER: Final = rf"[+-]?(?:0x[0-9a-f]+|{_DECIMAL}(?:e[+-]?[0-9]+)?|nan|inf(?:inity)?)"
_VALUE_LIST: Final = re.compile(rf"(?:N|{_DECIMAL})(?::(?:U|{_NUMBER}))++", re.IGNORECASE)

_HEADER: Final = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(.*)")
_BLANK_LINE: Final = re.compile(r"\n[ \t]*\n")

# About what the names of the fields and the punctuation take in JSON.
_OBJECT_CHARACTERS: Final = 80


class ValueList(TypedDict):
    """What collectd measured at one moment, as it is queued."""

    host: str
    plugin_instance: str  # the plugin and its instance, such as "cpu-0"
    type_instance: str  # the type and its instance, such as "cpu-idle"
    interval: str | None  # in seconds; None when the line does not say
    value: str  # the time, then each value, joined by ":"


class _Putval(NamedTuple):
    """One line, taken apart."""

    identifier: str
    values: list[tuple[str | None, str]]  # the interval in force, and the list

    def value_lists(self) -> list[ValueList]:
        # Only the last part may hold a slash, as a mount point in an instance does.
        host, plugin, type_ = self.identifier.split("/", 2)
        return [
            ValueList(
                host=host,
                plugin_instance=plugin,
                type_instance=type_,
                interval=interval,
                value=value,
            )
            for interval, value in self.values
        ]


def parse_putval(
    text: str, *, max_result_characters: int = MAX_RESULT_CHARACTERS
) -> list[ValueList]:
    """Read ``PUTVAL`` lines into one object for each list of values, in their order.

    A line may hold several lists; blank lines are passed over; options other than ``interval``
    are read and dropped.

    Raises InvalidInput, naming the line, if a line is anything else or there is none at all, and
    TooLarge if the result, which repeats the names of a line for each of its lists, would take
    more than about ``max_result_characters`` as JSON.
    """
    result: list[ValueList] = []
    room = max_result_characters
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if not stripped:
            continue
        putval = _parse_line(stripped)
        if putval is None:
            raise InvalidInput(f"line {number}: {_EXPECTED_LINE}")
        room -= len(stripped)
        room -= len(putval.values) * (len(putval.identifier) + _OBJECT_CHARACTERS)
        if room < 0:
            raise TooLarge(f"line {number}: the values are over {max_result_characters} characters")
        result.extend(putval.value_lists())
    if not result:
        raise InvalidInput(f"the body is empty; {_EXPECTED_LINE}")
    return result


def _parse_line(line: str) -> _Putval | None:
    """Take one line apart; None if it is not a ``PUTVAL`` line."""
    keyword = _WORD.match(line)
    if keyword is None or keyword[2] is None or keyword[2].upper() != "PUTVAL":
        return None
    match = _WORD.match(line, keyword.end())
    if match is None:
        return None
    identifier = _unquoted(match[1], match[2])
    parts = identifier.split("/", 2)
    if len(parts) != 3 or not all(parts):
        return None
    values = _parse_values(line, match.end())
    return _Putval(identifier, values) if values else None


def _parse_values(line: str, position: int) -> list[tuple[str | None, str]]:
    """Read options and lists up to the end of the line; nothing if any of them is at fault.

    An interval holds for the lists that come after it.
    """
    values: list[tuple[str | None, str]] = []
    interval = None
    while position < len(line):
        option = _OPTION.match(line, position)
        word = option or _WORD.match(line, position)
        if word is None:
            return []
        position = word.end()
        if option is None:
            value = _unquoted(word[1], word[2])
            if not _VALUE_LIST.fullmatch(value):
                return []
            values.append((interval, value))
        elif option[1].lower() == "interval":
            interval = _unquoted(option[2], option[3])
            if not _INTERVAL.fullmatch(interval):
                return []
    return values


def _unquoted(quoted: str | None, bare: str | None) -> str:
    """Return the text of a word from the two groups that may hold it."""
    return bare or _ESCAPED.sub(r"\1", quoted or "")


def parse_notification(text: str) -> list[dict[str, str]]:
    """Read a notification into one-key objects: its headers, in lower case, then its text.

    Any header is taken, those that collectd may add to its own included. The text is whatever
    follows the first blank line, without the line breaks around it; its key is ``event_text``.

    Raises InvalidInput, naming the line, if a header is not ``Name: value``, and if the headers,
    the blank line or the text are missing.
    """
    head, *rest = _BLANK_LINE.split(text.replace("\r\n", "\n").lstrip("\n"), maxsplit=1)
    event_text = rest[0].strip("\n") if rest else ""
    if not event_text.strip():
        raise InvalidInput(f"the notification has no text; {_EXPECTED_NOTIFICATION}")
    result: list[dict[str, str]] = []
    for number, line in enumerate(head.split("\n"), start=1):
        match = _HEADER.fullmatch(line)
        if match is None:
            raise InvalidInput(f"line {number}: {_EXPECTED_NOTIFICATION}")
        result.append({match[1].lower(): match[2].strip()})
    result.append({"event_text": event_text})
    return result
