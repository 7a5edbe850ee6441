"""Send syslog lines to RestMQ and read them back as messages.

    restmq serve --syslog-port 25000               (in another terminal)
    python syslog_feed.py

Each line that comes to the syslog port becomes a message of the queue syslogd:ADDRESS,
where ADDRESS is the sender's. The message is a JSON object: the line, the host, the
time, and the facility and severity that the number at the start of the line stands for
(both null when there is none). Half of the lines go over TCP, half over UDP. They are
read from /c/syslogd:ADDRESS, which takes them off the queue.
"""

import argparse
import asyncio
import json
import os
import socket
from urllib.parse import quote, urlsplit

import aiohttp

TCP_LINES = (
    "<34>su: 'su root' failed for lonvick on /dev/pts/8",
    "<22>postfix/smtpd[411]: connect from mail.example.net",
    "a line that says nothing about its facility",
)
UDP_LINES = (
    "<13>logger: a note from a user",
    "<165>edge-3: interface up",
    "<191>edge-3: counters reset",
)


def send(host: str, port: int, lines_tcp: list[str], lines_udp: list[str]) -> str:
    """Send lines over TCP and over UDP, and return the address that they were sent from.

    TCP carries any number of lines, each with a line end; UDP carries one in a datagram, and
    nobody tells the sender when it is lost.
    """
    with socket.create_connection((host, port), timeout=10) as stream:
        stream.sendall("".join(f"{line}\n" for line in lines_tcp).encode())
        family, server, address = stream.family, stream.getpeername(), stream.getsockname()[0]
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        for line in lines_udp:
            datagrams.sendto(line.encode(), server)
    return str(address)


async def read_back(server: str, queue: str, mark: str, expected: int) -> None:
    """Print the messages that hold this run's mark, until all have come."""
    url = f"{server.rstrip('/')}/c/{quote(queue, safe='')}"
    seen = 0
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, raise_for_status=True) as response,
    ):
        while seen < expected and (line := await response.content.readline()):
            if not line.strip():  # a sign of life from a server that has nothing to say
                continue
            record = json.loads(json.loads(line)["value"])
            if mark in record["line"]:
                seen += 1
                print(f"{record['facility']!s:>8} {record['severity']!s:<7} {record['line']}")


async def feed(server: str, host: str, port: int, wait_seconds: float) -> None:
    """Send the lines and show what became of them."""
    # Other programs of this host may log here too, so this run's lines carry a mark.
    mark = f"[feed {os.getpid()}]"
    lines_tcp = [f"{line} {mark}" for line in TCP_LINES]
    lines_udp = [f"{line} {mark}" for line in UDP_LINES]
    address = await asyncio.to_thread(send, host, port, lines_tcp, lines_udp)
    queue = f"syslogd:{address}"
    print(f"sent {len(lines_tcp)} lines over TCP, {len(lines_udp)} over UDP; reading {queue}")
    try:
        async with asyncio.timeout(wait_seconds):
            await read_back(server, queue, mark, len(lines_tcp) + len(lines_udp))
    except TimeoutError:
        raise SystemExit(f"not all lines came back within {wait_seconds:g} s") from None


def main() -> None:
    """Read the command line, send the lines and read them back."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server",
        metavar="URL",
        default="http://127.0.0.1:8888",
        help="the RestMQ server (default: %(default)s)",
    )
    parser.add_argument(
        "--syslog-port", type=int, default=25000, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--wait-seconds", type=float, default=10, metavar="N", help="default: %(default)s"
    )
    arguments = parser.parse_args()
    host = urlsplit(arguments.server).hostname or "127.0.0.1"
    try:
        asyncio.run(feed(arguments.server, host, arguments.syslog_port, arguments.wait_seconds))
    except (OSError, aiohttp.ClientError) as error:
        raise SystemExit(f"the server cannot be used: {error}") from error


if __name__ == "__main__":
    main()
