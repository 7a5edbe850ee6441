"""Every example runs, and what it shows is right."""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.server_process import running_server
from tests.support import eventually, free_port

EXAMPLES = Path(__file__).parents[1] / "examples"
PYTHON_EXAMPLES = [
    "client_request_reply.py",
    "client_worker.py",
    "comet_consumer.py",
    "syslog_feed.py",
    "worker.py",
    "mapreduce/leased_map.py",
    "mapreduce/leased_reduce.py",
    "mapreduce/leased_wordcount.py",
    "mapreduce/load.py",
    "mapreduce/map.py",
    "mapreduce/reduce.py",
    "mapreduce/wordcount.py",
    "rivulet/chat.py",
]
OTHER_PROTOCOLS = ("rse", "rivulet", "queuey", "stomp")
"""Folders of examples that are tested with their protocols."""

DEADLINE_SECONDS = 60.0
KILLS = 6

PAGE = {"Origin": "http://127.0.0.1:8000"}
FOREIGN_PAGE = {"Origin": "http://elsewhere.example"}

needs_curl = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("curl")), reason="the tour needs bash and curl"
)


@dataclass(frozen=True)
class Ended:
    """What became of an example."""

    status: int | None
    output: str
    errors: str


@asynccontextmanager
async def started(script: str, *arguments: str) -> AsyncIterator[Process]:
    """Run an example; one that still runs when the block ends is killed."""
    interpreter = sys.executable if script.endswith(".py") else "bash"
    process = await asyncio.create_subprocess_exec(
        interpreter,
        str(EXAMPLES / script),
        *arguments,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "PYTHONWARNINGS": "error", "PYTHONUTF8": "1"},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(script: str, *arguments: str) -> Ended:
    """Run an example to its end."""
    async with started(script, *arguments) as process, asyncio.timeout(DEADLINE_SECONDS):
        output, errors = await process.communicate()
    return Ended(process.returncode, output.decode(), errors.decode())


async def next_line(stream: asyncio.StreamReader | None) -> str:
    """Read one line that an example prints."""
    assert stream is not None
    async with asyncio.timeout(DEADLINE_SECONDS):
        return (await stream.readline()).decode().rstrip("\n")


async def publish(url: str, queue: str, *values: str) -> None:
    """Add messages to a queue."""
    async with aiohttp.ClientSession(url) as session:
        for value in values:
            async with session.post(f"/q/{queue}", data={"value": value}) as response:
                assert response.status == 200


@pytest.fixture
async def server_url(tmp_path: Path) -> AsyncIterator[str]:
    """The address of a server of its own."""
    async with running_server(tmp_path) as server:
        yield server.url


@pytest.mark.parametrize("script", [*PYTHON_EXAMPLES, "curl_tour.sh"])
async def test_an_example_explains_itself(script: str) -> None:
    """--help prints the text at the head of the file."""
    ended = await run(script, "--help")
    assert ended.status == 0
    assert ended.errors == ""
    source = (EXAMPLES / script).read_text(encoding="utf-8")
    opening = source.split('"""')[1] if script.endswith(".py") else source
    first_line = opening.splitlines()[0] if script.endswith(".py") else "A tour of every route"
    assert first_line in ended.output


def test_the_readme_lists_every_example() -> None:
    """A file that can be run, and each folder, is named there."""
    text = (EXAMPLES / "README.rst").read_text(encoding="utf-8")
    runnable = [*PYTHON_EXAMPLES, "curl_tour.sh"]
    assert [script for script in runnable if script not in text] == []
    present = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.py")}
    others = {name for name in present if name.partition("/")[0] in OTHER_PROTOCOLS}
    assert present - others - {"mapreduce/comet.py"} == set(PYTHON_EXAMPLES) - others
    assert [
        path.name for path in EXAMPLES.iterdir() if path.is_dir() and path.name not in text
    ] == []


def disguise(word: str, source: random.Random) -> str:
    """Write a word as texts do: capital letters and punctuation do not make it another word."""
    written = [word, word, word, word.title()]
    if word.isascii():  # elsewhere, upper() is not always the way back from lower()
        written.append(word.upper())
    before = source.choice(["", "", "", "(", "“", "— ", "_", "..."])
    after = source.choice(["", "", "", ",", ".", "!?", "”", ")", "_"])
    return before + source.choice(written) + after


def write_text(file: Path, least_bytes: int) -> Counter[str]:
    """Write a text of at least so many bytes and return the count of each word in it.

    Words come in several scripts, with apostrophes inside; most stand in lines of ordinary
    length, many in one line that is longer than several pieces.
    """
    source = random.Random(20_100)
    words = [f"word{number}" for number in range(2_000)]
    words += ["it's", "l’été", "straße", "очередь", "queue", "42", "a"] * 20
    counts: Counter[str] = Counter()
    line_words = 20_000
    with file.open("w", encoding="utf-8", newline="") as text:
        while file.stat().st_size < least_bytes:
            line = source.choices(words, k=line_words)
            counts.update(line)
            spaces = source.choices([" ", " ", " ", "\t", "  "], k=line_words)
            for word, space in zip(line, spaces, strict=True):
                text.write(disguise(word, source) + space)
            text.write(source.choice(["\n", "\n\n", "\r\n"]))
            line_words = source.randrange(1, 20)
    return counts


async def test_wordcount_counts_exactly(server_url: str, tmp_path: Path) -> None:
    """Four mappers and a reducer find each word of 500 KB as often as it was written."""
    book = tmp_path / "book.txt"
    counts = write_text(book, 500_000)
    ended = await run(
        "mapreduce/wordcount.py", str(book), "--server", server_url, "--mappers", "4", "--json"
    )
    assert ended.status == 0, ended.errors
    assert json.loads(ended.output) == {"words": counts.total(), "frequencies": counts}
    for number in range(1, 5):
        assert f"mapper {number}: counted" in ended.errors
        assert f"mapper {number}: counted 0 pieces" not in ended.errors


async def unfinished_count(session: aiohttp.ClientSession, queue: str) -> int:
    """How many messages nobody has acknowledged."""
    async with session.get(f"/stats/{queue}") as response:
        stats = await response.json()
    return int(stats["ready"] + stats["leased"] + stats["delayed"])


async def test_killed_mappers_change_nothing_in_the_total(server_url: str, tmp_path: Path) -> None:
    """Mappers are killed at random while they work, and each word is counted exactly."""
    book = tmp_path / "book.txt"
    counts = write_text(book, 600_000)
    common = ("--server", server_url, "--name", "killed")
    leased = (*common, "--lease-seconds", "1")
    loaded = await run("mapreduce/load.py", *common, str(book), "--characters", "2000")
    pieces = int(loaded.output.split()[1])
    moments = sorted(random.sample(range(80, pieces), KILLS), reverse=True)
    async with AsyncExitStack() as parts, aiohttp.ClientSession(server_url) as session:
        reducer = await parts.enter_async_context(
            started("mapreduce/leased_reduce.py", *leased, "--json")
        )
        start_mapper = partial(started, "mapreduce/leased_map.py", *leased)
        mappers = [await parts.enter_async_context(start_mapper()) for _ in range(3)]
        for moment in moments:
            while (left := await unfinished_count(session, "killed:lines")) > moment:
                await asyncio.sleep(0)
            assert left > 0, "there was nothing left to do for whom is killed"
            victim = mappers.pop(random.randrange(len(mappers)))
            victim.kill()
            assert await victim.wait() == -signal.SIGKILL
            mappers.append(await parts.enter_async_context(start_mapper()))
        async with asyncio.timeout(DEADLINE_SECONDS):
            output, errors = await reducer.communicate()
        assert reducer.returncode == 0, errors.decode()
        assert json.loads(output) == {"words": counts.total(), "frequencies": counts}
        await eventually(partial(nothing_is_left, session, "killed:lines"))


async def nothing_is_left(session: aiohttp.ClientSession, queue: str) -> bool:
    """Whether every message has been acknowledged."""
    return await unfinished_count(session, queue) == 0


async def test_leased_wordcount_starts_another_mapper_for_one_that_was_killed(
    server_url: str, tmp_path: Path
) -> None:
    """The supervisor names its processes; the result is exact."""
    book = tmp_path / "book.txt"
    counts = write_text(book, 50_000)
    async with started(
        *("mapreduce/leased_wordcount.py", str(book), "--server", server_url, "--json"),
        *("--mappers", "1", "--lease-seconds", "1"),
    ) as job:
        named = re.fullmatch(r"mapper 0 is process (\d+)", await next_line(job.stderr))
        assert named
        os.kill(int(named[1]), signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_SECONDS):
            output, errors = await job.communicate()
    assert job.returncode == 0, errors.decode()
    assert "mapper 0 died" in errors.decode()
    assert json.loads(output) == {"words": counts.total(), "frequencies": counts}


async def test_the_worker_acks_what_is_done_and_puts_off_what_failed(server_url: str) -> None:
    """What it can do is acked, what fails goes back with a delay, SIGTERM lets it finish."""
    await publish(server_url, "chores", "0", "no number", "0.01")
    async with started("worker.py", "chores", "--server", server_url) as worker:
        assert await next_line(worker.stdout) == "chores:1 done"
        assert (await next_line(worker.stdout)).startswith("chores:2 failed: could not convert")
        assert await next_line(worker.stdout) == "chores:3 done"
        async with (
            aiohttp.ClientSession(server_url) as session,
            session.get("/m/chores:2") as response,
        ):
            story = await response.json()
        assert (story["state"], story["attempts"]) == ("delayed", 1)
        worker.send_signal(signal.SIGTERM)
        async with asyncio.timeout(DEADLINE_SECONDS):
            _, errors = await worker.communicate()
        assert (worker.returncode, errors) == (0, b"")


async def test_wordcount_prints_a_table_and_leaves_nothing_behind(
    server_url: str, tmp_path: Path
) -> None:
    """The most frequent words come first; what an earlier run left does no harm."""
    poem = tmp_path / "poem.txt"
    poem.write_text("Row, row, row your boat\ngently down the stream\nRow the boat", "utf-8")
    await publish(server_url, "poems:lines", "left over")
    await publish(server_url, "poems:counts", "left over")
    ended = await run(
        *("mapreduce/wordcount.py", str(poem), "--server", server_url),
        *("--mappers", "1", "--name", "poems", "--top", "3"),
    )
    assert ended.status == 0, ended.errors
    assert [line.split() for line in ended.output.splitlines()] == [
        ["12", "words,", "7", "different", "ones"],
        ["row", "4"],
        ["boat", "2"],
        ["the", "2"],
    ]
    async with aiohttp.ClientSession(server_url) as session, session.get("/stats/") as response:
        queues = (await response.json())["queues"]
    assert {name: queue["len"] for name, queue in queues.items()} == {
        "poems:lines": 0,
        "poems:counts": 0,
    }


async def test_wordcount_of_an_empty_file_is_zero(server_url: str, tmp_path: Path) -> None:
    """No pieces, no words, and no waiting."""
    empty = tmp_path / "empty.txt"
    empty.touch()
    ended = await run("mapreduce/wordcount.py", str(empty), "--server", server_url)
    assert (ended.status, ended.output) == (0, "0 words, 0 different ones\n"), ended.errors


async def test_the_reducer_never_prints_an_incomplete_result(server_url: str) -> None:
    """When nothing more comes, it names the missing pieces and fails."""
    await publish(
        server_url,
        "lossy:counts",
        json.dumps({"job": "one", "piece": 0, "counts": {"word": 1}}),
        json.dumps({"job": "one", "pieces": 3}),
    )
    ended = await run(
        *("mapreduce/reduce.py", "--server", server_url),
        *("--name", "lossy", "--idle-seconds", "1"),
    )
    assert ended.status == 1
    assert ended.output == "ready\n"
    assert "2 of 3 pieces are missing: 1, 2" in ended.errors


async def test_the_reducer_refuses_to_mix_two_runs(server_url: str) -> None:
    """Counts of two runs in one queue are an error, not a sum."""
    await publish(
        server_url,
        "mixed:counts",
        json.dumps({"job": "one", "piece": 0, "counts": {"word": 1}}),
        json.dumps({"job": "two", "piece": 1, "counts": {"word": 1}}),
    )
    ended = await run("mapreduce/reduce.py", "--server", server_url, "--name", "mixed")
    assert ended.status == 1
    assert "two runs share these queues" in ended.errors


async def test_the_consumer_prints_messages_as_they_come(server_url: str) -> None:
    """Backlog first, then what is published while it listens; --count ends it."""
    await publish(server_url, "tail", "waiting")
    async with started("comet_consumer.py", "tail", "--server", server_url, "--count", "3") as it:
        assert await next_line(it.stdout) == "tail:1  waiting"
        await publish(server_url, "tail", "grüße", "x" * 300_000)
        assert await next_line(it.stdout) == "tail:2  grüße"
        async with asyncio.timeout(DEADLINE_SECONDS):
            output, _ = await it.communicate()
        assert output.decode() == f"tail:3  {'x' * 300_000}\n"
        assert it.returncode == 0


async def test_the_consumer_listens_again_when_its_stream_ends(server_url: str) -> None:
    """After DELETE has ended the stream, it opens another."""
    async with started(
        *("comet_consumer.py", "again", "--server", server_url, "--values", "--count", "2"),
    ) as it:
        assert "listening" in await next_line(it.stderr)
        await publish(server_url, "again", "before")
        assert await next_line(it.stdout) == "before"
        async with (
            aiohttp.ClientSession(server_url) as session,
            session.delete("/q/again") as response,
        ):
            assert response.status == 200
        assert "ended the stream" in await next_line(it.stderr)
        await publish(server_url, "again", "after")
        assert await next_line(it.stdout) == "after"


async def test_the_consumer_outlasts_a_restart_of_the_server(tmp_path: Path) -> None:
    """While the server is away it tries again, and then prints what was published after."""
    async with (
        running_server(tmp_path) as server,
        started(
            *("comet_consumer.py", "tail", "--server", server.url),
            *("--values", "--count", "2", "--pause-seconds", "0.2"),
        ) as it,
    ):
        assert "listening" in await next_line(it.stderr)
        await publish(server.url, "tail", "before")
        assert await next_line(it.stdout) == "before"
        await server.stop()
        while "connection lost" not in (note := await next_line(it.stderr)):
            assert note  # an empty line is the end of the program
        await server.start()
        await publish(server.url, "tail", "after")
        assert await next_line(it.stdout) == "after"


async def test_the_consumer_gives_up_when_it_is_refused(tmp_path: Path) -> None:
    """A user name that the server does not know is no reason to try again."""
    rules = tmp_path / "acl.conf"
    rules.write_text("[comet:consumer]\nusername = zz\npassword = bla\n", "utf-8")
    async with running_server(tmp_path, "--acl", str(rules)) as server:
        ended = await run("comet_consumer.py", "tail", "--server", server.url)
        assert (ended.status, ended.output) == (1, "")
        assert "refused: 401" in ended.errors
        await publish(server.url, "tail", "v")
        known = server.url.replace("http://", "http://zz:bla@")
        ended = await run("comet_consumer.py", "tail", "--server", known, "--count", "1")
        assert (ended.status, ended.output) == (0, "tail:1  v\n"), ended.errors


@needs_curl
async def test_the_curl_tour_meets_no_surprise(server_url: str) -> None:
    """Every step answers as the server promises, also in a queue that was used before."""
    await publish(server_url, "tour", "left over", "from before")
    ended = await run("curl_tour.sh", server_url)
    assert ended.status == 0, ended.output + ended.errors
    assert "The tour is complete" in ended.output


@needs_curl
async def test_the_curl_tour_fails_without_a_server() -> None:
    """It is a smoke test: no server, no success."""
    ended = await run("curl_tour.sh", f"http://127.0.0.1:{free_port()}")
    assert ended.status == 1
    assert "UNEXPECTED" in ended.errors


async def test_the_syslog_feed_reads_back_what_it_sent(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    """Lines sent over TCP and UDP come back with facility and severity."""
    port = str(free_port())
    async with running_server(tmp_path, "--syslog-port", port) as server:
        ended = await run("syslog_feed.py", "--server", server.url, "--syslog-port", port)
    assert ended.status == 0, ended.errors
    rows = [line.split()[:2] for line in ended.output.splitlines()[1:]]
    assert sorted(rows) == sorted(
        [
            ["auth", "crit"],
            ["mail", "info"],
            ["None", "None"],
            ["user", "notice"],
            ["local4", "notice"],
            ["local7", "debug"],
        ]
    )


class TestBrowserPage:
    """What listen.html asks for, from an origin that is allowed and from one that is not."""

    @pytest.fixture
    async def session(self, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of a server that allows the page's origin."""
        async with (
            running_server(tmp_path, "--allowed-origins", PAGE["Origin"]) as server,
            aiohttp.ClientSession(server.url) as client,
        ):
            yield client

    async def test_event_source_gets_an_event_stream(self, session: aiohttp.ClientSession) -> None:
        """Server-sent events, readable by the page, with the message as JSON data."""
        headers = {**PAGE, "Accept": "text/event-stream", "Cache-Control": "no-cache"}
        async with session.get("/c/news", headers=headers) as stream:
            assert stream.status == 200
            assert stream.content_type == "text/event-stream"
            assert stream.headers["Access-Control-Allow-Origin"] in (PAGE["Origin"], "*")
            async with session.post("/q/news", data={"value": "<b>"}, headers=PAGE) as added:
                assert added.status == 200
                assert added.headers["Access-Control-Allow-Origin"] in (PAGE["Origin"], "*")
                assert (await added.text()).strip() == "news:1"
            async with asyncio.timeout(DEADLINE_SECONDS):
                async for line in stream.content:
                    if line.startswith(b"data:") and b"news:1" in line:
                        assert json.loads(line[5:]) == {"key": "news:1", "value": "<b>"}
                        break

    async def test_a_web_socket_of_the_page_gets_the_message(
        self, session: aiohttp.ClientSession
    ) -> None:
        """One text frame with the same JSON."""
        async with session.ws_connect("/ws/news", headers=PAGE) as socket:
            async with session.post("/q/news", data={"value": "v"}, headers=PAGE) as added:
                assert added.status == 200
            message = await socket.receive_json(timeout=DEADLINE_SECONDS)
            assert message == {"key": "news:1", "value": "v"}

    async def test_a_foreign_page_is_refused(self, session: aiohttp.ClientSession) -> None:
        """A page of another origin can neither publish nor listen."""
        async with session.post("/q/news", data={"value": "v"}, headers=FOREIGN_PAGE) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
        headers = {**FOREIGN_PAGE, "Accept": "text/event-stream"}
        async with session.get("/c/news", headers=headers) as response:
            assert response.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect("/ws/news", headers=FOREIGN_PAGE)
        assert refusal.value.status == 403
        async with session.get("/stats/news") as response:
            assert (await response.json())["len"] == 0
