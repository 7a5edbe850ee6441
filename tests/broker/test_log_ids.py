"""Ids: bytes that sort as the numbers and UUIDs they stand for."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restmq.broker.log_ids import (
    MAX_NUMBER,
    first_id_at,
    hex_of_id,
    id_of_hex,
    id_of_number,
    last_id_at,
    make_suffix,
    number_of_id,
    ticks_of_id,
)
from restmq.errors import InvalidInput

UNIX_EPOCH = 0x01B21DD213814000


def uuid_at(ticks: int, clock: int, node: int) -> uuid.UUID:
    """Make a UUID of version 1."""
    low, middle, high = ticks & 0xFFFFFFFF, ticks >> 32 & 0xFFFF, ticks >> 48
    fields = (low, middle, high | 0x1000, clock >> 8 | 0x80, clock & 0xFF, node)
    return uuid.UUID(fields=fields)


uuids = st.builds(
    uuid_at, st.integers(0, 2**60 - 1), st.integers(0, 2**14 - 1), st.integers(0, 2**48 - 1)
)
crowded = st.builds(uuid_at, st.integers(0, 2), st.integers(0, 2), st.integers(0, 2))


@given(uuids)
def test_a_uuid_comes_back_as_it_was_whatever_the_case_of_its_digits(value: uuid.UUID) -> None:
    assert value.version == 1
    assert hex_of_id(id_of_hex(value.hex)) == value.hex
    assert id_of_hex(value.hex.upper()) == id_of_hex(value.hex)
    assert ticks_of_id(id_of_hex(value.hex)) == value.time - UNIX_EPOCH


@given(uuids | crowded, uuids | crowded)
def test_ids_sort_by_the_time_of_the_uuid_and_then_by_its_bytes(
    one: uuid.UUID, other: uuid.UUID
) -> None:
    by_id = id_of_hex(one.hex) < id_of_hex(other.hex)
    assert by_id == ((one.time, one.bytes) < (other.time, other.bytes))


@given(st.integers(0, MAX_NUMBER), st.integers(0, MAX_NUMBER))
def test_numbers_sort_as_numbers(one: int, other: int) -> None:
    assert number_of_id(id_of_number(one)) == one
    assert (id_of_number(one) < id_of_number(other)) == (one < other)


@given(uuids)
def test_all_ids_of_a_time_lie_between_its_first_and_its_last(value: uuid.UUID) -> None:
    entry_id = id_of_hex(value.hex)
    ticks = ticks_of_id(entry_id)
    assert first_id_at(ticks) <= entry_id <= last_id_at(ticks)
    assert last_id_at(ticks - 1) < entry_id or value.time == 0
    assert entry_id < first_id_at(ticks + 1) or value.time == 2**60 - 1


@given(st.integers())
def test_a_time_that_no_uuid_can_tell_is_before_or_after_all_of_them(ticks: int) -> None:
    assert first_id_at(-UNIX_EPOCH) <= first_id_at(ticks) <= last_id_at(ticks) <= last_id_at(2**60)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 31,
        "0" * 33,
        "g" * 32,
        " " * 32,
        "\u0660" * 32,
        "00000000-0000-1000-8000-000000000000"[:32],
        uuid.UUID(int=5, version=4).hex,
        "00000000000010000000000000000000",  # version 1 of another variant
        "0" * 32,
    ],
)
def test_what_is_not_a_uuid_of_version_1_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        id_of_hex(text)


def test_the_second_half_of_new_ids_is_that_of_a_uuid_and_never_the_same() -> None:
    suffixes = {make_suffix() for _ in range(1000)}
    assert len(suffixes) == 1000
    for suffix in suffixes:
        made = uuid.UUID(hex_of_id(bytes(8) + suffix))
        assert (made.version, made.variant) == (1, uuid.RFC_4122)
        assert made.node >> 40 & 1, "not the address of a network card"
