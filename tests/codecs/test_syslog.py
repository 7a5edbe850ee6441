"""Syslog lines: how bytes are cut into them, and what is queued for each."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restmq.codecs.syslog import MAX_LINE_BYTES, LineSplitter, parse_line

FACILITIES = [
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron"),
    *("authpriv", "ftp", "ntp", "audit", "alert", "at"),
    *(f"local{number}" for number in range(8)),
]
SEVERITIES = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"]


def priority(line: bytes) -> tuple[str | None, str | None]:
    event = parse_line(line, host="10.0.0.5", tstamp=1.5)
    return event["facility"], event["severity"]


def test_an_event_has_the_fields_of_the_contract() -> None:
    """A line becomes line, host, tstamp, facility and severity, and survives JSON."""
    line = b"<22>Nov  1 00:12:04 vm1 postfix/smtpd[4880]: connect from localhost[127.0.0.1]"
    event = parse_line(line, host="10.0.0.5", tstamp=1288569124.25)
    assert json.loads(json.dumps(event)) == {
        "line": line.decode(),
        "host": "10.0.0.5",
        "tstamp": 1288569124.25,
        "facility": "mail",
        "severity": "info",
    }


@pytest.mark.parametrize("number", range(192))
def test_every_priority_has_its_names(number: int) -> None:
    """The facility is the priority divided by 8, and the severity the rest."""
    expected = FACILITIES[number // 8], SEVERITIES[number % 8]
    assert priority(b"<%d>text" % number) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no priority",
        b"<192>text",
        b"<999>text",
        b"<1000>text",
        b"<-1>text",
        b"<+1>text",
        b"<>text",
        b"<1 >text",
        b"<x>text",
        b"<1",
        b"text <13> later",
        b" <13>text",
        "<\u0661>text".encode(),
    ],
)
def test_a_bad_priority_leaves_both_names_null(line: bytes) -> None:
    """A priority that is missing or wrong is no reason to refuse the line."""
    assert priority(line) == (None, None)
    assert parse_line(line, host="h", tstamp=0.0)["line"] == line.decode()


def test_a_line_is_kept_verbatim() -> None:
    """Spaces, control characters and the priority stay; bad UTF-8 becomes U+FFFD."""
    assert parse_line(b"<13> \ta\x00 \xff ", host="h", tstamp=0.0)["line"] == "<13> \ta\0 \ufffd "


def test_lines_end_in_lf_or_crlf() -> None:
    """Line ends are taken off, and only a CR right before its LF belongs to one."""
    splitter = LineSplitter()
    assert splitter.receive_data(b"one\ntwo\r\n\r\n\nth\rree\r\r\nfo") == [
        b"one",
        b"two",
        b"",
        b"",
        b"th\rree\r",
    ]
    assert splitter.receive_data(b"u") == []
    assert splitter.receive_data(b"r\r") == []
    assert splitter.receive_data(b"\n") == [b"four"]
    assert splitter.end() == []


def test_the_last_line_needs_no_end() -> None:
    """What is left when the connection closes is a line too, once."""
    splitter = LineSplitter()
    assert splitter.receive_data(b"a\nb") == [b"a"]
    assert splitter.end() == [b"b"]
    assert splitter.end() == []
    assert splitter.receive_data(b"c\n") == [b"c"]


def test_a_line_over_the_limit_is_cut_and_counted() -> None:
    """The limit is 16 KiB without the line end; what is over it is dropped up to the LF."""
    splitter = LineSplitter()
    full = b"x" * MAX_LINE_BYTES
    assert MAX_LINE_BYTES == 16 * 1024
    assert splitter.receive_data(full + b"\n" + full + b"\r\n") == [full, full]
    assert splitter.overlong_count == 0
    assert splitter.receive_data(full + b"y\n" + full + b"y\r\nnext\n") == [full, full, b"next"]
    assert splitter.overlong_count == 2
    for _ in range(3):
        assert splitter.receive_data(full) == []
    assert splitter.end() == [full]
    assert splitter.overlong_count == 3


def test_the_buffer_is_bounded() -> None:
    """A line without end takes no more memory than the limit."""
    splitter = LineSplitter(max_line_bytes=10)
    for _ in range(100):
        splitter.receive_data(b"x" * 1000)
    assert len(splitter._partial) <= 12


@given(
    data=st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b"\xff", b"12345"])).map(
        b"".join
    ),
    cuts=st.lists(st.integers(0, 60)),
)
@settings(deadline=None)
def test_the_lines_do_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    """Whole, byte by byte or cut anywhere: the same lines, and the same count."""
    expected_lines, expected_count = [], 0
    *ended, last = data.split(b"\n")
    for line in [*ended, last] if last else ended:
        text = line[:-1] if line.endswith(b"\r") else line
        expected_count += len(text) > 4
        expected_lines.append(text[:4])
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:stop] for start, stop in pairwise(edges)]
    for parts in ([data], [data[i : i + 1] for i in range(len(data))], pieces):
        splitter = LineSplitter(max_line_bytes=4)
        lines = [line for part in parts for line in splitter.receive_data(part)] + splitter.end()
        assert (lines, splitter.overlong_count) == (expected_lines, expected_count)
