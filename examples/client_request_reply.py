"""Request and reply with the blocking client: one side asks for sums, the other adds up.

    python client_request_reply.py --answer
    python client_request_reply.py 1 2 3                       (in another terminal)

Requests wait in a queue until somebody answers, and any number may answer. The reply comes to the
asker alone, whichever server of several it is connected to. An error of the answering side is an
error here; so is no reply in time. Both sides speak STOMP underneath, and so can programs in other
languages: examples/stomp/ask.py and answer.py are such a pair.
"""

import argparse

from restmq.client import BlockingClient, CallFailed, Request, RestMQError

QUEUE = "sums"


def add_up(request: Request) -> float:
    """Answer one request; what is raised goes back to the asker."""
    numbers = request.json(list[float])
    if not numbers:
        raise ValueError("there is nothing to add up")
    print(f"adding up {len(numbers)} numbers", flush=True)
    return sum(numbers)


def main() -> None:
    """Read the command line, and ask or answer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("numbers", nargs="*", type=float)
    parser.add_argument("--server", metavar="URL", default="http://127.0.0.1:8888")
    parser.add_argument("--answer", action="store_true", help="answer, until Ctrl-C")
    parser.add_argument("--timeout-seconds", metavar="S", type=float, default=10)
    arguments = parser.parse_args()
    with BlockingClient(arguments.server) as client:
        try:
            if arguments.answer:
                client.serve(QUEUE, add_up, concurrency=4)
            reply = client.call(QUEUE, arguments.numbers, arguments.timeout_seconds)
        except KeyboardInterrupt:
            return
        except CallFailed as error:
            raise SystemExit(f"no sum: {error}") from error
        except RestMQError as error:
            raise SystemExit(f"the server cannot be used: {error}") from error
    print(reply.json(float))


if __name__ == "__main__":
    main()
