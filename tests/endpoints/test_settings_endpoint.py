"""Settings of queues and statistics, from outside (specification of delivery, section 4)."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from restmq.queue_settings import Patterns
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually

DEFAULTS = {
    "policy": "broadcast",
    "status": "start",
    "lease_seconds": 30,
    "max_attempts": 5,
    "ttl": None,
    "delay": 0,
    "dedupe_seconds": 300,
    "history_count": 1000,
    "history_seconds": 300,
    "max_length": None,
    "overflow": "reject",
    "copies_to": [],
    "storage": "disk",
}
OTHERS = {
    "policy": "roundrobin",
    "status": "stop",
    "lease_seconds": 60.5,
    "max_attempts": 0,
    "ttl": 3600,
    "delay": 1.5,
    "dedupe_seconds": 10,
    "history_count": 5,
    "history_seconds": 6,
    "max_length": 7,
    "overflow": "drop-oldest",
    "copies_to": ["other"],
}


async def read(node: NodeUnderTest, queue: str) -> dict[str, Any]:
    """Return the settings in force."""
    status, body = await node.get(f"/settings/{queue}")
    assert status == 200, body
    answer: dict[str, Any] = json.loads(body)
    return answer


async def patch(node: NodeUnderTest, queue: str, changes: object) -> tuple[int, Any]:
    """Change settings; returns the status and the answer."""
    status, body = await node.call("PATCH", f"/settings/{queue}", json=changes)
    return status, json.loads(body)


class TestSettings:
    async def test_an_unknown_queue_has_the_defaults_and_reading_makes_none(self, node, fresh_name):
        assert await read(node, fresh_name) == DEFAULTS
        assert fresh_name not in json.loads((await node.get("/stats"))[1])["queues"]

    async def test_each_can_be_changed_and_the_answer_is_what_is_in_force(self, node, fresh_name):
        expected = dict(DEFAULTS)
        for name, value in OTHERS.items():
            expected[name] = value
            assert await patch(node, fresh_name, {name: value}) == (200, expected)
        assert await read(node, fresh_name) == expected

    async def test_several_are_changed_at_once_and_null_takes_back(self, node, fresh_name):
        _, answer = await patch(node, fresh_name, OTHERS)
        assert answer == {**DEFAULTS, **OTHERS}
        _, answer = await patch(node, fresh_name, {"ttl": None, "policy": None, "max_length": None})
        assert answer == {
            **DEFAULTS,
            **OTHERS,
            "ttl": None,
            "policy": "broadcast",
            "max_length": None,
        }
        assert (await patch(node, fresh_name, {}))[1] == answer

    async def test_delete_returns_to_the_defaults(self, node, fresh_name):
        await patch(node, fresh_name, OTHERS)
        status, body = await node.call("DELETE", f"/settings/{fresh_name}")
        assert (status, json.loads(body)) == (200, DEFAULTS)
        assert await read(node, fresh_name) == DEFAULTS

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"max_atempts": 3}, "max_attempts"),
            ({"lease_seconds": 0}, "lease_seconds"),
            ({"lease_seconds": "30"}, "lease_seconds"),
            ({"max_attempts": -1}, "max_attempts"),
            ({"max_attempts": 1.5}, "max_attempts"),
            ({"ttl": 0}, "ttl"),
            ({"ttl": True}, "ttl"),
            ({"delay": -1}, "delay"),
            ({"dedupe_seconds": 10**9}, "dedupe_seconds"),
            ({"history_count": -1}, "history_count"),
            ({"history_seconds": []}, "history_seconds"),
            ({"max_length": 0}, "max_length"),
            ({"overflow": "explode"}, "overflow"),
            ({"copies_to": "q"}, "copies_to"),
            ({"copies_to": [""]}, "copies_to"),
            ({"copies_to": ["q", "q"]}, "copies_to"),
            ({"policy": "all"}, "policy"),
            ({"status": 1}, "status"),
            ({"storage": "tape"}, "storage"),
            ([], "settings"),
            ("x", "settings"),
            (None, "settings"),
        ],
    )
    async def test_bad_values_are_refused_by_name_and_nothing_is_changed(
        self, node, fresh_name, changes, name
    ):
        await patch(node, fresh_name, {"max_attempts": 9})
        before = await read(node, fresh_name)
        if isinstance(changes, dict):
            changes = {"ttl": 77, **changes}
        status, answer = await patch(node, fresh_name, changes)
        assert (status, answer["error"]) == (400, "invalid-input")
        assert name in answer["message"]
        assert await read(node, fresh_name) == before

    @pytest.mark.parametrize("body", [b"", b"{oops", b"ttl=5", b"\xff", b"[" * 100_000])
    async def test_what_is_no_json_is_refused(self, node, fresh_name, body):
        status, answer = await node.call("PATCH", f"/settings/{fresh_name}", data=body)
        assert (status, json.loads(answer)["error"]) == (400, "invalid-input")

    async def test_the_type_of_the_body_does_not_matter(self, node, fresh_name):
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        path = f"/settings/{fresh_name}"
        status, _ = await node.call("PATCH", path, data='{"ttl": 5}', headers=headers)
        assert status == 200
        assert (await read(node, fresh_name))["ttl"] == 5

    async def test_a_queue_cannot_be_copied_to_itself(self, node, fresh_name):
        assert (await patch(node, fresh_name, {"copies_to": [fresh_name]}))[0] == 400

    async def test_policy_and_status_are_the_classic_pair(self, node, fresh_name):
        await patch(node, fresh_name, {"policy": "roundrobin", "status": "stop"})
        assert json.loads((await node.get(f"/p/{fresh_name}"))[1])["value"] == "roundrobin"
        assert json.loads((await node.get(f"/control/{fresh_name}"))[1])["status"]["status"] == 0
        await node.post(f"/p/{fresh_name}", data={"policy": "broadcast"})
        await node.post(f"/control/{fresh_name}", data={"status": "start"})
        found = await read(node, fresh_name)
        assert (found["policy"], found["status"]) == ("broadcast", "start")

    async def test_patterns_stand_below_what_was_set_for_the_queue(self, open_node, fresh_name):
        patterns = Patterns([(f"{fresh_name}*", {"max_attempts": 2, "ttl": 60})])
        async with open_node(queues=patterns) as node:
            _, answer = await patch(node, fresh_name, {"max_attempts": 3, "ttl": "none"})
            assert (answer["max_attempts"], answer["ttl"]) == (3, None)
            _, body = await node.call("DELETE", f"/settings/{fresh_name}")
            answer = json.loads(body)
            assert (answer["max_attempts"], answer["ttl"]) == (2, 60)

    async def test_what_the_settings_say_holds_for_messages(self, node, fresh_name):
        await patch(node, fresh_name, {"ttl": 500, "delay": 100})
        await node.add(fresh_name, "v")
        found = json.loads((await node.get(f"/m/{fresh_name}:1"))[1])
        assert found["state"] == "delayed"
        assert found["expires"] == pytest.approx(found["published"] + 500, abs=0.01)
        await node.post(f"/q/{fresh_name}?delay=0", data={"value": "now"})
        assert json.loads((await node.get(f"/q/{fresh_name}"))[1])["value"] == "now"

    async def test_drop_oldest_makes_room(self, node, fresh_name):
        await patch(node, fresh_name, {"max_length": 2, "overflow": "drop-oldest"})
        await node.add(fresh_name, "a", "b", "c")
        _, body = await node.get(f"/q/{fresh_name}?count=10")
        assert [each["value"] for each in json.loads(body)] == ["b", "c"]

    async def test_dedupe_seconds_of_zero_remembers_nothing(self, node, fresh_name):
        await patch(node, fresh_name, {"dedupe_seconds": 0})
        for number in (1, 2):
            _, body = await node.post(f"/q/{fresh_name}?id=x", data={"value": "v"})
            assert body == f"{fresh_name}:{number}\r\n".encode()

    async def test_other_methods_and_names_are_refused(self, node, fresh_name):
        async with node.session.post(f"{node.url}/settings/{fresh_name}") as answer:
            assert answer.status == 405
            assert "PATCH" in answer.headers["Allow"]
        for method in ("GET", "PATCH", "DELETE"):
            assert (await node.call(method, "/settings/", json={"ttl": 1}))[0] == 400

    async def test_changing_is_for_producers(self, open_node: OpenNode, fresh_name):
        async with open_node("[rest:producer]\nhosts_deny = all\n") as node:
            assert (await node.get(f"/settings/{fresh_name}"))[0] == 200
            assert (await node.call("PATCH", f"/settings/{fresh_name}", json={}))[0] == 401
            assert (await node.call("DELETE", f"/settings/{fresh_name}"))[0] == 401

    async def test_another_site_may_change_them_only_if_it_is_allowed(self, open_node, fresh_name):
        async with open_node(allowed_origins=("https://app.example",)) as node:
            url = f"{node.url}/settings/{fresh_name}"
            headers = {
                "Origin": "https://app.example",
                "Access-Control-Request-Method": "PATCH",
                "Access-Control-Request-Headers": "content-type",
            }
            async with node.session.options(url, headers=headers) as answer:
                assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
            async with node.session.patch(
                url, headers={"Origin": "http://evil"}, json={}
            ) as answer:
                assert answer.status == 403


def with_database(url: str, number: int) -> str:
    """Return the URL of another database of the same Redis."""
    return f"{url}{'&' if '?' in url else '?'}db={number}"


class TestStorage:
    """Queues in a second Redis, for which another database of the same one stands in."""

    @pytest.fixture
    def redis_url(self, redis_url: str) -> str:
        """A database of its own, so that other tests see no queue in memory."""
        return with_database(redis_url, 2)

    @pytest.fixture
    async def memory_node(
        self, open_node: OpenNode, redis_url: str
    ) -> AsyncIterator[NodeUnderTest]:
        """A node that has both kinds of storage."""
        async with open_node(memory_redis_url=redis_url.replace("db=2", "db=3")) as opened:
            yield opened

    async def test_a_queue_is_made_in_memory_and_that_is_fixed(self, memory_node, fresh_name):
        node = memory_node
        status, answer = await patch(node, fresh_name, {"storage": "memory", "ttl": 60})
        assert (status, answer["storage"], answer["ttl"]) == (200, "memory", 60)
        await node.add(fresh_name, "v")
        status, answer = await patch(node, fresh_name, {"storage": "disk", "ttl": 5})
        assert status == 400
        assert "storage" in answer["message"]
        assert (await read(node, fresh_name))["ttl"] == 60
        leased = json.loads((await node.get(f"/q/{fresh_name}?lease=30"))[1])
        assert (await node.call("DELETE", f"/lease/{leased['receipt']}"))[0] == 200
        await node.call("DELETE", f"/settings/{fresh_name}")
        assert (await read(node, fresh_name))["storage"] == "memory"
        await node.add(f"{fresh_name}-disk", "v")
        assert (await patch(node, f"{fresh_name}-disk", {"storage": "memory"}))[0] == 400

    async def test_queues_of_both_kinds_stand_in_the_same_pages_by_name(
        self, memory_node, fresh_name
    ):
        names = [f"{fresh_name}-{index}" for index in range(6)]
        for name in names[::2]:
            await memory_node.add(name, "v")
        for name in names[1::2]:
            await patch(memory_node, name, {"storage": "memory"})
        seen: list[str] = []
        for _ in names:
            after = seen[-1] if seen else fresh_name
            _, body = await memory_node.get(f"/stats/?limit=1&after={after}")
            seen += json.loads(body)["queues"]
        assert seen == names

    async def test_without_a_second_redis_there_is_none(self, node, fresh_name):
        status, answer = await patch(node, fresh_name, {"storage": "memory"})
        assert (status, answer["error"]) == (400, "invalid-input")
        assert await read(node, fresh_name) == DEFAULTS


class TestStats:
    async def test_they_count_messages_by_their_state(self, node, fresh_name):
        await node.add(fresh_name, *"abcdef")
        await node.post(f"/q/{fresh_name}?delay=100", data={"value": "later"})
        leased = json.loads((await node.get(f"/q/{fresh_name}?lease=60&count=3"))[1])
        await node.post(f"/lease/{leased[0]['receipt']}", data={"dead": "x"})
        await node.get(f"/q/{fresh_name}")
        figures = json.loads((await node.get(f"/stats/{fresh_name}"))[1])
        assert 0 <= figures.pop("oldest_age") < 60
        assert figures.pop("rate_in") > 0
        assert figures.pop("rate_out") > 0
        assert figures.pop("redis")
        assert figures == {
            "queue": fresh_name,
            "len": 2,
            "status": 1,
            "policy": "",
            "ready": 2,
            "delayed": 1,
            "leased": 2,
            "dead": 1,
            "consumers": 0,
        }

    async def test_an_empty_queue_has_no_oldest(self, node, fresh_name):
        figures = json.loads((await node.get(f"/stats/{fresh_name}"))[1])
        assert figures["oldest_age"] is None
        assert (figures["rate_in"], figures["rate_out"]) == (0, 0)

    async def test_consumers_are_counted(self, node, fresh_name):
        async with node.session.get(f"{node.url}/c/{fresh_name}"):

            async def is_counted() -> bool:
                _, body = await node.get(f"/stats/{fresh_name}")
                return json.loads(body)["consumers"] == 1

            await eventually(is_counted)

    async def test_pages_of_the_list_tell_the_same(self, node, fresh_name):
        names = [f"{fresh_name}-{index}" for index in range(3)]
        for name in names:
            await node.add(name, "v")
        await node.post(f"/q/{names[0]}?delay=100", data={"value": "later"})
        _, body = await node.get(f"/stats/?limit=2&after={fresh_name}")
        found = json.loads(body)
        assert (list(found["queues"]), found["count"]) == (names[:2], 2)
        entry = found["queues"][names[0]]
        assert (entry["name"], entry["ready"], entry["delayed"]) == (names[0], 1, 1)
        headers = {"X-RestMQ-Limit": "1", "X-RestMQ-After": names[1]}
        _, body = await node.get("/stats", headers=headers)
        assert list(json.loads(body)["queues"]) == names[2:]
        for bad in ("limit=0", "limit=1001", "limit=x", "after=%ff"):
            assert (await node.get(f"/stats?{bad}"))[0] == 400
