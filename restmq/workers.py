"""Several worker processes on one port: start, watch, stop.

A worker that dies is started again; what it held comes back by itself (see ``broker``). A worker
whose parent dies stops too.
"""

import asyncio
import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Self

from restmq.settings import Settings

logger = logging.getLogger(__name__)

RESTART_PAUSE_SECONDS = 0.5
KILL_AFTER_SECONDS = 5.0
"""A worker gets so long beyond ``drain_seconds`` before it is killed."""

Serve = Callable[[], None]
"""What a worker runs; it must be picklable, as a partial of a function of a module is."""


def _work(serve: Serve, parent: int) -> None:
    if sys.platform == "linux":
        # PR_SET_PDEATHSIG: the kernel stops this worker when its parent dies, however it dies.
        ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGTERM))
    if os.getppid() != parent:  # it died before the line above
        return
    serve()


class WorkerPool:
    """Keeps ``settings.workers`` processes running."""

    def __init__(self, settings: Settings, serve: Serve) -> None:
        self._settings = settings
        self._serve = serve
        # A fresh interpreter: forking a process that runs an event loop is not safe.
        self._context = multiprocessing.get_context("spawn")
        self._watchers: list[asyncio.Task[None]] = []
        self._processes: list[BaseProcess | None] = [None] * settings.workers
        self._stopping = False

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._watchers = [
            loop.create_task(self._watch(index), name=f"worker-{index}")
            for index in range(self._settings.workers)
        ]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._stopping = True
        for process in self._processes:
            if process is not None and process.is_alive():
                process.terminate()
        patience_seconds = self._settings.drain_seconds + KILL_AFTER_SECONDS
        _, late = await asyncio.wait(self._watchers, timeout=patience_seconds)
        if late:
            for process in self._processes:
                if process is not None and process.is_alive():
                    logger.warning("worker %d did not stop in time and is killed", process.pid)
                    process.kill()
            await asyncio.wait(late)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Wait for ``stop``; raises if a worker cannot even be started."""
        stopped = asyncio.get_running_loop().create_task(_wait_for(stop))
        try:
            await asyncio.wait([stopped, *self._watchers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
        for watcher in self._watchers:
            if watcher.done():
                watcher.result()

    def hang_up(self) -> None:
        """Pass SIGHUP on, by which workers read acl.conf and the settings of queues again."""
        for process in self._processes:
            if process is not None and process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGHUP)

    async def _watch(self, index: int) -> None:
        """Run one worker after the other in this place."""
        while not self._stopping:
            process = self._context.Process(
                target=_work,
                args=(self._serve, os.getpid()),
                name=f"restmq-worker-{index}",
            )
            process.start()
            self._processes[index] = process
            await _ended(process)
            exit_code = process.exitcode
            process.close()
            self._processes[index] = None
            if not self._stopping:
                logger.error("worker %d died (exit code %s) and is restarted", index, exit_code)
                await asyncio.sleep(RESTART_PAUSE_SECONDS)


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


async def _ended(process: BaseProcess) -> None:
    """Wait until the process has ended, and reap it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(process.sentinel, ended.set)
    try:
        await ended.wait()
    finally:
        with contextlib.suppress(ValueError):
            loop.remove_reader(process.sentinel)
    process.join()
