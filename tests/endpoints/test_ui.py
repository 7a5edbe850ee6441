"""The dashboard's pages: what they show, to whom, and what their forms do."""

import io
import re
from urllib.parse import quote

import pytest

from restmq.endpoints.channels import COLLECTION
from restmq.endpoints.queuey_fields import QueueSettings
from restmq.endpoints.queuey_queues import collection_of
from restmq.endpoints.rse_events import EVENTS
from restmq.endpoints.ui_logs import CHANNELS, QUEUEY, QueueyAttributes
from restmq.endpoints.ui_logs import EVENTS as UI_EVENTS
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.endpoints.ui_client import PAGES, PageReader, page_of, read, send

HOSTILE_NAMES = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "a/../b",
    "..",
    "a&amp;b?c=d#e %zz+",
    "tab\tline\r\nbreak",
    "\u202egnirts\u202c",
    "ünï/cödé:7",
]
HOSTILE_VALUES = [b"<script>alert(1)</script>", b"</pre><b>", b'{"<b>": "\'\\"</span>"}', b"&lt;"]


@pytest.mark.parametrize("path", [*PAGES, "/ui/deep/down", "/ui/confirm?name=q&action=purge"])
async def test_a_page_allows_nothing_from_elsewhere_and_nothing_inline(
    node: NodeUnderTest, path: str
) -> None:
    """The policy is strict, errors included, and the page keeps to it."""
    async with node.session.get(node.url + path) as answer:
        body = await answer.read()
        headers = answer.headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    page = PageReader(body)
    names = {name for _, attributes in page.tags for name in attributes}
    assert "style" not in names
    assert not [name for name in names if name.startswith("on")]
    assert all(each.get("src") for each in page.attributes("script"))
    assert not [tag for tag, _ in page.tags if tag == "style"]
    assert not re.findall(rb"(?:href|src|action)=.https?:", body)


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/nodes", "/ui/deep/down"])
async def test_what_a_page_loads_is_there(node: NodeUnderTest, path: str) -> None:
    """Its addresses are relative, so that they also hold behind a proxy with a prefix."""
    _, body = await node.get(path)
    page = PageReader(body)
    loaded = [each["href"] for each in page.attributes("link")]
    loaded += [each["src"] for each in page.attributes("script")]
    loaded += [each["src"] for each in page.attributes("img")]
    assert len(loaded) >= 4
    async with node.session.get(node.url + path) as answer:
        here = answer.url
    for address in loaded:
        assert address is not None
        async with node.session.get(here.join(type(here)(address))) as answer:
            assert answer.status == 200, address
            assert "immutable" in answer.headers["Cache-Control"]
        for query in ("", "?v=", "?v=0123456789ab"):
            stale = (
                f"{node.url}/ui/static/{address.partition('static/')[2].partition('?')[0]}{query}"
            )
            async with node.session.get(stale) as answer:
                assert answer.status == 200
                assert answer.headers["Cache-Control"] == "no-cache"


async def test_the_overview_shows_each_queue(node: NodeUnderTest, fresh_name: str) -> None:
    await node.add(fresh_name, "a", "b", "c")
    page = await read(node, f"/ui/?search={fresh_name}")
    row = next(each for each in page.attributes("tr") if each.get("data-row") == fresh_name)
    assert row is not None
    assert f"queue?name={fresh_name}" in page.links()
    cells = [each for each in page.attributes("td") if each.get("data-label") == "Ready"]
    assert [each["title"] for each in cells] == ["3"]


async def test_a_search_finds_by_any_part_of_the_name_and_pages(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """Each page shows fifty queues, and leads to the next."""
    names = [f"{fresh_name}-{number:03}" for number in range(120)]
    for name in names:
        await node.add(name, "v")
    found: list[str | None] = []
    path = f"/ui/?search={fresh_name[10:].upper()}"
    for _ in range(4):
        page = await read(node, path)
        found += [row["data-row"] for row in page.attributes("tr") if "data-row" in row]
        following = [each for each in page.attributes("a") if each.get("rel") == "next"]
        if not following:
            break
        path = f"/ui/{following[0]['href']}"
    assert found == names


async def test_the_list_by_name_pages_through_everything(
    node: NodeUnderTest, fresh_name: str
) -> None:
    names = [f"{fresh_name}-{number:03}" for number in range(60)]
    for name in names:
        await node.add(name, "v")
    page = await read(node, f"/ui/?order=name&after={fresh_name}")
    shown = [row["data-row"] for row in page.attributes("tr") if "data-row" in row]
    assert shown == names[:50]
    assert f"?order=name&after={names[49]}" in page.links()


async def test_a_search_that_finds_nothing_offers_to_publish(
    node: NodeUnderTest, fresh_name: str
) -> None:
    page = await read(node, f"/ui/?search={fresh_name}")
    assert f"queue?name={fresh_name}" in page.links()


BAD_PATHS = [
    "/ui/?order=prettiest",
    "/ui/?search=%ff",
    "/ui/queue",
    "/ui/queue?name=",
    "/ui/queue?name=%ff",
    "/ui/queue?name=" + 1025 * "x",
    "/ui/queue?name=q&view=dead&offset=-1",
    "/ui/value?name=q",
    "/ui/value?name=q&number=x",
    "/ui/channel",
    "/ui/events?kind=one",
    "/ui/events?kind=prettiest",
]


async def test_what_cannot_be_understood_is_told_on_a_page(node: NodeUnderTest) -> None:
    for path in BAD_PATHS:
        status, body = await node.get(path)
        assert status == 400, path
        assert b"invalid-input" in body


MISSING_PATHS = [
    "/ui/nothing",
    "/ui/queue?name=q&view=nothing",
    "/ui/confirm?name=q&action=publish",
    "/ui/confirm?name=q",
    "/ui/value?name=no-such-queue&number=7",
    "/ui/static/nothing.js",
    "/ui/static/../queues.html",
    "/ui/channel?name=no-such-channel",
    "/ui/application?application=nobody",
    "/ui/application?application=nobody&name=q",
    "/ui/events-of-rse",
]


async def test_what_is_not_there_is_not_found(node: NodeUnderTest) -> None:
    for path in MISSING_PATHS:
        status, body = await node.get(path)
        assert status == 404, path
        assert b"<h1>" in body


@pytest.mark.parametrize("name", HOSTILE_NAMES)
async def test_hostile_names_are_text_and_their_links_lead_to_them(
    node: NodeUnderTest, fresh_name: str, name: str
) -> None:
    """On every page that names a queue; the name is whole in what its links and forms send."""
    queue = f"{fresh_name}{name}"
    await node.add(quote(queue, safe=""), "v")
    listed = await read(node, f"/ui/?search={quote(fresh_name)}")
    target = f"queue?name={quote(queue, safe='')}"
    assert target in listed.links()
    for view in ("messages", "dead", "consumers", "settings"):
        page = await read(node, page_of(queue, view=view))
        assert all(each.get("src") for each in page.attributes("script"))
        assert not [each for each in page.attributes("img") if each.get("src") == "x"]
        forms = [each["action"] for each in page.attributes("form") if each["method"] == "post"]
        assert forms
        assert set(forms) == {target}
        assert page.figure("ready") == "1"
        (found,) = [each for each in page.attributes("input") if each.get("name") == "encoded"] or [
            {}
        ]
        encoded = found.get("value") or quote(queue, safe="")
        assert (await read(node, f"/ui/queue?encoded={quote(encoded)}&message=1")).figure(
            "ready"
        ) == "1"
    assert "\u202e" not in (await node.get(page_of(queue)))[1].decode()


@pytest.mark.parametrize("value", HOSTILE_VALUES)
async def test_hostile_values_are_text(node: NodeUnderTest, fresh_name: str, value: bytes) -> None:
    await node.post(f"/q/{fresh_name}", data=value, headers={"Content-Type": "text/<b>plain"})
    status, body = await node.get(page_of(fresh_name))
    assert status == 200
    page = PageReader(body)
    assert "text/<b>plain" in page.text
    assert not [tag for tag, each in page.tags if tag == "script" and not each.get("src")]
    shown = re.search(rb'<pre class="value [a-z]+" tabindex="0">(.*?)</pre>', body, re.DOTALL)
    assert shown is not None
    assert b"<b>" not in shown.group(1)
    assert b"<script" not in shown.group(1)


async def test_values_are_shown_by_their_kind(node: NodeUnderTest, fresh_name: str) -> None:
    """JSON in lines, text as text, all else as hex; bytes that are no UTF-8 harm nothing."""
    for value in (b'{"a":{"b":[1,true]}}', b"two\nlines", b"\xff\xfe\x00bin", b"{broken"):
        await node.post(f"/q/{fresh_name}", data=value, headers={"Content-Type": "x/y"})
    status, body = await node.get(page_of(fresh_name))
    assert status == 200
    kinds = re.findall(rb'<span class="kind ([a-z]+)">', body)
    assert kinds == [b"json", b"text", b"hex", b"text"]
    assert b"ff fe 00 62 69 6e" in body
    assert b'<span class="key">&#34;b&#34;</span>: [' in body


async def test_a_big_value_is_cut_short_and_can_be_had_whole(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """16 MiB, all but a little, of which the page holds a fraction."""
    value = b"[" + b'"0123456789",' * 1_290_000 + b"0]"
    headers = {"Content-Type": "application/json"}
    assert (await node.post(f"/q/{fresh_name}", data=io.BytesIO(value), headers=headers))[0] == 200
    status, body = await node.get(page_of(fresh_name))
    assert status == 200
    assert len(body) < 200_000
    assert "16.0 MiB" in PageReader(body).text
    assert "Only the beginning is shown." in PageReader(body).text
    async with node.session.get(f"{node.url}/ui/value?name={fresh_name}&number=1") as answer:
        assert await answer.read() == value
        assert answer.content_type == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_one_message_is_found_in_any_state_and_deleted(
    node: NodeUnderTest, fresh_name: str
) -> None:
    await node.add(fresh_name, "a", "b")
    async with node.session.get(f"{node.url}/q/{fresh_name}?lease=30") as answer:
        assert answer.status == 200
    for word in ("1", f"{fresh_name}:1"):
        assert "State leased" in (await read(node, page_of(fresh_name, message=word))).text
    assert "State ready" in (await read(node, page_of(fresh_name, message=2))).text
    assert "there is no message 9" in (await read(node, page_of(fresh_name, message=9))).text
    assert (await node.get(page_of(fresh_name, message="x")))[0] == 400
    assert (await send(node, fresh_name, action="delete", number="2"))[0] == 303
    assert (await send(node, fresh_name, action="delete", number="2"))[0] == 404


async def test_consumers_are_told_by_node(node: NodeUnderTest, fresh_name: str) -> None:
    async with (
        node.session.get(f"{node.url}/c/{fresh_name}?format=sse"),
        node.session.get(f"{node.url}/c/{fresh_name}?format=sse"),
        node.session.get(f"{node.url}/c/{fresh_name}?format=sse&ack=1"),
    ):
        page = await read(node, page_of(fresh_name, view="consumers"))
    cells = {
        str(each["data-label"]): each for each in page.attributes("td") if "data-label" in each
    }
    assert {"Plain streams", "Leased streams"} <= cells.keys()
    assert node.node.broker.node in page.text
    assert re.search(r"\b2 1 Plain streams get", page.text)


async def test_the_page_of_nodes_shows_this_one(node: NodeUnderTest) -> None:
    page = await read(node, "/ui/nodes")
    assert node.node.broker.node in page.text
    assert "answers you" in page.text


async def test_the_page_of_redis_shows_version_memory_and_persistence(node: NodeUnderTest) -> None:
    text = (await read(node, "/ui/redis")).text
    for word in ("Redis 6.", "Used", "MiB", "Append-only file on", "Last write ok"):
        assert word in text


async def test_channels_are_shown_with_their_readers(node: NodeUnderTest, fresh_name: str) -> None:
    for number in range(30):
        await node.post(f"/channels/{fresh_name}", json={"data": {"n": number}, "src": "<b>desk"})
    await node.call("PUT", f"/cursors/reader-{fresh_name}/{fresh_name}?policy=earliest")
    page = await read(node, f"/ui/channel?name={fresh_name}")
    assert f"reader-{fresh_name}" in page.text
    assert "<b>desk" in page.text
    assert len(list(page.attributes("details"))) == 25
    older = [str(each["href"]) for each in page.attributes("a") if each.get("rel") == "next"]
    page = await read(node, f"/ui/{older[0]}")
    assert len(list(page.attributes("details"))) == 5


async def test_a_queue_of_queuey_is_shown_only_if_anybody_may_read_it(
    open_node: OpenNode, fresh_name: str
) -> None:
    """Of others, that they are there; the key of the application is shown to nobody."""
    application = fresh_name.replace("-", "")
    async with open_node(queuey_application_keys=(f"{application}=secret-key",)) as node:
        headers = {"Authorization": "Application secret-key"}
        for name, kind in (("open", "public"), ("closed", "user")):
            form = {"queue_name": name, "type": kind}
            status, _ = await node.post(f"/v1/{application}", data=form, headers=headers)
            assert status == 201
            text = {**headers, "Content-Type": "text/plain"}
            await node.post(f"/v1/{application}/{name}", data=f"in {name}", headers=text)
        assert f"application?application={application}" in (await read(node, "/ui/logs")).links()
        status, body = await node.get(f"/ui/application?application={application}")
        assert status == 200
        assert b"secret-key" not in body
        page = PageReader(body)
        assert "1 queue is not public" in page.text
        assert "closed" not in page.text
        path = f"/ui/application?application={application}&name="
        assert "in open" in (await read(node, f"{path}open")).text
        assert (await node.get(f"{path}closed"))[0] == 404


async def test_events_of_rse_are_shown_in_test_mode_only(
    open_node: OpenNode, fresh_name: str
) -> None:
    async with open_node(rse_test_mode=True) as node:
        assert (await node.post(f"/rse/{fresh_name}", data='{"a":"<b>"}'))[0] == 201
        page = await read(node, "/ui/events-of-rse")
        assert f"/{fresh_name}" in page.text
        assert '"a" : "<b>"' in page.text


def test_what_logs_are_called_is_what_the_protocols_call_them() -> None:
    """The dashboard cannot import the endpoints, so this holds their names together."""
    assert CHANNELS == COLLECTION
    assert f"{QUEUEY}x" == collection_of("x")
    assert UI_EVENTS == EVENTS
    fields = QueueyAttributes.__struct_fields__
    assert fields == QueueSettings.__struct_fields__[: len(fields)]
