"""The sections ``[queues."pattern"]`` in force: they follow the TOML file at run time."""

import asyncio
import logging
from pathlib import Path

from restmq.followed_file import FollowedFile
from restmq.queue_settings import Overrides, Patterns
from restmq.settings import Settings
from restmq.settings_sources import read_queue_patterns

_logger = logging.getLogger(__name__)


class QueuePatterns:
    """Holds the patterns in force, and puts others in their place when the file changes.

    Only these sections follow the file; its other settings are those of the start. A server that
    was started without a TOML file follows none. Not for use from several threads.
    """

    def __init__(self, patterns: Patterns, file: Path | None = None) -> None:
        self._patterns = patterns
        # Not loaded: it may have changed since the settings were read.
        self._file = None if file is None else FollowedFile(file, "settings of queues")

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
        file = self._file
        if file is None:
            return False

        def apply(content: bytes) -> bool:
            before, self._patterns = self._patterns, read_queue_patterns(content, file.path)
            return self._patterns != before

        return await file.reload_if_changed(apply)

    async def watch(self, interval_seconds: float = 60) -> None:
        """Look at the file at once and then every so often, until cancelled."""
        while True:
            try:
                await self.reload_if_changed()
            except Exception:
                # Whatever it was, the next change of the file must still be seen.
                _logger.exception("the settings of queues could not be checked for changes")
            await asyncio.sleep(interval_seconds)
