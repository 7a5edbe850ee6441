"""The asking half of request and reply: sends numbers, and prints their sum.

    python ask.py 1 2 3

The reply comes to a destination that only this connection can subscribe to. It must be there
before the request is sent, since nothing is kept for it.
"""

import argparse
import sys
import threading
import uuid

import stomp
from stomp.utils import Frame

TIMEOUT_SECONDS = 10


class Asker(stomp.ConnectionListener):
    """Waits for the reply to one request."""

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self.answer = ""
        self.arrived = threading.Event()
        self.subscribed = threading.Event()

    def on_receipt(self, frame: Frame) -> None:
        """Note that replies can come."""
        self.subscribed.set()

    def on_message(self, frame: Frame) -> None:
        """Take the reply, if it is the one that is waited for."""
        if frame.headers["correlation-id"] == self._request_id:
            self.answer = frame.body
            self.arrived.set()


def main() -> None:
    """Ask once."""
    parser = argparse.ArgumentParser(description="Ask for a sum over STOMP.")
    parser.add_argument("numbers", nargs="+")
    parser.add_argument("--port", type=int, default=61613)
    arguments = parser.parse_args()
    request_id = uuid.uuid4().hex
    connection = stomp.Connection12([("127.0.0.1", arguments.port)])
    asker = Asker(request_id)
    connection.set_listener("asker", asker)
    connection.connect(wait=True)
    connection.subscribe("/temp-queue/sums", id="replies", headers={"receipt": "subscribed"})
    if not asker.subscribed.wait(TIMEOUT_SECONDS):
        sys.exit("the server does not answer")
    connection.send(
        "/queue/sums",
        " ".join(arguments.numbers),
        headers={"reply-to": "/temp-queue/sums", "correlation-id": request_id},
    )
    if not asker.arrived.wait(TIMEOUT_SECONDS):
        sys.exit("nobody answers; is answer.py running?")
    print(asker.answer)
    connection.disconnect()


if __name__ == "__main__":
    main()
