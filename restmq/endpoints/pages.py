"""What a node says about itself: static pages, and whether it is alive and ready."""

from importlib import resources
from mimetypes import guess_type

from aiohttp import web

from restmq.broker.broker import Broker
from restmq.endpoints.router import Route
from restmq.endpoints.web import Reply, Request, text_reply
from restmq.errors import NotFound, Unavailable

_PAGE_POLICY = (
    "default-src 'self'; style-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class PageEndpoint:
    """Static pages and health."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._files = _read_static_files()
        self.draining = False
        """Set while the node is leaving, so that balancers send no more to it."""

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [
            Route("GET", "static", (), self.get_file, changes=False),
            Route("GET", "healthz", (), self.get_alive, changes=False),
            Route("GET", "readyz", (), self.get_ready, changes=False),
        ]

    async def get_file(self, request: Request, name: str) -> web.StreamResponse:
        """``GET /static/...``: the dashboard and help."""
        found = self._files.get(name or "index.html")
        if found is None:
            raise NotFound("there is no such page; see /static/help.html")
        content, content_type = found
        headers = [
            ("Cache-Control", "no-cache"),
            ("Content-Security-Policy", _PAGE_POLICY),
            ("X-Content-Type-Options", "nosniff"),
        ]
        return Reply(content, content_type=content_type, headers=headers)

    async def get_alive(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /healthz``: the process answers."""
        return text_reply("alive")

    async def get_ready(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /readyz``: Redis answers, and the node is not leaving."""
        if self.draining:
            raise Unavailable("the server is stopping")
        await self._broker.ping()
        return text_reply("ready")


def _read_static_files() -> dict[str, tuple[bytes, str]]:
    files = {}
    for file in resources.files("restmq").joinpath("static").iterdir():
        if file.is_file():
            content_type = guess_type(file.name)[0] or "application/octet-stream"
            if content_type.startswith("text/"):
                content_type += "; charset=utf-8"
            files[file.name] = (file.read_bytes(), content_type)
    return files
