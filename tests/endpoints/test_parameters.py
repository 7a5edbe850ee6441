"""Which headers are parameters."""

from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from restmq.endpoints.parameters import query_parameters, sole_query


def request_with(path: str = "/q/x", **headers: str) -> Any:
    """Make a request with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return make_mocked_request("GET", path, headers=named)


@pytest.mark.parametrize(
    "name", ["X_RestMQ_Delay", "x_restmq_delay", "X_RESTMQ_DELAY", "Idempotency_Key"]
)
def test_a_header_of_ours_is_a_parameter(name: str) -> None:
    request = request_with("/q/x?delay=", **{name: "5"})
    wanted = b"id" if name.startswith("Idem") else b"delay"
    assert query_parameters(request).raw(wanted) == b"5"
    assert sole_query(request) is None


@pytest.mark.parametrize(
    "name",
    [
        "X_Forwarded_For",
        "X_Auth_Token",
        "X_TTL",
        "X_RestMQ",
        "X_RestMQ_",
        "X_RestMQDelay",
        "If_None_Match",
        "Idempotency_Key_2",
        "Idempotency",
        "My_X_RestMQ_Delay",
    ],
)
def test_another_header_is_none_however_it_begins(name: str) -> None:
    request = request_with("/q/x?value=v", **{name: "5"})
    assert sole_query(request) == "value=v"
    parameters = query_parameters(request)
    assert parameters.raw(b"value") == b"v"
    assert parameters.raw(b"delay") is None
    assert not query_parameters(request_with(**{name: "5"}))


def test_the_query_wins_over_a_header() -> None:
    request = request_with("/q/x?delay=1", X_RestMQ_Delay="2", X_RestMQ_Priority="3")
    parameters = query_parameters(request)
    assert parameters.raw(b"delay") == b"1"
    assert parameters.raw(b"priority") == b"3"
