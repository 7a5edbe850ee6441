"""What must be true of the keys of a queue at any moment, whatever was done to it."""

import asyncio

from restmq.broker.broker import Broker
from restmq.broker.keys import queue_keys
from restmq.broker.scripts import command


async def check_keys(broker: Broker, queue: str) -> None:
    """Raise AssertionError if a message is in no state or in two, or something was left behind."""
    state = await _State.read(broker, queue)
    state.check_states()
    state.check_leftovers()
    state.check_dead()


class _State:
    def __init__(self, replies: list[list[bytes]]) -> None:
        members = [[member.decode() for member in reply] for reply in replies]
        self.listed = members.pop()
        (
            self.messages,
            self.ranked,
            self.stale,
            self.expiry,
            self.gets,
            self.stories,
            self.leased,
            self.held,
            self.delayed,
            self.dead,
            self.dead_messages,
            self.dead_expiry,
            self.assigned,
            self.ids,
            self.id_expiry,
        ) = map(set, members)

    @classmethod
    async def read(cls, broker: Broker, queue: str) -> "_State":
        """Read all keys in one round trip."""
        keys = queue_keys(queue, "")
        commands = [
            ("HKEYS", keys.messages),
            ("ZRANGE", keys.ranked, 0, -1),
            ("SMEMBERS", keys.stale),
            ("ZRANGE", keys.expiry, 0, -1),
            ("HKEYS", keys.gets),
            ("HKEYS", keys.stories),
            ("ZRANGE", keys.leased, 0, -1),
            ("ZRANGE", keys.held, 0, -1),
            ("ZRANGE", keys.delayed, 0, -1),
            ("ZRANGE", keys.dead, 0, -1),
            ("HKEYS", keys.dead_messages),
            ("ZRANGE", keys.dead_expiry, 0, -1),
            ("ZRANGE", keys.assigned, 0, -1),
            ("HKEYS", keys.ids),
            ("ZRANGE", keys.id_expiry, 0, -1),
            ("LRANGE", keys.ready, 0, -1),
        ]
        submit = broker._stores.disk.committer.submit
        return cls(await asyncio.gather(*(submit(command(*words)) for words in commands)))

    def check_states(self) -> None:
        """Hold every stored message to exactly one place."""
        listed = [
            number for number in self.listed if number in self.messages and number not in self.stale
        ]
        assert len(listed) == len(set(listed)), "a number is listed twice"
        assert sorted(listed, key=int) == listed, "the list is out of order"
        assigned = {str(int(member.rpartition(":")[2])) for member in self.assigned}
        places = [set(listed), self.ranked, self.leased, self.delayed, assigned]
        for index, place in enumerate(places):
            assert place <= self.messages, f"place {index} has orphans: {place - self.messages}"
            for other in places[:index]:
                assert not place & other, f"in two places: {place & other}"
        assert set().union(*places) == self.messages, "a message is nowhere"
        assert not self.dead & self.messages, "a dead letter is stored as a message"

    def check_leftovers(self) -> None:
        """Hold what is kept beside messages to messages that there are."""
        held = {str(int(member.rpartition(":")[2])) for member in self.held}
        assert self.expiry <= self.messages - self.leased, "a ttl runs on a lease or on nothing"
        assert self.gets <= self.messages
        assert self.stories <= self.messages
        assert self.leased <= self.stories, "a lease without its story"
        assert held <= self.leased, "a stream holds what is not leased"
        assert self.stale <= set(self.listed), "a number is stale and not listed"
        assert self.ids == self.id_expiry

    def check_dead(self) -> None:
        """Hold the three keys of dead letters to each other."""
        assert self.dead == self.dead_messages
        assert self.dead_expiry <= self.dead
