"""Publishing beyond the classic contract, from outside (specification of delivery, section 1)."""

import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually

NDJSON = {"Content-Type": "application/x-ndjson"}
FAR = str(10**10)


async def stats(node: NodeUnderTest, queue: str) -> dict[str, Any]:
    """Return what /stats tells of a queue."""
    answer: dict[str, Any] = json.loads((await node.get(f"/stats/{queue}"))[1])
    return answer


async def taken(node: NodeUnderTest, queue: str) -> list[str]:
    """Take all that is ready, and return the values."""
    status, body = await node.get(f"/q/{queue}?count=1000")
    return [message["value"] for message in json.loads(body)] if status == 200 else []


async def story(node: NodeUnderTest, queue: str, number: int = 1) -> dict[str, Any]:
    """Return what /m tells of a message."""
    status, body = await node.get(f"/m/{queue}:{number}")
    assert status == 200, body
    answer: dict[str, Any] = json.loads(body)
    return answer


async def put(node: NodeUnderTest, queue: str, path: str = "", **options: Any) -> str:
    """Publish one message, and return the body of the answer."""
    status, body = await node.post(f"/q/{queue}{path}", **options)
    assert status == 200, body
    return body.decode()


# Parameters and where they come from


@pytest.mark.parametrize("place", ["query", "form", "header"])
async def test_parameters_come_from_the_query_a_form_or_headers(
    node: NodeUnderTest, fresh_name: str, place: str
) -> None:
    before = time.time()
    given = {"ttl": "100", "delay": "50.5", "priority": "9"}
    path, form, headers = "", {"value": "v"}, {}
    if place == "query":
        path = "?" + "&".join(f"{name}={value}" for name, value in given.items())
    elif place == "form":
        form |= given
    else:
        headers = {f"x-restmq-{name}": value for name, value in given.items()}
    await put(node, fresh_name, path, data=form, headers=headers)
    found = await story(node, fresh_name)
    assert (found["state"], found["priority"]) == ("delayed", 9)
    assert before + 50 < found["ready_at"] < time.time() + 51
    assert before + 99 < found["expires"] < time.time() + 101


async def test_the_query_wins_over_the_form_and_the_form_over_the_header(
    node: NodeUnderTest, fresh_name: str
) -> None:
    headers = {"X-RestMQ-Priority": "1"}
    cases = [("?priority=3", {"priority": "2"}, 3), ("", {"priority": "2"}, 2), ("", {}, 1)]
    for number, (path, form, priority) in enumerate(cases, start=1):
        data = {"value": "v", **form}
        await put(node, fresh_name, path, data=data, headers=headers)
        assert (await story(node, fresh_name, number))["priority"] == priority


async def test_a_blank_parameter_counts_as_missing_so_the_next_place_serves(
    node: NodeUnderTest, fresh_name: str
) -> None:
    headers = {"X-RestMQ-Priority": "1"}
    await put(node, fresh_name, "?priority=", data={"value": "v"}, headers=headers)
    await put(node, fresh_name, "?priority=&ttl=", data={"value": "v", "delay": ""})
    assert (await story(node, fresh_name, 1))["priority"] == 1
    assert (await story(node, fresh_name, 2))["priority"] == 4


async def test_classic_parameters_do_not_come_from_headers(
    node: NodeUnderTest, fresh_name: str
) -> None:
    headers = {"X-RestMQ-Value": "header", "X-RestMQ-Msg": "header", "X-RestMQ-Callback": "f"}
    answer = await put(node, fresh_name, data={"value": "form"}, headers=headers)
    assert answer == f"{fresh_name}:1\r\n"
    assert (await node.post(f"/q/{fresh_name}", data={"x": "y"}, headers=headers))[0] == 400
    assert await taken(node, fresh_name) == ["form"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("ttl", bad) for bad in ("0", "-1", "1.5", "x", "1e3", "99999999999", "１")],
        *[("delay", bad) for bad in ("-1", "x", "nan", "inf", "1e3", ".", "5.", "400000000", "٣")],
        *[("at", bad) for bad in ("-1", "x", "nan", "1e9", "100000000001", "now")],
        *[("priority", bad) for bad in ("-1", "10", "x", "4.5", "high")],
        ("id", "i" * 129),
    ],
)
@pytest.mark.parametrize("place", ["query", "form", "header", "batch"])
async def test_bad_values_are_refused_by_name_and_nothing_is_stored(
    node: NodeUnderTest, fresh_name: str, name: str, value: str, place: str
) -> None:
    path, data, headers = f"/q/{fresh_name}", {"value": "v"}, {}
    is_known = place != "query"  # there is a shorter way for queues that the node knows
    if is_known:
        await node.add(fresh_name, "first")
    if place == "form":
        data |= {name: value}
    elif place == "header":
        headers = {f"X-RestMQ-{name}": value}
    else:
        path += f"?{name}={quote(value)}"
    body: Any = data
    if place == "batch":
        body, headers = b"a\nb\n", NDJSON
    status, answer = await node.post(path, data=body, headers=headers)
    error = json.loads(answer)
    assert (status, error["error"]) == (400, "invalid-input")
    assert name in error["message"]
    assert (await stats(node, fresh_name))["len"] == int(is_known)
    assert await put(node, fresh_name, data={"value": "v"}) == f"{fresh_name}:{1 + is_known}\r\n"


async def test_delay_and_at_exclude_each_other(node: NodeUnderTest, fresh_name: str) -> None:
    data = {"value": "v", "delay": "1", "at": "1"}
    status, answer = await node.post(f"/q/{fresh_name}", data=data)
    assert status == 400
    assert b"delay or at" in answer


# What they do


async def test_a_delay_of_ten_years_is_allowed_and_zero_is_none(
    node: NodeUnderTest, fresh_name: str
) -> None:
    await put(node, fresh_name, "?delay=315360000", data={"value": "far"})
    await put(node, fresh_name, "?delay=0", data={"value": "now"})
    await put(node, fresh_name, "?at=0", data={"value": "past"})
    assert await taken(node, fresh_name) == ["now", "past"]
    assert (await stats(node, fresh_name))["delayed"] == 1


async def test_a_delayed_message_becomes_ready_by_itself(
    node: NodeUnderTest, fresh_name: str
) -> None:
    await put(node, fresh_name, "?delay=0.3", data={"value": "later"})
    await put(node, fresh_name, f"?at={time.time() + 0.3:.3f}", data={"value": "at"})
    assert await taken(node, fresh_name) == []
    status, body = await node.get(f"/q/{fresh_name}?wait=20")
    assert (status, json.loads(body)["value"]) == (200, "later")
    assert json.loads((await node.get(f"/q/{fresh_name}?wait=20"))[1])["value"] == "at"


async def test_higher_priority_goes_first_and_one_priority_is_fifo(
    node: NodeUnderTest, fresh_name: str
) -> None:
    for value, priority in (("a4", None), ("b0", 0), ("c9", 9), ("d4", 4), ("e9", 9)):
        path = "" if priority is None else f"?priority={priority}"
        await put(node, fresh_name, path, data={"value": value})
    assert await taken(node, fresh_name) == ["c9", "e9", "a4", "d4", "b0"]


@pytest.mark.parametrize("header", ["Idempotency-Key", "X-RestMQ-Id", None])
async def test_the_same_id_stores_once_and_answers_the_first_key(
    node: NodeUnderTest, fresh_name: str, header: str | None
) -> None:
    url = f"{node.url}/q/{fresh_name}" + ("" if header else "?id=order-7")
    headers = {header: "order-7"} if header else {}
    for is_duplicate in (False, True, True):
        async with node.session.post(url, data={"value": "v"}, headers=headers) as answer:
            assert (answer.status, await answer.text()) == (200, f"{fresh_name}:1\r\n")
            expected = "true" if is_duplicate else None
            assert answer.headers.get("X-RestMQ-Duplicate") == expected
    other = {"Idempotency-Key": "order-8"}
    assert await put(node, fresh_name, data={"value": "w"}, headers=other) == f"{fresh_name}:2\r\n"
    assert await taken(node, fresh_name) == ["v", "w"]


async def test_an_id_may_have_128_characters_and_the_query_wins(
    node: NodeUnderTest, fresh_name: str
) -> None:
    long = quote("ü" * 128)
    headers = {"Idempotency-Key": "other"}
    for _ in range(2):
        answer = await put(node, fresh_name, f"?id={long}", data={"value": "v"}, headers=headers)
        assert answer == f"{fresh_name}:1\r\n"
    assert await put(node, fresh_name, data={"value": "v"}, headers=headers) != answer


# Bodies


@pytest.mark.parametrize("content_type", ["text/plain; charset=latin-1", "image/png", None])
async def test_a_raw_body_is_the_value_byte_for_byte_with_its_type(
    node: NodeUnderTest, fresh_name: str, content_type: str | None
) -> None:
    value = bytes(range(256))
    async with node.session.post(
        f"{node.url}/q/{fresh_name}",
        data=value,
        headers={"Content-Type": content_type} if content_type else {},
        skip_auto_headers=["Content-Type"],
    ) as answer:
        assert answer.status == 200
    assert (await story(node, fresh_name))["content_type"] == content_type
    async with node.session.get(
        f"{node.url}/q/{fresh_name}", headers={"Accept": "application/octet-stream"}
    ) as answer:
        assert await answer.read() == value
        assert answer.headers["Content-Type"] == content_type or "application/octet-stream"


async def test_an_empty_raw_body_is_refused(node: NodeUnderTest, fresh_name: str) -> None:
    for content_type in ("text/plain", "application/x-ndjson", "application/json"):
        headers = {"Content-Type": content_type}
        assert (await node.post(f"/q/{fresh_name}", data=b"", headers=headers))[0] == 400
    assert (await stats(node, fresh_name))["len"] == 0


async def test_a_multipart_form_carries_parameters_too(
    node: NodeUnderTest, fresh_name: str
) -> None:
    boundary = "xyz"
    fields = {"value": "v", "priority": "7"}
    parts = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    await put(node, fresh_name, data=f"{parts}--{boundary}--\r\n", headers=headers)
    assert (await story(node, fresh_name))["priority"] == 7


async def test_the_answer_is_json_for_those_who_ask(node: NodeUnderTest, fresh_name: str) -> None:
    headers = {"Accept": "application/json"}
    answer = await put(node, fresh_name, data={"value": "v"}, headers=headers)
    assert json.loads(answer) == {"queue": fresh_name, "key": f"{fresh_name}:1"}
    headers = {"Accept": "text/plain, */*", "Content-Type": "text/plain"}
    assert await put(node, fresh_name, data=b"raw", headers=headers) == f"{fresh_name}:2\r\n"


# Batches


async def test_a_batch_is_a_message_per_line_verbatim(node: NodeUnderTest, fresh_name: str) -> None:
    body = b'{"a": 1}\n\n  not json \r\n\t \r\nin\rside\n\xc3\xbc\nlast'
    answer = json.loads(await put(node, fresh_name, data=body, headers=NDJSON))
    keys = [f"{fresh_name}:{number}" for number in range(1, 6)]
    assert answer == {"queue": fresh_name, "count": 5, "keys": keys}
    assert await taken(node, fresh_name) == ['{"a": 1}', "  not json ", "in\rside", "ü", "last"]


async def test_a_batch_takes_parameters_and_media_type_parameters(
    node: NodeUnderTest, fresh_name: str
) -> None:
    headers = {"Content-Type": "application/x-ndjson; charset=utf-8", "X-RestMQ-Priority": "8"}
    await put(node, fresh_name, "?ttl=100", data=b"a\nb\n", headers=headers)
    for number in (1, 2):
        found = await story(node, fresh_name, number)
        assert (found["priority"], found["content_type"]) == (8, None)
        assert found["expires"]


async def test_a_batch_repeated_by_id_answers_the_first_keys(
    node: NodeUnderTest, fresh_name: str
) -> None:
    url = f"{node.url}/q/{fresh_name}?id=batch"
    for body in (b"a\nb\nc\n", b"a\nb\nc\n", b"x\n"):
        async with node.session.post(url, data=body, headers=NDJSON) as answer:
            found = await answer.json()
            is_duplicate = "X-RestMQ-Duplicate" in answer.headers
        assert found["keys"] == [f"{fresh_name}:{number}" for number in (1, 2, 3)]
        assert found["count"] == 3
    assert is_duplicate
    assert await taken(node, fresh_name) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "body", [b"\n", b" \r\n\t\n", b"x\n" * 10_001, b"\n" * 20_001 + b"x"], ids=len
)
async def test_a_batch_of_nothing_or_of_too_much_is_refused(
    node: NodeUnderTest, fresh_name: str, body: bytes
) -> None:
    status, answer = await node.post(f"/q/{fresh_name}", data=body, headers=NDJSON)
    assert status == 400
    assert b"batch" in answer
    assert (await stats(node, fresh_name))["len"] == 0


async def test_a_batch_of_ten_thousand_is_stored(node: NodeUnderTest, fresh_name: str) -> None:
    body = b"".join(b"%d\r\n\n" % index for index in range(10_000))
    answer = json.loads(await put(node, fresh_name, data=body, headers=NDJSON))
    assert (answer["count"], len(answer["keys"])) == (10_000, 10_000)
    assert (await stats(node, fresh_name))["len"] == 10_000
    assert (await taken(node, fresh_name))[:3] == ["0", "1", "2"]


async def test_a_batch_goes_without_value(node: NodeUnderTest, fresh_name: str) -> None:
    path = f"/q/{fresh_name}?value=x"
    assert (await node.post(path, data=b"a\n", headers=NDJSON))[0] == 400
    assert (await stats(node, fresh_name))["len"] == 0


async def test_the_root_publishes_the_same_way(node: NodeUnderTest, fresh_name: str) -> None:
    path = f"/?queue={fresh_name}&priority=6"
    _, body = await node.post(path, data=b"a\nb\n", headers=NDJSON)
    assert json.loads(body)["count"] == 2
    assert (await story(node, fresh_name))["priority"] == 6


# A queue that is full


async def test_a_full_queue_answers_507_and_a_batch_is_stored_whole_or_not(
    node: NodeUnderTest, fresh_name: str
) -> None:
    assert (await node.call("PATCH", f"/settings/{fresh_name}", json={"max_length": 3}))[0] == 200
    await node.add(fresh_name, "a", "b")
    status, body = await node.post(f"/q/{fresh_name}", data=b"c\nd\n", headers=NDJSON)
    assert (status, json.loads(body)["error"]) == (507, "queue-full")
    await node.add(fresh_name, "c")
    status, body = await node.post(f"/q/{fresh_name}", data={"value": "d"})
    assert (status, json.loads(body)["error"]) == (507, "queue-full")
    assert await taken(node, fresh_name) == ["a", "b", "c"]


async def test_a_copy_of_every_message_goes_where_the_settings_say(
    node: NodeUnderTest, fresh_name: str
) -> None:
    copies = [f"{fresh_name}-one", f"{fresh_name}-two"]
    await node.call("PATCH", f"/settings/{fresh_name}", json={"copies_to": copies})
    await put(node, fresh_name, data=b"a\nb\n", headers=NDJSON)
    for queue in (fresh_name, *copies):
        assert await taken(node, queue) == ["a", "b"]


async def test_a_ttl_runs_while_a_message_is_delayed(node: NodeUnderTest, fresh_name: str) -> None:
    await put(node, fresh_name, "?ttl=1&delay=100", data={"value": "v"})

    async def is_gone() -> bool:
        return (await node.get(f"/m/{fresh_name}:1"))[0] == 404

    await eventually(is_gone)
    assert (await stats(node, fresh_name))["delayed"] == 0


async def test_headers_serve_behind_other_names_and_foreign_pages_may_read_them(
    open_node: OpenNode, fresh_name: str
) -> None:
    headers = {"Origin": "https://app.example", "X-Forwarded-For": "1.2.3.4", "X-RestMQ-ID": "i"}
    async with open_node(allowed_origins=("https://app.example",)) as node:
        url = f"{node.url}/q/{fresh_name}"
        for _ in range(2):
            async with node.session.post(url, data={"value": "v"}, headers=headers) as answer:
                exposed = answer.headers["Access-Control-Expose-Headers"]
                is_duplicate = "X-RestMQ-Duplicate" in answer.headers
        assert is_duplicate
    for name in ("Key", "Attempt", "Receipt", "Expires", "Duplicate"):
        assert f"X-RestMQ-{name}" in exposed.split(", ")
