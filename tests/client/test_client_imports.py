"""The client is light: nothing of the server comes with it."""

import subprocess
import sys
from pathlib import Path

import restmq.client
from tests.server_process import ROOT

SERVER_PARTS = (
    *("restmq.broker", "restmq.endpoints", "restmq.server", "restmq.settings", "restmq.access"),
    *("redis", "aiohttp.web", "uvloop", "jinja2", "click", "restmq.cli.main"),
)


def test_importing_the_client_imports_no_server() -> None:
    """Neither RestMQ's nor aiohttp's, nor Redis."""
    program = f"""
import sys, restmq.client
print([name for name in {SERVER_PARTS!r} if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == "[]\n"


def test_the_command_line_needs_no_client() -> None:
    """It starts fast because it loads no event loop."""
    program = "import sys, restmq.cli.client; print('restmq.client' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert found.stdout == "False\n"


def test_all_that_is_exported_is_there() -> None:
    """And sorted, and the modules stay short."""
    assert all(hasattr(restmq.client, name) for name in restmq.client.__all__)
    assert restmq.client.__all__ == sorted(restmq.client.__all__)
    for path in Path(restmq.client.__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) < 400, path
