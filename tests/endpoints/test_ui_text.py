"""How the dashboard says numbers, times, names and values."""

import html
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.endpoints.ui_text import (
    show_bytes,
    show_duration,
    show_name,
    show_number,
    show_rate,
    show_time,
)
from restmq.endpoints.ui_values import MAX_HEX_BYTES, MAX_SHOWN_BYTES, show_value


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (9_999, "9,999"),
        (10_000, "10.0 k"),
        (123_456, "123 k"),
        (999_949, "1.0 M"),
        (1_234_567, "1.2 M"),
        (3 * 10**9, "3.0 G"),
        (2**53, "9007 T"),
    ],
)
def test_numbers_are_short_and_their_titles_exact(number: int, text: str) -> None:
    assert show_number(number) == (text, f"{number:,}")


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0"), (0.04, "0"), (0.06, "0.1"), (9.94, "9.9"), (12.3, "12"), (1500, "1.5 k")],
)
def test_rates_are_short(rate: float, text: str) -> None:
    assert show_rate(rate).text == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.2, "< 1 s"),
        (59.9, "59 s"),
        (180, "3 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (90_000, "1 d"),
        (10**8, "1,157 d"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert show_duration(seconds).text == text


def test_times_are_told_from_now_and_exactly() -> None:
    assert show_time(1000.5, now=1180.6) == ("3 min ago", "1970-01-01 00:16:40.500 UTC")
    assert show_time(1060.0, now=1000.0).text == "in 1 min"
    assert show_time(1000.0, now=1000.9).text == "now"
    assert show_time(None).text == "–"
    assert "seconds since 1970" in show_time(1e15, now=0.0).title


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (16 * 2**20, "16.0 MiB")]
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert show_bytes(count).text == text


def test_what_cannot_be_seen_in_a_name_is_written_out() -> None:
    assert show_name("a\r\nb\x00\u202ec\u200b") == "a\\x0d\\x0ab\\x00\\u202ec\\u200b"
    assert show_name("ünï <b>") == "ünï <b>"


@given(st.binary(max_size=400))
def test_any_value_can_be_shown(value: bytes) -> None:
    """Its body is markup that holds no tags but those of the colours."""
    shown = show_value(value)
    assert shown.size_bytes == len(value)
    body = str(shown.body)
    for tag in ("key", "string", "number", "word"):
        body = body.replace(f'<span class="{tag}">', "")
    assert "<" not in body.replace("</span>", "")
    assert "\n" not in shown.preview


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(_json) | st.dictionaries(st.text(), _json))
def test_json_is_shown_as_the_same_json(value: object) -> None:
    shown = show_value(msgspec.json.encode(value))
    if shown.kind == "json":  # DEL may stand in JSON, and makes it hex
        text = html.unescape(re.sub("</?span[^>]*>", "", str(shown.body)))
        assert msgspec.json.decode(text) == value
    else:
        assert "\x7f" in msgspec.json.encode(value).decode()


def test_what_is_cut_is_cut_between_characters() -> None:
    for shift in range(3):
        shown = show_value(b"a" * shift + "€".encode() * MAX_SHOWN_BYTES)
        assert (shown.kind, shown.is_cut) == ("text", True)
        assert set(str(shown.body)) <= {"a", "€"}


def test_nested_deeply_or_cut_it_is_no_json() -> None:
    assert show_value(b"[" * 5000 + b"]" * 5000).kind == "text"
    assert show_value(b'{"a":1').kind == "text"
    assert show_value(b"[" + b"1," * MAX_SHOWN_BYTES + b"1]").kind == "text"


def test_bytes_are_shown_as_hex() -> None:
    shown = show_value(bytes(range(256)) * 16)
    assert shown.kind == "hex"
    lines = str(shown.body).splitlines()
    assert lines[0] == "000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f  ................"
    assert len(lines) == MAX_HEX_BYTES // 16
    assert shown.is_cut


def test_an_empty_value_says_so() -> None:
    assert show_value(b"").kind == "empty"


def test_long_json_has_no_colours() -> None:
    """A page with dozens of values must not hold up everybody."""
    short, long = show_value(b"[" + b"1," * 200 + b"1]"), show_value(b"[" + b"1," * 2000 + b"1]")
    assert (short.kind, long.kind) == ("json", "json")
    assert str(short.body).count('<span class="number">') == 201
    assert "<" not in str(long.body)
    assert show_value(b'{"<b>": "&"}').body == (
        '{\n  <span class="key">&#34;&lt;b&gt;&#34;</span>: '
        '<span class="string">&#34;&amp;&#34;</span>\n}'
    )
