"""The command line: serve, the everyday tools, and what looks after a server."""

from restmq.cli.main import main

__all__ = ["main"]
