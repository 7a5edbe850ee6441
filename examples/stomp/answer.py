"""The answering half of request and reply: adds up the numbers of each request.

    python answer.py            # and in another terminal: python ask.py 1 2 3

A request is acknowledged after its reply was sent, so one that kills the answerer is answered by
the next one.
"""

import argparse
import threading

import stomp
from stomp.utils import Frame


class Answerer(stomp.ConnectionListener):
    """Sends a reply to wherever the request wants it."""

    def __init__(self, connection: stomp.Connection12) -> None:
        self._connection = connection
        self.ended = threading.Event()

    def on_message(self, frame: Frame) -> None:
        """Answer one request."""
        try:
            answer = str(sum(float(word) for word in frame.body.split()))
        except ValueError as error:
            answer = f"error: {error}"
        self._connection.send(
            frame.headers["reply-to"],
            answer,
            headers={"correlation-id": frame.headers["correlation-id"]},
        )
        self._connection.ack(frame.headers["ack"])

    def on_disconnected(self) -> None:
        """End."""
        self.ended.set()


def main() -> None:
    """Answer until the connection ends."""
    parser = argparse.ArgumentParser(description="Answer requests over STOMP.")
    parser.add_argument("--port", type=int, default=61613)
    arguments = parser.parse_args()
    connection = stomp.Connection12([("127.0.0.1", arguments.port)])
    answerer = Answerer(connection)
    connection.set_listener("answerer", answerer)
    connection.connect(wait=True)
    connection.subscribe("/queue/sums", id="sums", ack="client-individual")
    answerer.ended.wait()


if __name__ == "__main__":
    main()
