"""Every route asks for access and looks at the origin: each row of the table is tried."""

import asyncio
from collections.abc import Iterable

import pytest

from restmq.access import Access, Section
from restmq.endpoints.router import Route
from restmq.node import Node
from restmq.settings import Settings
from tests.endpoints.conftest import NodeUnderTest, OpenNode
from tests.support import free_port

OPEN = {
    ("GET", "queue"),  # the help form, by the contract
    ("GET", "static"),
    ("GET", "healthz"),
    ("GET", "readyz"),
    # These say what there is, and nothing of what is in it.
    ("GET", "openapi.json"),
    ("GET", "docs"),
    ("GET", "__heartbeat__"),  # Queuey's way to ask whether the server lives
}
HEADERS = {"Upgrade": "websocket", "Connection": "Upgrade"}


def path_of(route: Route, name: str) -> str:
    """Return a path that this row serves."""
    if not route.segment:
        return f"/?queue={name}"
    return f"/{route.segment}/{'data' if route.segment == 'collectd' else name}"


async def routes() -> Iterable[Route]:
    """Return all rows of the table."""
    return Node(Settings(), "redis://127.0.0.1:1", Access.from_text("")).router.routes


async def test_only_the_agreed_routes_are_open_to_everyone() -> None:
    """A new row without a section must be agreed here."""
    assert {(r.method, r.segment) for r in await routes() if not r.sections} == OPEN


@pytest.mark.parametrize("rule", ["hosts_deny = all", "username = u\npassword = p"])
async def test_every_guarded_route_refuses(open_node: OpenNode, fresh_name: str, rule: str) -> None:
    """401, with a challenge only where credentials would help."""
    acl = "".join(f"[{section.value}]\n{rule}\n" for section in Section)
    async with open_node(acl) as node:
        for route in await routes():
            if not route.sections:
                continue
            async with node.session.request(
                route.method, node.url + path_of(route, fresh_name), data=b"x"
            ) as answer:
                assert answer.status == 401, route
                challenge = answer.headers.get("WWW-Authenticate")
                assert (challenge is None) == rule.startswith("hosts_deny"), route


async def test_every_route_that_changes_something_refuses_foreign_origins(
    node: NodeUnderTest, fresh_name: str
) -> None:
    """403, and nothing is changed; the server's own pages are not foreign."""
    for route in await routes():
        if route.changes:
            path = path_of(route, fresh_name)
            headers = {"Origin": "http://evil.example"}
            status, _ = await node.call(route.method, path, headers=headers, data={"value": "x"})
            assert status == 403, route
    assert await node.get(f"/q/{fresh_name}", headers={"Origin": node.url}) == (204, b"")
    assert (await node.get("/stats", headers={"Origin": "http://evil.example"}))[0] == 200


async def test_an_allowed_origin_may_read_the_answers(open_node: OpenNode, fresh_name: str) -> None:
    """Replies, errors and streams carry the header; a preflight is answered."""
    origin = "https://app.example"
    headers = {"Origin": origin}
    async with open_node(allowed_origins=(origin,)) as node:
        url = f"{node.url}/q/{fresh_name}"
        for path in (f"/q/{fresh_name}", f"/c/{fresh_name}", "/nothing", "/static/help.html"):
            async with node.session.get(node.url + path, headers=headers) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == origin, path
                assert "Origin" in answer.headers["Vary"]
        asked = {**headers, "Access-Control-Request-Headers": "x-restmq-ttl"}
        async with node.session.options(url, headers=asked) as answer:
            assert answer.status == 204
            assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
            assert answer.headers["Access-Control-Allow-Headers"] == "x-restmq-ttl"
        async with node.session.options(url, headers={"Origin": "http://evil"}) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers
        socket = await node.session.ws_connect(f"{node.url}/ws/{fresh_name}", origin=origin)
        await socket.close()


async def test_forwarded_addresses_are_believed_only_from_trusted_proxies(
    open_node: OpenNode, fresh_name: str
) -> None:
    """The last hop that is no proxy of ours is the client."""
    acl = "[rest:consumer]\nhosts_allow = 10.1.1.1\n"
    forged = {"X-Forwarded-For": "10.1.1.1"}
    async with open_node(acl) as node:
        assert (await node.get(f"/q/{fresh_name}", headers=forged))[0] == 401
    async with open_node(acl, trusted_proxies=("127.0.0.1",)) as node:
        assert (await node.get(f"/q/{fresh_name}", headers=forged))[0] == 204
        forged = {"X-Forwarded-For": "10.1.1.1, 10.9.9.9"}
        assert (await node.get(f"/q/{fresh_name}", headers=forged))[0] == 401


async def test_a_websocket_is_refused_before_the_upgrade_and_let_in_by_a_cookie(
    open_node: OpenNode, fresh_name: str
) -> None:
    """Cookie, literal or percent-encoded, or Basic."""
    acl = "[websocket:consumer]\nusername = zz\npassword = b&a\n"
    async with open_node(acl) as node:
        url = f"{node.url}/ws/{fresh_name}"
        async with node.session.get(url, headers=HEADERS) as answer:
            assert answer.status == 401
        for headers in (
            {"Cookie": "auth=zz:b&a"},
            {"Cookie": "x=1; auth=zz%3Ab%26a"},
            {"Authorization": "Basic eno6YiZh"},
        ):
            socket = await node.session.ws_connect(url, headers=headers)
            await socket.close()


async def test_a_foreign_page_cannot_take_messages_by_embedding(
    open_node: OpenNode, fresh_name: str
) -> None:
    """Scripts and images send no Origin, but browsers say which site asked for them."""
    path = f"/q/{fresh_name}?callback=steal"
    foreign = {"Sec-Fetch-Site": "cross-site", "Referer": "https://evil.example/page"}
    async with open_node(allowed_origins=("https://app.example",)) as node:
        await node.add(fresh_name, "a", "b")
        assert (await node.get(path, headers=foreign))[0] == 403
        assert (await node.get("/", headers=foreign))[0] == 302
        allowed = {**foreign, "Referer": "https://app.example/page"}
        assert (await node.get(path, headers=allowed))[0] == 200
        assert (await node.get(path, headers={"Sec-Fetch-Site": "same-origin"}))[0] == 200


@pytest.mark.parametrize("path", ["/m/{}:1", "/dead/{}", "/q/{}?peek=1"])
async def test_a_foreign_page_cannot_read_what_is_in_a_queue_by_embedding(
    open_node: OpenNode, fresh_name: str, path: str
) -> None:
    """A callback would hand the values to any page that loads them as a script."""
    path = path.format(fresh_name)
    path += ("&" if "?" in path else "?") + "callback=steal"
    foreign = {"Sec-Fetch-Site": "cross-site", "Referer": "https://evil.example/page"}
    async with open_node() as node:
        await node.add(fresh_name, "a")
        assert (await node.get(path, headers=foreign))[0] == 403
        assert (await node.get(path))[0] in (200, 204)


async def test_any_origin_may_read_but_not_with_passwords(
    open_node: OpenNode, fresh_name: str
) -> None:
    """``*`` lets pages in, and keeps the browser from sending what it knows of a user."""
    async with (
        open_node(allowed_origins=("*",)) as node,
        node.session.get(
            f"{node.url}/q/{fresh_name}", headers={"Origin": "http://any.example"}
        ) as answer,
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (b"Origin: http://\xff", 403),
        (b"Origin: http://[", 403),
        (b"Sec-Fetch-Site: cross-site\r\nReferer: http://\xff/", 403),
        (b"Sec-Fetch-Site: cross-site\r\nReferer: http://[", 403),
        (b"X-Forwarded-For: \xff", 401),
    ],
)
@pytest.mark.parametrize("path", [b"/q/x", b"/v1/x", b"/channels/x"])
async def test_headers_that_are_no_text_are_refused_and_not_stumbled_over(
    open_node: OpenNode, path: bytes, lines: bytes, status: int
) -> None:
    """The error tells them with what is no text left out."""
    acl = "[rest:producer]\nhosts_deny = all\n"
    async with open_node(acl, trusted_proxies=("127.0.0.1",)) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.node.port)
        head = b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\nContent-Length: 0\r\n\r\n"
        writer.write(head % (path, lines))
        async with asyncio.timeout(20):
            assert b" %d " % status in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_a_page_that_leads_its_own_name_here_is_refused(
    open_node: OpenNode, fresh_name: str
) -> None:
    """By that name (DNS rebinding); programs may use any, and browsers those that are safe."""
    path = f"/q/{fresh_name}"

    def page(host: str) -> list[dict[str, str]]:
        return [
            {"Host": host, "Origin": f"http://{host}"},
            {"Host": host, "Sec-Fetch-Site": "same-origin"},
        ]

    async with open_node(allowed_hosts=("MQ.example",)) as node:
        port = node.node.port
        for headers in (*page(f"evil.example:{port}"), *page("localhost.evil"), *page("")):
            for method in ("GET", "POST"):
                status, body = await node.call(method, path, headers=headers, data={"value": "x"})
                assert (status, b"allowed_hosts" in body) == (403, True), headers
        for host in ("localhost", "a.localhost.", "127.0.0.1", "[::1]", "mq.example"):
            for headers in page(f"{host}:{port}"):
                assert (await node.get(path, headers=headers))[0] == 204, headers
        assert (await node.get(path, headers={"Host": "evil.example"}))[0] == 204
        reading = {"Host": "evil.example", "Sec-Fetch-Site": "none"}
        assert (await node.get("/stats", headers=reading))[0] == 200
    foreign = page("mq.internal")[0]
    for settings in ({"listen": "0.0.0.0"}, {"trusted_proxies": ("10.0.0.1",)}):
        async with open_node(**settings) as node:
            assert (await node.get(path, headers=foreign))[0] == 204


@pytest.mark.parametrize("path", ["/stats", "/stats/{}", "/control/{}", "/p/{}", "/settings/{}"])
async def test_a_foreign_page_cannot_read_figures_by_embedding(
    open_node: OpenNode, fresh_name: str, path: str
) -> None:
    """A callback is for pages of this server, and of those that are allowed."""
    path = path.format(fresh_name)
    foreign = {"Sec-Fetch-Site": "cross-site", "Referer": "https://evil.example/page"}
    async with open_node(allowed_origins=("https://app.example",)) as node:
        for query in ("?callback=steal", "?%63allback=steal"):
            assert (await node.get(path + query, headers=foreign))[0] == 403
            # An older browser tells no site, and neither does any to a server without TLS.
            bare = {"Referer": foreign["Referer"]}
            assert (await node.get(path + query, headers=bare))[0] == 403
            for headers in (
                {},
                {"Sec-Fetch-Site": "same-origin", "Referer": f"{node.url}/static/index.html"},
                {"Referer": f"{node.url}/static/index.html"},
                {**foreign, "Referer": "https://app.example/"},
            ):
                assert (await node.get(path + query, headers=headers))[0] == 200, headers
        assert (await node.get(path, headers=foreign))[0] == 200


async def test_an_allowed_origin_may_read_early_refusals(
    open_node: OpenNode, fresh_name: str
) -> None:
    """That there is nothing, and that it asks too often."""
    origin = "https://app.example"
    async with open_node(allowed_origins=(origin,), rate_limit=0.001, rate_burst=1) as node:
        for status in (404, 429):
            async with node.session.get(f"{node.url}/no", headers={"Origin": origin}) as answer:
                assert answer.status == status
                assert answer.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize("rule", ["hosts_deny = all", "username = u\npassword = p"])
async def test_the_health_of_rse_is_a_probe(open_node: OpenNode, rule: str) -> None:
    """Open to everybody and not counted, on either port; the report is neither."""
    acl = "".join(f"[{section.value}]\n{rule}\n" for section in Section)
    port = free_port()
    async with open_node(acl, rse_port=port, rate_limit=0.001, rate_burst=1) as node:
        for _ in range(3):
            assert await node.get("/rse/health") == (200, b"OK\n")
            assert await node.call("HEAD", "/rse/health") == (200, b"")
            async with node.session.get(f"http://127.0.0.1:{port}/health") as answer:
                assert answer.status == 200
        assert (await node.get("/rse/health?verbose=true"))[0] == 401
        assert (await node.get("/rse/health?verbose=true"))[0] == 429


@pytest.mark.parametrize(
    "hop", ["10.1.1.1:4711", "[2001:db8::7]:4711", "[2001:db8::7]", "2001:db8::7", "10.1.1.1"]
)
async def test_a_proxy_may_tell_the_port_of_its_client(
    open_node: OpenNode, fresh_name: str, hop: str
) -> None:
    acl = "[rest:consumer]\nhosts_allow = 10.1.1.1 2001:db8::7\n"
    async with open_node(acl, trusted_proxies=("127.0.0.1", "10.9.9.9")) as node:
        for forwarded in (hop, f"{hop}, 10.9.9.9:80"):
            headers = {"X-Forwarded-For": forwarded}
            assert (await node.get(f"/q/{fresh_name}", headers=headers))[0] == 204
