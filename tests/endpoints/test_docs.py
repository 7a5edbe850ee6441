"""The manual at ``/docs``, as browsers and terminals get it."""

import re

import pytest

from restmq.endpoints.docs import DocsEndpoint
from tests.endpoints.conftest import NodeUnderTest
from tests.support import eventually

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


@pytest.mark.parametrize("accept", [BROWSER["Accept"], "*/*"])
async def test_a_page_that_a_client_has_is_not_sent_again(node: NodeUnderTest, accept: str) -> None:
    """Each form has a tag of its own; a proxy may weaken it, and know others beside it."""
    url, headers = f"{node.url}/docs/index.md", {"Accept": accept}
    async with node.session.get(url, headers=headers) as answer:
        tag, content_type = answer.headers["ETag"], answer.content_type
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        conditional = {**headers, "If-None-Match": condition}
        async with node.session.get(url, headers=conditional) as answer:
            assert answer.status == 304, condition
            assert await answer.read() == b""
            assert answer.headers["ETag"] == tag
            assert not {"Content-Length", "Content-Type"} & set(answer.headers)
    for other in ("*/*", BROWSER["Accept"]):
        async with node.session.get(url, headers={"Accept": other, "If-None-Match": tag}) as answer:
            assert (answer.status == 304) is (other == accept)
            assert answer.status == 304 or answer.content_type != content_type


async def test_every_metric_is_in_the_manual_and_no_other(node: NodeUnderTest) -> None:
    async def told() -> set[str]:
        text = (await node.get("/metrics"))[1].decode()
        return set(re.findall(r"^# HELP (restmq_\w+)", text, re.MULTILINE))

    async def has_totals() -> bool:  # they come once all queues were counted
        return "restmq_messages" in await told()

    await eventually(has_totals, 60)
    page = (await node.get("/docs/metrics.md"))[1].decode()
    assert set(re.findall(r"`(restmq_\w+)`", page)) == await told()


async def test_links_of_all_pages_lead_somewhere(node: NodeUnderTest) -> None:
    seen = set()
    for name in DocsEndpoint().names:
        async with node.session.get(f"{node.url}/docs/{name}", headers=BROWSER) as answer:
            seen |= set(re.findall(r'href="([a-z-]+\.md)', await answer.text()))
    assert seen == set(DocsEndpoint().names)
