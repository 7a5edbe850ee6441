"""The sections ``[queues."pattern"]`` in force: they follow the TOML file at run time."""

import asyncio
import logging
from pathlib import Path
from typing import Final

from restmq.errors import SettingsError
from restmq.queue_settings import Overrides, Patterns
from restmq.settings import Settings
from restmq.settings_sources import read_queue_patterns, read_settings_file

_SETTLE_SECONDS: Final = 0.1

_logger = logging.getLogger(__name__)


class QueuePatterns:
    """Holds the patterns in force, and puts others in their place when the file changes.

    Only these sections follow the file; its other settings are those of the start. A server that
    was started without a TOML file follows none. Not for use from several threads.
    """

    def __init__(self, patterns: Patterns, file: Path | None = None) -> None:
        self._patterns = patterns
        self._file = file
        self._applied: bytes | None = None  # unknown, since the file may have changed since
        self._last_fault: str | bytes | None = None  # a reading error, or content at fault
        self._reloading = asyncio.Lock()

    @classmethod
    def of(cls, settings: Settings) -> "QueuePatterns":
        """Start with the patterns of the settings, and follow the file they were read from."""
        return cls(settings.queues, settings.config_file)

    def overrides(self, queue: str) -> Overrides:
        """Return what the patterns now in force set for a queue; see ``Patterns.overrides``."""
        return self._patterns.overrides(queue)

    async def reload_if_changed(self) -> bool:
        """Look at the file now, and return whether other patterns were put into force.

        What cannot be read or is wrong is logged, once for each content, and changes nothing.
        """
        if self._file is None:
            return False
        async with self._reloading:
            content = None
            try:
                content = await self._read_settled(self._file)
                if content == self._applied:
                    self._last_fault = None
                    return False
                patterns = read_queue_patterns(content, self._file)
            except SettingsError as error:
                fault = str(error) if content is None else content
                if fault != self._last_fault:
                    self._last_fault = fault
                    _logger.error("%s; the settings of queues stay as they are", error)
                return False
            self._applied, self._last_fault = content, None
            if patterns == self._patterns:
                return False
            self._patterns = patterns
            _logger.info("%s has changed, and its settings of queues are in force", self._file)
            return True

    async def _read_settled(self, file: Path) -> bytes:
        """Read until two readings agree, so as not to catch an editor in the middle of writing."""
        content = await asyncio.to_thread(read_settings_file, file)
        while content != self._applied:
            await asyncio.sleep(_SETTLE_SECONDS)
            latest = await asyncio.to_thread(read_settings_file, file)
            if latest == content:
                break
            content = latest
        return content

    async def watch(self, interval_seconds: float = 60) -> None:
        """Look at the file at once and then every so often, until cancelled."""
        while True:
            try:
                await self.reload_if_changed()
            except Exception:
                # Whatever it was, the next change of the file must still be seen.
                _logger.exception("the settings of queues could not be checked for changes")
            await asyncio.sleep(interval_seconds)
