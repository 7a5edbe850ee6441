"""Queuey's queues and who may use them; the specification's sections 1, 2 and 4."""

from collections.abc import AsyncIterator

import pytest

from restmq.endpoints.queuey_queues import PAGE_NAMES
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.endpoints.queuey_client import QueueyClient, queuey

DENIED = (403, "Forbidden", "Access was denied to this resource.")
NO_QUEUE = (404, "InvalidQueueName", "Queue of that name was not found.")


@pytest.fixture
async def app(open_node: OpenNode) -> AsyncIterator[QueueyClient]:
    """An application of its own."""
    async with queuey(open_node) as client:
        yield client


# Paths


async def test_the_heartbeat_needs_no_key(node: NodeUnderTest) -> None:
    assert await node.get("/__heartbeat__") == (200, b'{"status":"ok"}')
    assert (await node.get("/__heartbeat__/"))[0] == 200
    assert await node.call("HEAD", "/__heartbeat__") == (200, b"")
    assert (await node.get("/__heartbeat__/x"))[0] == 404


async def test_slashes_may_trail_and_double(app: QueueyClient) -> None:
    await app.ok("POST", "/", status=201, data={"queue_name": "q"})
    await app.ok("POST", "//q//", status=201, data="x")
    [message] = await app.messages("//q/")
    assert await app.bodies(f"/q//{message['message_id']}/") == ["x"]


async def test_an_application_without_a_key_does_not_exist(app: QueueyClient) -> None:
    for key in ("K", "bad", None):
        for path in ("", "/q", "/q/x"):
            client = QueueyClient(app.node, "nobody", key)
            assert (await client.error("GET", path))[0] == 404
    assert (await app.node.get("/v1"))[0] == 404
    assert (await app.error("GET", "/q/x/y"))[0] == 404


async def test_other_methods_are_refused_by_name(app: QueueyClient) -> None:
    await app.create()
    for method, path, allowed in (
        ("PUT", "", "GET, HEAD, POST"),
        ("DELETE", "", "GET, HEAD, POST"),
        ("POST", "/q/x", "DELETE, GET, HEAD, PUT"),
    ):
        url = app.node.url + app.path(path)
        async with app.node.session.request(method, url, headers=app.headers) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, allowed)
            assert (await answer.json())["error_msg"].keys() == {"method"}


async def test_head_answers_as_get_without_the_body(app: QueueyClient) -> None:
    await app.create()
    url = app.node.url + app.path("/q")
    async with app.node.session.head(url, headers=app.headers) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.read() == b""


# Keys


@pytest.mark.parametrize(
    "header",
    [
        "Application {}",
        "application   {}  ",
        "BrowserID x; Application {}",
        "Application other-key; Application {}",
    ],
)
@pytest.mark.parametrize("key", ["K", "cacao", "Application", "a=b,c"])
async def test_a_key_is_taken_as_it_is(open_node: OpenNode, header: str, key: str) -> None:
    """Also one that begins or ends with letters of the scheme's name."""
    async with queuey(
        open_node, "other=other-key", "mine=cacao", "mine=Application", "mine=a=b,c"
    ) as app:
        name = app.application if key == "K" else "mine"
        client = QueueyClient(app.node, name, None)
        await client.ok("GET", headers={"Authorization": header.format(key)})


async def test_an_unknown_key_is_401_everywhere(app: QueueyClient) -> None:
    await app.create("public", type="public")
    stranger = app.with_key("bad")
    expected = (401, "InvalidApplicationKey", "Invalid application key")
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/public"), ("PUT", "/public")):
        assert await stranger.error(method, path) == expected
    both = {"Authorization": "Application K;Application bad"}
    assert await app.error("GET", headers=both) == expected
    url = app.node.url + app.path("")
    async with app.node.session.get(url, headers=stranger.headers) as answer:
        assert answer.headers["WWW-Authenticate"] == "Application"


@pytest.mark.parametrize("scheme", [None, "Basic SzpL", "K", "ApplicationK", ""])
async def test_without_the_scheme_a_client_is_nobody(app: QueueyClient, scheme: str | None) -> None:
    await app.create()
    nobody = app.with_key(None)
    headers = {} if scheme is None else {"Authorization": scheme}
    for method, path in (
        ("GET", ""),
        ("POST", ""),
        ("GET", "/q"),
        ("POST", "/q"),
        ("PUT", "/q"),
        ("DELETE", "/q"),
        ("GET", f"/q/{'0' * 12}11f1{'8' * 16}"),
        ("PUT", f"/q/{'0' * 12}11f1{'8' * 16}"),
        ("DELETE", f"/q/{'0' * 12}11f1{'8' * 16}"),
    ):
        assert await nobody.error(method, path, headers=headers) == DENIED, (method, path)
    assert await app.count() == 0
    assert await nobody.error("GET", "/missing", headers=headers) == NO_QUEUE
    assert await nobody.error("POST", "/missing", headers=headers) == NO_QUEUE


async def test_anybody_may_read_a_public_queue_and_do_nothing_else(app: QueueyClient) -> None:
    await app.create("p", type="public")
    [key] = await app.post("x", queue="p")
    nobody = app.with_key(None)
    assert await nobody.bodies("/p") == ["x"]
    assert await nobody.bodies(f"/p/{key}") == ["x"]
    for method, path in (("POST", "/p"), ("PUT", "/p"), ("DELETE", "/p"), ("DELETE", f"/p/{key}")):
        assert await nobody.error(method, path) == DENIED
    assert await nobody.error("PUT", f"/p/{key}", data="y") == DENIED
    assert await app.bodies("/p") == ["x"]


async def test_principles_say_who_reads_and_deletes(open_node: OpenNode) -> None:
    """The application itself only if it is among them; but it alone posts and changes."""
    async with queuey(open_node, "friend=F", "foe=E") as app:
        friend, foe = app.with_key("F"), app.with_key("E")
        await app.create("p", principles="app:friend, bid:joe@example.org")
        [key] = await app.post("x", queue="p")
        for _ in range(2):  # reading does not change who may read
            assert await friend.bodies("/p") == ["x"]
            assert await friend.bodies(f"/p/{key}") == ["x"]
            for other in (app, foe, app.with_key(None)):
                assert await other.error("GET", "/p") == DENIED
                assert await other.error("GET", f"/p/{key}") == DENIED
                assert await other.error("DELETE", f"/p/{key}") == DENIED
        assert await friend.error("POST", "/p", data="y") == DENIED
        assert await friend.error("PUT", f"/p/{key}", data="y") == DENIED
        assert await friend.error("PUT", "/p") == DENIED
        assert await friend.error("DELETE", "/p") == DENIED
        await app.ok("PUT", f"/p/{key}", data="z")
        await friend.ok("DELETE", f"/p/{key}")
        assert await friend.bodies("/p") == []
        await app.ok("PUT", "/p", data={"principles": f"app:{app.application}"})
        assert await app.bodies("/p") == []
        assert await friend.error("GET", "/p") == DENIED


async def test_principles_can_be_taken_away(app: QueueyClient) -> None:
    """By a blank list; one that is not named stays."""
    await app.create("p", principles="app:friend")
    await app.ok("PUT", "/p", data={"partitions": "2"})
    assert await app.error("GET", "/p") == DENIED
    assert (await app.ok("PUT", "/p", data={"principles": ""}))["principles"] == []
    assert await app.bodies("/p") == []
    await app.create("none", principles="")


# Queues


async def test_a_queue_is_made_with_the_defaults_and_a_name(app: QueueyClient) -> None:
    first = await app.ok("POST", status=201)
    second = await app.ok("POST", status=201)
    assert first["queue_name"] != second["queue_name"]
    assert len(first.pop("queue_name")) == 32
    assert first == {
        "status": "ok",
        "partitions": 1,
        "type": "user",
        "consistency": "strong",
        "principles": None,
    }


async def test_a_queue_is_made_as_asked_and_listed_with_details(app: QueueyClient) -> None:
    made = await app.create(
        "né", partitions=200, type="public", consistency="very_strong", principles="app:a,app:b"
    )
    assert made == {
        "status": "ok",
        "queue_name": "né",
        "partitions": 200,
        "type": "public",
        "consistency": "very_strong",
        "principles": "app:a,app:b",
    }
    await app.create("a", consistency="weak")
    first, second = (await app.ok("GET", "?details=True"))["queues"]
    assert first["queue_name"] == "a"
    assert "principles" not in first
    assert isinstance(second.pop("created"), float)
    assert {"status": "ok", **second} == {**made, "application": app.application}


@pytest.mark.parametrize(
    ("form", "field", "text"),
    [
        ({"partitions": "0"}, "partitions", "0 is less than minimum value 1"),
        ({"partitions": "-1"}, "partitions", "-1 is less than minimum value 1"),
        ({"partitions": "300"}, "partitions", "300 is greater than maximum value 200"),
        ({"partitions": "two"}, "partitions", '"two" is not a number'),
        ({"partitions": "1.5"}, "partitions", '"1.5" is not a number'),
        ({"type": "x"}, "type", '"x" is not one of public, user'),
        ({"consistency": "x"}, "consistency", '"x" is not one of strong, very_strong, weak'),
        ({"principles": "app:"}, "principles", '"app:" is not a valid permission list.'),
        ({"principles": "app:a,x"}, "principles", '"app:a,x" is not a valid permission list.'),
        ({"principles": "app:a b"}, "principles", '"app:a b" is not a valid permission list.'),
        ({"principles": "bid:a"}, "principles", '"bid:a" is not a valid permission list.'),
    ],
)
async def test_wrong_settings_are_refused(
    app: QueueyClient, form: dict[str, str], field: str, text: str
) -> None:
    assert await app.error("POST", data={"queue_name": "new", **form}) == (400, field, text)
    assert (await app.ok("GET"))["queues"] == []
    await app.create(type="public", partitions=3)
    assert await app.error("PUT", "/q", data=form) == (400, field, text)
    [entry] = (await app.ok("GET", "?details=1"))["queues"]
    assert (entry["type"], entry["partitions"]) == ("public", 3)


@pytest.mark.parametrize("name", ["x" * 51, "a/b", ".", "..", "a\nb", "\0", "\x7f", "\x85"])
async def test_a_name_that_no_path_can_hold_is_refused(app: QueueyClient, name: str) -> None:
    assert (await app.error("POST", data={"queue_name": name}))[:2] == (400, "queue_name")
    await app.create("x" * 50)
    assert await app.bodies("/" + "x" * 50) == []


async def test_settings_are_a_form(app: QueueyClient) -> None:
    assert (await app.error("POST", json={"queue_name": "x"}))[0] == 415
    await app.create()
    assert (await app.error("PUT", "/q", json={"partitions": 2}))[0] == 415


async def test_a_queue_that_is_made_again_keeps_what_is_not_given(app: QueueyClient) -> None:
    await app.create(partitions=3, type="public", principles="app:a")
    again = await app.create(partitions=4)
    assert (again["partitions"], again["type"], again["principles"]) == (4, "public", "app:a")
    fewer = await app.error("POST", data={"queue_name": "q", "partitions": 2, "type": "user"})
    assert fewer == (400, "InvalidUpdate", "Partitions can only be increased.")
    assert (await app.create())["type"] == "public"


async def test_an_update_leaves_alone_what_it_does_not_name(app: QueueyClient) -> None:
    await app.create(type="public", consistency="weak", principles="app:a, bid:b@c.d")
    [before] = (await app.ok("GET", "?details=1"))["queues"]
    expected = {
        "status": "ok",
        "queue_name": "q",
        "partitions": 1,
        "created": before["created"],
        "principles": ["app:a", "bid:b@c.d"],
        "type": "public",
        "consistency": "weak",
    }
    assert await app.ok("PUT", "/q") == expected
    assert await app.ok("PUT", "/q", data={"partitions": 2}) == {**expected, "partitions": 2}
    fewer = await app.error("PUT", "/q", data={"partitions": 1})
    assert fewer == (400, "InvalidUpdate", "Partitions can only be increased.")
    changed = await app.ok("PUT", "/q", data={"type": "user", "principles": "app:x"})
    assert (changed["type"], changed["principles"]) == ("user", ["app:x"])


async def test_a_deleted_queue_is_gone_with_its_messages(app: QueueyClient) -> None:
    await app.create(partitions=2)
    await app.post("a", partition=1)
    await app.post("b", partition=2)
    assert await app.ok("DELETE", "/q") == {"status": "ok"}
    some_id = "0" * 12 + "11f1" + "8" * 16
    for method, path in (
        ("GET", "/q"),
        ("POST", "/q"),
        ("PUT", "/q"),
        ("DELETE", "/q"),
        *((method, f"/q/{some_id}") for method in ("GET", "PUT", "DELETE")),
    ):
        assert await app.error(method, path, data="x" if method != "GET" else None) == NO_QUEUE
    assert (await app.ok("GET"))["queues"] == []
    await app.create(partitions=2)
    assert await app.bodies("/q?partitions=1,2") == []


async def test_a_name_that_is_too_long_is_not_found(app: QueueyClient) -> None:
    expected = (404, "InvalidQueueName", "Queue name longer than 50 characters.")
    for method in ("GET", "POST", "PUT", "DELETE"):
        assert await app.error(method, "/" + "q" * 120) == expected


async def test_queues_are_listed_by_name_in_pages(app: QueueyClient) -> None:
    for name in ("c", "a", "d", "b"):
        await app.create(name)

    async def names(query: str) -> list[str]:
        return [each["queue_name"] for each in (await app.ok("GET", query))["queues"]]

    assert (await app.ok("GET"))["queues"] == [{"queue_name": name} for name in "abcd"]
    assert await names("?limit=2") == ["a", "b"]
    assert await names("?limit=2&offset=b") == ["b", "c"]
    assert await names("?offset=bb") == ["c", "d"]
    assert await names("?offset=e") == []
    assert await app.error("GET", "?limit=0") == (400, "limit", "0 is less than minimum value 1")
    assert await app.error("GET", "?limit=x") == (400, "limit", '"x" is not a number')


@pytest.mark.parametrize("flag", ["0", "false", "FALSE", ""])
async def test_a_flag_is_off_by_these_words_only(app: QueueyClient, flag: str) -> None:
    await app.create()
    [entry] = (await app.ok("GET", f"?details={flag}&include_count={flag}"))["queues"]
    assert entry.keys() == {"queue_name"}
    [entry] = (await app.ok("GET", f"?details={flag}&include_count=yes"))["queues"]
    assert entry["count"] == 0
    assert "partitions" in entry


async def test_the_count_is_that_of_all_partitions(app: QueueyClient) -> None:
    await app.create(partitions=3)
    await app.post("a", "b", partition=1)
    await app.post("c", partition=3)
    assert await app.count() == 3


async def test_a_listing_longer_than_a_page_is_complete(
    app: QueueyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read in pages and sent in pieces; here of a smaller size than usual."""
    assert PAGE_NAMES > 10
    monkeypatch.setattr("restmq.endpoints.queuey_queues.PAGE_NAMES", 3)
    monkeypatch.setattr("restmq.endpoints.queuey_replies.MAX_WHOLE_BYTES", 100)
    expected = [f"q{number:02d}" for number in range(12)]
    for name in expected:
        await app.create(name)
    for query, wanted in (("", expected), ("?limit=7", expected[:7]), ("?details=1", expected)):
        found = (await app.ok("GET", query))["queues"]
        assert [each["queue_name"] for each in found] == wanted


async def test_applications_do_not_see_each_other(open_node: OpenNode) -> None:
    async with queuey(open_node, "neighbour=N") as app:
        await app.create("same")
        await app.post("x", queue="same")
        neighbour = QueueyClient(app.node, "neighbour", "N")
        await neighbour.create("same", partitions=1)
        assert await neighbour.bodies("/same") == []
        assert await neighbour.with_key("K").error("GET", "/same") == DENIED
        await neighbour.ok("DELETE", "/same")
        assert await app.bodies("/same") == ["x"]
