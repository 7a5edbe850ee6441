"""An event loop on a thread of its own, for programs that have none."""

import asyncio
import concurrent.futures
import functools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar

from restmq.errors import RestMQError

P = ParamSpec("P")
Result = TypeVar("Result")

_END: Final = object()


class LoopThread:
    """Runs coroutines for any number of threads, until ``close``.

    ``finish`` is run last on the loop. The thread does not keep the interpreter from ending.
    """

    def __init__(self, finish: Callable[[], Awaitable[None]]) -> None:
        self._finish = finish
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._lock = threading.RLock()  # collecting garbage may close it at any time
        started = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(started)), name="restmq client", daemon=True
        )
        self._thread.start()
        started.wait()

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be run any more."""
        return self._loop is None

    async def _main(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        started.set()
        await self._stop.wait()
        await self._finish()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Wait for what a coroutine returns. Raises RestMQError if it is closed meanwhile."""
        with self._lock:
            if self._loop is None or threading.current_thread() is self._thread:
                coroutine.close()
                raise RestMQError(
                    "this client is closed"
                    if self._loop is None
                    else "a blocking client cannot be used by what runs on its own event loop"
                )
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise RestMQError("this client was closed meanwhile") from error
        finally:
            future.cancel()  # when the waiting was interrupted, as by Ctrl-C

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Have something done on the loop; nothing if it is closed."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(callback)

    def close(self) -> None:
        """Let ``finish`` run, cancel what still runs, and end the thread."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def iterate(self, items: AsyncIterator[Result]) -> Generator[Result]:
        """Yield what an asynchronous iterator does, and close it in the end."""
        iteration = _Iteration(items)
        try:
            while (item := self.run(iteration.next())) is not _END:
                yield item  # type: ignore[misc]  # it is no _END
        finally:
            with suppress(RestMQError):  # if the client is closed, so is this
                self.run(iteration.close())


class Face:
    """Something asynchronous, used from threads."""

    def __init__(self, thread: LoopThread, inner: Any) -> None:
        self._thread = thread
        self._inner = inner


def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[Any, P], Result]:
    """Make the method of a face that does as one of what is behind it, and waits for its end."""

    @functools.wraps(method)
    def call(self: Face, /, *arguments: P.args, **named: P.kwargs) -> Result:
        return self._thread.run(method(self._inner, *arguments, **named))

    return call


class _Iteration(Generic[Result]):
    """An asynchronous iterator whose caller may leave at any moment, as by Ctrl-C."""

    def __init__(self, items: AsyncIterator[Result]) -> None:
        self._items = items
        self._waiting: asyncio.Task[Any] | None = None

    async def next(self) -> Result | object:
        self._waiting = asyncio.current_task()
        return await anext(self._items, _END)

    async def close(self) -> None:
        if self._waiting is not None:  # a generator that still runs cannot be closed
            self._waiting.cancel()
            await asyncio.wait([self._waiting])
        if isinstance(self._items, AsyncGenerator):
            await self._items.aclose()
