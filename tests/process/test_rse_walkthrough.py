"""The walk-through of the RSE specification, section 10, step by step against the real program.

It is gone through on both mounts: under /rse of the HTTP port, and on a port of its own. The steps
build on each other, so they run in order against one server; the last two have their own settings.
"""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.memcached_server import MemcachedServer
from tests.process.clients import CurlAnswer, curl
from tests.server_process import running_server
from tests.support import eventually, free_port

A = ("-A", "a/1 uuid/11111111-1111-4111-8111-111111111111")
C = ("-A", "c/1 uuid/22222222-2222-4222-8222-222222222222")


@pytest.fixture(params=["path", "port"])
def mount(request: pytest.FixtureRequest) -> str:
    """Where RSE is to be found."""
    name: str = request.param
    return name


def settings(directory: Path, mount: str, *lines: str) -> int:
    """Write the settings file that the server finds; returns the port of RSE alone, or 0."""
    port = free_port() if mount == "port" else 0
    text = "\n".join(["[rse]", f"port = {port}", *lines])
    (directory / "restmq.toml").write_text(text, encoding="utf-8")
    return port


def base_of(url: str, port: int) -> str:
    """Return what stands in front of a channel."""
    return f"http://127.0.0.1:{port}" if port else f"{url}/rse"


def events_of(answer: CurlAnswer) -> list[dict[str, Any]]:
    """Return the events of a poll that found some."""
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    events: list[dict[str, Any]] = answer.json["events"]
    return events


async def ids_of(*arguments: str) -> list[int]:
    """Poll, and return the ids."""
    return [event["id"] for event in events_of(await curl(*arguments))]


async def data_of(*arguments: str) -> list[Any]:
    """Poll, and return the data."""
    return [event["data"] for event in events_of(await curl(*arguments))]


async def step_01_health_says_ok(b: str) -> None:
    answer = await curl(f"{b}/health")
    assert (answer.status, answer.body) == (200, "OK\n")
    assert (await curl("-I", "-o", "/dev/null", f"{b}/health")).status == 200


async def step_02_an_empty_channel_is_204(b: str) -> None:
    answer = await curl(*C, f"{b}/room")
    assert (answer.status, answer.body) == (204, "")


async def step_03_a_post_is_201_without_a_body(b: str) -> None:
    answer = await curl(*A, "-d", '{"Event":"Ping","n":1.0}', f"{b}/room")
    assert (answer.status, answer.body) == (201, "")
    assert answer.headers["content-length"] == "0"


async def step_04_another_client_reads_it_exactly_as_posted(b: str) -> None:
    answer = await curl(*C, f"{b}/room")
    (event,) = events_of(answer)
    assert answer.json["channel"] == "/room"
    assert answer.body.endswith('"data":{"Event":"Ping","n":1.0}}]}')
    assert event["user_agent"] == A[1]
    assert re.match(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$", event["created_at"])
    assert 0 <= event["age"] < 30  # 0 or 1, where the machine is not busy


async def step_05_the_sender_does_not_unless_echo_is_true(b: str) -> None:
    assert (await curl(*A, f"{b}/room")).status == 204
    assert len(await ids_of(*A, f"{b}/room?echo=true")) == 1
    assert (await curl(*A, f"{b}/room?echo=TRUE")).status == 204


async def step_06_only_what_comes_after_the_last_known_id(b: str) -> None:
    (first,) = await ids_of(*C, f"{b}/room")
    await curl(*A, "-d", "[1,2]", f"{b}/room")
    (event,) = events_of(await curl(*C, f"{b}/room?last-known-id={first}"))
    assert event["id"] > first
    assert event["data"] == [1, 2]


async def step_07_minus_one_sorts_downwards(b: str) -> None:
    first, second = await ids_of(*C, f"{b}/room")
    assert await ids_of(*C, f"{b}/room?sort=-1&max-events=1") == [second]
    assert await ids_of(*C, f"{b}/room?sort=7") == [first, second]


async def step_08_only_objects_and_arrays_are_taken(b: str) -> None:
    for body in ('"text"', "{bad", "", "[NaN]"):
        answer = await curl(*A, "-d", body, f"{b}/room")
        assert (answer.status, answer.json) == (400, {"message": "Invalid JSON"})


async def step_09_a_user_agent_is_needed(b: str) -> None:
    answer = await curl("-H", "User-Agent:", f"{b}/room")
    assert (answer.status, answer.json) == (400, {"message": "Missing header: User-Agent"})


async def step_10_a_quotation_mark_in_it_is_refused(b: str) -> None:
    agent = 'x"y uuid/33333333-3333-4333-8333-333333333333'
    assert (await curl("-A", agent, "-d", "{}", f"{b}/room")).status == 400


async def step_11_a_callback_wraps_the_answer(b: str) -> None:
    answer = await curl(*C, f"{b}/room?callback=cb")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.body.startswith('cb({"channel":"/room","events":[')
    assert answer.body.endswith("]});")
    answer = await curl(*C, f"{b}/nothing?callback=cb")
    assert (answer.status, answer.body) == (200, 'cb({"channel":"/nothing","events":[]});')


def post_by_get(b: str, *callback: str) -> tuple[str, ...]:
    """Return the arguments that post with a GET."""
    fields = ("method=POST", 'post-data={"k":1}', *callback)
    return ("-G", *A, f"{b}/room", *(word for f in fields for word in ("--data-urlencode", f)))


async def step_12_a_get_can_post(b: str) -> None:
    answer = await curl(*post_by_get(b, "callback=cb"))
    assert (answer.status, answer.body) == (200, "cb({});")
    assert (await data_of(*C, f"{b}/room"))[-1] == {"k": 1}
    answer = await curl(*post_by_get(b))
    assert (answer.status, answer.body) == (201, "")


async def step_13_but_not_without_data_or_with_a_bad_callback(b: str) -> None:
    answer = await curl(*A, f"{b}/room?method=POST")
    assert answer.status == 400
    assert "post-data" in answer.json["message"]
    before = await ids_of(*C, f"{b}/room")
    answer = await curl(*post_by_get(b, "callback=a-b"))
    assert (answer.status, answer.json) == (400, {"message": "Invalid callback name"})
    assert await ids_of(*C, f"{b}/room") == before


async def step_14_parents_and_descendants(b: str) -> None:
    for number, channel in enumerate(("/t", "/t/u", "/t/u/v", "/tx"), 1):
        await curl(*A, "-d", f'["p{number}"]', f"{b}{channel}")
    for query, found in (
        ("/t/u/v?events=parent", ["p1", "p2", "p3"]),
        ("/t?events=all", ["p1", "p2", "p3"]),
        ("/t", ["p1"]),
        ("/t/u?events=parent&max-events=1", ["p1"]),
    ):
        assert await data_of(*C, f"{b}{query}") == [[name] for name in found]


async def step_15_a_bad_number_is_400(b: str) -> None:
    assert (await curl(*C, f"{b}/room?last-known-id=zzz")).status == 400


async def step_16_the_root_is_no_channel_and_put_no_method(b: str) -> None:
    answer = await curl(f"{b}/")
    assert (answer.status, bool(answer.json["message"])) == (404, True)
    answer = await curl("-X", "PUT", *A, f"{b}/room")
    assert (answer.status, answer.json) == (405, {"message": "PUT"})


async def step_17_an_unknown_token_is_401_even_in_test_mode(b: str) -> None:
    assert (await curl("-H", "X-Auth-Token: nope", *C, f"{b}/room")).status == 401


async def step_18_all_is_a_bare_array(b: str) -> None:
    events = (await curl(*C, f"{b}/all")).json
    ids = [event["id"] for event in events]
    assert len(ids) == 8
    assert ids == sorted(set(ids))


async def test_walk_through(tmp_path, mount):
    port = settings(tmp_path, mount, "test_mode = true")
    async with running_server(tmp_path) as server:
        for step in (
            step_01_health_says_ok,
            step_02_an_empty_channel_is_204,
            step_03_a_post_is_201_without_a_body,
            step_04_another_client_reads_it_exactly_as_posted,
            step_05_the_sender_does_not_unless_echo_is_true,
            step_06_only_what_comes_after_the_last_known_id,
            step_07_minus_one_sorts_downwards,
            step_08_only_objects_and_arrays_are_taken,
            step_09_a_user_agent_is_needed,
            step_10_a_quotation_mark_in_it_is_refused,
            step_11_a_callback_wraps_the_answer,
            step_12_a_get_can_post,
            step_13_but_not_without_data_or_with_a_bad_callback,
            step_14_parents_and_descendants,
            step_15_a_bad_number_is_400,
            step_16_the_root_is_no_channel_and_put_no_method,
            step_17_an_unknown_token_is_401_even_in_test_mode,
            step_18_all_is_a_bare_array,
        ):
            await step(base_of(server.url, port))


async def test_step_19_events_expire_and_their_ids_are_not_given_again(tmp_path, mount):
    """Nor after a restart."""
    port = settings(tmp_path, mount, "test_mode = true", "event_ttl = 2")
    async with running_server(tmp_path) as server:
        b = base_of(server.url, port)
        await curl(*A, "-d", "{}", f"{b}/e")
        (first,) = await ids_of(*C, f"{b}/e")

        async def expired() -> bool:
            return (await curl(*C, f"{b}/e")).status == 204

        await eventually(expired)
        await curl(*A, "-d", "{}", f"{b}/e")
        (second,) = await ids_of(*C, f"{b}/e")
        assert second > first
    async with running_server(tmp_path) as server:
        b = base_of(server.url, port)
        await curl(*A, "-d", "{}", f"{b}/e")
        assert (await ids_of(*C, f"{b}/e"))[-1] > second


async def test_step_20_live_mode_wants_a_token_and_a_uuid(tmp_path, mount):
    port = settings(tmp_path, mount, 'tokens = ["listed"]')
    async with running_server(tmp_path) as server:
        b = base_of(server.url, port)
        answer = await curl(*C, f"{b}/room")
        assert (answer.status, answer.body) == (401, '{ "message": "" }')
        token = ("-H", "X-Auth-Token: listed")
        assert (await curl(*token, *C, f"{b}/room")).status == 204
        answer = await curl(*token, "-A", "plain/1", f"{b}/room")
        assert answer.status == 400
        assert "UUID" in answer.json["message"]


async def test_every_worker_knows_the_tokens_of_a_shared_store(tmp_path, mount):
    """Those that are there at the moment; the program stops in good order with such a store."""
    async with MemcachedServer().serving() as store:
        store.values[b"rse-shared"] = b""
        lines = (f'token_store = "{store.url}"', 'token_prefix = "rse-"')
        port = settings(tmp_path, mount, *lines)
        async with running_server(tmp_path, "--workers", "2") as server:
            b = base_of(server.url, port)
            for token, status in (("shared", 204), ("other", 401), ("rse-shared", 401)) * 5:
                assert (await curl("-H", f"X-Auth-Token: {token}", *C, f"{b}/r")).status == status
            store.values[b"rse-other"] = b""
            assert (await curl("-H", "X-Auth-Token: other", *C, f"{b}/r")).status == 204
            assert await server.stop() == 0
