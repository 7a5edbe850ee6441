"""Reliable delivery step by step, with curl against the real program.

The steps follow sections 1, 2 and 4 of the specification of delivery. They build on each other, so
they run in order against one server; queues in memory have servers of their own.
"""

import json
import os
import signal
import time
from typing import Any
from urllib.parse import unquote

from tests.process.clients import CurlAnswer, curl, open_api
from tests.server_process import running_server
from tests.support import START_TIMEOUT_SECONDS, eventually


async def command(url: str, commands: object) -> Any:
    """Send commands of the JSON protocol, and return the reply to them."""
    answer = await curl("-d", f"body={json.dumps(commands)}", f"{url}/queue")
    assert answer.status == 200
    return answer.json


async def patch(url: str, queue: str, **changes: object) -> CurlAnswer:
    """Change settings of a queue."""
    return await curl("-X", "PATCH", "-d", json.dumps(changes), f"{url}/settings/{queue}")


# Section 1: publish


async def step_01_the_answer_is_the_key_as_text_or_as_json(url: str) -> None:
    answer = await curl("-d", "value=one", f"{url}/q/p")
    assert (answer.status, answer.body) == (200, "p:1\r\n")
    answer = await curl("-H", "Accept: application/json", "-d", "value=two", f"{url}/q/p")
    assert (answer.status, answer.json) == (200, {"queue": "p", "key": "p:2"})


async def step_02_a_raw_body_is_the_value_with_its_type(url: str) -> None:
    answer = await curl(
        "-H", "Content-Type: text/csv", "--data-binary", "a,b\n", f"{url}/q/p?priority=9"
    )
    assert answer.body == "p:3\r\n"
    answer = await curl("-H", "Content-Type: text/csv", "--data-binary", "", f"{url}/q/p")
    assert answer.status == 400
    answer = await curl("-H", "Accept: application/octet-stream", f"{url}/q/p")
    assert (answer.status, answer.body) == (200, "a,b\n")
    assert answer.headers["content-type"] == "text/csv"
    assert unquote(answer.headers["x-restmq-key"]) == "p:3"


async def step_03_a_batch_is_a_message_per_line(url: str) -> None:
    ndjson = ("-H", "Content-Type: application/x-ndjson", "-H", "Idempotency-Key: batch-1")
    for is_duplicate in (False, True):
        answer = await curl(*ndjson, "--data-binary", '{"n":1}\n\nplain\n', f"{url}/q/batch")
        expected = {"queue": "batch", "count": 2, "keys": ["batch:1", "batch:2"]}
        assert (answer.status, answer.json) == (200, expected)
        assert answer.headers.get("x-restmq-duplicate") == ("true" if is_duplicate else None)
    answer = await curl(f"{url}/q/batch?count=10")
    assert [message["value"] for message in answer.json] == ['{"n":1}', "plain"]


async def step_04_parameters_come_by_query_form_and_header(url: str) -> None:
    header = ("-H", "X-RestMQ-Priority: 1")
    await curl(*header, "-d", "value=a&priority=2", f"{url}/q/place?priority=3")
    await curl(*header, "-d", "value=b&priority=2", f"{url}/q/place")
    await curl(*header, "-d", "value=c", f"{url}/q/place")
    for number, priority in ((1, 3), (2, 2), (3, 1)):
        assert (await curl(f"{url}/m/place:{number}")).json["priority"] == priority
    for bad in ("ttl=0", "delay=-1", "at=x", "priority=10", f"id={'x' * 129}"):
        answer = await curl("-d", "value=v", f"{url}/q/place?{bad}")
        assert answer.status == 400
        assert bad.partition("=")[0] in answer.json["message"]
    assert (await curl(f"{url}/stats/place")).json["ready"] == 3


async def step_05_a_delayed_message_comes_when_it_is_due(url: str) -> None:
    await curl("-d", "value=later&delay=0.5", f"{url}/q/delayed")
    await curl("-d", f"value=at&at={time.time() + 0.6:.3f}", f"{url}/q/delayed")
    assert (await curl(f"{url}/q/delayed")).status == 204
    for value in ("later", "at"):
        assert (await curl(f"{url}/q/delayed?wait=15")).json["value"] == value


async def step_06_a_value_that_is_no_text_is_base64_in_json(url: str) -> None:
    async with (
        open_api(url) as api,
        api.session.post(f"{url}/q/bytes", data=b"\xff\xfe", headers={"Content-Type": "x/y"}),
    ):
        answer = await curl(f"{url}/q/bytes")
    assert answer.json == {"key": "bytes:1", "value": "//4=", "encoding": "base64", "count": 0}


# Section 2: take and lease


async def step_10_count_takes_several_and_peek_none(url: str) -> None:
    for value in "abc":
        await curl("-d", f"value={value}", f"{url}/q/t")
    peeked = (await curl(f"{url}/q/t?peek=10")).json
    assert [message["value"] for message in peeked] == ["a", "b", "c"]
    assert [message["value"] for message in (await curl(f"{url}/q/t?count=2")).json] == ["a", "b"]
    assert (await curl(f"{url}/q/t?count=2")).json[0]["key"] == "t:3"
    answer = await curl(f"{url}/q/t?count=2")
    assert (answer.status, answer.body) == (204, "")


async def step_11_a_lease_is_acked_once(url: str) -> None:
    await curl("-d", "value=v", f"{url}/q/l")
    leased = (await curl(f"{url}/q/l?lease=30")).json
    receipt = leased.pop("receipt")
    assert time.time() < leased.pop("expires") < time.time() + 31
    assert leased == {"key": "l:1", "value": "v", "count": 0, "attempt": 1}
    answer = await curl("-X", "DELETE", f"{url}/lease/{receipt}")
    assert (answer.status, answer.json) == (200, {"key": "l:1", "acked": True})
    answer = await curl("-X", "DELETE", f"{url}/lease/{receipt}")
    assert (answer.status, answer.json["error"]) == (409, "stale-receipt")
    assert (await curl("-X", "DELETE", f"{url}/lease/nonsense")).status == 400


async def step_12_several_are_acked_at_once(url: str) -> None:
    for value in "ab":
        await curl("-d", f"value={value}", f"{url}/q/l")
    leased = (await curl(f"{url}/q/l?lease=30&count=5")).json
    receipts = [message["receipt"] for message in leased]
    answer = await curl("-X", "DELETE", f"{url}/lease/{','.join([*receipts, receipts[0]])}")
    assert answer.status == 200
    acked = [{"key": f"l:{number}", "acked": True} for number in (2, 3)]
    assert answer.json[:2] == acked
    assert answer.json[2]["error"] == "stale-receipt"


async def step_13_a_lease_can_be_extended_released_and_given_up(url: str) -> None:
    await curl("-d", "value=v", f"{url}/q/verbs")
    receipt = (await curl(f"{url}/q/verbs?lease=30")).json["receipt"]
    assert (await curl("-X", "POST", f"{url}/lease/{receipt}")).status == 400
    answer = await curl("-d", "extend=300", f"{url}/lease/{receipt}")
    assert time.time() + 290 < answer.json["expires"] < time.time() + 301
    answer = await curl("-d", "release=0&attempt=keep", f"{url}/lease/{receipt}")
    assert (answer.status, answer.json) == (200, {"key": "verbs:1", "released": True})
    assert (await curl("-d", "extend=30", f"{url}/lease/{receipt}")).status == 409
    for attempt, form in ((1, "release=0"), (2, "release=0.2"), (3, "dead=beyond repair")):
        leased = (await curl(f"{url}/q/verbs?lease=30&wait=15")).json
        assert leased["attempt"] == attempt
        assert (await curl("-d", form, f"{url}/lease/{leased['receipt']}")).status == 200
    (letter,) = (await curl(f"{url}/dead/verbs?count=20")).json
    assert (letter["key"], letter["reason"]) == ("verbs:1", "beyond repair")
    assert letter["attempts"] == 3


async def step_14_an_expired_lease_returns_and_its_receipt_is_stale(url: str) -> None:
    for value in "ab":
        await curl("-d", f"value={value}", f"{url}/q/expiring")
    first = (await curl(f"{url}/q/expiring?lease=1")).json
    await curl(f"{url}/q/expiring")
    again = (await curl(f"{url}/q/expiring?lease=30&wait=15")).json
    assert (again["key"], again["attempt"]) == (first["key"], 2)
    assert (await curl("-X", "DELETE", f"{url}/lease/{first['receipt']}")).status == 409
    assert (await curl("-X", "DELETE", f"{url}/lease/{again['receipt']}")).status == 200


async def step_15_one_message_can_be_shown_moved_and_removed(url: str) -> None:
    await curl("-d", "value=v&delay=100", f"{url}/q/one")
    assert (await curl(f"{url}/m/one:1")).json["state"] == "delayed"
    assert (await curl("-d", "delay=0", f"{url}/m/one:1")).status == 200
    assert (await curl(f"{url}/m/one:1")).json["state"] == "ready"
    assert (await curl("-d", "priority=9", f"{url}/m/one:1")).status == 200
    leased = (await curl(f"{url}/q/one?lease=30")).json
    found = (await curl(f"{url}/m/one:1")).json
    assert (found["state"], found["attempts"], found["priority"]) == ("leased", 1, 9)
    assert (await curl("-d", "delay=1", f"{url}/m/one:1")).status == 409
    assert (await curl("-X", "DELETE", f"{url}/m/one:1")).status == 200
    assert (await curl("-X", "DELETE", f"{url}/lease/{leased['receipt']}")).status == 409
    assert (await curl(f"{url}/m/one:1")).status == 404


async def step_16_dead_letters_go_back_or_away(url: str) -> None:
    answer = await curl("-X", "POST", f"{url}/dead/verbs")
    assert (answer.status, answer.json) == (200, {"queue": "verbs", "redriven": 1})
    leased = (await curl(f"{url}/q/verbs?lease=30")).json
    assert leased["attempt"] == 1
    await curl("-d", "dead=again", f"{url}/lease/{leased['receipt']}")
    assert (await curl(f"{url}/stats/verbs")).json["dead"] == 1
    answer = await curl("-X", "DELETE", f"{url}/dead/verbs")
    assert answer.json == {"queue": "verbs", "dropped": 1}
    assert (await curl(f"{url}/dead/verbs")).status == 204


async def step_17_the_json_protocol_does_the_same(url: str) -> None:
    answers = await command(
        url,
        [
            {"cmd": "add", "queue": "j", "value": "v", "priority": 7},
            {"cmd": "peek", "queue": "j", "count": 5},
            {"cmd": "len", "queue": "j"},
            {"cmd": "lease", "queue": "j", "seconds": 30},
            {"cmd": "nonsense"},
        ],
    )
    added, peeked, length, leased, unknown = answers
    assert (added["key"], length["len"]) == ("j:1", 1)
    assert peeked["messages"] == [{"key": "j:1", "value": "v"}]
    assert unknown == {"error": "null resultset"}
    receipt = leased["receipt"]
    assert (await command(url, {"cmd": "extend", "receipt": receipt, "seconds": 60}))["expires"]
    nacked = await command(url, {"cmd": "nack", "receipt": receipt})
    assert nacked == {"key": "j:1", "released": True}
    assert (await command(url, {"cmd": "ack", "receipt": receipt}))["error"] == "stale-receipt"
    leased = await command(url, {"cmd": "lease", "queue": "j"})
    acked = await command(url, {"cmd": "ack", "receipt": leased["receipt"]})
    assert acked == {"key": "j:1", "acked": True}


# Section 4: settings


async def step_20_settings_are_changed_refused_and_taken_back(url: str) -> None:
    before = (await curl(f"{url}/settings/s")).json
    assert (before["max_attempts"], before["storage"]) == (5, "disk")
    answer = await patch(url, "s", max_attempts=1, max_length=2)
    assert (answer.status, answer.json) == (200, {**before, "max_attempts": 1, "max_length": 2})
    for bad in ({"max_atempts": 1}, {"max_attempts": -1, "ttl": 5}):
        assert (await patch(url, "s", **bad)).status == 400
    assert (await curl(f"{url}/settings/s")).json == answer.json
    for status in (200, 200, 507):
        assert (await curl("-d", "value=v", f"{url}/q/s")).status == status
    leased = (await curl(f"{url}/q/s?lease=30")).json
    await curl("-d", "release=0", f"{url}/lease/{leased['receipt']}")
    assert (await curl(f"{url}/dead/s")).json[0]["key"] == leased["key"]
    assert (await curl("-X", "DELETE", f"{url}/settings/s")).json == before


async def step_21_stats_tell_the_states_in_pages(url: str) -> None:
    figures = (await curl(f"{url}/stats/s")).json
    assert (figures["ready"], figures["dead"], figures["len"]) == (1, 1, 1)
    assert figures["oldest_age"] >= 0
    everything = (await curl(f"{url}/stats/")).json["queues"]
    seen: list[str] = []
    while True:
        after = seen[-1] if seen else ""
        page = (await curl(f"{url}/stats/?limit=3&after={after}")).json["queues"]
        if not page:
            break
        seen += page
    assert seen == list(everything)


async def test_the_walk_through(tmp_path):
    steps = [step for name, step in sorted(globals().items()) if name.startswith("step_")]
    assert len(steps) == 16
    async with running_server(tmp_path) as server:
        for step in steps:
            await step(server.url)


async def test_leases_and_their_receipts_outlive_a_restart(tmp_path):
    async with running_server(tmp_path) as server:
        for value in "ab":
            await curl("-d", f"value={value}", f"{server.url}/q/r")
        kept = (await curl(f"{server.url}/q/r?lease=600")).json
        lost = (await curl(f"{server.url}/q/r?lease=1")).json
        assert await server.stop() == 0
        await server.start()
        again = (await curl(f"{server.url}/q/r?lease=30&wait=15")).json
        assert (again["key"], again["attempt"]) == (lost["key"], 2)
        assert (await curl("-X", "DELETE", f"{server.url}/lease/{kept['receipt']}")).status == 200
        assert (await curl("-X", "DELETE", f"{server.url}/lease/{lost['receipt']}")).status == 409


async def test_queues_in_memory_are_lost_with_a_restart_and_others_are_not(tmp_path):
    config = tmp_path / "restmq.toml"
    config.write_text('[queues."fast.*"]\nstorage = "memory"\nmax_attempts = 7\n')
    async with running_server(tmp_path, "--config", str(config)) as server:
        answer = await patch(server.url, "patched", storage="memory", ttl=600)
        assert (answer.status, answer.json["storage"]) == (200, "memory")
        names = ("fast.one", "patched", "slow")
        for name in names:
            for value in "abc":
                assert (await curl("-d", f"value={value}", f"{server.url}/q/{name}")).status == 200
            leased = (await curl(f"{server.url}/q/{name}?lease=600")).json
            answer = await curl("-X", "DELETE", f"{server.url}/lease/{leased['receipt']}")
            assert answer.status == 200
        settings = (await curl(f"{server.url}/settings/fast.one")).json
        assert (settings["storage"], settings["max_attempts"]) == ("memory", 7)
        assert (await patch(server.url, "patched", storage="disk")).status == 400
        assert (await patch(server.url, "slow", storage="memory")).status == 400
        stale = (await curl(f"{server.url}/q/patched?lease=600")).json["receipt"]
        assert await server.stop() == 0
        await server.start()

        assert (await curl(f"{server.url}/q/slow?count=10")).json[0]["value"] == "b"
        for name in ("fast.one", "patched"):
            assert (await curl(f"{server.url}/q/{name}")).status == 204
            assert (await curl(f"{server.url}/settings/{name}")).json["storage"] == "memory"
        assert (await curl(f"{server.url}/settings/patched")).json["ttl"] == 600
        assert (await curl("-X", "DELETE", f"{server.url}/lease/{stale}")).status == 409
        assert set((await curl(f"{server.url}/stats")).json["queues"]) == set(names)
        for name in names:
            assert (await curl("-d", "value=new", f"{server.url}/q/{name}")).status == 200
            answer = await curl(f"{server.url}/q/{name}?lease=30")
            assert answer.json["attempt"] == 1


async def test_a_memory_redis_that_dies_leaves_an_empty_queue_that_serves(tmp_path):
    async with running_server(tmp_path) as server:
        await patch(server.url, "m", storage="memory")
        await curl("-d", "value=v", f"{server.url}/q/m")
        await curl("-d", "value=v", f"{server.url}/q/d")
        directory = str((server.data_dir / "memory").resolve())
        pids = server.child_pids("redis-server")
        (pid,) = [each for each in pids if os.readlink(f"/proc/{each}/cwd") == directory]
        os.kill(pid, signal.SIGKILL)

        async def serves_again() -> bool:
            return (await curl("-d", "value=new", f"{server.url}/q/m")).status == 200

        await eventually(serves_again, START_TIMEOUT_SECONDS)
        assert (await curl(f"{server.url}/q/m?lease=30")).json["value"] == "new"
        assert (await curl(f"{server.url}/q/d")).json["value"] == "v"
