"""How the dashboard's pages are made: templates, header lines, and the files that pages load."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from mimetypes import guess_type
from urllib.parse import quote

import jinja2

from restmq import __version__
from restmq.access import BASIC_CHALLENGE
from restmq.endpoints import ui_text
from restmq.endpoints.web import HTML, HTTP_STATUS, Reply, Request
from restmq.errors import (
    CredentialsRequired,
    MethodNotAllowed,
    NotFound,
    RestMQError,
    Unavailable,
)

SEGMENT = "ui"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

SAFE_HEADERS: Sequence[tuple[str, str]] = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    # Not less: without a referrer, browsers do not say either where a form was sent from.
    ("Referrer-Policy", "same-origin"),
)
"""Header lines of everything that the dashboard answers."""

_PAGE_HEADERS = (
    *SAFE_HEADERS,
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
_LASTING = ("Cache-Control", "private, max-age=31536000, immutable")
_PASSING = ("Cache-Control", "no-cache")


class Pages:
    """Renders pages, and hands out the files that they load."""

    def __init__(self) -> None:
        self._files = _read_files()
        digest = hashlib.sha256(b"".join(body for body, _ in self._files.values())).hexdigest()
        self._files_version = digest[:12]
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("restmq", "web/templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.globals["version"] = __version__
        self._templates.globals["files_version"] = self._files_version
        self._templates.filters.update(
            number=ui_text.show_number,
            rate=ui_text.show_rate,
            size=ui_text.show_bytes,
            duration=ui_text.show_duration,
            time=ui_text.show_time,
            name=ui_text.show_name,
            address=address,
        )

    def render(
        self,
        request: Request,
        template: str,
        values: Mapping[str, object],
        status: int = 200,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Reply:
        """Reply with a page; ``values`` are what its template names."""
        rendered = self._templates.get_template(template).render(base=base_of(request), **values)
        # What is no UTF-8 in a name of a client's making cannot be sent; it is shown as "?".
        body = rendered.encode("utf-8", "replace")
        lines = (*_PAGE_HEADERS, *headers)
        return Reply(body, status=status, content_type=HTML, headers=lines)

    def refuse(self, request: Request, error: RestMQError) -> Reply:
        """Reply with a page that tells an error, and with what browsers need to know of it."""
        status = HTTP_STATUS.get(error.code, 500)
        values = {"problem": str(error), "code": error.code, "status": status}
        headers: list[tuple[str, str]] = []
        if isinstance(error, CredentialsRequired):
            headers.append(("WWW-Authenticate", BASIC_CHALLENGE))
        elif isinstance(error, MethodNotAllowed):
            headers.append(("Allow", error.allowed))
        elif isinstance(error, Unavailable):
            headers.append(("Retry-After", str(error.retry_after_seconds)))
        return self.render(request, "error.html", values, status, headers)

    def file(self, name: str, version: str | None) -> Reply:
        """Reply with a file; raises NotFound.

        Only under the current ``version``, as pages ask for it, is it the same for ever.
        """
        found = self._files.get(name)
        if found is None:
            raise NotFound("there is no such file")
        body, content_type = found
        caching = _LASTING if version == self._files_version else _PASSING
        return Reply(body, content_type=content_type, headers=(*SAFE_HEADERS, caching))


def base_of(request: Request) -> str:
    """Return what leads from the page that was asked for to ``/ui/``, whatever proxy is between.

    It is empty, or ends in a slash.
    """
    path = request.raw_path.partition("?")[0]
    if path.endswith(f"/{SEGMENT}"):
        return f"{SEGMENT}/"
    return "../" * path.partition(f"/{SEGMENT}/")[2].count("/")


def address(page: str, **parameters: object) -> str:
    """Spell the address of a page, from ``/ui/`` on; parameters that are None are left out."""
    pairs = [
        f"{name}={quote(str(value), safe='')}"
        for name, value in parameters.items()
        if value is not None and value != ""
    ]
    return f"{page}?{'&'.join(pairs)}" if pairs else page


def see_other(location: str) -> Reply:
    """Reply to a form by sending the browser to a page, so that reloading sends nothing twice."""
    return Reply(status=303, headers=(*SAFE_HEADERS, ("Location", location)))


def _read_files() -> dict[str, tuple[bytes, str]]:
    files = {}
    for file in resources.files("restmq").joinpath("web/static").iterdir():
        content_type = guess_type(file.name)[0] or "application/octet-stream"
        if content_type.startswith("text/"):
            content_type += "; charset=utf-8"
        files[file.name] = (file.read_bytes(), content_type)
    return files
