"""Programs that tests of deployment need and that may be missing."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples" / "deployment"


def program(name: str) -> str:
    """Return the path of a program; skips the test where it is missing, and says so."""
    found = shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin") or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def replace_once(text: str, *replacements: tuple[str, str]) -> str:
    """Replace pieces of a shipped file, each of which must be there exactly once."""
    for old, new in replacements:
        assert text.count(old) == 1, (text.count(old), old)
        text = text.replace(old, new)
    return text
