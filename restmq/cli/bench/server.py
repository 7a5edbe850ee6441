"""A server of its own for ``restmq bench --start``: in a directory that is gone afterwards."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restmq.errors import RestMQError, StartupError
from restmq.http_client import HttpClient, parse_address

START_SECONDS = 60.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05
TOLD_LOG_CHARACTERS = 300


@contextmanager
def started_server(fsync: str, workers: int, directory: Path | None) -> Iterator[str]:
    """Run a server with a private Redis; yields its address.

    Its data goes into a new directory within ``directory``, by default the working directory: that
    of temporary files is often in memory, where fsync does nothing.
    No settings of the user reach it. Raises StartupError.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix="restmq-bench-", dir=directory or Path.cwd()))
    except OSError as error:
        raise StartupError(f"cannot make a directory in {directory}: {error.strerror}") from error
    try:
        port = _free_port()
        process = _spawn(place, port, fsync, workers)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(process, url, place)
            yield url
        finally:
            _stop(process)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _spawn(place: Path, port: int, fsync: str, workers: int) -> "subprocess.Popen[bytes]":
    environment = {n: value for n, value in os.environ.items() if not n.startswith("RESTMQ_")}
    # It works elsewhere, and must find this very program there.
    package = str(Path(__file__).parents[3])
    known = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{package}{os.pathsep}{known}" if known else package
    flags = {"port": port, "fsync": fsync, "workers": workers, "data-dir": place / "data"}
    arguments = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    with (place / "server.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603 - it is this program
            [sys.executable, "-m", "restmq", "serve", *arguments],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for us, who stop it in our turn
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str, place: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            log = (place / "server.log").read_text(errors="replace")[-TOLD_LOG_CHARACTERS:]
            raise StartupError(f"the server did not start: {log.strip() or 'it said nothing'}")
        try:
            with HttpClient(parse_address(url)) as client:
                client.request("GET", "/readyz")
        except RestMQError:
            time.sleep(POLL_SECONDS)
        else:
            return


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
