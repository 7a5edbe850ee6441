"""Requests are counted by route and status, and by nothing that clients can make up."""

from types import SimpleNamespace
from typing import cast

import pytest

from restmq.endpoints.metrics_requests import STATUSES, RequestCounts
from restmq.endpoints.web import Request


@pytest.mark.parametrize(
    ("path", "status", "route", "told"),
    [
        ("/q/jobs", 200, "/q", "200"),
        ("/q?after=x", 200, "/q", "200"),
        ("/stats?limit=1/2", 503, "/stats", "503"),
        ("/", 302, "/", "302"),
        ("/?queue=a/b", 404, "/", "404"),
        ("/nothing", 404, "/other", "404"),
        ("http://host/q/jobs", 200, "/other", "200"),
        ("/q/jobs", 799, "/q", "other"),
    ],
)
def test_what_counts_as_what(path: str, status: int, route: str, told: str) -> None:
    counts = RequestCounts(["", "q", "stats"])
    counts.note(cast(Request, SimpleNamespace(raw_path=path)), status)
    counts.note(cast(Request, SimpleNamespace(raw_path=path)), status)
    assert list(counts.labelled(counts.values())) == [(route, told, 2)]


def test_what_is_counted_on_the_way_is_counted_by_segment() -> None:
    counts = RequestCounts(["", "q"])
    for status in (200, 200, 507, 799):
        counts.of_segment("q")[status] += 1
    expected = [("/q", "200", 2), ("/q", "507", 1), ("/q", "other", 1)]
    assert list(counts.labelled(counts.values())) == expected


def test_rows_of_the_same_routes_are_alike_in_whatever_order_they_come() -> None:
    counts, others = RequestCounts(["q", "stats"]), RequestCounts(["stats", "q", "q"])
    assert counts.names() == others.names()
    assert len(counts.names()) == len(counts.values()) == 3 * (len(STATUSES) + 1)
