"""Leased map/reduce in one command: the right total, whatever happens to the mappers.

    python leased_wordcount.py FILE --mappers 4 --top 20

Like wordcount.py, but each piece of text is leased to a mapper instead of given away. Kill
mappers while it runs (kill -9): a new one is started for each, what the killed one had in
hand comes again when its lease ends, and the result is exact. The parts can as well be
started by hand, on different machines: see load.py, leased_map.py and leased_reduce.py.
"""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import comet
from leased_map import add_lease_option
from wordcount import load_all, part, progress, read_result

RESTART_SECONDS = 0.5


async def keep_mapper(arguments: tuple[str, ...], number: int) -> None:
    """Run a mapper, and another one whenever it dies, until cancelled."""
    while True:
        async with part("leased_map.py", *arguments) as mapper:
            progress(f"mapper {number} is process {mapper.pid}")
            await mapper.wait()
        progress(f"mapper {number} died")
        await asyncio.sleep(RESTART_SECONDS)


async def count(
    server: str, name: str, file: Path, mapper_count: int, lease: str, options: list[str]
) -> None:
    """Run the whole job on empty queues and print its result."""
    common = ("--server", server, "--name", name)
    leased = (*common, "--lease-seconds", lease)
    queues = (comet.lines_queue(name), comet.counts_queue(name))
    async with aiohttp.ClientSession() as session, AsyncExitStack() as parts:
        for queue in queues:
            await comet.delete(session, server, queue)
        mappers = [
            asyncio.create_task(keep_mapper(leased, number)) for number in range(mapper_count)
        ]
        try:
            reducer = await parts.enter_async_context(part("leased_reduce.py", *leased, *options))
            loader = await parts.enter_async_context(part("load.py", *common, str(file)))
            await load_all(loader)
            text = await read_result(reducer)
        finally:
            for mapper in mappers:
                mapper.cancel()
            await asyncio.gather(*mappers, return_exceptions=True)
        for queue in queues:
            await comet.delete(session, server, queue)
    sys.stdout.buffer.write(text)


def main() -> None:
    """Read the command line and run one job."""
    parser = comet.argument_parser(__doc__)
    parser.add_argument("file", type=Path, help="a text in UTF-8")
    parser.add_argument("--mappers", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--top", type=int, default=0, metavar="N", help="words in the table")
    parser.add_argument("--json", action="store_true", help="print every word, as JSON")
    add_lease_option(parser)
    given = parser.parse_args()
    if not given.file.is_file():
        parser.error(f"no such file: {given.file}")
    if given.mappers < 1:
        parser.error("--mappers must be at least 1")
    options = ["--top", str(given.top), *(["--json"] if given.json else [])]
    lease = str(given.lease_seconds)
    comet.run_part(count(given.server, given.name, given.file, given.mappers, lease, options))


if __name__ == "__main__":
    main()
