"""Who may see the dashboard's pages and send its forms: as the API says."""

import aiohttp

from restmq.access import Access
from restmq.api_keys import ApiKey, ApiKeys, Permission, digest_of, new_key
from restmq.node import Node
from restmq.settings import Settings
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.endpoints.ui_client import PAGES, page_of, read, send, stats


async def test_pages_ask_for_the_password_of_consumers_and_forms_for_that_of_producers(
    open_node: OpenNode, fresh_name: str
) -> None:
    """As the API does; with the right ones both work."""
    acl = (
        "[rest:consumer]\nusername = c\npassword = c1\n"
        "[rest:producer]\nusername = p\npassword = p1\n"
    )
    consumer, producer = {"Authorization": "Basic YzpjMQ=="}, {"Authorization": "Basic cDpwMQ=="}
    async with open_node(acl) as node:
        for path in (*PAGES, "/ui/static/ui.js", "/ui/events", f"/ui/value?name={fresh_name}"):
            async with node.session.get(node.url + path) as answer:
                assert answer.status == 401, path
                assert answer.headers["WWW-Authenticate"].startswith("Basic")
        assert (await node.get("/ui/", headers=consumer))[0] == 200
        form = {"action": "publish", "value": "x"}
        path = page_of(fresh_name)
        assert (await node.post(path, data=form, headers=consumer))[0] == 401
        assert (await node.post(path, data=form, headers=producer))[0] == 303
        # Who may publish and not look does not get to look by making a mistake.
        wrong = {"action": "publish", "value": "x", "ttl": "y"}
        status, body = await node.post(path, data=wrong, headers=producer)
        assert status == 401
        assert b"message" not in body


async def test_an_address_that_may_only_look_gets_no_forms(
    open_node: OpenNode, fresh_name: str
) -> None:
    async with open_node("[rest:producer]\nhosts_deny = all\n") as node:
        page = await read(node, page_of(fresh_name))
        assert [each["method"] for each in page.attributes("form")] == ["get"]
        assert "Purge" not in page.text
        assert (await send(node, fresh_name, action="publish", value="x"))[0] == 401


async def test_forms_of_other_sites_are_refused(node: NodeUnderTest, fresh_name: str) -> None:
    form = {"action": "publish", "value": "x"}
    for origin in ("https://evil.example", "null"):
        headers = {"Origin": origin}
        status, body = await node.post(page_of(fresh_name), data=form, headers=headers)
        assert status == 403
        assert b"<h1>" in body
    embedded = {"Sec-Fetch-Site": "cross-site"}
    status, _ = await node.post(page_of(fresh_name), data=form, headers=embedded)
    assert status == 403
    assert (await stats(node, fresh_name))["len"] == 0


async def test_a_key_may_do_no_more_in_the_pages_than_over_the_api(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """What it does not allow is refused, and not even offered."""
    keys = {}

    def make(name: str, *can: Permission) -> dict[str, str]:
        text = new_key()
        keys[text] = ApiKey(digest_of(text), ("*",), frozenset(can), name)
        return {"Authorization": f"Bearer {text}"}

    viewer = make("viewer", Permission.VIEW)
    manager = make("manager", Permission.VIEW, Permission.MANAGE)
    publisher = make("publisher", Permission.PUBLISH)
    whole = make("whole", *Permission)
    node.node.access.use_keys(ApiKeys(keys.values()))
    path = page_of(fresh_name)
    publish = {"action": "publish", "value": "x"}
    assert (await node.post(path, data=publish, headers=whole))[0] == 303
    for headers in (viewer, manager):
        assert (await node.post(path, data=publish, headers=headers))[0] == 403
        delete = {"action": "delete", "number": "1"}
        assert (await node.post(path, data=delete, headers=headers))[0] == 403
        status, body = await node.get(path, headers=headers)
        assert status == 200
        assert b'value="publish"' not in body
        assert (b"Purge" in body) is (headers is manager)
        await node.post(f"/channels/{fresh_name}", json={"data": 1}, headers=whole)
        assert (await node.get(f"/ui/channel?name={fresh_name}", headers=headers))[0] == 403
    copies = {"action": "settings", "copies_to": "elsewhere"}
    assert (await node.post(path, data=copies, headers=manager))[0] == 403
    assert (await node.post(path, data=copies, headers=whole))[0] == 303
    for wanted in (path, "/ui/", f"/ui/value?name={fresh_name}&number=1", "/ui/redis"):
        assert (await node.get(wanted, headers=publisher))[0] == 403
        assert (await node.get(wanted, headers=whole))[0] == 200


async def test_a_link_from_another_site_leads_to_a_page(node: NodeUnderTest) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Referer": "https://wiki.example/runbook"}
    assert (await node.get("/ui/", headers=headers))[0] == 200


async def test_other_methods_are_refused_on_a_page(node: NodeUnderTest) -> None:
    async with node.session.delete(f"{node.url}/ui/queue?name=q") as answer:
        assert answer.status == 405
        assert "GET" in answer.headers["Allow"]
        assert "<h1>" in await answer.text()
    assert await node.call("HEAD", "/ui/") == (200, b"")
    assert await node.call("HEAD", "/ui/events") == (200, b"")
    assert (await node.post("/ui/nodes", data={"action": "x"}))[0] == 404


async def test_without_redis_a_page_says_so(open_node: OpenNode) -> None:
    settings = Settings(port=0, drain_seconds=1.0)
    async with (
        Node(settings, "redis://127.0.0.1:1", Access.from_text("")) as lonely,
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{lonely.port}/ui/") as answer,
    ):
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert "Redis is out of reach" in await answer.text()
