"""How the log looks: one line an event, as text or as JSON, without secrets.

A record may carry ``fields``: ``logger.info("...", extra=fields(connection="7-1"))``. They become
members of the JSON object, and ``name=value`` at the end of a line of text. No event can begin a
line of its own in the log, whatever a client sent: what is no printable character is escaped.
"""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Final, TextIO

MAX_MESSAGE_CHARACTERS: Final = 16 * 1024
"""Longer messages are cut, and of longer tracebacks the middle."""

_FIELDS: Final = "fields"

# Keys, what headers hold that let people in, the credentials and the query of a URL, and what a
# word like "token" is set to. Each takes time in proportion to the text, whatever that is.
_WORDS: Final = r"(?:api[_-]?key|passw(?:or)?d|passcode|token|secret)"
_SECRETS: Final = (
    (re.compile(r"\brmq_[A-Za-z0-9_-]+"), "rmq_***"),
    (
        re.compile(
            r"(?i)\b((?:authorization|x-auth-token|x-api-key|cookie)[\"']?\s*[:=]\s*(?-i:b)?[\"']?)[^\"']+"
        ),
        r"\1***",
    ),
    (re.compile(r"(?i)\b(basic|bearer)( +)[A-Za-z0-9+/_.~-]{16,}=*"), r"\1\2***"),
    (re.compile(r"(://)[^\s/?#@]{1,200}@"), r"\1***@"),
    (re.compile(r"(://[^\s?#\"']{1,300})\?[^\s\"']*"), r"\1"),
    (re.compile(rf"(?i)({_WORDS}[\"']?\s*[:=]\s*b?([\"']))(?:\\.|(?!\2)[^\\])+"), r"\1***"),
    (re.compile(rf"(?i)({_WORDS}[:=])[^\s&;,\"']+"), r"\1***"),
)
_SECRET_SIGNS: Final = re.compile(
    r"(?i)rmq_|basic|bearer|authorization|cookie|://|key|passw|passcode|token|secret"
)


def fields(**values: object) -> dict[str, Mapping[str, object]]:
    """Return what a log call takes as ``extra``, for fields of these names."""
    return {_FIELDS: values}


def mask_secrets(text: str) -> str:
    """Return ``text`` without keys, passwords, tokens, and the queries of URLs."""
    if _SECRET_SIGNS.search(text) is None:
        return text
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def one_line(text: str) -> str:
    """Return ``text`` with everything escaped that is not printable, as line breaks are."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


class _LineFormatter(logging.Formatter):
    """What both forms have in common."""

    def _message(self, record: logging.LogRecord) -> str:
        text = mask_secrets(record.getMessage())  # whole: what is cut off cannot be recognised
        if len(text) > MAX_MESSAGE_CHARACTERS:
            text = text[:MAX_MESSAGE_CHARACTERS] + "..."
        return text

    def _exception(self, record: logging.LogRecord) -> str:
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        parts = [record.exc_text or ""]
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        text = mask_secrets("\n".join(filter(None, parts)))
        if len(text) > MAX_MESSAGE_CHARACTERS:
            half = MAX_MESSAGE_CHARACTERS // 2
            text = f"{text[:half]} ... {text[-half:]}"
        return text

    def _fields(self, record: logging.LogRecord) -> Mapping[str, object]:
        values = getattr(record, _FIELDS, None)
        return values if isinstance(values, Mapping) else {}


class TextFormatter(_LineFormatter):
    """``2027-01-31 12:00:00,123 INFO restmq.server: message name=value``, local time."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as a line."""
        parts = [f"{record.levelname} {record.name}: {self._message(record)}"]
        parts += [f"{name}={_word(value)}" for name, value in self._fields(record).items()]
        exception = self._exception(record)
        if exception:
            parts.append(f"| {exception}")
        return f"{self.formatTime(record)} {one_line(' '.join(parts))}"


def _word(value: object) -> str:
    """Write the value of a field, in quotation marks if it would not be one word."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = mask_secrets(str(value))
    return json.dumps(text) if not text or any(each in ' "=\\' for each in text) else text


class JsonFormatter(_LineFormatter):
    """An object with ``time`` (UTC), ``level``, ``logger``, ``message``, ``process`` and fields.

    ``exception`` is the traceback of one, with its line breaks escaped as JSON has it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write a record as a line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
            "process": record.process,
        }
        for name, value in self._fields(record).items():
            document.setdefault(name, mask_secrets(value) if isinstance(value, str) else value)
        exception = self._exception(record)
        if exception:
            document["exception"] = exception
        # ASCII, as JSON allows line separators in strings, and headers may hold lone surrogates.
        return json.dumps(document, default=str, separators=(",", ":"))


def set_up(level: str, form: str, stream: TextIO | None = None) -> None:
    """Log one line an event to standard error, or to ``stream``: ``form`` is text or json.

    What was set up before is replaced. Warnings of Python go to the log as well.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
