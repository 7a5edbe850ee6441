"""Chat in a room, from as many terminals as you like; who was away reads what was said meanwhile.

    python rivulet/chat.py kitchen alice
    python rivulet/chat.py kitchen bob                       (in another terminal)

Each line you type goes to everyone in the room; Ctrl-D or Ctrl-C ends the program. The room is a
channel, and your name is a client of it, whose cursor the server keeps: start the program again
under the same name, and it goes on where you stopped. /leave gives up the place in the room. Two
terminals under one name share what comes, each line in one of them.
"""

import argparse
import sys
import threading

from restmq import rivulet

PAUSE_SECONDS = 1
WAIT_SECONDS = 2
"""One read waits for so long; leaving may take as long."""


def listen(client: rivulet.Client, room: str, name: str, ended: threading.Event) -> None:
    """Print what the others say until the chat has ended."""
    while not ended.is_set():
        try:
            messages = client.read(wait_seconds=WAIT_SECONDS).get(room, [])
        except rivulet.RivuletError as error:
            note(f"{error}; trying again")
            ended.wait(PAUSE_SECONDS)
            continue
        for message in messages:
            if message["data"]["name"] != name:
                print(f"{message['data']['name']}: {message['data']['text']}", flush=True)


def talk(client: rivulet.Client, room: str, name: str) -> None:
    """Send each line of standard input."""
    for line in sys.stdin:
        text = line.strip()
        if text == "/leave":
            client.unsubscribe([room])
            note(f"{name} has left {room}")
            return
        if text:
            try:
                client.write(room, {"name": name, "text": text})
            except rivulet.RivuletError as error:
                note(f"this line may not have been sent: {error}")


def note(text: str) -> None:
    """Tell the person at the terminal what happens, apart from the chat."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line, and chat."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("room")
    parser.add_argument("name")
    parser.add_argument(
        "--server",
        metavar="URL",
        default="http://127.0.0.1:8888",
        help="the RestMQ server; may hold user:password@ (default: %(default)s)",
    )
    parser.add_argument(
        "--history", action="store_true", help="begin with the oldest line that is still kept"
    )
    arguments = parser.parse_args()
    room, name = f"chat:{arguments.room}", arguments.name
    policy = rivulet.IndexPolicy.EARLIEST if arguments.history else rivulet.IndexPolicy.CURRENT
    try:
        client = rivulet.connect(arguments.server, client_id=f"{room}:{name}")
        client.subscribe([room], policy, timeout_ms=10_000)
    except (rivulet.RivuletError, ValueError) as error:
        raise SystemExit(str(error)) from error
    note(f"{name} is in {arguments.room}")
    ended = threading.Event()
    listener = threading.Thread(target=listen, args=(client, room, name, ended))
    listener.start()
    try:
        talk(client, room, name)
    except KeyboardInterrupt:
        note("")
    except rivulet.RivuletError as error:
        raise SystemExit(str(error)) from error
    finally:
        # What was read counts as read, so it must also be printed.
        ended.set()
        listener.join()
        client.close()


if __name__ == "__main__":
    main()
