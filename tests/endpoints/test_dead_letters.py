"""Dead letters, from outside (specification of delivery, section 2)."""

import json
import time
from typing import Any

import pytest

from tests.endpoints.conftest import NodeUnderTest, OpenNode


async def bury(node: NodeUnderTest, queue: str, *values: str, **options: Any) -> None:
    """Publish messages and make dead letters of them, for the reason ``bad <value>``."""
    for value in values:
        status, _ = await node.post(f"/q/{queue}?priority=9", data={"value": value}, **options)
        assert status == 200
        receipt = json.loads((await node.get(f"/q/{queue}?lease=60"))[1])["receipt"]
        status, _ = await node.post(f"/lease/{receipt}", data={"dead": f"bad {value}"})
        assert status == 200


async def listed(node: NodeUnderTest, queue: str, parameters: str = "") -> list[dict[str, Any]]:
    """List dead letters."""
    status, body = await node.get(f"/dead/{queue}?{parameters}")
    if status == 204:
        return []
    letters: list[dict[str, Any]] = json.loads(body)
    return letters


async def test_they_are_listed_oldest_first_with_reason_and_story(
    node: NodeUnderTest, fresh_name: str
) -> None:
    await bury(node, fresh_name, "a", "b")
    first, second = await listed(node, fresh_name)
    assert time.time() - 60 < first.pop("published") <= first.pop("died") < time.time() + 1
    assert first == {
        "key": f"{fresh_name}:1",
        "value": "a",
        "reason": "bad a",
        "attempts": 1,
        "priority": 9,
        "expires": None,
        "content_type": None,
    }
    assert second["value"] == "b"
    assert json.loads((await node.get(f"/stats/{fresh_name}"))[1])["dead"] == 2


async def test_they_come_in_pages_and_none_is_204(node: NodeUnderTest, fresh_name: str) -> None:
    assert await node.get(f"/dead/{fresh_name}") == (204, b"")
    await bury(node, fresh_name, *(str(index) for index in range(22)))
    assert len(await listed(node, fresh_name)) == 20
    assert [each["value"] for each in await listed(node, fresh_name, "count=2")] == ["0", "1"]
    page = await listed(node, fresh_name, "count=20&offset=20")
    assert [each["value"] for each in page] == ["20", "21"]
    assert await node.get(f"/dead/{fresh_name}?offset=22") == (204, b"")


@pytest.mark.parametrize(
    "parameters",
    ["count=0", "count=1001", "count=x", "offset=-1", "offset=x", "offset=1.5", "callback=a-b"],
)
async def test_bad_pages_are_refused(node: NodeUnderTest, fresh_name: str, parameters: str) -> None:
    status, body = await node.get(f"/dead/{fresh_name}?{parameters}")
    assert status == 400
    assert parameters.partition("=")[0] in json.loads(body)["message"]


async def test_all_go_back_with_attempts_from_zero(node: NodeUnderTest, fresh_name: str) -> None:
    await bury(node, fresh_name, "a", "b", "c")
    status, body = await node.post(f"/dead/{fresh_name}")
    assert (status, json.loads(body)) == (200, {"queue": fresh_name, "redriven": 3})
    _, body = await node.get(f"/q/{fresh_name}?lease=60&count=10")
    assert [(each["value"], each["attempt"]) for each in json.loads(body)] == [
        ("a", 1),
        ("b", 1),
        ("c", 1),
    ]
    assert json.loads((await node.post(f"/dead/{fresh_name}"))[1])["redriven"] == 0


async def test_some_go_back_by_number_or_by_key(node: NodeUnderTest, fresh_name: str) -> None:
    await bury(node, fresh_name, *"abcd")
    status, body = await node.post(f"/dead/{fresh_name}", data={"count": "2"})
    assert (status, json.loads(body)["redriven"]) == (200, 2)
    key = f"{fresh_name}:4"
    status, body = await node.post(f"/dead/{fresh_name}?key={key}")
    assert (status, json.loads(body)["redriven"]) == (200, 1)
    assert [each["value"] for each in await listed(node, fresh_name)] == ["c"]
    assert (await node.post(f"/dead/{fresh_name}", data={"key": key}))[0] == 404


@pytest.mark.parametrize(
    "form",
    [
        {"count": "0"},
        {"count": "x"},
        {"count": "-1"},
        {"key": "x"},
        {"key": "other:1"},
        {"key": "1"},
        {"key": "{queue}:0"},
        {"count": "1", "key": "{queue}:1"},
    ],
)
async def test_bad_input_is_refused_and_nothing_goes_back(
    node: NodeUnderTest, fresh_name: str, form: dict[str, str]
) -> None:
    await bury(node, fresh_name, "a")
    data = {name: value.format(queue=fresh_name) for name, value in form.items()}
    status, body = await node.post(f"/dead/{fresh_name}", data=data)
    assert (status, json.loads(body)["error"]) == (400, "invalid-input")
    assert len(await listed(node, fresh_name)) == 1


async def test_they_can_be_thrown_away(node: NodeUnderTest, fresh_name: str) -> None:
    await bury(node, fresh_name, "a", "b")
    await node.add(fresh_name, "stays")
    for dropped in (2, 0):
        status, body = await node.call("DELETE", f"/dead/{fresh_name}")
        assert (status, json.loads(body)) == (200, {"queue": fresh_name, "dropped": dropped})
    assert await listed(node, fresh_name) == []
    assert (await node.get(f"/q/{fresh_name}"))[0] == 200


async def test_a_purge_of_the_queue_leaves_them(node: NodeUnderTest, fresh_name: str) -> None:
    await bury(node, fresh_name, "a")
    await node.call("DELETE", f"/q/{fresh_name}")
    assert len(await listed(node, fresh_name)) == 1


async def test_a_full_queue_may_shed_into_them(node: NodeUnderTest, fresh_name: str) -> None:
    settings = {"max_length": 2, "overflow": "dead-letter"}
    await node.call("PATCH", f"/settings/{fresh_name}", json=settings)
    await node.add(fresh_name, "a", "b", "c")
    (letter,) = await listed(node, fresh_name)
    assert (letter["value"], letter["attempts"]) == ("a", 0)
    assert "full" in letter["reason"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_queue_must_be_named(node: NodeUnderTest, method: str) -> None:
    assert (await node.call(method, "/dead/"))[0] == 400
    assert (await node.call(method, "/dead/%ff"))[0] == 400


async def test_reading_is_for_consumers_and_changing_for_producers(
    open_node: OpenNode, fresh_name: str
) -> None:
    async with open_node("[rest:producer]\nhosts_deny = all\n") as node:
        assert (await node.get(f"/dead/{fresh_name}"))[0] == 204
        assert (await node.post(f"/dead/{fresh_name}"))[0] == 401
        assert (await node.call("DELETE", f"/dead/{fresh_name}"))[0] == 401
    async with open_node("[rest:consumer]\nhosts_deny = all\n") as node:
        assert (await node.get(f"/dead/{fresh_name}"))[0] == 401
