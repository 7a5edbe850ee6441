"""API keys from one end to the other: made by the command line, followed by the real server."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.server_process import ROOT, ServerProcess, running_server
from tests.support import eventually, free_port

PASSWORD = (
    "[rest:producer]\nusername = u\npassword = p\n[rest:consumer]\nusername = u\npassword = p\n"
)


async def restmq(directory: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the command line there; returns its exit status and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "restmq", *arguments),
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, said = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode().strip(), said.decode()


async def statuses(server: ServerProcess, path: str, key: str) -> set[int]:
    """Ask over several connections, so that every worker is asked, all but certainly."""
    found = set()
    for _ in range(12):
        async with (
            aiohttp.ClientSession() as session,
            session.get(server.url + path, headers={"X-API-Key": key}) as answer,
        ):
            found.add(answer.status)
    return found


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_keys_are_made_used_and_taken_back(
    tmp_path: Path, fresh_name: str, workers: str
) -> None:
    """Without a restart: the file need not even be there at the start."""
    (tmp_path / "acl.conf").write_text(PASSWORD)
    async with running_server(tmp_path, "--workers", workers, "--access-log", "true") as server:
        made = ("keys", "add", "--queues", f"{fresh_name}*", "--can", "publish,consume")
        status, key, _ = await restmq(tmp_path, *made)
        assert status == 0
        assert (tmp_path / "keys.conf").stat().st_mode & 0o777 == 0o600
        os.kill(server.pid, signal.SIGHUP)
        path = f"/q/{fresh_name}"

        async def all_say(expected: int) -> bool:
            return await statuses(server, path, key) == {expected}

        await eventually(lambda: all_say(204), 30)
        assert await statuses(server, f"/stats/{fresh_name}", key) == {403}
        assert await statuses(server, "/q/elsewhere", key) == {403}
        # The everyday commands show a key as a password.
        user = ("--url", server.url, "--user", f"key:{key}")
        assert (await restmq(tmp_path, "add", fresh_name, "hello", *user))[0] == 0
        assert (await restmq(tmp_path, "take", fresh_name, *user))[:2] == (0, "hello")
        assert (await restmq(tmp_path, "purge", "--yes", fresh_name, *user))[0] == 1

        _, listed, _ = await restmq(tmp_path, "keys", "list")
        assert (await restmq(tmp_path, "keys", "remove", listed.partition("\t")[0]))[0] == 0
        await eventually(lambda: all_say(401), 60)  # no signal: it looks by itself
        log = server.log_path.read_text()
        assert key not in log
        assert listed.partition("\t")[0] in log


async def test_a_server_that_requires_keys_serves_nobody_else(
    tmp_path: Path, fresh_name: str
) -> None:
    """And says in its log that there is none yet."""
    stomp_port = free_port()
    flags = ("--require-key", "true", "--stomp-port", str(stomp_port))
    async with running_server(tmp_path, *flags) as server:
        assert "there is no key in" in server.log_path.read_text()
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{server.url}/q/{fresh_name}") as answer,
        ):
            assert answer.status == 401
        reader, writer = await asyncio.open_connection("127.0.0.1", stomp_port)
        writer.write(b"CONNECT\naccept-version:1.2\nhost:x\n\n\0")
        async with asyncio.timeout(20):
            assert await reader.readline() == b"ERROR\n"
        writer.close()
        await writer.wait_closed()


async def test_a_server_does_not_start_with_a_broken_file_of_keys(tmp_path: Path) -> None:
    """Nor without the one that was named."""
    (tmp_path / "broken.conf").write_text("[oops]\n")
    for file, words in (("broken.conf", "[oops]"), ("missing.conf", "cannot be read")):
        status, _, said = await restmq(tmp_path, "serve", "--port", "0", "--keys", file)
        assert status == 2
        assert said.count("\n") == 1
        assert file in said
        assert words in said
