"""Single messages by their keys, from outside (specification of delivery, section 2)."""

import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.endpoints.conftest import NodeUnderTest, OpenNode


async def put(node: NodeUnderTest, queue: str, parameters: str = "", value: str = "v") -> None:
    """Publish one message."""
    status, body = await node.post(f"/q/{queue}?{parameters}", data={"value": value})
    assert status == 200, body


async def show(node: NodeUnderTest, key: str) -> dict[str, Any]:
    """Return what /m tells."""
    status, body = await node.get(f"/m/{key}")
    assert status == 200, body
    answer: dict[str, Any] = json.loads(body)
    return answer


async def lease(node: NodeUnderTest, queue: str) -> str:
    """Lease one message, and return its receipt."""
    receipt: str = json.loads((await node.get(f"/q/{queue}?lease=60"))[1])["receipt"]
    return receipt


class TestShowing:
    async def test_a_ready_message_is_shown_without_being_taken(self, node, fresh_name):
        await put(node, fresh_name)
        for _ in range(2):
            found = await show(node, f"{fresh_name}:1")
            assert time.time() - 60 < found.pop("published") < time.time() + 1
            assert found == {
                "key": f"{fresh_name}:1",
                "value": "v",
                "state": "ready",
                "attempts": 0,
                "last_error": None,
                "expires": None,
                "priority": 4,
                "content_type": None,
            }
        assert (await node.get(f"/q/{fresh_name}"))[0] == 200

    async def test_each_state_has_its_time_and_the_story_goes_on(self, node, fresh_name):
        key = f"{fresh_name}:1"
        await put(node, fresh_name, "delay=0.2&ttl=1000&priority=7")
        found = await show(node, key)
        assert (found["state"], found["priority"]) == ("delayed", 7)
        assert found["published"] < found["ready_at"] < found["expires"]

        _, body = await node.get(f"/q/{fresh_name}?wait=20&lease=60")
        leased = json.loads(body)
        found = await show(node, key)
        assert (found["state"], found["attempts"]) == ("leased", 1)
        assert found["lease_expires"] == pytest.approx(leased["expires"], abs=0.001)
        assert "ready_at" not in found

        await node.post(f"/lease/{leased['receipt']}", data={"release": "0"})
        found = await show(node, key)
        assert (found["state"], found["attempts"]) == ("ready", 1)
        assert "released" in found["last_error"]
        assert "lease_expires" not in found

        receipt = await lease(node, fresh_name)
        await node.post(f"/lease/{receipt}", data={"dead": "broken"})
        found = await show(node, key)
        assert (found["state"], found["attempts"], found["last_error"]) == ("dead", 2, "broken")
        assert time.time() - 60 < found["died"] < time.time() + 1

    async def test_a_value_that_is_not_utf8_goes_as_base64(self, node, fresh_name):
        headers = {"Content-Type": "image/png"}
        await node.post(f"/q/{fresh_name}", data=b"\xff\x00\xfe", headers=headers)
        found = await show(node, f"{fresh_name}:1")
        assert (found["value"], found["encoding"]) == ("/wD+", "base64")
        assert found["content_type"] == "image/png"

    @pytest.mark.parametrize("name", ["a:b/c", "1:2", "x:", "ü/%:3", "a//b", "a%2Fb", ":"])
    async def test_the_last_colon_ends_the_name(self, node, fresh_name, name):
        queue = f"{fresh_name}/{name}"
        await put(node, quote(queue, safe=""))
        for safe in ("", "/:"):
            assert (await show(node, quote(f"{queue}:1", safe=safe)))["key"] == f"{queue}:1"

    @pytest.mark.parametrize("number", ["2", "9007199254740991"])
    async def test_what_is_not_there_is_404(self, node, fresh_name, number):
        await put(node, fresh_name)
        for method in ("GET", "DELETE"):
            status, body = await node.call(method, f"/m/{fresh_name}:{number}")
            assert (status, json.loads(body)["error"]) == (404, "not-found")
        form = {"priority": "5"}
        assert (await node.post(f"/m/{fresh_name}:{number}", data=form))[0] == 404

    @pytest.mark.parametrize(
        "key",
        ["", "x", "x:", ":1", "x:0", "x:-1", "x:1.5", "x:a", "x:01", "x:9007199254740992", "x:%ff"],
    )
    async def test_what_is_no_key_is_refused(self, node, key):
        for method in ("GET", "DELETE", "POST"):
            form = {"delay": "1"} if method == "POST" else None
            assert (await node.call(method, f"/m/{key}", data=form))[0] == 400

    async def test_what_was_taken_or_acked_is_gone(self, node, fresh_name):
        await put(node, fresh_name)
        await put(node, fresh_name)
        await node.get(f"/q/{fresh_name}")
        await node.call("DELETE", f"/lease/{await lease(node, fresh_name)}")
        for number in (1, 2):
            for method in ("GET", "DELETE"):
                assert (await node.call(method, f"/m/{fresh_name}:{number}"))[0] == 404


class TestRemoving:
    @pytest.mark.parametrize("state", ["ready", "delayed", "leased", "dead"])
    async def test_a_message_is_removed_wherever_it_is(self, node, fresh_name, state):
        key = f"{fresh_name}:1"
        await put(node, fresh_name, "delay=100" if state == "delayed" else "")
        receipt = await lease(node, fresh_name) if state in ("leased", "dead") else None
        if state == "dead":
            await node.post(f"/lease/{receipt}", data={"dead": "x"})
        assert (await show(node, key))["state"] == state
        status, body = await node.call("DELETE", f"/m/{key}")
        assert (status, json.loads(body)) == (200, {"key": key, "deleted": True})
        assert (await node.call("DELETE", f"/m/{key}"))[0] == 404
        figures = json.loads((await node.get(f"/stats/{fresh_name}"))[1])
        assert [figures[name] for name in ("ready", "delayed", "leased", "dead")] == [0] * 4
        if receipt:
            assert (await node.call("DELETE", f"/lease/{receipt}"))[0] == 409


class TestMoving:
    async def test_a_delayed_message_is_rescheduled(self, node, fresh_name):
        key = f"{fresh_name}:1"
        await put(node, fresh_name, "delay=100")
        status, body = await node.post(f"/m/{key}", data={"delay": "1000.5"})
        assert (status, json.loads(body)) == (200, {"key": key, "rescheduled": True})
        assert (await show(node, key))["ready_at"] > time.time() + 900
        at = time.time() + 5000
        assert (await node.post(f"/m/{key}?at={at:.3f}"))[0] == 200
        assert (await show(node, key))["ready_at"] == pytest.approx(at, abs=0.01)
        assert (await node.post(f"/m/{key}", headers={"X-RestMQ-Delay": "0"}))[0] == 200
        assert (await node.get(f"/q/{fresh_name}"))[0] == 200

    async def test_a_ready_message_is_moved_by_its_priority(self, node, fresh_name):
        for value in "abc":
            await put(node, fresh_name, value=value)
        key = f"{fresh_name}:2"
        status, body = await node.post(f"/m/{key}", data={"priority": "9"})
        assert (status, json.loads(body)) == (200, {"key": key, "priority": 9})
        assert (await show(node, key))["priority"] == 9
        assert (await node.post(f"/m/{fresh_name}:1", data={"priority": "0"}))[0] == 200
        _, body = await node.get(f"/q/{fresh_name}?count=10")
        assert [message["value"] for message in json.loads(body)] == ["b", "c", "a"]

    async def test_what_its_state_does_not_allow_is_a_conflict(self, node, fresh_name):
        key = f"{fresh_name}:1"
        await put(node, fresh_name)
        assert (await node.post(f"/m/{key}", data={"delay": "1"}))[0] == 409
        receipt = await lease(node, fresh_name)
        for form in ({"delay": "1"}, {"at": "1"}, {"priority": "1"}):
            status, body = await node.post(f"/m/{key}", data=form)
            assert (status, json.loads(body)["error"]) == (409, "conflict")
            assert "leased" in json.loads(body)["message"]
        await node.post(f"/lease/{receipt}", data={"dead": "x"})
        assert (await node.post(f"/m/{key}", data={"priority": "1"}))[0] == 409

    @pytest.mark.parametrize(
        "form",
        [
            {},
            {"delay": ""},
            {"ttl": "5"},
            {"delay": "1", "at": "1"},
            {"delay": "1", "priority": "1"},
            {"at": "1", "priority": "1"},
            {"delay": "-1"},
            {"delay": "x"},
            {"delay": "nan"},
            {"at": "x"},
            {"priority": "10"},
            {"priority": "1.5"},
        ],
    )
    async def test_bad_input_is_refused_and_changes_nothing(self, node, fresh_name, form):
        key = f"{fresh_name}:1"
        await put(node, fresh_name, "delay=100")
        before = await show(node, key)
        status, body = await node.post(f"/m/{key}", data=form)
        assert (status, json.loads(body)["error"]) == (400, "invalid-input")
        assert await show(node, key) == before


async def test_removing_and_moving_need_the_producer_section(
    open_node: OpenNode, fresh_name: str
) -> None:
    async with open_node("[rest:producer]\nhosts_deny = all\n") as node:
        await node.node.broker.add(fresh_name, b"v")
        assert (await node.get(f"/m/{fresh_name}:1"))[0] == 200
        assert (await node.call("DELETE", f"/m/{fresh_name}:1"))[0] == 401
        assert (await node.post(f"/m/{fresh_name}:1", data={"priority": "5"}))[0] == 401
    async with open_node("[rest:consumer]\nhosts_deny = all\n") as node:
        assert (await node.get(f"/m/{fresh_name}:1"))[0] == 401


async def test_jsonp_wraps(node: NodeUnderTest, fresh_name: str) -> None:
    await put(node, fresh_name)
    path = f"/m/{fresh_name}:1?callback=f"
    for method, form in (("GET", None), ("POST", {"priority": "5"}), ("DELETE", None)):
        _, body = await node.call(method, path, data=form)
        assert body.startswith(b"f({")
