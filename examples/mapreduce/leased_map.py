"""Leased map/reduce, part 2: count the words of each piece, and survive being killed.

Like map.py, but a mapper leases each piece instead of taking it, and acknowledges it when
the counts are published. A mapper that is killed loses nothing: the lease of its piece runs
out, and another mapper gets it. If it was killed between publishing and acknowledging, the
piece is counted again, but published under the same id, so that it is stored only once.

Start as many as you like, and kill them (kill -9) as you like. Ctrl-C ends one.
"""

import argparse
import json

import aiohttp
import comet
from map import count_words


async def map_pieces(server: str, name: str, lease_seconds: float) -> None:
    """Count piece after piece, for ever."""
    lines, counts = comet.lines_queue(name), comet.counts_queue(name)
    async with aiohttp.ClientSession() as session:
        await comet.never_give_up(session, server, lines)
        print("ready", flush=True)
        while True:
            message = await comet.lease(session, server, lines, lease_seconds)
            if message is None:
                continue
            piece = json.loads(message["value"])
            answer = {
                "job": piece["job"],
                "piece": piece["piece"],
                "counts": count_words(piece["text"]),
            }
            same_id = f"{piece['job']}-{piece['piece']}"
            await comet.publish(session, server, counts, answer, id=same_id)
            await comet.acknowledge(session, server, message["receipt"])


def main() -> None:
    """Read the command line and map until somebody ends it."""
    parser = comet.argument_parser(__doc__)
    add_lease_option(parser)
    arguments = parser.parse_args()
    comet.run_part(map_pieces(arguments.server, arguments.name, arguments.lease_seconds))


def add_lease_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that says when a killed mapper's piece goes to another."""
    parser.add_argument(
        "--lease-seconds",
        type=float,
        default=10,
        metavar="S",
        help="how long a mapper may take for a piece (default: %(default)s)",
    )


if __name__ == "__main__":
    main()
