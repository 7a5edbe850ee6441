"""What the holders of one queue have, and when each lease must be looked at.

Times are kept in slots of an eighth of a second, so that looking for what is due costs as much as
there is due, however much is held.
"""

from collections.abc import Iterator

from restmq.broker.holders import Delivery

SLOTS_A_SECOND = 8


def slot_of(at: float) -> int:
    """Return the first slot that is not over before that time of the loop's clock."""
    return int(at * SLOTS_A_SECOND) + 1


class Held:
    """Deliveries by number: of one message only the last counts."""

    def __init__(self) -> None:
        self._deliveries: dict[int, Delivery] = {}
        self._slots: dict[int, dict[int, Delivery]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._deliveries)

    def add(self, delivery: Delivery, slot: int) -> Delivery | None:
        """Add one, to be looked at when ``slot`` is over; returns the one that it replaces."""
        number = delivery.message.number
        replaced = self._deliveries.get(number)
        if replaced is not None:
            self.remove(replaced)
        self._deliveries[number] = delivery
        self._put(delivery, slot)
        return replaced

    def remove(self, delivery: Delivery) -> bool:
        """Remove one; returns whether it was there."""
        number = delivery.message.number
        if self._deliveries.get(number) is not delivery:
            return False
        del self._deliveries[number]
        self._take_out(delivery)
        return True

    def move(self, delivery: Delivery, slot: int) -> None:
        """Look at one that is there when ``slot`` is over, and not before."""
        if self._deliveries.get(delivery.message.number) is delivery:
            self._take_out(delivery)
            self._put(delivery, slot)

    def find(self, number: int, token: str) -> Delivery | None:
        """Return the delivery that has this number and token."""
        delivery = self._deliveries.get(number)
        return delivery if delivery is not None and delivery.message.token == token else None

    def due(self, now: float) -> Iterator[Delivery]:
        """Yield those whose slot is over, who is due first comes first; they may go meanwhile."""
        if not self._slots:
            return
        last = int(now * SLOTS_A_SECOND)
        for slot in sorted([slot for slot in self._slots if slot <= last]):
            for delivery in list(self._slots.get(slot, {}).values()):
                number = delivery.message.number
                if delivery.slot == slot and self._deliveries.get(number) is delivery:
                    yield delivery

    def names(self) -> list[tuple[int, str]]:
        """Return number and token of each."""
        return [(number, each.message.token) for number, each in self._deliveries.items()]

    def _put(self, delivery: Delivery, slot: int) -> None:
        delivery.slot = slot
        members = self._slots.get(slot)
        if members is None:
            self._slots[slot] = {delivery.message.number: delivery}
        else:
            members[delivery.message.number] = delivery

    def _take_out(self, delivery: Delivery) -> None:
        members = self._slots[delivery.slot]
        del members[delivery.message.number]
        if not members:
            del self._slots[delivery.slot]
