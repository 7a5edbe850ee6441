"""What a queue is, in plain Python and without haste: one list, searched for everything."""

from dataclasses import dataclass, field

FOREVER = float("inf")


@dataclass
class ModelMessage:
    """A message in any state."""

    number: int
    value: bytes
    priority: int
    expires: float
    state: str = "ready"
    until: float = 0.0
    """When the lease or the delay ends."""
    lease: int = 0
    attempts: int = 0
    looks: int = 0
    reason: str | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Return its place among ready messages."""
        return -self.priority, self.number

    @property
    def pair(self) -> tuple[int, bytes]:
        """Return what a consumer sees."""
        return self.number, self.value


@dataclass
class QueueModel:
    """A queue with a clock that is set from outside."""

    now: float
    max_attempts: int = 5
    max_length: int | None = None
    overflow: str = "reject"
    ttl: int | None = None
    delay: float = 0
    dedupe_seconds: float = 300
    messages: list[ModelMessage] = field(default_factory=list)
    last_number: int = 0
    leases: int = 0
    popped: set[int] = field(default_factory=set)
    ids: dict[str, tuple[int, int, float]] = field(default_factory=dict)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and all happen that time brings."""
        self.now += seconds
        for message in self.messages:
            if message.until <= self.now:
                if message.state == "leased":
                    self._end_lease(message, "the lease ran out")
                elif message.state == "delayed":
                    message.state = "ready"
        self._forget_expired()

    def _forget_expired(self) -> None:
        self.messages = [
            message
            for message in self.messages
            if message.state == "leased" or message.expires > self.now
        ]

    def _end_lease(self, message: ModelMessage, reason: str, until: float = 0.0) -> None:
        message.reason = reason
        if self.max_attempts and message.attempts >= self.max_attempts:
            self._bury(message)
        else:
            message.state = "delayed" if until > self.now else "ready"
            message.until = until

    @staticmethod
    def _bury(message: ModelMessage) -> None:
        message.state, message.looks = "dead", 0

    def in_state(self, state: str) -> list[ModelMessage]:
        """Return the messages in one state, in the order in which they leave."""
        found = (message for message in self.messages if message.state == state)
        return sorted(found, key=lambda message: message.rank)

    def find(self, number: int) -> ModelMessage | None:
        """Return the message of this number, in whatever state."""
        return next((m for m in self.messages if m.number == number), None)

    # Publishing

    def add(
        self,
        values: list[bytes],
        priority: int = 4,
        ttl: int | None = None,
        delay: float | None = None,
        at: float | None = None,
        key: str | None = None,
    ) -> tuple[int, int, bool] | None:
        """Add messages; returns first number, count, and whether it was a repetition."""
        if key in self.ids and self.ids[key][2] > self.now:
            return (*self.ids[key][:2], True)
        waiting = len(self.in_state("ready")) + len(self.in_state("delayed"))
        rejects = self.max_length is not None and self.overflow == "reject"
        if rejects and waiting + len(values) > (self.max_length or 0):
            return None
        first = self.last_number + 1
        if key is not None:
            self.ids[key] = (first, len(values), self.now + self.dedupe_seconds)
        ttl = self.ttl if ttl is None else ttl
        expires = FOREVER if ttl is None else self.now + ttl
        ready_at = at if at is not None else self.now + (self.delay if delay is None else delay)
        for value in values:
            self.last_number += 1
            message = ModelMessage(self.last_number, value, priority, expires)
            if ready_at > self.now:
                message.state, message.until = "delayed", ready_at
            self.messages.append(message)
        if self.max_length is not None and self.overflow != "reject":
            self._shed(self.max_length)
        return first, len(values), False

    def _shed(self, max_length: int) -> None:
        by_priority = sorted(self.in_state("ready"), key=lambda m: (m.priority, m.number))
        by_time = sorted(self.in_state("delayed"), key=lambda m: (m.until, str(m.number)))
        waiting = by_priority + by_time
        for message in waiting[: max(len(waiting) - max_length, 0)]:
            if self.overflow == "dead-letter":
                message.reason = "the queue was full"
                self._bury(message)
            else:
                self.messages.remove(message)

    # Taking

    def take(self, count: int, remember: bool) -> list[ModelMessage]:
        """Take messages for good."""
        taken = self.in_state("ready")[:count]
        for message in taken:
            self.messages.remove(message)
            if remember:
                self.popped.add(message.number)
        return taken

    def give_back(self, messages: list[ModelMessage]) -> None:
        """Put back what was taken."""
        for message in messages:
            if message.expires > self.now:
                message.attempts = message.looks = 0
                message.reason = None
                self.messages.append(message)
                self.popped.discard(message.number)

    def lease(self, count: int, seconds: float) -> list[ModelMessage]:
        """Lease messages."""
        leased = self.in_state("ready")[:count]
        self.leases += 1
        for message in leased:
            message.state, message.until = "leased", self.now + seconds
            message.attempts += 1
            message.lease = self.leases
        return leased

    def settle(self, number: int, lease: int, verb: str, argument: float | str = 0) -> bool:
        """Settle a lease; returns whether it was one."""
        message = self.find(number)
        if message is None or message.state != "leased" or message.lease != lease:
            return False
        if verb == "ack":
            self.messages.remove(message)
        elif verb == "extend":
            message.until = self.now + float(argument)
        elif verb == "keep":
            message.attempts -= 1
            message.state, message.reason = "ready", "it was released"
        elif verb == "release":
            self._end_lease(message, "it was released", self.now + float(argument))
        else:
            message.reason = str(argument)
            self._bury(message)
        self._forget_expired()
        return True

    # Single messages and the whole queue

    def delete(self, number: int) -> bool:
        """Delete one message."""
        message = self.find(number)
        if message is not None:
            self.messages.remove(message)
            return True
        known = number in self.popped
        self.popped.discard(number)
        return known

    def redrive(self, messages: list[ModelMessage]) -> None:
        """Put dead letters back."""
        for message in messages:
            message.state, message.attempts, message.reason = "ready", 0, None

    def drop(self) -> None:
        """Throw the dead letters away."""
        self.messages = [message for message in self.messages if message.state != "dead"]

    def purge(self) -> bool:
        """Empty the queue of all but the dead."""
        before = len(self.messages)
        self.messages = self.in_state("dead")
        self.popped.clear()
        self.ids.clear()
        return len(self.messages) < before
