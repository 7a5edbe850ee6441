"""STOMP frames, written and read back."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restmq.codecs.stomp import (
    CLIENT_COMMANDS,
    COMMANDS_WITH_BODY,
    CONNECTING_COMMANDS,
    SERVER_COMMANDS,
    VERSIONS,
    Frame,
    FrameParser,
    Version,
)
from restmq.codecs.stomp_encoder import (
    HEART_BEAT,
    MESSAGE_HEADERS,
    MessageEncoder,
    encode_error,
    encode_frame,
    encode_headers,
    encode_message_content,
    encode_receipt,
)

TEXT = st.text(
    st.sampled_from("ab:\\\n\r\0 nrc\u20ac") | st.characters(exclude_categories=["Cs"]), max_size=12
)


def read_one(data: bytes, version: Version | None) -> Frame:
    (frame,) = FrameParser(version=version).receive_data(data)
    return frame


def can_carry(version: Version | None, name: str, value: str) -> bool:
    """Whether the specification gives a version a way to write this header."""
    text = name + value
    if not name or "\0" in text or name == "content-length":
        return False
    if version == "1.2":
        return True
    if value.endswith("\r"):
        return False
    if version == "1.1":
        return True
    is_plain = "\n" not in text and ":" not in name
    return is_plain and name == name.strip(" \t") and value == value.strip(" \t")


# Any frame


def test_a_frame_is_written_in_order() -> None:
    """Headers come in the order given, and the length of the body after them."""
    assert (
        encode_frame("SEND", {"destination": "/queue/a", "x": "1"}, b"hi", version="1.2")
        == b"SEND\ndestination:/queue/a\nx:1\ncontent-length:2\n\nhi\0"
    )
    assert encode_frame("ACK", {"id": "7"}, version="1.2") == b"ACK\nid:7\n\n\0"
    assert encode_frame("DISCONNECT", {}, version="1.0") == b"DISCONNECT\n\n\0"


@pytest.mark.parametrize(
    ("version", "encoded"),
    [
        (None, b"a b:c:d\\ e\rf\n"),
        ("1.0", b"a b:c:d\\ e\rf\n"),
        ("1.1", b"a\\cb:c\\cd\\\\\\ne\rf\n"),
        ("1.2", b"a\\cb:c\\cd\\\\\\ne\\rf\n"),
    ],
)
def test_each_version_escapes_what_it_can(version: Version | None, encoded: bytes) -> None:
    """What a version cannot write becomes a space, so that it starts no other header."""
    assert encode_headers({"a:b": "c:d\\\ne\rf"}, version) == encoded


@pytest.mark.parametrize("special", [":", "\n", "\r", "\\", "\\n", "\r\n", " ", "\u20ac"])
@pytest.mark.parametrize("place", ["{}", "a{}", "{}a", "a{}b"])
def test_each_special_character_comes_back_on_its_own(special: str, place: str) -> None:
    """1.2 carries all of them in names and values; nothing else has to be there for that."""
    text = place.format(special)
    for headers in ({text: "x"}, {"x": text}):
        frame = read_one(encode_frame("ACK", headers, version="1.2"), "1.2")
        assert frame == Frame("ACK", headers)
        if can_carry("1.1", *next(iter(headers.items()))):
            frame = read_one(encode_frame("ACK", headers, version="1.1"), "1.1")
            assert frame == Frame("ACK", headers)


@pytest.mark.parametrize("version", [None, *VERSIONS])
def test_nothing_in_a_header_starts_another_header_or_frame(version: Version | None) -> None:
    """A NUL, a CR at the end and a lone surrogate are replaced, a nameless header left out."""
    headers = {"a": "x\n\n\0SEND\n\n", "": "x", "b": "\ud800\r", "c": "d\0"}
    frame = read_one(encode_frame("MESSAGE", headers, b"body", version=version), version)
    assert frame.headers.keys() == {"a", "b", "c", "content-length"}
    assert frame.body == b"body"
    assert "\0" not in frame.headers["a"]


@pytest.mark.parametrize("command", sorted(CONNECTING_COMMANDS))
def test_connecting_frames_are_not_escaped(command: str) -> None:
    encoded = encode_frame(command, {"passcode": "a:b\\c"}, version="1.2")
    assert encoded == b"%b\npasscode:a:b\\c\n\n\0" % command.encode()


def test_the_content_length_is_that_of_the_body() -> None:
    """A header that says something else, as one that was passed on, does not count."""
    frame = read_one(encode_frame("SEND", {"content-length": "9"}, b"a\0b", version="1.1"), "1.1")
    assert frame == Frame("SEND", {"content-length": "3"}, b"a\0b")
    assert b"content-length:0\n" in encode_frame("SEND", {}, version="1.1")


def test_a_command_without_body_refuses_one() -> None:
    with pytest.raises(ValueError, match="ACK carries no body"):
        encode_frame("ACK", {}, b"x", version="1.2")


def test_a_heart_beat_is_a_line_end() -> None:
    assert FrameParser().receive_data(HEART_BEAT * 3) == []


@settings(deadline=None)
@given(
    st.sampled_from(sorted(CLIENT_COMMANDS | SERVER_COMMANDS)),
    st.dictionaries(TEXT, TEXT, max_size=5),
    st.binary(max_size=50),
    st.sampled_from(VERSIONS),
    st.lists(st.integers(0, 300)),
)
def test_any_frame_comes_back_in_every_version(
    command: str, headers: dict[str, str], body: bytes, version: Version, cuts: list[int]
) -> None:
    """Whatever a version can carry is read back the same, however the bytes are cut."""
    rules: Version = "1.0" if command in CONNECTING_COMMANDS else version
    headers = {name: value for name, value in headers.items() if can_carry(rules, name, value)}
    body = body if command in COMMANDS_WITH_BODY else b""
    data = HEART_BEAT + encode_frame(command, headers, body, version=version)
    if command in COMMANDS_WITH_BODY:
        headers["content-length"] = str(len(body))
    edges = sorted({0, len(data) * 2, *(cut for cut in cuts if cut < len(data) * 2)})
    parser = FrameParser(version=version)
    frames = [
        frame
        for start, stop in pairwise(edges)
        for frame in parser.receive_data((data * 2)[start:stop])
    ]
    assert frames == [Frame(command, headers, body)] * 2


@settings(deadline=None)
@given(
    st.sampled_from(["SEND", "SUBSCRIBE", "ERROR"]),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=5),
    st.sampled_from(VERSIONS),
)
def test_no_headers_can_break_a_frame(
    command: str, headers: dict[str, str], version: Version
) -> None:
    """Even what a version cannot carry makes one frame that can be read, with no name added."""
    names = set(read_one(encode_frame(command, headers, version=version), version).headers)
    assert len(names - {"content-length"}) <= len(headers)


# What a server sends


def test_a_receipt_names_what_was_asked_for() -> None:
    assert encode_receipt("a:b", "1.2") == b"RECEIPT\nreceipt-id:a\\cb\n\n\0"


def test_an_error_has_a_short_message_and_a_body() -> None:
    """The message is one line in its header; the body says more, or the same again."""
    frame = read_one(
        encode_error("bad\nthing", "1.2", detail="because", receipt_id="r", headers={"v": "1"}),
        "1.2",
    )
    assert frame.command == "ERROR"
    assert frame.body == b"because"
    assert frame.headers == {
        "message": "bad\nthing",
        "content-type": "text/plain",
        "receipt-id": "r",
        "v": "1",
        "content-length": "7",
    }
    frame = read_one(encode_error("bad", None), None)
    assert frame.body == b"bad"
    assert "receipt-id" not in frame.headers


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("needs_ack", [True, False])
@pytest.mark.parametrize("attempt", [1, 2, 17])
def test_a_message_says_where_it_comes_from(
    version: Version, needs_ack: bool, attempt: int
) -> None:
    """``ack`` is there in 1.2 only, and ``redelivered`` and the count only on redelivery."""
    encoder = MessageEncoder(version, "/queue/a", "s 0", needs_ack=needs_ack)
    content = encode_message_content(
        b"a\0b", {"x-k": "v"}, version, content_type="text/x", attempt=attempt
    )
    expected = {
        "destination": "/queue/a",
        "subscription": "s 0",
        "message-id": "17",
        "content-length": "3",
        "content-type": "text/x",
        "x-k": "v",
    }
    if needs_ack and version == "1.2":
        expected["ack"] = "17"
    if attempt > 1:
        expected |= {"redelivered": "true", "delivery-attempt": str(attempt)}
    frame = read_one(encoder.encode(17, content), version)
    assert frame == Frame("MESSAGE", expected, b"a\0b")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_without_id_headers_or_body(version: Version) -> None:
    """A 1.0 client that gave no subscription id gets none."""
    encoder = MessageEncoder(version, "a%d%b", None, needs_ack=False)
    frame = read_one(encoder.encode(1, encode_message_content(b"", {}, version)), version)
    assert frame.headers == {"destination": "a%d%b", "message-id": "1", "content-length": "0"}


def test_the_user_cannot_speak_for_the_server() -> None:
    """Headers of the server's, and those meant for it alone, are no part of the user's."""
    headers = dict.fromkeys(MESSAGE_HEADERS, "forged") | {"reply-to": "/queue/r"}
    content = encode_message_content(b"x", headers, "1.2")
    assert content == b"content-length:1\nreply-to:/queue/r\n\nx\0"


def test_a_name_that_1_0_would_trim_into_another_is_left_out() -> None:
    """Neither spaces nor a colon, which becomes one, can make a name of the server's."""
    headers = {" destination": "x", "message-id:": "x", "ack\0": "x", "y": " z"}
    assert encode_message_content(b"", headers, "1.0") == b"content-length:0\ny: z\n\n\0"
    assert encode_headers({" a": "b"}, "1.0") == b""


def test_user_headers_are_escaped() -> None:
    content = encode_message_content(b"", {"a:b": "c\nd"}, "1.2", content_type="t\r")
    assert content == b"content-length:0\ncontent-type:t\\r\na\\cb:c\\nd\n\n\0"
