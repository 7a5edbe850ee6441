"""The examples of the client run, and what they show is right."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from restmq.client import Client
from tests.server_process import ROOT, running_server
from tests.support import free_port

EXAMPLES = ROOT / "examples"
DEADLINE_SECONDS = 60.0
ENVIRONMENT = {"PYTHONWARNINGS": "error", "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}


@asynccontextmanager
async def started(script: str, *arguments: str) -> AsyncIterator[Process]:
    """Run an example; one that still runs when the block ends is killed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / script), *arguments),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, **ENVIRONMENT},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def end_of(process: Process) -> tuple[int | None, str, str]:
    """Wait for the end; return status, output and errors."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()


async def run(script: str, *arguments: str) -> tuple[int | None, str, str]:
    """Run an example to its end."""
    async with started(script, *arguments) as process:
        return await end_of(process)


async def next_line(process: Process) -> str:
    """Read one line that an example prints."""
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        return (await process.stdout.readline()).decode().rstrip("\n")


@pytest.fixture
async def server_url(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a server of its own."""
    async with running_server(tmp_path) as server:
        yield server.url


@pytest.mark.parametrize("script", ["client_worker.py", "client_request_reply.py"])
async def test_an_example_explains_itself(script: str) -> None:
    """--help prints the text at the head of the file."""
    status, output, errors = await run(script, "--help")
    assert (status, errors) == (0, "")
    opening = (EXAMPLES / script).read_text(encoding="utf-8").split('"""')[1]
    assert opening.splitlines()[0] in output


async def test_the_worker_acks_what_is_done_and_puts_off_what_failed(server_url: str) -> None:
    """SIGTERM lets it finish what is in hand."""
    arguments = ("client_worker.py", "chores", "--server", server_url)
    status, output, _ = await run(*arguments, "--publish", "0", "no number", "0.01")
    assert (status, output) == (0, "chores:1\nchores:2\nchores:3\n")
    async with started(*arguments) as worker, Client(server_url) as client:
        lines = sorted([await next_line(worker) for _ in range(3)])
        assert lines[0] == "chores:1 done"
        assert lines[1].startswith("chores:2 failed: could not convert")
        assert lines[2] == "chores:3 done"
        message = await client.message("chores:2")
        assert (message.state, message.attempts) == ("delayed", 1)
        await client.cancel("chores:2")
        long = await client.publish("chores", "1")
        while (await client.message(long)).state != "leased":
            pass
        worker.send_signal(signal.SIGTERM)
        assert await end_of(worker) == (0, "chores:4 done\n", "")
        stats = await client.stats("chores")
        assert (stats.ready, stats.leased) == (0, 0)


async def test_a_request_gets_its_reply(server_url: str) -> None:
    """Also one that was made before anybody answered, and an error is one."""
    script = "client_request_reply.py"
    server = ("--server", server_url)
    async with (
        started(script, "1", "2", "3.5", "--timeout-seconds", "50", *server) as early,
        started(script, "--answer", *server) as answerer,
    ):
        assert await end_of(early) == (0, "6.5\n", "")
        assert await next_line(answerer) == "adding up 3 numbers"
        status, output, errors = await run(script, *server)
        assert (status, output, errors) == (1, "", "no sum: there is nothing to add up\n")
        answerer.send_signal(signal.SIGINT)
        status, _, _ = await end_of(answerer)
        assert status == 0
    status, _, errors = await run(script, "1", "--timeout-seconds", "0.2", *server)
    assert (status, errors) == (1, "no sum: no reply from 'sums' within 0.2 s\n")


async def test_no_server_is_told() -> None:
    """In one line."""
    url = f"http://127.0.0.1:{free_port()}"
    status, output, errors = await run(
        "client_request_reply.py", "1", "--server", url, "--timeout-seconds", "0.5"
    )
    assert (status, output) == (1, "")
    assert len(errors.splitlines()) == 1
