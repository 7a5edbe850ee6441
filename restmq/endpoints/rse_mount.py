"""RSE on a port of its own, where channels begin at the root of the path."""

from typing import Final

from aiohttp import web

from restmq.endpoints.router import Pending, Router
from restmq.endpoints.web import Reply, Request

SEGMENT: Final = "rse"
"""What stands in front of the channel on the HTTP port."""


class RootMount:
    """Serves what a router has under one segment at the root, and nothing else of it.

    The request goes through the router, with the segment put in front of its path, so that access
    and origins are decided in the one place where they always are.
    """

    def __init__(self, router: Router, segment: str = SEGMENT) -> None:
        self._router = router
        self._prefix = f"/{segment}"

    async def handle(self, request: Request) -> web.StreamResponse:
        """Answer one request."""
        return await self._router.handle(self._mount(request))

    def begin(self, request: Request) -> Pending | None:
        """Begin a request if it is one quick operation; ``handle`` serves all others."""
        return self._router.begin(self._mount(request))

    def finish(self, request: Request, pending: Pending) -> Reply:
        """Make the reply to what was begun."""
        return self._router.finish(request, pending)

    def _mount(self, request: Request) -> Request:
        message = request._message  # not raw_path, which would remember what it was first
        path = message.path
        if path[:1] != "/":  # the absolute form, which proxies use
            path = request.rel_url.raw_path_qs
        request._message = message._replace(path=self._prefix + path)
        return request
