"""How many HTTP requests were answered, by route and status."""

from collections.abc import Iterable, Iterator, Sequence

from aiohttp import web

from restmq.endpoints.router import Router
from restmq.endpoints.web import Request

STATUSES = (
    *(101, 200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308),
    *(400, 401, 403, 404, 405, 406, 408, 409, 410, 411, 412, 413, 414, 415, 416, 422, 426, 429),
    *(500, 501, 502, 503, 504, 507),
)
OTHER = "other"
"""The route of paths that have none, and the status of replies with one that is not known."""


class StatusCounts(dict[int, float]):
    """How many replies had which status; none of those that are not there."""

    def __missing__(self, status: int) -> float:
        """Return the count of a status that did not occur yet."""
        return 0.0

    def values_in_order(self) -> list[float]:
        """Return the counts of ``STATUSES``, and that of all others together."""
        known = [self.get(status, 0.0) for status in STATUSES]
        return [*known, sum(self.values()) - sum(known)]


class RequestCounts:
    """Counts requests by the first segment of their path, if a route has it, and by status."""

    def __init__(self, segments: Iterable[str]) -> None:
        self._rows = {name: StatusCounts() for name in sorted({*segments, OTHER})}
        self._others = self._rows[OTHER]

    def note(self, request: Request, status: int) -> None:
        """Count one request."""
        segment = request.raw_path[1:].partition("/")[0]
        row = self._rows.get(segment)
        if row is None:
            row = self._rows.get(segment.partition("?")[0], self._others)
        row[status] += 1

    def of_segment(self, segment: str) -> StatusCounts:
        """Return where requests are counted whose path begins with this segment."""
        return self._rows[segment]

    def names(self) -> list[str]:
        """Spell what ``values`` are."""
        statuses = [*map(str, STATUSES), OTHER]
        return [f"/{segment} {status}" for segment in self._rows for status in statuses]

    def values(self) -> list[float]:
        """Lay all counts out in a row."""
        return [count for row in self._rows.values() for count in row.values_in_order()]

    def labelled(self, values: Sequence[float]) -> Iterator[tuple[str, str, float]]:
        """Yield route, status and count of those in a row that are not zero."""
        statuses = (*map(str, STATUSES), OTHER)
        routes = list(self._rows)
        for index, value in enumerate(values):
            if value:
                place, status = divmod(index, len(statuses))
                yield f"/{routes[place]}", statuses[status], value


class CountingRouter(Router):
    """The front door, which also counts who passed it, once it was told where."""

    _counts: RequestCounts

    def count_with(self, counts: RequestCounts) -> None:
        """Count here from now on, with a row for every segment that has a route."""
        self._counts = counts
        # A request that is one quick operation is counted on the way, without another look at it.
        self._quick = {
            key: route._replace(counts=counts.of_segment(route.segment))
            for key, route in self._quick.items()
        }

    async def handle(self, request: Request) -> web.StreamResponse:
        """Answer one request, and count it when its reply, or its stream, is over."""
        try:
            response = await super().handle(request)
        except web.HTTPException as answer:
            self._counts.note(request, answer.status)
            raise
        self._counts.note(request, response.status)
        return response
