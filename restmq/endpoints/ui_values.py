"""How the dashboard shows the values of messages: JSON as JSON, text as text, all else as hex.

A value may have many megabytes, and a page shows dozens, so only the beginning of each is looked
at: what is shown of one costs the same whatever its size.
"""

import re
from typing import NamedTuple

import msgspec
from markupsafe import Markup, escape

MAX_SHOWN_BYTES = 16 * 1024
"""So much of a text is shown."""

MAX_HEX_BYTES = 1024
"""So much of what is no text is shown."""

MAX_COLOURED_CHARACTERS = 2048
"""A longer JSON text is shown without colours: one indented so has less than 500 words to mark, and
a page with dozens of values is made while no other request is served."""

PREVIEW_CHARACTERS = 160

_BYTES_A_LINE = 16
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOKEN = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")(?P<key>\s*:)?'
    r"|(?P<number>-?[0-9][0-9.eE+-]*)"
    r"|(?P<word>true|false|null)"
)
_MARKS = {kind: f'<span class="{kind}">' for kind in ("key", "string", "number", "word")}
_MARK_ENDS = "</span>"
_UNPRINTED = bytes(code if 0x20 <= code < 0x7F else 0x2E for code in range(256))


class ShownValue(NamedTuple):
    """A value as a page shows it."""

    kind: str
    """``json``, ``text``, ``hex`` or ``empty``."""
    preview: str
    """One line, cut short."""
    body: Markup
    """What stands on the page, escaped."""
    size_bytes: int
    is_cut: bool
    """Whether the body is only the beginning."""


def show_value(value: bytes) -> ShownValue:
    """Show a value, or its first part."""
    size = len(value)
    if not size:
        return ShownValue("empty", "(empty)", Markup(), 0, False)
    is_cut = size > MAX_SHOWN_BYTES
    text = _text_of(value[:MAX_SHOWN_BYTES], is_cut)
    if text is None:
        return _show_hex(value)
    preview = _preview(text)
    if not is_cut and value.lstrip()[:1] in (b"{", b"[") and (pretty := _pretty(value)):
        return ShownValue("json", preview, _colour(pretty), size, False)
    return ShownValue("text", preview, escape(text), size, is_cut)


def _text_of(data: bytes, is_cut: bool) -> str | None:
    """Return what is shown of a text; None if it is none that a page could show."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        # A cut may go through a character of up to four bytes.
        if not is_cut or error.start < len(data) - 3 or error.reason != "unexpected end of data":
            return None
        text = data[: error.start].decode()
    return None if _CONTROL.search(text) else text


def _pretty(value: bytes) -> str | None:
    try:
        msgspec.json.decode(value, type=msgspec.Raw)
        text = msgspec.json.format(value, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    # Indenting what is deeply nested makes much of little.
    return text if len(text) <= 4 * MAX_SHOWN_BYTES else None


def _colour(text: str) -> Markup:
    """Mark the parts of a JSON text, unless it is long."""
    if len(text) > MAX_COLOURED_CHARACTERS:
        return escape(text)
    parts: list[str] = []
    end = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup or ""
        word = token.group("string") if kind == "key" else token.group()
        parts += (escape(text[end : token.start()]), _MARKS[kind], escape(word), _MARK_ENDS)
        end = token.start() + len(word)
    parts.append(escape(text[end:]))
    return Markup("".join(parts))  # noqa: S704 - each part is escaped, or a mark


def _preview(text: str) -> str:
    line = " ".join(text[: 4 * PREVIEW_CHARACTERS].split())
    return line if len(line) <= PREVIEW_CHARACTERS else line[: PREVIEW_CHARACTERS - 1] + "…"


def _show_hex(value: bytes) -> ShownValue:
    shown = value[:MAX_HEX_BYTES]
    lines = []
    for at in range(0, len(shown), _BYTES_A_LINE):
        part = shown[at : at + _BYTES_A_LINE]
        digits = part.hex(" ")
        lines.append(f"{at:06x}  {digits:<47}  {part.translate(_UNPRINTED).decode()}")
    preview = shown[:24].hex(" ") + ("…" if len(value) > 24 else "")
    body = escape("\n".join(lines))
    return ShownValue("hex", preview, body, len(value), len(value) > MAX_HEX_BYTES)
