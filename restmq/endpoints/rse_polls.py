"""How polls are answered: from the newest events in memory, or else from the log."""

import asyncio

from restmq.broker.log import Logs
from restmq.endpoints.log_stream import EncodeOnce
from restmq.endpoints.rse_events import Reading, encode_list
from restmq.endpoints.rse_reader import Reader
from restmq.endpoints.rse_tail import Tail, encode_events

Outcome = asyncio.Future[bytes]


class Polls:
    """Finds what polls ask for: the events as JSON, with commas in between; empty for none."""

    def __init__(self, logs: Logs, reader: Reader) -> None:
        self._reader = reader
        self._tail = Tail(logs)
        self._encode_list = EncodeOnce(encode_list)
        self._loop = asyncio.get_running_loop()

    async def read(self, reading: Reading) -> bytes:
        """Read what a poll asks for from the log. Raises ``Unavailable``."""
        await self._tail.grow(reading)
        return self._encode_list(await self._reader.read(reading))

    def begin(self, reading: Reading) -> Outcome:
        """Begin a poll; the future, and this as well, may raise ``Unavailable``."""
        outcome: Outcome = self._loop.create_future()
        if not self._tail.covers(reading):
            self._ask_log(reading, outcome)
            return outcome
        query, read = self._tail.refresh()

        def answer(_: object) -> None:
            error = read.exception()
            if outcome.done():  # cancelled, as the client is gone
                return
            if error is not None:
                outcome.set_exception(error)
                return
            page = read.result()
            events = self._tail.find(reading, query, page)
            if events is None:
                self._ask_log(reading, outcome)
            else:
                outcome.set_result(encode_events(events, page.now))

        read.add_done_callback(answer)
        return outcome

    def _ask_log(self, reading: Reading, outcome: Outcome) -> None:
        """Answer a poll from the log, in a task that ends with ``outcome``."""
        task = self._loop.create_task(self.read(reading))

        def answer(_: object) -> None:
            if outcome.done() or task.cancelled():
                outcome.cancel()
                return
            error = task.exception()
            if error is None:
                outcome.set_result(task.result())
            else:
                outcome.set_exception(error)

        task.add_done_callback(answer)
        outcome.add_done_callback(lambda _: task.cancel())
