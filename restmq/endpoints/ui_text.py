"""How the dashboard says numbers, times and names, so that a person reads them at a glance.

Each figure is a ``Shown``: a short text, and the exact value, which pages put into its title.
"""

import re
import time
from datetime import UTC, datetime
from typing import NamedTuple

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0

_EXACT_BELOW = 10_000
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_LATEST_SECONDS = 253_402_300_799.0
"""The end of the year 9999, beyond which no calendar goes here."""

# What a browser would not show, or what would turn the text around it: controls of ASCII and
# Latin-1, line separators, and the marks that direct bidirectional text.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


class Shown(NamedTuple):
    """A figure as a page shows it."""

    text: str
    title: str = ""
    """The exact value; empty if the text is exact."""


NOTHING = Shown("–", "none")


def show_number(number: int) -> Shown:
    """Say a number: exactly below 10,000, else with three digits or so, as 1.2 M."""
    exact = f"{number:,}"
    if number < _EXACT_BELOW:
        return Shown(exact, exact)
    return Shown(_scaled(number), exact)


def show_rate(rate: float) -> Shown:
    """Say how many a second."""
    title = f"{rate:,.3f} a second"
    if rate < 0.05:
        return Shown("0", title)
    if rate < 10:
        return Shown(f"{rate:.1f}", title)
    if rate < 1000:
        return Shown(f"{rate:.0f}", title)
    return Shown(_scaled(rate), title)


def show_bytes(count: int) -> Shown:
    """Say a number of bytes."""
    exact = f"{count:,} bytes"
    for size, unit in _BINARY_UNITS:
        if count >= size:
            scaled = count / size
            return Shown(f"{scaled:.1f} {unit}" if scaled < 100 else f"{scaled:.0f} {unit}", exact)
    return Shown(f"{count} B", exact)


def show_duration(seconds: float | None) -> Shown:
    """Say how long something takes or took; None is nothing."""
    if seconds is None:
        return NOTHING
    seconds = max(seconds, 0.0)
    return Shown(_duration(seconds), f"{seconds:,.1f} seconds")


def show_time(at: float | None, now: float | None = None) -> Shown:
    """Say when something was or will be, in Unix seconds, seen from now; None is nothing."""
    if at is None:
        return NOTHING
    seconds = at - (time.time() if now is None else now)
    title = exact_time(at)
    if abs(seconds) < 1:
        return Shown("now", title)
    if seconds < 0:
        return Shown(f"{_duration(-seconds)} ago", title)
    return Shown(f"in {_duration(seconds)}", title)


def exact_time(at: float) -> str:
    """Say a time of the calendar, in UTC."""
    if not 0 <= at <= _LATEST_SECONDS:
        return f"{at:.0f} seconds since 1970"
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} UTC"


def show_name(name: str) -> str:
    r"""Return a name with what cannot be seen written out, as ``\u202e``."""
    return _INVISIBLE.sub(_written_out, name)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _scaled(number: float) -> str:
    for size, unit in _UNITS:
        if number >= 0.9995 * size:  # 999,960 is 1.0 M, and not 1000 k
            scaled = number / size
            return f"{scaled:.1f} {unit}" if scaled < 99.95 else f"{scaled:.0f} {unit}"
    return f"{number:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "< 1 s"
    if seconds < MINUTE:
        return f"{int(seconds)} s"
    if seconds < HOUR:
        return f"{int(seconds / MINUTE)} min"
    if seconds < DAY:
        minutes = int(seconds % HOUR / MINUTE)
        return f"{int(seconds / HOUR)} h {minutes} min" if minutes else f"{int(seconds / HOUR)} h"
    return f"{int(seconds / DAY):,} d"
