"""What schemathesis does to the requests it makes up: nothing that waits, and the right key."""

import json
from typing import Any

import schemathesis

APPLICATION, KEY = "demo", "K"
"""The Queuey application that the server under test has."""

SHORTEST_WAIT_SECONDS = "0.02"

EXPECTED = {"queue-full"}
"""Errors of the range of servers' that a client can bring about."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, **_: Any) -> None:
    """Let no request wait, or stream for ever; let most of them in."""
    path = case.operation.path
    if path == "/c/{queue}":
        case.query = {**(case.query or {}), "wait": SHORTEST_WAIT_SECONDS}
    elif case.query and "wait" in case.query:
        case.query = {**case.query, "wait": "0"}
    _wait_for_nothing(case.body)
    if path.startswith("/v1"):
        case.headers["Authorization"] = f"Application {KEY}"
        if case.path_parameters:
            case.path_parameters = {**case.path_parameters, "application": APPLICATION}


def _wait_for_nothing(value: object) -> None:
    if isinstance(value, list):
        for each in value:
            _wait_for_nothing(each)
    elif isinstance(value, dict):
        if "wait" in value:
            value["wait"] = 0
        for each in value.values():
            _wait_for_nothing(each)


@schemathesis.check
def no_fault_of_the_server(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Fail for a status from 500 on, but for those that the request has earned."""
    if response.status_code < 500:
        return
    try:
        code = json.loads(response.content)["error"]
    except (ValueError, TypeError, KeyError):
        code = None
    assert code in EXPECTED, f"{response.status_code}: {response.content!r}"
