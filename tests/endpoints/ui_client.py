"""What the tests of the dashboard share: reading its pages and sending its forms."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

from tests.endpoints.conftest import NodeUnderTest

PAGES = ["/ui", "/ui/", "/ui/queue?name=q", "/ui/logs", "/ui/nodes", "/ui/redis", "/ui/nothing"]


class PageReader(HTMLParser):
    """Collects the tags of a page and its text."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._texts: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self._texts.append(data)

    @property
    def text(self) -> str:
        """All text, with single spaces between."""
        return " ".join(" ".join(self._texts).split())

    def attributes(self, tag: str) -> Iterator[dict[str, str | None]]:
        """The attributes of each tag of this kind."""
        return (attributes for name, attributes in self.tags if name == tag)

    def links(self) -> set[str]:
        """Where its links lead."""
        return {str(each.get("href")) for each in self.attributes("a")}

    def figure(self, name: str) -> str | None:
        """The exact value of a figure at the top of the page."""
        found = [each for _, each in self.tags if each.get("data-figure") == name]
        return found[0].get("title") if found else None


def page_of(queue: str, **parameters: object) -> str:
    """Spell the address of a queue's page."""
    further = "".join(f"&{name}={quote(str(value))}" for name, value in parameters.items())
    return f"/ui/queue?name={quote(queue, safe='')}{further}"


async def read(node: NodeUnderTest, path: str) -> PageReader:
    """Get a page that must be there."""
    status, body = await node.get(path)
    assert status == 200, body
    return PageReader(body)


async def send(node: NodeUnderTest, queue: str, **fields: str) -> tuple[int, str]:
    """Send a form of a queue's page; returns the status and where it leads."""
    async with node.session.post(
        node.url + page_of(queue),
        data=fields,
        headers={"Origin": node.url},
        allow_redirects=False,
    ) as answer:
        body = await answer.text()
        return answer.status, answer.headers.get("Location", body)


async def stats(node: NodeUnderTest, queue: str) -> dict[str, Any]:
    """What the API tells of a queue."""
    async with node.session.get(f"{node.url}/stats/{quote(queue, safe='')}") as answer:
        found: dict[str, Any] = await answer.json()
        return found


async def bury(node: NodeUnderTest, queue: str, reason: str) -> None:
    """Lease the next message and give it up."""
    async with node.session.get(f"{node.url}/q/{queue}?lease=30") as answer:
        receipt = (await answer.json())["receipt"]
    assert (await node.post(f"/lease/{receipt}", data={"dead": reason}))[0] == 200
