"""Consumers that come back: what they missed, out of the queue's history.

Only broadcast messages are kept there. What is gone is announced as a ``Gap``.
"""

from collections.abc import AsyncIterator
from typing import NamedTuple

from restmq.broker.commit import Committer
from restmq.broker.consumers import Consumer
from restmq.broker.message import Message, messages_from_history
from restmq.broker.scripts import Scripts
from restmq.broker.streams import Stream

MAX_MESSAGES_PER_CALL = 256
MAX_BYTES_PER_CALL = 1024 * 1024


class Gap(NamedTuple):
    """Messages with these numbers, or some of them, were sent and are kept no more."""

    first: int
    last: int


Missed = list[Message] | Gap


async def read_missed(
    committer: Committer, scripts: Scripts, stream: Stream, consumer: Consumer, after: int
) -> AsyncIterator[Missed]:
    """Yield what was sent since message ``after`` (0: all that is kept), at the reader's pace.

    When the iteration ends, the next message of the stream is the next for the consumer, as long
    as it begins before anything else runs. Raises ``Unavailable``.
    """
    position: int | None = None
    while position is None or position < (stream.position or 0):
        upto = stream.position or 0
        call = scripts.resume(
            stream.queue, after, position, upto, MAX_MESSAGES_PER_CALL, MAX_BYTES_PER_CALL
        )
        position, first, last, *entries = await committer.submit(call)
        if last:
            yield Gap(first, last)
            after = max(after, last)
        if entries:
            messages = messages_from_history(entries)
            after = max(after, *(message.number for message in messages))
            yield messages
            await consumer.wait_until_sent()
            if not consumer.is_open:
                return
        elif position is None or position < upto:
            return  # Redis has lost the rest of the history
