"""A leased WebSocket consumer over a raw socket, which acknowledges what it gets.

It knows just enough of the protocol (RFC 6455) for frames of a server of our own: text frames
that are neither masked nor split. Acknowledgements of what came together go out together.
"""

from __future__ import annotations

import json
import resource
import socket
import struct
import time
from collections.abc import Iterator

from benchmarks.harness import HOST, BenchmarkError, Load

READ_BYTES = 256 * 1024
TEXT, PING, PONG = 1, 9, 10
_SHORT, _LONG = 126, 127


def consume(port: int, path: str, seconds: float) -> Load:
    """Acknowledges messages for a time; counts the acknowledgements that were confirmed."""
    before = _cpu_seconds()
    with socket.create_connection((HOST, port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray(_upgrade(connection, port, path))
        acked = 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            replies = bytearray()
            for opcode, payload in _frames(buffer):
                if opcode == PING:
                    replies += _frame(PONG, payload)
                elif opcode == TEXT:
                    fields = json.loads(payload)
                    if fields.get("acked"):
                        acked += 1
                    elif "receipt" in fields:
                        replies += _frame(TEXT, b'{"ack":"%b"}' % fields["receipt"].encode())
                    elif "error" in fields:
                        raise BenchmarkError(f"the server answered {fields}")
            if replies:
                connection.sendall(replies)
            data = connection.recv(READ_BYTES)
            if not data:
                raise BenchmarkError("the server closed the WebSocket")
            buffer += data
    cpu = _cpu_seconds() - before
    return Load(acked, acked / elapsed, 0.0, 0.0, cpu / elapsed)


def _upgrade(connection: socket.socket, port: int, path: str) -> bytes:
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    connection.sendall(request.encode())
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(READ_BYTES)
        if not piece:
            raise BenchmarkError(f"the WebSocket was refused: {data[:300]!r}")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    if b" 101 " not in head:
        raise BenchmarkError(f"the WebSocket was refused: {head[:300]!r}")
    return rest


def _frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Takes the whole frames off the buffer."""
    at = 0
    while len(buffer) - at >= 2:
        length, start = buffer[at + 1], at + 2
        if length == _SHORT:
            if len(buffer) < start + 2:
                break
            length, start = struct.unpack_from(">H", buffer, start)[0], start + 2
        elif length == _LONG:
            if len(buffer) < start + 8:
                break
            length, start = struct.unpack_from(">Q", buffer, start)[0], start + 8
        if len(buffer) < start + length:
            break
        yield buffer[at] & 0x0F, bytes(buffer[start : start + length])
        at = start + length
    del buffer[:at]


def _frame(opcode: int, payload: bytes) -> bytes:
    """A masked frame, with a mask of zeros, which leaves the payload as it is."""
    if len(payload) >= _SHORT:
        return struct.pack(">BBH4x", 0x80 | opcode, 0x80 | _SHORT, len(payload)) + payload
    return struct.pack(">BB4x", 0x80 | opcode, 0x80 | len(payload)) + payload


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
