"""Map/reduce, part 1: cut a text into pieces and publish them.

The pieces go to the queue NAME:lines, one message each, and wait there until mappers
listen. Then the number of pieces goes to the queue NAME:counts, so that the reducer
knows when it has seen all of them.
"""

import argparse
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import aiohttp
import comet

UP_TO_LAST_SPACE = re.compile(r".*\s", re.DOTALL)


def pieces(text: TextIO, characters: int) -> Iterator[str]:
    """Cut a text into pieces of about so many characters, never inside a word."""
    carried = ""
    while block := text.read(characters):
        block = carried + block
        whole = UP_TO_LAST_SPACE.match(block)
        end = whole.end() if whole else 0
        carried = block[end:]
        if end:
            yield block[:end]
    if carried:
        yield carried


async def load(server: str, name: str, file: Path, characters: int) -> None:
    """Publish every piece of the file, then how many there were."""
    job = uuid.uuid4().hex
    count = 0
    async with aiohttp.ClientSession() as session:
        with file.open(encoding="utf-8", errors="replace") as text:
            for piece in pieces(text, characters):
                message = {"job": job, "piece": count, "text": piece}
                await comet.publish(session, server, comet.lines_queue(name), message)
                count += 1
        summary = {"job": job, "pieces": count}
        await comet.publish(session, server, comet.counts_queue(name), summary)
    print(f"load: {count} pieces of {file}")


def main() -> None:
    """Read the command line and load one file."""
    parser = comet.argument_parser(__doc__)
    parser.add_argument("file", type=Path, help="a text in UTF-8")
    parser.add_argument(
        "--characters",
        type=positive,
        default=16_384,
        metavar="N",
        help="length of a piece (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if not arguments.file.is_file():
        parser.error(f"no such file: {arguments.file}")
    comet.run_part(load(arguments.server, arguments.name, arguments.file, arguments.characters))


def positive(text: str) -> int:
    """Read a whole number of at least 1 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    main()
