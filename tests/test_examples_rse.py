"""The agent pair of examples/rse: commands one way, results the other."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.server_process import running_server
from tests.support import free_port
from tests.test_examples import EXAMPLES, next_line, run, started

AGENT, CONTROL = "rse/agent.py", "rse/control.py"
TOKEN = "a token of the example"
PATIENCE_SECONDS = 60


@pytest.fixture
async def rse_url(tmp_path: Path) -> AsyncIterator[str]:
    """Where RSE is, in live mode and on a port of its own."""
    port = free_port()
    async with running_server(tmp_path, "--rse-port", str(port), "--rse-tokens", TOKEN):
        yield f"http://127.0.0.1:{port}"


def at(url: str) -> tuple[str, ...]:
    """Return the options that name the server."""
    return ("--server", url, "--token", TOKEN)


async def listens(process: asyncio.subprocess.Process, name: str) -> None:
    """Wait until an agent says that it is listening."""
    assert await next_line(process.stderr) == f"{name} is listening"


@pytest.mark.parametrize("script", [AGENT, CONTROL])
async def test_it_explains_itself(script: str) -> None:
    ended = await run(script, "--help")
    assert (ended.status, ended.errors) == (0, "")
    source = (EXAMPLES / script).read_text(encoding="utf-8")
    assert source.split('"""')[1].splitlines()[0] in ended.output


async def test_an_agent_answers_until_it_is_told_to_stop(rse_url: str) -> None:
    async with started(AGENT, "web-1", *at(rse_url)) as agent:
        await listens(agent, "web-1")
        for arguments, answer in (
            (("Ping",), "Pong"),
            (("Echo", '{"any": ["é", 1]}'), {"any": ["é", 1]}),
            (("Dance",), "unknown command 'Dance'"),
            (("Stop",), "stopping"),
        ):
            ended = await run(CONTROL, "web-1", *arguments, *at(rse_url))
            assert (ended.status, ended.errors) == (0, "")
            assert json.loads(ended.output) == answer
            assert (await next_line(agent.stdout)).startswith(f"{arguments[0]}: ")
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await agent.wait() == 0


async def test_a_restarted_agent_repeats_nothing_and_forgets_nothing(rse_url: str) -> None:
    """It leaves what was answered, and does what was asked of it meanwhile."""
    async with started(AGENT, "web-2", *at(rse_url)) as agent:
        await listens(agent, "web-2")
        assert json.loads((await run(CONTROL, "web-2", "Ping", *at(rse_url))).output) == "Pong"
    ended = await run(CONTROL, "web-2", "Echo", "7", "--timeout-seconds", "1", *at(rse_url))
    assert (ended.status, ended.output) == (1, "")
    assert "is the agent running" in ended.errors
    async with started(AGENT, "web-2", *at(rse_url)) as agent:
        assert await next_line(agent.stdout) == "Echo: 7"


async def test_an_agent_knows_its_answers_however_many_they_are(rse_url: str) -> None:
    """More than one poll returns."""
    headers = {"User-Agent": "x uuid/11111111-1111-4111-8111-111111111111", "X-Auth-Token": TOKEN}
    async with aiohttp.ClientSession(headers=headers) as session:
        for number in range(230):
            for channel, event in (("commands", "Echo"), ("results", "Result")):
                body = {"Event": event, "RequestId": f"r{number}", "Data": number}
                url = f"{rse_url}/agents/web-7/{channel}"
                async with session.post(url, json=body) as answer:
                    assert answer.status == 201
    async with started(AGENT, "web-7", *at(rse_url)) as agent:
        await listens(agent, "web-7")
        ended = await run(CONTROL, "web-7", "Ping", *at(rse_url))
        assert json.loads(ended.output) == "Pong"
        assert await next_line(agent.stdout) == "Ping: Pong"


async def test_agents_do_not_hear_each_others_commands(rse_url: str) -> None:
    async with (
        started(AGENT, "web-3", *at(rse_url)) as one,
        started(AGENT, "web-4", *at(rse_url)) as other,
    ):
        await listens(one, "web-3")
        await listens(other, "web-4")
        await run(CONTROL, "web-4", "Echo", "4", *at(rse_url))
        await run(CONTROL, "web-3", "Echo", "3", *at(rse_url))
        assert await next_line(one.stdout) == "Echo: 3"
        assert await next_line(other.stdout) == "Echo: 4"


async def test_what_is_no_command_does_no_harm(rse_url: str) -> None:
    headers = {"User-Agent": "x uuid/11111111-1111-4111-8111-111111111111", "X-Auth-Token": TOKEN}
    async with (
        started(AGENT, "web-5", *at(rse_url)) as agent,
        aiohttp.ClientSession(headers=headers) as session,
    ):
        await listens(agent, "web-5")
        for body in ("[]", "{}", '{"RequestId": 5}', '["RequestId"]'):
            async with session.post(f"{rse_url}/agents/web-5/commands", data=body) as answer:
                assert answer.status == 201
        ended = await run(CONTROL, "web-5", "Ping", *at(rse_url))
        assert json.loads(ended.output) == "Pong"


async def test_refusals_are_told(rse_url: str) -> None:
    for script, words in ((AGENT, ("web-6",)), (CONTROL, ("web-6", "Ping"))):
        ended = await run(script, *words, "--server", rse_url, "--token", "wrong")
        assert (ended.status, ended.errors.startswith("refused: 401")) == (1, True)
        ended = await run(script, *words, "--server", f"http://127.0.0.1:{free_port()}")
        assert (ended.status, ended.errors.startswith("cannot reach the server")) == (1, True)
