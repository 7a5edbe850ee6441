"""Map/reduce in one command: count the words of a text with several processes.

    python wordcount.py FILE --mappers 4 --top 20

Starts a reducer and the mappers, each a program of its own that knows nothing but the
server's URL; loads the file when all of them listen; prints the reducer's result; and
deletes the queues, which tells the mappers to end. The parts can as well be started by
hand, on different machines: see load.py, map.py and reduce.py.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import comet

HERE = Path(__file__).resolve().parent
END_SECONDS = 10.0


@asynccontextmanager
async def part(script: str, *arguments: str) -> AsyncIterator[Process]:
    """Run one part; a part that still runs when the block ends is stopped."""
    command = (sys.executable, str(HERE / script), *arguments)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def wait_until_ready(process: Process, script: str) -> None:
    """Wait until a part says that its stream is open."""
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise comet.JobFailed(f"{script} did not start")


async def read_result(process: Process) -> bytes:
    """Read what the reducer prints; raises ``JobFailed`` when the reducer fails."""
    assert process.stdout is not None
    result = await process.stdout.read()
    if await process.wait() != 0:
        raise comet.JobFailed("the reducer failed")
    return result


async def first_of(result: asyncio.Task[bytes], mappers: list[Process]) -> bytes:
    """Wait for the result, unless a mapper ends before it."""
    ends = [asyncio.create_task(mapper.wait()) for mapper in mappers]
    try:
        await asyncio.wait([result, *ends], return_when=asyncio.FIRST_COMPLETED)
        if not result.done():
            raise comet.JobFailed("a mapper ended before the job was done")
        return result.result()
    finally:
        for task in (result, *ends):
            task.cancel()
        await asyncio.gather(result, *ends, return_exceptions=True)


async def count(
    server: str, name: str, file: Path, mapper_count: int, reducer_options: list[str]
) -> None:
    """Run the whole job on empty queues and print its result."""
    common = ("--server", server, "--name", name)
    queues = (comet.lines_queue(name), comet.counts_queue(name))
    async with aiohttp.ClientSession() as session, AsyncExitStack() as parts:
        for queue in queues:
            await comet.delete(session, server, queue)
        reducer = await parts.enter_async_context(part("reduce.py", *common, *reducer_options))
        mappers = [
            await parts.enter_async_context(part("map.py", *common, "--label", f"mapper {number}"))
            for number in range(1, mapper_count + 1)
        ]
        await wait_until_ready(reducer, "reduce.py")
        for mapper in mappers:
            await wait_until_ready(mapper, "map.py")
        progress(f"a reducer and {mapper_count} mappers listen")
        loader = await parts.enter_async_context(part("load.py", *common, str(file)))
        await load_all(loader)
        result = asyncio.create_task(read_result(reducer))
        text = await first_of(result, mappers)
        for queue in queues:
            await comet.delete(session, server, queue)
        async with asyncio.timeout(END_SECONDS):
            await asyncio.gather(*(mapper.wait() for mapper in mappers))
    sys.stdout.buffer.write(text)


async def load_all(loader: Process) -> None:
    """Wait for the loader to publish everything."""
    output, _ = await loader.communicate()
    if loader.returncode != 0:
        raise comet.JobFailed("the loader failed")
    progress(output.decode().strip())


def progress(text: str) -> None:
    """Tell the person at the terminal what happens, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line and run one job."""
    parser = comet.argument_parser(__doc__)
    parser.add_argument("file", type=Path, help="a text in UTF-8")
    parser.add_argument("--mappers", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="words in the table")
    parser.add_argument("--json", action="store_true", help="print every word, as JSON")
    arguments = parser.parse_args()
    if not arguments.file.is_file():
        parser.error(f"no such file: {arguments.file}")
    if arguments.mappers < 1:
        parser.error("--mappers must be at least 1")
    options = ["--top", str(arguments.top), *(["--json"] if arguments.json else [])]
    comet.run_part(
        count(arguments.server, arguments.name, arguments.file, arguments.mappers, options)
    )


if __name__ == "__main__":
    main()
