"""Queuey's fields on their own: times, ids and positions survive being written and read."""

import contextlib
import uuid

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from restmq.broker.log_ids import first_id_at, hex_of_id, id_of_hex, last_id_at
from restmq.endpoints.queuey_fields import (
    BadField,
    Draft,
    QueueSettings,
    format_resume_point,
    format_timestamp,
    read_batch,
    read_change,
    read_flag,
    read_partitions,
    read_resume_point,
    read_since,
)
from restmq.endpoints.web import Parameters

ids = st.builds(
    lambda time, rest: uuid.UUID(
        fields=(
            time & 0xFFFFFFFF,
            time >> 32 & 0xFFFF,
            time >> 48 | 0x1000,
            0x80 | rest >> 56 & 0x3F,
            rest >> 48 & 0xFF,
            rest & 0xFFFFFFFFFFFF,
        )
    ),
    st.integers(0, 2**60 - 1),
    st.integers(0, 2**62 - 1),
)


@given(made=ids)
@example(made=uuid.UUID("00000000000010008080000000000000"))
@example(made=uuid.UUID("13813fff1dd211b28080000000000000"))  # one tick before 1970
@example(made=uuid.UUID("138140001dd211b28080000000000000"))
def test_a_timestamp_is_a_position_right_before_its_id(made: uuid.UUID) -> None:
    message_id = id_of_hex(made.hex)
    text = format_timestamp(message_id)
    ticks = made.time - 0x01B21DD213814000
    whole, _, fraction = text.lstrip("-").partition(".")
    assert (len(fraction), text.startswith("-")) == (7, ticks < 0)
    assert int(whole + fraction) == abs(ticks)
    ascending = read_since(text, is_descending=False)
    descending = read_since(text, is_descending=True)
    assert ascending == (first_id_at(ticks), True)
    assert descending == (last_id_at(ticks), True)
    assert first_id_at(ticks) <= message_id <= last_id_at(ticks)
    assert read_since(made.hex.upper(), is_descending=False) == (message_id, True)


@given(
    positions=st.dictionaries(
        st.integers(1, 200), ids.map(lambda made: id_of_hex(made.hex)), min_size=1
    )
)
def test_the_id_of_an_event_says_where_to_go_on(positions: dict[int, bytes]) -> None:
    text = format_resume_point(positions)
    assert read_resume_point(text) == {each: (at, False) for each, at in positions.items()}


def test_the_longest_event_id_fits_into_a_header() -> None:
    text = format_resume_point(dict.fromkeys(range(1, 201), first_id_at(0)))
    assert len(text) < 8190


@given(text=st.text())
def test_any_text_is_a_position_or_refused(text: str) -> None:
    with contextlib.suppress(BadField):
        position = read_since(text, is_descending=False)
        assert position is not None
        assert len(position.id) == 16
    with contextlib.suppress(BadField):
        assert read_resume_point(text)
    with contextlib.suppress(BadField):
        assert set(read_partitions(text)) <= set(range(1, 201))


@given(
    body=st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["messages", "body", "ttl", "partition"]), inner)
        ),
    ).map(msgspec.json.encode)
)
def test_any_body_is_a_batch_or_refused(body: bytes) -> None:
    try:
        drafts = read_batch(body)
    except BadField:
        return
    assert all(draft.body and draft.ttl for draft in drafts)


@given(
    drafts=st.lists(
        st.builds(
            Draft, st.text(min_size=1), st.integers(1, 2**25), st.none() | st.integers(1, 200)
        )
    )
)
def test_a_batch_is_read_as_it_was_written(drafts: list[Draft]) -> None:
    assert read_batch(msgspec.json.encode({"messages": drafts})) == drafts


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, [1]), ("2", [2]), ("2,1,2", [2, 1]), ("0,201,200", [200]), (" 3 , +4", [3, 4])],
)
def test_partitions_are_read_once_each(text: str | None, expected: list[int]) -> None:
    assert read_partitions(text) == expected


def test_flags_are_true_unless_they_say_no() -> None:
    assert not any(read_flag(text) for text in (None, "0", "false", "False"))
    assert all(read_flag(text) for text in ("1", "true", "True", "no", "00"))


def test_settings_are_stored_as_a_list_that_may_grow() -> None:
    """What an older version has stored stays readable."""
    stored = msgspec.msgpack.encode(QueueSettings(2, "public"))
    assert msgspec.msgpack.decode(stored) == [2, "public", "strong", None]
    old = msgspec.msgpack.encode([2])
    assert msgspec.msgpack.decode(old, type=QueueSettings) == QueueSettings(2)


def test_a_form_without_settings_changes_nothing() -> None:
    assert read_change(Parameters({b"queue_name": b"q", b"type": b""})) == {}


def test_ids_are_written_in_lower_case() -> None:
    made = uuid.uuid1()
    assert hex_of_id(id_of_hex(made.hex.upper())) == made.hex
