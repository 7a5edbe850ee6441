"""The manual at ``/docs``: the Markdown files of ``restmq/docs``, as pages or as they are.

A browser gets HTML, all others the file itself, so that it reads well in a terminal too. Links
from page to page are relative and name files, and so work in both, and in the folder.
"""

import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

import jinja2
from aiohttp import web
from markdown_it import MarkdownIt
from markdown_it.token import Token

from restmq import __version__
from restmq.endpoints.router import Route
from restmq.endpoints.web import HTML, Reply, Request, has_tag, unchanged_reply
from restmq.errors import NotFound

MARKDOWN = "text/markdown; charset=utf-8"
FIRST_PAGE = "index.md"

_PAGE_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_NOT_IN_ANCHORS = re.compile(r"[^a-z0-9]+")


class Link(NamedTuple):
    """An entry of a list of contents."""

    address: str
    title: str


class _Page(NamedTuple):
    source: bytes
    source_tag: str
    html: bytes
    html_tag: str


class DocsEndpoint:
    """The manual's pages, rendered when the first of them is asked for."""

    @functools.cached_property
    def _pages(self) -> dict[str, _Page]:
        return _read_pages()

    @property
    def names(self) -> list[str]:
        """Return the names of all pages."""
        return list(self._pages)

    def routes(self) -> list[Route]:
        """Return this endpoint's rows of the route table."""
        return [Route("GET", "docs", (), self.get_page, changes=False)]

    async def get_page(self, request: Request, name: str) -> web.StreamResponse:
        """``GET /docs/...``: a page of the manual; ``/docs`` leads to the first."""
        if not name and not request.path.endswith("/"):
            return Reply(status=303, headers=[("Location", "docs/")])
        page = self._pages.get(name or FIRST_PAGE) or self._pages.get(f"{name}.md")
        if page is None:
            raise NotFound("there is no such page in the manual; /docs/ lists all")
        headers = [
            ("Cache-Control", "no-cache"),
            ("Vary", "Accept"),
            ("X-Content-Type-Options", "nosniff"),
        ]
        # HTML only for those who name it, as browsers do: a terminal says */*.
        if "text/html" in request.headers.get("Accept", ""):
            body, tag, content_type = page.html, page.html_tag, HTML
            headers.append(("Content-Security-Policy", _PAGE_POLICY))
        else:
            body, tag, content_type = page.source, page.source_tag, MARKDOWN
        headers.append(("ETag", tag))
        if has_tag(request, tag):
            return unchanged_reply(request, headers)
        return Reply(body, content_type=content_type, headers=headers)


def _read_pages() -> dict[str, _Page]:
    """Read and render all pages, in the order in which the first one links to them."""
    folder = resources.files("restmq").joinpath("docs")
    sources = {
        file.name: file.read_bytes() for file in folder.iterdir() if file.name.endswith(".md")
    }
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    contents = _links_between_pages(parser.parse(sources[FIRST_PAGE].decode()))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("restmq", "web/templates"), autoescape=True
    )
    template = environment.get_template("docs.html")
    names = [FIRST_PAGE, *(link.address for link in contents)]
    pages = {}
    for name in names:
        tokens = parser.parse(sources[name].decode())
        headings = list(_number_headings(tokens))
        html = template.render(
            title=headings[0].title if headings else name,
            body=parser.renderer.render(tokens, parser.options, {}),
            contents=[Link(FIRST_PAGE, "Overview"), *contents],
            headings=headings[1:],
            current=name,
            version=__version__,
        ).encode()
        pages[name] = _Page(sources[name], _tag_of(sources[name]), html, _tag_of(html))
    return pages


def _tag_of(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def _links_between_pages(tokens: Sequence[Token]) -> list[Link]:
    links: dict[str, Link] = {}
    for token in tokens:
        children = token.children or ()
        for position, child in enumerate(children):
            address = str(child.attrGet("href") or "") if child.type == "link_open" else ""
            if address.endswith(".md") and "/" not in address:
                links.setdefault(address, Link(address, children[position + 1].content))
    return list(links.values())


def _number_headings(tokens: Sequence[Token]) -> Iterator[Link]:
    """Give headings of the first two levels an anchor each, and yield them."""
    seen: set[str] = set()
    for position, token in enumerate(tokens):
        if token.type != "heading_open" or token.tag not in ("h1", "h2"):
            continue
        inline = tokens[position + 1]
        title = "".join(child.content for child in inline.children or ())
        anchor = _NOT_IN_ANCHORS.sub("-", title.lower()).strip("-") or "section"
        while anchor in seen:
            anchor += "-"
        seen.add(anchor)
        token.attrSet("id", anchor)
        yield Link(f"#{anchor}", title)
