"""Keys: how a queue's name becomes the names of its keys, and a number the key of a message."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from restmq.broker.keys import (
    MAX_QUEUE_NAME_BYTES,
    check_queue_name,
    message_key,
    message_number,
    queue_keys,
)
from restmq.errors import InvalidInput

any_text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
# Names out of what matters to the spelling meet each other more often than names out of anything.
tricky_text = st.text(st.sampled_from("{}%:257Dab\u00e9\U0001f407/ \0"), min_size=1, max_size=8)
names = any_text | tricky_text
NODE = "0123456789ab"


@given(names)
@example("}")
@example("{")
@example("{}")
@example("a}{b}")
def test_all_keys_of_a_queue_lie_in_one_slot_of_a_cluster(name: str) -> None:
    slots = {key_slot(key.encode()) for key in queue_keys(name, NODE)}
    assert len(slots) == 1


@given(names)
@example("}")
@example("{x}")
def test_the_slot_is_that_of_the_name_itself_unless_it_holds_a_closing_brace(name: str) -> None:
    tag = name.replace("%", "%25").replace("}", "%7D") if "}" in name or "%" in name else name
    assert {key_slot(key.encode()) for key in queue_keys(name, NODE)} == {key_slot(tag.encode())}


@given(names, names)
@example("a}", "a%7D")
@example("a%", "a%25")
@example("q", "q}:ready")
@example("q}:messages", "q")
def test_two_queues_share_no_key(one: str, other: str) -> None:
    shared = set(queue_keys(one, NODE)) & set(queue_keys(other, NODE))
    assert bool(shared) == (one == other)


@given(names)
def test_the_keys_of_a_queue_differ_from_each_other(name: str) -> None:
    keys = queue_keys(name, NODE)
    assert len(set(keys)) == len(keys)


@given(names)
def test_two_nodes_differ_in_the_one_key_that_is_a_nodes_own(name: str) -> None:
    mine, other = queue_keys(name, "a" * 12), queue_keys(name, "b" * 12)
    differing = [f for f in mine._fields if getattr(mine, f) != getattr(other, f)]
    assert differing == ["taken"]


@given(names, st.integers(1, 2**53 - 1))
def test_a_message_key_tells_its_number(name: str, number: int) -> None:
    assert message_number(name, message_key(name, number)) == number


@given(names, names, st.integers(1, 2**53 - 1))
@example("a", "a:1", 2)
@example("a:1", "a", 2)
def test_a_message_key_means_nothing_to_another_queue(one: str, other: str, number: int) -> None:
    read = message_number(other, message_key(one, number))
    assert read == (number if one == other else None)


@given(names, st.text(st.sampled_from("0123456789+-_ .e\u0661\u00b2"), max_size=18))
def test_only_one_spelling_of_a_number_is_a_key(name: str, digits: str) -> None:
    number = message_number(name, f"{name}:{digits}")
    assert number is None or message_key(name, number) == f"{name}:{digits}"


@pytest.mark.parametrize(
    "key", ["", ":", "q", "q:", "q:0", "q:01", "q:-1", "q:1 ", "q: 1", "q:1.0", "q:1:", "p:1", ":1"]
)
def test_what_is_no_key_of_the_queue_has_no_number(key: str) -> None:
    assert message_number("q", key) is None


@pytest.mark.parametrize("digits", [str(2**53), "9" * 17, "9" * 5_000, "9" * 100_000])
def test_a_number_that_no_message_can_reach_is_no_key(digits: str) -> None:
    assert message_number("q", f"q:{digits}") is None


@given(names)
def test_a_name_that_can_name_a_queue_is_returned_as_it_is(name: str) -> None:
    assert check_queue_name(name) == name


@pytest.mark.parametrize(
    "name", ["a" * MAX_QUEUE_NAME_BYTES, "\u00e9" * (MAX_QUEUE_NAME_BYTES // 2)]
)
def test_a_name_may_have_as_many_bytes_as_are_allowed_and_no_more(name: str) -> None:
    assert check_queue_name(name) == name
    with pytest.raises(InvalidInput, match=f"has {MAX_QUEUE_NAME_BYTES + 1} bytes; at most"):
        check_queue_name(name + "b")


def test_a_queue_needs_a_name() -> None:
    with pytest.raises(InvalidInput, match="needs a name"):
        check_queue_name("")


@pytest.mark.parametrize("name", ["\ud800", "a\udcff"])
def test_a_name_that_is_no_text_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="valid UTF-8"):
        check_queue_name(name)
