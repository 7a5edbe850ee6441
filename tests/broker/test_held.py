"""What is held, against a model: a list, looked through whole each time."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from restmq.broker.held import SLOTS_A_SECOND, Held, slot_of
from restmq.broker.holders import Binding, Delivery
from restmq.broker.message import LeasedMessage

NUMBERS = st.integers(1, 5)
TIMES = st.floats(0, 20)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), NUMBERS, TIMES),
        st.tuples(st.just("move"), NUMBERS, TIMES),
        st.tuples(st.just("remove"), NUMBERS, st.just(0.0)),
    ),
    max_size=30,
)


def _delivery(number: int, token: str) -> Delivery:
    message = LeasedMessage(number, b"", 1, token, 0.0, 30.0)
    return Delivery(cast(Binding, None), message, 0.0)


@given(STEPS, TIMES)
def test_what_is_due_is_found_and_nothing_else(
    steps: list[tuple[str, int, float]], now: float
) -> None:
    held = Held()
    model: dict[int, tuple[Delivery, int]] = {}
    for index, (step, number, at) in enumerate(steps):
        before = model.get(number)
        if step == "add":
            delivery = _delivery(number, str(index))
            assert held.add(delivery, slot_of(at)) is (before[0] if before else None)
            model[number] = delivery, slot_of(at)
        elif before is None:
            absent = _delivery(number, str(index))
            held.move(absent, slot_of(at))
            assert not held.remove(absent)
        elif step == "move":
            held.move(before[0], slot_of(at))
            model[number] = before[0], slot_of(at)
        else:
            assert held.remove(before[0])
            del model[number]
    assert len(held) == len(model)
    assert set(held.names()) == {(n, each.message.token) for n, (each, _) in model.items()}
    due = list(held.due(now))
    assert [each.slot for each in due] == sorted(each.slot for each in due)
    assert {id(each) for each in due} == {
        id(each) for each, slot in model.values() if slot <= now * SLOTS_A_SECOND
    }


@given(TIMES)
def test_nothing_is_due_before_its_time_and_all_soon_after(at: float) -> None:
    assert at < slot_of(at) / SLOTS_A_SECOND <= at + 1 / SLOTS_A_SECOND


def test_what_goes_while_the_due_are_looked_through_is_not_seen() -> None:
    held = Held()
    first, second = _delivery(1, "a"), _delivery(2, "b")
    held.add(first, 1)
    held.add(second, 1)
    seen = []
    for delivery in held.due(100.0):
        seen.append(delivery)
        held.remove(second)
    assert seen == [first]
    assert not held.remove(second)
