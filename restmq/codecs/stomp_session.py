"""The server's side of one STOMP connection: bytes to commands, checked and in order.

A session knows what STOMP says of a connection: its version, subscriptions, transactions and the
deliveries that are not acknowledged. It knows no queue and no socket. One for TCP and one for a
WebSocket are the same.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from types import MappingProxyType
from typing import Final

from restmq.codecs.stomp import (
    DEFAULT_FRAME_LIMITS,
    VERSIONS,
    Frame,
    FrameLimits,
    FrameParser,
    StompError,
    Version,
    excerpt,
    negotiate_version,
)
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
    check_headers,
    read_kept_id,
    read_send,
    read_subscription,
)
from restmq.codecs.stomp_encoder import encode_error, encode_frame, encode_receipt
from restmq.codecs.stomp_heart_beat import (
    NO_HEART_BEAT,
    HeartBeat,
    agree_on_heart_beats,
    parse_heart_beat,
)

_DELIVERY: Final = re.compile(r"[1-9][0-9]{0,17}")
_HELD_FRAME_BYTES: Final = 512  # about what the objects of a held frame take beside its text
_HELD_HEADER_BYTES: Final = 128


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How much one connection may keep.

    The limits of held frames and bytes are for all open transactions together; the bytes count
    bodies, headers and what it takes to keep them.
    """

    max_subscriptions: int = 1000
    max_transactions: int = 100
    max_held_frames: int = 10_000
    max_held_bytes: int = 32 * 1024 * 1024


DEFAULT_SESSION_LIMITS: Final = SessionLimits()


@dataclass(frozen=True, slots=True)
class _Settlement:
    """An ACK or NACK that waits for COMMIT; what it covers is known only then."""

    kind: type[Ack] | type[Nack]
    delivery: int
    receipt_id: str | None


@dataclass(slots=True)
class _Transaction:
    held: list[Send | _Settlement] = field(default_factory=list)
    held_bytes: int = 0


class ServerSession:
    """One connection of a client, as the server sees it.

    ``session_id`` is the header of CONNECTED, 32 hexadecimal digits that nobody can guess.
    ``heart_beat`` is what this server offers and wants.

    Deliveries are numbered from 1 on, over all subscriptions. The number is the ``message-id``,
    and the ``ack`` of 1.2, and what the commands name.
    """

    def __init__(
        self,
        session_id: str,
        *,
        heart_beat: HeartBeat = NO_HEART_BEAT,
        frame_limits: FrameLimits = DEFAULT_FRAME_LIMITS,
        limits: SessionLimits = DEFAULT_SESSION_LIMITS,
    ) -> None:
        self.session_id = session_id
        self.version: Version | None = None
        """What was agreed on; None until the client has sent CONNECT."""
        self.is_closed = False
        """Whether the client disconnected or was refused; what else it sends is ignored."""
        self._heart_beat = heart_beat
        self._limits = limits
        self._parser = FrameParser(frame_limits)
        self._names_version = False
        self._by_id: dict[str, Subscription] = {}
        self._by_destination: dict[str, Subscription] = {}  # those without an id
        self._unsettled: dict[int, Subscription] = {}
        self._last_delivery = 0
        self._transactions: dict[str, _Transaction] = {}
        self._held_frames = 0
        self._held_bytes = 0

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """Those that are open now."""
        return (*self._by_id.values(), *self._by_destination.values())

    def receive_data(self, data: bytes) -> list[Command]:
        """Take in what arrived and return what the client asked for, in order.

        A fault of the client makes a Refuse, which is then the last command; so is Disconnect.
        After either, the session is closed and returns nothing any more.
        """
        commands: list[Command] = []
        if self.is_closed:
            return commands
        receipt_id: str | None = None
        try:
            while frames := self._parser.receive_data(data):
                for frame in frames:
                    receipt_id = frame.headers.get("receipt")
                    command = self._receive_frame(frame)
                    commands.append(command)
                    if isinstance(command, Disconnect):
                        return commands
                receipt_id = None
                data = b""  # the parser tells of a fault after those frames when asked again
        except StompError as error:
            if error.receipt_id is not None:
                receipt_id = error.receipt_id
            message = str(error)
            error_frame = self.refuse(message, receipt_id=receipt_id, headers=error.headers)
            commands.append(Refuse(message, error_frame))
        return commands

    def accept(self, server: str) -> bytes:
        """Return the CONNECTED frame that answers Connect.

        ``server`` is the name and version of this server, as in ``RestMQ/1.0``.
        """
        headers = {"session": self.session_id, "server": server}
        if self._names_version:
            headers["version"] = str(self.version)
        if self.version != "1.0":
            headers["heart-beat"] = str(self._heart_beat)
        return encode_frame("CONNECTED", headers, version=None)

    def receipt(self, receipt_id: str) -> bytes:
        """Return the RECEIPT frame for a command that has been done."""
        return encode_receipt(receipt_id, self.version)

    def refuse(
        self,
        message: str,
        *,
        detail: str = "",
        receipt_id: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        """Close the session and return the ERROR frame to send before the connection closes.

        ``message`` is one short line; ``detail`` may say more.
        """
        self._close()
        return encode_error(
            message, self.version, detail=detail, receipt_id=receipt_id, headers=headers
        )

    def start_delivery(self, subscription: Subscription, *, needs_ack: bool) -> int:
        """Return the number for a message that is about to be sent to this subscription.

        With ``needs_ack`` it stays unsettled until the client acknowledges it, the subscription
        ends, or ``settle`` is called. Acknowledging any other delivery does nothing.
        """
        self._last_delivery += 1
        delivery = self._last_delivery
        if needs_ack:
            self._unsettled[delivery] = subscription
            subscription.unsettled[delivery] = None
        return delivery

    def settle(self, delivery: int) -> None:
        """Forget a delivery that ended without the client, as when its lease ran out."""
        subscription = self._unsettled.pop(delivery, None)
        if subscription is not None:
            del subscription.unsettled[delivery]

    def _receive_frame(self, frame: Frame) -> Command:
        if self.version is None:
            return self._connect(frame)
        if frame.command in ("CONNECT", "STOMP"):
            raise StompError(f"{frame.command} on a connection that is open already")
        check_headers(frame, self.version)
        return _HANDLERS[frame.command](self, frame)

    def _connect(self, frame: Frame) -> Connect:
        if frame.command not in ("CONNECT", "STOMP"):
            raise StompError(f"the first frame is {frame.command}; it must be CONNECT or STOMP")
        headers = frame.headers
        version = negotiate_version(headers.get("accept-version"))
        if version is None:
            raise StompError(
                f"no common version; this server speaks {', '.join(VERSIONS)}",
                headers={"version": ",".join(VERSIONS)},
            )
        heart_beat = NO_HEART_BEAT
        if version != "1.0":
            heart_beat = parse_heart_beat(headers.get("heart-beat"))
        self.version = version
        self._names_version = "accept-version" in headers
        return Connect(
            version=version,
            host=headers.get("host"),
            login=headers.get("login"),
            passcode=headers.get("passcode"),
            intervals=agree_on_heart_beats(self._heart_beat, heart_beat),
        )

    def _send(self, frame: Frame) -> Send | Hold:
        send = read_send(frame.headers, frame.body)
        if "transaction" in frame.headers:
            return self._hold(frame, send)
        return send

    def _subscribe(self, frame: Frame) -> Subscribe:
        if len(self._by_id) + len(self._by_destination) >= self._limits.max_subscriptions:
            raise StompError(f"more than {self._limits.max_subscriptions} subscriptions")
        subscription = read_subscription(frame.headers)
        subscription_id = subscription.subscription_id
        if subscription_id is None:
            if subscription.destination in self._by_destination:
                name = excerpt(subscription.destination)
                raise StompError(f"there is a subscription to {name} without an id already")
            self._by_destination[subscription.destination] = subscription
        else:
            if subscription_id in self._by_id:
                raise StompError(f"there is a subscription {excerpt(subscription_id)} already")
            self._by_id[subscription_id] = subscription
        return Subscribe(subscription, frame.headers.get("receipt"))

    def _unsubscribe(self, frame: Frame) -> Unsubscribe:
        subscription = self._take_subscription(frame.headers)
        unsettled = tuple(subscription.unsettled)
        for delivery in unsettled:
            self.settle(delivery)
        return Unsubscribe(subscription, unsettled, frame.headers.get("receipt"))

    def _take_subscription(self, headers: dict[str, str]) -> Subscription:
        if subscription_id := headers.get("id"):
            subscription = self._by_id.pop(subscription_id, None)
            if subscription is None:
                raise StompError(f"there is no subscription {excerpt(subscription_id)}")
            return subscription
        destination = headers["destination"]
        subscription = self._by_destination.pop(destination, None)
        if subscription is not None:
            return subscription
        for subscription_id, subscription in self._by_id.items():
            if subscription.destination == destination:
                return self._by_id.pop(subscription_id)
        raise StompError(f"there is no subscription to {excerpt(destination)}")

    def _acknowledge(self, frame: Frame) -> Ack | Nack | Hold:
        kind = Ack if frame.command == "ACK" else Nack
        delivery = self._read_delivery(frame.headers)
        settlement = _Settlement(kind, delivery, frame.headers.get("receipt"))
        if "transaction" in frame.headers:
            return self._hold(frame, settlement)
        return self._resolve(settlement)

    def _read_delivery(self, headers: dict[str, str]) -> int:
        name = "id" if self.version == "1.2" else "message-id"
        text = headers[name]
        if not _DELIVERY.fullmatch(text) or (delivery := int(text)) > self._last_delivery:
            raise StompError(f"{name} {excerpt(text)} was never given to this client")
        subscription = self._unsettled.get(delivery)
        if self.version == "1.1" and subscription is not None:
            subscription_id = headers["subscription"]
            if subscription.subscription_id != subscription_id:
                raise StompError(
                    f"message {delivery} did not go to subscription {excerpt(subscription_id)}"
                )
        return delivery

    def _resolve(self, settlement: _Settlement) -> Ack | Nack:
        """Settle what an ACK or NACK covers: in ``client`` mode all that went before, too."""
        deliveries: tuple[int, ...] = ()
        last = settlement.delivery
        subscription = self._unsettled.get(last)
        if subscription is not None:
            deliveries = (last,)
            if subscription.ack == "client":
                deliveries = tuple(takewhile(last.__ge__, subscription.unsettled))
            for delivery in deliveries:
                self.settle(delivery)
        return settlement.kind(deliveries, settlement.receipt_id)

    def _begin(self, frame: Frame) -> Begin:
        transaction_id = read_kept_id(frame.headers, "transaction")
        if transaction_id in self._transactions:
            raise StompError(f"transaction {excerpt(transaction_id)} is open already")
        if len(self._transactions) >= self._limits.max_transactions:
            raise StompError(f"more than {self._limits.max_transactions} open transactions")
        self._transactions[transaction_id] = _Transaction()
        return Begin(transaction_id, frame.headers.get("receipt"))

    def _hold(self, frame: Frame, command: Send | _Settlement) -> Hold:
        transaction_id, transaction = self._find_transaction(frame.headers)
        size = _HELD_FRAME_BYTES + len(frame.body)
        for name, value in frame.headers.items():
            size += _HELD_HEADER_BYTES + len(name.encode()) + len(value.encode())
        if self._held_frames >= self._limits.max_held_frames:
            raise StompError(f"more than {self._limits.max_held_frames} frames in transactions")
        if self._held_bytes + size > self._limits.max_held_bytes:
            raise StompError(f"more than {self._limits.max_held_bytes} bytes in transactions")
        transaction.held.append(command)
        transaction.held_bytes += size
        self._held_frames += 1
        self._held_bytes += size
        return Hold(transaction_id, command.receipt_id)

    def _find_transaction(self, headers: dict[str, str]) -> tuple[str, _Transaction]:
        transaction_id = headers["transaction"]
        transaction = self._transactions.get(transaction_id)
        if transaction is None:
            raise StompError(f"there is no open transaction {excerpt(transaction_id)}")
        return transaction_id, transaction

    def _end_transaction(self, headers: dict[str, str]) -> tuple[str, _Transaction]:
        transaction_id, transaction = self._find_transaction(headers)
        del self._transactions[transaction_id]
        self._held_frames -= len(transaction.held)
        self._held_bytes -= transaction.held_bytes
        return transaction_id, transaction

    def _commit(self, frame: Frame) -> Commit:
        transaction_id, transaction = self._end_transaction(frame.headers)
        commands = tuple(
            held if isinstance(held, Send) else self._resolve(held) for held in transaction.held
        )
        return Commit(transaction_id, commands, frame.headers.get("receipt"))

    def _abort(self, frame: Frame) -> Abort:
        transaction_id, _ = self._end_transaction(frame.headers)
        return Abort(transaction_id, frame.headers.get("receipt"))

    def _disconnect(self, frame: Frame) -> Disconnect:
        self._close()
        return Disconnect(frame.headers.get("receipt"))

    def _close(self) -> None:
        """Take nothing more, and drop the open transactions."""
        self.is_closed = True
        self._transactions.clear()
        self._held_frames = self._held_bytes = 0


_HANDLERS: Final[Mapping[str, Callable[[ServerSession, Frame], Command]]] = MappingProxyType(
    {
        "SEND": ServerSession._send,
        "SUBSCRIBE": ServerSession._subscribe,
        "UNSUBSCRIBE": ServerSession._unsubscribe,
        "ACK": ServerSession._acknowledge,
        "NACK": ServerSession._acknowledge,
        "BEGIN": ServerSession._begin,
        "COMMIT": ServerSession._commit,
        "ABORT": ServerSession._abort,
        "DISCONNECT": ServerSession._disconnect,
    }
)
