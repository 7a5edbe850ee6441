"""STOMP heart-beats: what is agreed on, and when something is due."""

import pytest

from restmq.codecs.stomp import StompError
from restmq.codecs.stomp_heart_beat import (
    HeartBeat,
    HeartBeatIntervals,
    HeartBeatTimer,
    agree_on_heart_beats,
    parse_heart_beat,
)


@pytest.mark.parametrize(
    ("value", "heart_beat"),
    [
        (None, HeartBeat(0, 0)),
        ("0,0", HeartBeat(0, 0)),
        ("500,1000", HeartBeat(500, 1000)),
        ("2147483647,9999999999", HeartBeat(2147483647, 9999999999)),
    ],
)
def test_a_header_is_two_numbers(value: str | None, heart_beat: HeartBeat) -> None:
    """No header is the same as two zeros, and what is read can be written again."""
    assert parse_heart_beat(value) == heart_beat
    assert value in (None, str(heart_beat))


@pytest.mark.parametrize(
    "value", ["", "5", "5,", ",5", "5,5,5", "-1,5", "a,b", "1.5,2", " 5,5", "5;5", "5,1" + "0" * 10]
)
def test_a_malformed_header_is_refused(value: str) -> None:
    with pytest.raises(StompError, match="heart-beat"):
        parse_heart_beat(value)


@pytest.mark.parametrize(
    ("own", "peer", "intervals"),
    [
        ((0, 0), (500, 500), (0, 0)),
        ((500, 500), (0, 0), (0, 0)),
        ((1000, 2000), (300, 400), (2, 1)),
        ((1000, 2000), (3000, 4000), (3, 4)),
        ((1000, 0), (3000, 4000), (0, 4)),
        ((0, 1000), (3000, 4000), (3, 0)),
        ((1000, 1000), (0, 4000), (0, 4)),
        ((1000, 1000), (250, 0), (1, 0)),
    ],
)
def test_each_direction_takes_the_larger_interval_or_none(
    own: tuple[int, int], peer: tuple[int, int], intervals: tuple[float, float]
) -> None:
    """Receiving needs the peer to send and this side to want it; sending likewise."""
    assert agree_on_heart_beats(HeartBeat(*own), HeartBeat(*peer)) == intervals


def test_a_beat_is_due_within_the_interval_after_the_last_octet() -> None:
    timer = HeartBeatTimer(HeartBeatIntervals(send_seconds=4), now_seconds=100)
    assert timer.next_deadline_seconds() == 103
    assert not timer.is_send_due(102.9)
    assert timer.is_send_due(103)
    timer.note_sent(103)
    assert not timer.is_send_due(105)
    assert timer.next_deadline_seconds() == 106
    assert not timer.is_peer_silent(1e9)


def test_a_peer_is_silent_after_two_intervals() -> None:
    timer = HeartBeatTimer(HeartBeatIntervals(receive_seconds=4), now_seconds=100)
    assert timer.next_deadline_seconds() == 108
    timer.note_received(107)
    assert timer.next_deadline_seconds() == 115
    assert not timer.is_peer_silent(114.9)
    assert timer.is_peer_silent(115)
    assert not timer.is_send_due(1e9)


def test_the_earlier_of_the_two_comes_first() -> None:
    timer = HeartBeatTimer(HeartBeatIntervals(receive_seconds=1, send_seconds=4), now_seconds=100)
    assert timer.next_deadline_seconds() == 102
    timer.note_received(102)
    assert timer.next_deadline_seconds() == 103


def test_without_heart_beats_nothing_is_ever_due() -> None:
    timer = HeartBeatTimer(HeartBeatIntervals(), now_seconds=100)
    assert timer.next_deadline_seconds() is None
    assert not timer.is_send_due(1e9)
    assert not timer.is_peer_silent(1e9)
