"""Puts Lua scripts together: each gets those definitions of the shared files that it uses.

Redis runs the whole text of a script at each call, so every definition costs time, used or not.
A shared file consists of local variables and functions only, each beginning with ``local`` at the
start of a line, and using only what was defined before it.
"""

import re
from typing import NamedTuple

_NAMES = re.compile(r"local (?:function )?([A-Za-z_]\w*(?:, ?[A-Za-z_]\w*)*)")
_WORDS = re.compile(r"[A-Za-z_]\w*")


class _Definition(NamedTuple):
    names: frozenset[str]
    text: str
    words: frozenset[str]


def link(shared: str, own: str) -> str:
    """Return ``own`` with what it needs of ``shared`` in front, in the same order.

    Comments between definitions are left out. Raises ``ValueError`` if ``shared`` holds anything
    but definitions.
    """
    needed = set(_WORDS.findall(own))
    kept: list[str] = []
    # A definition uses only earlier ones, so going backwards all its users are known.
    for definition in reversed(_definitions(shared)):
        if definition.names & needed:
            kept.append(definition.text)
            needed |= definition.words
    return "".join([*reversed(kept), own])


def _definitions(shared: str) -> list[_Definition]:
    found: list[_Definition] = []
    lines: list[str] = []

    def finish() -> None:
        if lines:
            text = "".join(lines)
            match = _NAMES.match(text)
            if match is None:
                raise ValueError(f"not a local definition: {lines[0].strip()!r}")
            names = frozenset(_WORDS.findall(match[1]))
            found.append(_Definition(names, text, frozenset(_WORDS.findall(text))))
            lines.clear()

    for line in shared.splitlines(keepends=True):
        if line.startswith("local "):
            finish()
        elif line.startswith("--") or not line.strip():
            continue
        lines.append(line)
    finish()
    return found
