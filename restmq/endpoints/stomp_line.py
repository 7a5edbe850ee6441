"""One STOMP connection as its wire sees it: what comes in when, what goes out, when it ends.

Nothing here waits, and no connection has a task. A client is read no further while too much of
what it asked for is under way, or while it does not read what it was sent; one that lets topics
pile up is cut off. What its frames ask for is the business of ``stomp_connection.py``.
"""

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

from restmq.codecs.stomp_commands import Command, Disconnect
from restmq.codecs.stomp_encoder import HEART_BEAT
from restmq.codecs.stomp_heart_beat import HeartBeat, HeartBeatTimer
from restmq.codecs.stomp_session import ServerSession
from restmq.endpoints.stomp_access import Peer
from restmq.endpoints.stomp_answers import Answer, Answers
from restmq.endpoints.stomp_shared import Client, Shared
from restmq.endpoints.stomp_wire import Wire
from restmq.errors import AccessDenied, RateLimited, RestMQError
from restmq.log_lines import fields

logger = logging.getLogger(__name__)

HEART_BEAT_OFFER: Final = HeartBeat(500, 500)
"""The shortest intervals that this server keeps and asks for, in milliseconds."""

CLOSE_SECONDS: Final = 5.0
"""How long a client may take to read an ERROR, before the connection is reset."""

UNREAD_SECONDS: Final = 60.0
"""How long a client with heart-beats may read nothing: nobody can tell then if it lives."""


class Line(Client):
    """What goes over the wire of one client."""

    __slots__ = (
        "_close_at",
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
        "_shared",
        "_timer",
        "log_id",
        "opened_at",
        "peer",
        "wire",
    )

    def __init__(
        self, shared: Shared, wire: Wire, peer: Peer, session_id: str, log_id: str
    ) -> None:
        super().__init__(shared.settings.stomp_prefetch)
        self._shared = shared
        self.wire = wire
        self.peer = peer
        self.log_id = log_id
        """What the log calls it; the id of the session is for its client alone."""
        self._loop = asyncio.get_running_loop()
        self.session = ServerSession(
            session_id, heart_beat=HEART_BEAT_OFFER, frame_limits=shared.frame_limits
        )
        self.answers = Answers(self._answer)
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._held_back: list[Command] | None = None
        """What came after a COMMIT that is still being checked."""
        self._timer: HeartBeatTimer | None = None
        self._is_flushing = self._is_paused = self._is_closed = False
        self._has_failed = False
        """Whether an ERROR waits for its turn; what else the client sends is ignored."""
        self._paused_at = 0.0
        self._is_reading = True
        self.opened_at = self._loop.time()
        self._close_at: float | None = self.opened_at + shared.settings.header_timeout_seconds
        shared.wheel.put(self, self._close_at)

    @abstractmethod
    def _perform(self, commands: Sequence[Command]) -> None:
        """Begin what the client asks for."""

    @abstractmethod
    def _settle_sent(self) -> None:
        """Take note that all is sent."""

    @abstractmethod
    def _give_up(self) -> None:
        """Give back what the client held: it gets nothing more."""

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
                self.wire.pause_reading()
        elif not self._is_paused and self.answers.has_room and self._held_back is None:
            self._is_reading = True
            if self._timer is not None:  # its heart-beats may lie in the kernel
                self._timer.note_received(self._loop.time())
            self.wire.resume_reading()

    def tick(self, now: float) -> float | None:
        """Do what is due; the wheel calls this."""
        if self._close_at is not None:
            if now >= self._close_at:
                self.wire.abort()
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
                self.wire.abort()
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
        self.wire.write(out[0] if len(out) == 1 else b"".join(out))
        if self._timer is not None:
            self._timer.note_sent(self._loop.time())
        if not self._is_paused:
            self._settle_sent()

    def write_topic(self, data: bytes) -> None:
        """Send a message of a topic, unless the client has too much unread: then cut it off."""
        if self.wire.unsent_bytes + self._out_bytes > self._shared.settings.outbox_bytes:
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
        if isinstance(error, AccessDenied | RateLimited):
            self.note_refusal(str(error))
        self.refuse(str(error), receipt_id=receipt_id, code=error.code)

    def note_refusal(self, reason: str) -> None:
        """Log why the client is refused."""
        address = self.peer.address
        logger.info("STOMP client at %s refused: %s", address, reason, extra=self.log_fields)

    @property
    def log_fields(self) -> dict[str, Mapping[str, object]]:
        """Return what a log line about it takes as ``extra``."""
        key = self.peer.key
        if key is None:
            return fields(connection=self.log_id)
        return fields(connection=self.log_id, key=key.id)

    def refuse(
        self, message: str, detail: str = "", receipt_id: str | None = None, code: str = ""
    ) -> None:
        """Send an ERROR and close; ``code`` is the word that the error has everywhere."""
        if not self._is_closed:
            headers = {"code": code} if code else None
            frame = self.session.refuse(
                message, detail=detail, receipt_id=receipt_id, headers=headers
            )
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
        self.wire.close()

    def _leave(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.answers.clear()
            self.turns.clear()
            self._give_up()
