"""One STOMP connection: what its client asks for becomes operations of the broker.

Nothing here waits: what is begun is answered by callbacks. RECEIPTs come in the order of what they
are for. A client that does not read what it was sent gets no more messages of queues.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from restmq import __version__
from restmq.access import Section
from restmq.broker.holders import Binding, Delivery
from restmq.broker.message import pack
from restmq.codecs.stomp_commands import (
    Abort,
    Ack,
    Begin,
    Command,
    Commit,
    Connect,
    Disconnect,
    Hold,
    Nack,
    Refuse,
    Send,
    Subscribe,
    Subscription,
    Unsubscribe,
)
from restmq.codecs.stomp_encoder import MessageEncoder, encode_message_content
from restmq.codecs.stomp_heart_beat import HeartBeatTimer
from restmq.endpoints.stomp_access import Peer
from restmq.endpoints.stomp_commit import Commits
from restmq.endpoints.stomp_destinations import (
    Destination,
    Kind,
    for_sending,
    for_subscribing,
    public_reply_to,
)
from restmq.endpoints.stomp_line import Line
from restmq.endpoints.stomp_shared import Prepared, Shared
from restmq.endpoints.stomp_subscriber import Subscriber
from restmq.endpoints.stomp_wire import Wire
from restmq.errors import AccessDenied, RateLimited, RestMQError

logger = logging.getLogger(__name__)

SERVER: Final = f"RestMQ/{__version__}"


class Connection(Line):
    """One client, over whatever wire; ``number`` tells it from all others of this node."""

    __slots__ = (
        "__weakref__",
        "_commits",
        "_sent_auto",
        "_sent_to",
        "deliveries",
        "number",
        "subscribers",
    )

    def __init__(
        self, shared: Shared, wire: Wire, peer: Peer, session_id: str, number: int, log_id: str
    ) -> None:
        super().__init__(shared, wire, peer, session_id, log_id)
        self.number = number
        self.subscribers: dict[Subscription, Subscriber] = {}
        self.deliveries: dict[int, Delivery] = {}
        """Messages of queues that wait for an acknowledgement."""
        self._sent_auto: list[Delivery] = []
        """Those that need none, but were perhaps not sent yet."""
        self._commits: Commits | None = None
        self._sent_to: tuple[str, Destination] | None = None
        """The last destination, read: most clients send to one again and again."""

    def _perform(self, commands: Sequence[Command]) -> None:
        for index, command in enumerate(commands):
            if self._is_closed or self._has_failed:
                return
            try:
                _HANDLERS[type(command)](self, command)
            except RestMQError as error:
                self.fail(error, getattr(command, "receipt_id", None))
                return
            except Exception:
                logger.exception("a STOMP command failed", extra=self.log_fields)
                self.fail(RestMQError("something failed here; the server's log says what"), None)
                return
            if self._held_back is not None:
                self._held_back += commands[index + 1 :]
                return

    def _settle_sent(self) -> None:
        sent, self._sent_auto = self._sent_auto, []
        for delivery in sent:
            self._shared.messaging.subscriptions.ack_surely(delivery)

    def _give_up(self) -> None:
        held = [*self.deliveries.values(), *self._sent_auto]
        self.deliveries, self._sent_auto = {}, []
        shares: dict[Binding, list[Delivery]] = {}
        for delivery in held:
            shares.setdefault(delivery.binding, []).append(delivery)
        for subscriber in self.subscribers.values():
            for outcome in subscriber.leave(shares):
                outcome.add_done_callback(_note_failure)
        self.subscribers.clear()

    # What the broker hands to it, and takes back

    @property
    def is_able(self) -> bool:
        """Return whether messages can be handed to it now."""
        return not (
            self._is_paused or self._is_closed or self._has_failed or self.session.is_closed
        )

    def deliver(self, binding: Binding, deliveries: Sequence[Delivery]) -> None:
        """Send messages of a queue."""
        subscription, encoder = cast(tuple[Subscription, MessageEncoder], binding.owner)
        version = self.session.version
        assert version is not None
        needs_ack = binding.is_counted
        for delivery in deliveries:
            number = self.session.start_delivery(subscription, needs_ack=needs_ack)
            delivery.name = number
            if needs_ack:
                self.deliveries[number] = delivery
            else:
                self._sent_auto.append(delivery)
            message = delivery.message
            attributes = message.attributes
            content = encode_message_content(
                message.value,
                attributes.headers or {},
                version,
                content_type=attributes.content_type,
                attempt=message.attempt,
            )
            self.write(encoder.encode(number, content))

    def expire(self, delivery: Delivery) -> None:
        """Forget a message whose lease ran out; a late acknowledgement of it does nothing."""
        self.session.settle(delivery.name)
        self.deliveries.pop(delivery.name, None)

    # What the client asks for

    def _connect(self, command: Connect) -> None:
        try:
            self.peer = self._shared.access.admit(self.peer, command)
        except (AccessDenied, RateLimited) as error:
            self._refuse_for(error, None)
            return
        self._close_at = None
        self._shared.wheel.remove(self)
        if any(command.intervals):
            now = self._loop.time()
            self._timer = HeartBeatTimer(command.intervals, now)
            self._shared.wheel.put(self, self._timer.next_deadline_seconds() or now)
        self.write(self.session.accept(SERVER))

    def _send(self, command: Send) -> None:
        destination, packed = self.prepare(command)
        self.answers.add(
            (self.put(destination, packed, command.headers.get("idempotency-key")),),
            command.receipt_id,
            len(packed),
        )

    def prepare(self, command: Send) -> Prepared:
        """Check a message and pack it; raises RestMQError if it cannot be sent."""
        session_id = self.session.session_id
        sent_to = self._sent_to
        if sent_to is None or sent_to[0] != command.destination:
            sent_to = (command.destination, for_sending(command.destination, session_id))
            self._sent_to = sent_to
        destination = sent_to[1]
        self._shared.access.check(self.peer, Section.PRODUCER, destination)
        headers = command.headers
        reply_to = headers.get("reply-to")
        if reply_to is not None:
            headers = {**headers, "reply-to": public_reply_to(reply_to, session_id)}
        return Prepared(destination, pack(command.body, command.content_type, headers=headers))

    def put(
        self, destination: Destination, packed: bytes, idempotency_key: str | None
    ) -> asyncio.Future[Any]:
        messaging = self._shared.messaging
        if destination.kind is Kind.QUEUE:
            return messaging.sender.send(destination.name, [packed], idempotency_key)
        is_private = destination.kind is Kind.TEMPORARY
        topic = f"{destination.kind.value}/{destination.name}"
        return messaging.topics.publish(topic, packed, is_private=is_private)

    def _subscribe(self, command: Subscribe) -> None:
        wanted = for_subscribing(command.subscription.destination, self.session.session_id)
        self._shared.access.check(self.peer, Section.CONSUMER, wanted)
        subscriber = Subscriber(self, self._shared, command.subscription)
        if command.subscription.prefetch_count is not None and subscriber.is_counted:
            self.prefetch = max(self.prefetch, subscriber.prefetch)
        self.subscribers[command.subscription] = subscriber
        self.answers.add((subscriber.join(),), command.receipt_id)

    def _unsubscribe(self, command: Unsubscribe) -> None:
        subscriber = self.subscribers.pop(command.subscription)
        shares: dict[Binding, list[Delivery]] = {}
        unsettled = [self.deliveries.pop(n) for n in command.unsettled if n in self.deliveries]
        for delivery in unsettled:
            shares.setdefault(delivery.binding, []).append(delivery)
        outcomes = subscriber.leave(shares)
        # What needs no acknowledgement and is on its way stays with the client.
        self.prefetch = max(
            (s.prefetch for s in self.subscribers.values() if s.is_counted),
            default=self._shared.settings.stomp_prefetch,
        )
        self.answers.add(outcomes, command.receipt_id)
        self.take_turns()

    def _acknowledge(self, command: Ack | Nack) -> None:
        self._shared.access.check_key(self.peer)
        self.answers.add(self.settle(command), command.receipt_id)

    def settle(self, command: Ack | Nack) -> list[asyncio.Future[Any]]:
        subscriptions = self._shared.messaging.subscriptions
        settle = subscriptions.ack if isinstance(command, Ack) else subscriptions.nack
        found = [self.deliveries.pop(n, None) for n in command.deliveries]
        return [settle(delivery) for delivery in found if delivery is not None]

    def _confirm(self, command: Begin | Hold | Abort) -> None:
        self.answers.add((), command.receipt_id)

    def _commit(self, command: Commit) -> None:
        self._shared.access.check_key(self.peer)
        if self._commits is None:
            self._commits = Commits(self, self._shared)
        self._commits.perform(command)

    def hold_back(self) -> None:
        """Begin nothing more until ``go_on``."""
        self._held_back = []

    def go_on(self) -> None:
        """Begin what came meanwhile."""
        held_back, self._held_back = self._held_back or [], None
        self._perform(held_back)
        self._check_reading()

    def _disconnect(self, command: Disconnect) -> None:
        self.answers.add((), command.receipt_id, then=self._hang_up)

    def _refuse(self, command: Refuse) -> None:
        self.note_refusal(command.message)
        # In its turn: what came before it is answered first.
        then = functools.partial(self._say_goodbye, command.error_frame)
        self.answers.add((), None, then=then)


def _note_failure(future: asyncio.Future[Any]) -> None:
    """Take note of a failure: the lease runs out by itself."""
    if not future.cancelled():
        future.exception()


_HANDLERS: Final[dict[type[Command], Callable[[Connection, Any], None]]] = {
    Connect: Connection._connect,
    Send: Connection._send,
    Subscribe: Connection._subscribe,
    Unsubscribe: Connection._unsubscribe,
    Ack: Connection._acknowledge,
    Nack: Connection._acknowledge,
    Begin: Connection._confirm,
    Hold: Connection._confirm,
    Abort: Connection._confirm,
    Commit: Connection._commit,
    Disconnect: Connection._disconnect,
    Refuse: Connection._refuse,
}
