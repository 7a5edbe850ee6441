"""Request and reply, between two clients, over one node and over two."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from restmq.client import (
    AccessDenied,
    CallFailed,
    CallTimedOut,
    Client,
    Conflict,
    ConnectionLost,
    InvalidInput,
    RateLimited,
    Request,
    RestMQError,
    StoreUnavailable,
)
from restmq.endpoints.stomp_access import StompAccess
from tests.client.cutter import Cutter
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.endpoints.stomp_client import subscribe, web_stomp_client
from tests.support import eventually


async def add(request: Request) -> object:
    """Add numbers up."""
    return sum(request.json(list[int]))


@contextlib.asynccontextmanager
async def serving(
    client: Client, queue: str, handler: Any = add, concurrency: int = 1
) -> AsyncIterator[None]:
    """Serve while the block runs."""
    task = asyncio.create_task(client.serve(queue, handler, concurrency=concurrency))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_call_gets_its_reply(client: Client, fresh_name: str) -> None:
    """Whether the answerer was there before, or comes later; nothing is left behind."""
    early = asyncio.create_task(client.call(fresh_name, [1, 2]))
    await eventually(lambda: _ready(client, fresh_name, 1))
    async with serving(client, fresh_name):
        assert (await early).json(int) == 3
        reply = await client.call(fresh_name, [1, 2, 3])
        assert (reply.json(), reply.content_type) == (6, "application/json")
    stats = await client.stats(fresh_name)
    assert (stats.ready, stats.leased, stats.dead) == (0, 0, 0)


async def _ready(client: Client, queue: str, count: int) -> bool:
    return (await client.stats(queue)).ready == count


@pytest.mark.parametrize("value", [b"\x00\xff\n", "grüße", {"a": 1}, b"x" * 300_000, b""])
async def test_requests_and_replies_are_any_values(
    client: Client, fresh_name: str, value: object
) -> None:
    """They come as they were sent, with their types."""

    async def echo(request: Request) -> object:
        assert request.queue == fresh_name
        assert not request.is_redelivered
        return request.json() if request.content_type == "application/json" else request.value

    async with serving(client, fresh_name, echo):
        reply = await client.call(fresh_name, value)
        if isinstance(value, dict):
            assert reply.json() == value
        else:
            assert reply.value == (value.encode() if isinstance(value, str) else value)


async def test_many_calls_at_once_get_their_own_replies(client: Client, fresh_name: str) -> None:
    """As many at a time as the answerer takes."""
    running = most = 0

    async def double(request: Request) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return 2 * request.json(int)

    async with serving(client, fresh_name, double, concurrency=5):
        replies = await asyncio.gather(*(client.call(fresh_name, n) for n in range(50)))
    assert [reply.json() for reply in replies] == [2 * n for n in range(50)]
    assert most == 5


async def test_the_error_of_the_other_side_is_that_of_the_call(
    client: Client, fresh_name: str
) -> None:
    """What the handler raises, or an answer that cannot be sent."""

    async def fail(request: Request) -> object:
        if request.text == "unsendable":
            return object()
        raise ValueError("three: is\nno number")

    async with serving(client, fresh_name, fail):
        with pytest.raises(CallFailed, match="three: is no number"):
            await client.call(fresh_name, "x")
        with pytest.raises(CallFailed, match="cannot be written"):
            await client.call(fresh_name, "unsendable")
    assert (await client.stats(fresh_name)).leased == 0


async def test_nobody_answers_in_time(client: Client, fresh_name: str) -> None:
    """The request stays; a reply that is too late harms nobody."""
    with pytest.raises(CallTimedOut, match=r"within 0\.1 s"):
        await client.call(fresh_name, [1], timeout_seconds=0.1)
    with pytest.raises(TimeoutError):
        await client.call(fresh_name, [1], timeout_seconds=0.1)
    async with serving(client, fresh_name):
        assert (await client.call(fresh_name, [5])).json() == 5
    assert (await client.stats(fresh_name)).ready == 0


async def test_a_bad_call_is_refused_alone(client: Client, fresh_name: str) -> None:
    """Others keep theirs."""
    async with serving(client, fresh_name):
        with pytest.raises(InvalidInput):
            await client.call("x" * 255, [1])
        with pytest.raises(InvalidInput):
            await client.call("", [1])
        with pytest.raises(InvalidInput):
            await client.serve(fresh_name, add, concurrency=0)
        waiting = asyncio.create_task(client.call(fresh_name + "-silent", 1, 30))
        await eventually(lambda: _ready(client, fresh_name + "-silent", 1))
        with pytest.raises(RestMQError, match="wildcard"):
            await client.call(f"{fresh_name}.>", [1])
        assert (await client.call(fresh_name, [1])).json() == 1
        assert not waiting.done()
        waiting.cancel()


async def test_access_is_asked_for(open_node: OpenNode, fresh_name: str) -> None:
    """The user of the client is the login."""
    rules = "[stomp]\nusername = ann\npassword = secret"
    async with open_node(rules) as node:
        async with (
            Client(node.url, user="ann", password="secret") as client,
            serving(client, fresh_name),
        ):
            assert (await client.call(fresh_name, [1])).json() == 1
        async with Client(node.url) as client:
            with pytest.raises(AccessDenied):
                await client.call(fresh_name, [1])
            with pytest.raises(AccessDenied):
                await client.serve(fresh_name, add)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> list[RestMQError]:
    """Errors that the next frames to a destination are refused with, one each."""
    errors: list[RestMQError] = []
    check = StompAccess.check

    def checked(self: StompAccess, *arguments: Any) -> Any:
        if errors and len(arguments) > 2:
            raise errors.pop(0)
        return check(self, *arguments)

    monkeypatch.setattr(StompAccess, "check", checked)
    return errors


async def test_what_passes_ends_neither_side(
    client: Client, fresh_name: str, refuse: list[RestMQError]
) -> None:
    """A Redis that is away for a moment, a limit of rates: both sides ask again."""
    refuse += [StoreUnavailable("Redis is away"), RateLimited("too many")]
    async with serving(client, fresh_name):
        await eventually(lambda: not refuse)
        refuse += [StoreUnavailable("Redis is away"), RateLimited("too many")]  # the way back
        assert (await client.call(fresh_name, [1, 2])).json() == 3
        assert not refuse
        refuse += [StoreUnavailable("Redis is away"), RateLimited("too many")]  # the request
        assert (await client.call(fresh_name, [1, 2])).json() == 3
        assert not refuse


async def test_what_does_not_pass_is_raised_as_what_it_is(
    client: Client, fresh_name: str, refuse: list[RestMQError]
) -> None:
    """By the code word of the ERROR frame."""
    refuse.append(Conflict("it cannot be"))
    with pytest.raises(Conflict, match="it cannot be"):
        await client.serve(fresh_name, add)


async def test_a_refusal_to_connect_that_says_no_code_is_a_lost_connection(
    open_node: OpenNode,
    fresh_name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What else could it be but a reason of the moment: serving goes on."""
    caplog.set_level(logging.INFO, "restmq.client")
    async with open_node() as node, Client(node.url) as client:
        admit, refused = StompAccess.admit, []

        def refuse_once(self: StompAccess, *arguments: Any) -> Any:
            if not refused:
                refused.append(True)
                error = AccessDenied("not now")
                error.code = ""
                raise error
            return admit(self, *arguments)

        monkeypatch.setattr(StompAccess, "admit", refuse_once)
        async with serving(client, fresh_name):
            assert (await client.call(fresh_name, [1])).json() == 1
    assert "STOMP: not now" in caplog.text


async def test_no_more_are_handled_than_asked_for_when_a_connection_breaks(
    cut_client: Client, client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """Those that come over the new one wait, and are cancelled before it is given up."""
    running = most = 0
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: Request) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        begun.set()
        await go_on.wait()
        running -= 1
        return None

    for value in ("1", "2", "3"):
        await client.publish(fresh_name, value)
    async with serving(cut_client, fresh_name, hold):
        await begun.wait()
        cutter.cut_all()
        await eventually(lambda: _is_delivered_again(client, f"{fresh_name}:1"))
        await asyncio.sleep(0)
        go_on.set()
        await eventually(lambda: _is_empty(client, fresh_name))
    assert most == 1


async def test_requests_that_share_their_names_are_not_one(
    node: NodeUnderTest, client: Client, fresh_name: str
) -> None:
    """Only a delivery that says it is a second one, of the same body, is."""
    handled: list[str] = []
    both = asyncio.Event()

    async def handle(request: Request) -> object:
        handled.append(request.text)
        if len(handled) == 3:
            both.set()
        await both.wait()
        return request.text

    async with web_stomp_client(node.url) as stomp, serving(client, fresh_name, handle, 3):
        await subscribe(stomp, f"/queue/{fresh_name}-replies", "auto")
        for body in (b"1", b"2", b"2"):
            await stomp.call(
                *("SEND", body),
                destination=f"/queue/{fresh_name}",
                reply_to=f"/queue/{fresh_name}-replies",
                correlation_id="same",
            )
        replies = sorted([(await stomp.message()).body for _ in range(3)])
        await eventually(lambda: _is_empty(client, fresh_name))
    assert (sorted(handled), replies) == (["1", "2", "2"], [b"1", b"2", b"2"])


async def test_a_handler_that_takes_too_long_is_cancelled_and_its_request_goes_back(
    client: Client, fresh_name: str
) -> None:
    """Well before its lease would run out; the next attempt answers."""
    cancelled: list[str] = []

    async def handle(request: Request) -> object:
        if request.is_redelivered:
            return "at last"
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(request.text)
        return None

    task = asyncio.create_task(client.serve(fresh_name, handle, timeout_seconds=0.1))
    assert (await client.call(fresh_name, "x")).text == "at last"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert cancelled == ["x"]
    with pytest.raises(InvalidInput):
        await client.serve(fresh_name, handle, timeout_seconds=0)


async def test_handlers_end_before_others_get_their_requests(
    client: Client, fresh_name: str
) -> None:
    """What a handler does when it is cancelled is not done twice at once."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def clean_up_slowly(request: Request) -> object:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await go_on.wait()
        return None

    await client.publish(fresh_name, "v")
    task = asyncio.create_task(client.serve(fresh_name, clean_up_slowly))
    await begun.wait()
    task.cancel()
    # So long as the connection lives, its unsettled request stays with it.
    done, _ = await asyncio.wait([task], timeout=0.3)
    assert not done
    assert (await client.stats(fresh_name)).leased == 1
    go_on.set()
    await asyncio.gather(task, return_exceptions=True)
    await eventually(lambda: _ready(client, fresh_name, 1))


async def test_a_call_that_ends_in_time_disturbs_no_other(
    cut_client: Client, client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """Also while the way back for replies is opened anew."""
    waiting = asyncio.create_task(cut_client.call(fresh_name, [1]))
    await eventually(lambda: _ready(client, fresh_name, 1))
    caller = cut_client._caller
    caller._watch, watch = asyncio.create_task(asyncio.Event().wait()), caller._watch
    assert caller._replies is not None
    caller._replies.ended.set()
    with pytest.raises(CallTimedOut):
        await cut_client.call(fresh_name, [1], timeout_seconds=0.1)
    assert not caller._watch.cancelled()
    caller._watch.cancel()
    caller._watch = watch
    with pytest.raises(ConnectionLost):
        await waiting


async def test_calls_reach_over_nodes(open_node: OpenNode, fresh_name: str) -> None:
    """The caller at one, the answerer at the other."""
    async with (
        open_node() as here,
        open_node() as there,
        Client(here.url) as caller,
        Client(there.url) as answerer,
        serving(answerer, fresh_name),
    ):
        replies = await asyncio.gather(*(caller.call(fresh_name, [n, n]) for n in range(20)))
        assert [reply.json() for reply in replies] == [2 * n for n in range(20)]


async def test_a_call_whose_way_back_breaks_is_told(
    cut_client: Client, client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """And the next one opens a new way."""
    waiting = asyncio.create_task(cut_client.call(fresh_name, [1]))
    await eventually(lambda: _ready(client, fresh_name, 1))
    cutter.cut_all()
    with pytest.raises(ConnectionLost, match="way back"):
        await waiting
    async with serving(client, fresh_name):
        assert (await cut_client.call(fresh_name, [2])).json() == 2


async def test_an_answerer_whose_connection_breaks_answers_once(
    cut_client: Client, client: Client, cutter: Cutter, fresh_name: str
) -> None:
    """The request comes again while it is handled, and is the same one."""
    begun, go_on, handled = asyncio.Event(), asyncio.Event(), []

    async def slow(request: Request) -> object:
        handled.append(request)
        begun.set()
        await go_on.wait()
        return "done"

    async with serving(cut_client, fresh_name, slow):
        calling = asyncio.create_task(client.call(fresh_name, "x"))
        await begun.wait()
        cutter.cut_all()
        await eventually(lambda: _is_delivered_again(client, f"{fresh_name}:1"))
        go_on.set()
        assert (await calling).text == "done"
        await eventually(lambda: _ready(client, fresh_name, 0))
    assert len(handled) == 1
    assert (await client.stats(fresh_name)).leased == 0


async def _is_delivered_again(client: Client, key: str) -> bool:
    message = await client.message(key)
    return (message.state, message.attempts) == ("leased", 2)


async def test_a_cancelled_answerer_leaves_its_request_to_others(
    client: Client, fresh_name: str
) -> None:
    """At once."""
    begun = asyncio.Event()

    async def hang(request: Request) -> object:
        begun.set()
        await asyncio.Event().wait()
        return None

    async with serving(client, fresh_name, hang):
        calling = asyncio.create_task(client.call(fresh_name, [4]))
        await begun.wait()
    async with serving(client, fresh_name):
        assert (await calling).json() == 4


async def test_what_wants_no_reply_is_handled_too(client: Client, fresh_name: str) -> None:
    """It is acknowledged when it was handled, and given back when that failed."""
    done = asyncio.Event()

    async def handle(request: Request) -> object:
        if not request.is_redelivered:
            raise ValueError("not yet")
        done.set()
        return None

    await client.publish(fresh_name, "v")
    async with serving(client, fresh_name, handle):
        await done.wait()
        await eventually(lambda: _is_empty(client, fresh_name))


async def _is_empty(client: Client, queue: str) -> bool:
    stats = await client.stats(queue)
    return stats.ready + stats.leased + stats.dead == 0


async def test_any_stomp_client_may_answer(
    node: NodeUnderTest, client: Client, fresh_name: str
) -> None:
    """It follows reply-to and correlation-id, which are headers that others use too."""
    async with web_stomp_client(node.url) as stomp:
        await subscribe(stomp, f"/queue/{fresh_name}")
        calling = asyncio.create_task(client.call(fresh_name, "ping"))
        request = await stomp.message()
        assert (request.body, request.headers["content-type"]) == (
            b"ping",
            "text/plain; charset=utf-8",
        )
        for correlation_id in ("of-another", request.headers["correlation-id"]):
            await stomp.call(
                *("SEND", b"pong"),
                destination=request.headers["reply-to"],
                correlation_id=correlation_id,
            )
        assert (await calling).text == "pong"


async def test_closing_the_client_ends_its_calls(client: Client, fresh_name: str) -> None:
    """They are told."""
    calling = asyncio.create_task(client.call(fresh_name, [1]))
    await eventually(lambda: _ready(client, fresh_name, 1))
    await client.close()
    with pytest.raises(ConnectionLost):
        await calling
