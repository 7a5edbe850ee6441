"""The messages of one queue as they come, over as many connections as it takes."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from restmq.codecs.sse import EventParser
from restmq.errors import RateLimited, TooLarge, Unavailable
from restmq.http_client import Body, HttpClient, queue_path, read_json

MAX_STREAM_MESSAGE_BYTES = 256 * 1024 * 1024
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """How a stream leases: for how long, and how many unsettled messages it may hold.

    ``seconds`` of None: as long as the queue's ``lease_seconds`` says.
    """

    seconds: int | None
    prefetch: int


@dataclass
class MessageStream:
    """The messages of one queue, read by one thread; any thread may stop it.

    ``stream_format`` is ``sse`` or ``comet``. With ``follow`` it also waits for a server that is
    not there yet, and comes back when the server ends the stream. ``tell`` gets a line for
    people on each break; ``pause`` sleeps for so many seconds, if not until ``stop``. With
    ``lease`` messages are leased, not taken: it always comes back, and what a lost connection
    held has gone back to the queue, as ``connections_count`` lets a worker see.
    """

    client: HttpClient
    queue: str
    stream_format: str
    follow: bool
    tell: Callable[[str], None]
    pause: Callable[[float], object] | None = None
    lease: LeaseTerms | None = None
    connections_count: int = field(default=0, init=False)
    _stopped: threading.Event = field(default_factory=threading.Event, init=False)
    _body: Body | None = field(default=None, init=False)
    _last_event_id: str = field(default="", init=False)
    _first_pause_seconds: float = field(default=FIRST_PAUSE_SECONDS, init=False)

    def stop(self) -> None:
        """End ``messages`` soon, and its connection now."""
        self._stopped.set()
        if self._body is not None:
            self._body.shut()

    def messages(self) -> Iterator[dict[str, object]]:
        """Yield messages until the server ends the stream in good order, or ``stop``.

        After a break it connects again, with pauses that grow, and asks for what came meanwhile.
        Raises Unavailable when the first connection fails, and any other RestMQError whenever
        the server refuses.
        """
        pause = self.pause or self._stopped.wait
        pause_seconds = 0.0
        while not self._stopped.is_set():
            began = time.monotonic()
            told_seconds = 0.0
            try:
                for message in self._one_connection():
                    yield message
                    pause_seconds = 0.0
                if self._stopped.is_set():
                    return
                self.tell("the server ended the stream: the queue was purged, or it stops")
                if not (self.follow or self.lease):
                    return
            except Unavailable as error:
                if self._stopped.is_set():
                    return
                if not (self.connections_count or self.follow):
                    raise
                self.tell(str(error))
                if isinstance(error, RateLimited):
                    told_seconds = error.retry_after_seconds
            if time.monotonic() - began > LONGEST_PAUSE_SECONDS:
                pause_seconds = 0.0
            pause_seconds = max(2 * pause_seconds, self._first_pause_seconds)
            pause_seconds = min(pause_seconds, LONGEST_PAUSE_SECONDS)
            wait_seconds = max(pause_seconds, told_seconds)
            self.tell(f"connecting again in {wait_seconds:g} s")
            pause(wait_seconds)

    def _one_connection(self) -> Iterator[dict[str, object]]:
        is_sse = self.stream_format == "sse"
        headers = {"Accept": "text/event-stream" if is_sse else "text/plain"}
        if self.lease is None and self._last_event_id:
            headers["Last-Event-ID"] = self._last_event_id
        with self.client.stream(queue_path("/c/", self.queue), headers, self._query()) as body:
            self.connections_count += 1
            self._body = body
            if self._stopped.is_set():
                return
            for text in self._events(body) if is_sse else _lines(body):
                document = read_json(text, self.client.address.url, dict)
                if "value" in document:
                    if not is_sse:
                        self._last_event_id = str(document.get("key")).rpartition(":")[2]
                    yield document
                elif document.get("event") == "open":
                    position = document.get("position")
                    self._last_event_id = self._last_event_id or str(
                        position if position is not None else ""
                    )
                elif document.get("event") == "gap" or "from" in document:
                    gone = f"messages {document.get('from')} to {document.get('to')}"
                    self.tell(f"{gone} came meanwhile and are no longer kept")

    def _query(self) -> dict[str, object]:
        if self.lease is None:
            return {} if self.stream_format == "sse" else {"open": 1}
        # What is leased has its place in the queue; there is no position to resume from.
        query: dict[str, object] = {"ack": 1, "prefetch": self.lease.prefetch}
        if self.lease.seconds is not None:
            query["lease"] = self.lease.seconds
        return query

    def _events(self, body: Body) -> Iterator[bytes]:
        parser = EventParser(self._last_event_id, MAX_STREAM_MESSAGE_BYTES)
        for chunk in body:
            events = parser.receive_data(chunk)
            self._last_event_id = parser.last_event_id
            if parser.retry_milliseconds is not None:
                self._first_pause_seconds = parser.retry_milliseconds / 1000
            yield from (each.data.encode() for each in events if each.event in ("message", "gap"))


def _lines(body: Body) -> Iterator[bytes]:
    """The lines of a comet stream that are not empty, without their ends."""
    partial: list[bytes] = []
    for chunk in body:
        first, *others = chunk.split(b"\n")
        partial.append(first)
        for other in others:
            if line := b"".join(partial).strip():
                yield line
            partial = [other]
        if sum(map(len, partial)) > MAX_STREAM_MESSAGE_BYTES:
            raise TooLarge(f"a line of the stream is over {MAX_STREAM_MESSAGE_BYTES} bytes")
