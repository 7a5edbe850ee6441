"""Messages: what a publisher sent comes out of the stored form as it went in."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq.broker.message import Attributes, Message, pack
from restmq.errors import InvalidInput

times = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
content_types = st.none() | st.text(max_size=300)


def stored(packed: bytes, published: float = 0.0, expires: float = 0.0) -> bytes:
    """Put the two times in front, as the store does."""
    return struct.pack(">dd", published, expires) + packed


@given(st.binary(max_size=2000), content_types)
@example(b"", "")
@example(b"\0", None)
@example(b"", "a" * 1024)
def test_value_and_content_type_come_back_as_they_were(
    value: bytes, content_type: str | None
) -> None:
    message = Message(7, stored(pack(value, content_type)))
    assert message.value == value
    assert message.attributes == Attributes(content_type=content_type)
    assert message.number == 7


def test_a_content_type_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at most 1024"):
        pack(b"", "a" * 1025)


@pytest.mark.parametrize("priority", [-1, 10])
def test_a_priority_out_of_range_is_refused(priority: int) -> None:
    with pytest.raises(InvalidInput, match="0 to 9"):
        pack(b"", None, priority)


@given(st.binary(max_size=50), content_types, st.integers(0, 9))
def test_the_priority_comes_back_beside_value_and_content_type(
    value: bytes, content_type: str | None, priority: int
) -> None:
    message = Message(1, stored(pack(value, content_type, priority)))
    assert (message.priority, message.value) == (priority, value)
    assert message.attributes == Attributes(content_type=content_type)


@given(st.binary(max_size=50), content_types, times, times)
def test_the_time_of_publishing_is_the_one_that_the_store_noted(
    value: bytes, content_type: str | None, published: float, expires: float
) -> None:
    message = Message(1, stored(pack(value, content_type), published, expires))
    assert message.published == published
    assert message.value == value


def test_a_plain_value_costs_three_bytes_and_the_two_times() -> None:
    assert len(stored(pack(b"value"))) == len(b"value") + 3 + 16


def test_all_plain_messages_share_one_object_for_their_attributes() -> None:
    one, other = Message(1, stored(pack(b"a"))), Message(2, stored(pack(b"b")))
    assert one.attributes is other.attributes


def test_attributes_that_a_later_version_adds_are_passed_over() -> None:
    later = b"\x82\xa1t\xa1x\xa9new-thing\x01"  # MessagePack: {"t": "x", "new-thing": 1}
    message = Message(1, stored(struct.pack(">BH", 4, len(later)) + later + b"value"))
    assert message.attributes == Attributes(content_type="x")
    assert message.value == b"value"


def test_its_text_form_tells_number_and_size_but_not_the_body() -> None:
    assert repr(Message(3, stored(pack(b"secret")))) == "<Message 3, 25 bytes>"


def test_a_message_cannot_be_given_more_than_it_has() -> None:
    with pytest.raises(AttributeError):
        Message(1, b"").other = 1  # type: ignore[attr-defined]
