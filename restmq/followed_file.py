"""A file that a running server follows: what it says comes into force when it changes."""

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from restmq.errors import SettingsError

MAX_FILE_BYTES: Final = 1024 * 1024

_SETTLE_SECONDS: Final = 0.1

_logger = logging.getLogger(__name__)


class FollowedFile:
    """The content of a file, and whether other content has come.

    ``what`` is how the log calls that which the file says, in the plural. ``fallback`` is what to
    read for a file that has never been there. Once it has been read, its loss is a fault and
    changes nothing: it must not open every door.
    """

    def __init__(
        self, path: str | os.PathLike[str], what: str, fallback: Path | None = None
    ) -> None:
        self._what = what
        self.name = os.fspath(path)
        self.path = Path(self.name).absolute()
        self.found = False  # whether the file itself has ever been read
        self._fallback = fallback
        self._applied: bytes | None = None
        self._last_fault: str | bytes | None = None  # a reading error, or content at fault
        self._reloading = asyncio.Lock()

    def load(self) -> bytes:
        """Return the whole content, which counts as applied; raises SettingsError."""
        self._applied = self.read()
        return self._applied

    @property
    def is_there(self) -> bool:
        """Whether there is such a file; true also where that cannot be seen: reading tells why."""
        try:
            return self.path.exists()
        except OSError:
            return True

    def read(self) -> bytes:
        """Return the whole content; raises SettingsError if it cannot be read."""
        path = self.path
        try:
            if self._fallback is not None and not self.found and not self.is_there:
                path = self._fallback
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise SettingsError(f"{self.name}: cannot be read: {error.strerror}") from None
        if len(content) > MAX_FILE_BYTES:
            raise SettingsError(f"{self.name}: the file is over {MAX_FILE_BYTES} bytes")
        self.found = path is self.path
        return content

    async def reload_if_changed(self, apply: Callable[[bytes], bool]) -> bool:
        """Look at the file now, and return whether other content was applied.

        ``apply`` returns whether the content says anything else than what is in force. Content that
        cannot be read, or at which it raises SettingsError, is logged, once each, and changes
        nothing.
        """
        async with self._reloading:
            content = None
            try:
                content = await self._read_settled()
                if content == self._applied:
                    self._last_fault = None
                    return False
                is_different = apply(content)
            except SettingsError as error:
                fault = str(error) if content is None else content
                if fault != self._last_fault:
                    self._last_fault = fault
                    _logger.error("%s; the %s in force stay as they are", error, self._what)
                return False
            self._applied, self._last_fault = content, None
            if is_different:
                _logger.info("%s has changed, and its %s are in force", self.name, self._what)
            return is_different

    async def _read_settled(self) -> bytes:
        """Read until two readings agree.

        An editor that empties a file before writing it must not be caught in between: what is
        half written may well be a valid file that says less.
        """
        content = await asyncio.to_thread(self.read)
        while content != self._applied:
            await asyncio.sleep(_SETTLE_SECONDS)
            latest = await asyncio.to_thread(self.read)
            if latest == content:
                break
            content = latest
        return content
