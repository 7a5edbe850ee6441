"""Child processes and load: pinning, ports, limits, logs, memory, wrk and the fan-out client.

Linux only, since it reads ``/proc`` and pins processes to cores.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
HOST = "127.0.0.1"
POLL_SECONDS = 0.02

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class BenchmarkError(Exception):
    """A measurement could not be made, or its result means nothing; the text says why."""


@dataclass(frozen=True)
class Bench:
    """What every row needs to know about this run."""

    directory: Path
    rounds: int
    seconds: int
    connections: int
    consumers: int
    burst: int
    idle_connections: int
    queues: int
    queuey_queues: int
    server_core: int
    client_core: int
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Remembers a remark for the report, once."""
        if text not in self.notes:
            self.notes.append(text)


@dataclass(frozen=True)
class Request:
    """One HTTP request, without the headers that follow from the connection."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""

    def encode(self, host: str) -> bytes:
        """The request as it goes over a keep-alive connection."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body or self.method == "POST":
            lines.append(f"Content-Length: {len(self.body.encode())}")
        return ("\r\n".join(lines) + "\r\n\r\n" + self.body).encode()


@dataclass(frozen=True)
class Load:
    """What a load generator saw in one measurement."""

    requests: int
    requests_per_second: float
    latency_p50_ms: float
    latency_p99_ms: float
    client_cpu_share: float


# -- limits, ports, waiting -----------------------------------------------------------------------


def raise_file_limit(wanted: int = 65_536) -> int:
    """Raises the limit of open files, for this process and its children; returns what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        except (OSError, ValueError):  # only root may raise the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Polls until the condition holds; BenchmarkError when it does not within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"waited {seconds:g} s for {what}")
        time.sleep(POLL_SECONDS)


def accepts_connections(port: int) -> bool:
    """Whether somebody listens on the port."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


# -- child processes ------------------------------------------------------------------------------


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on, or None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat_fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    tree = [pid]
    for parent in tree:  # grows while it is walked
        tree += children.get(parent, [])
    return tree


def command_name(pid: int) -> str:
    """The name that the kernel shows for the process."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def resident_bytes(pid: int) -> int:
    """Resident memory (VmRSS) of the process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise BenchmarkError(f"process {pid} has no memory of its own")


@dataclass(frozen=True)
class _Identity:
    """A process, told from a later one that was given the same id."""

    pid: int
    start_time: str

    @classmethod
    def of(cls, pid: int) -> _Identity | None:
        fields = stat_fields(pid)
        return cls(pid, fields[19]) if fields else None

    def is_alive(self) -> bool:
        fields = stat_fields(self.pid)
        return fields is not None and fields[19] == self.start_time and fields[0] != "Z"

    def signal(self, number: signal.Signals) -> None:
        if self.is_alive():
            os.kill(self.pid, number)


class Child:
    """A child process on one core, whose output goes to a file, and which is ended by its id.

    It gets a session of its own, so that Ctrl-C reaches only the benchmark, which then ends it.
    """

    def __init__(self, arguments: Sequence[str], core: int, log: Path) -> None:
        self.name = Path(arguments[0]).name
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                start_new_session=True,
                preexec_fn=lambda: _prepare_child(core),
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float = 30) -> None:
        """Waits until the child is ready; BenchmarkError with its last words when it is not."""

        def is_ready_or_gone() -> bool:
            return self.process.poll() is not None or ready()

        try:
            wait_until(is_ready_or_gone, seconds, f"{self.name} to be ready")
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}{self.last_words()}") from None
        if self.process.poll() is not None:
            code = self.process.returncode
            raise BenchmarkError(f"{self.name} ended with {code}{self.last_words()}")

    def last_words(self) -> str:
        """The end of what the child wrote, for an error text."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-8:]
        return "".join(f"\n    {line}" for line in lines)

    def stop(self, seconds: float = 20) -> list[str]:
        """Ends the child, and what it started; returns the names of descendants it left behind."""
        descendants = [_Identity.of(pid) for pid in process_tree(self.pid)[1:]]
        started = [identity for identity in descendants if identity]
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        left = [identity for identity in started if identity.is_alive()]
        names = [command_name(identity.pid) for identity in left]
        for number in (signal.SIGTERM, signal.SIGKILL):
            for identity in left:
                identity.signal(number)
            deadline = time.monotonic() + 5
            while any(identity.is_alive() for identity in left) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        return names


def _prepare_child(core: int) -> None:
    """Runs in the child before its program: pins it, and ties its life to the benchmark's."""
    os.sched_setaffinity(0, {core})
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def run_tool(arguments: Sequence[str], core: int, seconds: float) -> tuple[str, float]:
    """Runs a program to its end on one core; returns its output and the CPU seconds it took.

    Raises BenchmarkError when it fails or takes longer than ``seconds``.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: _prepare_child(core),
    )
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"{arguments[0]} did not end within {seconds:g} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise BenchmarkError(f"{Path(arguments[0]).name}: {(errors or output).strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return output, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# -- wrk ------------------------------------------------------------------------------------------


def find_wrk() -> str:
    """The path of wrk; BenchmarkError when it is not installed."""
    path = shutil.which("wrk")
    if path is None:
        raise BenchmarkError("wrk is not installed")
    return path


def run_wrk(
    bench: Bench, port: int, request: Request, seconds: int | None = None, spread: int = 0
) -> Load:
    """Sends one request again and again over the bench's number of connections.

    With ``spread`` a number below it stands in the path, another one for each request: where the
    path has NUMBER, else at its end.
    Raises BenchmarkError when any response was an error, or a connection failed.
    """
    headers = [f"{name}: {value}" for name, value in request.headers.items()]
    words = [str(spread)] if spread else []
    words += [request.method, request.body, *headers]
    script = "spread.lua" if spread else "request.lua"
    return run_wrk_script(bench, f"http://{HOST}:{port}{request.path}", script, words, seconds)


def run_wrk_script(
    bench: Bench, url: str, script: str, words: Sequence[str], seconds: int | None = None
) -> Load:
    """Runs one of the scripts beside this module; what it counts as requests is its own affair."""
    seconds = bench.seconds if seconds is None else seconds
    arguments = [find_wrk(), "-t1", f"-c{bench.connections}", f"-d{seconds}s", "--latency"]
    arguments += ["-s", str(HERE / "wrk" / script), url, "--", *words]
    output, cpu = run_tool(arguments, bench.client_core, seconds + 30)
    result = _find_result(output.splitlines())
    if result["status_errors"] or result["socket_errors"]:
        raise BenchmarkError(
            f"{url}: {result['status_errors']} error responses and "
            f"{result['socket_errors']} socket errors in {result['requests']} requests"
        )
    elapsed = result["microseconds"] / 1e6
    return Load(
        requests=result["requests"],
        requests_per_second=result["requests"] / elapsed,
        latency_p50_ms=result["latency_p50_us"] / 1e3,
        latency_p99_ms=result["latency_p99_us"] / 1e3,
        client_cpu_share=cpu / elapsed,
    )


def _find_result(lines: Iterable[str]) -> dict[str, int]:
    for line in lines:
        if line.startswith("RESULT "):
            result: dict[str, int] = json.loads(line.removeprefix("RESULT "))
            return result
    raise BenchmarkError("wrk printed no result")


# -- the fan-out client ---------------------------------------------------------------------------


def compile_fanout_client(bench: Bench) -> Path:
    """Compiles the fan-out client into the bench's directory, once; BenchmarkError without gcc."""
    program = bench.directory / "fanout_client"
    if not program.exists():
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise BenchmarkError("gcc is not installed")
        source = HERE / "fanout_client.c"
        run_tool([compiler, "-O2", "-o", str(program), str(source)], bench.client_core, 120)
    return program


def run_fanout_client(
    bench: Bench, port: int, subscribe: Request, publish: Request, burst: int, flow: bool = False
) -> dict[str, Any]:
    """Measures deliveries of ``publish`` to the bench's number of consumers; see the C source.

    With ``flow`` one publisher waits for its answers only, not for the deliveries.

    The body of ``publish`` is what stands before the message of 100 bytes.
    """
    arguments = [str(compile_fanout_client(bench)), "--port", str(port)]
    arguments += ["--consumers", str(bench.consumers), "--burst", str(burst)]
    arguments += ["--seconds", str(bench.seconds), "--warmup-bursts", "20" if burst == 1 else "3"]
    arguments += ["--subscribe-path", subscribe.path, "--publish-path", publish.path]
    arguments += ["--body-prefix", publish.body]
    for name, value in subscribe.headers.items():
        arguments += ["--subscribe-header", f"{name}: {value}"]
    for name, value in publish.headers.items():
        arguments += ["--publish-header", f"{name}: {value}"]
    if flow:
        arguments.append("--flow")
    output, _ = run_tool(arguments, bench.client_core, bench.seconds + 90)
    result: dict[str, Any] = json.loads(output)
    return result
