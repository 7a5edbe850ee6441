"""The classic REST routes, from outside (specification of RestMQ, sections 3 and 4)."""

import json
from urllib.parse import quote

import pytest

from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import eventually


async def test_an_add_answers_the_key_and_a_pop_the_oldest_message(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Keys count from 1; the oldest message comes first; an empty queue is 204 without a body."""
    assert await node.post(f"/q/{fresh_name}", data={"value": "one"}) == (
        200,
        f"{fresh_name}:1\r\n".encode(),
    )
    await node.add(fresh_name, "two")
    status, body = await node.get(f"/q/{fresh_name}")
    assert status == 200
    assert body.endswith(b"}\r\n")
    assert json.loads(body) == {"key": f"{fresh_name}:1", "value": "one", "count": 0}
    await node.get(f"/q/{fresh_name}")
    assert await node.get(f"/q/{fresh_name}") == (204, b"")


@pytest.mark.parametrize(
    "value",
    [
        "42",
        " spaces \t",
        "control \x01\x02",
        "line\r\nbreaks\n",
        "a=b&c;d%41+",
        "ü☃\U0001f600",
        "null",
    ],
)
async def test_values_come_back_verbatim_and_as_strings(
    node: NodeUnderTest, fresh_name: str, value: str
) -> None:
    """Nothing is trimmed, cleaned or turned into a number."""
    await node.add(fresh_name, value)
    _, body = await node.get(f"/q/{fresh_name}")
    assert json.loads(body)["value"] == value


async def test_a_value_that_is_not_utf8_appears_as_base64(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """A raw body is stored byte for byte."""
    await node.post(f"/q/{fresh_name}", data=b"\xff\x00\xfe")
    _, body = await node.get(f"/q/{fresh_name}")
    assert json.loads(body) == {
        "key": f"{fresh_name}:1",
        "value": "/wD+",
        "encoding": "base64",
        "count": 0,
    }


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "image/png"])
async def test_a_body_that_is_not_a_form_is_the_value(
    node: NodeUnderTest, fresh_name: str, content_type: str
) -> None:
    """Even if it looks like a form."""
    headers = {"Content-Type": content_type}
    await node.post(f"/q/{fresh_name}", data=b"value=x&ttl=1", headers=headers)
    _, body = await node.get(f"/q/{fresh_name}")
    assert json.loads(body)["value"] == "value=x&ttl=1"


async def test_parameters_of_query_and_form_are_merged_and_the_last_wins(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """The form follows the query; within each, the later one wins; msg wins over value."""
    form = "value=b&value=c"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    await node.post(f"/q/{fresh_name}?value=a", data=form, headers=headers)
    await node.post(f"/q/{fresh_name}?value=only%20query")
    await node.post(f"/q/{fresh_name}", data={"value": "v", "msg": "m"})
    values = [json.loads((await node.get(f"/q/{fresh_name}"))[1])["value"] for _ in range(3)]
    assert values == ["c", "only query", "m"]


async def test_a_multipart_part_with_a_bad_header_is_refused(
    node: NodeUnderTest, fresh_name: str
) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    body = b'--b\r\nContent-Disposition: form-data; name="\x01"\r\n\r\nv\r\n--b--\r\n'
    status, _ = await node.post(f"/q/{fresh_name}", data=body, headers=headers)
    assert status == 400


async def test_a_multipart_form_is_read(node: NodeUnderTest, fresh_name: str) -> None:
    """A field, or the content of a file."""
    boundary = "xyz"
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="value"; filename="f"\r\n\r\n'
        f"file content\r\n--{boundary}--\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    status, _ = await node.post(f"/q/{fresh_name}", data=body, headers=headers)
    assert status == 200
    _, body_read = await node.get(f"/q/{fresh_name}")
    assert json.loads(body_read)["value"] == "file content"


@pytest.mark.parametrize("form", [{}, {"value": ""}, {"other": "x"}])
async def test_an_add_without_a_value_is_refused(
    node: NodeUnderTest, fresh_name: str, form: dict[str, str]
) -> None:
    """A blank value counts as missing, and nothing is stored."""
    status, body = await node.post(f"/q/{fresh_name}", data=form)
    assert status == 400
    assert json.loads(body)["error"] == "invalid-input"
    assert await node.get(f"/q/{fresh_name}") == (204, b"")


@pytest.mark.parametrize("name", ["a/b", "with space", "ü", "100%", "{brace}", "}x", "s:1.2.3.4"])
async def test_a_name_may_hold_anything(node: NodeUnderTest, fresh_name: str, name: str) -> None:
    """The rest of the path, percent-decoded, is the name."""
    queue = f"{fresh_name}/{name}"
    path = f"/q/{quote(queue)}"
    assert await node.post(path, data={"value": "v"}) == (200, f"{queue}:1\r\n".encode())
    _, listed = await node.get(f"/q/?limit=1&after={quote(fresh_name, safe='')}")
    assert "href" in listed.decode()
    assert json.loads((await node.get(path))[1])["key"] == f"{queue}:1"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_an_empty_name_is_refused(node: NodeUnderTest, method: str) -> None:
    """A queue cannot be named by nothing."""
    status, _ = await node.call(method, "/q/", data={"value": "v"})
    assert status == 400


async def test_the_root_pops_with_404_when_empty_and_leads_to_the_index_page(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """``GET /`` is a pop only when it names a queue."""
    assert (await node.get("/"))[0] == 302
    status, body = await node.get(f"/?queue={fresh_name}")
    assert (status, json.loads(body)["error"]) == (404, "not-found")
    await node.post("/", data={"queue": fresh_name, "msg": "x"})
    assert json.loads((await node.get(f"/?queue={fresh_name}"))[1])["value"] == "x"


async def test_peek_lists_without_taking(node: NodeUnderTest, fresh_name: str) -> None:
    """The oldest come first; an empty queue is 204."""
    assert await node.get(f"/q/{fresh_name}?peek=5") == (204, b"")
    await node.add(fresh_name, "a", "b", "c")
    _, body = await node.get(f"/q/{fresh_name}?peek=2")
    assert [message["value"] for message in json.loads(body)] == ["a", "b"]
    assert json.loads((await node.get(f"/stats/{fresh_name}"))[1])["len"] == 3
    assert (await node.get(f"/q/{fresh_name}?peek=0"))[0] == 400


async def test_the_policy_is_broadcast_until_it_is_set(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """A bad policy is refused and changes nothing."""
    path = f"/p/{fresh_name}"
    assert json.loads((await node.get(path))[1]) == {"queue": fresh_name, "value": "broadcast"}
    assert await node.post(path, data={"policy": "roundrobin"}) == (200, b"OK\r\n")
    assert (await node.post(path, data={"policy": "other"}))[0] == 400
    assert (await node.post(path, data={}))[0] == 400
    assert json.loads((await node.get(path))[1])["value"] == "roundrobin"


async def test_stats_tell_length_status_and_policy(node: NodeUnderTest, fresh_name: str) -> None:
    """An unknown queue has length 0; a stopped one has status 0; an unset policy is empty."""
    _, body = await node.get(f"/stats/{fresh_name}")
    stats = json.loads(body)
    assert stats["redis"]
    assert (stats["queue"], stats["len"], stats["status"], stats["policy"]) == (
        fresh_name,
        0,
        1,
        "",
    )
    await node.add(fresh_name, "x")
    await node.post(f"/control/{fresh_name}", data={"status": "stop"})
    await node.post(f"/p/{fresh_name}", data={"policy": "roundrobin"})
    for path in ("/stats", "/stats/"):
        status, body = await node.get(path)
        assert status == 200
        everything = json.loads(body)
        assert everything["queues"][fresh_name] == {
            "name": fresh_name,
            "len": 1,
            "status": 0,
            "policy": 2,
        }
        assert everything["count"] == len(everything["queues"])


async def test_stats_and_queues_come_in_pages_by_name(node: NodeUnderTest, fresh_name: str) -> None:
    """``limit`` and ``after`` walk through all names in order."""
    names = [f"{fresh_name}-{index}" for index in range(5)]
    for name in reversed(names):
        await node.add(name, "x")
    seen: list[str] = []
    while len(seen) < 5:
        after = seen[-1] if seen else fresh_name
        _, body = await node.get(f"/stats/?limit=2&after={after}")
        seen += [name for name in json.loads(body)["queues"] if name in names]
    assert seen == names
    _, page = await node.get(f"/q?limit=2&after={fresh_name}")
    assert page.count(b"<li>") == 2
    assert b"more" in page


async def test_control_starts_and_stops(node: NodeUnderTest, fresh_name: str) -> None:
    """A stop before the first add is remembered; a bad status is answered, not refused."""
    path = f"/control/{fresh_name}"
    status, body = await node.post(path, data={"status": "stop"})
    assert (status, json.loads(body)) == (200, {"stat": {"queue": fresh_name, "status": 0}})
    await node.add(fresh_name, "x")
    _, body = await node.get(path)
    assert json.loads(body)["status"] == {"queue": fresh_name, "status": 0}
    _, body = await node.post(path, data={"status": "bogus"})
    assert json.loads(body) == {"stat": "invalid status: bogus"}
    await node.post(path, data={"status": "start"})
    _, body = await node.get("/control/")
    everything = json.loads(body)
    assert everything["queues"][fresh_name] == {"queue": fresh_name, "status": 1}
    assert everything["count"] == len(everything["queues"])
    assert everything["redis"]


async def test_a_stopped_queue_still_takes_adds_and_pops(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Only streams pause."""
    await node.post(f"/control/{fresh_name}", data={"status": "stop"})
    await node.add(fresh_name, "x")
    assert (await node.get(f"/q/{fresh_name}"))[0] == 200


async def test_delete_tells_whether_anything_was_queued(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """The counter goes on, and the name stays listed."""
    path = f"/q/{fresh_name}"
    await node.add(fresh_name, "x")
    _, body = await node.call("DELETE", path)
    assert json.loads(body) == {"queue": fresh_name, "status": 1}
    _, body = await node.call("DELETE", path)
    assert json.loads(body)["status"] == 0
    assert await node.post(path, data={"value": "y"}) == (200, f"{fresh_name}:2\r\n".encode())
    assert fresh_name in json.loads((await node.get("/stats"))[1])["queues"]


@pytest.mark.parametrize("ttl", ["0", "-1", "abc", "1.5", "99999999999999999999", " 1", "１"])
async def test_a_bad_ttl_is_refused_and_nothing_is_stored(
    node: NodeUnderTest, fresh_name: str, ttl: str
) -> None:
    """A ttl is a whole number of seconds, 1 or more."""
    status, body = await node.post(f"/q/{fresh_name}", data={"value": "v", "ttl": ttl})
    assert status == 400
    assert "ttl" in json.loads(body)["message"]
    assert await node.get(f"/q/{fresh_name}") == (204, b"")


async def test_an_expired_message_is_gone(node: NodeUnderTest, fresh_name: str) -> None:
    """It is skipped silently and does not count."""
    await node.post(f"/q/{fresh_name}", data={"value": "v", "ttl": "1"})
    await node.add(fresh_name, "stays")

    async def expired() -> bool:
        return json.loads((await node.get(f"/stats/{fresh_name}"))[1])["len"] == 1

    await eventually(expired)
    assert json.loads((await node.get(f"/q/{fresh_name}"))[1])["value"] == "stays"


async def test_jsonp_wraps_what_is_answered(node: NodeUnderTest, fresh_name: str) -> None:
    """Bare strings are quoted, and the type is JavaScript."""
    path = f"/q/{fresh_name}"
    _, body = await node.post(f"{path}?callback=cb", data={"value": "a\u2028b"})
    assert body == f'cb("{fresh_name}:1");\r\n'.encode()
    async with node.session.get(f"{node.url}{path}?callback=my.$f") as answer:
        assert answer.content_type == "application/javascript"
        text = await answer.text()
    assert text.startswith('my.$f({"key"')
    assert "\\u2028" in text
    _, body = await node.get(f"/stats/{fresh_name}?callback=f")
    assert json.loads(body[2:-4])["len"] == 0
    _, body = await node.post(f"/p/{fresh_name}?callback=f", data={"policy": "broadcast"})
    assert body == b'f("OK");\r\n'


@pytest.mark.parametrize("callback", ["a-b", "alert(1)//", "1a", "a" * 129, "</script>"])
async def test_a_hostile_callback_is_refused_and_consumes_nothing(
    node: NodeUnderTest, fresh_name: str, callback: str
) -> None:
    """The message is still there afterwards."""
    await node.add(fresh_name, "x")
    for path in (f"/q/{fresh_name}", f"/c/{fresh_name}"):
        status, _ = await node.get(f"{path}?callback={quote(callback, safe='')}")
        assert status == 400
    assert json.loads((await node.get(f"/stats/{fresh_name}"))[1])["len"] == 1


async def test_the_job_page_lists_the_newest_keys_escaped(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """At most ten, newest first."""
    queue = f"{fresh_name}<b>"
    for index in range(12):
        await node.add(quote(queue), str(index))
    status, body = await node.get(f"/j/{quote(queue)}")
    page = body.decode()
    assert status == 200
    assert "<b>" not in page
    assert page.index("&lt;b&gt;:12<") < page.index("&lt;b&gt;:11<")
    assert page.count("<li>") == 10
    assert f'/ui/queue?name={quote(queue, safe="")}"' in page


async def test_unknown_paths_and_methods_are_told(node: NodeUnderTest, fresh_name: str) -> None:
    """404 for a path, 405 with Allow for a method."""
    assert (await node.get("/nothing"))[0] == 404
    async with node.session.put(f"{node.url}/q/{fresh_name}") as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]
    assert (await node.call("HEAD", f"/q/{fresh_name}"))[0] == 405
    assert (await node.call("HEAD", "/healthz"))[0] == 200


async def test_a_name_over_1024_bytes_is_refused(node: NodeUnderTest) -> None:
    """1,024 bytes are allowed, counted in UTF-8."""
    assert (await node.post("/q/" + quote("ü" * 512), data={"value": "v"}))[0] == 200
    assert (await node.post("/q/" + quote("ü" * 512 + "x"), data={"value": "v"}))[0] == 400
    assert (await node.get("/q/" + "x" * 1025))[0] == 400


@pytest.mark.parametrize("path", ["/q/%ff", "/q/a%00%C3%28", "/c/%ff", "/p/%ff"])
async def test_a_name_that_is_not_utf8_is_refused(node: NodeUnderTest, path: str) -> None:
    """The name is text."""
    assert (await node.get(path))[0] == 400


async def test_a_body_over_the_limit_is_refused(open_node: OpenNode, fresh_name: str) -> None:
    """413, and nothing is stored."""
    async with open_node(max_body_bytes=1000) as node:
        assert (await node.post(f"/q/{fresh_name}", data=b"x" * 1000))[0] == 200
        for size in (1001, 1_000_000):
            status, body = await node.post(f"/q/{fresh_name}", data=b"x" * size)
            assert (status, json.loads(body)["error"]) == (413, "too-large")
        assert json.loads((await node.get(f"/stats/{fresh_name}"))[1])["len"] == 1


async def test_health_and_readiness(node: NodeUnderTest) -> None:
    """Both are plain and open."""
    assert (await node.get("/healthz"))[0] == 200
    assert (await node.get("/readyz"))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"Content-Encoding": "gzip", "Content-Type": "text/plain"}, {"Content-Type": "text/ü"}],
)
async def test_a_body_that_cannot_be_read_is_refused(
    node: NodeUnderTest, fresh_name: str, headers: dict[str, str]
) -> None:
    """400, and nothing is stored."""
    status, _ = await node.post(f"/q/{fresh_name}", data=b"not gzip at all", headers=headers)
    assert status == 400
    assert await node.get(f"/q/{fresh_name}") == (204, b"")
