"""The dashboard's pages of one queue, and what its forms do.

Every form is sent by POST and answered with a page to go to, so that reloading repeats nothing; if
something is wrong, the page comes again with what was entered. What cannot be undone is asked for
twice.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

from restmq.api_keys import Permission, Resource
from restmq.broker.broker import Broker
from restmq.broker.keys import message_key, message_number
from restmq.broker.stats import QueueStats
from restmq.endpoints.delivery import read_batch, read_publish_options
from restmq.endpoints.key_needs import CONSUME, MANAGE, PUBLISH, VIEW, check_key
from restmq.endpoints.ui_listing import figures_of, policy_of, row_key
from restmq.endpoints.ui_messages import letter_row, message_row, state_row
from restmq.endpoints.ui_pages import SAFE_HEADERS, Pages, address, see_other
from restmq.endpoints.ui_sampler import Sampler, queue_version
from restmq.endpoints.ui_settings import read_changes, show_settings
from restmq.endpoints.web import (
    HTTP_STATUS,
    Parameters,
    Reply,
    Request,
    query_parameters,
    read_parameters,
    whole_number,
)
from restmq.errors import InvalidInput, NotFound, RestMQError, Unavailable

PEEKED = 25
"""Messages that a page shows."""

PAGE_LETTERS = 25
"""Dead letters that a page shows."""

MAX_PAGE_BYTES = 512 * 1024
"""A page ends with the message that passes this: it is asked for again every few seconds."""

MAX_RETURNED_BYTES = 256 * 1024
"""A field that was filled with more than this comes back empty, not whole and not in part."""

MAX_OFFSET = 2**53
MAX_COUNT = 10**9

MESSAGES, DEAD, CONSUMERS, SETTINGS = "messages", "dead", "consumers", "settings"
VIEWS = (MESSAGES, DEAD, CONSUMERS, SETTINGS)

NOTICES: Mapping[str, str] = {
    "published": "Published: {}.",
    "duplicate": "Published before under this id; nothing was stored.",
    "paused": "Delivery to streams is paused.",
    "resumed": "Delivery to streams goes on.",
    "changed": "The settings are in force.",
    "unchanged": "Nothing was changed.",
    "reset": "All that was set for this queue is taken back.",
    "redriven": "Back in the queue: {}.",
    "dropped": "Dropped dead letters: {}.",
    "purged": "The queue is empty.",
    "deleted": "The message is deleted.",
}
"""What a page says after a form was sent, by a word in its address."""

QUESTIONS: Mapping[str, str] = {"purge": MESSAGES, "drop": DEAD}
"""What is asked for twice, and to which view it leads back."""


class Done(NamedTuple):
    """What a form did, and where to go then."""

    view: str
    notice: str
    amount: int | None = None


class Rights(NamedTuple):
    """What whoever looks at a queue may do to it."""

    publish: bool
    manage: bool
    delete: bool

    @classmethod
    def of(cls, request: Request, queue: str, *, may_change: bool) -> "Rights":
        """Tell them; ``may_change`` is what acl.conf says, and an API key may allow less."""
        key = request.key

        def allows(permission: Permission) -> bool:
            return may_change and (key is None or key.allows(permission, Resource(queue)))

        return cls(allows(PUBLISH), allows(MANAGE), allows(CONSUME))


class Question(Exception):
    """What was asked for must be confirmed first."""

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.action = action


class QueuePages:
    """Shows single queues, and carries out what is asked of them."""

    def __init__(self, broker: Broker, pages: Pages, sampler: Sampler) -> None:
        self._broker = broker
        self._pages = pages
        self._sampler = sampler
        self._views: Mapping[str, Callable[..., Awaitable[dict[str, object]]]] = {
            MESSAGES: self._messages,
            DEAD: self._dead,
            CONSUMERS: self._consumers,
            SETTINGS: self._settings,
        }
        self._actions: Mapping[str, Callable[..., Awaitable[Done]]] = {
            "publish": self._publish,
            "pause": self._pause,
            "resume": self._resume,
            "settings": self._change_settings,
            "reset": self._reset_settings,
            "redrive": self._redrive,
            "drop": self._drop,
            "purge": self._purge,
            "delete": self._delete,
        }

    async def show(self, request: Request, queue: str, *, may_change: bool) -> Reply:
        """Show one view of a queue. Raises NotFound, InvalidInput, Unavailable."""
        check_key(request, VIEW, queue)
        parameters = query_parameters(request)
        view = parameters.text(b"view") or MESSAGES
        if view not in VIEWS:
            raise NotFound("a queue has no such page")
        notice = _notice(parameters)
        return await self._show(
            request, queue, view, parameters, may_change=may_change, notice=notice
        )

    async def ask(self, request: Request, queue: str, action: str | None) -> Reply:
        """Ask whether something is really to be done."""
        check_key(request, MANAGE, queue)
        check_key(request, VIEW, queue)  # as the page tells the figures of the queue
        if action is None or action not in QUESTIONS:
            raise NotFound("there is nothing of this name to be confirmed")
        (stats,) = await self._broker.stats_of([queue])
        values = {"queue": queue, "stats": stats, "action": action, "back": QUESTIONS[action]}
        return self._pages.render(request, "confirm.html", values)

    async def act(self, request: Request, queue: str, may_look: Callable[[], None]) -> Reply:
        """Do what a form asks for; ``may_look`` raises if its sender may see no pages.

        A key must allow what the route of the API that does the same asks of it.
        """
        parameters, _ = await read_parameters(request)
        action = parameters.text(b"action") or ""
        perform = self._actions.get(action)
        if perform is None:
            raise InvalidInput(f"action must be one of {', '.join(self._actions)}")
        check_key(request, _PERMISSIONS.get(action, MANAGE), queue)
        try:
            done = await perform(request, queue, parameters)
        except Question as question:
            may_look()
            return await self.ask(request, queue, question.action)
        except Unavailable:
            raise
        except RestMQError as error:
            may_look()
            check_key(request, VIEW, queue)
            return await self._show(
                request,
                queue,
                _VIEW_OF_ACTION.get(action, MESSAGES),
                parameters,
                may_change=True,
                problem=str(error),
                entered=parameters,
                status=HTTP_STATUS.get(error.code, 500),
            )
        return see_other(
            address("queue", name=queue, view=done.view, did=done.notice, count=done.amount)
        )

    async def value(self, request: Request, queue: str) -> Reply:
        """Hand out a message's value as a file. Raises NotFound."""
        check_key(request, VIEW, queue)
        parameters = query_parameters(request)
        number = parameters.integer(b"number", 1, MAX_OFFSET)
        if number is None:
            raise InvalidInput("number is missing")
        found = await self._broker.inspect(queue, number)
        headers = [
            *SAFE_HEADERS,
            # What one client stores must not run as a page of this server at another's.
            ("Content-Security-Policy", "sandbox; default-src 'none'"),
            ("Content-Disposition", f'attachment; filename="message-{number}"'),
            ("Cache-Control", "no-store"),
        ]
        return Reply(found.message.value, content_type="application/octet-stream", headers=headers)

    # Views

    async def _show(
        self,
        request: Request,
        queue: str,
        view: str,
        parameters: Parameters,
        *,
        may_change: bool,
        notice: str | None = None,
        problem: str | None = None,
        entered: Parameters | None = None,
        status: int = 200,
    ) -> Reply:
        (stats,) = await self._broker.stats_of([queue])
        values = await self._views[view](queue, stats, parameters, entered)
        values |= {
            "page": "queues",
            "queue": queue,
            "stats": stats,
            "policy": policy_of(stats),
            "figures": figures_of(stats),
            "history": self._sampler.history(queue),
            "events": address("events", kind="one", name=queue),
            "list_version": queue_version(stats),
            "view": view,
            "may": Rights.of(request, queue, may_change=may_change),
            "notice": notice,
            "problem": problem,
            "row_key": row_key(queue),
        }
        return self._pages.render(request, f"queue_{view}.html", values, status)

    async def _messages(
        self, queue: str, stats: QueueStats, parameters: Parameters, entered: Parameters | None
    ) -> dict[str, object]:
        newest = parameters.text(b"newest") == "1"
        messages = await self._broker.peek(queue, PEEKED, newest=newest, max_bytes=MAX_PAGE_BYTES)
        wanted, sought, missing = parameters.text(b"message"), None, None
        if wanted is not None and entered is None:
            number = _read_number(queue, wanted)
            try:
                sought = state_row(queue, await self._broker.inspect(queue, number))
            except NotFound as error:
                missing = str(error)
        return {
            "rows": [message_row(queue, message) for message in messages],
            "newest": newest,
            "sought": sought,
            "missing": missing,
            "entered": _entered(entered, _PUBLISH_FIELDS),
        }

    async def _dead(
        self, queue: str, stats: QueueStats, parameters: Parameters, entered: Parameters | None
    ) -> dict[str, object]:
        offset = parameters.integer(b"offset", 0, MAX_OFFSET) or 0
        letters = await self._broker.dead_letters.list(
            queue, PAGE_LETTERS, offset, max_bytes=MAX_PAGE_BYTES
        )
        following = offset + len(letters)
        return {
            "rows": [letter_row(queue, letter) for letter in letters],
            "offset": offset,
            "next_offset": following if letters and following < stats.dead else None,
        }

    async def _consumers(
        self, queue: str, stats: QueueStats, parameters: Parameters, entered: Parameters | None
    ) -> dict[str, object]:
        presences = await self._broker.presences.of_queue(queue)
        nodes = {node.name: node for node in await self._broker.census.nodes()}
        return {"presences": [(each, nodes.get(each.node)) for each in presences]}

    async def _settings(
        self, queue: str, stats: QueueStats, parameters: Parameters, entered: Parameters | None
    ) -> dict[str, object]:
        settings = await self._broker.configuration.get(queue)
        return {"fields": show_settings(settings, entered), "storage": settings.storage}

    # Actions

    async def _publish(self, request: Request, queue: str, parameters: Parameters) -> Done:
        options = read_publish_options(parameters)
        content_type = parameters.text(b"content_type")
        if content_type is not None and not (content_type.isascii() and content_type.isprintable()):
            raise InvalidInput("the Content-Type must be ASCII")
        options["content_type"] = content_type
        value = parameters.raw(b"file")
        if value is None:
            # A browser sends every line break of a text as two characters.
            value = (parameters.raw(b"value") or b"").replace(b"\r\n", b"\n")
        if not value:
            raise InvalidInput("write a value, or choose a file")
        values = read_batch(value) if parameters.text(b"lines") else [value]
        added = await self._broker.publish(queue, values, **options)
        if added.is_duplicate:
            return Done(MESSAGES, "duplicate")
        return Done(MESSAGES, "published", added.total)

    async def _pause(self, request: Request, queue: str, parameters: Parameters) -> Done:
        await self._broker.set_started(queue, False)
        return Done(_view(parameters), "paused")

    async def _resume(self, request: Request, queue: str, parameters: Parameters) -> Done:
        await self._broker.set_started(queue, True)
        return Done(_view(parameters), "resumed")

    async def _change_settings(self, request: Request, queue: str, parameters: Parameters) -> Done:
        configuration = self._broker.configuration
        changes = read_changes(parameters, await configuration.get(queue))
        if not changes:
            return Done(SETTINGS, "unchanged")
        copies = changes.get("copies_to")
        for target in copies if isinstance(copies, list) else ():
            check_key(request, PUBLISH, target)
        await configuration.change(queue, changes)
        return Done(SETTINGS, "changed")

    async def _reset_settings(self, request: Request, queue: str, parameters: Parameters) -> Done:
        await self._broker.configuration.reset(queue)
        return Done(SETTINGS, "reset")

    async def _redrive(self, request: Request, queue: str, parameters: Parameters) -> Done:
        number = parameters.integer(b"number", 1, MAX_OFFSET)
        redriven = await self._broker.dead_letters.redrive(queue, number=number)
        if number is not None and not redriven:
            raise NotFound(f"there is no dead letter {message_key(queue, number)!r}")
        return Done(DEAD, "redriven", redriven)

    async def _drop(self, request: Request, queue: str, parameters: Parameters) -> Done:
        _check_confirmed(parameters, "drop")
        return Done(DEAD, "dropped", await self._broker.dead_letters.drop(queue))

    async def _purge(self, request: Request, queue: str, parameters: Parameters) -> Done:
        _check_confirmed(parameters, "purge")
        await self._broker.purge(queue)
        return Done(MESSAGES, "purged")

    async def _delete(self, request: Request, queue: str, parameters: Parameters) -> Done:
        number = parameters.integer(b"number", 1, MAX_OFFSET)
        if number is None:
            raise InvalidInput("number is missing")
        # Deleting alone would also succeed for what was taken lately.
        await self._broker.inspect(queue, number)
        if not await self._broker.delete(queue, number):
            raise NotFound(f"there is no message {message_key(queue, number)!r}")
        return Done(_view(parameters), "deleted")


_PERMISSIONS = {"publish": PUBLISH, "delete": CONSUME}
"""What a key must allow for an action; for all others it is to manage the queue."""

_VIEW_OF_ACTION = {"settings": SETTINGS, "reset": SETTINGS, "redrive": DEAD, "drop": DEAD}
_PUBLISH_FIELDS = ("value", "content_type", "ttl", "delay", "priority", "id", "lines")


def _view(parameters: Parameters) -> str:
    view = parameters.text(b"view") or MESSAGES
    return view if view in VIEWS else MESSAGES


def _notice(parameters: Parameters) -> str | None:
    """Return what a form did that led to this page."""
    text = NOTICES.get(parameters.text(b"did") or "")
    count = parameters.integer(b"count", 0, MAX_COUNT)
    return None if text is None else text.format("0" if count is None else f"{count:,}")


def _check_confirmed(parameters: Parameters, action: str) -> None:
    if parameters.text(b"confirm") != "yes":
        raise Question(action)


def _read_number(queue: str, text: str) -> int:
    """Read a message's number, or its key."""
    text = text.strip()
    number = message_number(queue, text)
    return whole_number("message", text, 1, MAX_OFFSET) if number is None else number


def _entered(parameters: Parameters | None, names: Iterable[str]) -> dict[str, str]:
    """Return what was entered into the fields of a form that comes again."""
    if parameters is None:
        return dict.fromkeys(names, "")
    values = {name: parameters.raw(name.encode()) or b"" for name in names}
    return {
        name: value.decode("utf-8", "replace") if len(value) <= MAX_RETURNED_BYTES else ""
        for name, value in values.items()
    }
