"""The syslog listener: each line over TCP or UDP becomes a message of ``syslogd:<sender>``.

It follows the RestMQ specification, section 8. Syslog has no way to refuse a line, so each limit
has a policy: a TCP connection is read no faster than its lines are stored; a UDP datagram that
arrives while ``MAX_DATAGRAMS_IN_FLIGHT`` wait, or while Redis is away, is dropped and counted.
A sender needs what a producer over HTTP needs; so where acl.conf asks producers for a password,
which syslog cannot give, nothing is accepted.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from restmq.access import Access, Section, canonical_address
from restmq.broker.broker import Broker
from restmq.codecs.syslog import LineSplitter, parse_line
from restmq.endpoints.web import encode_json
from restmq.errors import AccessDenied, RestMQError, Unavailable

logger = logging.getLogger(__name__)

MAX_DATAGRAMS_IN_FLIGHT = 10_000
_READ_BYTES = 64 * 1024
_RETRY_SECONDS = 0.5


class SyslogListener:
    """Listens on one port, TCP and UDP."""

    def __init__(self, broker: Broker, access: Access) -> None:
        self._broker = broker
        self._access = access
        self._server: asyncio.Server | None = None
        self._datagrams: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.dropped_count = 0
        """Datagrams that were dropped since the start."""

    async def open(self, host: str, port: int, *, reuse_port: bool) -> int:
        """Start listening; returns the port, which differs from ``port`` if that is 0."""
        self._server = await asyncio.start_server(
            self._serve, host, port, reuse_port=reuse_port or None
        )
        bound: int = self._server.sockets[0].getsockname()[1]
        self._datagrams, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self._receive_datagram),
            local_addr=(host, bound),
            reuse_port=reuse_port or None,
        )
        return bound

    async def close(self) -> None:
        """Stop listening, and finish storing what has been read."""
        if self._server is not None:
            self._server.close()
        if self._datagrams is not None:
            self._datagrams.close()
        tasks = list(self._tasks)
        for task in tasks:
            if task.get_name() == "syslog-connection":
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_allowed(self, address: str) -> bool:
        try:
            self._access.check(Section.PRODUCER, address, None)
        except AccessDenied as denial:
            logger.info("syslog from %s refused: %s", address, denial)
            return False
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("syslog-connection")
        self._tasks.add(task)
        try:
            address: str = writer.get_extra_info("peername")[0]
            if self._is_allowed(address):
                await self._read_lines(reader, address)
        except ConnectionError:
            logger.debug("a syslog connection broke")
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _read_lines(self, reader: asyncio.StreamReader, address: str) -> None:
        splitter = LineSplitter()
        while data := await reader.read(_READ_BYTES):
            await self._store_surely(splitter.receive_data(data), address)
        await self._store_surely(splitter.end(), address)

    async def _store_surely(self, lines: Sequence[bytes], address: str) -> None:
        """Store lines in order; while Redis is away the sender is kept waiting."""
        pending = list(lines)
        while pending:
            outcomes = await asyncio.gather(
                *(self._store(line, address) for line in pending), return_exceptions=True
            )
            failed = []
            for line, outcome in zip(pending, outcomes, strict=True):
                if isinstance(outcome, Unavailable):
                    failed.append(line)
                elif isinstance(outcome, BaseException):
                    raise outcome
            pending = failed
            if pending:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _store(self, line: bytes, address: str) -> None:
        host = canonical_address(address)
        event = parse_line(line, host=host, tstamp=time.time())
        await self._broker.add(f"syslogd:{host}", encode_json(event))

    def _receive_datagram(self, data: bytes, address: str) -> None:
        if len(self._tasks) >= MAX_DATAGRAMS_IN_FLIGHT:
            self._drop("too many wait")
            return
        if self._is_allowed(address):
            task = asyncio.get_running_loop().create_task(self._store_datagram(data, address))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _store_datagram(self, data: bytes, address: str) -> None:
        splitter = LineSplitter()
        lines = splitter.receive_data(data) + splitter.end()
        try:
            for line in lines:
                await self._store(line, address)
        except RestMQError as error:
            self._drop(str(error))

    def _drop(self, reason: str) -> None:
        self.dropped_count += 1
        if self.dropped_count & (self.dropped_count - 1) == 0:  # at 1, 2, 4, 8, ...
            logger.warning("%d syslog datagrams dropped so far: %s", self.dropped_count, reason)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, on_datagram: Callable[[bytes, str], None]) -> None:
        self._on_datagram = on_datagram

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        self._on_datagram(data, str(addr[0]))

    def error_received(self, exc: Exception) -> None:
        logger.debug("syslog datagram error: %s", exc)
