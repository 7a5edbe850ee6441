"""What an API key must allow for each route: one table, asked by the router alone.

A route whose queue stands in its path, or in its receipts, has a row here. One whose queue is only
known from its body or form is ``ASKED_WITHIN``: its handler asks ``check_key``. A route without a
row, such as the pages for people, shows or changes whatever there is; so it takes ``view`` of
everything, or, where acl.conf asks for a producer, ``manage`` of everything.

Lists of queues (``/q``, ``/stats``, ``/control``) show what a key may view. Beside a key, RSE's
tokens and Queuey's application keys are needed as ever.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from restmq.access import Section
from restmq.api_keys import EVERYTHING, Need, Permission, Resource
from restmq.broker.receipts import read_receipt
from restmq.endpoints.web import Request, query_parameters
from restmq.errors import InvalidInput

PUBLISH, CONSUME = Permission.PUBLISH, Permission.CONSUME
VIEW, MANAGE = Permission.VIEW, Permission.MANAGE

Needs = Iterable[Need]
FindNeeds = Callable[[Request, str], Needs]
"""Tells what a request needs; the text is the path after its first segment, decoded."""

_NOTHING: Final[Needs] = ()


def _asked_within(request: Request, name: str) -> Needs:
    return _NOTHING


ASKED_WITHIN: Final[FindNeeds] = _asked_within
"""The handler knows the queue, and asks."""


def check_key(request: Request, permission: Permission, queue: str) -> None:
    """Raise Forbidden if the request came with a key that does not allow this on the queue."""
    if request.key is not None:
        request.key.check_queue(permission, queue)


def hides(request: Request, queue: str) -> bool:
    """Return whether a list must leave the queue out."""
    return request.key is not None and not request.key.allows(VIEW, Resource(queue))


def needs_of(
    request: Request, method: str, segment: str, sections: tuple[Section, ...], name: str
) -> Needs:
    """Return what a key must allow for a request to the route of this method and segment."""
    find = _TABLE.get((method, segment))
    if find is not None:
        return find(request, name)
    return (Need(MANAGE if Section.PRODUCER in sections else VIEW, EVERYTHING),)


def _queue(permission: Permission) -> FindNeeds:
    """The queue is the rest of the path; without a name it is a list, which shows what it may."""

    def find(request: Request, name: str) -> Needs:
        return (Need(permission, Resource(name)),) if name else _NOTHING

    return find


def _get_queue(request: Request, name: str) -> Needs:
    return _queue(take_permission(request))(request, name)


def take_permission(request: Request) -> Permission:
    """Return what ``GET /q/Q`` takes: to take or lease, or only to look."""
    return CONSUME if query_parameters(request).raw(b"peek") is None else VIEW


def _get_stats(request: Request, name: str) -> Needs:
    if query_parameters(request).names(b"stomp"):  # tells what else those clients do
        return (Need(VIEW, EVERYTHING),)
    return _queue(VIEW)(request, name)


def _message(permission: Permission) -> FindNeeds:
    """The rest is a message's key, whose last colon ends the queue's name."""

    def find(request: Request, name: str) -> Needs:
        return (Need(permission, Resource(name.rpartition(":")[0])),)

    return find


def _leases(request: Request, name: str) -> Needs:
    needs = []
    for text in name.split(","):
        try:
            needs.append(Need(CONSUME, Resource(read_receipt(text).queue)))
        except InvalidInput:  # the handler tells so
            continue
    return needs


def _collectd(request: Request, name: str) -> Needs:
    return (Need(PUBLISH, Resource(f"collectd_{name}")),)


# Names that are no queues


def _path(permission: Permission, *segments: str, is_whole: bool = False) -> Need:
    path = "/" + "/".join(segments)
    return Need(permission, Resource(path, is_path=True, is_whole=is_whole))


def _segments(request: Request) -> list[str]:
    """Return the decoded segments after the first, each of which may hold slashes."""
    segments = request.rel_url.raw_path.split("/")[2:]
    if segments and not segments[-1]:
        segments.pop()
    return [
        unquote_to_bytes(segment.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
        for segment in segments
    ]


def _channel(permission: Permission) -> FindNeeds:
    def find(request: Request, name: str) -> Needs:
        match _segments(request):
            case []:
                return (_path(VIEW, "channels", "", is_whole=True),)
            case [channel, *_]:
                return (_path(permission, "channels", channel),)
        return _NOTHING

    return find


def _cursor(permission: Permission) -> FindNeeds:
    """A client's cursors are its own, and only channels that are covered get one.

    So whoever reads as a client may read whatever that client was subscribed to.
    """

    def find(request: Request, name: str) -> Needs:
        match _segments(request):
            case []:
                return (_path(permission, "cursors", "", is_whole=True),)
            case [client]:
                return (_path(permission, "cursors", client),)
            case [client, "read"] if request.method == "POST":
                return (_path(permission, "cursors", client),)
            case [client, channel, *_]:
                return (
                    _path(permission, "cursors", client),
                    _path(permission, "channels", channel),
                )
        return _NOTHING

    return find


def _rse(request: Request, name: str) -> Needs:
    """Reading a channel's parents, or all below it, takes those as well."""
    parameters = query_parameters(request)
    if name in ("", "health"):
        return _NOTHING
    if request.method == "POST" or parameters.raw(b"method") == b"POST":
        return (_path(PUBLISH, "rse", name),)
    if name == "all":  # in test mode it shows the events of all channels
        return (_path(CONSUME, "rse", "", is_whole=True),)
    match parameters.raw(b"events"):
        case b"all":
            return (_path(CONSUME, "rse", name), _path(CONSUME, "rse", name, "", is_whole=True))
        case b"parent":
            parts = name.split("/")
            return [_path(CONSUME, "rse", *parts[:end]) for end in range(1, len(parts) + 1)]
        case _:
            return (_path(CONSUME, "rse", name),)


_QUEUEY: Final[Mapping[tuple[str, int], Permission]] = {
    ("GET", 2): CONSUME,
    ("GET", 3): CONSUME,
    ("POST", 2): PUBLISH,
    ("POST", 3): PUBLISH,
    ("PUT", 2): MANAGE,
    ("PUT", 3): PUBLISH,
    ("DELETE", 2): MANAGE,
    ("DELETE", 3): CONSUME,
}
"""By how many names the path has: application, queue, messages."""


def _queuey(request: Request, name: str) -> Needs:
    names = [part for part in name.split("/") if part]
    method = "GET" if request.method == "HEAD" else request.method
    if not names:
        return _NOTHING
    if len(names) == 1:
        permission = VIEW if method == "GET" else MANAGE
        return (_path(permission, "v1", names[0], "", is_whole=True),)
    permission = _QUEUEY.get((method, min(len(names), 3)), MANAGE)
    return (_path(permission, "v1", *names[:2]),)


_TABLE: Final[Mapping[tuple[str, str], FindNeeds]] = {
    ("GET", ""): ASKED_WITHIN,
    ("POST", ""): ASKED_WITHIN,
    ("GET", "q"): _get_queue,
    ("POST", "q"): _queue(PUBLISH),
    ("DELETE", "q"): _queue(MANAGE),
    ("POST", "queue"): ASKED_WITHIN,
    ("GET", "c"): _queue(CONSUME),
    ("GET", "ws"): _queue(CONSUME),
    ("GET", "p"): _queue(VIEW),
    ("POST", "p"): _queue(MANAGE),
    ("GET", "stats"): _get_stats,
    ("GET", "control"): _queue(VIEW),
    ("POST", "control"): _queue(MANAGE),
    ("GET", "j"): _queue(VIEW),
    ("GET", "settings"): _queue(VIEW),
    ("PATCH", "settings"): _queue(MANAGE),  # and to publish, where it copies to: asked within
    ("DELETE", "settings"): _queue(MANAGE),
    ("GET", "m"): _message(VIEW),
    ("POST", "m"): _message(MANAGE),
    ("DELETE", "m"): _message(CONSUME),
    ("GET", "dead"): _queue(VIEW),
    ("POST", "dead"): _queue(MANAGE),
    ("DELETE", "dead"): _queue(MANAGE),
    ("POST", "lease"): _leases,
    ("DELETE", "lease"): _leases,
    ("POST", "collectd"): _collectd,
    ("GET", "channels"): _channel(CONSUME),
    ("POST", "channels"): _channel(PUBLISH),
    ("DELETE", "channels"): _channel(MANAGE),
    ("GET", "cursors"): _cursor(CONSUME),
    ("PUT", "cursors"): _cursor(CONSUME),
    ("POST", "cursors"): _cursor(CONSUME),
    ("DELETE", "cursors"): _cursor(CONSUME),
    **{(method, "rse"): _rse for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")},
    **{(method, "v1"): _queuey for method in ("GET", "POST", "PUT", "DELETE")},
    # The frames tell what they are about, and each is asked for (``stomp_access.py``).
    ("GET", "stomp"): ASKED_WITHIN,
    ("GET", "ui"): ASKED_WITHIN,
    ("POST", "ui"): ASKED_WITHIN,
}
