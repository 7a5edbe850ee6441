"""What RSE's ``/health?verbose=true`` reports (RSE specification, section 6)."""

import platform

from restmq import __version__
from restmq.broker.log import Logs
from restmq.endpoints.rse_events import EVENTS
from restmq.endpoints.web import Parameters
from restmq.errors import InvalidInput

_SWITCHES = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def is_verbose(parameters: Parameters) -> bool:
    """Return whether a report is wanted; raises InvalidInput if that cannot be told."""
    return _switch(parameters, "verbose")


async def make_report(
    logs: Logs, parameters: Parameters, is_test_mode: bool, has_tokens: bool
) -> dict[str, object]:
    """Return the report, without what only RSE's own database could tell."""
    details = {
        "profiling": _detail(parameters, "profile_db"),
        "integrity": _detail(parameters, "validate_db"),
    }
    (count,) = await logs.count(EVENTS)
    # Ids are given inside the store, so the first attempt at one is always the last.
    attempts = await logs.last_number(EVENTS)
    id_generator = {"attempts": attempts, "retries": 0, "retry_rate": 0.0}
    warnings = []
    if is_test_mode:
        warnings.append("test mode is on: clients need no token")
    elif not has_tokens:
        warnings.append("no tokens are set: no client is let in")
    return {
        "rse": {
            "test_mode": is_test_mode,
            "events": count,
            "pp_stats": {"id_generator": id_generator},
        },
        "versions": {"rse": __version__, "python": platform.python_version()},
        **details,
        "warnings": warnings,
    }


def _detail(parameters: Parameters, name: str) -> str:
    if _switch(parameters, name):
        return "N/A. RestMQ has no such report"
    return f"N/A. Pass {name}=true to enable"


def _switch(parameters: Parameters, name: str) -> bool:
    text = parameters.text(name.encode())
    if text is None:
        return False
    switch = _SWITCHES.get(text.lower())
    if switch is None:
        raise InvalidInput(f"{name} must be true or false")
    return switch
