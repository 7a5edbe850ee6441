"""A STOMP worker: one message at a time, acknowledged when it is done, given back when it is not.

    pip install stomp.py
    restmq serve --stomp-port 61613
    python worker.py jobs
    curl -d value='{"name": "Ann"}' http://127.0.0.1:8888/q/jobs

The queue is the same as over REST. What fails comes again, at once and up to five times in all;
then it is a dead letter, to be seen at /dead/jobs. A worker that is killed loses nothing: what it
held goes to another as soon as its connection is gone.
"""

import argparse
import json
import threading

import stomp
from stomp.utils import Frame

HEART_BEAT_MILLISECONDS = 10_000


def work(body: str) -> None:
    """Do what the message asks for; whatever is raised means that it failed."""
    print(f"hello {json.loads(body)['name']}", flush=True)


class Worker(stomp.ConnectionListener):
    """Works off what the connection is given."""

    def __init__(self, connection: stomp.Connection12) -> None:
        self._connection = connection
        self.ended = threading.Event()

    def on_message(self, frame: Frame) -> None:
        """Handle one message."""
        delivery = frame.headers["ack"]
        try:
            work(frame.body)
        except Exception as error:
            print(f"failed: {error!r}", flush=True)
            self._connection.nack(delivery)
        else:
            self._connection.ack(delivery)

    def on_error(self, frame: Frame) -> None:
        """Tell what the server did not like; it closes the connection then."""
        print(f"the server says: {frame.headers['message']}", flush=True)

    def on_disconnected(self) -> None:
        """End; a supervisor starts the worker again."""
        self.ended.set()


def main() -> None:
    """Connect, subscribe and work until the connection ends."""
    parser = argparse.ArgumentParser(description="Work off a queue over STOMP.")
    parser.add_argument("queue")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=61613)
    parser.add_argument("--login")
    parser.add_argument("--passcode")
    arguments = parser.parse_args()
    connection = stomp.Connection12(
        [(arguments.host, arguments.port)],
        heartbeats=(HEART_BEAT_MILLISECONDS, HEART_BEAT_MILLISECONDS),
    )
    worker = Worker(connection)
    connection.set_listener("worker", worker)
    connection.connect(arguments.login, arguments.passcode, wait=True)
    connection.subscribe(f"/queue/{arguments.queue}", id="work", ack="client-individual")
    worker.ended.wait()


if __name__ == "__main__":
    main()
