"""The server against its own description: schemathesis makes the requests up.

``python -m tests.test_openapi_conformance 500`` runs a longer campaign, of so many made-up requests
for each operation.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.openapi_hooks import APPLICATION, KEY
from tests.server_process import ROOT, running_server

CHECKS = (
    "no_fault_of_the_server",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
EXAMPLES = 3
"""Requests that are made up for each operation, beside those that try each limit on purpose."""

SEED = 6
PATIENCE_SECONDS = 280


def command(url: str, examples: int, seed: int) -> Sequence[str]:
    """Return the command line of schemathesis."""
    program = Path(sys.executable).with_name("schemathesis")
    return (
        *(str(program), "run", f"{url}/openapi.json", "--phases", "coverage,fuzzing"),
        *("--checks", ",".join(CHECKS), "--max-examples", str(examples), "--seed", str(seed)),
        *("--request-timeout", "20", "--continue-on-failure", "--warnings", "off", "--no-color"),
    )


async def run(directory: Path, examples: int, seed: int) -> tuple[int, str]:
    """Run schemathesis against a server of its own; returns its exit status and report."""
    flags = (
        "--rse-test-mode",
        "true",
        "--queuey-application-keys",
        f"{APPLICATION}={KEY}",
        "--fsync",
        "no",
    )
    async with running_server(directory, *flags) as server:
        process = await asyncio.create_subprocess_exec(
            *command(server.url, examples, seed),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "SCHEMATHESIS_HOOKS": "tests.openapi_hooks",
            },
        )
        try:
            report, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return process.returncode, report.decode()


@pytest.mark.timeout(PATIENCE_SECONDS + 20)
async def test_the_server_does_what_it_says(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        status, report = await run(tmp_path, EXAMPLES, SEED)
    assert status == 0, report
    assert "Test cases:" in report


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        code, text = asyncio.run(run(Path(folder), int(sys.argv[1]), SEED))
    print(text)
    sys.exit(code)
