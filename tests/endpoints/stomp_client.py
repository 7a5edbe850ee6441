"""A STOMP client for tests: it writes what it is told, byte for byte, and reads frames."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol

import aiohttp

from restmq.codecs.stomp import Frame, FrameParser, Version
from restmq.codecs.stomp_encoder import encode_frame
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import free_port

TIMEOUT_SECONDS = 20


class Wire(Protocol):
    """How the client is connected."""

    async def write(self, data: bytes) -> None:
        """Send octets."""

    async def read(self) -> bytes:
        """Return what came; empty at the end."""

    async def close(self) -> None:
        """Hang up."""


class TcpClientWire:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        """Send octets."""
        self.writer.write(data)
        await self.writer.drain()

    async def read(self) -> bytes:
        """Return what came; empty at the end."""
        try:
            return await self.reader.read(65536)
        except ConnectionError:
            return b""

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class WebSocketClientWire:
    """A WebSocket; each write is one message, as text if ``sends_text``."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, sends_text: bool) -> None:
        self.socket = socket
        self.sends_text = sends_text
        self.kinds: list[aiohttp.WSMsgType] = []

    async def write(self, data: bytes) -> None:
        """Send octets."""
        if self.sends_text:
            await self.socket.send_str(data.decode())
        else:
            await self.socket.send_bytes(data)

    async def read(self) -> bytes:
        """Return what came; empty at the end."""
        message = await self.socket.receive()
        self.kinds.append(message.type)
        if message.type is aiohttp.WSMsgType.TEXT:
            text: str = message.data
            return text.encode()
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        return b""

    async def close(self) -> None:
        """Hang up."""
        await self.socket.close()


class StompClient:
    """One connection; ``version`` is None until ``connect``."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.version: Version | None = None
        self.session = ""
        self._parser = FrameParser()
        self._frames: list[Frame] = []
        self._is_over = False
        self._receipts = 0

    async def connect(self, version: Version = "1.2", **headers: str) -> Frame:
        """Send CONNECT, and return the answer, which must be CONNECTED."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.send_frame("CONNECT", **{"accept-version": version, "host": "x", **named})
        answer = await self.receive("CONNECTED")
        self.version = version
        self.session = answer.headers["session"]
        return answer

    async def write(self, data: bytes | str) -> None:
        """Send octets; ``^@`` in text is NUL."""
        if isinstance(data, str):
            data = data.replace("^@", "\0").encode()
        await self.wire.write(data)

    async def send_frame(self, command: str, body: bytes = b"", **headers: str) -> None:
        """Send one frame; an underscore in the name of a header is a hyphen."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.write(encode_frame(command, named, body, version=self.version))

    async def call(self, command: str, body: bytes = b"", **headers: str) -> None:
        """Send one frame, and wait until it is answered; messages that come meanwhile stay."""
        self._receipts += 1
        receipt = f"call-{self._receipts}"
        await self.send_frame(command, body, receipt=receipt, **headers)
        await self.wait_for_receipt(receipt)

    async def wait_for_receipt(self, receipt: str) -> None:
        """Read up to a RECEIPT; messages before it stay to be received."""
        kept: list[Frame] = []
        while True:
            frame = await self.receive()
            if frame.command == "RECEIPT" and frame.headers["receipt-id"] == receipt:
                self._frames[:0] = kept
                return
            assert frame.command != "ERROR", frame
            kept.append(frame)

    async def receive(self, command: str | None = None) -> Frame:
        """Return the next frame, which must be of this kind; AssertionError at the end."""
        frame = await self.next_frame()
        assert frame is not None, "the connection was closed"
        assert command is None or frame.command == command, frame
        return frame

    async def next_frame(self) -> Frame | None:
        """Return the next frame, or None when the server has closed."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not self._frames:
                data = await self.wire.read()
                if not data:
                    self._is_over = True
                    return None
                self._frames += self._parser.receive_data(data)
        return self._frames.pop(0)

    async def message(self) -> Frame:
        """Return the next frame, which must be a MESSAGE."""
        return await self.receive("MESSAGE")

    async def assert_quiet(self) -> None:
        """Fail if anything came before the server answered a question that is asked now."""
        assert not self._frames, self._frames
        await self.call("BEGIN", transaction=f"quiet-{self._receipts}")
        assert not self._frames, self._frames

    async def error(self) -> Frame:
        """Return the ERROR that comes next, after which the server must close."""
        frame = await self.receive("ERROR")
        assert await self.next_frame() is None
        return frame

    async def ack(self, message: Frame) -> None:
        """Acknowledge a message, and wait until that is done."""
        await self.call("ACK", **self.ack_headers(message))

    async def nack(self, message: Frame) -> None:
        """Refuse a message, and wait until that is done."""
        await self.call("NACK", **self.ack_headers(message))

    def ack_headers(self, message: Frame) -> dict[str, str]:
        """Return what an ACK or NACK of this version has to say."""
        if self.version == "1.2":
            return {"id": message.headers["ack"]}
        headers = {"message-id": message.headers["message-id"]}
        if "subscription" in message.headers:
            headers["subscription"] = message.headers["subscription"]
        return headers

    async def close(self) -> None:
        """Hang up."""
        await self.wire.close()


@contextlib.asynccontextmanager
async def stomp_client(
    port: int, version: Version | None = "1.2", **headers: str
) -> AsyncIterator[StompClient]:
    """Connect over TCP; with ``version`` None nothing is sent yet."""
    wire = TcpClientWire(*await asyncio.open_connection("127.0.0.1", port))
    client = StompClient(wire)
    try:
        if version is not None:
            await client.connect(version, **headers)
        yield client
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def web_stomp_client(
    url: str, version: Version | None = "1.2", *, sends_text: bool = False, **headers: str
) -> AsyncIterator[StompClient]:
    """Connect over WebSocket; ``url`` is that of the HTTP listener."""
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(f"{url}/stomp", protocols=("v12.stomp",))
        client = StompClient(WebSocketClientWire(socket, sends_text))
        try:
            if version is not None:
                await client.connect(version, **headers)
            yield client
        finally:
            await client.close()


INDIVIDUAL = "client-individual"


async def subscribe(
    client: StompClient, destination: str, ack: str = INDIVIDUAL, number: str = "0", **headers: str
) -> None:
    """Subscribe, and wait until that is done."""
    await client.call("SUBSCRIBE", id=number, destination=destination, ack=ack, **headers)


async def send(client: StompClient, destination: str, *bodies: bytes, **headers: str) -> None:
    """Send, and wait until all is stored."""
    for body in bodies:
        await client.call("SEND", body, destination=destination, **headers)


class StompNode:
    """A node that speaks STOMP."""

    def __init__(self, node: NodeUnderTest, port: int) -> None:
        self.http = node
        self.port = port

    def client(self, *arguments: Any, **options: Any) -> Any:
        """Connect over TCP."""
        return stomp_client(self.port, *arguments, **options)

    async def stats(self, queue: str) -> dict[str, Any]:
        """Return what REST says of a queue."""
        found: dict[str, Any] = json.loads((await self.http.get(f"/stats/{queue}"))[1])
        return found


@contextlib.asynccontextmanager
async def stomp_node(
    open_node: OpenNode, acl: str = "", **settings: Any
) -> AsyncIterator[StompNode]:
    """Open a node with a STOMP port, with rules and settings of its own."""
    port = free_port()
    async with open_node(acl, stomp_port=port, **settings) as node:
        yield StompNode(node, port)
