"""STOMP frames: how bytes become them, in each version and within limits."""

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restmq.codecs.stomp import (
    VERSIONS,
    Frame,
    FrameLimits,
    FrameParser,
    StompError,
    Version,
    negotiate_version,
)
from restmq.errors import InvalidInput

SMALL = FrameLimits(max_headers=4, max_line_bytes=40, max_body_bytes=60)
SMALL_BUFFER_BYTES = 5 * (40 + 2) + 60 + 2
"""No parser with those limits has a reason to hold more: five lines with their ends, a body."""

TOKENS = [
    *(b"CONNECT", b"CONNECTED", b"SEND", b"MESSAGE", b"SUBSCRIBE", b"FOO", b"\n", b"\r\n", b"\n\n"),
    *(
        b"\0",
        b"\n\0",
        b"\n\n\0",
        b":",
        b"\\",
        b"\\n",
        b"\\c",
        b"\\\\",
        b"\\t",
        b"a",
        b"a:b\n",
        b" ",
    ),
    *(b"\r", b"accept-version:1.0,1.1\n", b"accept-version:1.2\n", b"version:1.1\n", b"\xff"),
    *(b"content-length:3\n", b"content-length:61\n", b"content-length:-1\n", "ä".encode()),
    *(b"x" * 41, b"y" * 61),
]
VALID = (
    b"STOMP\naccept-version:1.1,1.2\nhost:x\n\n\0\n"
    b"SEND\ndestination:/queue/a\nx:a\\cb\n\nhello\0\r\n\n"
    b"SEND\r\ncontent-length:3\r\ndestination:b\r\n\r\na\0b\0"
    b"ACK\nid:1\n\n\0DISCONNECT\nreceipt:r\n\n\0"
)


def parse(stream: bytes, version: Version | None = "1.2") -> list[Frame]:
    return FrameParser(version=version).receive_data(stream)


def refuse(stream: bytes, version: Version | None = "1.2") -> str:
    with pytest.raises(StompError) as caught:
        parse(stream, version)
    return str(caught.value)


def refuse_parts(parts: list[bytes]) -> str:
    """Feed a parser with small limits, and return why it refused the last part."""
    parser = FrameParser(SMALL)
    for part in parts[:-1]:
        assert parser.receive_data(part) == []
    with pytest.raises(StompError) as caught:
        parser.receive_data(parts[-1])
    return str(caught.value)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[start:stop] for start, stop in pairwise(edges)]


def ways_to_arrive(data: bytes, cuts: list[int]) -> list[list[bytes]]:
    """Return the stream whole, byte by byte, and cut at these places."""
    return [[data], [data[i : i + 1] for i in range(len(data))], pieces(data, cuts)]


def receive_all(parser: FrameParser, parts: list[bytes]) -> tuple[list[Frame], bool]:
    """Return all frames, and whether the stream was at fault after them."""
    frames: list[Frame] = []
    try:
        for part in parts:
            while complete := parser.receive_data(part):
                frames += complete
                part = b""
    except StompError:
        return frames, True
    return frames, False


# The form of a frame


@pytest.mark.parametrize("version", [None, *VERSIONS])
@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (b"", []),
        (b"\n\r\n\n", []),
        (b"SEND\n\n\0", [Frame("SEND", {}, b"")]),
        (b"SEND\na:1\nb:\n\nhi\0", [Frame("SEND", {"a": "1", "b": ""}, b"hi")]),
        (b"SEND\r\na:1\r\n\r\nhi\0", [Frame("SEND", {"a": "1"}, b"hi")]),
        (b"SEND\na:1\n\r\nhi\0", [Frame("SEND", {"a": "1"}, b"hi")]),
        (b"\n\r\nACK\n\n\0\n\n\r\n\nNACK\n\n\0\n", [Frame("ACK", {}), Frame("NACK", {})]),
        (b"SEND\na:1:2\n\n\0", [Frame("SEND", {"a": "1:2"})]),
        (b"SEND\na:1\nb:2\na:3\n\n\0", [Frame("SEND", {"a": "1", "b": "2"})]),
        ("SEND\nä:\u20ac\n\n\0".encode(), [Frame("SEND", {"ä": "\u20ac"})]),
        (b"SEND\n\nhalf of a fra", []),
    ],
)
def test_a_frame_is_command_headers_body_and_nul(
    version: Version | None, stream: bytes, frames: list[Frame]
) -> None:
    """Lines end in LF or CR LF, the first colon splits, and the first of repeated headers wins."""
    for parts in ways_to_arrive(stream, [3, 5, 8]):
        assert receive_all(FrameParser(version=version), parts) == (frames, False)


@pytest.mark.parametrize(
    ("stream", "body"),
    [
        (b"SEND\n\nx\n\0", b"x\n"),
        (b"SEND\n\n\n\nx\r\n\0", b"\n\nx\r\n"),
        (b"SEND\ncontent-length:3\n\na\0b\0", b"a\0b"),
        (b"SEND\ncontent-length:0\n\n\0", b""),
        (b"SEND\ncontent-length:007\n\n\n\n\n\n\n\n\0\0", b"\n\n\n\n\n\n\0"),
        (b"MESSAGE\n\n\xff\xfe\0", b"\xff\xfe"),
        (b"ERROR\n\nno\0", b"no"),
        (b"SUBSCRIBE\n\nignored\0", b""),
        (b"ACK\ncontent-length:3\n\na\0b\0", b""),
    ],
)
def test_a_body_is_the_octets_that_were_sent(stream: bytes, body: bytes) -> None:
    """With a content-length it may hold NUL; commands that carry none lose theirs."""
    for parts in ways_to_arrive(stream * 2, [17, 20, 30]):
        frames, is_at_fault = receive_all(FrameParser(version="1.2"), parts)
        assert not is_at_fault
        assert [frame.body for frame in frames] == [body, body]


@pytest.mark.parametrize(
    ("version", "line", "header"),
    [
        ("1.0", rb"a\nb: c\cd ", (r"a\nb", r"c\cd")),
        ("1.0", rb"a:\t", ("a", r"\t")),
        ("1.1", rb"a\cb\\: \nc ", ("a:b\\", " \nc ")),
        ("1.1", rb"a:\\n", ("a", r"\n")),
        ("1.2", rb"a\rb:\c\r\n\\r", ("a\rb", ":\r\n\\r")),
        ("1.2", b" a\t: b\t ", (" a\t", " b\t ")),
        ("1.0", b" a\t: b\t ", ("a", "b")),
    ],
)
def test_each_version_has_its_escapes_and_its_padding(
    version: Version, line: bytes, header: tuple[str, str]
) -> None:
    """1.0 trims and escapes nothing; 1.1 and 1.2 never trim."""
    assert parse(b"SEND\n%b\n\n\0" % line, version) == [Frame("SEND", dict([header]))]


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("1.1", rb"a:\t"),
        ("1.1", rb"a:\r"),
        ("1.1", b"a:b\\"),
        ("1.1", rb"a\x:b"),
        ("1.2", rb"a:\t"),
        ("1.2", rb"a:\N"),
        ("1.2", b"a:b\\"),
        ("1.2", b"a\\:b"),
        ("1.2", rb"a:\\\ "),
    ],
)
def test_an_undefined_escape_is_refused(version: Version, line: bytes) -> None:
    """A backslash before anything else, or before nothing, is a fault."""
    assert "undefined escape" in refuse(b"SEND\n%b\n\n\0" % line, version)


@pytest.mark.parametrize("command", ["CONNECT", "STOMP", "CONNECTED"])
@pytest.mark.parametrize("version", [None, "1.1", "1.2"])
def test_connecting_frames_are_never_escaped(command: str, version: Version | None) -> None:
    """Backslashes and spaces in a passcode are part of it, unless 1.0 is agreed on."""
    stream = b"%b\naccept-version:1.1\nversion:1.1\npasscode: \\t\\n:\\\n\n\0" % command.encode()
    assert parse(stream, version)[0].headers["passcode"] == " \\t\\n:\\"


def test_a_1_0_client_may_pad_what_it_connects_with() -> None:
    """Without accept-version the spaces around its headers go, as 1.0 shows them itself."""
    assert parse(b"CONNECT\nlogin: me \n\n\0", None) == [Frame("CONNECT", {"login": "me"})]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_stray_carriage_return_belongs_to_the_value_before_1_2(version: Version) -> None:
    assert parse(b"SEND\na:b\rc\n\n\0", version) == [Frame("SEND", {"a": "b\rc"})]
    assert parse(b"SEND\na:b\r\r\n\n\0", "1.1") == [Frame("SEND", {"a": "b\r"})]


def test_a_stray_carriage_return_is_refused_in_1_2() -> None:
    assert "carriage return" in refuse(b"SEND\na:b\rc\n\n\0")
    assert "carriage return" in refuse(b"SEND\na:b\r\r\n\n\0")


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (b"FOO\n\n\0", "unknown command 'FOO'"),
        (b"send\n\n\0", "unknown command"),
        (b" SEND\n\n\0", "unknown command"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "unknown command"),
        (b"SEND\nno colon\n\n\0", "name:value"),
        (b"SEND\n:x\n\n\0", "name:value"),
        (b"SEND\na:\xff\n\n\0", "UTF-8"),
        (b"\xff\n\n\0", "UTF-8"),
        (b"\0SEND\n\n\0", "NUL before the end of the headers"),
        (b"DISCONNECT\nreceipt:77\n\0", "NUL before the end of the headers"),
        (b"SEND\ncontent-length:2\n\nabc\0", "no NUL after the 2 octets"),
        (b"SEND\ncontent-length:\n\n\0", "content-length '' is not"),
        (b"SEND\ncontent-length:-1\n\n\0", "is not a number"),
        (b"SEND\ncontent-length:+1\n\nx\0", "is not a number"),
        (b"SEND\ncontent-length: 1\n\nx\0", "is not a number"),
        ("SEND\ncontent-length:\u0661\n\nx\0".encode(), "is not a number"),
        (b"SEND\n" + b"n" * 500 + b"\n\n\0", "..."),
    ],
)
def test_a_malformed_frame_is_refused_with_one_short_line(stream: bytes, fault: str) -> None:
    """The fault is named, however the stream is cut, and shorter than what was sent."""
    assert fault in refuse(stream)
    assert len(refuse(stream)) < 200
    assert refuse(stream).isprintable()
    for parts in ways_to_arrive(stream, [5, 9]):
        assert receive_all(FrameParser(version="1.2"), parts) == ([], True)


def test_a_fault_is_bad_input_and_lasts() -> None:
    """Frames before the fault are returned first; from then on every call raises the same."""
    parser = FrameParser(version="1.2")
    stream = b"ACK\n\n\0FOO\nreceipt:r1\n\n\0ACK\n\n\0"
    assert parser.receive_data(stream) == [Frame("ACK", {})]
    for data in (b"", b"ACK\n\n\0"):
        with pytest.raises(InvalidInput, match="FOO") as caught:
            parser.receive_data(data)
        assert isinstance(caught.value, StompError)
        assert caught.value.receipt_id == "r1"
        assert parser.buffered_bytes == 0


@pytest.mark.parametrize(
    "head", [b"content-length:x\n", b"content-length:1\n", b"content-length:99\n"]
)
def test_a_fault_after_the_headers_tells_the_receipt(head: bytes) -> None:
    with pytest.raises(StompError) as caught:
        FrameParser(SMALL).receive_data(b"SEND\nreceipt:r1\n%b\nab\0" % head)
    assert caught.value.receipt_id == "r1"


# Versions


@pytest.mark.parametrize(
    ("accept_version", "version"),
    [
        (None, "1.0"),
        ("1.0", "1.0"),
        ("1.0,1.1,1.2", "1.2"),
        ("1.1,1.0", "1.1"),
        ("1.0, 1.1 ,2.0", "1.1"),
        ("9.9", None),
        ("", None),
        ("1.2.3", None),
    ],
)
def test_the_highest_common_version_is_chosen(
    accept_version: str | None, version: Version | None
) -> None:
    assert negotiate_version(accept_version) == version


@pytest.mark.parametrize(
    ("connect", "version", "value"),
    [
        (b"CONNECT\n\n\0", "1.0", r"\c\r"),
        (b"STOMP\naccept-version:1.0,1.2\n\n\0", "1.2", ":\r"),
        (b"CONNECTED\nversion:1.2\n\n\0", "1.2", ":\r"),
        (b"CONNECTED\nsession:x\n\n\0", "1.0", r"\c\r"),
    ],
)
def test_a_frame_right_after_connecting_is_read_in_the_agreed_version(
    connect: bytes, version: Version, value: str
) -> None:
    """Client or server, both frames may come in the same bytes."""
    parser = FrameParser()
    _, frame = parser.receive_data(connect + b"MESSAGE\na:\\c\\r\n\n\0")
    assert frame.headers == {"a": value}
    assert parser.version == version
    parser.receive_data(b"CONNECT\naccept-version:1.1\n\n\0")
    assert parser.version == version


# Limits


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_as_many_headers_as_allowed(line_end: bytes) -> None:
    """The limit itself is allowed, one more is not, and repeated headers count."""
    start = b"SEND" + line_end + (b"a:b" + line_end) * 4
    for parts in ways_to_arrive(start + line_end + b"\0", []):
        assert receive_all(FrameParser(SMALL), parts) == ([Frame("SEND", {"a": "b"})], False)
    for parts in ways_to_arrive(start + b"a", []):
        assert "more than 4 headers" in refuse_parts(parts)
    assert "more than 4 headers" in refuse_parts([start + b"a:b" + line_end * 2 + b"\0"])


def test_too_many_headers_are_refused_before_the_blank_line() -> None:
    parser = FrameParser(SMALL)
    assert parser.receive_data(b"SEND\n" + b"a:b\n" * 4) == []
    with pytest.raises(StompError, match="more than 4 headers"):
        parser.receive_data(b"a")


def test_a_line_as_long_as_allowed() -> None:
    """Command or header, whole or unfinished: one octet more is refused at once."""
    assert len(FrameParser(SMALL).receive_data(b"SEND\na:" + b"x" * 38 + b"\n\n\0")) == 1
    for stream in (b"SEND\na:" + b"x" * 39, b"S" * 41, b"SEND\nb:c\na:" + b"x" * 39):
        for parts in ways_to_arrive(stream, []):
            assert "over 40 bytes" in refuse_parts(parts)
        assert "over 40 bytes" in refuse_parts([stream + b"\nb:c\n\n\0"])


def test_a_body_as_large_as_allowed() -> None:
    for head in (b"SEND\n\n", b"SEND\ncontent-length:60\n\n"):
        (frame,) = FrameParser(SMALL).receive_data(head + b"x" * 60 + b"\0")
        assert frame.body == b"x" * 60
    head = b"SEND\ncontent-length:61\n\n"
    for stream in (b"SEND\n\n" + b"x" * 61, b"ACK\n\n" + b"x" * 61, head):
        for parts in ways_to_arrive(stream, []):
            assert "a body over 60 bytes" in refuse_parts(parts)


@pytest.mark.parametrize("length", [b"1000000000", b"9" * 5000])
def test_a_huge_content_length_is_refused_by_its_header(length: bytes) -> None:
    """Not one octet of the body has to come."""
    with pytest.raises(StompError, match="a body over 16777216 bytes"):
        FrameParser().receive_data(b"SEND\ncontent-length:%b\n\n" % length)


def test_the_default_limits() -> None:
    assert FrameLimits() == FrameLimits(100, 8192, 16 * 1024 * 1024)


def test_a_large_body_in_small_pieces_takes_its_size_in_memory_once() -> None:
    """Four megabytes in pieces of a kilobyte are buffered once and copied out once."""
    size = 4 * 1024 * 1024
    parser = FrameParser(version="1.2")
    piece = b"x" * 1024
    tracemalloc.start()
    parser.receive_data(b"SEND\ncontent-length:%d\n\n" % size)
    for _ in range(size // len(piece)):
        assert parser.receive_data(piece) == []
    (frame,) = parser.receive_data(b"\0")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(frame.body) == size
    assert peak_bytes < 3 * size
    assert parser.buffered_bytes == 0


# Any input


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(TOKENS)).map(b"".join) | st.binary(max_size=300),
    st.lists(st.integers(0, 300)),
    st.sampled_from([None, *VERSIONS]),
)
def test_any_bytes_parse_the_same_however_they_are_cut(
    data: bytes, cuts: list[int], version: Version | None
) -> None:
    """Frames or a StompError come out, nothing else, and no more than the limits is held."""
    outcomes = []
    for parts in ways_to_arrive(data, cuts):
        parser = FrameParser(SMALL, version)
        frames: list[Frame] = []
        is_at_fault = False
        for part in parts:
            found, is_at_fault = receive_all(parser, [part])
            frames += found
            assert parser.buffered_bytes <= SMALL_BUFFER_BYTES
            if is_at_fault:
                assert parser.buffered_bytes == 0
                break
        outcomes.append((frames, is_at_fault))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@settings(deadline=None)
@given(st.data())
def test_a_damaged_stream_is_read_or_refused(data: st.DataObject) -> None:
    """Octets of a valid stream changed, dropped or put in harm no more than their frames."""
    stream = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(stream) - 1))
        stream[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(TOKENS) | st.binary(max_size=2)
        )
    cuts = data.draw(st.lists(st.integers(0, len(stream))))
    whole, in_bytes, cut = (
        receive_all(FrameParser(), parts) for parts in ways_to_arrive(bytes(stream), cuts)
    )
    assert whole == in_bytes == cut
