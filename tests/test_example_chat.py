"""The chat of the examples: people in a room, who come and go."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.server_process import ROOT, running_server

CHAT = ROOT / "examples" / "rivulet" / "chat.py"
DEADLINE_SECONDS = 60


async def next_line(stream: asyncio.StreamReader | None) -> str:
    """Return the next line that is printed."""
    assert stream is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        return (await stream.readline()).decode().rstrip("\n")


class Person:
    """Somebody at a terminal."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def say(self, line: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def hears(self) -> str:
        """Return the next line of the chat."""
        return await next_line(self.process.stdout)

    async def is_told(self) -> str:
        """Return the next note."""
        return await next_line(self.process.stderr)

    async def ends(self) -> int:
        """Close the input; returns the exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.process.wait()


@asynccontextmanager
async def person(url: str, name: str, *flags: str) -> AsyncIterator[Person]:
    """Start a chat."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(CHAT), "kitchen", name, "--server", url, *flags),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "PYTHONUTF8": "1"},
    )
    try:
        yield Person(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_people_hear_each_other_and_what_was_said_while_they_were_away(
    tmp_path: Path,
) -> None:
    """Each hears the others, not themselves; a name resumes where it stopped."""
    async with running_server(tmp_path) as server:
        async with person(server.url, "alice") as alice, person(server.url, "bob") as bob:
            assert await alice.is_told() == "alice is in kitchen"
            assert await bob.is_told() == "bob is in kitchen"
            alice.say("is there coffee?")
            assert await bob.hears() == "alice: is there coffee?"
            bob.say("plenty ☕")
            assert await alice.hears() == "bob: plenty ☕"
            assert await bob.ends() == 0
            alice.say("thanks")
            alice.say("/leave")
            assert await alice.is_told() == "alice has left chat:kitchen"
            assert await alice.ends() == 0
        async with person(server.url, "bob") as bob, person(server.url, "carol") as carol:
            assert await bob.hears() == "alice: thanks"
            assert await carol.is_told() == "carol is in kitchen"
            bob.say("morning")
            assert await carol.hears() == "bob: morning"


async def test_a_wrong_address_is_told_in_one_line() -> None:
    """And ends the program."""
    async with person("http://127.0.0.1:1", "alice") as alice:
        assert "127.0.0.1:1" in await alice.is_told()
        assert await alice.ends() == 1
