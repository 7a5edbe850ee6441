"""Changing the file of API keys: one change at a time, and never half of one.

The file is written anew beside the old one and takes its place in one step, so that a server that
follows it sees the one or the other. A new file is for its owner alone (mode 0600); one that was
there stays with its owner and group, and as readable as it was, but never for all others.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from restmq.api_keys import ApiKey, ApiKeys, format_keys, parse_keys
from restmq.errors import SettingsError
from restmq.followed_file import MAX_FILE_BYTES, FollowedFile

_MAX_MODE: Final = 0o640
"""What a file of keys may allow at the most."""

Change = Callable[[ApiKeys], Iterable[ApiKey]]


def read_keys(path: Path) -> ApiKeys:
    """Return the keys of a file, which are none if it is not there; raises SettingsError."""
    file = FollowedFile(path, "API keys")
    return parse_keys(file.read(), str(path)) if file.is_there else ApiKeys()


def change_keys(path: Path, change: Change) -> bool:
    """Put what ``change`` makes of the keys into the file; raises SettingsError.

    Returns whether there was no file before. What ``change`` raises goes through, and nothing is
    written then.
    """
    try:
        with _locked(path.parent):
            content = format_keys(change(read_keys(path))).encode()
            if len(content) > MAX_FILE_BYTES:
                raise SettingsError(f"{path} would pass {MAX_FILE_BYTES} bytes; remove some keys")
            is_new = not path.exists()
            _replace(path, content)
            return is_new
    except OSError as error:
        raise SettingsError(f"{path} cannot be changed: {error.strerror}") from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep others out who change a file of keys there at the same time."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    target = Path(os.path.realpath(path))  # what a link points to, and not the link
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if target.exists():
                _make_as_readable_as(target, file.fileno())
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    _sync_directory(target.parent)


def _make_as_readable_as(old: Path, descriptor: int) -> None:
    """Keep owner, group and mode: who may read the file, as the server, must still may."""
    status = old.stat()
    made = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (made.st_uid, made.st_gid):
        try:
            os.fchown(descriptor, status.st_uid, status.st_gid)
        except PermissionError:  # it stays ours alone, as the group would be another one
            return
    os.fchmod(descriptor, status.st_mode & _MAX_MODE)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
