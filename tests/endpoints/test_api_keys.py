"""API keys at every route: one table says what each takes, and the real server is asked."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from restmq import api_keys
from restmq.access import Access, Section
from restmq.api_keys import ApiKey, ApiKeys, Permission, digest_of, format_keys, new_key
from restmq.endpoints import rest_figures
from restmq.node import Node
from restmq.settings import Settings
from tests.endpoints.conftest import NodeUnderTest
from tests.endpoints.stomp_client import StompClient, WebSocketClientWire
from tests.support import eventually, free_port

PUBLISH, CONSUME = Permission.PUBLISH, Permission.CONSUME
VIEW, MANAGE = Permission.VIEW, Permission.MANAGE

LOCKED = "".join(f"[{section}]\nusername = u\npassword = p\n" for section in Section)

OpenKeyed = Callable[..., contextlib.AbstractAsyncContextManager["KeyedNode"]]


class KeyedNode(NodeUnderTest):
    """A node and its file of keys."""

    def __init__(self, node: Node, session: aiohttp.ClientSession, path: Path) -> None:
        super().__init__(node, session)
        self.path = path
        self.keys: dict[str, ApiKey] = {}

    def key(
        self, *patterns: str, can: tuple[Permission, ...] = tuple(Permission), **fields: Any
    ) -> str:
        """Make a key that is in force when this returns."""
        text = new_key()
        self.keys[text] = ApiKey(digest_of(text), patterns, frozenset(can), **fields)
        self.use()
        return text

    def remove(self, text: str) -> None:
        """Take a key back."""
        del self.keys[text]
        self.use()

    def use(self) -> None:
        """Put the keys into force, without the file."""
        self.node.access.use_keys(ApiKeys(self.keys.values()))

    async def write(self) -> None:
        """Have the server read the keys."""
        self.path.write_text(format_keys(self.keys.values()))
        await self.node.access.reload_if_changed()


@pytest.fixture
def open_keyed(redis_url: str, tmp_path: Path) -> OpenKeyed:
    """Open nodes with a file of keys, and rules that ask everyone for a password."""

    @contextlib.asynccontextmanager
    async def opened(
        acl: str = LOCKED, requires_key: bool = False, **settings: Any
    ) -> AsyncIterator[KeyedNode]:
        rules, keys = tmp_path / "acl.conf", tmp_path / "keys.conf"
        rules.write_text(acl)
        keys.write_text("")
        access = Access.load(rules, str(keys), requires_key=requires_key)
        changed: dict[str, Any] = {
            "port": 0,
            "drain_seconds": 1.0,
            "rse_test_mode": True,
            "queuey_application_keys": ("app=K",),
            **settings,
        }
        async with (
            Node(Settings(**changed), redis_url, access) as node,
            aiohttp.ClientSession() as session,
        ):
            yield KeyedNode(node, session, keys)

    return opened


def bearer(key: str) -> dict[str, str]:
    """Return the header that shows a key."""
    return {"Authorization": f"Bearer {key}"}


def receipt(queue: str) -> str:
    """Return what a receipt of the queue looks like."""
    return f"1.{'0' * 16}.{base64.urlsafe_b64encode(queue.encode()).rstrip(b'=').decode()}"


class Row(NamedTuple):
    """A request, and what a key must allow for it: ``{}`` is a name of its own."""

    path: str
    permission: Permission
    pattern: str = "{}"
    body: Mapping[str, str] | str | None = None
    further: tuple[str, ...] = ()
    """Other patterns that must be covered as well."""


ROWS: Mapping[tuple[str, str], tuple[Row, ...]] = {
    ("GET", ""): (Row("/?queue={}", CONSUME), Row("/?queue={}&peek=1", VIEW)),
    ("POST", ""): (Row("/", PUBLISH, body={"queue": "{}", "value": "x"}),),
    ("GET", "q"): (Row("/q/{}", CONSUME), Row("/q/{}?lease=5", CONSUME), Row("/q/{}?peek=1", VIEW)),
    ("POST", "q"): (Row("/q/{}", PUBLISH, body={"value": "x"}),),
    ("DELETE", "q"): (Row("/q/{}", MANAGE),),
    ("POST", "queue"): (
        Row("/queue", PUBLISH, body='{{"cmd":"add","queue":"{}","value":"x"}}'),
        Row("/queue/{}", PUBLISH, body='{{"cmd":"add","value":"x"}}'),
        Row("/queue", CONSUME, body='{{"cmd":"take","queue":"{}"}}'),
        Row("/queue", CONSUME, body='{{"cmd":"get","queue":"{}"}}'),
        Row("/queue", CONSUME, body='{{"cmd":"del","queue":"{}","key":"{}:1"}}'),
        Row("/queue", CONSUME, body='{{"cmd":"lease","queue":"{}"}}'),
        Row("/queue", VIEW, body='{{"cmd":"peek","queue":"{}"}}'),
        Row("/queue", VIEW, body='{{"cmd":"len","queue":"{}"}}'),
    ),
    ("GET", "c"): (Row("/c/{}?wait=0", CONSUME), Row("/c/{}?wait=0&ack=1", CONSUME)),
    ("GET", "ws"): (Row("/ws/{}", CONSUME),),
    ("GET", "p"): (Row("/p/{}", VIEW),),
    ("POST", "p"): (Row("/p/{}", MANAGE, body={"policy": "broadcast"}),),
    ("GET", "stats"): (Row("/stats/{}", VIEW), Row("/stats/{}?stomp=1", VIEW, "*")),
    ("GET", "control"): (Row("/control/{}", VIEW),),
    ("POST", "control"): (Row("/control/{}", MANAGE, body={"status": "start"}),),
    ("GET", "j"): (Row("/j/{}", VIEW),),
    ("GET", "settings"): (Row("/settings/{}", VIEW),),
    ("PATCH", "settings"): (Row("/settings/{}", MANAGE, body='{{"ttl": 60}}'),),
    ("DELETE", "settings"): (Row("/settings/{}", MANAGE),),
    ("GET", "m"): (Row("/m/{}:1", VIEW),),
    ("POST", "m"): (Row("/m/{}:1", MANAGE, body={"priority": "1"}),),
    ("DELETE", "m"): (Row("/m/{}:1", CONSUME),),
    ("GET", "dead"): (Row("/dead/{}", VIEW),),
    ("POST", "dead"): (Row("/dead/{}", MANAGE),),
    ("DELETE", "dead"): (Row("/dead/{}", MANAGE),),
    ("POST", "collectd"): (Row("/collectd/data", PUBLISH, "collectd_*", body="x"),),
    ("GET", "channels"): (
        Row("/channels/{}", CONSUME, "/channels/{}"),
        Row("/channels/{}/messages", CONSUME, "/channels/{}"),
        Row("/channels", VIEW, "/channels/*"),
    ),
    ("POST", "channels"): (Row("/channels/{}", PUBLISH, "/channels/{}", body='{{"data": 1}}'),),
    ("DELETE", "channels"): (
        Row("/channels/{}", MANAGE, "/channels/{}"),
        Row("/channels/{}/messages?before=1", MANAGE, "/channels/{}"),
    ),
    ("GET", "cursors"): (Row("/cursors/{}", CONSUME, "/cursors/{}"),),
    ("PUT", "cursors"): (Row("/cursors/{}/{}", CONSUME, "/cursors/{}", further=("/channels/{}",)),),
    ("POST", "cursors"): (Row("/cursors/{}/read", CONSUME, "/cursors/{}"),),
    ("DELETE", "cursors"): (
        Row("/cursors/{}/{}", CONSUME, "/cursors/{}", further=("/channels/{}",)),
        Row("/cursors/{}", CONSUME, "/cursors/{}"),
    ),
    ("GET", "rse"): (
        Row("/rse/{}", CONSUME, "/rse/{}"),
        Row("/rse/{}?method=POST&post-data=%7B%7D", PUBLISH, "/rse/{}"),
        Row("/rse/{}/x?events=parent", CONSUME, "/rse/{}*"),
        Row("/rse/{}?events=all", CONSUME, "/rse/{}", further=("/rse/{}/*",)),
        Row("/rse/all", CONSUME, "/rse/*"),
    ),
    ("POST", "rse"): (Row("/rse/{}", PUBLISH, "/rse/{}", body="{{}}"),),
    ("HEAD", "rse"): (Row("/rse/{}", CONSUME, "/rse/{}"),),
    ("PUT", "rse"): (Row("/rse/{}", CONSUME, "/rse/{}"),),
    ("PATCH", "rse"): (Row("/rse/{}", CONSUME, "/rse/{}"),),
    ("DELETE", "rse"): (Row("/rse/{}", CONSUME, "/rse/{}"),),
    ("GET", "v1"): (
        Row("/v1/app", VIEW, "/v1/app/*"),
        Row("/v1/app/{}", CONSUME, "/v1/app/{}"),
        Row("/v1/app/{}/1:0", CONSUME, "/v1/app/{}"),
    ),
    ("POST", "v1"): (
        Row("/v1/app", MANAGE, "/v1/*", body={"queue_name": "{}"}),
        Row("/v1/app/{}", PUBLISH, "/v1/app/{}", body="x"),
    ),
    ("PUT", "v1"): (
        Row("/v1/app/{}", MANAGE, "/v1/app/{}"),
        Row("/v1/app/{}/1:0", PUBLISH, "/v1/app/{}"),
    ),
    ("DELETE", "v1"): (
        Row("/v1/app/{}", MANAGE, "/v1/app/{}"),
        Row("/v1/app/{}/1:0", CONSUME, "/v1/app/{}"),
    ),
    ("GET", "ui"): (
        Row("/ui/queue?name={}", VIEW),
        Row("/ui/queue?name={}&view=settings", VIEW),
        Row("/ui/value?name={}&number=1", VIEW),
        *(Row(f"/ui/{page}", VIEW, "*") for page in ("", "nodes", "redis", "logs", "nothing")),
    ),
    ("POST", "ui"): (
        Row("/ui/queue?name={}", PUBLISH, body={"action": "publish", "value": "x"}),
        Row("/ui/queue?name={}", MANAGE, body={"action": "pause"}),
        Row("/ui/queue?name={}", MANAGE, body={"action": "purge", "confirm": "yes"}),
        Row("/ui/queue?name={}", MANAGE, body={"action": "reset"}),
    ),
    ("POST", "lease"): (Row("/lease/RECEIPT", CONSUME, body={"extend": "5"}),),
    ("DELETE", "lease"): (Row("/lease/RECEIPT", CONSUME),),
}

ELSEWHERE = {("GET", "stomp")}
"""Frames say what is asked for: the tests of STOMP below."""


def rows_of(routes: list[Any]) -> list[tuple[str, Row]]:
    """Return what to try, for each guarded row of the router's table."""
    rows = []
    for route in routes:
        place = (route.method, route.segment)
        if not route.sections or place in ELSEWHERE:
            continue
        # What the table here does not know takes everything: pages for people, and the metrics.
        permission = MANAGE if Section.PRODUCER in route.sections else VIEW
        default = (Row(f"/{route.segment}", permission, "*"),)
        rows += [(route.method, row) for row in ROWS.get(place, default)]
    return rows


async def ask(node: KeyedNode, method: str, row: Row, name: str, key: str) -> int:
    """Send the request of a row; returns the status."""
    path = row.path.replace("{}", name).replace("RECEIPT", receipt(name))
    headers = {"X-API-Key": key, "User-Agent": "tests"}
    data: Any = row.body
    if isinstance(data, str):
        data = data.replace("{{", "{").replace("}}", "}").replace("{}", name)
        data = "{}" if row.body == "{{}}" else data
        headers["Content-Type"] = "application/json"
    elif data is not None:
        data = {field: value.replace("{}", name) for field, value in data.items()}
    if row.path.startswith("/v1"):
        headers["Authorization"] = "Application K"
    async with asyncio.timeout(20):
        status, _ = await node.call(method, path, headers=headers, data=data)
    return status


async def test_every_route_takes_what_the_table_says_and_nothing_less(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """The right permission on the right name lets in, also past a password; any other is 403."""
    async with open_keyed() as node:
        rows = rows_of(node.node.router.routes)
        served = {(route.method, route.segment) for route in node.node.router.routes}
        assert set(ROWS) <= served
        unknown = new_key()
        for number, (method, row) in enumerate(rows):
            name = f"{fresh_name}-{number}"
            patterns = [each.replace("{}", name) for each in (row.pattern, *row.further)]
            others = tuple(each for each in Permission if each is not row.permission)
            keys = [
                (node.key(*patterns, can=(row.permission,)), False),
                (node.key(*patterns, can=others), True),
                (node.key("elsewhere-*", "/elsewhere/*"), True),
            ]
            if row.further:
                keys.append((node.key(patterns[0]), True))
            if row.pattern == "*":
                keys.append((node.key("?*", "/*"), True))
            for key, is_refused in keys:
                status = await ask(node, method, row, name, key)
                assert (status == 403) is is_refused, (method, row, status)
                assert status != 401, (method, row)
                assert status < 500, (method, row, status)
            assert await ask(node, method, row, name, unknown) == 401, (method, row)
            node.keys.clear()


async def test_a_key_is_shown_in_any_of_these_ways(open_keyed: OpenKeyed, fresh_name: str) -> None:
    """Bearer, also beside other credentials; X-API-Key; and the password of the user ``key``."""
    path = f"/q/{fresh_name}"
    async with open_keyed() as node:
        key = node.key(fresh_name, can=(CONSUME,))
        ways = [
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"bearer  {key}"},
            {"Authorization": f"Application K; Bearer {key}"},
            {"X-API-Key": key},
            {"Authorization": "Basic " + base64.b64encode(f"key:{key}".encode()).decode()},
        ]
        for headers in ways:
            assert (await node.get(path, headers=headers))[0] == 204, headers
        for headers in ({}, {"Cookie": f"auth={key}"}, {"X-Auth-Token": key}):
            assert (await node.get(path, headers=headers))[0] == 401, headers
        # A query ends up in logs, so it is heeded for nothing but streams.
        assert (await node.get(f"{path}?api_key={key}"))[0] == 401
        assert (await node.get(f"/c/{fresh_name}?wait=0&api_key={key}"))[0] == 204
        socket = await node.session.ws_connect(f"{node.url}/ws/{fresh_name}?api_key={key}")
        await socket.close()


async def test_rules_and_passwords_decide_as_ever_beside_keys(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """A password lets in without a key; a denied address is refused with the best of keys."""
    path = f"/q/{fresh_name}"
    basic = {"Authorization": "Basic " + base64.b64encode(b"u:p").decode()}
    async with open_keyed() as node:
        assert (await node.get(path, headers=basic))[0] == 204
        async with node.session.get(node.url + path) as answer:
            challenges = answer.headers.getall("WWW-Authenticate")
            assert [each.partition(" ")[0] for each in challenges] == ["Basic", "Bearer"]
    async with open_keyed("[rest:consumer]\nhosts_deny = all\n") as node:
        key = node.key("*")
        assert (await node.get(path, headers=bearer(key)))[0] == 401
        assert (await node.post(path, headers=bearer(key), data={"value": "x"}))[0] == 200
    async with open_keyed("") as node:  # open to all, and a key still limits who shows it
        key = node.key(fresh_name, can=(PUBLISH,))
        assert (await node.get(path))[0] == 200
        assert (await node.get(path, headers=bearer(key)))[0] == 403
        assert (await node.get(path, headers=bearer("rmq_wrong")))[0] == 401


async def test_without_a_file_of_keys_nothing_is_one(redis_url: str, fresh_name: str) -> None:
    """What looks like a key is no credential then, right or wrong."""
    async with (
        Node(Settings(port=0), redis_url, Access.from_text("")) as node,
        aiohttp.ClientSession() as session,
    ):
        opened = NodeUnderTest(node, session)
        assert (await opened.get(f"/q/{fresh_name}", headers=bearer("rmq_wrong")))[0] == 204


async def test_a_key_may_be_required_of_everyone(open_keyed: OpenKeyed, fresh_name: str) -> None:
    """Nothing but the open routes is served without a key, passwords or not."""
    basic = {"Authorization": "Basic " + base64.b64encode(b"u:p").decode()}
    async with open_keyed("", requires_key=True) as node:
        for method, row in rows_of(node.node.router.routes):
            path = row.path.replace("{}", fresh_name).replace("RECEIPT", receipt(fresh_name))
            for headers in ({}, basic):
                assert (await node.call(method, path, headers=headers))[0] == 401, (method, row)
        status, body = await node.get(f"/q/{fresh_name}")
        assert (status, b'"key-required"' in body) == (401, True)
        assert (await node.get("/healthz"))[0] == 200
        assert (await node.get("/static/help.html"))[0] == 200
        key = node.key("*")
        assert (await node.get(f"/q/{fresh_name}", headers=bearer(key)))[0] == 204


async def test_a_key_that_expired_is_unknown(open_keyed: OpenKeyed, fresh_name: str) -> None:
    """401 from that second on."""
    async with open_keyed() as node:
        over = node.key("*", expires=int(time.time()) - 1)
        status, body = await node.get(f"/q/{fresh_name}", headers=bearer(over))
        assert (status, b'"invalid-key"' in body) == (401, True)
        lasting = node.key("*", expires=int(time.time()) + 1000)
        assert (await node.get(f"/q/{fresh_name}", headers=bearer(lasting)))[0] == 204


async def test_each_command_of_an_array_is_asked_for_on_its_own(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """What the key allows is done, and what it does not is an error in its place."""
    async with open_keyed() as node:
        key = node.key(fresh_name, can=(PUBLISH,))
        other = node.key(f"{fresh_name}-other")
        commands = (
            f'[{{"cmd":"add","queue":"{fresh_name}","value":"a"}},'
            f'{{"cmd":"take","queue":"{fresh_name}"}},'
            f'{{"cmd":"add","queue":"{fresh_name}-other","value":"b"}},'
            f'{{"cmd":"ack","receipt":"{receipt(fresh_name)}"}},'
            '{"cmd":"ack","receipt":"nonsense"}]'
        )
        async with node.session.post(
            node.url + "/queue", data=commands, headers=bearer(key)
        ) as answer:
            results = await answer.json()
        codes = [each.get("error") for each in results]
        assert codes == [None, "forbidden", "forbidden", "forbidden", "invalid-input"]
        assert (await node.get(f"/q/{fresh_name}-other", headers=bearer(other)))[0] == 204


async def test_several_receipts_take_all_their_queues(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """One that is not covered refuses all, before anything is done."""
    async with open_keyed() as node:
        key = node.key(fresh_name)
        mine, other = receipt(fresh_name), receipt(f"{fresh_name}-other")
        assert (await node.call("DELETE", f"/lease/{mine},{other}", headers=bearer(key)))[0] == 403
        assert (await node.call("DELETE", f"/lease/{mine},{mine}", headers=bearer(key)))[0] == 200


async def test_lists_show_what_the_key_may_view(open_keyed: OpenKeyed, fresh_name: str) -> None:
    """Pages are full, and none is named that is not covered."""
    async with open_keyed() as node:
        all_of_it = node.key("*")
        for number in range(6):
            name = f"{fresh_name}-{'even' if number % 2 == 0 else 'odd'}-{number}"
            await node.post(f"/q/{name}", data={"value": "x"}, headers=bearer(all_of_it))
        key = node.key(f"{fresh_name}-even*", can=(VIEW,))
        even = [f"{fresh_name}-even-{number}" for number in (0, 2, 4)]
        for path in ("/stats", "/control", "/stats?limit=10"):
            async with node.session.get(node.url + path, headers=bearer(key)) as answer:
                assert list((await answer.json())["queues"]) == even, path
        async with node.session.get(f"{node.url}/stats?limit=2", headers=bearer(key)) as answer:
            assert list((await answer.json())["queues"]) == even[:2]
        after = f"{node.url}/stats?limit=2&after={even[1]}"
        async with node.session.get(after, headers=bearer(key)) as answer:
            assert list((await answer.json())["queues"]) == even[2:]
        _, page = await node.get("/q", headers=bearer(key))
        assert page.count(fresh_name.encode() + b"-even") == 6  # the link and its text
        assert b"-odd-" not in page
        blind = node.key(f"{fresh_name}-even*", can=(CONSUME,))
        async with node.session.get(node.url + "/stats", headers=bearer(blind)) as answer:
            assert (await answer.json())["queues"] == {}


async def test_copies_go_only_where_the_key_may_publish(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """Else whoever manages one queue could write to any."""
    async with open_keyed() as node:
        key = node.key(fresh_name)
        path = f"/settings/{fresh_name}"
        body = f'{{"copies_to": ["{fresh_name}-other"]}}'
        assert (await node.call("PATCH", path, data=body, headers=bearer(key)))[0] == 403
        wider = node.key(f"{fresh_name}*")
        assert (await node.call("PATCH", path, data=body, headers=bearer(wider)))[0] == 200


async def test_what_a_removed_key_began_ends(open_keyed: OpenKeyed, fresh_name: str) -> None:
    """Streams and WebSockets are closed; those of other keys go on."""
    async with open_keyed() as node:
        key, other = node.key(fresh_name), node.key(fresh_name)
        url = f"{node.url}/c/{fresh_name}?open=1"
        async with (
            node.session.get(url, headers=bearer(key)) as ended,
            node.session.get(url, headers=bearer(other)) as lasting,
            node.session.ws_connect(f"{node.url}/ws/{fresh_name}", headers=bearer(key)) as socket,
        ):
            assert await ended.content.readline()
            assert await lasting.content.readline()
            node.remove(key)
            node.node._end_keyless()
            async with asyncio.timeout(20):
                with contextlib.suppress(aiohttp.ClientPayloadError):
                    while await ended.content.readline():
                        pass
                assert (await socket.receive()).type in (
                    aiohttp.WSMsgType.CLOSE,
                    aiohttp.WSMsgType.CLOSED,
                    aiohttp.WSMsgType.ERROR,
                )
            await node.post(f"/q/{fresh_name}", data={"value": "on"}, headers=bearer(other))
            async with asyncio.timeout(20):
                assert b'"on"' in await lasting.content.readline()


async def test_a_running_server_follows_its_file(open_keyed: OpenKeyed, fresh_name: str) -> None:
    """A mistake in it changes nothing, and its loss neither."""
    async with open_keyed() as node:
        key = node.key(fresh_name)
        await node.write()
        path, headers = f"/q/{fresh_name}", bearer(key)
        node.path.write_text("[oops]\n")
        assert await node.node.access.reload_if_changed() is False
        assert (await node.get(path, headers=headers))[0] == 204
        node.path.unlink()
        assert await node.node.access.reload_if_changed() is False
        assert (await node.get(path, headers=headers))[0] == 204
        assert (await node.get(path, headers=bearer("rmq_other")))[0] == 401
        node.path.write_text("")
        assert await node.node.access.reload_if_changed() is True
        assert (await node.get(path, headers=headers))[0] == 401


async def test_rse_on_a_port_of_its_own_asks_as_well(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """There the channel is the whole path; the key names it as on the other port."""
    port = free_port()
    async with open_keyed(rse_port=port) as node:
        key = node.key(f"/rse/{fresh_name}", can=(CONSUME,))
        for name, method, status in (
            (fresh_name, "GET", 204),
            (fresh_name, "POST", 403),
            (f"{fresh_name}x", "GET", 403),
        ):
            url = f"http://127.0.0.1:{port}/{name}"
            headers = {**bearer(key), "User-Agent": "t"}
            async with node.session.request(method, url, headers=headers, data=b"{}") as answer:
                assert answer.status == status, (name, method)


async def test_the_dashboard_shows_nothing_to_keys_that_may_only_act(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """Its question before a purge tells figures; what is asked for at once needs no look."""
    page = f"/ui/queue?name={fresh_name}"
    purge = {"action": "purge"}
    async with open_keyed() as node:
        whole, consumer = bearer(node.key("*")), bearer(node.key("*", can=(CONSUME,)))
        manager = bearer(node.key("*", can=(MANAGE,)))
        question = f"/ui/confirm?name={fresh_name}&action=purge"
        await node.post(f"/q/{fresh_name}", data={"value": "x"}, headers=whole)
        assert (await node.get(question, headers=manager))[0] == 403
        assert (await node.post(page, data=purge, headers=manager))[0] == 403
        assert (await node.get(question, headers=whole))[0] == 200
        assert (await node.post(page, data=purge, headers=whole))[0] == 200
        delete = {"action": "delete", "number": "1"}
        assert (await node.post(page, data=delete, headers=manager))[0] == 403
        assert (await node.post(page, data=delete, headers=consumer))[0] == 303
        purge["confirm"] = "yes"
        assert (await node.post(page, data=purge, headers=manager))[0] == 303


async def test_a_list_looks_at_no_more_names_than_the_key_may_cover(
    open_keyed: OpenKeyed, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many others there are; a pattern that could cover any of them has a limit."""
    async with open_keyed() as node:
        whole = bearer(node.key("*"))
        for number in range(5):
            for letter in "abc":
                path = f"/q/{fresh_name}-{letter}{number}"
                await node.post(path, data={"value": "x"}, headers=whole)
        monkeypatch.setattr(rest_figures, "MAX_LOOKED_AT", 5)
        key = bearer(node.key(f"{fresh_name}-b*", f"{fresh_name}-b?", f"{fresh_name}-c0"))
        _, page = await node.get("/stats", headers=key)
        named = [f"{fresh_name}-{name}" for name in ("b0", "b1", "b2", "b3", "b4", "c0")]
        assert list(json.loads(page)["queues"]) == named
        _, page = await node.get(f"/stats?limit=9&after={fresh_name}-b3", headers=key)
        assert list(json.loads(page)["queues"]) == named[4:]
        monkeypatch.setattr(rest_figures, "PAGE", 3)
        wide = bearer(node.key("*-nothing"))
        status, refusal = await node.get("/stats", headers=wide)
        assert (status, b"too few" in refusal) == (400, True)


# STOMP


@contextlib.asynccontextmanager
async def stomp(
    node: KeyedNode, passcode: str | None, path: str = "/stomp", **options: Any
) -> AsyncIterator[StompClient]:
    """Connect over WebSocket, with a key as passcode."""
    async with node.session.ws_connect(node.url + path, **options) as socket:
        client = StompClient(WebSocketClientWire(socket, sends_text=False))
        login = {} if passcode is None else {"login": "key", "passcode": passcode}
        await client.send_frame("CONNECT", accept_version="1.2", host="x", **login)
        client.version = "1.2"
        yield client


async def answer_to(client: StompClient, command: str, **headers: str) -> str:
    """Send a frame with a receipt; returns the command of what answers it."""
    await client.send_frame(command, receipt="r", **headers)
    return (await client.receive()).command


@pytest.mark.parametrize("requires_key", [False, True])
async def test_stomp_asks_for_each_destination(
    open_keyed: OpenKeyed, fresh_name: str, requires_key: bool
) -> None:
    """SEND takes publish, SUBSCRIBE consume; topics are named by their paths."""
    async with open_keyed("", requires_key) as node:
        key = node.key(f"{fresh_name}*", f"/topic/{fresh_name}", can=(PUBLISH,))
        reader = node.key(f"{fresh_name}.*", can=(CONSUME,))
        for text, command, destination, expected in (
            (key, "SEND", f"/queue/{fresh_name}", "RECEIPT"),
            (key, "SEND", f"/topic/{fresh_name}", "RECEIPT"),
            (key, "SEND", f"/topic/{fresh_name}x", "ERROR"),
            (key, "SEND", "/queue/elsewhere", "ERROR"),
            (key, "SUBSCRIBE", f"/queue/{fresh_name}", "ERROR"),
            (reader, "SUBSCRIBE", f"/queue/{fresh_name}.a", "RECEIPT"),
            (reader, "SUBSCRIBE", f"/queue/{fresh_name}.>", "RECEIPT"),
            (reader, "SUBSCRIBE", f"/queue/{fresh_name}.a.>", "RECEIPT"),
            (reader, "SUBSCRIBE", f"/topic/{fresh_name}.>", "ERROR"),
            (reader, "SUBSCRIBE", "/temp-queue/mine", "RECEIPT"),
            (reader, "SEND", f"/queue/{fresh_name}.a", "ERROR"),
        ):
            async with stomp(node, text) as client:
                assert (await client.receive()).command == "CONNECTED"
                answer = await answer_to(client, command, destination=destination, id="1")
                assert answer == expected, (command, destination)


async def test_stomp_refuses_keys_that_are_none(open_keyed: OpenKeyed, fresh_name: str) -> None:
    """Also where everyone may connect; and one that is removed ends its connection."""
    async with open_keyed("") as node:
        key = node.key("*")
        async with stomp(node, "rmq_wrong") as client:
            assert (await client.receive()).command == "ERROR"
        async with stomp(node, None, headers=bearer(key)) as client:
            assert (await client.receive()).command == "CONNECTED"
        async with stomp(node, None, f"/stomp?api_key={key}") as client:
            assert (await client.receive()).command == "CONNECTED"
        async with stomp(node, key) as idle, stomp(node, key) as busy:
            assert (await idle.receive()).command == "CONNECTED"
            assert (await busy.receive()).command == "CONNECTED"
            assert await answer_to(busy, "SUBSCRIBE", destination=fresh_name, id="1") == "RECEIPT"
            node.remove(key)
            assert await answer_to(busy, "ACK", id="1:1") == "ERROR"
            node.node._end_keyless()
            async with asyncio.timeout(20):
                assert (await idle.receive()).command == "ERROR"


async def test_stomp_ends_with_what_its_key_allowed(open_keyed: OpenKeyed, fresh_name: str) -> None:
    """A subscription does not outlive a change of its key; those of others go on."""
    async with open_keyed("") as node:
        key, other = node.key("*"), node.key("*")
        async with stomp(node, key) as narrowed, stomp(node, other) as kept:
            for client in (narrowed, kept):
                assert (await client.receive()).command == "CONNECTED"
                answer = await answer_to(client, "SUBSCRIBE", destination=fresh_name, id="1")
                assert answer == "RECEIPT"
            node.keys[key] = dataclasses.replace(node.keys[key], patterns=("elsewhere",))
            node.use()
            node.node._end_keyless()
            async with asyncio.timeout(20):
                assert (await narrowed.receive()).command == "ERROR"
            assert await answer_to(kept, "SEND", destination=f"{fresh_name}-2") == "RECEIPT"


async def test_frames_of_stomp_do_not_cost_a_hash_each(
    open_keyed: OpenKeyed, fresh_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is read when the client connects; addresses and its end count at each frame."""
    async with open_keyed("") as node:
        key = node.key("*")
        async with stomp(node, key) as client:
            assert (await client.receive()).command == "CONNECTED"
            monkeypatch.setattr(api_keys, "digest_of", None)
            node.use()  # read again, and the same
            assert await answer_to(client, "SEND", destination=fresh_name) == "RECEIPT"
            assert await answer_to(client, "BEGIN", transaction="t") == "RECEIPT"
            assert await answer_to(client, "COMMIT", transaction="t") == "RECEIPT"
            node.keys[key] = dataclasses.replace(node.keys[key], expires=1)
            node.use()
            assert await answer_to(client, "SEND", destination=fresh_name) == "ERROR"


async def test_stomp_needs_a_key_where_one_is_required(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """The handshake is let through, as the key may come in the CONNECT frame; not without it."""
    async with open_keyed("", requires_key=True) as node, stomp(node, None) as client:
        assert (await client.receive()).command == "ERROR"


async def test_a_key_stands_in_for_the_configured_login_of_stomp(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """As it does for that of acl.conf."""
    async with open_keyed("", stomp_login="a", stomp_passcode="b") as node:
        key = node.key("*")
        async with stomp(node, key) as client:
            assert (await client.receive()).command == "CONNECTED"
        async with stomp(node, None) as client:
            assert (await client.receive()).command == "ERROR"


async def test_the_watch_ends_what_expired_keys_began(
    open_keyed: OpenKeyed, fresh_name: str
) -> None:
    """Nobody need ask: the keys are looked at every so often."""
    async with open_keyed() as node:
        key = node.key(fresh_name)
        url = f"{node.url}/c/{fresh_name}?open=1"
        async with node.session.get(url, headers=bearer(key)) as stream:
            assert await stream.content.readline()
            node.path.write_text("# none\n")
            watching = asyncio.create_task(
                node.node.access.watch_keys(node.node._end_keyless, interval_seconds=0.01)
            )
            try:
                await eventually(lambda: stream.content.exception() or stream.content.at_eof(), 20)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
