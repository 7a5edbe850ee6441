"""STOMP heart-beats: what both sides agree on, and when something is due.

Times are seconds on any one clock that never goes back; the caller reads it.
"""

import re
from typing import Final, NamedTuple

from restmq.codecs.stomp import StompError, excerpt

_HEART_BEAT: Final = re.compile(r"([0-9]{1,10}),([0-9]{1,10})")
_SEND_FRACTION: Final = 0.75
"""When to send, as a part of the interval, so that a beat on its way is still in time."""

_SILENCE_FACTOR: Final = 2
"""How many intervals without an octet mean that the peer is gone."""


class HeartBeat(NamedTuple):
    """The ``heart-beat`` header of one side, in milliseconds; 0 is none.

    ``send_milliseconds`` is the shortest interval it guarantees, ``receive_milliseconds`` the one
    it would like to get.
    """

    send_milliseconds: int = 0
    receive_milliseconds: int = 0

    def __str__(self) -> str:
        return f"{self.send_milliseconds},{self.receive_milliseconds}"


NO_HEART_BEAT: Final = HeartBeat()


class HeartBeatIntervals(NamedTuple):
    """What was agreed on, in seconds, as this side sees it; 0 is none."""

    receive_seconds: float = 0.0
    send_seconds: float = 0.0


def parse_heart_beat(value: str | None) -> HeartBeat:
    """Read a ``heart-beat`` header; None, which is no header, is ``0,0``.

    Raises StompError if it is not two numbers of at most ten digits with a comma between them.
    """
    if value is None:
        return NO_HEART_BEAT
    match = _HEART_BEAT.fullmatch(value)
    if match is None:
        raise StompError(f"heart-beat {excerpt(value)} is not two numbers of milliseconds")
    return HeartBeat(int(match[1]), int(match[2]))


def agree_on_heart_beats(own: HeartBeat, peer: HeartBeat) -> HeartBeatIntervals:
    """Return the interval of each direction: the larger one, or none if either side has none."""
    return HeartBeatIntervals(
        receive_seconds=_agree(peer.send_milliseconds, own.receive_milliseconds),
        send_seconds=_agree(own.send_milliseconds, peer.receive_milliseconds),
    )


def _agree(sender_milliseconds: int, receiver_milliseconds: int) -> float:
    if not sender_milliseconds or not receiver_milliseconds:
        return 0.0
    return max(sender_milliseconds, receiver_milliseconds) / 1000


class HeartBeatTimer:
    """Knows when to send the next heart-beat, and when the peer has been silent for too long.

    Tell it of every octet in either direction. A beat is due after three quarters of the
    interval; a peer is silent after twice its interval.
    """

    def __init__(self, intervals: HeartBeatIntervals, now_seconds: float) -> None:
        self._receive_window_seconds = intervals.receive_seconds * _SILENCE_FACTOR
        self._send_window_seconds = intervals.send_seconds * _SEND_FRACTION
        self._received_at_seconds = now_seconds
        self._sent_at_seconds = now_seconds

    def note_received(self, now_seconds: float) -> None:
        """Note that the peer sent something, be it only an LF."""
        self._received_at_seconds = now_seconds

    def note_sent(self, now_seconds: float) -> None:
        """Note that something was sent to the peer."""
        self._sent_at_seconds = now_seconds

    def is_send_due(self, now_seconds: float) -> bool:
        """Return whether an LF has to be sent now."""
        window = self._send_window_seconds
        return window > 0 and now_seconds >= self._sent_at_seconds + window

    def is_peer_silent(self, now_seconds: float) -> bool:
        """Return whether to close because nothing came for too long."""
        window = self._receive_window_seconds
        return window > 0 and now_seconds >= self._received_at_seconds + window

    def next_deadline_seconds(self) -> float | None:
        """Return when one of the two may next become true, or None if that is never."""
        deadlines = []
        if self._send_window_seconds > 0:
            deadlines.append(self._sent_at_seconds + self._send_window_seconds)
        if self._receive_window_seconds > 0:
            deadlines.append(self._received_at_seconds + self._receive_window_seconds)
        return min(deadlines, default=None)
