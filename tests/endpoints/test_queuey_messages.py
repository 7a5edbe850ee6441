"""Queuey's messages: posted, read by position and by id, replaced, deleted; sections 3, 5 and 6."""

import asyncio
import itertools
import json
import re
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from restmq.broker.log import Logs
from tests.endpoints.conftest import OpenNode
from tests.endpoints.queuey_client import QueueyClient, id_ahead, queuey
from tests.support import eventually

REQUIRED = (400, "body", "Required")
BAD_JSON = (400, "InvalidParameter", "Unable to properly deserialize JSON body.")
BAD_ID = (400, "InvalidMessageID", "Invalid message id's.")
UNKNOWN_ID = uuid.UUID("3a65d2ea-2a55-11e1-9d4e-c42c032b2d14").hex


@pytest.fixture
async def app(open_node: OpenNode) -> AsyncIterator[QueueyClient]:
    """An application of its own, with a queue ``q`` of two partitions."""
    async with queuey(open_node) as client:
        await client.create(partitions=2)
        yield client


# Posting


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("hello", "text/plain"),
        ("a=b&c=%20d", "application/x-www-form-urlencoded"),
        ("  żółć\r\n\0", "application/octet-stream"),
        ('{"messages":[]}', "text/json"),
        ("--x\r\n", "multipart/form-data; boundary=x"),
    ],
)
async def test_a_body_is_a_message_as_it_is(
    app: QueueyClient, body: str, content_type: str
) -> None:
    headers = {"Content-Type": content_type, "X-Partition": "2", "X-TTL": str(2**25)}
    answer = await app.ok("POST", "/q", status=201, data=body.encode(), headers=headers)
    [posted] = answer["messages"]
    assert posted.keys() == {"key", "timestamp", "partition"}
    assert re.fullmatch(r"[0-9a-f]{32}", posted["key"])
    assert re.fullmatch(r"[0-9]{10}\.[0-9]{7}", posted["timestamp"])
    assert (await app.messages("/q?partitions=2")) == [
        {
            "message_id": posted["key"],
            "timestamp": posted["timestamp"],
            "body": body,
            "partition": 2,
        }
    ]


async def test_the_timestamp_is_the_time_of_the_uuid(app: QueueyClient) -> None:
    [key] = await app.post("x", partition=1)
    [message] = await app.messages()
    made = uuid.UUID(key)
    assert made.version == 1
    ticks = made.time - 0x01B21DD213814000
    assert message["timestamp"] == f"{ticks // 10**7}.{ticks % 10**7:07d}"


async def test_without_a_partition_any_is_taken(app: QueueyClient) -> None:
    await app.post(*[f"m{number}" for number in range(64)])
    messages = await app.messages("/q?partitions=1,2")
    assert len(messages) == 64
    assert {message["partition"] for message in messages} == {1, 2}


@pytest.mark.parametrize(
    ("headers", "field", "text"),
    [
        ({"X-Partition": "fred"}, "partition", '"fred" is not a number'),
        ({"X-Partition": "1_0"}, "partition", '"1_0" is not a number'),
        ({"X-Partition": "3"}, "partition", "3 is greater than maximum value 2"),
        ({"X-Partition": "0"}, "partition", "0 is less than minimum value 1"),
        ({"X-TTL": "0"}, "ttl", "0 is less than minimum value 1"),
        ({"X-TTL": "-1"}, "ttl", "-1 is less than minimum value 1"),
        ({"X-TTL": "soon"}, "ttl", '"soon" is not a number'),
        ({"X-TTL": "33554433"}, "ttl", "33554433 is greater than maximum value 33554432"),
        ({"X-TTL": "9" * 30}, "ttl", f'"{"9" * 30}" is not a number'),
    ],
)
async def test_wrong_headers_are_refused(
    app: QueueyClient, headers: dict[str, str], field: str, text: str
) -> None:
    for _ in range(2):  # the second time the node remembers the queue
        assert await app.error("POST", "/q", data="x", headers=headers) == (400, field, text)
        await app.post("x", partition=1)
    assert await app.count() == 2


@pytest.mark.parametrize(("header", "field"), [(b"X-TTL", "ttl"), (b"X-Partition", "partition")])
async def test_headers_that_are_no_text_are_refused(
    app: QueueyClient, header: bytes, field: str
) -> None:
    for _ in range(2):
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nAuthorization: Application K\r\n%b: \xff5\r\n"
        data = head % (app.path("/q").encode(), header) + b"Content-Length: 1\r\n\r\nx"
        reader, writer = await asyncio.open_connection("127.0.0.1", app.node.node.port)
        writer.write(data)
        async with asyncio.timeout(20):
            assert b" 400 " in await reader.readline()
            await reader.readuntil(b"\r\n\r\n")
            answer = json.loads(await reader.readuntil(b"}}"))
        writer.close()
        await writer.wait_closed()
        assert answer == {"status": "error", "error_msg": {field: '"?5" is not a number'}}
        await app.post("x", partition=1)


async def test_a_body_is_text_that_is_not_empty(app: QueueyClient) -> None:
    assert await app.error("POST", "/q", data=b"") == REQUIRED
    assert (await app.error("POST", "/q", data=b"\xff"))[:2] == (400, "body")
    assert await app.error("PUT", f"/q/{UNKNOWN_ID}", data=b"") == REQUIRED
    assert (await app.error("PUT", f"/q/{UNKNOWN_ID}", data=b"\xff"))[:2] == (400, "body")
    assert await app.count() == 0


async def test_a_body_over_the_limit_is_refused(open_node: OpenNode) -> None:
    async with queuey(open_node, max_body_bytes=100) as app:
        await app.create()
        assert (await app.error("POST", "/q", data=b"x" * 101))[:2] == (413, "body")
        await app.ok("POST", "/q", status=201, data=b"x" * 100)


async def test_a_batch_is_answered_in_its_order(app: QueueyClient) -> None:
    items = [
        {"body": "m1", "ttl": 3600, "partition": 2},
        {"body": "m2", "ttl": "60", "partition": "1"},
        {"body": "m3", "other": [1, {}]},
        {"body": 12, "partition": None, "ttl": None},
        {"body": 1.5},
    ]
    headers = {"Content-Type": "application/json; charset=utf-8"}
    posted = (await app.ok("POST", "/q", status=201, json={"messages": items}, headers=headers))[
        "messages"
    ]
    assert [each["partition"] for each in posted[:2]] == [2, 1]
    ids = [uuid.UUID(each["key"]) for each in posted]
    assert all(one.time < two.time for one, two in itertools.pairwise(ids))
    path = "/q/" + ",".join(f"{each['partition']}:{each['key']}" for each in posted)
    assert await app.bodies(path) == ["m1", "m2", "m3", "12", "1.5"]


async def test_an_empty_batch_is_no_mistake(app: QueueyClient) -> None:
    answer = await app.ok("POST", "/q", status=201, json={"messages": []})
    assert answer["messages"] == []


@pytest.mark.parametrize(
    ("item", "field", "text"),
    [
        ({"body": "b", "partition": 4}, "1.partition", "4 is greater than maximum value 2"),
        ({"body": "b", "partition": 0}, "1.partition", "0 is less than minimum value 1"),
        ({"body": "b", "partition": "fred"}, "1.partition", '"fred" is not a number'),
        ({"body": "b", "partition": True}, "1.partition", '"true" is not a number'),
        ({"body": "b", "partition": 10**30}, "1.partition", None),
        ({"body": "b", "ttl": 0}, "1.ttl", "0 is less than minimum value 1"),
        ({"body": "b", "ttl": 2**25 + 1}, "1.ttl", None),
        ({"body": "b", "ttl": [1]}, "1.ttl", '"[1]" is not a number'),
        ({"body": "b", "ttl": 1.5}, "1.ttl", '"1.5" is not a number'),
        ({"body": ""}, "1.body", "Required"),
        ({"body": None}, "1.body", "Required"),
        ({}, "1.body", "Required"),
        ({"body": {}}, "1.body", "A body is text"),
        ({"body": ["b"]}, "1.body", "A body is text"),
        ({"body": True}, "1.body", "A body is text"),
        ("b", "1", None),
    ],
)
async def test_one_bad_message_rejects_the_batch(
    app: QueueyClient, item: object, field: str, text: str | None
) -> None:
    batch = {"messages": [{"body": "a"}, item, {"body": "c"}]}
    for _ in range(2):  # the second time the node remembers the queue
        status, found_field, found_text = await app.error("POST", "/q", json=batch)
        assert (status, found_field) == (400, field)
        assert text in (None, found_text)
        await app.post("x", partition=1)
    assert await app.count() == 2


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", b"1", b'{"messages":{}}', b'{"messages":"x"}', b"\xff", b"[" * 99999],
)
async def test_a_body_that_is_no_batch_is_refused(app: QueueyClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert await app.error("POST", "/q", data=body, headers=headers) == BAD_JSON


async def test_a_batch_has_a_limit(app: QueueyClient) -> None:
    batch = {"messages": [{"body": "a"}] * 10_001}
    assert (await app.error("POST", "/q", json=batch))[:2] == (400, "messages")
    await app.post(*["a"] * 10_000, partition=1)
    assert await app.count() == 10_000


@pytest.fixture
async def elsewhere(open_node: OpenNode, app: QueueyClient) -> AsyncIterator[QueueyClient]:
    """The same application on another node."""
    async with open_node(queuey_application_keys=(f"{app.application}=K",)) as other_node:
        yield QueueyClient(other_node, app.application, "K")


async def test_posts_to_a_queue_that_changes_elsewhere(
    app: QueueyClient, elsewhere: QueueyClient
) -> None:
    """What one node remembers of a queue never beats what the store knows."""
    await app.create("p")
    await app.post("a", queue="p")
    await elsewhere.ok("PUT", "/p", data={"partitions": 2})
    await app.post("b", queue="p", partition=2)
    await elsewhere.ok("DELETE", "/p")
    assert (await app.error("POST", "/p", data="c"))[:2] == (404, "InvalidQueueName")
    await elsewhere.create("p")
    await app.post("d", queue="p")
    assert await app.bodies("/p") == ["d"]


@pytest.mark.parametrize("is_single", [True, False])
async def test_a_queue_made_anew_elsewhere_gets_nothing_where_it_has_no_partition(
    app: QueueyClient, elsewhere: QueueyClient, is_single: bool
) -> None:
    """The node that posts remembers more partitions, or other settings, than there are."""

    async def post(*bodies: str, partition: int | None = None) -> None:
        if not is_single:
            await app.post(*bodies, partition=partition)
            return
        headers = {} if partition is None else {"X-Partition": str(partition)}
        for body in bodies:
            await app.ok("POST", "/q", status=201, data=body, headers=headers)

    async def make_anew(**settings: object) -> None:
        await elsewhere.ok("DELETE", "/q")
        await elsewhere.create(**settings)

    await make_anew(partitions=200)
    await post("x", "y", "z", partition=200)
    await make_anew(partitions=1)
    await post(*["x"] * 3)
    assert await elsewhere.bodies() == ["x"] * 3
    await make_anew(partitions=200)
    await post("x", partition=200)
    await make_anew(partitions=1)
    with pytest.raises(AssertionError, match="200 is greater than maximum value 1"):
        await post("x", partition=200)
    await elsewhere.ok("PUT", "/q", data={"type": "public"})
    await post("y")
    await elsewhere.ok("PUT", "/q", data={"partitions": 2})
    await post("z", partition=2)
    assert await elsewhere.bodies("/q?partitions=1,2") == ["y", "z"]
    assert await elsewhere.count() == 2
    await elsewhere.ok("DELETE", "/q")
    with pytest.raises(AssertionError, match="InvalidQueueName"):
        await post("x")


async def test_a_put_never_lands_in_a_partition_that_is_gone(
    app: QueueyClient, elsewhere: QueueyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens between the look at the queue and the storing."""
    put = Logs.put
    happens: list[tuple[str, str, dict[str, object]]] = []

    async def put_late(*arguments: Any, **options: Any) -> None:
        while happens:
            method, path, form = happens.pop(0)
            await elsewhere.call(method, path, data=form)
        await put(*arguments, **options)

    monkeypatch.setattr(Logs, "put", put_late)
    happens += [("DELETE", "/q", {}), ("POST", "", {"queue_name": "q"})]
    error = await app.error("PUT", f"/q/2:{UNKNOWN_ID}", data="x")
    assert error == (400, "partition", "2 is greater than maximum value 1")
    assert await app.count() == 0
    happens += [("PUT", "/q", {"partitions": 3})]
    await app.ok("PUT", f"/q/{UNKNOWN_ID}", data="x")
    assert await app.bodies() == ["x"]
    happens += [("DELETE", "/q", {})]
    error = await app.error("PUT", f"/q/{UNKNOWN_ID}", data="x")
    assert error[:2] == (404, "InvalidQueueName")


async def test_no_message_goes_where_a_queue_made_anew_has_no_partition(app: QueueyClient) -> None:
    for partitions in (200, 1, 200, 1):
        await app.create("again", partitions=partitions)
        await app.post(*["x"] * 50, queue="again")
        assert await app.count("again") == 50
        await app.ok("DELETE", "/again")


# Reading


async def test_reading_removes_nothing_and_goes_by_partition(app: QueueyClient) -> None:
    await app.post("a1", partition=1)
    await app.post("b1", "b2", partition=2)
    await app.post("a2", partition=1)
    for _ in range(2):
        assert await app.bodies() == ["a1", "a2"]
        assert await app.bodies("/q?partitions=2,1") == ["b1", "b2", "a1", "a2"]
        assert await app.bodies("/q?partitions=1,%202") == ["a1", "a2", "b1", "b2"]
        assert await app.bodies("/q?partitions=1,2&limit=1") == ["a1", "b1"]
        assert await app.bodies("/q?partitions=1,2&limit=1&order=descending") == ["a2", "b2"]
        assert await app.bodies("/q?partitions=3,2,999,0,-5,2") == ["b1", "b2"]
        assert await app.bodies("/q?partitions=3") == []


async def test_since_is_inclusive_either_way(app: QueueyClient) -> None:
    ids = await app.post("a", "b", "c", partition=1)
    times = [message["timestamp"] for message in await app.messages()]
    for positions in (ids, times, [one.upper() for one in ids]):
        assert await app.bodies(f"/q?since={positions[1]}") == ["b", "c"]
        assert await app.bodies(f"/q?since={positions[1]}&limit=1") == ["b"]
        assert await app.bodies(f"/q?since={positions[1]}&order=descending") == ["b", "a"]
        assert await app.bodies(f"/q?since={positions[2]}") == ["c"]
    for since in ("9999999999", "9" * 20):
        assert await app.bodies(f"/q?since={since}") == []
        assert await app.bodies(f"/q?since={since}&order=descending") == ["c", "b", "a"]
    for since in ("0", "1.5", "-1", "1000000000.12345678901"):
        assert await app.bodies(f"/q?since={since}") == ["a", "b", "c"]
        assert await app.bodies(f"/q?since={since}&order=descending") == []
    assert await app.bodies(f"/q?since={UNKNOWN_ID}") == ["a", "b", "c"]


async def test_an_id_of_digits_only_is_no_time(app: QueueyClient) -> None:
    """Read as seconds it would lie far in the future."""
    digits = "12345678901211118888123456789012"
    await app.ok("PUT", f"/q/{digits}", data="old")
    assert await app.bodies(f"/q?since={digits}") == ["old"]
    assert await app.bodies(f"/q?since={digits}&order=descending") == ["old"]


@pytest.mark.parametrize(
    ("query", "field", "text"),
    [
        ("since=x", "since", None),
        ("since=nan", "since", None),
        ("since=1e9", "since", None),
        ("since=" + "1" * 21, "since", None),
        ("since=" + "f" * 32, "since", None),
        ("since=" + uuid.UUID(int=0, version=4).hex, "since", None),
        ("limit=0", "limit", "0 is less than minimum value 1"),
        ("limit=1001", "limit", "1001 is greater than maximum value 1000"),
        ("limit=x", "limit", '"x" is not a number'),
        ("order=up", "order", '"up" is not one of ascending, descending'),
        ("partitions=1,fred", "partitions", '"fred" is not a number'),
        ("partitions=1,,2", "partitions", '"" is not a number'),
        ("partitions=1.5", "partitions", '"1.5" is not a number'),
    ],
)
async def test_wrong_queries_are_refused(
    app: QueueyClient, query: str, field: str, text: str | None
) -> None:
    status, found_field, found_text = await app.error("GET", f"/q?{query}")
    assert (status, found_field) == (400, field)
    assert text in (None, found_text)


async def test_a_hundred_are_read_by_default_and_a_thousand_at_most(app: QueueyClient) -> None:
    expected = [str(number) for number in range(1100)]
    await app.post(*expected, partition=1)
    assert await app.bodies() == expected[:100]
    assert await app.bodies("/q?limit=1000") == expected[:1000]


async def test_a_reply_longer_than_a_page_is_complete(
    app: QueueyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read in pages and sent in pieces; here of a smaller size than usual."""
    monkeypatch.setattr("restmq.endpoints.queuey_reading.READ_BYTES", 300)
    monkeypatch.setattr("restmq.endpoints.queuey_replies.MAX_WHOLE_BYTES", 1000)
    monkeypatch.setattr("restmq.endpoints.queuey_reading.READ_AT_ONCE", 1)
    ones = [f"{number:0100d}" for number in range(30)]
    ids = await app.post(*ones, partition=1)
    await app.post("two", partition=2)
    assert await app.bodies("/q?partitions=1,2") == [*ones, "two"]
    assert await app.bodies("/q?limit=17&partitions=2,1") == ["two", *ones[:17]]
    assert await app.bodies("/q?limit=17&order=descending") == ones[:-18:-1]
    assert await app.bodies("/q/" + ",".join(ids)) == ones
    url = app.node.url + app.path("/q")
    async with app.node.session.head(url, headers=app.headers) as answer:
        assert answer.status == 200


async def test_what_has_expired_is_neither_read_nor_counted(app: QueueyClient) -> None:
    headers = {"X-TTL": "1", "X-Partition": "1"}
    key = (await app.ok("POST", "/q", status=201, data="short", headers=headers))["messages"][0][
        "key"
    ]
    await app.post("long", partition=1)
    assert await app.bodies() == ["short", "long"]

    async def is_gone() -> bool:
        return await app.bodies() == ["long"]

    await eventually(is_gone)
    assert await app.bodies(f"/q/{key}") == []
    assert await app.count() == 1


# By id


async def test_messages_are_read_by_their_ids_in_the_order_asked_for(app: QueueyClient) -> None:
    [one] = await app.post("one", partition=1)
    [two] = await app.post("two", partition=2)
    for ids, expected in (
        (f"2:{two},{one}", ["two", "one"]),
        (f"1%3A{one}%2C2%3A{two}", ["one", "two"]),
        (f"001:{one.upper()},{one},{UNKNOWN_ID}", ["one"]),
        (f"{two}", []),
        (f"2:{one}", []),
        (f"3:{one},200:{one},999:{one},0:{one}", []),
        (UNKNOWN_ID, []),
    ):
        assert await app.bodies(f"/q/{ids}") == expected


@pytest.mark.parametrize(
    "ids",
    [
        "x",
        UNKNOWN_ID[:-1],
        UNKNOWN_ID + "0",
        f"{UNKNOWN_ID},",
        f",{UNKNOWN_ID}",
        f"1000:{UNKNOWN_ID}",
        f"x:{UNKNOWN_ID}",
        f":{UNKNOWN_ID}",
        f"-1:{UNKNOWN_ID}",
        f"{UNKNOWN_ID}%0A",
        "g" + UNKNOWN_ID[1:],
        uuid.UUID(int=5, version=4).hex,
        f"{UNKNOWN_ID},{uuid.UUID(int=5, version=4).hex}",
        "%D9%A1" * 32,
    ],
)
async def test_malformed_ids_are_refused(app: QueueyClient, ids: str) -> None:
    for method, body in (("GET", None), ("PUT", "x"), ("DELETE", None)):
        assert await app.error(method, f"/q/{ids}", data=body) == BAD_ID
    assert await app.count() == 0


async def test_a_put_replaces_and_keeps_the_time(app: QueueyClient) -> None:
    first, second = await app.post("a", "b", partition=2)
    before = await app.messages("/q?partitions=2")
    assert await app.ok("PUT", f"/q/2:{first},2%3A{second}", data="new") == {"status": "ok"}
    after = await app.messages("/q?partitions=2")
    assert after == [{**message, "body": "new"} for message in before]
    assert await app.count() == 2


async def test_a_put_creates_where_its_time_belongs(app: QueueyClient) -> None:
    [key] = await app.post("now", partition=1)
    late = id_ahead(key, 30)
    await app.ok("PUT", f"/q/{UNKNOWN_ID},{late}", data="put")
    assert [message["message_id"] for message in await app.messages()] == [UNKNOWN_ID, key, late]
    oldest = (await app.messages())[0]
    assert oldest["timestamp"] == "1324308133.8163946"
    first_of_all = uuid.UUID(fields=(0, 0, 0x1000, 0x80, 0, 5)).hex
    await app.ok("PUT", f"/q/2:{first_of_all}", data="ancient")
    [message] = await app.messages("/q?partitions=2")
    assert message["timestamp"] == "-12219292800.0000000"


async def test_a_put_far_ahead_of_the_clock_is_refused(app: QueueyClient) -> None:
    """Who has read it would look for later ones only, and miss what is posted until then."""
    [key] = await app.post("now", partition=1)
    for seconds in (90, 10**9):
        ids = f"{key},{id_ahead(key, seconds)}"
        status, field, text = await app.error("PUT", f"/q/{ids}", data="put")
        assert (status, field) == (400, "InvalidMessageID")
        assert "60 s" in text
    assert await app.bodies() == ["now"], "all or none"


async def test_a_put_renews_the_life_of_a_message(app: QueueyClient) -> None:
    headers = {"X-TTL": "1", "X-Partition": "1"}
    keys = [
        (await app.ok("POST", "/q", status=201, data=body, headers=headers))["messages"][0]["key"]
        for body in ("renewed", "ended")
    ]
    await app.ok("PUT", f"/q/{keys[0]}", data="renewed")

    async def one_is_left() -> bool:
        return await app.bodies() == ["renewed"]

    await eventually(one_is_left)
    await app.ok("PUT", f"/q/{keys[0]}", data="short", headers={"X-TTL": "1"})

    async def none_is_left() -> bool:
        return await app.bodies() == []

    await eventually(none_is_left)


async def test_a_put_into_no_partition_changes_nothing(app: QueueyClient) -> None:
    for partition, text in (
        ("3", "3 is greater than maximum value 2"),
        ("0", "0 is less than minimum value 1"),
    ):
        error = await app.error("PUT", f"/q/{UNKNOWN_ID},{partition}:{UNKNOWN_ID}", data="x")
        assert error == (400, "partition", text)
    ttl = await app.error("PUT", f"/q/{UNKNOWN_ID}", data="x", headers={"X-TTL": "0"})
    assert ttl == (400, "ttl", "0 is less than minimum value 1")
    assert await app.count() == 0


async def test_a_delete_takes_what_is_named_and_no_more(app: QueueyClient) -> None:
    one, left = await app.post("one", "left", partition=1)
    two, three = await app.post("two", "three", partition=2)
    for _ in range(2):
        answer = await app.ok("DELETE", f"/q/2:{two},2:{three},{one},3:{left},{UNKNOWN_ID}")
        assert answer == {"status": "ok"}
        assert await app.bodies("/q?partitions=1,2") == ["left"]
    await app.create("fresh")
    await app.ok("DELETE", f"/fresh/{UNKNOWN_ID}")


async def test_ids_of_many_posts_at_once_are_all_different(app: QueueyClient) -> None:
    answers = await asyncio.gather(*(app.post("x", "y", partition=1) for _ in range(20)))
    assert len({key for keys in answers for key in keys}) == 40
    messages = await app.messages("/q?limit=1000")
    times = [uuid.UUID(message["message_id"]).time for message in messages]
    assert times == sorted(set(times))
    assert len(times) == 40
