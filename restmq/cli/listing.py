"""Listing what a server has of queues, a page at a time, from wherever a name begins."""

from collections.abc import Iterator, Mapping

from restmq.errors import RestMQError
from restmq.http_client import HttpClient

PAGE_QUEUES = 1000
"""The most that a server puts into one answer."""

Figures = Mapping[str, object]


def stats_pages(
    client: HttpClient, beginning: str = "", page_queues: int = PAGE_QUEUES
) -> Iterator[Mapping[str, object]]:
    """Yield the answers of ``GET /stats``, a page each, for names that begin so.

    The names in a page follow each other as their bytes do. Raises RestMQError.
    """
    after = just_before(beginning)
    while True:
        query = {"limit": page_queues, "after": after}
        page = client.request("GET", "/stats", query).json_object()
        queues = page.get("queues")
        if not isinstance(queues, dict):
            raise RestMQError(f"{client.address.url} does not tell its queues")
        yield {**page, "queues": {n: each for n, each in queues.items() if n.startswith(beginning)}}
        if len(queues) < page_queues:
            return
        after = list(queues)[-1]
        if not after.startswith(beginning):
            return


def just_before(text: str) -> str:
    """Return what sorts before ``text`` and after nearly everything else that does."""
    if not text or text[-1] <= "\x01":
        return text[:-1]
    last = chr(ord(text[-1]) - 1)
    return text[:-1] + ("\ud7ff" if "\ud800" <= last <= "\udfff" else last) + "\U0010ffff"
