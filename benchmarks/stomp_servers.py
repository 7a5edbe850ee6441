"""The STOMP servers that RestMQ is measured beside: RabbitMQ with its plugin, and CoilMQ."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

from benchmarks import stomp_client
from benchmarks.harness import (
    HOST,
    BenchmarkError,
    Child,
    Load,
    accepts_connections,
    command_name,
    free_port,
    process_tree,
    resident_bytes,
)
from benchmarks.rivals import debian_version, find_program
from benchmarks.servers import RestMQ, Server
from benchmarks.stomp_client import Target

RABBITMQ_PROGRAMS = Path("/usr/lib/rabbitmq/bin")
RABBITMQ_CONFIGURATION = """\
listeners.tcp.default = {host}:{amqp_port}
stomp.listeners.tcp.1 = {host}:{stomp_port}
stomp.tcp_listen_options.backlog = 4096
"""
RABBITMQ_PATIENCE_SECONDS = 90

COILMQ_CONFIGURATION = """\
[coilmq]
listen_addr = {host}
listen_port = {port}
qstore.factory = coilmq.store.dbm.make_dbm
qstore.dbm.data_dir = {directory}
debug.stats_poll_interval = 0
"""

BODY = b"x" * 200
CONNECTIONS = 20
OUTSTANDING = 50


class StompServer(Server):
    """A server that speaks STOMP."""

    outstanding: ClassVar[int] = OUTSTANDING
    """How many SENDs a connection may have under way."""

    @property
    @abstractmethod
    def target(self) -> Target:
        """Where to connect, and what to say."""

    def destination(self, queue: str) -> str:
        """What a queue is called."""
        return f"/queue/{queue}"

    @abstractmethod
    def memory_bytes(self) -> int:
        """Resident memory of what holds the connections."""

    def fill(self, queue: str, count: int) -> None:
        """Sends as the measurement does."""
        stomp_client.send(
            self.target, self.destination(queue), BODY, CONNECTIONS, self.outstanding, count=count
        )

    def enqueue(self, queue: str, seconds: int) -> Load:
        """Sends over STOMP, with receipts."""
        return stomp_client.send(
            self.target, self.destination(queue), BODY, CONNECTIONS, self.outstanding, seconds
        )

    def dequeue(self, queue: str, seconds: int) -> Load:
        """Consumes over STOMP, acknowledging each message."""
        return stomp_client.consume(
            self.target, self.destination(queue), CONNECTIONS, OUTSTANDING, seconds
        )


class StompRestMQ(StompServer, RestMQ):
    """RestMQ with a STOMP port."""

    @property
    def target(self) -> Target:
        """Its port."""
        return Target(self.stomp_port)

    def start(self) -> None:
        """Starts one node, and waits until it answers statistics."""
        self.stomp_port = free_port()
        command = [sys.executable, "-m", "restmq", "serve", "--listen", HOST]
        command += ["--port", str(self.port), "--data-dir", str(self.directory / "data")]
        command += ["--stomp-port", str(self.stomp_port), "--fsync", "always"]
        self.launch(*command).wait_until(self._answers)

    def memory_bytes(self) -> int:
        """Resident memory of its Python process."""
        return RestMQ.memory_bytes(self)


class RabbitMQ(StompServer):
    """RabbitMQ with its STOMP plugin: a durable classic queue, messages persistent.

    It runs as the user of the benchmark, with a port mapper, a node name, ports and directories
    of its own. Its receipts are publisher confirms, which wait until a message is on the disk.
    """

    name = "rabbitmq"
    most_dequeues_per_second = 30_000

    @classmethod
    def why_missing(cls) -> str | None:
        """It needs RabbitMQ and the port mapper of Erlang."""
        if not (RABBITMQ_PROGRAMS / "rabbitmq-server").exists():
            return "rabbitmq-server is not installed"
        return None if find_program("epmd") else "epmd is not installed"

    @classmethod
    def version(cls) -> str:
        """The versions of both packages."""
        return f"{debian_version('rabbitmq-server')}, erlang {debian_version('erlang-base')}"

    @property
    def target(self) -> Target:
        """Its port, the user that it makes, and persistence, which it does only when told."""
        return Target(
            self.stomp_port,
            connect_headers={"login": "guest", "passcode": "guest", "host": "/"},
            send_headers={"persistent": "true"},
        )

    def start(self) -> None:
        """Writes the configuration, and starts the port mapper and the broker."""
        self.stomp_port = free_port()
        self._mapper_port = free_port()
        (self.directory / "enabled_plugins").write_text("[rabbitmq_stomp].\n")
        (self.directory / "rabbitmq.conf").write_text(
            RABBITMQ_CONFIGURATION.format(
                host=HOST, amqp_port=self.port, stomp_port=self.stomp_port
            )
        )
        epmd = find_program("epmd")
        assert epmd is not None
        mapper = self.launch(epmd, "-port", str(self._mapper_port), "-address", HOST)
        mapper.wait_until(lambda: accepts_connections(self._mapper_port))
        words = [f"{name}={value}" for name, value in self._environment().items()]
        server = self.launch("/usr/bin/env", *words, str(RABBITMQ_PROGRAMS / "rabbitmq-server"))
        server.wait_until(lambda: accepts_connections(self.stomp_port), RABBITMQ_PATIENCE_SECONDS)

    def _environment(self) -> dict[str, str]:
        directory = self.directory
        return {
            "HOME": str(directory),  # for the cookie
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"benchmark{self._mapper_port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
        }

    @property
    def _broker(self) -> Child:
        return self.children[-1]

    def length(self, queue: str) -> int | None:
        """What its own tool tells: messages that are ready or unacknowledged."""
        command = [str(RABBITMQ_PROGRAMS / "rabbitmqctl"), "-q", "list_queues", "name", "messages"]
        environment = {**os.environ, **self._environment()}
        answer = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=60
        )
        if answer.returncode:
            raise BenchmarkError(f"rabbitmqctl: {(answer.stderr or answer.stdout).strip()}")
        for line in answer.stdout.splitlines():
            name, _, messages = line.rpartition("\t")
            if name == queue:
                return int(messages)
        return 0

    def memory_bytes(self) -> int:
        """Resident memory of the virtual machine."""
        pids = process_tree(self._broker.pid)
        return sum(resident_bytes(pid) for pid in pids if command_name(pid) == "beam.smp")


class CoilMQ(StompServer):
    """CoilMQ with its store in files, which it syncs now and then; a thread for each connection.

    It speaks 1.1 well, and sends a consumer one message at a time. It stumbles over a frame that
    comes in two reads, so no more than one is sent to it at once.
    """

    name = "coilmq"
    outstanding = 1
    most_dequeues_per_second = 3_000

    @classmethod
    def why_missing(cls) -> str | None:
        """It needs the package."""
        return None if importlib.util.find_spec("coilmq") else "CoilMQ is not installed"

    @classmethod
    def version(cls) -> str:
        """The version of the package."""
        return importlib.metadata.version("coilmq")

    @property
    def target(self) -> Target:
        """Its port."""
        return Target(self.port, version="1.1", ack="client")

    def start(self) -> None:
        """Writes the configuration and starts it."""
        store = self.directory / "store"
        store.mkdir()
        configuration = self.directory / "coilmq.cfg"
        configuration.write_text(
            COILMQ_CONFIGURATION.format(host=HOST, port=self.port, directory=store)
        )
        program = "from coilmq.start import main; main()"
        child = self.launch(sys.executable, "-c", program, "--config", str(configuration))
        child.wait_until(lambda: accepts_connections(self.port))

    def memory_bytes(self) -> int:
        """Resident memory of its process."""
        return resident_bytes(self.children[-1].pid)
