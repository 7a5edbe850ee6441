"""A worker: takes leased messages from a stream, does something with each, and settles them.

One thread reads the stream, one extends leases, so many others do the work, and the main thread
waits for what ends it: a signal, an error, or enough messages. What was not settled goes back to
the queue when the stream is closed, which therefore comes last.
"""

import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from restmq.cli.common import say
from restmq.cli.held import Delivery, HeldLeases
from restmq.errors import RateLimited, RestMQError, StaleReceipt, Unavailable
from restmq.http_client import HttpClient, one_line
from restmq.http_leases import Settler, queue_lease_seconds
from restmq.http_stream import LeaseTerms, MessageStream

SETTLE_SECONDS = 10.0
"""How long a server that is away is asked again to settle a lease."""

SETTLE_PAUSE_SECONDS = 0.25
CUT_SECONDS = 2.0
"""What is cut short may take so long to end by itself."""

LEAVE_SECONDS = 5.0


class Work(Protocol):
    """What is done with each message, on several threads at once."""

    def do(self, settler: Settler, delivery: Delivery) -> bool:
        """Do it, and return whether the message is done; a failure is told here."""

    def cut(self, force: bool) -> None:
        """Have what is being done end soon; ``force`` when it did not."""


class _Event(Enum):
    STOP = auto()
    JOB_ENDED = auto()


@dataclass
class Worker:
    """Works until a signal, an error, or ``count`` messages, then finishes what it began.

    ``jobs_count`` messages at once. One that failed goes back after ``retry_delay_seconds``.
    After a signal, work may take ``grace_seconds`` to finish; a second signal cuts that short.
    """

    stream: MessageStream
    terms: LeaseTerms
    work: Work
    jobs_count: int
    count: int | None
    retry_delay_seconds: float
    grace_seconds: float
    _events: "queue.SimpleQueue[_Event | Exception]" = field(
        default_factory=queue.SimpleQueue, init=False
    )
    _held: HeldLeases = field(init=False)
    _counting: threading.Lock = field(default_factory=threading.Lock, init=False)
    _begun_count: int = field(default=0, init=False)
    _running_count: int = field(default=0, init=False)
    _cut: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        """Hold nothing yet."""
        self._held = HeldLeases(self.terms.prefetch, lambda: self.stream.connections_count)

    def run(self) -> None:
        """Work; raises what ended it, if that was an error. Only for the main thread."""
        # A daemon, since nothing can wake it while it connects to a server that does not answer.
        reader = threading.Thread(target=self._read, name="stream", daemon=True)
        keeper = threading.Thread(target=self._keep, name="leases", daemon=True)
        jobs = [threading.Thread(target=self._job, name=f"job {n}") for n in range(self.jobs_count)]
        self._running_count = len(jobs)
        failure: Exception | None = None
        with _signals(self._stop):
            for thread in (reader, keeper, *jobs):
                thread.start()
            while self._running_count and failure is None:
                event = self._events.get()
                if isinstance(event, Exception):
                    failure = event
                elif event is _Event.STOP:
                    break
                else:
                    self._running_count -= 1
            self._drain()
        for job in jobs:
            job.join()
        self._held.close()
        self.stream.stop()
        for thread in (reader, keeper):
            thread.join(LEAVE_SECONDS)
        if failure is not None:
            raise failure

    def _stop(self) -> None:
        # May run inside of a signal handler, where only this queue is safe to use.
        self._events.put(_Event.STOP)

    def _read(self) -> None:
        connection = 0
        lease_seconds = 0.0
        try:
            for message in self.stream.messages():
                if connection != self.stream.connections_count:
                    connection = self.stream.connections_count
                    lease_seconds = self._lease_seconds()
                self._held.put(Delivery(message, connection), lease_seconds)
            self._stop()
        except Exception as error:
            self._events.put(error)

    def _lease_seconds(self) -> float:
        """How long this connection leases: as it was told to, or as the queue says."""
        if self.terms.seconds is not None:
            return self.terms.seconds
        with HttpClient(self.stream.client.address) as client:
            return queue_lease_seconds(client, self.stream.queue)

    def _keep(self) -> None:
        try:
            with HttpClient(self.stream.client.address) as client:
                self._held.keep(Settler(client))
        except Exception as error:
            self._events.put(error)

    def _job(self) -> None:
        try:
            with HttpClient(self.stream.client.address) as client:
                settler = Settler(client)
                while (delivery := self._begin(settler)) is not None:
                    try:
                        is_done = self.work.do(settler, delivery)
                    finally:
                        self._held.end(delivery)
                    self._settle(settler, delivery, is_done)
        except Exception as error:
            self._events.put(error)
        finally:
            self._events.put(_Event.JOB_ENDED)

    def _begin(self, settler: Settler) -> Delivery | None:
        delivery = self._held.begin(settler)
        if delivery is None or self.count is None:
            return delivery
        with self._counting:
            # Others may have begun the last one while this one was looked at.
            is_wanted = self._begun_count < self.count
            self._begun_count += is_wanted
            if self._begun_count >= self.count:
                self._held.begin_no_more()
        if not is_wanted:
            self._held.end(delivery)
        return delivery if is_wanted else None

    def _settle(self, settler: Settler, delivery: Delivery, is_done: bool) -> None:
        if not is_done and self._cut.is_set():
            return  # it did not fail; the end of the stream gives it back
        receipt = delivery.receipt
        try:
            if is_done:
                self._patiently(lambda: _ack(settler, receipt))
            else:
                self._patiently(lambda: settler.release(receipt, self.retry_delay_seconds))
        except (StaleReceipt, Unavailable) as error:
            what = "was done, but is delivered again" if is_done else "was not given back"
            say(f"{one_line(delivery.key)} {what}, unless it was settled already: {error}")

    def _patiently(self, settle: Callable[[], object]) -> None:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                settle()
                return
            except Unavailable as error:
                is_told = isinstance(error, RateLimited)
                pause_seconds = error.retry_after_seconds if is_told else SETTLE_PAUSE_SECONDS
                if time.monotonic() + pause_seconds > deadline or self._cut.wait(pause_seconds):
                    raise

    def _drain(self) -> None:
        """Begin nothing more, and see the end of what was begun, or cut it short."""
        self._held.begin_no_more()
        if self._jobs_end_within(self.grace_seconds):
            return
        say("cutting short what still runs; its messages go back to the queue")
        self._cut.set()
        self.work.cut(force=False)
        if not self._jobs_end_within(CUT_SECONDS):
            self.work.cut(force=True)

    def _jobs_end_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._running_count:
            try:
                event = self._events.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                return False
            if event is _Event.STOP:
                return False
            if isinstance(event, Exception):
                say(one_line(str(event)))
            else:
                self._running_count -= 1
        return True


def _ack(settler: Settler, receipt: str) -> None:
    (outcome,) = settler.ack([receipt])
    if isinstance(outcome, RestMQError):
        raise outcome


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` when the program is told to end."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    former = [signal.signal(number, lambda *_: stop()) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, former, strict=True):
            signal.signal(number, handler)
