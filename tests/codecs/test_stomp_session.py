"""STOMP sessions: what a client may ask, in which order, and what the server makes of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restmq.codecs.stomp import VERSIONS, Frame, FrameLimits, FrameParser, Version
from restmq.codecs.stomp_commands import (
    REQUIRED_HEADERS,
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
from restmq.codecs.stomp_encoder import encode_frame
from restmq.codecs.stomp_heart_beat import HeartBeat, HeartBeatIntervals
from restmq.codecs.stomp_session import ServerSession, SessionLimits

SESSION_ID = "0123456789abcdef0123456789abcdef"
LIMITS = SessionLimits(
    max_subscriptions=2, max_transactions=2, max_held_frames=3, max_held_bytes=4000
)


def connected(version: Version = "1.2", limits: SessionLimits = LIMITS) -> ServerSession:
    session = ServerSession(SESSION_ID, limits=limits)
    (command,) = session.receive_data(b"CONNECT\naccept-version:%b\n\n\0" % version.encode())
    assert isinstance(command, Connect)
    return session


def ask(session: ServerSession, command: str, body: bytes = b"", **headers: str) -> Command:
    """Send one frame, with ``_`` for ``-`` in the names of headers, and return its command."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    (answer,) = session.receive_data(encode_frame(command, names, body, version=session.version))
    return answer


def error_of(session: ServerSession, command: Command) -> Frame:
    """Check that this is a refusal, after which nothing is heard, and return its ERROR."""
    assert isinstance(command, Refuse)
    assert session.is_closed
    assert session.receive_data(b"SEND\ndestination:a\n\n\0FOO\n\n\0") == []
    (frame,) = FrameParser(version=session.version).receive_data(command.error_frame)
    assert frame.command == "ERROR"
    assert frame.headers["message"] == command.message
    assert frame.headers["content-type"] == "text/plain"
    assert frame.body
    return frame


def refusal(session: ServerSession, command: str, body: bytes = b"", **headers: str) -> str:
    """Send one frame that asks for a receipt, and return why it is refused."""
    answer = ask(session, command, body, receipt="r9", **headers)
    frame = error_of(session, answer)
    assert frame.headers["receipt-id"] == "r9"
    return frame.headers["message"]


def subscribe(session: ServerSession, **headers: str) -> Subscription:
    answer = ask(session, "SUBSCRIBE", **{"destination": "/queue/a", "id": "0", **headers})
    assert isinstance(answer, Subscribe)
    return answer.subscription


def send(destination: str = "/queue/a", body: bytes = b"") -> Send:
    return Send(destination, body, {}, None)


# Connecting


@pytest.mark.parametrize("word", [b"CONNECT", b"STOMP"])
@pytest.mark.parametrize(
    ("headers", "version", "answer"),
    [
        (b"", "1.0", {}),
        (b"heart-beat:5,5\n", "1.0", {}),
        (b"heart-beat:nonsense\n", "1.0", {}),
        (b"accept-version:1.0\n", "1.0", {"version": "1.0"}),
        (b"accept-version:1.0,1.1\n", "1.1", {"version": "1.1", "heart-beat": "100,200"}),
        (b"accept-version:1.2,9\n", "1.2", {"version": "1.2", "heart-beat": "100,200"}),
    ],
)
def test_the_answer_to_connect(
    word: bytes, headers: bytes, version: Version, answer: dict[str, str]
) -> None:
    """Always the session; the version if the client asked; heart-beats from 1.1 on."""
    session = ServerSession(SESSION_ID, heart_beat=HeartBeat(100, 200))
    (command,) = session.receive_data(word + b"\n" + headers + b"\n\0")
    assert isinstance(command, Connect)
    assert command.version == session.version == version
    (frame,) = FrameParser().receive_data(session.accept("RestMQ/1"))
    assert frame == Frame("CONNECTED", {"session": SESSION_ID, "server": "RestMQ/1", **answer}, b"")


def test_connect_tells_who_wants_in() -> None:
    """Credentials are handed on, a missing host is no fault, and no passcode gets into a log."""
    session = ServerSession(SESSION_ID, heart_beat=HeartBeat(1000, 2000))
    (command,) = session.receive_data(
        b"STOMP\naccept-version:1.2\nlogin:me\npasscode:s3:cret\\\nheart-beat:500,400\n\n\0"
    )
    assert command == Connect(
        version="1.2",
        host=None,
        login="me",
        passcode="s3:cret\\",
        intervals=HeartBeatIntervals(receive_seconds=2, send_seconds=1),
    )
    assert "cret" not in repr(command)


def test_no_common_version_is_refused_with_those_there_are() -> None:
    session = ServerSession(SESSION_ID)
    (command,) = session.receive_data(b"CONNECT\naccept-version:9.9\n\n\0")
    assert error_of(session, command).headers["version"] == "1.0,1.1,1.2"


def test_a_malformed_heart_beat_is_refused() -> None:
    session = ServerSession(SESSION_ID)
    (command,) = session.receive_data(b"CONNECT\naccept-version:1.1\nheart-beat:5\n\n\0")
    assert "heart-beat" in error_of(session, command).headers["message"]


@pytest.mark.parametrize("command", ["SEND", "DISCONNECT", "MESSAGE"])
def test_the_first_frame_has_to_connect(command: str) -> None:
    assert "must be CONNECT" in refusal(ServerSession(SESSION_ID), command, destination="a")


@pytest.mark.parametrize("command", ["CONNECT", "STOMP"])
def test_a_second_connect_is_refused(command: str) -> None:
    assert "open already" in refusal(connected(), command)


def test_frames_may_follow_connect_at_once() -> None:
    """They are read in the version agreed on, and a fault after them comes last."""
    session = ServerSession(SESSION_ID)
    connect, first, second, refused = session.receive_data(
        b"CONNECT\naccept-version:1.2\n\n\0\nSEND\ndestination:a\nx:\\c\n\n1\0\n"
        b"SEND\ndestination:a\n\n2\0FOO\nreceipt:r\n\n\0SEND\ndestination:a\n\n3\0"
    )
    assert isinstance(connect, Connect)
    assert first == Send("a", b"1", {"x": ":"}, None)
    assert second == send("a", b"2")
    assert error_of(session, refused).headers["receipt-id"] == "r"


# Headers and commands


@pytest.mark.parametrize(
    ("version", "command", "name"),
    [
        (version, command, name)
        for version in VERSIONS
        for command, groups in REQUIRED_HEADERS[version].items()
        for (name, *_) in groups
    ],
)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_header_is_named(
    version: Version, command: str, name: str, value: str | None
) -> None:
    """A header without a value is as good as none."""
    session = connected(version)
    ask(session, "SUBSCRIBE", destination="/queue/a", id="0")
    needed = {group[0]: "1" for group in REQUIRED_HEADERS[version][command]}
    del needed[name]
    if value is not None:
        needed[name] = value
    needed = {key.replace("-", "_"): text for key, text in needed.items()}
    assert f"{command} needs the header {name}" in refusal(session, command, **needed)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("command", ["MESSAGE", "CONNECTED", "RECEIPT", "ERROR", "FOO"])
def test_what_is_no_command_of_a_client_is_refused(version: Version, command: str) -> None:
    assert command in refusal(connected(version), command)


def test_nack_is_unknown_in_1_0() -> None:
    assert "NACK is no command" in refusal(connected("1.0"), "NACK", message_id="1")


def test_a_receipt_is_handed_on_with_every_command() -> None:
    session = connected()
    subscription = subscribe(session)
    number = str(session.start_delivery(subscription, needs_ack=True))
    answers = [
        ask(session, "SEND", destination="a", receipt="1"),
        ask(session, "SUBSCRIBE", id="1", destination="b", receipt="2"),
        ask(session, "ACK", id=number, receipt="3"),
        ask(session, "NACK", id=number, receipt="4"),
        ask(session, "UNSUBSCRIBE", id="1", receipt="5"),
        ask(session, "BEGIN", transaction="t", receipt="6"),
        ask(session, "SEND", destination="a", transaction="t", receipt="7"),
        ask(session, "COMMIT", transaction="t", receipt="8"),
        ask(session, "BEGIN", transaction="t", receipt="9"),
        ask(session, "ABORT", transaction="t", receipt=""),
        ask(session, "DISCONNECT", receipt="11"),
    ]
    receipts = [getattr(answer, "receipt_id", None) for answer in answers]
    assert receipts == ["1", "2", "3", "4", "5", "6", "7", "8", "9", "", "11"]
    assert session.receipt("a") == b"RECEIPT\nreceipt-id:a\n\n\0"


def test_send_keeps_the_headers_of_the_user() -> None:
    """What speaks to or for the server is no part of them."""
    answer = ask(
        connected(),
        "SEND",
        b"a\0b",
        destination="/queue/a",
        content_type="text/x",
        reply_to="/queue/r",
        correlation_id="7",
        message_id="forged",
        ack="forged",
        subscription="forged",
        redelivered="true",
        receipt="r",
    )
    assert answer == Send(
        "/queue/a", b"a\0b", {"reply-to": "/queue/r", "correlation-id": "7"}, "text/x", "r"
    )


@pytest.mark.parametrize("command", ["SEND", "SUBSCRIBE"])
@pytest.mark.parametrize("destination", ["a\nb", "a\x7f", "\x01", "\x85", "x" * 256, "ä" * 128])
def test_a_destination_that_cannot_be_is_refused(command: str, destination: str) -> None:
    assert "a destination" in refusal(connected(), command, id="0", destination=destination)


@pytest.mark.parametrize("destination", ["d1", "/topic/foo.>", "x" * 255, "ä ö,:\\", "ä\u00a0b"])
def test_any_other_destination_is_taken(destination: str) -> None:
    assert ask(connected(), "SEND", destination=destination) == send(destination)


def test_disconnect_ends_the_session() -> None:
    session = connected()
    data = b"DISCONNECT\nreceipt:bye\n\n\0SEND\ndestination:a\n\n\0FOO"
    assert session.receive_data(data) == [Disconnect("bye")]
    assert session.is_closed
    assert session.receive_data(b"FOO\n\n\0") == []


def test_the_server_can_refuse_what_it_cannot_do() -> None:
    session = connected()
    frame = session.refuse("no such thing", detail="because", receipt_id="r")
    assert b"message:no such thing\n" in frame
    assert b"receipt-id:r\n" in frame
    assert frame.endswith(b"\n\nbecause\0")
    assert session.receive_data(b"ACK\n\n\0") == []


# Subscriptions


def test_a_subscription_as_asked_for() -> None:
    session = connected()
    first = subscribe(session)
    assert (first.subscription_id, first.destination) == ("0", "/queue/a")
    assert (first.ack, first.prefetch_count) == ("auto", None)
    second = subscribe(session, id="1", ack="client-individual", prefetch_count="20", x="y")
    assert (second.ack, second.prefetch_count) == ("client-individual", 20)
    assert second.headers["x"] == "y"
    assert session.subscriptions == (first, second)


@pytest.mark.parametrize(
    ("headers", "fault"),
    [
        ({"ack": "none"}, "ack 'none'"),
        ({"ack": ""}, "ack ''"),
        ({"prefetch_count": "0"}, "prefetch-count '0'"),
        ({"prefetch_count": "-1"}, "prefetch-count"),
        ({"prefetch_count": "x"}, "prefetch-count"),
        ({"prefetch_count": "1" * 10}, "prefetch-count"),
        ({"id": "x" * 256}, "the id is over 255 bytes"),
        ({"id": "0"}, "subscription '0' already"),
    ],
)
def test_a_bad_subscription_is_refused(headers: dict[str, str], fault: str) -> None:
    session = connected()
    subscribe(session)
    headers = {"id": "1", "destination": "/queue/b", **headers}
    assert fault in refusal(session, "SUBSCRIBE", **headers)


def test_subscriptions_have_a_limit() -> None:
    """One that ended makes room for another."""
    session = connected()
    subscribe(session, id="0")
    subscribe(session, id="1")
    ask(session, "UNSUBSCRIBE", id="0")
    subscribe(session, id="0")
    assert "more than 2 subscriptions" in refusal(session, "SUBSCRIBE", id="2", destination="a")


@pytest.mark.parametrize("version", VERSIONS)
def test_unsubscribing_returns_what_was_not_settled(version: Version) -> None:
    """The deliveries come oldest first, and acknowledging them later does nothing."""
    session = connected(version)
    subscription = subscribe(session, ack="client")
    other = subscribe(session, id="1")
    numbers = [session.start_delivery(subscription, needs_ack=True) for _ in range(3)]
    session.start_delivery(other, needs_ack=True)
    session.settle(numbers[1])
    answer = ask(session, "UNSUBSCRIBE", id="0")
    assert answer == Unsubscribe(subscription, (numbers[0], numbers[2]))
    assert session.subscriptions == (other,)
    assert ask(session, "ACK", id="1", message_id="1", subscription="0") == Ack(())
    assert "no subscription '0'" in refusal(session, "UNSUBSCRIBE", id="0")


def test_1_0_may_go_by_destination() -> None:
    """Without an id one destination has one subscription; by id it may have more."""
    session = connected("1.0", SessionLimits())
    answer = ask(session, "SUBSCRIBE", destination="/queue/a", ack="client")
    assert isinstance(answer, Subscribe)
    plain = answer.subscription
    assert plain.subscription_id is None
    named = subscribe(session, id="7")
    delivery = session.start_delivery(plain, needs_ack=True)
    assert ask(session, "ACK", message_id=str(delivery)) == Ack((delivery,))
    assert ask(session, "UNSUBSCRIBE", destination="/queue/a") == Unsubscribe(plain, ())
    assert ask(session, "UNSUBSCRIBE", destination="/queue/a") == Unsubscribe(named, ())
    assert "no subscription to" in refusal(session, "UNSUBSCRIBE", destination="/queue/a")


def test_1_0_refuses_the_same_destination_twice() -> None:
    session = connected("1.0")
    ask(session, "SUBSCRIBE", destination="/queue/a")
    assert "without an id already" in refusal(session, "SUBSCRIBE", destination="/queue/a")


# Acknowledgements


@pytest.mark.parametrize("kind", [Ack, Nack])
def test_client_individual_covers_one_delivery(kind: type[Ack] | type[Nack]) -> None:
    """A delivery is settled once; what was settled, or never had to be, is ignored."""
    session = connected()
    subscription = subscribe(session, ack="client-individual")
    for _ in range(3):
        session.start_delivery(subscription, needs_ack=True)
    session.start_delivery(subscription, needs_ack=False)
    assert ask(session, kind.__name__.upper(), id="2") == kind((2,))
    assert ask(session, kind.__name__.upper(), id="2") == kind(())
    session.settle(3)
    session.settle(3)
    assert ask(session, kind.__name__.upper(), id="3") == kind(())
    assert ask(session, kind.__name__.upper(), id="4") == kind(())
    assert tuple(subscription.unsettled) == (1,)


@pytest.mark.parametrize("kind", [Ack, Nack])
def test_client_covers_all_before_it_of_its_subscription(kind: type[Ack] | type[Nack]) -> None:
    session = connected()
    first = subscribe(session, ack="client")
    second = subscribe(session, id="1", ack="client")
    for subscription in (first, second, first, first, first):
        session.start_delivery(subscription, needs_ack=True)
    session.settle(3)
    assert ask(session, kind.__name__.upper(), id="4") == kind((1, 4))
    assert tuple(first.unsettled) == (5,)
    assert tuple(second.unsettled) == (2,)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("number", ["2", "0", "01", "-1", "+1", "x", "1 1", "\u0661", "9" * 400])
def test_an_id_that_was_never_given_is_refused(version: Version, number: str) -> None:
    session = connected(version)
    session.start_delivery(subscribe(session), needs_ack=True)
    fault = refusal(session, "ACK", id=number, message_id=number, subscription="0")
    assert "was never given" in fault


def test_1_1_names_the_subscription_too() -> None:
    session = connected("1.1")
    session.start_delivery(subscribe(session, ack="client"), needs_ack=True)
    session.start_delivery(subscribe(session, id="1", ack="client"), needs_ack=True)
    assert ask(session, "ACK", message_id="1", subscription="0") == Ack((1,))
    assert "did not go to" in refusal(session, "NACK", message_id="2", subscription="0")


# Transactions


def test_commit_hands_out_what_was_held_in_order() -> None:
    """What an ACK covers is settled by COMMIT, and as of then."""
    session = connected()
    subscription = subscribe(session, ack="client")
    for _ in range(2):
        session.start_delivery(subscription, needs_ack=True)
    assert ask(session, "BEGIN", transaction="t") == Begin("t")
    assert ask(session, "SEND", b"1", destination="a", transaction="t") == Hold("t")
    assert ask(session, "ACK", id="2", transaction="t", receipt="r") == Hold("t", "r")
    assert ask(session, "SEND", b"2", destination="b", transaction="t") == Hold("t")
    assert tuple(subscription.unsettled) == (1, 2)
    session.settle(1)
    assert ask(session, "COMMIT", transaction="t", receipt="c") == Commit(
        "t", (send("a", b"1"), Ack((2,), "r"), send("b", b"2")), "c"
    )
    assert not subscription.unsettled
    assert ask(session, "BEGIN", transaction="t") == Begin("t")


def test_abort_leaves_deliveries_unsettled() -> None:
    session = connected()
    subscription = subscribe(session, ack="client")
    session.start_delivery(subscription, needs_ack=True)
    ask(session, "BEGIN", transaction="t")
    ask(session, "NACK", id="1", transaction="t")
    assert ask(session, "ABORT", transaction="t") == Abort("t")
    assert ask(session, "ACK", id="1") == Ack((1,))


def test_transactions_are_apart() -> None:
    session = connected()
    ask(session, "BEGIN", transaction="t")
    ask(session, "BEGIN", transaction="u")
    ask(session, "SEND", b"u", destination="a", transaction="u")
    assert ask(session, "SEND", b"now", destination="a") == send("a", b"now")
    assert ask(session, "COMMIT", transaction="t") == Commit("t", ())
    assert ask(session, "COMMIT", transaction="u") == Commit("u", (send("a", b"u"),))


@pytest.mark.parametrize("command", ["SEND", "ACK", "NACK", "COMMIT", "ABORT"])
def test_an_unknown_transaction_is_refused(command: str) -> None:
    """One that ended is unknown again."""
    session = connected()
    session.start_delivery(subscribe(session), needs_ack=True)
    ask(session, "BEGIN", transaction="t")
    ask(session, "COMMIT", transaction="t")
    fault = refusal(session, command, transaction="t", id="1", destination="a")
    assert "no open transaction 't'" in fault


@pytest.mark.parametrize(
    ("transaction", "fault"),
    [("t", "'t' is open already"), ("v", "more than 2 open"), ("x" * 256, "over 255 bytes")],
)
def test_a_transaction_that_cannot_be_opened(transaction: str, fault: str) -> None:
    session = connected()
    ask(session, "BEGIN", transaction="t")
    ask(session, "BEGIN", transaction="u")
    assert fault in refusal(session, "BEGIN", transaction=transaction)


@pytest.mark.parametrize("end", ["COMMIT", "ABORT"])
def test_held_frames_have_a_limit(end: str) -> None:
    """It is for all transactions together, and each gives back its part when it ends."""
    session = connected()
    for _ in range(3):
        ask(session, "BEGIN", transaction="t")
        ask(session, "SEND", destination="a", transaction="t")
        ask(session, "SEND", destination="a", transaction="t")
        ask(session, end, transaction="t")
    ask(session, "BEGIN", transaction="t")
    ask(session, "BEGIN", transaction="u")
    for name in "tut":
        ask(session, "SEND", destination="a", transaction=name)
    assert "more than 3 frames" in refusal(session, "SEND", destination="a", transaction="u")


def test_held_bytes_have_a_limit() -> None:
    """Headers count as bodies do."""
    session = connected()
    for _ in range(3):
        ask(session, "BEGIN", transaction="t")
        assert ask(session, "SEND", b"x" * 2500, destination="a", transaction="t") == Hold("t")
        ask(session, "ABORT", transaction="t")
    ask(session, "BEGIN", transaction="t")
    ask(session, "SEND", b"x" * 1200, destination="a", transaction="t")
    fault = refusal(session, "SEND", destination="a", transaction="t", x="x" * 1200)
    assert "more than 4000 bytes" in fault


# Any input


HEADERS = [b"destination:a", b"id:0", b"id:1", b"message-id:1", b"subscription:0"]
HEADERS += [b"transaction:t", b"transaction:u", b"ack:client", b"receipt:r", b"x:\\t"]
COMMANDS = [b"SEND", b"SUBSCRIBE", b"UNSUBSCRIBE", b"ACK", b"NACK", b"BEGIN", b"COMMIT", b"ABORT"]
COMMANDS += [b"DISCONNECT", b"CONNECT", b"STOMP", b"MESSAGE"]
FRAMES = st.builds(
    lambda command, headers: command + b"\n" + b"".join(h + b"\n" for h in headers) + b"\nx\0",
    st.sampled_from(COMMANDS[:8]) | st.sampled_from(COMMANDS),
    st.lists(st.sampled_from(HEADERS), max_size=5, unique=True),
)


@settings(deadline=None)
@given(
    st.sampled_from([b"", *(version.encode() for version in VERSIONS)]),
    st.lists(FRAMES | st.binary(max_size=20), max_size=12),
    st.integers(1, 50),
)
def test_any_bytes_make_commands_and_never_an_error(
    version: bytes, frames: list[bytes], size: int
) -> None:
    """A refusal or a disconnect comes last, and however the bytes are cut, the same is said."""
    connect = b"CONNECT\naccept-version:%b\n\n\0" % version if version else b"CONNECT\n\n\0"
    data = connect + b"".join(frames)
    outcomes = []
    for step in (len(data), size, 1):
        session = ServerSession(
            SESSION_ID, limits=LIMITS, frame_limits=FrameLimits(max_body_bytes=50)
        )
        commands: list[Command] = []
        for start in range(0, len(data), step):
            commands += session.receive_data(data[start : start + step])
            assert len(session.subscriptions) <= LIMITS.max_subscriptions
        ends = [isinstance(command, Refuse | Disconnect) for command in commands]
        assert not any(ends[:-1])
        assert session.is_closed is any(ends)
        outcomes.append([type(command) for command in commands])
    assert outcomes[0] == outcomes[1] == outcomes[2]
