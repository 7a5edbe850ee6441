"""The walk-through of the RestMQ specification, section 9, step by step against the real program.

The steps build on each other, so they run in order against one server; only the eighteenth, which
needs an access file, has a server of its own.
"""

import json
import re

import aiohttp

from tests.process.clients import curl, curl_stream
from tests.server_process import running_server
from tests.support import eventually


async def command(url: str, **fields: str) -> object:
    """Send one command of the JSON protocol in a form, and return the reply to it."""
    answer = await curl("-d", f"body={json.dumps(fields)}", f"{url}/queue")
    assert answer.status == 200
    return answer.json


async def step_01_an_add_answers_with_the_key(url: str) -> None:
    answer = await curl("-d", "queue=test&value=foobar", f"{url}/")
    assert (answer.status, answer.body) == (200, "test:1\r\n")


async def step_02_msg_serves_as_well_as_value(url: str) -> None:
    answer = await curl("-d", "queue=test&msg=second", f"{url}/")
    assert (answer.status, answer.body) == (200, "test:2\r\n")


async def step_03_an_add_without_value_or_queue_is_refused(url: str) -> None:
    assert (await curl("-d", "queue=test", f"{url}/")).status == 400
    assert (await curl("-d", "value=x", f"{url}/")).status == 400


async def step_04_get_looks_at_the_oldest_and_counts_the_looks(url: str) -> None:
    for count in (1, 2):
        reply = await command(url, cmd="get", queue="test")
        assert reply == {"queue": "test", "key": "test:1", "value": "foobar", "count": count}


async def step_05_a_pop_at_the_root_takes_the_oldest_or_answers_404(url: str) -> None:
    answer = await curl(f"{url}/?queue=test")
    assert answer.status == 200
    assert answer.json == {"key": "test:1", "value": "foobar", "count": 0}
    assert (await curl(f"{url}/?queue=none")).status == 404


async def step_06_a_popped_message_can_be_deleted_once(url: str) -> None:
    for deleted in (True, False):
        reply = await command(url, cmd="del", queue="test", key="test:1")
        assert reply == {"queue": "test", "key": "test:1", "deleted": deleted}


async def step_07_take_erases_and_an_empty_queue_is_no_http_error(url: str) -> None:
    reply = await command(url, cmd="take", queue="test")
    assert reply == {"queue": "test", "key": "test:2", "value": "second"}
    assert await command(url, cmd="take", queue="test") == {"error": "empty queue"}


async def step_08_a_pop_of_an_empty_queue_is_204_and_the_counter_goes_on(url: str) -> None:
    answer = await curl(f"{url}/q/test")
    assert (answer.status, answer.body) == (204, "")
    answer = await curl("-d", "value=third", f"{url}/q/test")
    assert (answer.status, answer.body) == (200, "test:3\r\n")


async def step_09_an_unknown_command_is_told_apart_from_broken_json(url: str) -> None:
    assert await command(url, cmd="zap") == {"error": "null resultset"}
    assert (await curl("-d", "body={oops", f"{url}/queue")).status == 400


async def step_10_queue_wants_a_body_and_shows_its_page_to_a_get(url: str) -> None:
    assert (await curl("-d", "cmd-less=1", f"{url}/queue")).status == 400
    answer = await curl(f"{url}/queue")
    assert (answer.status, answer.headers["location"]) == (302, "/static/help.html")


async def step_11_roundrobin_deals_the_messages_out_in_turn(url: str) -> None:
    assert (await curl("-d", "policy=roundrobin", f"{url}/p/rr")).body.strip() == "OK"
    assert (await curl(f"{url}/p/rr")).json == {"queue": "rr", "value": "roundrobin"}
    async with curl_stream(f"{url}/c/rr") as first, curl_stream(f"{url}/c/rr") as second:
        for number in range(1, 5):
            await curl("-d", f"value=v{number}", f"{url}/q/rr")
        dealt = []
        for stream in (first, second):
            assert stream.headers["content-type"].startswith("text/plain")
            lines = [await stream.read_line(), await stream.read_line()]
            assert all(line.endswith(b"\r\n") for line in lines)
            messages = [json.loads(line) for line in lines]
            assert all(message.keys() == {"key", "value"} for message in messages)
            dealt.append([(message["key"], message["value"]) for message in messages])
    odd, even = [("rr:1", "v1"), ("rr:3", "v3")], [("rr:2", "v2"), ("rr:4", "v4")]
    assert dealt in ([odd, even], [even, odd])


async def step_12_stop_holds_messages_back_and_start_lets_them_flow(url: str) -> None:
    answer = await curl("-d", "status=stop", f"{url}/control/s")
    assert (answer.status, answer.json) == (200, {"stat": {"queue": "s", "status": 0}})
    async with curl_stream(f"{url}/c/s") as stream:
        await curl("-d", "value=held back", f"{url}/q/s")
        assert (await curl(f"{url}/stats/s")).json["len"] == 1
        answer = await curl("-d", "status=start", f"{url}/control/s")
        assert answer.json == {"stat": {"queue": "s", "status": 1}}
        assert json.loads(await stream.read_line()) == {"key": "s:1", "value": "held back"}
        assert (await curl(f"{url}/stats/s")).json["len"] == 0


async def step_13_a_bogus_status_is_told_and_changes_nothing(url: str) -> None:
    answer = await curl("-d", "status=bogus", f"{url}/control/s")
    assert answer.status == 200
    assert answer.json["stat"].startswith("invalid status")
    assert (await curl(f"{url}/control/s")).json["status"] == {"queue": "s", "status": 1}


async def step_14_delete_ends_every_stream_in_order(url: str) -> None:
    async with curl_stream(f"{url}/c/s") as first, curl_stream(f"{url}/c/s") as second:
        answer = await curl("-X", "DELETE", f"{url}/q/s")
        assert (answer.status, answer.json) == (200, {"queue": "s", "status": 0})
        for stream in (first, second):
            assert await stream.read_line() == b""
            assert await stream.exit_status() == 0


async def step_15_a_pop_can_be_wrapped_in_a_call(url: str) -> None:
    await curl("-d", "value=wrapped", f"{url}/q/x")
    answer = await curl(f"{url}/q/x?callback=cb")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/javascript")
    call = re.fullmatch(r"cb\((.*)\);?\s*", answer.body)
    assert call is not None
    assert json.loads(call[1]) == {"key": "x:1", "value": "wrapped", "count": 0}


async def step_16_the_statistics_tell_all_queues(url: str) -> None:
    answer = await curl(f"{url}/stats/?callback=f")
    call = re.fullmatch(r"f\((.*)\);?\s*", answer.body)
    assert call is not None
    statistics = json.loads(call[1])
    assert statistics["queues"].keys() == {"test", "rr", "s", "x"}
    assert statistics["count"] == 4
    assert statistics["queues"]["test"] == {"name": "test", "len": 1, "status": 1, "policy": ""}
    assert statistics["queues"]["rr"]["policy"] == 2


async def step_17_a_websocket_gets_a_frame_a_message_and_its_own_words_back(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws/w") as websocket:
        await curl("-d", "value=framed", f"{url}/q/w")
        assert await websocket.receive_json(timeout=10) == {"key": "w:1", "value": "framed"}
        await websocket.send_str("hi")
        assert await websocket.receive_str(timeout=10) == "hi"


async def step_19_an_expired_message_is_gone(url: str) -> None:
    answer = await curl("-d", "value=v&ttl=1", f"{url}/q/e")
    assert (answer.status, answer.body) == (200, "e:1\r\n")

    async def expired() -> bool:
        length: int = (await curl(f"{url}/stats/e")).json["len"]
        return length == 0

    await eventually(expired)
    assert (await curl(f"{url}/q/e")).status == 204


async def test_walk_through(tmp_path):
    async with running_server(tmp_path) as server:
        for step in (
            step_01_an_add_answers_with_the_key,
            step_02_msg_serves_as_well_as_value,
            step_03_an_add_without_value_or_queue_is_refused,
            step_04_get_looks_at_the_oldest_and_counts_the_looks,
            step_05_a_pop_at_the_root_takes_the_oldest_or_answers_404,
            step_06_a_popped_message_can_be_deleted_once,
            step_07_take_erases_and_an_empty_queue_is_no_http_error,
            step_08_a_pop_of_an_empty_queue_is_204_and_the_counter_goes_on,
            step_09_an_unknown_command_is_told_apart_from_broken_json,
            step_10_queue_wants_a_body_and_shows_its_page_to_a_get,
            step_11_roundrobin_deals_the_messages_out_in_turn,
            step_12_stop_holds_messages_back_and_start_lets_them_flow,
            step_13_a_bogus_status_is_told_and_changes_nothing,
            step_14_delete_ends_every_stream_in_order,
            step_15_a_pop_can_be_wrapped_in_a_call,
            step_16_the_statistics_tell_all_queues,
            step_17_a_websocket_gets_a_frame_a_message_and_its_own_words_back,
            step_19_an_expired_message_is_gone,
        ):
            await step(server.url)


async def test_step_18_credentials_for_consumers_do_not_hinder_publishers(tmp_path):
    acl = tmp_path / "acl.conf"
    acl.write_text("[rest:consumer]\nusername = zz\npassword = bla\n")
    async with running_server(tmp_path, "--acl", str(acl)) as server:
        answer = await curl(f"{server.url}/q/t")
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="RestMQ Restricted Access"'
        assert (await curl("-u", "zz:wrong", f"{server.url}/q/t")).status == 401
        assert (await curl("-u", "zz:bla", f"{server.url}/q/t")).status == 204
        assert (await curl("-d", "value=v", f"{server.url}/q/t")).status == 200
