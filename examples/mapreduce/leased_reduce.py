"""Leased map/reduce, part 3: add up the partial counts and print the result.

Like reduce.py, but it leases the partial counts, so that a broken connection loses none of
them. Each piece is added once, however often it was counted. It ends when the counts of
every piece have come in, and never prints a result that is not complete.
"""

import json
import sys
from collections import Counter

import aiohttp
import comet
from leased_map import add_lease_option
from reduce import Reduction, report


async def reduce_counts(server: str, name: str, lease_seconds: float) -> Counter[str]:
    """Add up partial counts until all have come in."""
    reduction = Reduction()
    counts = comet.counts_queue(name)
    async with aiohttp.ClientSession() as session:
        print("ready", file=sys.stderr, flush=True)
        while not reduction.is_complete():
            message = await comet.lease(session, server, counts, lease_seconds)
            if message is None:
                print(f"waiting: {reduction.missing()}", file=sys.stderr)
                continue
            reduction.add(json.loads(message["value"]))
            await comet.acknowledge(session, server, message["receipt"])
    return reduction.totals


async def run(server: str, name: str, lease_seconds: float, top: int, as_json: bool) -> None:
    """Reduce one job and print its result."""
    totals = await reduce_counts(server, name, lease_seconds)
    if as_json:
        json.dump({"words": totals.total(), "frequencies": totals}, sys.stdout, sort_keys=True)
        print()
    else:
        print(report(totals, top))


def main() -> None:
    """Read the command line, reduce one job and print it."""
    parser = comet.argument_parser(__doc__)
    parser.add_argument("--top", type=int, default=0, metavar="N", help="words in the table")
    parser.add_argument("--json", action="store_true", help="print every word, as JSON")
    add_lease_option(parser)
    given = parser.parse_args()
    comet.run_part(
        run(given.server, given.name, given.lease_seconds, max(given.top, 0), given.json)
    )


if __name__ == "__main__":
    main()
