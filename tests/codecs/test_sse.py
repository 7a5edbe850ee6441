"""Server-sent events, written and read back."""

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restmq.codecs.sse import COMMENT_PING, Event, EventParser, encode_event
from restmq.errors import TooLarge


def parse(stream: bytes) -> list[Event]:
    return EventParser().receive_data(stream)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[start:stop] for start, stop in pairwise(edges)]


def ways_to_arrive(data: bytes, cuts: list[int]) -> list[list[bytes]]:
    """Return the stream whole, byte by byte, and cut at these places."""
    return [[data], [data[i : i + 1] for i in range(len(data))], pieces(data, cuts)]


def receive_all(parser: EventParser, parts: list[bytes]) -> list[Event]:
    return [event for part in parts for event in parser.receive_data(part)]


# Writing


@pytest.mark.parametrize(
    ("data", "encoded"),
    [
        ("hello", b"data: hello\n\n"),
        (b"hello", b"data: hello\n\n"),
        ("", b"data: \n\n"),
        (" ä", b"data:  \xc3\xa4\n\n"),
        ("a\nb", b"data: a\ndata: b\n\n"),
        ("a\rb", b"data: a\ndata: b\n\n"),
        (b"a\r\nb", b"data: a\ndata: b\n\n"),
        ("a\n\rb\n", b"data: a\ndata: \ndata: b\ndata: \n\n"),
        ("a\u2028b\x0bc", b"data: a\xe2\x80\xa8b\x0bc\n\n"),
        ("x\n\nid: 7", b"data: x\ndata: \ndata: id: 7\n\n"),
    ],
)
def test_data_is_written_line_by_line(data: str | bytes, encoded: bytes) -> None:
    """Every kind of line break in the data starts a new data line, and nothing else does."""
    assert encode_event(data) == encoded


def test_the_fields_of_an_event() -> None:
    """Id, type and waiting time come before the data, each on its line."""
    assert (
        encode_event(b"x\ny", id="q:1", event="gap", retry_milliseconds=1500)
        == b"id: q:1\nevent: gap\nretry: 1500\ndata: x\ndata: y\n\n"
    )
    assert encode_event("x", id="") == b"id: \ndata: x\n\n"
    assert encode_event("x", retry_milliseconds=0) == b"retry: 0\ndata: x\n\n"


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "\r\n", "a\0b"])
def test_an_id_cannot_break_out_of_its_line(bad: str) -> None:
    """An id with a line break or a NUL is refused."""
    with pytest.raises(ValueError, match="an event id"):
        encode_event("x", id=bad)


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "\r\n"])
def test_a_type_cannot_break_out_of_its_line(bad: str) -> None:
    """A type with a line break is refused."""
    with pytest.raises(ValueError, match="line break"):
        encode_event("x", event=bad)


def test_a_negative_wait_is_refused() -> None:
    """Readers would pass over a waiting time that is not a number of digits."""
    with pytest.raises(ValueError, match="retry_milliseconds"):
        encode_event("x", retry_milliseconds=-1)


# Reading


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event("a")]),
        (b"data:a\n\n", [Event("a")]),
        (b"data:  a \n\n", [Event(" a ")]),
        (b"data: a\ndata: b\n\n", [Event("a\nb")]),
        (b"data\n\ndata\ndata\n\ndata:", [Event(""), Event("\n")]),
        (b"data: a", []),
        (b"data: a\n", []),
        (b"\n\n\n", []),
        (b": a comment\n\n" + COMMENT_PING, []),
        (b"data: a\n: a comment\ndata: b\n\n", [Event("a\nb")]),
        (b"data: a\r\rdata: b\r\n\r\ndata: c\n\r\n", [Event("a"), Event("b"), Event("c")]),
        (b"data: a\r\n\ndata: b\n\r", [Event("a"), Event("b")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [Event("a", "x"), Event("b")]),
        (b"event: x\n\ndata: b\n\n", [Event("b")]),
        (b"event: x\nevent:\ndata: b\n\n", [Event("b")]),
        (b"id: 1\ndata: a\n\ndata: b\n\n", [Event("a", id="1"), Event("b", id="1")]),
        (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Event("a", id="1"), Event("b")]),
        (b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [Event("a", id="1"), Event("b", id="1")]),
        (b"Data: a\nother: b\n data: c\ndata : d\n\n", []),
        (b"data: a: b\n\n", [Event("a: b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"\n\xef\xbb\xbfdata: a\n\n", []),
        (b"data: \xef\xbb\xbfa\n\n", [Event("\ufeffa")]),
        (b"data: \xff\xe2\x82\ndata: \xac\n\n", [Event("\ufffd\ufffd\n\ufffd")]),
        ("data: a\u2028b\x0bc\n\n".encode(), [Event("a\u2028b\x0bc")]),
    ],
)
def test_the_rules_of_the_standard(stream: bytes, expected: list[Event]) -> None:
    """A stream means what the WHATWG rules say, whole and byte by byte."""
    for parts in ways_to_arrive(stream, []):
        parser = EventParser()
        assert receive_all(parser, parts) == expected


def test_an_event_is_there_as_soon_as_its_blank_line() -> None:
    """A CR ends a line at once, and an LF that follows later is part of the same break."""
    parser = EventParser()
    assert parser.receive_data(b"data: a\r\n\r") == [Event("a")]
    assert parser.receive_data(b"") == []
    assert parser.receive_data(b"\ndata: b\r\r") == [Event("b")]
    assert parser.receive_data(b"\n") == []
    assert parser.receive_data(b"data: c\n") == []
    assert parser.receive_data(b"\n") == [Event("c")]


def test_the_last_event_id_outlives_the_stream() -> None:
    """An id counts once its event is complete, even without data, and a new parser carries on."""
    parser = EventParser()
    assert parser.last_event_id == ""
    parser.receive_data(b"id: 7\n")
    assert parser.last_event_id == ""
    assert parser.receive_data(b"\n") == []
    assert parser.last_event_id == "7"
    following = EventParser(last_event_id=parser.last_event_id)
    assert following.receive_data(b"data: a\n\n") == [Event("a", id="7")]
    assert following.last_event_id == "7"


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (b"1500", 1500),
        (b"0", 0),
        (b"", None),
        (b"1.5", None),
        (b"-1", None),
        (b"+1", None),
        (b"1 ", None),
        ("\u0661".encode(), None),
        (b"9" * 5000, None),
    ],
)
def test_only_digits_set_the_wait(value: bytes, milliseconds: int | None) -> None:
    """A retry field of anything but digits is passed over."""
    parser = EventParser()
    parser.receive_data(b"retry: " + value + b"\n")
    assert parser.retry_milliseconds == milliseconds


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 95,
        b": " + b"x" * 99,
        (b"data: " + b"x" * 20 + b"\n") * 5,
        b"data:\n" * 99,
    ],
    ids=["one line", "a comment", "many lines", "many empty lines"],
)
def test_an_event_over_the_limit_is_refused(stream: bytes) -> None:
    """The limit holds for any part of an event, however it arrives, and the parser is done."""
    for parts in ways_to_arrive(stream, []):
        parser = EventParser(max_event_bytes=100)
        with pytest.raises(TooLarge, match="100 bytes"):
            receive_all(parser, parts)
        for part in (b"data: a\n\n", b""):
            with pytest.raises(TooLarge):
                parser.receive_data(part)
    assert parse(stream) == []


def test_events_before_the_one_over_the_limit_are_not_lost() -> None:
    """What was complete is returned first; the next call raises."""
    parser = EventParser(max_event_bytes=10)
    assert parser.receive_data(b"id: 1\ndata: a\n\ndata: too long") == [Event("a", id="1")]
    assert parser.last_event_id == "1"
    with pytest.raises(TooLarge):
        parser.receive_data(b"")


def test_a_long_stream_of_small_events_is_no_matter() -> None:
    """The limit is about one event, not about the stream."""
    parser = EventParser(max_event_bytes=10)
    assert len(parser.receive_data(b"data: abcd\n\n" * 1000)) == 1000


# Both


fields = st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=8)
texts = st.text(
    st.one_of(st.sampled_from("\r\n :\ufeff"), st.characters(exclude_categories=["Cs"])),
    max_size=20,
)
written = st.tuples(texts, st.none() | fields, st.none() | fields)


@given(events=st.lists(written, max_size=5), cuts=st.lists(st.integers(0, 200), max_size=10))
@settings(deadline=None)
def test_what_is_written_is_read_back(
    events: list[tuple[str, str | None, str | None]], cuts: list[int]
) -> None:
    """Any events survive, however the bytes arrive; their line breaks become LF."""
    stream, expected, last_id = b"", [], ""
    for data, event_id, event in events:
        stream += encode_event(data, id=event_id, event=event) + COMMENT_PING
        assert encode_event(data) == encode_event(data.encode())
        last_id = last_id if event_id is None else event_id
        expected.append(Event(re.sub("\r\n|\r", "\n", data), event or "message", last_id))
    for parts in ways_to_arrive(stream, cuts):
        parser = EventParser()
        assert receive_all(parser, parts) == expected
        assert parser.last_event_id == last_id


@given(
    stream=st.lists(
        st.sampled_from(
            [b"data", b"id", b"event", b"retry", b":", b" ", b"\r", b"\n", b"7", b"\xff", b"\0"]
        ),
        max_size=40,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 100), max_size=10),
)
@settings(deadline=None)
def test_any_stream_reads_the_same_however_it_arrives(stream: bytes, cuts: list[int]) -> None:
    """Nothing depends on how the bytes are cut, and no bytes are an error."""
    outcomes = []
    for parts in ways_to_arrive(stream, cuts):
        parser = EventParser()
        events = receive_all(parser, parts)
        outcomes.append((events, parser.last_event_id, parser.retry_milliseconds))
    assert outcomes[0] == outcomes[1] == outcomes[2]
