"""Map/reduce, part 3: add up the partial counts and print the result.

Prints the number of words; with --top N also the N most frequent ones, with --json all
of them as one JSON object. Ends when the counts of every piece have come in. When
nothing comes for --idle-seconds it names the missing pieces and fails: it never prints
a result that is not complete.
"""

import asyncio
import json
import sys
from collections import Counter
from contextlib import aclosing
from functools import partial

import aiohttp
import comet


class Reduction:
    """The sum of what came in so far.

    ``job`` is the loader's mark of one run, ``pieces_expected`` is known once the loader has
    finished, and ``seen`` holds the numbers of the pieces that are in ``totals``.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.job: str | None = None
        self.pieces_expected: int | None = None
        self.seen: set[int] = set()
        self.totals: Counter[str] = Counter()

    def add(self, message: dict[str, object]) -> None:
        """Take in one message; raises ``JobFailed`` when it belongs to another run."""
        match message:
            case {"job": str(job)} if self.job not in (None, job):
                raise comet.JobFailed("two runs share these queues; give each a --name of its own")
            case {"job": str(job), "pieces": int(pieces)}:
                self.job, self.pieces_expected = job, pieces
            case {"job": str(job), "piece": int(piece), "counts": dict(counts)}:
                self.job = job
                if piece not in self.seen:
                    self.seen.add(piece)
                    self.totals.update(counts)
            case _:
                raise comet.JobFailed(f"not a message of this job: {message!r}"[:200])

    def is_complete(self) -> bool:
        """Tell whether the loader has finished and every piece has been counted."""
        return len(self.seen) == self.pieces_expected

    def missing(self) -> str:
        """Say for people what has not come in."""
        if self.pieces_expected is None:
            return f"{len(self.seen)} pieces came, but the loader has not finished"
        absent = sorted(set(range(self.pieces_expected)) - self.seen)
        named = ", ".join(map(str, absent[:10])) + (", ..." if len(absent) > 10 else "")
        return f"{len(absent)} of {self.pieces_expected} pieces are missing: {named}"


async def reduce_counts(server: str, name: str, idle_seconds: float) -> Counter[str]:
    """Add up partial counts until all have come in."""
    reduction = Reduction()
    clock = asyncio.get_running_loop().time
    async with aiohttp.ClientSession() as session:
        ready = partial(print, "ready", flush=True)
        stream = comet.consume(session, server, comet.counts_queue(name), ready)
        try:
            async with aclosing(stream), asyncio.timeout(idle_seconds) as idle:
                async for message in stream:
                    idle.reschedule(clock() + idle_seconds)
                    reduction.add(message)
                    if reduction.is_complete():
                        return reduction.totals
        except TimeoutError:
            reason = f"nothing came for {idle_seconds:g} s; {reduction.missing()}"
            raise comet.JobFailed(reason) from None
    raise comet.JobFailed(f"the server ended the stream; {reduction.missing()}")


def report(totals: Counter[str], top: int) -> str:
    """Write the result as text, with a table of the most frequent words."""
    lines = [f"{totals.total()} words, {len(totals)} different ones"]
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    if table := ranked[:top]:
        width = max(len(word) for word, _ in table)
        lines += [f"  {word:<{width}}  {count:>8}" for word, count in table]
    return "\n".join(lines)


async def run(server: str, name: str, idle_seconds: float, top: int, as_json: bool) -> None:
    """Reduce one job and print its result."""
    totals = await reduce_counts(server, name, idle_seconds)
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
    parser.add_argument(
        "--idle-seconds", type=float, default=60, help="when to give up (default: %(default)s)"
    )
    arguments = parser.parse_args()
    comet.run_part(
        run(
            arguments.server,
            arguments.name,
            arguments.idle_seconds,
            max(arguments.top, 0),
            arguments.json,
        )
    )


if __name__ == "__main__":
    main()
