"""The client library stomp.py in each version of the protocol, against the real program."""

import asyncio
import queue
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import stomp
from stomp.utils import Frame

from tests.server_process import running_server
from tests.support import free_port

DEADLINE_SECONDS = 30

CONNECTIONS = {
    "1.0": stomp.Connection10,
    "1.1": stomp.Connection11,
    "1.2": stomp.Connection12,
}


class Listener(stomp.ConnectionListener):
    """Keeps what comes, for the test to take."""

    def __init__(self) -> None:
        self.messages: queue.Queue[Frame] = queue.Queue()
        self.receipts: queue.Queue[str] = queue.Queue()
        self.errors: queue.Queue[Frame] = queue.Queue()
        self.ends: queue.Queue[None] = queue.Queue()

    def on_message(self, frame: Frame) -> None:
        """Keep a message."""
        self.messages.put(frame)

    def on_receipt(self, frame: Frame) -> None:
        """Keep a receipt."""
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame: Frame) -> None:
        """Keep an error."""
        self.errors.put(frame)

    def on_disconnected(self) -> None:
        """Keep the end."""
        self.ends.put(None)


class Client:
    """A connection of stomp.py, and the words of its version."""

    def __init__(self, port: int, version: str) -> None:
        self.version = version
        beats = {} if version == "1.0" else {"heartbeats": (2000, 2000)}
        self.connection = CONNECTIONS[version]([("127.0.0.1", port)], **beats)
        self.heard = Listener()
        self.connection.set_listener("test", self.heard)
        self.connection.connect("ann", "secret", wait=True)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        if self.connection.is_connected():
            self.connection.disconnect()

    def subscribe(self, destination: str, ack: str) -> None:
        """Subscribe, and wait until that is done."""
        headers = {"receipt": f"subscribed {destination}"}
        name = {} if self.version == "1.0" else {"id": destination}
        self.connection.subscribe(destination, ack=ack, headers=headers, **name)
        assert self.heard.receipts.get(timeout=DEADLINE_SECONDS) == f"subscribed {destination}"

    def unsubscribe(self, destination: str) -> None:
        """Unsubscribe, and wait until that is done."""
        name = {"destination": destination} if self.version == "1.0" else {"id": destination}
        self.connection.unsubscribe(**name, headers={"receipt": "gone"})
        assert self.heard.receipts.get(timeout=DEADLINE_SECONDS) == "gone"

    def send(self, destination: str, body: str, **headers: str) -> None:
        """Send, and wait until it is stored."""
        self.connection.send(destination, body, headers={"receipt": "sent", **headers})
        assert self.heard.receipts.get(timeout=DEADLINE_SECONDS) == "sent"

    def message(self) -> Frame:
        """Return the next message."""
        return self.heard.messages.get(timeout=DEADLINE_SECONDS)

    def ack(self, message: Frame, transaction: str | None = None) -> None:
        """Acknowledge a message."""
        self.connection.ack(*self._delivery(message), transaction=transaction)

    def nack(self, message: Frame) -> None:
        """Refuse a message."""
        self.connection.nack(*self._delivery(message))

    def _delivery(self, message: Frame) -> tuple[str, ...]:
        headers = message.headers
        if self.version == "1.2":
            return (headers["ack"],)
        if self.version == "1.1":
            return (headers["message-id"], headers["subscription"])
        return (headers["message-id"],)


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """Where the program speaks STOMP."""
    stomp_port = free_port()
    async with running_server(tmp_path, "--stomp-port", str(stomp_port)):
        yield stomp_port


@pytest.mark.parametrize("version", CONNECTIONS)
async def test_queues(port: int, version: str) -> None:
    """One message at a time, in order, with user headers; what is left behind comes again."""

    def talk() -> None:
        ack = "client" if version == "1.0" else "client-individual"
        with Client(port, version) as producer:
            for number in range(3):
                producer.send("/queue/jobs", f"job {number} ☕", kind="a: b")
        with Client(port, version) as consumer:
            consumer.subscribe("/queue/jobs", ack)
            first = consumer.message()
            assert (first.body, first.headers["kind"]) == ("job 0 ☕", "a: b")
            assert "redelivered" not in first.headers
            assert consumer.heard.messages.empty()
            consumer.ack(first)
            assert consumer.message().body == "job 1 ☕"
        with Client(port, version) as consumer:
            consumer.subscribe("/queue/jobs", ack)
            again = consumer.message()
            assert (again.body, again.headers["redelivered"]) == ("job 1 ☕", "true")
            if version != "1.0":
                consumer.nack(again)
                again = consumer.message()
                assert (again.body, again.headers["delivery-attempt"]) == ("job 1 ☕", "3")
            consumer.ack(again)
            assert consumer.message().body == "job 2 ☕"
            consumer.unsubscribe("/queue/jobs")

    await asyncio.to_thread(talk)


@pytest.mark.parametrize("version", CONNECTIONS)
async def test_transactions(port: int, version: str) -> None:
    """Nothing is sent or acknowledged before COMMIT, nor ever after ABORT."""

    def talk() -> None:
        with Client(port, version) as client:
            client.subscribe("/queue/jobs", "client")
            client.connection.begin("dropped")
            client.send("/queue/jobs", "never", transaction="dropped")
            client.connection.abort("dropped")
            client.connection.begin("kept")
            client.send("/queue/jobs", "1", transaction="kept")
            client.send("/queue/jobs", "2", transaction="kept")
            assert client.heard.messages.empty()
            client.connection.commit("kept")
            first = client.message()
            client.connection.begin("acks")
            client.ack(first, "acks")
            client.connection.commit("acks")
            assert (first.body, client.message().body) == ("1", "2")

    await asyncio.to_thread(talk)


@pytest.mark.parametrize("version", CONNECTIONS)
async def test_topics(port: int, version: str) -> None:
    def talk() -> None:
        with Client(port, version) as one, Client(port, version) as other:
            one.subscribe("/topic/news.>", "auto")
            other.subscribe("/topic/news.today", "auto")
            one.send("/topic/news.today", "hello")
            for client in (one, other):
                message = client.message()
                assert (message.body, message.headers["destination"]) == (
                    "hello",
                    "/topic/news.today",
                )

    await asyncio.to_thread(talk)


@pytest.mark.parametrize("version", CONNECTIONS)
async def test_an_error_ends_the_connection(port: int, version: str) -> None:
    def talk() -> None:
        with Client(port, version) as client:
            client.connection.commit("unknown")
            error = client.heard.errors.get(timeout=DEADLINE_SECONDS)
            assert "unknown" in error.headers["message"]
            client.heard.ends.get(timeout=DEADLINE_SECONDS)

    await asyncio.to_thread(talk)


@pytest.mark.parametrize("version", ["1.1", "1.2"])
async def test_heart_beats_keep_a_quiet_connection(port: int, version: str) -> None:
    """Both sides go on without a word longer than either would wait for the other."""

    def talk() -> None:
        with Client(port, version) as client:
            with pytest.raises(queue.Empty):
                client.heard.ends.get(timeout=5)
            client.send("/queue/jobs", "still here")

    await asyncio.to_thread(talk)
