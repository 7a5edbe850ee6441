"""Listening: what comes to a queue or a channel, over as many connections as it takes."""

import logging
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import msgspec

from restmq.client.connection import Connection, Pauses, Query, retry_after_seconds
from restmq.codecs.sse import Event, EventParser
from restmq.errors import RestMQError, Unavailable

MAX_EVENT_BYTES = 64 * 1024 * 1024
"""The largest message, as JSON, that can be listened for."""

Kind = TypeVar("Kind")
OnGap = Callable[[int, int], None]
"""Told of the numbers of the first and the last message that are missing."""

logger = logging.getLogger("restmq.client")


async def listen(
    connection: Connection, path: str, query: Query, after: int | None
) -> AsyncGenerator[Event]:
    """Yield the server-sent events of a stream, resuming after breaks with ``Last-Event-ID``.

    Raises what the server refuses with; for Unavailable it tries again and again.
    """
    pauses = Pauses()
    position = "" if after is None else str(after)
    while True:
        headers = {"Accept": "text/event-stream"}
        if position:
            headers["Last-Event-ID"] = position
        parser = EventParser(position, MAX_EVENT_BYTES)
        told_seconds = 0.0
        try:
            async with connection.stream(path, headers, query) as parts:
                async for part in parts:
                    events = parser.receive_data(part)
                    position = parser.last_event_id
                    pauses.reset()
                    for event in events:
                        yield event
        except Unavailable as error:
            logger.info("listening at %s: %s", path, error)
            told_seconds = retry_after_seconds(error)
        await pauses.sleep(told_seconds)


def read_event(event: Event, kind: type[Kind]) -> Kind:
    """Return what an event carries. Raises RestMQError if that is something else."""
    try:
        return msgspec.json.decode(event.data, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RestMQError(f"the stream brought something unexpected: {error}") from error


class Gap(msgspec.Struct, rename={"first": "from", "last": "to"}):
    """Messages that are missing, by their numbers."""

    first: int
    last: int


def tell_gap(path: str, on_gap: OnGap | None, event: Event) -> None:
    """Tell of missing messages: to whom it may concern, else in the log."""
    gap = read_event(event, Gap)
    first, last = gap.first, gap.last
    if on_gap is not None:
        on_gap(first, last)
    else:
        logger.warning(
            "%s: messages %d to %d are missing, they are kept no more", path, first, last
        )
