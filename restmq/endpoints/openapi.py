"""``/openapi.json``: the description of the HTTP interface, for programs."""

import hashlib
from collections.abc import Callable, Mapping

from aiohttp import web

from restmq.endpoints.router import Route
from restmq.endpoints.web import JSON, Reply, Request, encode_json, has_tag, unchanged_reply
from restmq.errors import NotFound

_TAG_CHARACTERS = 32


class OpenApiEndpoint:
    """Serves the description that ``describe`` makes; it is made once, when it is first wanted."""

    def __init__(self, describe: Callable[[], Mapping[str, object]]) -> None:
        self._describe = describe
        self._built: tuple[bytes, str] | None = None

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [Route("GET", "openapi.json", (), self.get_description, changes=False)]

    async def get_description(self, request: Request, rest: str) -> web.StreamResponse:
        """``GET /openapi.json``; 304 if ``If-None-Match`` has its ETag."""
        if rest:
            raise NotFound("there is nothing at this path; see /openapi.json")
        document, tag = self._document()
        headers = [("ETag", tag), ("Cache-Control", "no-cache")]
        if has_tag(request, tag):
            return unchanged_reply(request, headers)
        return Reply(document, content_type=JSON, headers=headers)

    def _document(self) -> tuple[bytes, str]:
        if self._built is None:
            document = encode_json(self._describe())
            digest = hashlib.sha256(document).hexdigest()[:_TAG_CHARACTERS]
            self._built = document, f'"{digest}"'
        return self._built
