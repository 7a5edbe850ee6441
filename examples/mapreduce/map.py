"""Map/reduce, part 2: count the words of each piece of text.

Start as many mappers as you like, on as many machines as you like: the queue NAME:lines
has the policy "roundrobin", so that each piece goes to exactly one of them, in turn. The
counts of each piece go to the queue NAME:counts. A mapper ends when the queue is deleted:

    curl -X DELETE http://127.0.0.1:8888/q/mapreduce:lines

A piece is delivered at most once: when a mapper is killed with one in hand, the reducer
says which is missing instead of printing a wrong result.
"""

import re
import sys
from collections import Counter
from contextlib import aclosing
from functools import partial

import aiohttp
import comet

# Letters and digits of any script; an apostrophe belongs to a word when letters surround it.
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def count_words(text: str) -> Counter[str]:
    """Count the words of a text, whatever their case."""
    return Counter(WORD.findall(text.lower()))


async def map_pieces(server: str, name: str, label: str) -> None:
    """Count piece after piece until the queue is deleted."""
    done = 0
    lines, counts = comet.lines_queue(name), comet.counts_queue(name)
    async with aiohttp.ClientSession() as session:
        await comet.post(session, comet.route(server, "p", lines), policy="roundrobin")
        ready = partial(print, "ready", flush=True)
        async with aclosing(comet.consume(session, server, lines, ready)) as stream:
            async for message in stream:
                answer = {
                    "job": message["job"],
                    "piece": message["piece"],
                    "counts": count_words(message["text"]),
                }
                await comet.publish(session, server, counts, answer)
                done += 1
    print(f"{label}: counted {done} pieces", file=sys.stderr)


def main() -> None:
    """Read the command line and map until the job is over."""
    parser = comet.argument_parser(__doc__)
    parser.add_argument("--label", default="map", help="how it calls itself when it ends")
    arguments = parser.parse_args()
    comet.run_part(map_pieces(arguments.server, arguments.name, arguments.label))


if __name__ == "__main__":
    main()
