"""The JSON protocol, from outside (specification of RestMQ, section 5)."""

import asyncio
import json
import time
from typing import Any

import pytest

from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually


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


# What goes beyond the original (specification of delivery, section 2)


async def refused(node: NodeUnderTest, **fields: Any) -> str:
    """Send a command that cannot be used; returns the message."""
    status, body = await node.post("/queue", data={"body": json.dumps(fields)})
    answer = json.loads(body)
    assert (status, answer["error"]) == (400, "invalid-input")
    message: str = answer["message"]
    return message


async def array(node: NodeUnderTest, *items: object, path: str = "/queue") -> list[dict[str, Any]]:
    """Send an array of commands, and return the array of answers."""
    status, body = await node.post(path, data=json.dumps(items).encode())
    assert status == 200, body
    answers: list[dict[str, Any]] = json.loads(body)
    assert len(answers) == len(items)
    return answers


class TestDelivery:
    async def test_lease_and_ack(self, node, fresh_name):
        await node.add(fresh_name, "v")
        leased = await command(node, cmd="lease", queue=fresh_name, seconds=60)
        receipt, expires = leased.pop("receipt"), leased.pop("expires")
        key = f"{fresh_name}:1"
        assert leased == {"queue": fresh_name, "key": key, "value": "v", "attempt": 1}
        assert time.time() + 55 < expires < time.time() + 61
        assert await command(node, cmd="ack", receipt=receipt) == {"key": key, "acked": True}
        stale = await command(node, cmd="ack", receipt=receipt)
        assert stale.keys() == {"error", "message"}
        assert stale["error"] == "stale-receipt"
        assert await command(node, cmd="lease", queue=fresh_name) == {"error": "empty queue"}

    async def test_lease_takes_several_and_waits(self, node, fresh_name):
        await node.add(fresh_name, "a", "b", "c")
        leased = await command(node, cmd="lease", queue=fresh_name, count=2)
        assert leased.keys() == {"queue", "messages"}
        assert [each["value"] for each in leased["messages"]] == ["a", "b"]
        assert all("receipt" in each for each in leased["messages"])
        await command(node, cmd="take", queue=fresh_name)
        await command(node, cmd="add", queue=fresh_name, value="later", delay=0.3)
        waited = await command(node, cmd="lease", queue=fresh_name, wait=20, seconds="30")
        assert waited["value"] == "later"
        answer = await command(node, cmd="lease", queue=fresh_name, wait=0.01, count=1)
        assert answer == {"error": "empty queue"}

    async def test_nack_gives_back_at_once_or_later(self, node, fresh_name):
        await node.add(fresh_name, "v")
        for form in ({}, {"delay": 0}, {"delay": 0.1}):
            leased = await command(node, cmd="lease", queue=fresh_name, wait=20)
            answer = await command(node, cmd="nack", receipt=leased["receipt"], **form)
            assert answer == {"key": f"{fresh_name}:1", "released": True}
            answer = await command(node, cmd="nack", receipt=leased["receipt"], **form)
            assert answer["error"] == "stale-receipt"
        again = await command(node, cmd="lease", queue=fresh_name, wait=20)
        assert again["attempt"] == 4

    async def test_extend_counts_from_now(self, node, fresh_name):
        await node.add(fresh_name, "v")
        leased = await command(node, cmd="lease", queue=fresh_name)
        extended = await command(node, cmd="extend", receipt=leased["receipt"], seconds=1000)
        assert extended.keys() == {"key", "expires"}
        assert time.time() + 900 < extended["expires"] < time.time() + 1001
        await command(node, cmd="ack", receipt=leased["receipt"])
        extended = await command(node, cmd="extend", receipt=leased["receipt"], seconds=1000)
        assert extended["error"] == "stale-receipt"

    async def test_peek_and_len_leave_all_as_it_is(self, node, fresh_name):
        assert await command(node, cmd="peek", queue=fresh_name) == {"error": "empty queue"}
        assert await command(node, cmd="len", queue=fresh_name) == {"queue": fresh_name, "len": 0}
        await node.add(fresh_name, *(str(index) for index in range(12)))
        peeked = await command(node, cmd="peek", queue=fresh_name, count=2)
        listed = [{"key": f"{fresh_name}:{n + 1}", "value": str(n)} for n in range(2)]
        assert peeked == {"queue": fresh_name, "messages": listed}
        assert len((await command(node, cmd="peek", queue=fresh_name))["messages"]) == 10
        assert (await command(node, cmd="len", queue=fresh_name))["len"] == 12

    async def test_add_takes_the_publish_parameters(self, node, fresh_name):
        path = f"/queue/{fresh_name}"
        await command(node, path, cmd="add", value="low", priority=0)
        await command(node, path, cmd="add", value="later", delay="100")
        await command(node, path, cmd="add", value="at", at=time.time() + 100)
        await command(node, path, cmd="add", value="high", priority="9", ttl="60", delay=None)
        figures = json.loads((await node.get(f"/stats/{fresh_name}"))[1])
        assert (figures["ready"], figures["delayed"]) == (2, 2)
        assert (await command(node, path, cmd="take"))["value"] == "high"
        assert (await command(node, path, cmd="take"))["value"] == "low"

    async def test_add_with_an_id_stores_once(self, node, fresh_name):
        first = await command(node, cmd="add", queue=fresh_name, value="v", id="one")
        again = await command(node, cmd="add", queue=fresh_name, value="v", id="one")
        assert "duplicate" not in first
        assert again == {**first, "duplicate": True}
        assert (await command(node, cmd="len", queue=fresh_name))["len"] == 1

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            *[({"cmd": "add", "value": "v", "ttl": bad}, "ttl") for bad in (0, 1.5, "x", True)],
            *[({"cmd": "add", "value": "v", "delay": bad}, "delay") for bad in (-1, "x", [], True)],
            *[({"cmd": "add", "value": "v", "at": bad}, "at") for bad in (-1, "now", 10**12)],
            *[({"cmd": "add", "value": "v", "priority": bad}, "priority") for bad in (-1, 10, 1.5)],
            *[({"cmd": "add", "value": "v", "id": bad}, "id") for bad in ("", 7, "i" * 129)],
            ({"cmd": "add", "value": "v", "delay": 1, "at": 1}, "delay or at"),
            *[({"cmd": "lease", "seconds": bad}, "seconds") for bad in (0, 43201, "x", True)],
            *[({"cmd": "lease", "count": bad}, "count") for bad in (0, 1001, 1.5, "x")],
            *[({"cmd": "lease", "wait": bad}, "wait") for bad in (-1, 61, "x")],
            *[({"cmd": "peek", "count": bad}, "count") for bad in (0, 1001, {})],
            *[({"cmd": "ack", "receipt": bad}, "receipt") for bad in ("x", "", 7, None)],
            ({"cmd": "nack", "receipt": "x", "delay": -1}, "delay"),
            ({"cmd": "extend", "receipt": "x", "seconds": 0}, "seconds"),
            ({"cmd": "len", "queue": ""}, "queue"),
        ],
    )
    async def test_bad_fields_are_refused_by_name_and_nothing_happens(
        self, node, fresh_name, fields, name
    ):
        await node.add(fresh_name, "v")
        assert name in await refused(node, **{"queue": fresh_name, **fields})
        figures = json.loads((await node.get(f"/stats/{fresh_name}"))[1])
        assert (figures["ready"], figures["leased"], figures["delayed"]) == (1, 0, 0)

    async def test_missing_fields_are_told_as_ever(self, node, fresh_name):
        for name in ("lease", "peek", "len"):
            assert await command(node, cmd=name) == {"error": "'queue'"}
        for name in ("ack", "nack"):
            assert await command(node, cmd=name) == {"error": "'receipt'"}
        assert await command(node, cmd="extend", receipt="x") == {"error": "'seconds'"}
        assert await command(node, cmd="extend", seconds=5) == {"error": "'receipt'"}

    async def test_a_full_queue_is_507_for_nothing_was_stored(self, node, fresh_name):
        await node.call("PATCH", f"/settings/{fresh_name}", json={"max_length": 1})
        await command(node, cmd="add", queue=fresh_name, value="v")
        text = json.dumps({"cmd": "add", "queue": fresh_name, "value": "v"})
        status, body = await node.post("/queue", data={"body": text})
        assert (status, json.loads(body)["error"]) == (507, "queue-full")

    async def test_numbers_of_any_length_are_read(self, node, fresh_name):
        for digits in ("9" * 30, "9" * 5000):
            text = f'{{"cmd":"add","queue":"{fresh_name}","value":"v","ttl":{digits}}}'
            assert (await node.post("/queue", data={"body": text}))[0] == 400


class TestArrays:
    async def test_commands_are_answered_in_order(self, node, fresh_name):
        key = f"{fresh_name}:1"
        answers = await array(
            node,
            {"cmd": "add", "value": "v"},
            {"cmd": "len"},
            {"cmd": "take"},
            {"cmd": "take"},
            {"cmd": "del", "key": key},
            path=f"/queue/{fresh_name}",
        )
        assert answers == [
            {"queue": fresh_name, "value": "v", "key": key},
            {"queue": fresh_name, "len": 1},
            {"queue": fresh_name, "value": "v", "key": key},
            {"error": "empty queue"},
            {"queue": fresh_name, "key": key, "deleted": False},
        ]

    async def test_a_bad_command_is_answered_in_its_place(self, node, fresh_name):
        add = {"cmd": "add", "queue": fresh_name, "value": "v"}
        bad = [7, None, [], {}, {"cmd": 3}, {"cmd": "zap"}, {"cmd": "add"}, {**add, "ttl": 0}]
        bad += [{"cmd": "ack", "receipt": "x"}, {**add, "queue": ""}]
        answers = await array(node, add, *bad, add)
        assert answers[0]["key"] == f"{fresh_name}:1"
        assert answers[-1]["key"] == f"{fresh_name}:2"
        errors = [answer["error"] for answer in answers[1:-1]]
        assert (
            errors == [*["invalid-input"] * 5, "null resultset", "'queue'"] + ["invalid-input"] * 3
        )

    async def test_a_full_queue_is_told_in_its_place(self, node, fresh_name):
        await node.call("PATCH", f"/settings/{fresh_name}", json={"max_length": 1})
        add = {"cmd": "add", "queue": fresh_name, "value": "v"}
        answers = await array(node, add, add)
        assert (answers[0]["key"], answers[1]["error"]) == (f"{fresh_name}:1", "queue-full")

    async def test_a_form_carries_an_array_too(self, node, fresh_name):
        text = json.dumps([{"cmd": "len", "queue": fresh_name}])
        status, body = await node.post("/queue", data={"msg": text})
        assert (status, json.loads(body)) == (200, [{"queue": fresh_name, "len": 0}])

    @pytest.mark.parametrize("count", [0, 1001])
    async def test_an_array_of_nothing_or_of_too_much_is_refused(self, node, fresh_name, count):
        add = {"cmd": "add", "queue": fresh_name, "value": "v"}
        body = json.dumps([add] * count).encode()
        status, answer = await node.post("/queue", data=body)
        assert (status, json.loads(answer)["error"]) == (400, "invalid-input")
        assert (await command(node, cmd="len", queue=fresh_name))["len"] == 0

    async def test_a_thousand_are_carried_out(self, node, fresh_name):
        answers = await array(node, *[{"cmd": "add", "queue": fresh_name, "value": "v"}] * 1000)
        assert answers[-1]["key"] == f"{fresh_name}:1000"

    async def test_an_answer_has_an_end_and_what_follows_is_not_done(self, node, fresh_name):
        for _ in range(6):
            await node.node.broker.add(fresh_name, b"x" * 4_000_000)
        answers = await array(node, *[{"cmd": "take", "queue": fresh_name}] * 6)
        given = [answer for answer in answers if "value" in answer]
        assert 4 <= len(given) < 6
        assert answers[-1]["error"] == "too-large"
        left = (await command(node, cmd="len", queue=fresh_name))["len"]
        assert left == 6 - len(given)

    async def test_without_the_consumer_section_nothing_is_done(self, open_node, fresh_name):
        async with open_node("[rest:consumer]\nhosts_deny = all\n") as node:
            add = {"cmd": "add", "queue": fresh_name, "value": "v"}
            for name in ("get", "take", "lease", "peek", "len", "ack", "nack", "extend"):
                items = [add, {"cmd": name, "queue": fresh_name}]
                status, _ = await node.post("/queue", data=json.dumps(items).encode())
                assert status == 401
            assert (await array(node, add))[0]["key"] == f"{fresh_name}:1"

    @pytest.mark.parametrize("name", ["take", "lease"])
    async def test_a_client_that_leaves_meanwhile_consumes_nothing(self, node, fresh_name, name):
        other = f"{fresh_name}-other"
        await node.add(fresh_name, "a", "b")
        items = [
            {"cmd": name, "queue": fresh_name},
            {"cmd": name, "queue": fresh_name},
            {"cmd": "lease", "queue": other, "wait": 60},
        ]
        waiting = asyncio.create_task(node.post("/queue", data=json.dumps(items).encode()))

        async def has_begun() -> bool:
            return (await command(node, cmd="len", queue=fresh_name))["len"] == 0

        await eventually(has_begun)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        async def is_back() -> bool:
            return (await command(node, cmd="len", queue=fresh_name))["len"] == 2

        await eventually(is_back)
        found = await command(node, cmd="lease", queue=fresh_name, count=5)
        assert [(each["value"], each["attempt"]) for each in found["messages"]] == [
            ("a", 1),
            ("b", 1),
        ]
