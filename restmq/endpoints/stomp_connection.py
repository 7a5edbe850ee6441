"""One STOMP connection: what its client asks for becomes operations of the broker.

Nothing here waits, and no connection has a task: what is begun is answered by callbacks. RECEIPTs
come in the order of what they are for. A client is read no further while too much of what it asked
for is under way, or while it does not read what it was sent; it gets no more messages of queues
then either, and one that lets topics pile up is cut off.
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
from restmq.codecs.stomp_encoder import HEART_BEAT, MessageEncoder, encode_message_content
from restmq.codecs.stomp_heart_beat import HeartBeat, HeartBeatTimer
from restmq.codecs.stomp_session import ServerSession
from restmq.endpoints.stomp_access import Peer
from restmq.endpoints.stomp_answers import Answer, Answers
from restmq.endpoints.stomp_commit import Commits
from restmq.endpoints.stomp_destinations import Destination, Kind, for_sending, public_reply_to
from restmq.endpoints.stomp_shared import Client, Prepared, Shared
from restmq.endpoints.stomp_subscriber import Subscriber
from restmq.endpoints.stomp_wire import Wire
from restmq.errors import AccessDenied, RestMQError

logger = logging.getLogger(__name__)

SERVER: Final = f"RestMQ/{__version__}"
HEART_BEAT_OFFER: Final = HeartBeat(500, 500)
"""The shortest intervals that this server keeps and asks for, in milliseconds."""

CLOSE_SECONDS: Final = 5.0
"""How long a client may take to read an ERROR, before the connection is reset."""

UNREAD_SECONDS: Final = 60.0
"""How long a client with heart-beats may read nothing: nobody can tell then if it lives."""


class Connection(Client):
    """One client, over whatever wire."""

    __slots__ = (
        "__weakref__",
        "_close_at",
        "_commits",
        "_has_failed",
        "_held_back",
        "_is_closed",
        "_is_flushing",
        "_is_paused",
        "_is_reading",
        "_loop",
        "_out",
        "_out_bytes",
        "_paused_at",
        "_peer",
        "_sent_auto",
        "_shared",
        "_subscribers",
        "_timer",
        "_wire",
        "deliveries",
    )

    def __init__(self, shared: Shared, wire: Wire, peer: Peer, session_id: str) -> None:
        super().__init__(shared.settings.stomp_prefetch)
        self._shared = shared
        self._wire = wire
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self.session = ServerSession(
            session_id, heart_beat=HEART_BEAT_OFFER, frame_limits=shared.frame_limits
        )
        self.answers = Answers(self._answer)
        self._subscribers: dict[Subscription, Subscriber] = {}
        self.deliveries: dict[int, Delivery] = {}
        """Messages of queues that wait for an acknowledgement."""
        self._sent_auto: list[Delivery] = []
        """Those that need none, but were perhaps not sent yet."""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._commits: Commits | None = None
        self._held_back: list[Command] | None = None
        """What came after a COMMIT that is still being checked."""
        self._timer: HeartBeatTimer | None = None
        self._is_flushing = self._is_paused = self._is_closed = False
        self._has_failed = False
        """Whether an ERROR waits for its turn; what else the client sends is ignored."""
        self._paused_at = 0.0
        self._is_reading = True
        now = self._loop.time()
        self._close_at: float | None = now + shared.settings.header_timeout_seconds
        shared.wheel.put(self, self._close_at)

    # What the wire tells

    def receive(self, data: bytes) -> None:
        """Take in octets, and begin what they ask for."""
        if self._timer is not None:
            self._timer.note_received(self._loop.time())
        if self._has_failed:
            return
        commands = self.session.receive_data(data)
        if self._held_back is not None:
            self._held_back += commands
        else:
            self._perform(commands)
        self._check_reading()

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
                logger.exception("a STOMP command failed")
                self.fail(RestMQError("something failed here; the server's log says what"), None)
                return
            if self._held_back is not None:
                self._held_back += commands[index + 1 :]
                return

    def end_of_input(self) -> None:
        """Close when all that was asked for is answered."""
        if self._held_back is not None:
            self._held_back.append(Disconnect())
        else:
            self.answers.add((), None, then=self._hang_up)

    def pause(self) -> None:
        """Hand out nothing more, and read nothing more, until all is sent."""
        self._is_paused = True
        self._paused_at = self._loop.time()
        self._check_reading()

    def resume(self) -> None:
        """Go on, now that all is sent."""
        self._is_paused = False
        self._settle_sent()
        self._check_reading()
        self.take_turns()

    def lost(self) -> None:
        """Give back what the client held."""
        self._leave()
        self._shared.wheel.remove(self)
        self._shared.forget(self)

    def _check_reading(self) -> None:
        if self._is_reading:
            if self._is_paused or self.answers.is_full or self._held_back is not None:
                self._is_reading = False
                self._wire.pause_reading()
        elif not self._is_paused and self.answers.has_room and self._held_back is None:
            self._is_reading = True
            if self._timer is not None:  # its heart-beats may lie in the kernel
                self._timer.note_received(self._loop.time())
            self._wire.resume_reading()

    def tick(self, now: float) -> float | None:
        """Do what is due; the wheel calls this."""
        if self._close_at is not None:
            if now >= self._close_at:
                self._wire.abort()
                return None
            return self._close_at
        timer = self._timer
        if timer is None:
            return None
        if timer.is_peer_silent(now):
            if self._is_reading:
                self.refuse("no heart-beat came in time")
                return self._close_at
            if self._is_paused and now >= self._paused_at + UNREAD_SECONDS:
                self._wire.abort()
                return None
            timer.note_received(now)
        if timer.is_send_due(now):
            self.write(HEART_BEAT)
        return timer.next_deadline_seconds()

    # What goes out

    def write(self, data: bytes) -> None:
        """Send a frame, together with all others of this turn of the event loop."""
        self._out.append(data)
        self._out_bytes += len(data)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        if not self._out:
            return
        out, self._out, self._out_bytes = self._out, [], 0
        self._wire.write(out[0] if len(out) == 1 else b"".join(out))
        if self._timer is not None:
            self._timer.note_sent(self._loop.time())
        if not self._is_paused:
            self._settle_sent()

    def _settle_sent(self) -> None:
        sent, self._sent_auto = self._sent_auto, []
        for delivery in sent:
            self._shared.messaging.subscriptions.ack(delivery).add_done_callback(_note_failure)

    def write_topic(self, data: bytes) -> None:
        """Send a message of a topic, unless the client has too much unread: then cut it off."""
        if self._wire.unsent_bytes + self._out_bytes > self._shared.settings.outbox_bytes:
            self.refuse("too much is unread", "messages of topics were not read fast enough")
        elif not self._is_closed:
            self.write(data)

    def _answer(self, answer: Answer) -> None:
        if self._is_closed:
            return
        if answer.error is not None:
            self._refuse_for(answer.error, answer.receipt_id)
            return
        if answer.receipt_id is not None:
            self.write(self.session.receipt(answer.receipt_id))
        if answer.then is not None:
            answer.then()
        if not self._is_reading:
            self._check_reading()

    def fail(self, error: RestMQError, receipt_id: str | None) -> None:
        """Refuse what the client asked for, once all before it is answered, and close."""
        self._has_failed = True
        self.answers.fail(error, receipt_id)

    def _refuse_for(self, error: RestMQError, receipt_id: str | None) -> None:
        if isinstance(error, AccessDenied):
            logger.info("STOMP client at %s refused: %s", self._peer.address, error)
        self.refuse(str(error), receipt_id=receipt_id)

    def refuse(self, message: str, detail: str = "", receipt_id: str | None = None) -> None:
        """Send an ERROR and close."""
        if not self._is_closed:
            frame = self.session.refuse(message, detail=detail, receipt_id=receipt_id)
            self._say_goodbye(frame)

    def _say_goodbye(self, frame: bytes) -> None:
        self.write(frame)
        self._hang_up()

    def _hang_up(self) -> None:
        """Close once all is sent, or after a while at the latest."""
        if self._is_closed:
            return
        self._flush()
        self._leave()
        self._close_at = self._loop.time() + CLOSE_SECONDS
        self._shared.wheel.put(self, self._close_at)
        self._wire.close()

    def _leave(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.answers.clear()
        self.turns.clear()
        held = [*self.deliveries.values(), *self._sent_auto]
        self.deliveries, self._sent_auto = {}, []
        shares: dict[Binding, list[Delivery]] = {}
        for delivery in held:
            shares.setdefault(delivery.binding, []).append(delivery)
        for subscriber in self._subscribers.values():
            for outcome in subscriber.leave(shares):
                outcome.add_done_callback(_note_failure)
        self._subscribers.clear()

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
                is_redelivered=message.attempt > 1,
            )
            self.write(encoder.encode(number, content))

    def expire(self, delivery: Delivery) -> None:
        """Forget a message whose lease ran out; a late acknowledgement of it does nothing."""
        self.session.settle(delivery.name)
        self.deliveries.pop(delivery.name, None)

    # What the client asks for

    def _connect(self, command: Connect) -> None:
        try:
            self._peer = self._shared.access.admit(self._peer, command)
        except AccessDenied as error:
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
        self._shared.access.check(self._peer, Section.PRODUCER)
        session_id = self.session.session_id
        destination = for_sending(command.destination, session_id)
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
        self._shared.access.check(self._peer, Section.CONSUMER)
        subscriber = Subscriber(self, self._shared, command.subscription)
        if command.subscription.prefetch_count is not None and subscriber.is_counted:
            self.prefetch = max(self.prefetch, subscriber.prefetch)
        self._subscribers[command.subscription] = subscriber
        self.answers.add((subscriber.join(),), command.receipt_id)

    def _unsubscribe(self, command: Unsubscribe) -> None:
        subscriber = self._subscribers.pop(command.subscription)
        shares: dict[Binding, list[Delivery]] = {}
        unsettled = [self.deliveries.pop(n) for n in command.unsettled if n in self.deliveries]
        for delivery in unsettled:
            shares.setdefault(delivery.binding, []).append(delivery)
        outcomes = subscriber.leave(shares)
        # What needs no acknowledgement and is on its way stays with the client.
        self.prefetch = max(
            (s.prefetch for s in self._subscribers.values() if s.is_counted),
            default=self._shared.settings.stomp_prefetch,
        )
        self.answers.add(outcomes, command.receipt_id)
        self.take_turns()

    def _acknowledge(self, command: Ack | Nack) -> None:
        self.answers.add(self.settle(command), command.receipt_id)

    def settle(self, command: Ack | Nack) -> list[asyncio.Future[Any]]:
        subscriptions = self._shared.messaging.subscriptions
        settle = subscriptions.ack if isinstance(command, Ack) else subscriptions.nack
        found = [self.deliveries.pop(n, None) for n in command.deliveries]
        return [settle(delivery) for delivery in found if delivery is not None]

    def _confirm(self, command: Begin | Hold | Abort) -> None:
        self.answers.add((), command.receipt_id)

    def _commit(self, command: Commit) -> None:
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
        logger.info("STOMP client at %s refused: %s", self._peer.address, command.message)
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
