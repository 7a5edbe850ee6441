"""The live screen of ``restmq top``: asks the server in the background, and listens to the keys."""

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.live import Live

from restmq.cli.top.drawing import View, draw_screen, visible_rows
from restmq.cli.top.figures import (
    ORDERS,
    History,
    QueueFigures,
    Snapshot,
    pause_after,
    take_snapshot,
)
from restmq.errors import RestMQError
from restmq.http_client import HttpClient

REDRAW_SECONDS = 1.0
LEAVE_SECONDS = 1.0
READ_BYTES = 64

_SORT_KEYS = {"r": "rate", "d": "depth", "a": "age", "x": "dead", "c": "consumers", "n": "name"}
_STEPS = {"\x1b[A": -1, "\x1bOA": -1, "k": -1, "\x1b[B": 1, "\x1bOB": 1, "j": 1}
_PAGES = {"\x1b[5~": -1, "\x1b[6~": 1}
_HOME = ("\x1b[H", "\x1bOH", "\x1b[1~", "g")
_QUIT = ("q", "Q", "\x1b", "\x03", "\x04")


class Feed:
    """Asks the server again and again on a thread of its own; wakes the reader by a pipe."""

    def __init__(
        self, client: HttpClient, pattern: str, max_queues: int, interval_seconds: float
    ) -> None:
        self._client = client
        self._pattern = pattern
        self._max_queues = max_queues
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._latest: Snapshot | None = None
        self._trouble = ""
        self.wake_descriptor, self._write_descriptor = os.pipe()
        os.set_blocking(self._write_descriptor, False)
        # An answer that hangs must not keep the program from leaving.
        self._thread = threading.Thread(target=self._run, daemon=True, name="top")

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(LEAVE_SECONDS)
        if not self._thread.is_alive():
            os.close(self.wake_descriptor)
            os.close(self._write_descriptor)

    def wake(self) -> None:
        """Wake the reader; what is in the pipe says nothing."""
        with contextlib.suppress(BlockingIOError):  # it is awake as it is
            os.write(self._write_descriptor, b".")

    def take(self) -> tuple[Snapshot | None, str]:
        """Return what has come since the last call, if anything, and the trouble there is."""
        with self._lock:
            latest, self._latest = self._latest, None
            return latest, self._trouble

    def _run(self) -> None:
        pause_seconds = self._interval_seconds
        while not self._stopping.wait(pause_seconds):
            start = time.monotonic()
            snapshot, trouble = None, ""
            try:
                snapshot = take_snapshot(self._client, self._pattern, self._max_queues)
            except RestMQError as error:
                trouble = str(error)
            except Exception as error:  # the screen says so, and this goes on asking
                trouble = f"{type(error).__name__}: {error}"
            pause_seconds = pause_after(self._interval_seconds, time.monotonic() - start)
            with self._lock:
                self._latest, self._trouble = snapshot or self._latest, trouble
            self.wake()


class Screen:
    """What is seen, and what the keys change in it."""

    def __init__(self, view: View, snapshot: Snapshot) -> None:
        self.view = view
        self.history = History()
        self._console = Console()
        self._snapshot = snapshot
        self._sorted: Sequence[QueueFigures] = ()
        self.show(snapshot)

    def show(self, snapshot: Snapshot) -> None:
        """Take in a snapshot; while paused it only counts for the charts."""
        self.history.add(snapshot)
        if not self.view.is_paused:
            self._snapshot = snapshot
            self._sort()

    def _sort(self) -> None:
        self._sorted = sorted(self._snapshot.queues, key=ORDERS[self.view.order])

    def press(self, key: str) -> bool:
        """Do what a key is for; returns False when it is to quit."""
        view = self.view
        if key in _QUIT:
            return False
        page = max(1, visible_rows(self._console.size.height) - 1)
        if key in _SORT_KEYS:
            view.order, view.offset = _SORT_KEYS[key], 0
            self._sort()
        elif key == " ":
            view.is_paused = not view.is_paused
        elif key in _STEPS:
            view.offset += _STEPS[key]
        elif key in _PAGES:
            view.offset += _PAGES[key] * page
        elif key in _HOME:
            view.offset = 0
        view.offset = max(0, min(view.offset, len(self._sorted) - 1))
        return True

    def run(self, feed: Feed) -> None:
        """Draw and listen until a key says to quit; the terminal is then as it was before."""
        keyboard = sys.stdin.fileno()
        with (
            _every_key(keyboard),
            _told_of_signals(feed),
            Live(console=self._console, screen=True, auto_refresh=False) as live,
        ):
            while True:
                snapshot, self.view.trouble = feed.take()
                if snapshot is not None:
                    self.show(snapshot)
                drawn = draw_screen(
                    self._console, self._snapshot, self._sorted, self.history, self.view
                )
                live.update(drawn, refresh=True)
                ready, _, _ = select.select(
                    [keyboard, feed.wake_descriptor], [], [], REDRAW_SECONDS
                )
                if feed.wake_descriptor in ready:
                    os.read(feed.wake_descriptor, READ_BYTES)
                if keyboard in ready:
                    typed = os.read(keyboard, READ_BYTES).decode("utf-8", "replace")
                    if not typed or not all(map(self.press, split_keys(typed))):
                        return


def split_keys(typed: str) -> Iterator[str]:
    """Take apart what came from the keyboard at once: single keys, and sequences of arrows."""
    while typed:
        length = 1
        if typed.startswith(("\x1b[", "\x1bO")) and len(typed) > 2:
            length = 3
            while (
                length < len(typed) and not typed[length - 1].isalpha() and typed[length - 1] != "~"
            ):
                length += 1
        yield typed[:length]
        typed = typed[length:]


@contextlib.contextmanager
def _every_key(descriptor: int) -> Iterator[None]:
    """Have the terminal hand over each key at once, and not show it."""
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _told_of_signals(feed: Feed) -> Iterator[None]:
    """Redraw when the size of the terminal changes; leave in good order on SIGTERM."""

    def redraw(_number: int, _frame: FrameType | None) -> None:
        feed.wake()

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before = {
        signal.SIGWINCH: signal.signal(signal.SIGWINCH, redraw),
        signal.SIGTERM: signal.signal(signal.SIGTERM, leave),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
