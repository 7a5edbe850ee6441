"""The JSON protocol, from outside (specification of RestMQ, section 5)."""

import json
from typing import Any

import pytest

from tests.endpoints.conftest import NodeUnderTest, OpenNode


async def command(node: NodeUnderTest, path: str = "/queue", **fields: Any) -> dict[str, Any]:
    """Send a command as a form, and return the answer to it."""
    status, body = await node.post(path, data={"body": json.dumps(fields)})
    assert status == 200, body
    assert not body.endswith(b"\n")
    answer: dict[str, Any] = json.loads(body)
    return answer


async def test_add_get_take_and_del(node: NodeUnderTest, fresh_name: str) -> None:
    """The life of two messages."""
    queue = fresh_name
    added = await command(node, cmd="add", queue=queue, value="abacab")
    assert added == {"queue": queue, "value": "abacab", "key": f"{queue}:1"}
    await command(node, cmd="add", queue=queue, value="second")
    first = {"queue": queue, "value": "abacab", "key": f"{queue}:1"}
    assert await command(node, cmd="get", queue=queue) == {**first, "count": 1}
    assert await command(node, cmd="get", queue=queue) == {**first, "count": 2}
    assert await command(node, cmd="take", queue=queue) == first
    deleted = {"queue": queue, "key": f"{queue}:2", "deleted": True}
    assert await command(node, cmd="del", queue=queue, key=f"{queue}:2") == deleted
    assert await command(node, cmd="take", queue=queue) == {"error": "empty queue"}
    assert await command(node, cmd="get", queue=queue) == {"error": "empty queue"}


async def test_del_knows_what_was_popped_once_but_not_what_was_taken(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """As clients of the original relied on; and it touches this queue's keys only."""
    await node.add(fresh_name, "a", "b", "c")
    await node.get(f"/q/{fresh_name}")
    await command(node, cmd="take", queue=fresh_name)

    async def deleted(key: str) -> bool:
        answer = await command(node, cmd="del", queue=fresh_name, key=key)
        return bool(answer["deleted"])

    assert await deleted(f"{fresh_name}:1")
    assert not await deleted(f"{fresh_name}:1")
    assert not await deleted(f"{fresh_name}:2")
    assert not await deleted("other:3")
    assert not await deleted("3")
    assert await deleted(f"{fresh_name}:3")
    assert await node.get(f"/q/{fresh_name}") == (204, b"")


async def test_the_path_names_the_queue_if_the_object_does_not(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """The object wins."""
    path = f"/queue/{fresh_name}"
    assert (await command(node, path, cmd="add", value="x"))["key"] == f"{fresh_name}:1"
    other = f"{fresh_name}-other"
    assert (await command(node, path, cmd="add", queue=other, value="x"))["queue"] == other


async def test_msg_wins_over_body_and_a_raw_json_body_serves_too(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Three ways to send a command."""
    good = json.dumps({"cmd": "add", "queue": fresh_name, "value": "x"})
    assert (await node.post("/queue", data={"body": "{oops", "msg": good}))[0] == 200
    headers = {"Content-Type": "application/json"}
    assert (await node.post("/queue", data=good, headers=headers))[0] == 200


@pytest.mark.parametrize(
    ("value", "stored"),
    [({"a": [1, None]}, '{"a":[1,null]}'), (42, "42"), (True, "true"), (None, "null"), ("", "")],
)
async def test_a_value_that_is_no_string_is_stored_as_compact_json(
    node: NodeUnderTest, fresh_name: str, value: object, stored: str
) -> None:
    """So a message may be a JSON object."""
    await command(node, cmd="add", queue=fresh_name, value=value)
    assert (await command(node, cmd="take", queue=fresh_name))["value"] == stored


async def test_expected_errors_are_answered_with_200(node: NodeUnderTest, fresh_name: str) -> None:
    """Unknown commands and missing fields, as in the original."""
    assert await command(node, cmd="zap") == {"error": "null resultset"}
    assert await command(node, cmd="__init__") == {"error": "null resultset"}
    assert await command(node, cmd="add", value="x") == {"error": "'queue'"}
    assert await command(node, cmd="add", queue=fresh_name) == {"error": "'value'"}
    assert await command(node, cmd="del", queue=fresh_name) == {"error": "'key'"}


@pytest.mark.parametrize(
    "body", ["{oops", "[]", '"x"', "{}", '{"cmd":""}', '{"cmd":3}', "[" * 100_000, ""]
)
async def test_what_is_no_command_is_refused(node: NodeUnderTest, body: str) -> None:
    """400 with a reason."""
    status, answer = await node.post("/queue", data={"body": body})
    assert (status, json.loads(answer)["error"]) == (400, "invalid-input")


@pytest.mark.parametrize("fields", [{"queue": ""}, {"queue": "q" * 1025}, {"queue": 7}])
async def test_a_bad_name_is_refused(node: NodeUnderTest, fields: dict[str, object]) -> None:
    """As everywhere."""
    text = json.dumps({"cmd": "add", "value": "x", **fields})
    assert (await node.post("/queue", data={"body": text}))[0] == 400


@pytest.mark.parametrize("ttl", [0, -1, "x", 1.5, True, []])
async def test_a_bad_ttl_is_refused(node: NodeUnderTest, fresh_name: str, ttl: object) -> None:
    """Nothing is stored."""
    text = json.dumps({"cmd": "add", "queue": fresh_name, "value": "x", "ttl": ttl})
    assert (await node.post("/queue", data={"body": text}))[0] == 400
    assert await command(node, cmd="take", queue=fresh_name) == {"error": "empty queue"}


async def test_get_and_take_need_the_consumer_section_too(
    open_node: OpenNode, fresh_name: str
) -> None:
    """A producer may add and delete, but not read."""
    acl = "[rest:consumer]\nusername = zz\npassword = bla\n"
    async with open_node(acl) as node:
        added = await command(node, cmd="add", queue=fresh_name, value="x")
        for name in ("get", "take"):
            body = {"body": json.dumps({"cmd": name, "queue": fresh_name})}
            assert (await node.post("/queue", data=body))[0] == 401
        deleted = await command(node, cmd="del", queue=fresh_name, key=added["key"])
        assert deleted["deleted"]


async def test_get_leads_to_the_help_page(node: NodeUnderTest) -> None:
    """Which has a form with the field ``body``."""
    assert (await node.get("/queue"))[0] == 302
    status, page = await node.get("/static/help.html")
    assert status == 200
    assert b'name="body"' in page
