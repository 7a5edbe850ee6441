"""The manual at ``/docs``, as browsers and terminals get it."""

import re

import pytest

from restmq.endpoints.docs import DocsEndpoint
from tests.endpoints.conftest import NodeUnderTest

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("name", DocsEndpoint().names)
async def test_every_page_comes_as_html_and_as_text(node: NodeUnderTest, name: str) -> None:
    async with node.session.get(f"{node.url}/docs/{name}", headers=BROWSER) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        assert "script-src" not in answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Vary"] == "Accept"
        html = await answer.text()
    async with node.session.get(f"{node.url}/docs/{name}") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/markdown"
        source = await answer.text()
    title = source.partition("\n")[0].removeprefix("# ")
    assert f">{title}</h1>" in html


async def test_all_links_and_anchors_of_the_first_page_lead_somewhere(node: NodeUnderTest) -> None:
    async with node.session.get(f"{node.url}/docs/", headers=BROWSER) as answer:
        html = await answer.text()
    local = set(re.findall(r'(?:href|src)="((?:\.\./static/)?[a-z.-]+)"', html))
    assert "../static/docs.css" in local
    for link in local:
        async with node.session.get(f"{node.url}/docs/{link}") as answer:
            assert answer.status == 200, link
    for anchor in re.findall(r'href="#([^"]+)"', html):
        assert f'id="{anchor}"' in html


async def test_the_bare_address_leads_to_the_first_page(node: NodeUnderTest) -> None:
    async with node.session.get(f"{node.url}/docs", headers=BROWSER) as answer:
        assert answer.status == 200
        assert answer.url.path == "/docs/"


async def test_a_page_may_be_named_without_its_ending(node: NodeUnderTest) -> None:
    assert (await node.get("/docs/guarantees"))[1].startswith(b"# Delivery guarantees")


async def test_what_is_no_page_is_not_found(node: NodeUnderTest) -> None:
    for name in ("nothing", "../acl.conf", "%2e%2e/acl.conf", "index.md/"):
        assert (await node.get(f"/docs/{name}"))[0] == 404


async def test_a_page_that_a_browser_has_is_not_sent_again(node: NodeUnderTest) -> None:
    url = f"{node.url}/docs/index.md"
    async with node.session.get(url, headers=BROWSER) as answer:
        tag = answer.headers["ETag"]
    async with node.session.get(url, headers={**BROWSER, "If-None-Match": tag}) as answer:
        assert answer.status == 304
        assert await answer.read() == b""
